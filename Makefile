# make demo   set up, run the quick study and say where its report is
# make test   set up if needed and run all tests
# make lint   style and types
# make bench-dpo   our preference step beside TRL's, on the same work
# make bench-grpo  the same for a GRPO step; on one GPU: bench/.venv/bin/python bench/grpo.py --gpu
# make bench-dp-bai  what simulated and real noise of DP-BAI cost
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := text,code,pretrained,control,lora,track,dev

.PHONY: demo test lint bench-dpo bench-grpo bench-dp-bai clean

demo: .venv/ready
	$(BIN)/steersman study run rdpo --quick

test: .venv/ready-dev
	@command -v chromium >/dev/null || echo "no chromium on this machine: browser tests are skipped"
	$(BIN)/python -m pytest

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-dpo: bench/.venv/ready
	bench/.venv/bin/python bench/dpo.py

bench-grpo: bench/.venv/ready
	bench/.venv/bin/python bench/grpo.py

bench-dp-bai: .venv/ready
	$(BIN)/python bench/dp_bai.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch first and pinned: an open range would pull the multi-gigabyte CUDA build
.venv/ready: pyproject.toml constraints.txt | .venv/bin/python
	@echo "setting up .venv (about a minute)"
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[text]'
	@touch $@

.venv/ready-dev: .venv/ready
	$(BIN)/pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

bench/.venv/ready: bench/requirements.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv bench/.venv
	bench/.venv/bin/pip install -q -c constraints.txt torch==2.13.0
	bench/.venv/bin/pip install -q -r bench/requirements.txt
	bench/.venv/bin/pip install -q -e .
	@touch $@

clean:
	rm -rf .venv bench/.venv runs build dist
