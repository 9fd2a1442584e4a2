"""What several samples of one problem say: the chance that at least one of k succeeds, the value of the best of N.

Leaves out: intervals over problems (`resampling.bootstrap` of the per-problem values).
Sources: Chen et al. 2021, arXiv 2107.03374 (pass@k); Nakano et al. 2021, arXiv 2112.09332, appendix I (best of N).
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.stats import checks


def pass_at_k(n: Any, c: Any, k: int) -> Any:
    """Unbiased estimate of the chance that at least one of k samples is correct, from n >= k samples.

    pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n - c + 1}^{n} (1 - k / i), as a sum of logarithms.

    Args:
        n: samples of a problem; a number, or one for each problem ``[P]``.
        c: how many of them are correct, 0 <= c <= n; shaped like n, or one of the two a number.
        k: 1 <= k <= n.

    Returns:
        A float for numbers, else float64 ``[P]``; averaging them over problems keeps them unbiased.

    Raises:
        UserError: counts that are not whole, c > n, k > n or k < 1, lengths that differ; names the row.

    Edge cases: c = 0 gives exactly 0; n - c < k gives exactly 1; k = 1 gives c / n. The plug-in 1 - (1 - c / n)^k is
    biased downwards and not offered.

    Source: arXiv 2107.03374, equation 1.
    """
    k = checks.whole("k", k, least=1)
    if np.ndim(n) == 0 and np.ndim(c) == 0:
        return _pass_at_k(checks.whole("n", n), checks.whole("c", c), k, "pass_at_k")
    if np.ndim(n) > 1 or np.ndim(c) > 1:
        raise UserError("n and c have more than one dimension", where="pass_at_k", allowed="numbers or [P]")
    total, correct = np.atleast_1d(n), np.atleast_1d(c)
    if len(total) != len(correct) and np.ndim(n) == np.ndim(c):
        checks.same_length("n", total, "c", correct)
    total, correct = np.broadcast_arrays(total, correct)
    if total.size == 0:
        raise UserError("is empty", where="pass_at_k", allowed="at least one problem")
    rows = zip(total.tolist(), correct.tolist(), strict=True)
    values = []
    for row, (a, b) in enumerate(rows):
        where = f"row {row}"
        values.append(_pass_at_k(checks.whole(f"n, {where}", a), checks.whole(f"c, {where}", b), k, where))
    return np.array(values)


def _pass_at_k(n: int, c: int, k: int, where: str) -> float:
    if c > n:
        raise UserError(f"{c} correct of {n} samples", where=where, allowed="c <= n")
    if k > n:
        raise UserError(f"k is {k} with {n} samples", where=where, allowed="k <= n", cure="Draw more samples.")
    if n - c < k:
        return 1.0
    return float(-np.expm1(np.log1p(-k / np.arange(n - c + 1, n + 1)).sum())) + 0.0


def best_of_n(ranking: Any, value: Any, n: int) -> float:
    """Unbiased estimate of the value of the sample that ranks highest among n, from M >= n samples of one problem.

    E = sum_i C(i - 1, n - 1) / C(M, n) * value_(i), where i = 1 .. M orders the samples by ranking: the mean over all
    subsets of n samples of the value of each subset's best-ranked one.

    Args:
        ranking: ``[M]`` what the choice goes by, e.g. a reward model's scores; finite.
        value: ``[M]`` what the chosen sample is worth, e.g. 1 where its answer is right; finite.
        n: samples to choose from, 1 <= n <= M.

    Returns:
        The estimate, in the unit of `value`.

    Raises:
        UserError: n out of range, empty input, values that are not finite, lengths that differ; names the row.

    Edge cases: of equal rankings the sample drawn first is chosen. n = 1 is the mean of `value`, n = M the value of the
    best-ranked sample.

    Source: arXiv 2112.09332, appendix I.
    """
    n = checks.whole("n", n, least=1)
    ranks, values = checks.array("ranking", ranking), checks.array("value", value)
    checks.same_length("ranking", ranks, "value", values)
    m = len(ranks)
    if n > m:
        raise UserError(f"n is {n} with {m} samples", where="best_of_n", allowed="n <= M", cure="Draw more samples.")
    order = np.lexsort((-np.arange(m), ranks))
    return float(_chosen(m, n) @ values[order])


@lru_cache(maxsize=64)
def _chosen(m: int, n: int) -> np.ndarray:
    """For each rank of m, lowest first, the share of subsets of n of which it is the best."""
    subsets = math.comb(m, n)
    return np.array([math.comb(i, n - 1) / subsets for i in range(m)])


def kl_best_of_n(n: int) -> float:
    """KL of the best of n samples to the policy they come from, in nats: log n - (n - 1) / n.

    Args:
        n: samples to choose from, >= 1.

    Edge cases: exact where rankings have no ties and each sample's probability is negligible, else an upper bound.

    Source: Stiennon et al. 2020, arXiv 2009.01325, appendix G.3; Beirami et al. 2024, arXiv 2401.01879 (the bound).
    """
    n = checks.whole("n", n, least=1)
    return math.log(n) - (n - 1) / n
