"""Forward passes that stages ask for: which are possible, and running each one once, when it is needed.

A stage names the streams it reads, or declares a `Pass` under another context. Passes over the same rows by the same
model become one forward; only valid rows, and of them only those a pass asks for, are run. A response is never
tokenised again: its ids are put behind the other context as they are.
Leaves out: the forward itself (`engine`), the order of stages (`rl`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from steersman.core.component import OWN_PASSES, START, Component, Form, Moment, Pass, Stage, check_pipeline
from steersman.core.errors import RunStopped, UserError
from steersman.core.streams import STREAMS, check_name, per_token
from steersman.core.types import Rollouts
from steersman.objective.select.tokens import in_loss
from steersman.train.engine.work import Averaged, OfLayer
from steersman.train.terms import Against, Term, against_of

Rows = Callable[[Rollouts], Sequence[Mapping[str, Any]]]
"""The grader's row of each rollout."""
_SAMPLER = ("logp_behaviour",)
_GIVEN_BY = {
    "correct": "A verifiable reward says it, a reward function that returns {'score': ..., 'correct': ...}, "
    "or one with reward.correct_at.",
    "answer": "A verifiable reward finds it.",
}
"""What gives a field of the rollouts that grading fills."""


def check_parts(
    stages: Sequence[Component],
    terms: Sequence[Term],
    gives: Iterable[str],
    critic: bool,
    reference: bool = True,
    teacher: bool = False,
) -> frozenset[str]:
    """Refuse stages and terms that cannot work together, before any compute.

    Args:
        stages: in the order they will run.
        terms: of the objective.
        gives: optional fields of the rollouts that sampling and grading fill.
        critic, reference, teacher: whether there is one.

    Returns:
        The streams that terms read and a forward pass or a stage gives.

    Raises:
        UserError: names the stage or term, the stream or field it lacks, and who gives it.
    """
    there = {"policy": True, "critic": critic, "reference": reference, "teacher": teacher}
    own = [name for name, p in own_passes(terms).items() if there[p.by]]
    have = check_pipeline(stages, own)
    known = {*gives, *_SAMPLER}
    for place, stage in enumerate(stages):
        for pass_ in stage.passes() if isinstance(stage, Stage) else ():
            if not there[pass_.by]:
                raise UserError(f"{type(stage).__name__} asks for a pass by a {pass_.by}", where=f"stages[{place}]")
            _check_averages(pass_, type(stage).__name__, f"stages[{place}]")
        _check_told(stage, terms, f"stages[{place}]")
        for name in getattr(stage, "fields", ()):
            if name not in known:
                what = f"{type(stage).__name__} reads {name!r}, which this task's grader does not give"
                raise UserError(what, where=f"stages[{place}]", cure=_GIVEN_BY.get(name, ""))
    for term in terms:
        if term.model == "critic" and not critic:
            raise UserError(f"the {term.name} loss needs a critic", where="critic", cure="Add the table [critic].")
        if term.against is not None and not there[term.against.by]:
            raise UserError(f"the {term.name} loss needs a {term.against.by}", where="distill")
        for name in term.needs:
            check_name(name, f"the {term.name} loss needs", "loss")
            if name not in have:
                what = f"the {term.name} loss needs {name!r}, which no stage gives"
                raise UserError(what, where="stages", cure=f"It is given by: {STREAMS[name].given_by}.")
    return frozenset(n for t in terms for n in t.needs)


def _check_told(stage: Component, terms: Sequence[Term], where: str) -> None:
    """Refuse a stage that compares tokens by a divergence which rows without another text do not have."""
    against = against_of(terms)
    read = [n for n in stage.needs if n in ("divergence", "divergence_forward")]
    if read and against is not None and against.optional:
        what = f"{type(stage).__name__} reads {read[0]!r}, and the other side may have nothing to say of some responses"
        raise UserError(what, where=where, cure="Choose tokens by something else, e.g. their entropy.")


def own_passes(terms: Sequence[Term]) -> dict[str, Pass]:
    """The passes that every stage may count on by naming the stream in `needs`: `OWN_PASSES` and, where a term compares
    the policy with another side, both KL divergences from it."""
    against = against_of(terms)
    if against is None:
        return OWN_PASSES
    kinds: dict[str, Any] = {"divergence": "reverse_kl", "divergence_forward": "forward_kl"}
    known: dict[str, Any] = {"by": against.by, "before": against.before, "optional": against.optional}
    return OWN_PASSES | {
        name: Pass(name, quantity="divergence", form=Form(kind, impossible=against.form.impossible), **known)
        for name, kind in kinds.items()
    }


class Passes:
    """The passes of one step: what was run already is not run again.

    Args:
        engine: has `score` and `compare`.
        encode: texts, conversations or ids -> token ids.
        temperature: divides the logits, as sampled with.
        context: most tokens of a row; None = no limit.
        old: whether ``logp_old`` will be needed; it then comes with the entropies, whose forward gives it for nothing.
        own: passes that stages ask for by the stream's name (`own_passes`).
    """

    def __init__(
        self,
        engine: Any,
        encode: Callable[[Sequence[Any]], list[list[int]]],
        temperature: float,
        context: int | None,
        old: bool = False,
        own: Mapping[str, Pass] = OWN_PASSES,
    ) -> None:
        self.engine, self.encode, self.temperature, self.context = engine, encode, temperature, context
        self.old, self.own = old, own
        self.done: dict[str, Pass] = {}
        self.sampled: set[str] = set()
        self.tokens = 0

    def before(self, stage: Component, rollouts: Rollouts, rows: Rows, at: Moment = START) -> Rollouts:
        """The rollouts with the streams that `stage` needs from a forward pass."""
        names = [n for n in stage.needs if n in self.own and n not in rollouts.streams]
        if self.old and "entropy" in names and "logp_old" not in {*names, *rollouts.streams}:
            names.append("logp_old")
        wanted = [self.own[n] for n in names]
        asked = stage.passes_now(at) if isinstance(stage, Stage) else ()
        due = [p for p in asked if p.stream not in rollouts.streams or self.done.get(p.stream) != p]
        return self.run([*wanted, *due], rollouts, rows)

    def run(self, passes: Sequence[Pass], rollouts: Rollouts, rows: Rows) -> Rollouts:
        """The rollouts with the streams of `passes`; those that differ in the quantity alone share a forward."""
        shared: dict[tuple[Any, ...], list[Pass]] = {}
        for p in passes:
            shared.setdefault((p.by, p.before, p.rows, p.optional, p.quantity == "divergence"), []).append(p)
        for alike in _merged(shared):
            rollouts = rollouts.with_streams(**self._forward(alike, rollouts, rows))
            self.done |= {p.stream: p for p in alike}
        return rollouts

    def _forward(self, alike: Sequence[Pass], rollouts: Rollouts, rows: Rows) -> dict[str, Tensor]:
        first = alike[0]
        asked = rollouts.valid if first.rows is None else rollouts.valid & first.rows(rollouts)
        chosen, before = asked, None
        if first.before is not None and bool(asked.any()):
            chosen, before = self.contexts(first, rollouts, asked, rows(rollouts))
        part = rollouts.index(chosen)
        shown = part if before is None or not len(part) else under(part, before, self.context)
        quantity = {p.stream: _asked(p) for p in alike}
        names = list(dict.fromkeys(quantity.values()))
        if first.quantity == "divergence":
            told = self.engine.compare(part, shown, first.by, names, self.temperature)
            self.tokens += int(part.length.sum())
        else:
            told = self.engine.score(shown, first.by, names, self.temperature)
        self.tokens += int(shown.length.sum())
        out = {}
        for stream, name in quantity.items():
            x = told.get(name)
            if x is None:  # no row
                x = torch.zeros(0, *(shown.ids.shape[1:] if per_token(stream) else ()), *_width(stream))
            elif shown is not part and per_token(stream) and first.quantity != "divergence":
                x = back(x, shown, part)
            check_numbers(x, first.by, name, chosen)
            whole = x.new_zeros(len(rollouts), *x.shape[1:])
            whole[asked & ~chosen] = torch.nan
            whole[chosen] = x
            out[stream] = whole
        return out

    def contexts(
        self, pass_: Pass, rollouts: Rollouts, asked: Tensor, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[Tensor, list[list[int]]]:
        """The rows of `asked` that can be scored, and token ids of what stands before the response of each."""
        assert pass_.before is not None
        given = pass_.before(rollouts, rows)
        if len(given) != len(rollouts):
            raise UserError(f"{len(given)} contexts for {len(rollouts)} rows", where="context")
        there = asked.nonzero()[:, 0].tolist()
        none = [i for i in there if given[i] is None]
        if none and not pass_.optional:
            raise UserError("there is nothing to stand before the response", where=f"context of row {none[0]}")
        there = [i for i in there if given[i] is not None]
        ids = self.encode([given[i] for i in there])
        if pass_.optional and self.context is not None:
            own = (rollouts.length - rollouts.prompt_length).tolist()
            fits = [len(x) + own[i] <= self.context for i, x in zip(there, ids, strict=True)]
            there = [i for i, good in zip(there, fits, strict=True) if good]
            ids = [x for x, good in zip(ids, fits, strict=True) if good]
        chosen = torch.zeros_like(asked)
        chosen[there] = True
        return chosen, ids

    def shown(self, against: Against, batch: Rollouts, rows: Rows) -> tuple[Rollouts, Rollouts | None]:
        """The batch, and its responses behind what stands before them for the other side of its terms.

        Rows in which nothing counts keep their prompts. Where the other side may have nothing to say of a row, the
        batch gets the stream ``taught``.
        """
        if against.before is None or not len(batch):
            return batch, None
        asked = Pass("divergence", against.by, "divergence", against.before, optional=against.optional)
        chosen, ids = self.contexts(asked, batch, in_loss(batch).any(1), rows(batch))
        before = [row[:n] for row, n in zip(batch.ids.tolist(), batch.prompt_length.tolist(), strict=True)]
        for i, other in zip(chosen.nonzero()[:, 0].tolist(), ids, strict=True):
            before[i] = other
        batch = batch.with_streams(taught=chosen.float()) if against.optional else batch
        return batch, under(batch, before, self.context)


def _merged(shared: Mapping[tuple[Any, ...], list[Pass]]) -> list[list[Pass]]:
    """Passes that share a forward; a comparison of all rows gives the policy's own log-probs and entropies with it."""
    groups, own = dict(shared), ("policy", None, None, False, False)
    whole = next((k for k in groups if k[2:] == (None, False, True)), None)
    if whole is not None and all(_asked(p) in ("logp", "entropy") for p in groups.get(own, ())):
        groups[whole] = [*groups[whole], *groups.pop(own, ())]
    return list(groups.values())


def check_numbers(x: Tensor, by: str, quantity: str, chosen: Tensor) -> None:
    """Refuse what would poison everything behind it; a row is named by its place in the batch."""
    bad = torch.isnan(x.flatten(1) if x.ndim > 1 else x[:, None]).any(1)
    if bool(bad.any()):
        row = int(chosen.nonzero()[:, 0][bad][0])
        raise RunStopped(f"row {row}: the {by} gives NaN as {quantity}; its weights are broken, or its input is")


def _check_averages(p: Pass, name: str, where: str) -> None:
    """Refuse a layer or an average of what has none, and a stream of another shape."""
    wrong = ""
    if p.pool is not None and p.quantity not in ("hidden", "entropy"):
        wrong = f"an average of {p.quantity!r}; hidden states and entropies have one"
    elif p.layer is not None and p.quantity != "hidden":
        wrong = f"a layer of {p.quantity!r}; hidden states have one"
    elif p.pool is not None and per_token(p.stream):
        wrong = f"an average in {p.stream!r}, a stream of tokens"
    if wrong:
        raise UserError(f"{name} asks for {wrong}", where=where)


def _asked(p: Pass) -> Any:
    """What an engine is asked for to make the stream of a pass."""
    if p.pool is not None:
        return Averaged(p.quantity, p.layer, p.pool)  # type: ignore[arg-type]  # `check_pass`
    if p.layer is not None:
        return OfLayer(p.layer)
    if p.quantity == "divergence":
        return p.form
    return "value_end" if p.stream == "value_end" else p.quantity


def _width(stream: str) -> tuple[int, ...]:
    return (1,) if STREAMS[stream].shape.endswith("D") else ()


def under(rollouts: Rollouts, before: Sequence[Sequence[int]], context: int | None = None) -> Rollouts:
    """The same responses behind other prompts; only what a scoring pass reads is carried over.

    Args:
        rollouts: N rows.
        before: token ids of each new prompt, at least one.
        context: most tokens of a row; None = no limit.

    Raises:
        UserError: not one prompt a row, an empty prompt, or a row longer than the context.
    """
    if len(before) != len(rollouts):
        raise UserError(f"{len(before)} contexts for {len(rollouts)} rows", where="context")
    size = torch.tensor([len(b) for b in before], device=rollouts.ids.device)
    length = size + rollouts.length - rollouts.prompt_length
    for what, bad in (("is empty", size < 1), (f"and response exceed {context} tokens", length > (context or length))):
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            raise UserError(f"the text before the response {what}", where=f"context of row {row}")
    width = int(length.max())
    column = torch.arange(width, device=size.device)
    old = (column - size[:, None] + rollouts.prompt_length[:, None]).clamp(0, rollouts.ids.shape[1] - 1)
    inside = (column >= size[:, None]) & (column < length[:, None])
    prompt = torch.zeros(len(before), width, dtype=torch.int64)
    for row, ids in enumerate(before):
        prompt[row, : len(ids)] = torch.tensor(ids)
    ids = torch.where(inside, rollouts.ids.gather(1, old), prompt.to(size.device))
    action, forced = (inside & getattr(rollouts, k).gather(1, old) for k in ("action", "forced"))
    known = {k: getattr(rollouts, k) for k in ("group", "valid", "stop", "weight", "version")}
    return replace(Rollouts.of(ids, length, size, forced=forced, **known), action=action)


def back(x: Tensor, shown: Rollouts, original: Rollouts) -> Tensor:
    """A per-token stream of rows under other prompts, aligned to the original rows."""
    column = torch.arange(original.ids.shape[1], device=x.device)
    place = column - original.prompt_length[:, None] + shown.prompt_length[:, None]
    inside = (column >= original.prompt_length[:, None]) & (column < original.length[:, None])
    place = torch.where(inside, place, 0)
    index = place if x.ndim == 2 else place[..., None].expand(*place.shape, x.shape[2])
    inside = inside if x.ndim == 2 else inside[..., None]
    return torch.where(inside, x.gather(1, index), 0.0)
