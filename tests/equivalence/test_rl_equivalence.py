"""What must not change a policy-gradient run: micro-batches, padding, row order, where it was interrupted.

On fixed rollouts parameters after six optimiser steps are compared by their largest and their mean difference; a
resumed run is compared bit by bit, at every step, also inside a batch that serves several updates.
"""

import shutil
from pathlib import Path

import pytest
import rl_toys as toys
import torch

from steersman.core.types import Rollouts
from steersman.store.checkpoint import flatten
from steersman.store.run import RunDir
from steersman.train.loop import Budget, Habits
from steersman.train.rl import rl

LARGEST, MEAN = 3e-5, 5e-7  # difference of parameters of size 0.25 after six steps of 2e-3 with eps 1e-4
STEPS = 6
WAYS = {
    "one row a micro-batch": {"micro": 1},
    "two rows a micro-batch": {"micro": 24},
    "five rows a micro-batch": {"micro": 75},
    "seven columns of padding": {"change": toys.widened},
    "another order of rows": {"change": toys.shuffled},
}
methods = pytest.mark.parametrize("method", toys.METHODS)


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steersman.store.files.os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def straight():
    """For each method what was drawn, and the parameters and metrics it led to."""
    found = {}
    for method in toys.METHODS:
        made = toys.learner(method, total=STEPS)
        drawn = toys.record(made.engine)
        told = [made.step(i) for i in range(STEPS)]
        found[method] = drawn, toys.parameters(made), told
    return found


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@methods
def test_how_a_step_is_carried_out_does_not_matter(straight, method, way):
    change = way.get("change", lambda rollouts: rollouts)
    if change is toys.shuffled and toys.METHODS[method].get("minibatches", 1) > 1:
        pytest.skip("which rows share an optimiser step follows their order")
    drawn, wanted, told = straight[method]
    made = toys.learner(method, total=STEPS, **{k: v for k, v in way.items() if k == "micro"})
    toys.replay(made.engine, drawn, change)
    mine = [made.step(i) for i in range(STEPS)]
    gap = (toys.parameters(made) - wanted).abs()
    assert float(gap.max()) <= LARGEST
    assert float(gap.mean()) <= MEAN
    assert float((wanted - toys.parameters(toys.learner(method))).abs().max()) > 100 * LARGEST  # it did move
    for a, b in zip(mine, told, strict=True):
        assert a.keys() == b.keys()
        assert float(a["tokens_trained"]) == float(b["tokens_trained"])


def test_micro_batches_hold_the_rows_their_names_say(straight):
    from steersman.language.pack import micro_batches

    lengths = straight["grpo"][0][0, 0].length
    sizes = {m: [len(b) for b in micro_batches(lengths, m)] for m in (1, 24, 75)}
    assert max(sizes[1]) == 1
    assert 2 in sizes[24]
    assert max(sizes[24]) < 5
    assert max(sizes[75]) >= 5


@methods
def test_resume_at_every_step_is_exact(method, tmp_path: Path):
    budget = Budget(steps=STEPS, seed=7)
    habits = Habits(log_every=1, evaluate_every=2, checkpoint_every=1, keep=STEPS)
    whole = RunDir(tmp_path / "whole")
    made = toys.learner(method, total=STEPS, run=whole)
    ended = rl(made, budget, whole, habits)
    wanted = flatten(made.state_dict())
    for k in range(1, STEPS):
        part = RunDir(tmp_path / f"from-{k}")
        shutil.copytree(whole.path, part.path)
        again = toys.learner(method, total=STEPS, run=part)
        resumed = rl(again, budget, part, habits, resume=part.checkpoints / f"step-{k:08d}")
        assert resumed.evaluation == ended.evaluation
        tensors, tree = flatten(again.state_dict())
        assert tree == wanted[1]
        assert all(torch.equal(x, wanted[0][name]) for name, x in tensors.items())
        for name in ("metrics", "samples"):
            assert (part.path / f"{name}.jsonl").read_bytes() == (whole.path / f"{name}.jsonl").read_bytes()


def test_a_batch_that_still_serves_is_in_the_checkpoint():
    made = toys.learner("ppo")
    made.step(0)
    assert isinstance(made.batch, Rollouts)
    assert made.state_dict()["batch"] is not None
    for i in range(1, 4):
        made.step(i)
    assert made.state_dict()["batch"] is None  # four updates used it up
