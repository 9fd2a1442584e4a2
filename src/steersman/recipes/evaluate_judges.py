"""Which of two responses is the better one, and how good each one is: reward models, scores, functions of the user.

A judge that is a function is asked in both orders; where the orders disagree the pair is a tie, counted as a flip.
Scores are given to each response alone, so that no order can matter. A judge that failed gives no verdict, never a tie.
Leaves out: intervals and win rates (`evaluate_measures`). Source: Zheng et al. 2023, arXiv 2306.05685, for both orders.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steersman.core.config import import_object
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import STOP_EOS, Rollouts, Scores
from steersman.language.encode import Truncation, encode_completions
from steersman.language.load import context_length, load_tokenizer
from steersman.language.records import Completion
from steersman.reward.model import check_reward_folder, load_reward_model
from steersman.reward.time_limit import Outcome, TimedFunction

VERDICTS = ("a", "b", "tie")
MAX_INVALID = 0.1
"""Share of pairs without a verdict above which an evaluation stops."""
_FUNCTION = re.compile(r"[\w.]+:\w+")
Tick = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts on N pairs.

    Args:
        outcome: ``[N]`` 1 = the first is better, 0.5 = a tie, 0 = the second is; NaN = no verdict.
        flipped: ``[N]`` whether the orders disagreed; None where order cannot matter.
        errors: row -> why there is no verdict.
    """

    outcome: "np.ndarray[Any, Any]"
    flipped: "np.ndarray[Any, Any] | None" = None
    errors: dict[int, str] = field(default_factory=dict)


def is_function(name: str) -> bool:
    """Whether a judge or ranking is written ``package.module:function``."""
    return _FUNCTION.fullmatch(name) is not None


def check_judge(name: str, where: str, allow_import: Sequence[str], turns: bool) -> None:
    """Refuse a function that may not be imported, or a folder that cannot score, before anything is sampled.

    Args:
        name: ``package.module:function``, or a reward model's folder.
        where: the option to name in messages.
        allow_import: packages that may be imported.
        turns: whether prompts are conversations, or become such.
    """
    if is_function(name):
        if not callable(import_object(name, allow_import, where=where)):
            raise UserError(f"{name!r} cannot be called", where=where)
        return
    folder = Path(name)
    if not folder.is_dir():
        allowed = "a reward model's folder, or package.module:function"
        raise UserError(f"{name!r} is no folder", where=where, allowed=allowed)
    if not (folder / "reward.json").is_file():
        cure = "Train one with `steersman train reward`."
        raise UserError("is not a reward model's folder (no reward.json)", where=f"{where} {name}", cure=cure)
    check_reward_folder(folder)
    if turns and not getattr(load_tokenizer(folder), "chat_template", None):
        what = "prompts are conversations, but the reward model's tokenizer has no chat template"
        raise UserError(what, where=f"{where} {name}")


def by_scores(first: Scores, second: Scores) -> Judged:
    """The higher score wins, equal scores tie; a pair with an invalid side has no verdict."""
    a, b = first.value.double().cpu().numpy(), second.value.double().cpu().numpy()
    valid = (first.valid & second.valid).cpu().numpy()
    outcome = np.where(valid, (1 + np.sign(a - b)) / 2, np.nan)
    errors = {i: first.errors.get(i) or second.errors.get(i) or "not graded" for i in np.flatnonzero(~valid).tolist()}
    return Judged(outcome, None, errors)


def by_function(
    name: str, time_limit: float, prompts: Sequence[Any], first: Sequence[str], second: Sequence[str], tick: Tick
) -> Judged:
    """Ask the user's ``judge(prompt, a, b) -> "a" | "b" | "tie"`` of each pair in both orders.

    Args:
        name: ``package.module:function``; it runs in a process of its own.
        time_limit: seconds a call may take.
        prompts: text, or a list of turns, of each pair.
        first, second: the texts compared.
        tick: told of each pair judged.

    Raises:
        UserError: it answered something else; names the pair.
        RunStopped: it failed on more than the share `MAX_INVALID` of the pairs.
    """
    judge = TimedFunction(name, time_limit)
    n = len(prompts)
    outcome, flipped, errors = np.full(n, np.nan), np.zeros(n, bool), {}
    try:
        for i, (prompt, a, b) in enumerate(zip(prompts, first, second, strict=True)):
            there, back = judge([prompt, a, b]), judge([prompt, b, a])
            failed = next((x for x in (there, back) if x.kind != "value"), None)
            if failed is not None:
                errors[i] = f"{name} {'raised ' if failed.kind == 'raised' else ''}{failed.reason}"
                _stop_above_limit(errors, n)
            else:
                plain, swapped = _said(there, name, i), 1 - _said(back, name, i)
                flipped[i] = plain != swapped
                outcome[i] = 0.5 if flipped[i] else plain
            tick(1)
    finally:
        judge.close()
    return Judged(outcome, flipped, errors)


def _said(outcome: Outcome, name: str, pair: int) -> float:
    if not isinstance(outcome.value, str) or outcome.value not in VERDICTS:
        raise UserError(
            f"answered {str(outcome.value)[:60]!r}", where=f"{name}, pair {pair}", allowed='"a", "b", "tie"'
        )
    return {"a": 1.0, "b": 0.0, "tie": 0.5}[outcome.value]


def _stop_above_limit(errors: dict[int, str], n: int) -> None:
    if len(errors) > MAX_INVALID * n:
        first = "; ".join(f"pair {i}: {reason}" for i, reason in list(errors.items())[:3])
        raise RunStopped(f"the judge failed on {len(errors)} of {n} pairs ({first})")


def score_texts(
    folder: Path, prompts: Sequence[Any], rollouts: Rollouts, texts: Sequence[str], chat: bool, device: torch.device
) -> Scores:
    """Scores of a reward model that reads text with its own tokenizer; rows beyond its context are invalid.

    Args:
        folder: the reward model.
        prompts: text or turns of each row.
        rollouts: the rows; what they say of `valid` and `stop` counts: only a response that ended has an end token.
        texts: the responses.
        chat: whether a text prompt is a user's turn.
        device: where to score.
    """
    model, tokenizer = load_reward_model(folder), load_tokenizer(folder)
    rows = [_row(i, p, t, chat) for i, (p, t) in enumerate(zip(prompts, texts, strict=True))]
    cut = Truncation(kind="drop")
    encoded = encode_completions(rows, tokenizer, cut, context=context_length(model.model.config), where=str(folder))
    kept = torch.tensor([row.line for row in encoded.rows])
    ended = (rollouts.stop[kept] == STOP_EOS).to(torch.int64)
    shorter = encoded.data.length - 1 + ended
    scored = _scored(model, Rollouts.of(encoded.data.ids, shorter, encoded.data.prompt_length), device)
    value, valid = torch.full((len(rows),), torch.nan), torch.zeros(len(rows), dtype=torch.bool)
    value[kept], valid[kept] = scored.value, scored.valid
    errors = dict.fromkeys(set(range(len(rows))) - set(kept.tolist()), "longer than the reward model's context")
    errors |= {int(kept[i]): reason for i, reason in scored.errors.items()}
    return _only_valid(Scores(value, valid, {}, errors), rollouts)


def _row(i: int, prompt: Any, text: str, chat: bool) -> Completion:
    if isinstance(prompt, str) and not chat:
        return Completion(i, prompt, text)
    turns = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
    return Completion(i, turns, ({"role": "assistant", "content": text},))


def _scored(model: Any, rollouts: Rollouts, device: torch.device) -> Scores:
    found = replace(model, model=model.model.to(device))(rollouts.to(device))
    return Scores(found.value.cpu(), found.valid.cpu(), {}, found.errors)


def _only_valid(scores: Scores, rollouts: Rollouts) -> Scores:
    valid = scores.valid & rollouts.valid
    return Scores(torch.where(valid, scores.value, torch.nan), valid, {}, scores.errors)
