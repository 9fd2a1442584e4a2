"""Rows of ``samples.jsonl``: a few responses of a training step with their tokens and what the step made of each token.

A row is small: the prompt is there as text only, of a long response the first tokens only, and a stream with one value
at all tokens is that value. Leaves out: which rows are shown and when (`rl`), the page (`run_page`).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from steersman.core.types import Rollouts
from steersman.objective.select.tokens import in_loss
from steersman.page.tokens import Sample, StreamInfo, View
from steersman.task.world import World
from steersman.train.token_streams import described, reader_streams

MOST_TOKENS = 512
"""Tokens of a response of which streams are written."""
_LOGPS = ("logp_old", "logp_behaviour", "logp_ref", "logp_teacher", "logp_teacher_wrong")
STREAMS_SHOWN = ("advantage", "token_weight", "entropy", "divergence", *_LOGPS)
DIGITS = 5


def sample_rows(few: Rollouts, world: World, step: int) -> list[dict[str, Any]]:
    """Rows of ``samples.jsonl``.

    Args:
        few: the responses, with the streams there are.
        world: puts token ids into text.
        step: number of the step they belong to.

    Returns:
        For each: step, group, prompt, response; reward, correct, answer where known; ``advantage`` (mean over its
        tokens) and ``tokens``; then of its first tokens ``ids``, ``pieces`` (their texts), ``kept`` (whether the policy
        loss counts them) and ``streams`` (a value a token, or one value for all of them; null where there is none).
    """
    few = replace(few, streams={k: x.detach() for k, x in few.streams.items()}).to("cpu")
    advantage = few.streams.get("advantage", torch.zeros(few.ids.shape))
    tokens = few.action.sum(1).clamp(min=1)
    streams = {k: x for k in STREAMS_SHOWN if (x := few.streams.get(k)) is not None}
    if few.logp_behaviour is not None:
        streams["logp_behaviour"] = few.logp_behaviour
    first = replace(few, length=torch.minimum(few.length, few.prompt_length + MOST_TOKENS))
    loss, pieces, rows = in_loss(few), world.pieces(first), []
    for i, (prompt, response) in enumerate(world.texts(few)):
        row: dict[str, Any] = {"step": step, "group": int(few.group[i]), "prompt": prompt, "response": response}
        row |= {"reward": _rounded(few.reward[i])} if few.reward is not None else {}
        row |= {"correct": bool(few.correct[i])} if few.correct is not None else {}
        row |= {"answer": few.answer[i]} if few.answer is not None else {}
        row |= {"advantage": float(advantage[i].sum() / tokens[i]), "tokens": int(tokens[i])}
        begin = int(few.prompt_length[i])
        part = slice(begin, min(int(few.length[i]), begin + MOST_TOKENS))
        action = few.action[i, part]
        row |= {"ids": few.ids[i, part].tolist(), "pieces": pieces[i][part]}
        row |= {"kept": _short(loss[i, part].long().tolist())}
        rows.append(row | {"streams": {k: _values(x[i, part], action) for k, x in streams.items()}})
    return rows


def _rounded(x: Tensor) -> float | None:
    """A number of `DIGITS` digits; NaN, which an ungraded row has, is missing."""
    return float(f"{float(x):.{DIGITS}g}") if bool(torch.isfinite(x)) else None


def _values(x: Tensor, action: Tensor) -> Any:
    return _short([_rounded(v) if a else None for v, a in zip(x, action.tolist(), strict=True)])


def _short(values: list[Any]) -> Any:
    """One value in place of a list of equal ones."""
    return values[0] if values and all(v == values[0] for v in values) else values


def _long(values: Any, n: int) -> list[Any]:
    return values if isinstance(values, list) else [values] * n


def _tensor(values: Sequence[float | None]) -> Tensor:
    """One row, float64, NaN where there is no value."""
    return torch.tensor([[math.nan if v is None else v for v in values]], dtype=torch.float64)


def run_samples(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[Sample, ...], tuple[StreamInfo, ...]]:
    """The rows of a run's ``samples.jsonl`` as samples of a page, the last steps first.

    Args:
        rows: as `sample_rows` wrote them; those without tokens, of an older version, are left out.
    """
    shown = sorted((r for r in rows if "pieces" in r), key=lambda r: -r["step"])
    number: Counter[int] = Counter()
    samples = []
    for row in shown:
        number[row["step"]] += 1
        samples.append(_sample(row, f"step {row['step']}, response {number[row['step']]}"))
    return tuple(samples), described(k for s in samples for v in s.views for k in v.streams)


def _sample(row: Mapping[str, Any], title: str) -> Sample:
    n = len(row["pieces"])
    before = 1 if row["prompt"] else 0  # the prompt's text stands as one token
    kept = torch.tensor([_long(row["kept"], n)]).bool()
    given = {k: _tensor(_long(x, n)) for k, x in row["streams"].items()}
    reward = None if row.get("reward") is None else _tensor([row["reward"]])[0]
    found = reader_streams(given, kept, reward=reward)
    streams = {
        k: (None,) * before + tuple(None if math.isnan(v) else v for v in x[0].tolist()) for k, x in found.items()
    }
    dropped = (False,) * before + tuple(not k for k in kept[0].tolist())
    notes = [("reward", "not graded" if row["reward"] is None else f"{row['reward']:g}")] if "reward" in row else []
    notes += [("correct", "yes" if row["correct"] else "no")] if "correct" in row else []
    notes += [("answer", row["answer"] or "none")] if "answer" in row else []
    more = row["tokens"] - n
    return Sample(
        title,
        (*([row["prompt"]] if before else []), *row["pieces"]),
        before,
        (View("run", streams, dropped),),
        caption=f"{more:,} more tokens are in the run's samples.jsonl, as text." if more > 0 else "",
        notes=tuple(notes),
        group=f"{row['step']}/{row['group']}",
    )
