"""Collecting a batch: draw responses, grade them, run the stages, refill what filters dropped, count everything.

Leaves out: sampling itself (`engine`), what is learnt from the batch (`rl`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from steersman.core.component import Moment, Stage
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.objective.advantage.group import group_counts
from steersman.reward.feedback import feedback
from steersman.reward.verifiable import Graded
from steersman.task.world import World, grades
from steersman.train.captured import by_sampler, drawing_with, taken
from steersman.train.own_code import apply
from steersman.train.passes import Passes, Rows

Metrics = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Collected:
    """A batch after its stages: rollouts, what is told of it, the grader's row of each rollout, lonely groups."""

    rollouts: Rollouts
    told: Metrics
    rows_of: Rows
    singletons: int


def collect(
    engine: Any,
    world: World,
    stages: Sequence[Stage],
    passes: Passes,
    settings: Any,
    at: Moment,
    drawn: list[Rollouts],
) -> Collected:
    """Draw, grade and treat one batch.

    A stage that drops whole groups may ask for refill rounds: it and the stages before it then run once a round, until
    as many groups are left as prompts were wanted; surplus groups are cut in the order they were drawn. All later
    stages run once on the whole batch.

    Args:
        engine: draws and scores.
        world: prompts and grader.
        stages: in their order.
        passes: of this step.
        settings: `prompts` and `drawing` of `rl.Settings`.
        at: seed and step.
        drawn: receives the rollouts of each round as soon as they exist, so that a caller can save them.
    """
    refills = [i for i, s in enumerate(stages) if s.most_rounds() > 1]
    first = max(refills, default=-1) + 1
    rounds = max((s.most_rounds() for s in stages), default=1)
    known: dict[int, Mapping[str, Any]] = {}

    def rows_of(rollouts: Rollouts) -> list[Mapping[str, Any]]:
        return [known[g] for g in rollouts.group.tolist()]

    parts: list[Rollouts] = []
    counted = _Counted()
    told: list[Metrics] = []
    kept = 0
    for round_ in range(rounds):
        now = replace(at, round=round_)
        prompts = world.draw(settings.prompts, at.seed, at.step, round_)
        known |= dict(zip(prompts.group.tolist(), prompts.rows, strict=True))
        asked = by_sampler(stages, passes.own, now)
        drawn.append(engine.sample(prompts, drawing_with(settings.drawing, asked), now, at.seed))
        drawn[-1], graded = grade(engine, world, drawn[-1], rows_of(drawn[-1]))
        counted.add(drawn[-1], graded)
        part, metrics = run_stages(stages[:first], taken(passes, asked, drawn[-1]), passes, rows_of, now)
        parts.append(part)
        told.append(metrics)
        kept += len(part.group.unique())
        if kept >= settings.prompts or first == 0:
            break
    for stage in stages:
        stage.check_kept(min(kept, settings.prompts), settings.prompts)
    batch = _first_groups(Rollouts.concat(parts), settings.prompts)
    batch, metrics = run_stages(stages[first:], batch, passes, rows_of, at, first)
    told.append(metrics)
    return Collected(batch, counted.metrics(batch) | _joined(told), rows_of, counted.singletons)


def run_stages(
    stages: Sequence[Stage], rollouts: Rollouts, passes: Passes, rows_of: Rows, at: Moment, first: int = 0
) -> tuple[Rollouts, Metrics]:
    """Apply stages in their order, each after the forward passes that it needs; `first` is the first one's place."""
    told: Metrics = {}
    for place, stage in enumerate(stages, first):
        if missing := [name for name in stage.fields if getattr(rollouts, name) is None]:
            what = f"{type(stage).__name__} reads {missing[0]!r}, and the grader said nothing of it"
            cure = "A reward function returns {'score': ..., 'correct': ...}; or set reward.correct_at."
            raise UserError(what, where="stages", cure=cure if missing == ["correct"] else "")
        rollouts = passes.before(stage, rollouts, rows_of, at)
        rollouts, metrics = apply(stage, place, rollouts, at)
        kind = str(getattr(stage, "kind", type(stage).__name__)).rpartition(":")[2]
        told |= {f"{kind}/{k}": v for k, v in metrics.items()}
    return rollouts, told


def _first_groups(rollouts: Rollouts, most: int) -> Rollouts:
    """The rows of the first `most` groups in the order drawn; group numbers rise from round to round."""
    groups = rollouts.group.unique()
    return rollouts if len(groups) <= most else rollouts.index(rollouts.group <= groups[most - 1])


def _joined(told: Sequence[Metrics]) -> Metrics:
    """Metrics of all rounds, averaged."""
    names = dict.fromkeys(k for t in told for k in t)
    return {k: sum(t[k] for t in told if k in t) / sum(k in t for t in told) for k in names}


def grade(
    engine: Any, world: World, drawn: Rollouts, rows: Sequence[Mapping[str, Any]]
) -> tuple[Rollouts, tuple[Graded, ...]]:
    """The rollouts with reward, validity, correctness, answers and what was said of them; graded by all processes.

    Those of a world that does not grade stay as they were drawn.
    """
    if not grades(world):
        return drawn, ()

    def work(part: range) -> list[Graded]:
        return [world.grade(drawn.index(slice(part.start, part.stop)), rows[part.start : part.stop])] if part else []

    graded = tuple(engine.share(len(drawn), work))
    reward = torch.cat([g.scores.value for g in graded]).float().cpu()
    if len(reward) != len(drawn):
        raise UserError(f"{len(reward)} rewards for {len(drawn)} responses", where="reward")
    valid = torch.cat([g.scores.valid for g in graded]).cpu() & drawn.valid
    bad = valid & ~torch.isfinite(reward)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise UserError(f"the reward is {float(reward[row])}", where=str(rows[row].get("id", f"row {row}")))
    if not bool(valid.any()):
        reasons = [e for g in graded for e in g.scores.errors.values()]
        raise RunStopped(f"no response could be graded; the first reason: {reasons[0] if reasons else 'not given'}")
    known: dict[str, Any] = {"reward": reward, "valid": valid}
    if all("correct" in g.scores.parts for g in graded):
        known["correct"] = torch.cat([g.scores.parts["correct"] for g in graded]).bool().cpu()
    if "answer" in world.gives:
        known["answer"] = tuple(a for g in graded for a in g.answer)
    if "feedback" in world.gives:
        known["feedback"] = tuple(f for g in graded for f in feedback(g))
    return replace(drawn, **known), graded


class _Counted:
    """Running totals of what was generated in a step."""

    def __init__(self) -> None:
        self.rollouts: list[Rollouts] = []
        self.status: list[Tensor] = []
        self.names: tuple[str, ...] = ()

    def add(self, rollouts: Rollouts, graded: Sequence[Graded]) -> None:
        self.rollouts.append(replace(rollouts, streams={}))
        status = [g.scores.parts["status"] for g in graded if "status" in g.scores.parts]
        self.status += [torch.cat(status).cpu()] if status else []
        self.names = graded[0].statuses if graded else self.names

    @property
    def singletons(self) -> int:
        """Groups with a single valid row, where there are rewards to compare."""
        return sum(self._groups(r).singletons for r in self.rollouts if r.reward is not None)

    @staticmethod
    def _groups(rollouts: Rollouts) -> Any:
        assert rollouts.reward is not None
        return group_counts(rollouts.reward, rollouts.group, rollouts.valid)

    def metrics(self, batch: Rollouts) -> Metrics:
        """What was generated and what is left of it; shares of rewards are over valid rows."""
        whole = Rollouts.concat(self.rollouts)
        valid, tokens = whole.valid, whole.action.sum(1)
        n, good = len(whole), max(int(valid.sum()), 1)
        told: Metrics = {
            "rows_generated": float(n),
            "tokens_generated": float(tokens.sum()),
            "tokens": float(tokens.sum()),
            "rounds": float(len(self.rollouts)),
            "rows_kept": float(len(batch)),
            "tokens_kept": float(batch.action.sum()),
            "invalid_share": float((~valid).sum()) / n,
            "truncated_share": float((whole.stop == STOP_LENGTH).sum()) / n,
            "response_length": float(tokens.sum()) / n,
        }
        if whole.reward is not None:
            found = self._groups(whole)
            told["reward_mean"] = float(whole.reward[valid].double().mean())
            told["zero_signal_groups"] = (found.zero_signal + found.singletons) / max(found.groups, 1)
        if whole.correct is not None:
            told["accuracy"] = float((whole.correct & valid).sum()) / good
        if self.status:
            status = torch.cat(self.status)
            told |= {f"status/{s}": float((status == i).sum()) / n for i, s in enumerate(self.names)}
        return told
