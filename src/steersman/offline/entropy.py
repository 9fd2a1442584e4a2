"""Entropies of what a policy sees, and how far an estimate from N samples is from them.

All in nats. Leaves out: the measures of a dataset (`measure`).
Source: Schweighofer et al. 2022, eq. (1) to (5) and app. A.2; the bias of the naive estimate is Harris 1975.
"""

import math

import numpy as np

from steersman.core.errors import UserError

_WHOLE = 1e-9
"""How far probabilities may be from summing to one."""


def entropy(p: np.ndarray) -> float:
    """H(p) = -sum p log p over p > 0.

    Args:
        p: probabilities of any shape that sum to one.

    Raises:
        UserError: negative or not finite values, another sum.
    """
    p = _law("p", p)
    q = p[p > 0]
    return float(-(q * np.log(q)).sum())


def occupancy_entropy(rho: np.ndarray) -> float:
    """H(rho) = -sum_{s,a} rho(s,a) log rho(s,a), eq. (3): the transition entropy where the world is deterministic."""
    return entropy(rho)


def transition_entropy(rho: np.ndarray, kernel: np.ndarray) -> float:
    """H(p_pi(s,a,r,s')) with p_pi = rho(s,a) p(r,s'|s,a), eq. (1).

    Args:
        rho: [S, A] how often each pair is visited; sums to one.
        kernel: [S, A, O] probability of each outcome, one for every (r, s'); every row sums to one.

    Raises:
        UserError: shapes that do not fit, rows that are no distributions.
    """
    rho, kernel = _law("rho", rho), _kernel(rho, kernel)
    return entropy(rho[..., None] * kernel)


def factored_transition_entropy(rho: np.ndarray, kernel: np.ndarray) -> float:
    """The same as sum_{s,a} rho(s,a) H(p(r,s'|s,a)) + H(rho), eq. (2): the world's part and the policy's.

    Args, Raises: as `transition_entropy`.
    """
    rho, kernel = _law("rho", rho), _kernel(rho, kernel)
    logs = np.log(kernel, out=np.zeros_like(kernel), where=kernel > 0)
    return float(-(rho * (kernel * logs).sum(-1)).sum()) + entropy(rho)


def homomorphism_gap(h: float, h_image: float, h_abstract: float) -> float:
    """Largest |H - H~| of two worlds with a common homomorphic image: max(H, H~) - H^, eq. (5).

    Args:
        h, h_image: transition entropies of the two worlds; h_abstract: that of their image, at most either of them.
    """
    return max(h, h_image) - h_abstract


def naive_entropy(times: np.ndarray) -> float:
    """H^ = -sum p^ log p^ with p^ = n / N, from how often each pair came.

    Args:
        times: [u] counts, 1 or more.

    Edge cases: H^ <= log u, with equality exactly where all counts are equal; exp(H^) is the perplexity.
    """
    times = np.asarray(times, np.float64)
    if times.size == 0 or (times <= 0).any():
        raise UserError("counts must be 1 or more, and at least one", where="naive_entropy")
    return max(0.0, math.log(times.sum()) - float((times * np.log(times)).sum() / times.sum()))


def entropy_bias(p: np.ndarray, n: int) -> float:
    """H - E[H^] up to O(n^-3): Z = (K - 1) / (2n) + (sum_k 1/p_k - 1) / (12 n^2).

    Args:
        p: [K] probabilities of the K pairs that can be visited, all positive.
        n: samples.

    Raises:
        UserError: a probability of zero, no samples.
    """
    p = _law("p", p)
    if (p == 0).any() or n < 1:
        raise UserError("every pair needs p > 0, and n >= 1", where="entropy_bias")
    return float((p.size - 1) / (2 * n) + ((1 / p).sum() - 1) / (12 * n**2))


def log_count_bias(p: np.ndarray, n: int) -> tuple[float, float]:
    """Bounds of H - E[log u], u = number of different pairs among n samples: Z - log n and Z (`entropy_bias`)."""
    z = entropy_bias(p, n)
    return z - math.log(n), z


def count_is_no_worse(k: int, n: int) -> bool:
    """Whether log u is no more biased than H^: K >= 2 n log n + 1, that is (K - 1) / (2n) >= log n.

    Args:
        k: pairs that can be visited; n: samples.
    """
    return k >= 2 * n * math.log(n) + 1


def _law(name: str, p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, np.float64)
    if not np.isfinite(p).all() or (p < 0).any():
        raise UserError("has negative or not finite values", where=name, allowed="probabilities")
    if abs(p.sum() - 1) > _WHOLE:
        raise UserError(f"sums to {p.sum():.6g}", where=name, allowed="1")
    return p


def _kernel(rho: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    kernel = np.asarray(kernel, np.float64)
    if kernel.shape[:-1] != rho.shape:
        raise UserError(f"has shape {kernel.shape}, rho {rho.shape}", where="kernel", allowed="[S, A, O] for [S, A]")
    if (kernel < 0).any() or not np.allclose(kernel.sum(-1), 1, rtol=0, atol=_WHOLE):
        raise UserError("rows are no distributions", where="kernel", allowed="probabilities that sum to 1")
    return kernel
