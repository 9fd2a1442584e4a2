"""What an evaluation reports, computed from what was sampled and graded: plain numbers with intervals over prompts.

The prompt is the unit everywhere: the samples of one prompt are averaged first. What is invalid is left out and
counted; it is never 0. Leaves out: sampling and grading (`evaluate`), the statistics themselves (`stats`).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steersman import stats
from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, Rollouts
from steersman.objective.divergence import kl_value
from steersman.recipes.evaluate_judges import Judged
from steersman.reward.verifiable import Graded
from steersman.stats import Interval

Array = npt.NDArray[np.float64]
SEED = 0
"""Of the bootstraps: the same samples give the same intervals."""


def accuracy(correct: Array, prompts: int) -> dict[str, Any]:
    """Accuracy and pass@k.

    Args:
        correct: ``[N]`` 1 or 0, NaN where invalid, the samples of a prompt one behind the other.
        prompts: number of prompts, P.

    Returns:
        `accuracy`: mean over prompts of the share of their valid samples that is correct, with its interval (Wilson's
        where every prompt has one sample, else a bootstrap over prompts). `pass_at_k`: a list for k = 1, 2, 4 ... up to
        the samples of a prompt, each with the number of prompts that have k valid samples.
    """
    table = _table(correct, prompts)
    valid, right = (~np.isnan(table)).sum(1), np.nansum(table, 1)
    curve = []
    for k in powers(table.shape[1]):
        rows = valid >= k
        if rows.any():
            value = stats.pass_at_k(valid[rows], right[rows], k)
            curve.append({"k": k, **_shown(stats.share_interval(value, seed=SEED)), "prompts": int(rows.sum())})
    return {"accuracy": _share(correct, prompts), "pass_at_k": curve}


def mean_score(value: Array, prompts: int) -> dict[str, Any] | None:
    """Mean over prompts of the mean score of their valid samples; None where nothing is valid."""
    means = _means(value, prompts)
    return None if means is None else {**_shown(stats.bootstrap(means, seed=SEED)), "prompts": len(means)}


def graded(what: Graded, prompts: int) -> dict[str, Any]:
    """Everything that a grader's verdicts say: accuracy if it says what is correct, scores, statuses, invalid rows."""
    scores = what.scores
    found: dict[str, Any] = {"score": mean_score(_numbers(scores.value, scores.valid), prompts)}
    if "correct" in scores.parts:
        found |= accuracy(_numbers(scores.parts["correct"], scores.valid), prompts)
    if "format_ok" in scores.parts:
        found["format_ok"] = _share(_numbers(scores.parts["format_ok"], scores.valid), prompts)
    return found | {"status": what.counts()}


def lengths(rollouts: Rollouts) -> dict[str, Any]:
    """Tokens of the responses, and the share that ended by itself."""
    n = (rollouts.length - rollouts.prompt_length).double().numpy()
    middle, high = np.quantile(n, [0.5, 0.95])
    return {
        "mean": float(n.mean()),
        "median": float(middle),
        "p95": float(high),
        "most": int(n.max()),
        "ended": float((rollouts.stop == STOP_EOS).double().mean()),
    }


def best_of(ranking: Array, gold: Array, prompts: int, most: int) -> list[dict[str, Any]]:
    """The best-of-n curve for n = 1, 2, 4 ... and `most`.

    Args:
        ranking: ``[N]`` what the choice goes by, NaN where invalid.
        gold: ``[N]`` what the chosen response is worth, NaN where invalid.
        prompts: number of prompts.
        most: largest n, at most the samples of a prompt.

    Returns:
        for each n: `gold` and `ranking` of the chosen response with intervals over prompts, the number of prompts with
        n valid samples, and `kl` = log n - (n - 1) / n in nats.
    """
    ranks, values = _table(ranking, prompts), _table(gold, prompts)
    good = ~(np.isnan(ranks) | np.isnan(values))
    curve = []
    for n in dict.fromkeys([*powers(most), most]):
        rows = np.flatnonzero(good.sum(1) >= n)
        if not len(rows):
            continue
        pairs = [(ranks[p, good[p]], values[p, good[p]]) for p in rows]
        worth = np.array([stats.best_of_n(r, v, n) for r, v in pairs])
        chosen = np.array([stats.best_of_n(r, r, n) for r, _ in pairs])
        inside = bool((np.nan_to_num(values) >= 0).all() and (np.nan_to_num(values) <= 1).all())
        # Weights that should sum to 1 may miss it by rounding.
        interval = stats.share_interval(worth.clip(0, 1), seed=SEED) if inside else stats.bootstrap(worth, seed=SEED)
        curve.append(
            {"n": n, "kl": stats.kl_best_of_n(n), "gold": _shown(interval), "prompts": len(rows)}
            | {"ranking": _shown(stats.bootstrap(chosen, seed=SEED))}
        )
    return curve


def kl(logp: Tensor, logp_ref: Tensor, rollouts: Rollouts, prompts: int) -> dict[str, Any]:
    """KL(policy || reference) in nats on the policy's own samples, by k1 and by k3, a token and a response.

    A response's estimate is the sum over its tokens, a prompt's the mean over its responses; per token it is the sum
    over all tokens divided by their number. Both estimators are unbiased; k1 can be negative, k3 cannot.

    Args:
        logp, logp_ref: ``[N, L]`` of the tokens drawn.
        rollouts: the samples.
        prompts: number of prompts.
    """
    tokens = _table(rollouts.action.sum(1).double().numpy(), prompts).sum(1)
    found: dict[str, Any] = {}
    for name in ("k1", "k3"):
        value = torch.where(rollouts.action, kl_value(logp.double(), logp_ref.double(), name), 0.0).sum(1)
        table = _table(value.numpy(), prompts)
        found[name] = {
            "per_response": _shown(stats.bootstrap(table.mean(1), seed=SEED)),
            "per_token": _shown(stats.ratio_bootstrap(table.sum(1), tokens, seed=SEED)),
        }
    return found | {"tokens": int(tokens.sum())}


def win_rate(judged: Judged, prompts: int, length: Array, other_length: Array) -> dict[str, Any]:
    """Win rate of the first side, plain and at equal length, with the tests and counts beside it.

    Args:
        judged: verdicts on N pairs, those of a prompt one behind the other.
        prompts: number of prompts.
        length, other_length: ``[N]`` characters of both sides.
    """
    table = _table(judged.outcome, prompts)
    found = ~np.isnan(table).all(1)
    valid = ~np.isnan(judged.outcome)
    counts = {k: int((judged.outcome == v).sum()) for k, v in (("wins", 1.0), ("ties", 0.5), ("losses", 0.0))}
    result: dict[str, Any] = {**counts, "invalid": int((~valid).sum()), "win_rate": None, "prompts": int(found.sum())}
    if not found.any():
        return result
    share = np.nanmean(table[found], 1)
    won, lost = int((share > 0.5).sum()), int((share < 0.5).sum())
    single = table.shape[1] == 1
    # One verdict a prompt: stats.win_rate, which knows what to do where all prompts ended alike.
    interval = (
        stats.win_rate(won, len(share) - won - lost, lost, seed=SEED)
        if single
        else stats.share_interval(share, seed=SEED)
    )
    test = stats.sign_test(won, lost)
    flips = None if judged.flipped is None else float(judged.flipped[valid].mean())
    gap = np.where(valid, length - other_length, np.nan)
    return result | {
        "win_rate": _shown(interval),
        "sign_test": {"prompts_won": won, "prompts_lost": lost, "p": test.p_value},
        "flip_rate": flips,
        "length_controlled": _length_controlled(share, np.nanmean(_table(gap, prompts)[found], 1)),
    }


def _share(values: Array, prompts: int) -> dict[str, Any] | None:
    means = _means(values, prompts)
    return None if means is None else {**_shown(stats.share_interval(means, seed=SEED)), "prompts": len(means)}


def powers(most: int) -> list[int]:
    """1, 2, 4 ... up to `most`."""
    return [2**i for i in range(most.bit_length())]


def _length_controlled(share: Array, gap: Array) -> dict[str, Any]:
    try:
        found = stats.length_controlled_win_rate(share, gap)
    except UserError as error:
        return {"win_rate": None, "why": error.what}
    return {"win_rate": _shown(found.win_rate), "slope_per_character": found.slope}


def _table(values: Array, prompts: int) -> Array:
    """``[N]`` as ``[P, samples]``."""
    return np.asarray(values, np.float64).reshape(prompts, -1)


def _means(values: Array, prompts: int) -> Array | None:
    """Mean of each prompt's valid samples, of the prompts that have any."""
    table = _table(values, prompts)
    table = table[~np.isnan(table).all(1)]
    return np.nanmean(table, 1) if len(table) else None


def _numbers(values: Tensor, valid: Tensor) -> Array:
    return np.where(valid.cpu().numpy(), values.double().cpu().numpy(), np.nan)


def numbers(scores: Any) -> Array:
    """A grader's scores as float64 ``[N]``, NaN where invalid."""
    return _numbers(scores.value, scores.valid)


def correct_or_score(what: Graded) -> Array:
    """What a response is worth to the task: whether it is correct, or its score where nobody says; NaN = invalid."""
    scores = what.scores
    return _numbers(scores.parts.get("correct", scores.value), scores.valid)


def characters(texts: Sequence[str]) -> Array:
    """Characters of each text."""
    return np.array([len(t) for t in texts], np.float64)


def _shown(found: Interval) -> dict[str, Any]:
    ends = [x if math.isfinite(x) else None for x in (found.low, found.high)]
    return {"value": found.value, "low": ends[0], "high": ends[1], "method": found.method}
