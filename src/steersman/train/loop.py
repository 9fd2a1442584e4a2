"""What surrounds the steps of every loop: metrics, evaluation, early stop, checkpoints and exact resume.

What a step does is a function of its number and of the learner's state, so there is no position to save and a resumed
run equals the uninterrupted one bit for bit. Leaves out: what a step does (`fit`, `rl`), what is written to a screen
(`cli`).
"""

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from steersman.core.component import Component
from steersman.core.errors import RunStopped, UserError
from steersman.store.checkpoint import (
    drop_after,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    step_of,
)
from steersman.store.run import RunDir
from steersman.train.optimise import mean_metrics


class Steady(Protocol):
    """What can be evaluated, saved and restored between two steps."""

    def evaluate(self) -> Mapping[str, float]:
        """Metrics on held-out data; empty where there is none. Must not change anything."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that influences the next step."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        ...


class Budget(Component):
    """How long a run lasts and what a step sees; all of it defines the result."""

    epochs: float = Field(1.0, gt=0, le=1e9, description="passes over the data; ignored where steps is given")
    steps: int | None = Field(None, ge=1, description="optimiser steps; absent = from epochs")
    batch: int = Field(16, ge=1, description="rows (pairs, for preference data) of one optimiser step")
    seed: int = Field(0, ge=0, description="seed of the data order and of everything random")
    best: str | None = Field(None, description="evaluation metric by which the best checkpoint is kept")
    best_is: Literal["max", "min"] = Field("max", description="whether larger or smaller is better")
    patience: int | None = Field(None, ge=1, description="stop after so many evaluations without a new best")
    limits: dict[str, float] = Field({}, description="stop when the size of a training metric exceeds its bound")

    @model_validator(mode="after")
    def _patience_needs_a_metric(self) -> "Budget":
        if self.patience is not None and self.best is None:
            raise ValueError("patience needs best, the metric to watch")
        return self

    def total(self, rows: int) -> int:
        """Optimiser steps of the run over `rows` rows; refuses data without a row."""
        if rows < 1:
            raise UserError("there is no row to train on", where="data.train")
        return self.steps if self.steps is not None else max(math.ceil(self.epochs * rows / self.batch), 1)


@dataclass(frozen=True, slots=True)
class Habits:
    """How often things are written; none of it changes the result, except which checkpoint can be the best."""

    log_every: int = 10
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    keep: int = 2


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a run ended: steps done, why it ended, the last evaluation and the best one."""

    steps: int
    reason: str
    evaluation: Mapping[str, float]
    best_step: int | None = None
    best_value: float = math.nan
    tokens: int = 0
    seconds: float = field(default=0.0, compare=False)


Watch = Callable[[int, int, Mapping[str, float]], None]
"""Called at every logged step with (step, total steps, metrics)."""


Advance = Callable[[int], Mapping[str, Tensor | float]]
"""Makes one step, given its number from 0; returns metrics, ``tokens`` among them."""


def run_steps(
    learner: Steady,
    advance: Advance,
    total: int,
    budget: Budget,
    run: RunDir,
    habits: Habits = Habits(),
    *,
    watch: Watch | None = None,
    resume: Path | None = None,
) -> Fitted:
    """Make the steps of a run, writing metrics and checkpoints to `run`; continues by itself where it stopped.

    Args:
        learner: what `advance` changes; it stands at its starting point.
        advance: makes a step.
        total: number of steps.
        budget: seed and stopping rules.
        run: where to write; the newest checkpoint there is loaded first.
        habits: how often to log, evaluate and save.
        watch: is told about progress.
        resume: a checkpoint to continue from instead of the newest.

    Returns:
        Steps, reason and evaluations. With `budget.best` the learner is left at its best evaluation.

    Raises:
        RunStopped: a metric became NaN or infinite; the last checkpoint is still good.
        CorruptFile: the checkpoint is damaged (an older intact one is offered).
    """
    run.goes_on()
    try:
        return _Run(learner, advance, total, budget, run, habits, watch).go(resume)
    except (RunStopped, UserError) as error:
        run.stopped(str(error))
        raise


class _Run:
    """One run: the loop's position and its record of the best evaluation."""

    def __init__(
        self,
        learner: Steady,
        advance: Advance,
        total: int,
        budget: Budget,
        run: RunDir,
        habits: Habits,
        watch: Watch | None,
    ) -> None:
        self.learner, self.budget, self.run, self.habits, self.watch = learner, budget, run, habits, watch
        self.advance, self.total = advance, total
        self.done = 0
        self.tokens = 0.0
        self.best_step: int | None = None
        self.best_value = math.nan
        self.waited = 0
        self.reason = ""
        self.evaluation: dict[str, float] = {}
        self.seen: list[str] = []
        self.pending: list[Mapping[str, Tensor | float]] = []
        self.referred: list[int | None] = []

    def go(self, resume: Path | None) -> Fitted:
        self._restore(resume or latest_checkpoint(self.run.checkpoints))
        began = clock = time.perf_counter()
        if self.done == 0 and self.budget.best is not None:
            self._evaluate()
        while self.done < self.total and not self.reason:
            self.pending.append(self.advance(self.done))
            self.done += 1
            if self._due(self.habits.log_every):
                clock = self._log(clock)
            if self._due(self.habits.evaluate_every):
                self._evaluate()
            # An early stop is saved too, or a resumed run would go on from before it.
            if (self.habits.checkpoint_every and self._due(self.habits.checkpoint_every)) or self.reason:
                self._save(self.run.checkpoints, self.habits.keep)
                self.referred.append(self.best_step)
        if self.best_step is not None and self.best_step != self.done:
            _, state = load_checkpoint(self.run.path / "best" / f"step-{self.best_step:08d}")
            self.learner.load_state_dict(state["learner"])
            self.evaluation = dict(self.learner.evaluate())
        seconds = time.perf_counter() - began
        reason = self.reason or "finished"
        tokens = round(self.tokens)
        return Fitted(self.done, reason, self.evaluation, self.best_step, self.best_value, tokens, seconds)

    def _due(self, every: int | None) -> bool:
        return self.done == self.total or (every is not None and self.done % every == 0)

    def _log(self, clock: float) -> float:
        """Average what is pending, check it, write it and tell the watcher."""
        metrics = self._checked()
        tokens = sum(float(p.get("tokens", 0.0)) for p in self.pending)
        self.tokens += tokens
        self.pending = []
        now = time.perf_counter()
        self.run.append("metrics", [{"step": self.done, **{f"train/{k}": v for k, v in metrics.items()}}])
        self.run.append("clock", [{"step": self.done, "seconds": now - clock, "tokens_per_s": tokens / (now - clock)}])
        self._check_limits(metrics)
        if self.watch is not None:
            self.watch(self.done, self.total, metrics | {"tokens_per_s": tokens / (now - clock)})
        return now

    def _check_limits(self, metrics: Mapping[str, float]) -> None:
        """Stop where a metric is beyond its bound; one that no step has had is refused, if every step has it."""
        limits = self.budget.limits
        if not limits:
            return
        self.seen = sorted({*self.seen, *metrics})
        unknown = [k for k in limits if k not in self.seen and k not in getattr(self.learner, "sometimes", ())]
        if unknown:
            near = get_close_matches(unknown[0], self.seen, n=1)
            cure = f"Did you mean {near[0]!r}?" if near else ""
            what = f"{unknown[0]!r} is no training metric"
            raise UserError(what, where="budget.limits", allowed=", ".join(self.seen), cure=cure)
        found = {k: metrics[k] for k in limits if k in metrics}
        over = [f"{k} = {x:.4g} beyond {limits[k]:g}" for k, x in found.items() if abs(x) > limits[k]]
        if over:
            self.reason = f"diverged: {over[0]}"

    def _checked(self) -> dict[str, float]:
        """The averages of what is pending; a state with NaN in it is neither logged nor saved."""
        metrics = mean_metrics(self.pending)
        broken = [k for k, v in metrics.items() if not math.isfinite(v)]
        if broken:
            steps = f"{self.done - len(self.pending) + 1} to {self.done}"
            raise RunStopped(
                f"{', '.join(broken)} became {metrics[broken[0]]} in steps {steps}\n"
                "       The last checkpoint is still good. Lower optim.lr, or look at the rows of these steps."
            )
        return metrics

    def _evaluate(self) -> None:
        self.evaluation = dict(self.learner.evaluate())
        name = self.budget.best
        if name is not None and name not in self.evaluation:
            raise self._unknown_best(name)
        if not self.evaluation:
            return
        self.run.append("metrics", [{"step": self.done, **{f"eval/{k}": v for k, v in self.evaluation.items()}}])
        if self.watch is not None:
            self.watch(self.done, self.total, {f"eval/{k}": v for k, v in self.evaluation.items()})
        if name is None:
            return
        value, sign = self.evaluation[name], 1 if self.budget.best_is == "max" else -1
        # A value that is NaN is never the best one, not even the first.
        if not math.isnan(value) and (self.best_step is None or sign * value > sign * self.best_value):
            self.best_step, self.best_value, self.waited = self.done, value, 0
            self._save_best()
        else:
            self.waited += 1
            if self.budget.patience is not None and self.waited >= self.budget.patience:
                self.reason = f"no better {name} in {self.waited} evaluations"

    def _unknown_best(self, name: str) -> UserError:
        near = get_close_matches(name, self.evaluation, n=1)
        return UserError(
            f"{name!r} is no evaluation metric" + ("" if self.evaluation else "; there is no held-out data"),
            where="budget.best",
            allowed=", ".join(self.evaluation),
            cure=f"Did you mean {near[0]!r}?" if near else "",
        )

    def _save(self, root: Path, keep: int) -> None:
        self._checked()
        loop = {k: getattr(self, k) for k in _LOOP}
        pending = [{k: torch.as_tensor(v, dtype=torch.float64) for k, v in p.items()} for p in self.pending]
        state = {"learner": self.learner.state_dict(), "loop": loop, "pending": pending}
        if self.run.writes:
            save_checkpoint(root, self.done, state, keep)

    def _save_best(self) -> None:
        """Keep the new best beside those that a kept checkpoint would come back to."""
        best = self.run.path / "best"
        self._save(best, sys.maxsize)
        for folder in list_checkpoints(best) if self.run.writes else ():
            if step_of(folder) not in {self.done, *self.referred[-self.habits.keep :]}:
                shutil.rmtree(folder, ignore_errors=True)

    def _restore(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            self._forget_after(-1)
            return
        self.done, state = load_checkpoint(checkpoint)
        self.learner.load_state_dict(state["learner"])
        for k in _LOOP:
            setattr(self, k, state["loop"][k])
        self.pending = state["pending"]
        self._forget_after(self.done)
        self.referred = [step_of(p) for p in list_checkpoints(self.run.path / "best")][-self.habits.keep :]

    def _forget_after(self, step: int) -> None:
        """Cut what will be written again: rows of metrics, clock and samples, and later checkpoints of this run."""
        for name in ("metrics", "clock", "samples"):
            self.run.truncate_after(name, step)
        for root in (self.run.checkpoints, self.run.path / "best") if self.run.writes else ():
            drop_after(root, step)


_LOOP = ("tokens", "best_step", "best_value", "waited", "reason", "evaluation", "seen")
"""What the loop itself remembers, besides the learner's state."""
