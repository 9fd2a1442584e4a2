"""The `rl` loop: prompts -> responses -> rewards -> an ordered list of stages -> losses -> update.

A step is one optimiser step; a batch of responses serves `epochs * minibatches` of them and is part of the state, so a
run resumes inside a batch too. Prompts, noise and the order of rows are functions of (seed, step, round). Stages and
terms are checked before any compute. Whatever stops a step, its rollouts are on disk first.
Leaves out: forward and backward (`engine`), planning of passes (`passes`), collecting (`collect`), metrics files and
checkpoints (`loop`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from steersman.core.component import Moment, Stage
from steersman.core.errors import RunStopped, UserError
from steersman.core.noise import permutation
from steersman.core.types import Rollouts
from steersman.store.rollouts import from_state, save_rollouts, to_state
from steersman.store.run import RunDir
from steersman.task.world import World
from steersman.train.collect import Collected, collect
from steersman.train.engine.work import Drawing, Job
from steersman.train.evaluate import Evaluation, evaluate
from steersman.train.fit import batch_rows
from steersman.train.loop import Budget, Fitted, Habits, Watch, run_steps
from steersman.train.own_code import check_state
from steersman.train.passes import Passes, check_parts, own_passes
from steersman.train.samples import sample_rows
from steersman.train.terms import Term, against_of

EVERYTHING = frozenset({"policy", "critic"})
ALL_ONCE = Evaluation()
SHOWN = 4
"""Responses of a batch that are written to ``samples.jsonl``."""
GAP_LIMIT = 1e-4
"""Nats by which sampler and trainer may differ on a token in float32."""


_OF_AN_UPDATE = frozenset({"entropy", "kl_old", "kl_ref", "clip_low", "clip_high", "gap_max", "gap_mean"}) | {
    "value_error", "value_mean", "grad_norm", "lr", "critic_grad_norm", "critic_lr", "divergence",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Phase:
    """The first `steps` optimiser steps that no earlier phase has, in which only `trains` moves."""

    steps: int
    trains: frozenset[Literal["policy", "critic"]]


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """A second stream of data and its term: `rows` of them in every optimiser step, in a random order."""

    data: Rollouts
    term: Term
    rows: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What defines a step.

    Args:
        prompts: of a batch.
        drawing: how responses are drawn.
        minibatches: parts into which a batch is cut, an optimiser step each.
        epochs: passes over a batch.
        old: where ``logp_old`` comes from where a batch serves several steps: a forward of the trainer, or the sampler.
        gap_limit: nats by which sampler and trainer may differ on a token; None = only reported (a sampler with filters
            or of low precision).
        phases: what is trained at first; afterwards everything is.
        auxiliary: a second stream of data; None = none.
        evaluation: what is measured on held-out prompts.
        show_every: steps between rows of ``samples.jsonl``.
    """

    prompts: int
    drawing: Drawing
    minibatches: int = 1
    epochs: int = 1
    old: Literal["recompute", "sampler"] = "recompute"
    gap_limit: float | None = GAP_LIMIT
    phases: tuple[Phase, ...] = ()
    auxiliary: Auxiliary | None = None
    evaluation: Evaluation = ALL_ONCE
    show_every: int = 10

    def trains(self, step: int) -> frozenset[str]:
        """The models that move in a step."""
        for phase in self.phases:
            if step < phase.steps:
                return phase.trains
            step -= phase.steps
        return EVERYTHING


class RLLearner:
    """Trains a policy on rollouts of its own.

    Args:
        engine: samples, scores, updates.
        world: prompts and grader.
        stages: what happens to a batch, in this order.
        terms: the objective.
        settings: what defines a step.
        seed: of everything random.
        total: optimiser steps of the run.
        run: where samples, and the rollouts of a step that failed, are written; None = nowhere.
        say: told about what a person should know, a line each, once.

    Raises:
        UserError: stages and terms that cannot work together, before any compute.
    """

    def __init__(
        self,
        engine: Any,
        world: World,
        stages: Sequence[Stage],
        terms: Sequence[Term],
        settings: Settings,
        seed: int,
        total: int,
        *,
        run: RunDir | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        there = [engine.has(name) for name in ("critic", "reference", "teacher")]
        needs = check_parts(stages, terms, world.gives, *there)
        self.own, self.against = own_passes(terms), against_of(terms)
        for place, stage in enumerate(stages):
            check_state(stage, place)
        self.engine, self.world, self.stages, self.terms = engine, world, tuple(stages), tuple(terms)
        self.settings, self.seed, self.total, self.run, self.say = settings, seed, total, run, say
        self.needs = needs | ({"logp_old"} if self.updates > 1 else frozenset())
        self.batch: Rollouts | None = None
        self.shown: Rollouts | None = None
        self.said: set[str] = set()

    @property
    def sometimes(self) -> frozenset[str]:
        """Metrics that a step may lack: it was skipped, or only one model moved in it."""
        return _OF_AN_UPDATE | {f"loss/{t.name}" for t in self.terms}

    @property
    def updates(self) -> int:
        """Optimiser steps that a batch serves."""
        return self.settings.minibatches * self.settings.epochs

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """One optimiser step; draws a batch where the last one has been used up."""
        inside, told, drawn = step % self.updates, {}, None
        if inside == 0:
            drawn = []
            with _OnDisk(self, drawn, step):
                self.batch, told = self._collect(step, drawn)
        assert self.batch is not None
        with _OnDisk(self, [self.batch] if drawn is None else drawn, step):
            told |= self._update(self.batch, step, inside)
        if inside + 1 == self.updates:
            self.batch = self.shown = None
        return told

    def _collect(self, step: int, drawn: list[Rollouts]) -> tuple[Rollouts, dict[str, Any]]:
        """A batch ready for its updates, and what is told of it."""
        at = Moment(self.seed, step, self.total)
        temperature = self.settings.drawing.sampling.temperature
        needed = {n for s in self.stages for n in s.needs}
        old = "logp_old" in needed or (self.updates > 1 and self.settings.old == "recompute")
        passes = Passes(self.engine, self.world.encode, temperature, self.engine.context, old, self.own)
        found = collect(self.engine, self.world, self.stages, passes, self.settings, at, drawn)
        batch = found.rollouts
        for name in sorted(passes.sampled):
            self._once(f"{name} comes from the sampler: no scoring pass is run for it")
        if self.updates > 1 and "logp_old" not in batch.streams and self.settings.old == "sampler":
            assert batch.logp_behaviour is not None
            batch = batch.with_streams(logp_old=batch.logp_behaviour)
        missing = [n for n in sorted(self.needs) if n not in batch.streams and n in self.own]
        batch = passes.run([self.own[n] for n in missing], batch, found.rows_of)
        if self.against is not None:
            batch, self.shown = passes.shown(self.against, batch, found.rows_of)
        told: dict[str, Any] = found.told | {"tokens_scored": float(passes.tokens)}
        if passes.done.get("logp_old") is not None and batch.logp_behaviour is not None:
            self._check_gap(_gap(batch), step)
        self._show(found, batch, step)
        self._warn(found)
        keep = {*self.needs, "advantage", "token_weight", "taught"} | ({"logp_old"} & batch.streams.keys())
        return replace(batch, streams={k: x for k, x in batch.streams.items() if k in keep}), told

    def _update(self, batch: Rollouts, step: int, inside: int) -> dict[str, Any]:
        """Gradients, the check of the sampler on fresh rollouts, and the optimiser's move."""
        trains = self.settings.trains(step)
        part = self._rows(len(batch), step, inside)
        jobs = [Job(batch.index(part), self.terms, None if self.shown is None else self.shown.index(part))]
        if (extra := self.settings.auxiliary) is not None:
            rows = batch_rows(step, extra.rows, len(extra.data), self.seed)
            jobs.append(Job(extra.data.index(rows), (extra.term,)))
        told = self.engine.accumulate(jobs, trains, self.settings.drawing.sampling.temperature)
        gap = {k: told.pop(k) for k in ("gap_max", "gap_mean") if k in told}
        if inside == 0 and gap:
            self._check_gap(gap, step)
            told |= gap
        told["skipped"] = float(told["tokens_trained"] == 0)
        if told["skipped"]:
            self.engine.forget()
            self._once("a step without a token to learn from was skipped; the metric 'skipped' counts them")
            return told
        return told | self.engine.apply(step, trains)

    def _rows(self, n: int, step: int, inside: int) -> Tensor:
        """The rows of an optimiser step: a part of a random order of the batch, another order in each epoch."""
        parts = self.settings.minibatches
        if parts == 1:
            return torch.arange(n)
        epoch, part = divmod(inside, parts)
        order = permutation(n, self.seed, "minibatch", step - inside + epoch)
        return order[part * n // parts : (part + 1) * n // parts]

    def _check_gap(self, gap: Mapping[str, Any], step: int) -> None:
        limit = self.settings.gap_limit
        if limit is None or float(gap["gap_max"]) <= limit:
            return
        raise RunStopped(
            f"step {step + 1}: sampler and trainer disagree by {float(gap['gap_max']):.3g} nats on a token "
            f"(mean {float(gap['gap_mean']):.3g}, limit {limit:g})\n"
            "       Likely causes: another temperature in one of the passes; dropout left on; wrong position ids or a\n"
            "       wrong mask of padded rows; weights that differ; low precision (then raise rollout.gap_limit)."
        )

    def _warn(self, found: Collected) -> None:
        if found.singletons:
            self._once("groups of a single valid response carry no signal for a group estimator; their advantage is 0")
        if found.told["rows_kept"] == 0:
            self._once("a batch without a row left to train on was drawn; the metric 'rows_kept' counts rows")

    def _once(self, line: str) -> None:
        if line not in self.said:
            self.said.add(line)
            self.say(line)

    def _show(self, found: Collected, batch: Rollouts, step: int) -> None:
        """Write a few responses to ``samples.jsonl``, with what the step made of their tokens."""
        due = step % (self.settings.show_every * self.updates) < self.updates
        if self.run is None or not self.engine.main or not due or not len(batch):
            return
        self.run.append("samples", sample_rows(batch.index(slice(0, SHOWN)), self.world, step + 1))

    def evaluate(self) -> dict[str, float]:
        """What the world's held-out prompts say (`evaluate`)."""
        made: list[Rollouts] = []
        with _OnDisk(self, made, 0, "evaluation"):
            return evaluate(self.engine, self.world, self.settings.drawing, self.settings.evaluation, self.seed, made)

    def state_dict(self) -> dict[str, Any]:
        """Models and optimisers, what stages remember, and the batch if it still serves."""
        return {
            "engine": self.engine.state_dict(),
            "stages": {str(i): s.state_dict() for i, s in enumerate(self.stages)},
            **{k: None if x is None else to_state(x) for k, x in (("batch", self.batch), ("shown", self.shown))},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.engine.load_state_dict(state["engine"])
        for i, stage in enumerate(self.stages):
            stage.load_state_dict(state["stages"][str(i)])
        batch, shown = state["batch"], state.get("shown")
        self.batch = None if batch is None else from_state(batch)
        self.shown = None if shown is None else from_state(shown)


class _OnDisk:
    """While a step or an evaluation is being made: whatever stops it, its rollouts are written first."""

    def __init__(self, learner: RLLearner, drawn: list[Rollouts], step: int, what: str = "step") -> None:
        self.learner, self.drawn, self.step, self.what = learner, drawn, step, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        run = self.learner.run
        if error is None or run is None or not self.drawn or not self.learner.engine.main:
            return
        root = run.path / "rollouts" / ("" if self.what == "step" else self.what)
        folder = save_rollouts(root, self.step, _bare(self.drawn))
        self.learner.say(f"the rollouts of this {self.what} are in {folder}")


def _gap(batch: Rollouts) -> dict[str, Tensor]:
    """Differences of the sampler's and the trainer's log-probs over the actions of a batch."""
    assert batch.logp_behaviour is not None
    mask = batch.action & batch.valid[:, None]
    gap = torch.where(mask, (batch.streams["logp_old"] - batch.logp_behaviour).abs(), 0.0)
    none = gap.new_zeros(())
    return {"gap_max": gap.amax() if gap.numel() else none, "gap_mean": gap.sum() / mask.sum().clamp(min=1)}


def _bare(parts: Sequence[Rollouts]) -> Rollouts:
    """The rollouts of several rounds with the fields that all of them have."""
    optional = [k for k in ("reward", "correct", "answer", "feedback") if any(getattr(p, k) is None for p in parts)]
    return Rollouts.concat([replace(p, streams={}, **dict.fromkeys(optional)) for p in parts])


def rl(
    learner: RLLearner,
    budget: Budget,
    run: RunDir,
    habits: Habits = Habits(),
    *,
    watch: Watch | None = None,
    resume: Path | None = None,
) -> Fitted:
    """Train `learner` for ``learner.total`` optimiser steps; arguments, result and errors as `loop.run_steps`.

    Raises:
        UserError: the budget's seed is not the learner's.
    """
    if budget.seed != learner.seed:
        raise UserError(f"is {budget.seed}, the learner's is {learner.seed}", where="budget.seed")
    return run_steps(learner, learner.step, learner.total, budget, run, habits, watch=watch, resume=resume)
