"""What a training run shows: everything within 100 columns, regular lines off a terminal, intervals in one place."""

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from steersman.cli.progress import WIDTH, TrainingProgress, _fitted
from steersman.core.component import Component

METRICS = {"loss": 0.123456, "accuracy": 0.98765, "margin": -0.00123, "grad_norm": 123.456, "tokens_per_s": 123456.7}
EVALUATION = {f"eval/metric_{i}": -0.0001234567 for i in range(12)}
INTERVAL = {"accuracy": 0.7534, "accuracy_low": 0.7012, "accuracy_high": 0.8049}


def progress(terminal: bool, log_every: int = 10) -> tuple[TrainingProgress, io.StringIO]:
    seen = io.StringIO()
    console = Console(file=seen, width=WIDTH, force_terminal=terminal, soft_wrap=True, color_system=None)
    runtime = SimpleNamespace(track="none", log_every=log_every)
    return TrainingProgress(Component(), runtime, Path("nowhere"), console=console), seen


@pytest.mark.parametrize("total, log_every, gap", [(1000, 10, 100), (95, 10, 10), (7, 1, 1), (7, 10, 10), (128, 5, 15)])
def test_plain_lines_are_equally_far_apart_and_end_with_the_last_step(total: int, log_every: int, gap: int) -> None:
    shown, seen = progress(False, log_every)
    with shown:
        for step in range(1, total + 1):
            if step % log_every == 0 or step == total:
                shown.watch(step, total, METRICS)
    assert seen.getvalue().startswith(f"a line every {gap} steps\n" if gap > 1 else "a line every step\n")
    steps = [int(s) for s in re.findall(r"^step (\d+)/", seen.getvalue(), re.M)]
    assert steps == [*range(gap, total, gap), total]


def test_held_out_lines_are_wrapped_between_metrics() -> None:
    shown, seen = progress(False)
    shown.watch(10, 100, EVALUATION | {f"eval/{k}": v for k, v in INTERVAL.items()})
    lines = seen.getvalue().splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= WIDTH
    assert seen.getvalue().count("-0.0001235") == len(EVALUATION)
    assert "accuracy 0.753 [0.70, 0.80]" in seen.getvalue()
    assert "accuracy_low" not in seen.getvalue()


def test_lines_are_balanced_and_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("60", "80", "nonsense"):
        monkeypatch.setenv("COLUMNS", columns)
        shown, seen = progress(False)
        shown.watch(10, 100, EVALUATION)
        lines = seen.getvalue().splitlines()
        assert max(map(len, lines)) <= (int(columns) if columns.isdecimal() else WIDTH)
        assert len(lines[-1]) > max(map(len, lines)) / 2


def test_a_line_of_a_step_drops_the_least_telling_rather_than_spill() -> None:
    parts = ["accuracy 0.500", "no signal 10%", "entropy 1", "100 tokens/s"]
    assert _fitted("step 1/9", parts, ["3 s left"], 100) == "  ".join(["step 1/9", *parts, "3 s left"])
    assert (
        _fitted("step 1/9", parts, ["3 s left"], 63)
        == "step 1/9  accuracy 0.500  no signal 10%  100 tokens/s  3 s left"
    )
    assert _fitted("step 1/9", parts, ["3 s left"], 50) == "step 1/9  accuracy 0.500  100 tokens/s  3 s left"


def test_names_order_and_a_reward_that_is_the_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"reward": 0.7534, "length": 3.5, "ended_share": 1.0, "invalid_share": 0.0, "pass_at_16": 0.9} | INTERVAL
    shown, _ = progress(False)
    printed = []
    for fitted, evaluation in ((True, found), (None, dict(sorted(found.items())))):  # as trained, as read from JSON
        result = {"steps": 4, "reason": "finished", "evaluation": evaluation, "before": evaluation}
        shown.summary(SimpleNamespace(notes=(), fitted=fitted, result=result, folder=Path("runs/x")))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    names = re.findall(r"^held-out (.+?)  +", printed[0], re.M)
    assert names == ["accuracy", "pass@16", "tokens a response", "ended by themselves", "invalid"]
    shown.summary(
        SimpleNamespace(
            notes=(), fitted=True, result=result | {"evaluation": found | {"reward": 2.0}}, folder=Path("x")
        )
    )
    assert "held-out reward " in capsys.readouterr().out


def test_the_bar_shows_total_note_and_remaining_time_in_100_columns() -> None:
    shown, seen = progress(True)
    with shown:
        for step in (10, 99_990):
            shown.watch(step, 100_000, METRICS)
        shown.bar.refresh()
    last = [line for line in seen.getvalue().splitlines() if "99990" in line][-1]
    assert re.search(r"99990/100000 loss 0.123  accuracy 0.988  123,457 tokens/s (\d+:\d\d:\d\d|-:--:--)", last), last


def test_the_table_shows_a_value_with_its_interval_in_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    shown, _ = progress(False)
    result = {"steps": 4, "reason": "finished", "evaluation": INTERVAL | {"loss": 0.5}}
    shown.summary(SimpleNamespace(notes=(), fitted=True, result=result, folder=Path("runs/x")))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["held-out", "accuracy", "0.753", "[0.70,", "0.80]"] in rows
    assert ["held-out", "loss", "0.5"] in rows
    assert len(rows) == 4


def closing(capsys: pytest.CaptureFixture[str], folder: Path, **counts: int) -> str:
    shown, _ = progress(False)
    result = {"verb": "rl", "steps": 4, "reason": "finished", "evaluation": {}, **counts}
    shown.summary(SimpleNamespace(notes=(), fitted=True, result=result, folder=folder))
    return capsys.readouterr().out


def test_the_closing_lines_count_steps_that_taught_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "signal" not in closing(capsys, tmp_path)
    assert "signal" not in closing(capsys, tmp_path, skipped=0, no_gradient=0)
    some = closing(capsys, tmp_path, skipped=1, no_gradient=2)
    assert "1 of 4 steps were skipped: no response had a signal" in some
    assert "2 of 4 steps had a gradient of 0" in some
    assert "NOTHING" not in some
    for skipped in (0, 1, 4):
        every = closing(capsys, tmp_path, skipped=skipped, no_gradient=4 - skipped)
        assert "warning: NOTHING WAS LEARNT" in every
        assert max(map(len, every.partition("model  ")[0].splitlines())) <= WIDTH


def test_samples_are_pointed_to_only_where_there_are_any(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "samples.jsonl" not in closing(capsys, tmp_path)
    (tmp_path / "samples.jsonl").touch()
    assert str(tmp_path / "samples.jsonl") in closing(capsys, tmp_path)
