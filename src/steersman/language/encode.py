"""Rows of text to `Rollouts` and `Pairs`, under a stated truncation policy that counts what it did.

Prompt and response are tokenised separately and their ids joined, so the boundary is exact and the prompt's ids are
those a sampler would start from; tokenising the joined text can merge the last prompt letters with the first of the
response. A response ends with the tokenizer's end-of-sequence token (never doubled); one cut on the right has none and
its `stop` is STOP_LENGTH. A prompt begins with the tokenizer's beginning-of-sequence token where the tokenizer itself
would put one; an empty prompt becomes that token, or the end-of-sequence token where there is none (GPT-2's start of a
document), because the first token of a row has nothing that predicts it. Leaves out: files (`records`), batches and
packing (`pack`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from steersman.core.component import Component
from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH, Pairs, Rollouts
from steersman.language.chat import render, split
from steersman.language.records import Completion, Pair, Rated, Text

Ids = list[int]
Lengths = npt.NDArray[np.int64]


class Truncation(Component):
    """What happens to a row that is too long.

    ``refuse``: an error that names the row. ``drop``: the row (the whole pair) is left out and counted.
    ``left_prompt``: the prompt loses tokens on the left, a leading beginning-of-sequence token excepted, equally for
    both sides of a pair; a response that leaves no room for one prompt token is dropped. ``right_completion``: the
    response loses tokens on the right, its end-of-sequence token first; a prompt that leaves no room for one response
    token, or exceeds `max_prompt_length`, is dropped.
    """

    kind: Literal["refuse", "drop", "left_prompt", "right_completion"] = "refuse"
    max_length: int | None = Field(default=None, ge=2, description="tokens of a row; None = the model's context")
    max_prompt_length: int | None = Field(
        default=None, ge=1, description="tokens of a prompt; None = no limit of its own"
    )


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """What encoding did: rows or pairs in and out, what was dropped or cut, and how many tokens came out.

    `dropped_identical` counts pairs whose sides have the same tokens (after cutting, if any); `inner_end` counts
    responses that hold an end-of-sequence token before their last token, usually a mistake in the data.
    """

    rows_in: int
    rows_out: int
    dropped_long: int = 0
    dropped_identical: int = 0
    truncated_prompt: int = 0
    truncated_completion: int = 0
    inner_end: int = 0
    tokens: int = 0
    longest: int = 0
    dropped_lines: tuple[int, ...] = ()


Row = TypeVar("Row", Completion, Pair, Rated)
Data = TypeVar("Data", Rollouts, Pairs)


@dataclass(frozen=True, slots=True)
class Encoded(Generic[Data, Row]):
    """Token rows, the text rows they came from (same order, only those kept), and what was done to them."""

    data: Data
    rows: tuple[Row, ...]
    report: EncodeReport

    def column(self, name: str, default: float = float("nan")) -> Tensor:
        """A column of the rows (``flip_rate``, ``margin``, ``desirable`` ...) as float32 ``[N]``; None = `default`."""
        values = [getattr(row, name) for row in self.rows]
        return torch.tensor([default if v is None else float(v) for v in values], dtype=torch.float32)


def encode_completions(
    rows: Sequence[Completion] | Sequence[Rated],
    tokenizer: Any,
    truncation: Truncation = Truncation(),
    *,
    context: int | None = None,
    where: str | os.PathLike[str] = "rows",
) -> Encoded[Rollouts, Any]:
    """Encode prompts with one response each; completion tokens and their end-of-sequence token are the actions.

    Args:
        rows: records of `records.read_completions` or `records.read_rated`.
        tokenizer: a transformers tokenizer with an end-of-sequence token.
        truncation: what to do with long rows.
        context: the model's largest number of tokens, `load.context_length(model.config)`; None = no limit.
        where: the file's name for messages.

    Returns:
        `Rollouts` with `group` = place of the row among those kept and `weight` from the rows.

    Raises:
        UserError: no row left, a row too long under ``refuse``, a conversation without a chat template.
    """
    prompts, (responses,) = _tokenise(rows, ("completion",), tokenizer, where)
    plan = _plan(rows, prompts, [responses], truncation, context, tokenizer, where)
    prompts, (responses,) = _cut(prompts, [responses], plan, tokenizer)
    kept = tuple(rows[i] for i in plan.keep)
    weight = torch.tensor([row.weight for row in kept], dtype=torch.float32)
    rollouts = _rollouts(prompts, responses, plan.ended[0], weight, tokenizer).check()
    return Encoded(rollouts, kept, _report(rows, plan, [rollouts], 0, tokenizer))


def encode_pairs(
    rows: Sequence[Pair],
    tokenizer: Any,
    truncation: Truncation = Truncation(),
    *,
    context: int | None = None,
    where: str | os.PathLike[str] = "rows",
) -> Encoded[Pairs, Pair]:
    """Encode preference pairs; both sides keep the same prompt tokens. Arguments and errors as `encode_completions`.

    Pairs whose sides have the same tokens, possibly only after cutting, carry no preference: dropped and counted.
    """
    prompts, sides = _tokenise(rows, ("chosen", "rejected"), tokenizer, where)
    plan = _plan(rows, prompts, sides, truncation, context, tokenizer, where)
    prompts, (first, second) = _cut(prompts, sides, plan, tokenizer)
    differ = [i for i in range(len(first)) if first[i] != second[i]]
    if not differ:
        raise UserError("every pair has identical sides after encoding", where=str(where))
    kept = tuple(rows[plan.keep[i]] for i in differ)
    weight = torch.tensor([row.weight for row in kept], dtype=torch.float32)
    one, two = (
        _rollouts([prompts[i] for i in differ], [side[i] for i in differ], ended[differ], weight, tokenizer)
        for side, ended in zip((first, second), plan.ended, strict=True)
    )
    pairs = Pairs(one, two, torch.tensor([row.label for row in kept], dtype=torch.float32)).check()
    return Encoded(pairs, kept, _report(rows, plan, [one, two], len(first) - len(differ), tokenizer))


def encode_prompts(
    prompts: Sequence[Text | Sequence[int]],
    tokenizer: Any,
    *,
    max_prompt_length: int | None = None,
    where: str | os.PathLike[str] = "prompts",
    places: Sequence[str] | None = None,
) -> list[Ids]:
    """Token ids of prompts to sample from, exactly as the encoders above begin their rows.

    Args:
        prompts: texts, conversations, or token ids, which are taken as they are; the three may be mixed.
        tokenizer: a transformers tokenizer.
        max_prompt_length: most tokens of a prompt; None = no limit.
        where: what to call the source in messages.
        places: what to call each prompt in messages, ``[P]``; None = `where` and its row number.

    Raises:
        UserError: a prompt longer than `max_prompt_length`, by place; a conversation without a turn or without a chat
            template; ids that are no token ids.
    """
    named = [f"{where}, row {i}" for i in range(len(prompts))] if places is None else list(places)
    given = {i: check_ids(p, named[i]) for i, p in enumerate(prompts) if not isinstance(p, str) and _is_ids(p)}
    texts = ["" if i in given else _prompt_text(p, tokenizer, named[i]) for i, p in enumerate(prompts)]
    plain = [isinstance(p, str) for p in prompts]
    begun = _begin(_ids(tokenizer, texts), plain, tokenizer)
    ids = [given.get(i, row) for i, row in enumerate(begun)]
    for i, row in enumerate(ids):
        if max_prompt_length is not None and len(row) > max_prompt_length:
            what = f"the prompt has {len(row)} tokens"
            raise UserError(what, where=named[i], allowed=f"at most {max_prompt_length}")
    return ids


def _prompt_text(prompt: Any, tokenizer: Any, where: str) -> str:
    if isinstance(prompt, str):
        return prompt
    if not prompt:
        raise UserError("is a conversation without a turn", where=where)
    return render(tokenizer, prompt, generation_prompt=True, where=where)


def _is_ids(prompt: Sequence[Any]) -> bool:
    return len(prompt) > 0 and not isinstance(prompt[0], dict)


def check_ids(prompt: Sequence[Any], where: str) -> Ids:
    """Token ids as a list; anything but whole numbers >= 0 is refused with `where`."""
    if bad := [x for x in prompt if isinstance(x, bool) or not isinstance(x, int) or x < 0]:
        what = f"holds {bad[0]!r}, which is no token id"
        raise UserError(what, where=where, allowed="text, a conversation, or whole numbers >= 0")
    return list(prompt)


def _ids(tokenizer: Any, texts: list[str]) -> list[Ids]:
    if not texts:
        return []
    found = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    return list(found["input_ids"])


def _begin(prompts: list[Ids], plain: list[bool], tokenizer: Any) -> list[Ids]:
    """Put the beginning-of-sequence token before plain prompts where the tokenizer would, and fill empty prompts."""
    bos = tokenizer.bos_token_id
    adds = bos is not None and (tokenizer("", add_special_tokens=True)["input_ids"] or [None])[0] == bos
    start = bos if bos is not None else tokenizer.eos_token_id
    out = [[bos, *p] if adds and is_plain and p[:1] != [bos] else p for p, is_plain in zip(prompts, plain, strict=True)]
    return [p or [start] for p in out]


def _tokenise(
    rows: Sequence[Any], names: tuple[str, ...], tokenizer: Any, where: str | os.PathLike[str]
) -> tuple[list[Ids], list[list[Ids]]]:
    """Prompt ids ``[N]`` and, for each name, response ids ``[N]`` ending in exactly one end-of-sequence token."""
    if not rows:
        raise UserError("there are no rows to encode", where=str(where))
    before: list[str] = []
    after: list[list[str]] = [[] for _ in names]
    for row in rows:
        for texts, name in zip(after, names, strict=True):
            prompt, response = row.prompt, getattr(row, name)
            if not isinstance(prompt, str):
                prompt, response = split(tokenizer, prompt, response, where=f"{where}, line {row.line}")
            texts.append(response)
        before.append(prompt)
    prompts = _begin(_ids(tokenizer, before), [isinstance(row.prompt, str) for row in rows], tokenizer)
    eos = tokenizer.eos_token_id
    return prompts, [[x if x and x[-1] == eos else [*x, eos] for x in _ids(tokenizer, texts)] for texts in after]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Rows kept, the prompt and response lengths they keep, and whether each response keeps its end."""

    keep: Lengths
    prompt: Lengths
    response: list[Lengths]
    ended: list[npt.NDArray[np.bool_]]
    cut_prompt: int
    cut_response: int


def _plan(
    rows: Sequence[Any],
    prompts: list[Ids],
    sides: list[list[Ids]],
    truncation: Truncation,
    context: int | None,
    tokenizer: Any,
    where: str | os.PathLike[str],
) -> _Plan:
    """Apply a truncation policy to lengths alone."""
    kind, most = truncation.kind, _limit(truncation, context)
    p = np.array([len(x) for x in prompts], np.int64)
    c = [np.array([len(x) for x in side], np.int64) for side in sides]
    longest = np.max(c, axis=0)
    most_prompt = most if truncation.max_prompt_length is None else truncation.max_prompt_length
    long = (p + longest > most) | (p > most_prompt)
    new_p, new_c = p.copy(), c
    if kind == "refuse":
        if long.any():
            _refuse(rows, p, longest, int(long.argmax()), most, most_prompt, where)
    elif kind == "left_prompt":
        new_p = np.minimum(np.minimum(p, most_prompt), most - longest)
        long = new_p < 1
    elif kind == "right_completion":
        new_c = [np.minimum(x, most - p) for x in c]
        long = (p >= most) | (p > most_prompt)
    keep = np.flatnonzero(~long)
    if not len(keep):
        cure = "Raise truncation.max_length, or choose another truncation.kind."
        raise UserError(f"all {len(rows)} rows are longer than {most} tokens", where=str(where), cure=cure)
    ended = [new[keep] == old[keep] for new, old in zip(new_c, c, strict=True)]
    cut_response = int((~np.all(ended, axis=0)).sum())
    return _Plan(keep, new_p[keep], [x[keep] for x in new_c], ended, int((new_p < p)[keep].sum()), cut_response)


def _limit(truncation: Truncation, context: int | None) -> int:
    """Tokens a row may have: the smaller of the policy's and the model's, or no limit at all."""
    if truncation.max_length is not None and context is not None and truncation.max_length > context:
        what = f"is {truncation.max_length} but the model accepts {context} tokens"
        raise UserError(what, where="truncation.max_length", allowed=f"at most {context}")
    return truncation.max_length or context or int(np.iinfo(np.int64).max // 4)


def _refuse(
    rows: Sequence[Any], p: Lengths, c: Lengths, i: int, most: int, most_prompt: int, where: str | os.PathLike[str]
) -> None:
    if p[i] > min(most, most_prompt):
        what = f"the prompt has {p[i]} tokens, more than {min(most, most_prompt)}"
    else:
        what = f"prompt and response have {p[i]} + {c[i]} tokens, more than {most}"
    cure = 'Choose truncation.kind = "drop", "left_prompt" or "right_completion", or a longer limit.'
    raise UserError(what, where=f"{where}, line {rows[i].line}", cure=cure)


def _cut(prompts: list[Ids], sides: list[list[Ids]], plan: _Plan, tokenizer: Any) -> tuple[list[Ids], list[list[Ids]]]:
    bos = tokenizer.bos_token_id
    out: list[Ids] = []
    for i, n in zip(plan.keep.tolist(), plan.prompt.tolist(), strict=True):
        ids = prompts[i]
        if n == len(ids):
            out.append(ids)
        elif bos is not None and ids[0] == bos and n > 1:
            out.append([bos, *ids[len(ids) - n + 1 :]])
        else:
            out.append(ids[len(ids) - n :])
    cut = [
        [side[i][:n] for i, n in zip(plan.keep.tolist(), length.tolist(), strict=True)]
        for side, length in zip(sides, plan.response, strict=True)
    ]
    return out, cut


def _rollouts(
    prompts: list[Ids], responses: list[Ids], ended: npt.NDArray[np.bool_], weight: Tensor, tokenizer: Any
) -> Rollouts:
    prompt_length = torch.tensor([len(x) for x in prompts])
    length = prompt_length + torch.tensor([len(x) for x in responses])
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = torch.full((len(prompts), int(length.max())), pad, dtype=torch.int64)
    flat = chain.from_iterable(chain.from_iterable(zip(prompts, responses, strict=True)))
    real = torch.arange(ids.shape[1]) < length[:, None]
    ids[real] = torch.from_numpy(np.fromiter(flat, np.int64, int(length.sum())))
    stop = torch.where(torch.from_numpy(ended), STOP_EOS, STOP_LENGTH)
    return Rollouts.of(ids, length, prompt_length, stop=stop, weight=weight)


def _report(rows: Sequence[Any], plan: _Plan, sides: list[Rollouts], identical: int, tokenizer: Any) -> EncodeReport:
    kept = set(plan.keep.tolist())
    inner = [(x.action & (x.ids == tokenizer.eos_token_id)).sum(1) > (x.stop == STOP_EOS) for x in sides]
    return EncodeReport(
        rows_in=len(rows),
        rows_out=len(sides[0]),
        dropped_long=len(rows) - len(plan.keep),
        dropped_identical=identical,
        truncated_prompt=plan.cut_prompt,
        truncated_completion=plan.cut_response,
        inner_end=sum(int(x.sum()) for x in inner),
        tokens=sum(int(x.length.sum()) for x in sides),
        longest=max(int(x.length.max()) for x in sides),
        dropped_lines=tuple(row.line for i, row in enumerate(rows) if i not in kept),
    )
