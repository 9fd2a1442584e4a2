"""The loop: exact resume from every step, early stops, divergence, and which rows a step sees."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from steersman.core.errors import CorruptFile, RunStopped, UserError
from steersman.core.noise import generator
from steersman.store.checkpoint import latest_checkpoint, list_checkpoints, load_checkpoint, step_of
from steersman.store.run import RunDir
from steersman.train.fit import batch_rows, fit
from steersman.train.loop import Budget, Fitted, Habits
from steersman.train.optimise import AdamW, Optimiser

ROWS, WIDTH, STEPS = 10, 3, 7
HABITS = Habits(log_every=3, evaluate_every=2, checkpoint_every=1, keep=100)


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to disk is what `store` tests; here it would only take time."""
    monkeypatch.setattr("steersman.store.files.os.fsync", lambda _: None)


class Killed(BaseException):
    """What stands in for a process that dies."""


class Regression:
    """Least squares by AdamW; every hook a test needs is an argument.

    Args:
        nan_at: the loss of this step is NaN.
        die_at: the process dies within this step.
        scores: the evaluation metric after each number of steps, instead of the held-out error.
    """

    def __init__(
        self,
        nan_at: int | None = None,
        die_at: int | None = None,
        scores: Mapping[int, float] | None = None,
        lr: float = 0.1,
    ) -> None:
        noise = generator(0, "data")
        self.x = torch.from_numpy(noise.standard_normal((ROWS, WIDTH))).float()
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3
        self.weight = torch.nn.Parameter(torch.zeros(1, WIDTH))
        self.bias = torch.nn.Parameter(torch.zeros(1))
        settings = AdamW(lr=lr, schedule="cosine", warmup=0.3, weight_decay=0.1)
        self.optimiser = Optimiser([("weight", self.weight), ("bias", self.bias)], settings, STEPS)
        self.nan_at, self.die_at, self.scores, self.steps, self.seen = nan_at, die_at, scores, 0, []

    @property
    def rows(self) -> int:
        return ROWS

    def error(self, rows: Tensor | slice) -> Tensor:
        return (self.x[rows] @ self.weight[0] + self.bias - self.y[rows]).square().mean()

    def step(self, rows: Tensor, step: int) -> Mapping[str, Tensor | float]:
        if step == self.die_at:
            raise Killed
        self.seen.append((step, rows.tolist()))
        loss = self.error(rows) * (math.nan if step == self.nan_at else 1.0)
        loss.backward()
        self.steps = step + 1
        extra = {"odd": 1.0 / (step + 3)} if step % 2 else {}
        return {"loss": loss.detach(), "tokens": float(7 + step % 3)} | extra | self.optimiser.apply(step)

    def evaluate(self) -> Mapping[str, float]:
        if self.scores is not None:
            return {"score": self.scores[self.steps]}
        with torch.no_grad():
            return {"error": float(self.error(slice(0, 4))), "bias": float(self.bias)}

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight, "bias": self.bias, "optimiser": self.optimiser.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.weight.copy_(state["weight"])
            self.bias.copy_(state["bias"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = state["steps"]


def tensors(learner: Regression) -> list[Tensor]:
    """Parameters, both moments and step counts."""
    state = learner.optimiser.state_dict()["state"]
    moments = (state[k][n] for k in sorted(state) for n in sorted(state[k]))
    return [learner.weight.detach(), learner.bias.detach(), *moments]


def assert_same(first: tuple[Regression, Fitted, RunDir], second: tuple[Regression, Fitted, RunDir]) -> None:
    """Parameters, moments, what was written and what is reported are equal bit by bit."""
    for a, b in zip(tensors(first[0]), tensors(second[0]), strict=True):
        assert torch.equal(a, b)
    assert _comparable(first[1]) == _comparable(second[1])
    read = [(r[2].path / "metrics.jsonl").read_bytes() for r in (first, second)]
    assert read[0] == read[1]
    clocks = [[row["step"] for row in r[2].read("clock")] for r in (first, second)]
    assert clocks[0] == clocks[1]


def _comparable(fitted: Fitted) -> Fitted:
    """With a best value that equals itself where there is none; seconds are not compared by `Fitted`."""
    return replace(fitted, best_value=None if math.isnan(fitted.best_value) else fitted.best_value)  # type: ignore[arg-type]


BUDGETS = {
    "plain": Budget(steps=STEPS, batch=4, seed=3),
    "best": Budget(steps=STEPS, batch=4, seed=3, best="error", best_is="min"),
    "best is early": Budget(steps=STEPS, batch=4, seed=3, best="error", best_is="max"),
    "patience": Budget(steps=STEPS, batch=4, seed=3, best="bias", best_is="min", patience=2),
    "limits": Budget(steps=STEPS, batch=4, seed=3, limits={"loss": 1e9}),
}


def whole(path: Path, budget: Budget, habits: Habits = HABITS) -> tuple[Regression, Fitted, RunDir]:
    learner, run = Regression(), RunDir(path)
    return learner, fit(learner, budget, run, habits), run


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("kill", range(STEPS))
@pytest.mark.parametrize("every", [1, 3])
def test_a_killed_run_goes_on_bit_by_bit(tmp_path: Path, name: str, kill: int, every: int) -> None:
    habits = replace(HABITS, checkpoint_every=every, keep=2)
    expected = whole(tmp_path / "whole", BUDGETS[name], habits)
    run = RunDir(tmp_path / "killed")
    try:
        fit(Regression(die_at=kill), BUDGETS[name], run, habits)
    except Killed:
        run.path.mkdir(exist_ok=True)
        with (run.path / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": ')
        with (run.path / "clock.jsonl").open("ab") as file:
            file.write(b'{"step": ')
    learner = Regression()
    assert_same(expected, (learner, fit(learner, BUDGETS[name], run, habits), run))


@pytest.mark.parametrize("name", BUDGETS)
def test_going_back_to_every_step(tmp_path: Path, name: str) -> None:
    expected = whole(tmp_path / "whole", BUDGETS[name])
    for checkpoint in list_checkpoints(expected[2].checkpoints):
        shutil.copytree(expected[2].path, tmp_path / "again")
        run, learner = RunDir(tmp_path / "again"), Regression()
        chosen = run.checkpoints / checkpoint.name
        assert_same(expected, (learner, fit(learner, BUDGETS[name], run, HABITS, resume=chosen), run))
        assert [s for s, _ in learner.seen] == list(range(step_of(checkpoint), expected[0].seen[-1][0] + 1))
        shutil.rmtree(run.path)


def test_two_deaths_and_other_habits_change_no_parameter(tmp_path: Path) -> None:
    budget = BUDGETS["plain"]
    expected = whole(tmp_path / "whole", budget)
    run = RunDir(tmp_path / "killed")
    for die, habits in ((3, HABITS), (5, Habits(log_every=2, checkpoint_every=4)), (None, Habits(checkpoint_every=3))):
        learner = Regression(die_at=die)
        try:
            fitted = fit(learner, budget, run, habits)
        except Killed:
            continue
    for a, b in zip(tensors(expected[0]), tensors(learner), strict=True):
        assert torch.equal(a, b)
    assert _comparable(fitted) == _comparable(expected[1])


def test_tokens_are_counted_whole(tmp_path: Path) -> None:
    assert whole(tmp_path, BUDGETS["plain"])[1].tokens == sum(7 + s % 3 for s in range(STEPS))


def test_metrics_are_means_since_the_last_log(tmp_path: Path) -> None:
    _, _, run = whole(tmp_path, BUDGETS["plain"])
    rows = run.read("metrics")
    assert [(r["step"], any(k.startswith("eval/") for k in r)) for r in rows] == [
        (2, True),
        (3, False),
        (4, True),
        (6, False),
        (6, True),
        (7, False),
        (7, True),
    ]
    logged = {r["step"]: r for r in rows if "train/loss" in r}
    assert logged[3]["train/tokens"] == 8.0
    assert logged[3]["train/odd"] == 1 / 4, "a metric of some steps has the mean of those"
    assert "train/odd" not in logged[7]
    assert logged[6]["train/odd"] == (1 / 6 + 1 / 8) / 2


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    for name, budget in BUDGETS.items():
        expected = whole(tmp_path / name, budget)
        before = (expected[2].path / "metrics.jsonl").read_bytes()
        learner = Regression()
        again = fit(learner, budget, expected[2], HABITS)
        assert learner.seen == []
        assert_same(expected, (learner, again, expected[2]))
        assert (expected[2].path / "metrics.jsonl").read_bytes() == before


def test_a_checkpoint_of_another_folder_may_be_continued(tmp_path: Path) -> None:
    expected = whole(tmp_path / "whole", BUDGETS["plain"])
    learner = Regression()
    fit(
        learner, BUDGETS["plain"], RunDir(tmp_path / "new"), HABITS, resume=list_checkpoints(expected[2].checkpoints)[3]
    )
    for a, b in zip(tensors(expected[0]), tensors(learner), strict=True):
        assert torch.equal(a, b)


def test_a_damaged_newest_checkpoint_is_refused_with_an_offer(tmp_path: Path) -> None:
    _, _, run = whole(tmp_path, BUDGETS["plain"])
    folders = list_checkpoints(run.checkpoints)
    (folders[-1] / "tensors.safetensors").write_bytes(b"")
    learner = Regression()
    with pytest.raises(CorruptFile, match=f"--resume {folders[-2]}"):
        fit(learner, BUDGETS["plain"], run, HABITS)
    assert learner.seen == []
    assert fit(Regression(), BUDGETS["plain"], run, HABITS, resume=folders[-2]).steps == STEPS


# --- what stops a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("habits", [HABITS, replace(HABITS, log_every=100), replace(HABITS, checkpoint_every=2)])
@pytest.mark.parametrize("nan_at", [0, 1, 3, 6])
def test_nan_stops_the_run_before_it_is_saved(tmp_path: Path, habits: Habits, nan_at: int) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(RunStopped, match=r"loss.* became nan in steps .*\n.*last checkpoint is still good"):
        fit(Regression(nan_at=nan_at), BUDGETS["best"], run, habits)
    assert "became nan in steps" in (run.why_stopped() or "")
    saved = [p for root in (run.checkpoints, run.path / "best") for p in list_checkpoints(root)]
    for folder in saved:
        step, state = load_checkpoint(folder)
        assert step <= nan_at
        assert torch.isfinite(state["learner"]["weight"]).all()
    assert all(math.isfinite(v) for r in run.read("metrics") for k, v in r.items() if k.startswith("train/"))
    learner = Regression()
    newest = latest_checkpoint(run.checkpoints)
    assert fit(learner, BUDGETS["best"], run, habits).reason == "finished"
    assert run.why_stopped() is None
    assert learner.seen[0][0] == (step_of(newest) if newest else 0)


def test_a_limit_ends_the_run_and_is_remembered(tmp_path: Path) -> None:
    budget = Budget(steps=STEPS, batch=4, limits={"loss": 1e-3, "grad_norm": 1e9})
    learner, fitted, run = whole(tmp_path, budget)
    assert fitted.reason.startswith("diverged: loss = ")
    assert fitted.reason.endswith("beyond 0.001")
    assert fitted.steps == learner.steps == HABITS.log_every
    newest = latest_checkpoint(run.checkpoints)
    assert newest is not None
    assert step_of(newest) == fitted.steps
    again = Regression()
    assert _comparable(fit(again, budget, run, HABITS)) == _comparable(fitted)
    assert again.seen == []


def test_a_limit_ends_a_run_without_regular_checkpoints_too(tmp_path: Path) -> None:
    budget = Budget(steps=STEPS, batch=4, limits={"loss": 1e-3})
    _, fitted, run = whole(tmp_path, budget, replace(HABITS, checkpoint_every=None))
    assert [step_of(p) for p in list_checkpoints(run.checkpoints)] == [fitted.steps] == [3]


SCORES = {0: 0.0, 2: 3.0, 4: 5.0, 6: 4.0, 7: 4.5}


def test_the_best_checkpoint_is_what_comes_out(tmp_path: Path) -> None:
    reference = Regression()
    fit(reference, Budget(steps=4, batch=4, seed=3), RunDir(tmp_path / "short"), HABITS)
    learner = Regression(scores=SCORES)
    budget = BUDGETS["plain"].model_copy(update={"best": "score"})
    fitted = fit(learner, budget, RunDir(tmp_path / "run"), HABITS)
    assert (fitted.steps, fitted.best_step, fitted.best_value, fitted.reason) == (STEPS, 4, 5.0, "finished")
    assert fitted.evaluation == {"score": 5.0}
    assert torch.equal(learner.weight, reference.weight)
    assert torch.equal(learner.bias, reference.bias)


@pytest.mark.parametrize(
    "is_, scores, best, steps",
    [
        ("max", {0: 0.0, 2: 1.0, 4: 1.0, 6: 0.5, 7: 9.0}, 2, 6),
        ("min", {0: 0.0, 2: 1.0, 4: -1.0, 6: 0.0, 7: -2.0}, 7, 7),
        ("min", {0: 0.0, 2: 1.0, 4: 0.0, 6: -5.0, 7: 0.0}, 0, 4),
        ("max", {0: math.nan, 2: 1.0, 4: math.nan, 6: 2.0, 7: 0.0}, 6, 7),
        ("min", {0: math.nan, 2: math.nan, 4: 0.0, 6: 0.0, 7: 0.0}, None, 2),
    ],
)
def test_patience_counts_evaluations_without_a_better_one(
    tmp_path: Path, is_: Any, scores: dict[int, float], best: int | None, steps: int
) -> None:
    budget = Budget(steps=STEPS, batch=4, best="score", best_is=is_, patience=2)
    fitted = fit(Regression(scores=scores), budget, RunDir(tmp_path), HABITS)
    assert (fitted.best_step, fitted.steps) == (best, steps)
    stopped = steps < STEPS
    assert fitted.reason == ("no better score in 2 evaluations" if stopped else "finished")


@pytest.mark.parametrize("best, cure", [("eror", "Did you mean 'error'?"), ("qqqq", "")])
def test_a_misspelt_best_is_refused_before_any_step(tmp_path: Path, best: str, cure: str) -> None:
    learner = Regression()
    with pytest.raises(UserError, match=f"budget.best: '{best}' is no evaluation metric") as caught:
        fit(learner, Budget(steps=STEPS, best=best), RunDir(tmp_path), HABITS)
    assert (caught.value.allowed, caught.value.cure) == ("error, bias", cure)
    assert learner.seen == []


def test_best_without_held_out_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Regression, "evaluate", lambda self: {})
    with pytest.raises(UserError, match="there is no held-out data"):
        fit(Regression(), Budget(steps=STEPS, best="error"), RunDir(tmp_path), HABITS)
    assert fit(Regression(), Budget(steps=STEPS), RunDir(tmp_path), HABITS).evaluation == {}


def test_a_best_that_a_kept_checkpoint_refers_to_is_kept(tmp_path: Path) -> None:
    """Killed after a better one was saved, continued with fewer evaluations: the older best must still be there."""
    budget = Budget(steps=STEPS, batch=4, best="score")
    scores = {0: 0.0, 1: 0.0, 2: 5.0, 3: 0.0, 4: 1.0, 5: 6.0, 6: 0.0, 7: 0.0}
    habits = Habits(evaluate_every=1, checkpoint_every=4, keep=1)
    with pytest.raises(Killed):
        fit(Regression(scores=scores, die_at=5), budget, RunDir(tmp_path), habits)
    fitted = fit(Regression(scores=scores), budget, RunDir(tmp_path), replace(habits, evaluate_every=3))
    assert (fitted.best_step, fitted.evaluation) == (2, {"score": 5.0})
    assert [step_of(p) for p in list_checkpoints(tmp_path / "best")] == [2]


def test_few_best_checkpoints_are_on_disk(tmp_path: Path) -> None:
    budget = Budget(steps=STEPS, batch=4, best="score")
    rising = {s: float(s) for s in range(STEPS + 1)}
    fit(Regression(scores=rising), budget, RunDir(tmp_path / "a"), Habits(evaluate_every=1))
    assert [step_of(p) for p in list_checkpoints(tmp_path / "a" / "best")] == [STEPS]
    fit(Regression(scores=rising), budget, RunDir(tmp_path / "b"), Habits(evaluate_every=1, checkpoint_every=1, keep=2))
    assert len(list_checkpoints(tmp_path / "b" / "best")) <= 3


def test_the_watcher_hears_of_every_log_and_evaluation(tmp_path: Path) -> None:
    heard: list[tuple[int, int, set[str]]] = []
    fit(Regression(), BUDGETS["plain"], RunDir(tmp_path), HABITS, watch=lambda s, t, m: heard.append((s, t, set(m))))
    assert [(s, t) for s, t, _ in heard] == [(s, STEPS) for s in (2, 3, 4, 6, 6, 7, 7)]
    assert {"loss", "tokens_per_s", "lr", "grad_norm"} <= heard[1][2]
    assert heard[0][2] == {"eval/error", "eval/bias"}


def test_only_what_was_asked_for_is_saved(tmp_path: Path) -> None:
    run = whole(tmp_path / "a", BUDGETS["plain"], replace(HABITS, checkpoint_every=3, keep=2))[2]
    assert [step_of(p) for p in list_checkpoints(run.checkpoints)] == [6, 7]


# --- rows and budgets -------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32), st.integers(1, 3))
def test_every_row_is_used_once_an_epoch(rows: int, batch: int, seed: int, epochs: int) -> None:
    steps = math.ceil(rows * epochs / batch)
    drawn = torch.cat([batch_rows(s, batch, rows, seed) for s in range(steps)])
    assert len(drawn) == steps * batch
    for e in range(epochs):
        assert sorted(drawn[e * rows : (e + 1) * rows].tolist()) == list(range(rows))


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_rows_are_a_function_of_seed_and_step(step: int, batch: int, rows: int, seed: int) -> None:
    found = batch_rows(step, batch, rows, seed)
    torch.rand(3)
    assert torch.equal(found, batch_rows(step, batch, rows, seed))
    assert found.dtype == torch.int64
    # the stream of rows does not depend on how it is cut into batches
    stream = torch.cat([batch_rows(s, 1, rows, seed) for s in range(step * batch, (step + 1) * batch)])
    assert torch.equal(found, stream)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(batch_rows(e, 50, 50, s).tolist()) for e in range(4) for s in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize(
    "settings, rows, total",
    [({"epochs": 2.0, "batch": 4}, 10, 5), ({"epochs": 0.01}, 10, 1), ({"epochs": 1.5, "batch": 3}, 10, 5)],
)
def test_steps_from_epochs(settings: dict[str, Any], rows: int, total: int) -> None:
    assert Budget(**settings).total(rows) == total
    assert Budget(steps=9, **settings).total(rows) == 9


def test_no_rows_no_run() -> None:
    with pytest.raises(UserError, match=r"data\.train: there is no row"):
        Budget().total(0)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0.0},
        {"epochs": math.inf},
        {"epochs": math.nan},
        {"steps": 0},
        {"batch": 0},
        {"patience": 2},
        {"x": 1},
    ],
)
def test_impossible_budgets_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Budget(**settings)


def test_metrics_are_strict_json(tmp_path: Path) -> None:
    run = whole(tmp_path, BUDGETS["plain"])[2]
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
