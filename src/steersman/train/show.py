"""What methods make of the same rollouts, row by row and token by token: lists of stages compared, for people to see.

Every list of stages runs on a copy of one graded batch, with the forward passes it asks for, and each row is followed
through it: kept, dropped, or repeated. What a row was worth when a stage dropped it stays known.
Leaves out: how a page looks (`page.tokens`). Refill rounds are not run, and stages
that remember something start from a copy of what they remember now.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steersman.core.component import OWN_PASSES, START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.streams import STREAMS
from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.objective.select.tokens import in_loss
from steersman.page.tokens import Sample, StreamInfo, View
from steersman.task.world import World
from steersman.train.collect import grade, run_stages
from steersman.train.engine.work import Drawing
from steersman.train.passes import Passes, check_parts, own_passes
from steersman.train.terms import Term
from steersman.train.token_streams import credit, described, reader_streams


@dataclass(frozen=True, slots=True)
class Made:
    """What a list of stages made of N rows of at most L tokens.

    Args:
        copies: how often each row is in the batch afterwards ``[N]``; 0 = dropped.
        kept: tokens that the policy loss would count ``[N, L]``, in any of a row's copies.
        streams: per-token streams ``[N, L]`` as the stages left them, float32; of a dropped row the last it had, of a
            repeated one those of its first copy; NaN where nobody gave any.
        weight: row weights ``[N]``, likewise.
        metrics: of the stages.
    """

    copies: Int[Tensor, " N"]
    kept: Bool[Tensor, "N L"]
    streams: Mapping[str, Tensor]
    weight: Tensor
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Followed(Rollouts):
    """Rollouts whose rows know which row of the first batch they were."""

    origin: Int[Tensor, " N"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def index(self, rows: Tensor | slice) -> "_Followed":
        """The rows `rows`, with where they came from."""
        found: Any = Rollouts.index(self, rows)
        return replace(found, origin=self.origin[rows])


def graded_rollouts(
    engine: Any, world: World, drawing: Drawing, prompts: int, at: Moment = START
) -> tuple[Rollouts, list[Mapping[str, Any]]]:
    """Responses to a step's training prompts, graded, and the grader's row of each: what `compare_stages` takes.

    Args:
        engine: draws them.
        world: prompts and their grader.
        drawing: how responses are drawn.
        prompts: how many prompts, >= 1.
        at: seed and step; the same as in a run gives its prompts, and its responses where the weights are the same.
    """
    asked = world.draw(prompts, at.seed, at.step)
    rows = dict(zip(asked.group.tolist(), asked.rows, strict=True))
    drawn = engine.sample(asked, drawing, at, at.seed)
    of = [rows[g] for g in drawn.group.tolist()]
    return grade(engine, world, drawn, of)[0], of


def compare_stages(
    engine: Any,
    world: World,
    rollouts: Rollouts,
    arms: Mapping[str, Sequence[Stage]],
    rows: Sequence[Mapping[str, Any]] | None = None,
    *,
    at: Moment = START,
    temperature: float = 1.0,
    terms: Mapping[str, Sequence[Term]] | None = None,
) -> dict[str, Made]:
    """What each list of stages makes of the same graded rollouts.

    Args:
        engine: scores, e.g. `engine.local.LocalEngine`.
        world: encodes what stages put before responses, and says which fields grading gives.
        rollouts: N graded rows (`graded_rollouts`).
        arms: a list of stages under each method's name.
        rows: the grader's row of each rollout, for stages that score under another context; None = none of them does.
        at: seed and step: what schedules and noise are functions of.
        temperature: the rollouts were sampled with.
        terms: the losses of the methods whose stages read how far the policy is from a teacher; None = of none.

    Returns:
        What each made of the rows. Entropy and log-probabilities are those of the policy now, scored once for all.

    Raises:
        UserError: stages that cannot work together, rollouts without a reward, or a stage that builds new rows in place
            of `Rollouts.index`, so that nothing can be said of the old ones.
    """
    if rollouts.reward is None:
        raise UserError("have no reward", where="rollouts", cure="Grade them first.")
    known = dict(zip(rollouts.group.tolist(), rows, strict=True)) if rows is not None else {}

    def rows_of(part: Rollouts) -> list[Mapping[str, Any]]:
        return [known.get(g, {}) for g in part.group.tolist()]

    def passes(of: Sequence[Term] = ()) -> Passes:
        return Passes(engine, world.encode, temperature, engine.context, own=own_passes(of))

    losses = {name: tuple((terms or {}).get(name, ())) for name in arms}
    there = [engine.has(name) for name in ("critic", "reference", "teacher")]
    for name, stages in arms.items():
        check_parts(stages, losses[name], world.gives, *there)
    names = ["entropy", "logp_old", *(["logp_ref"] if engine.has("reference") else [])]
    missing = [OWN_PASSES[n] for n in names if n not in rollouts.streams]
    scored = passes().run(missing, rollouts, rows_of)
    return {name: _follow(stages, scored, passes(losses[name]), rows_of, at) for name, stages in arms.items()}


def _follow(stages: Sequence[Stage], rollouts: Rollouts, passes: Passes, rows_of: Any, at: Moment) -> Made:
    """One list of stages, with what every row was worth after the last stage that still had it."""
    n, width = rollouts.ids.shape
    given = {f.name: getattr(rollouts, f.name) for f in fields(Rollouts)}
    now = _Followed(**given, origin=torch.arange(n))
    weight, streams = torch.ones(n), {}
    told: dict[str, Any] = {}
    _note(now, weight, streams)
    for stage in stages:
        # A pass gives zeros where it was not asked; to a reader those values are missing.
        unasked = {p.stream: now.origin[~p.rows(now)].cpu() for p in stage.passes_now(at) if p.rows is not None}
        made, metrics = run_stages([stage.model_copy(deep=True)], now, passes, rows_of, at)
        if not isinstance(made, _Followed):
            raise UserError(
                f"{type(stage).__name__} builds new rollouts, so its rows cannot be followed",
                where="stages",
                cure="Change them with Rollouts.index, with_streams or dataclasses.replace.",
            )
        now = made.widen(width)  # type: ignore[assignment]
        told |= metrics
        _note(now, weight, streams)
        for name, rows in unasked.items():
            streams[name][rows] = torch.nan
    origin = now.origin.cpu()
    counted = torch.zeros(n, width, dtype=torch.int64).index_add(0, origin, in_loss(now).cpu().long())
    return Made(torch.bincount(origin, minlength=n), counted > 0, streams, weight, told)


def _note(now: _Followed, weight: Tensor, streams: dict[str, Tensor]) -> None:
    """Write down what the rows that are left are worth now; of a repeated row its first copy counts."""
    first: dict[int, int] = {}
    for place, row in enumerate(now.origin.tolist()):
        first.setdefault(row, place)
    old, new = list(first), list(first.values())
    weight[old] = now.weight.detach().float().cpu()[new]
    for name, x in now.streams.items():
        if STREAMS[name].shape == "N L":
            whole = streams.setdefault(name, torch.full((len(weight), x.shape[1]), torch.nan))
            whole[old] = x.detach().float().cpu()[new]


def token_table(
    rollouts: Rollouts,
    pieces: Sequence[Sequence[str]],
    arms: Mapping[str, Made],
    *,
    truth: Bool[Tensor, "N L"] | None = None,
    mark: str = "decisive",
    which: Sequence[int] | None = None,
) -> tuple[tuple[Sample, ...], tuple[StreamInfo, ...]]:
    """The rows of a batch as samples of a page, each under every method, and the streams that can be chosen.

    Args:
        rollouts: the N rows that `compare_stages` was given.
        pieces: the text of each token of each row (`World.pieces`).
        arms: what each method made of them.
        truth: tokens that the task knows to matter ``[N, L]``; None = it does not know.
        mark: the word for such a token.
        which: rows to show, in this order; None = all.

    Returns:
        Samples and streams for `page.tokens.token_view`: those of `token_streams` that have a value. Values stand at
        action tokens only; the weight of a dropped token is missing, not 0.
    """
    shown = range(len(rollouts)) if which is None else which
    found = {name: _columns(rollouts, made) for name, made in arms.items()}
    if any("credit" in columns for columns in found.values()):
        for columns in (c for c in found.values() if "advantage" in c):
            columns.setdefault("credit", credit(columns["advantage"]))
    numbers = _within_groups(rollouts.group.tolist())
    samples = []
    for i in shown:
        action = rollouts.action[i].tolist()[: int(rollouts.length[i])]
        views = tuple(_view(name, arms[name], columns, i, action) for name, columns in found.items())
        marked = None if truth is None else tuple(truth[i].nonzero()[:, 0].tolist())
        group, number = numbers[i]
        samples.append(
            Sample(
                f"prompt {group + 1}, response {number + 1}",
                tuple(pieces[i]),
                int(rollouts.prompt_length[i]),
                views,
                marked,
                notes=_notes(rollouts, i),
                group=str(group),
                mark=mark,
            )
        )
    return tuple(samples), described(k for columns in found.values() for k in columns)


def _columns(rollouts: Rollouts, made: Made) -> dict[str, Tensor]:
    """Streams of one method under a reader's names, at the actions of rows that were graded."""
    inside = (rollouts.action & rollouts.valid[:, None]).cpu()
    streams = dict(made.streams)
    if rollouts.logp_behaviour is not None:
        streams["logp_behaviour"] = rollouts.logp_behaviour.float().cpu()
    streams = {name: torch.where(inside, x, torch.nan) for name, x in streams.items()}
    assert rollouts.reward is not None
    found = reader_streams(streams, made.kept, reward=rollouts.reward.float().cpu(), weight=made.weight)
    return {name: torch.where(inside, x, torch.nan) for name, x in found.items()}


def _view(name: str, made: Made, columns: Mapping[str, Tensor], i: int, action: Sequence[bool]) -> View:
    n = len(action)
    streams = {
        k: tuple(None if v != v else v for v in x[i, :n].tolist()) for k, x in columns.items()  # NaN is not itself
    }  # fmt: skip
    kept = made.kept[i, :n].tolist()
    dropped = tuple(a and not k for a, k in zip(action, kept, strict=True))
    return View(name, streams, dropped, int(made.copies[i]))


def _within_groups(group: Sequence[int]) -> list[tuple[int, int]]:
    """(number of its group, number within it) of each row, both in order of first appearance."""
    seen: dict[int, list[int]] = {}
    for g in group:
        seen.setdefault(g, [len(seen), -1])
    out = []
    for g in group:
        seen[g][1] += 1
        out.append((seen[g][0], seen[g][1]))
    return out


def _notes(rollouts: Rollouts, i: int) -> tuple[tuple[str, str], ...]:
    """What is known of a whole response, as words."""
    if not bool(rollouts.valid[i]):
        return (("not graded", "in no loss"),)
    found = [("reward", f"{float(rollouts.reward[i]):.4g}")] if rollouts.reward is not None else []
    if rollouts.correct is not None:
        found.append(("correct", "yes" if bool(rollouts.correct[i]) else "no"))
    if rollouts.answer is not None:
        found.append(("answer", rollouts.answer[i] or "none"))
    if int(rollouts.stop[i]) == STOP_LENGTH:
        found.append(("ended", "cut at the longest length"))
    return tuple(found)
