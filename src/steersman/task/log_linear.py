"""The log-linear preference world: known parameters, known flip rate, exact asymptotics.

A policy pi_theta(a|s) ~ exp(theta . phi(s, a)) with a uniform reference gives a pair of answers the margin
h = theta . x, x = phi(s, a) - phi(s, a'). Rewards are r* = theta* . phi (beta = 1: only beta theta is identified, so
beta is a unit here). Every pair compares a candidate with the prompt's fixed first answer, whose feature is 0: the
difference of two exchangeable candidates would be symmetric, and skewed differences could not occur. Noise is a
function of (seed, purpose, size), so every loss and every flip rate sees the same pairs, clean labels and nested flips.
Leaves out: losses (`objective.loss.preference`), fitting (`train.convex`).
Sources: Ray Chowdhury, Kini, Natarajan 2024 ("Provably Robust DPO") for the class and the noise; White 1982 for the
sandwich. What the paper's text says beyond its abstract could not be read: the formulas are derived here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError
from steersman.core.noise import generator, uniform

Array = npt.NDArray[np.float64]
Estimator = Literal["dpo_clean", "rdpo", "forward"]

ESTIMATORS = ("dpo_clean", "rdpo", "forward")
FEATURES = ("gaussian", "skewed")
ACTIONS = 20
PROMPTS = 500
NODES = 200  # Gauss-Hermite nodes; the integrands are smooth
POPULATION_LOG2 = 16  # Sobol points for skewed features: 2^16, errors of H and V below 0.5 %
_BLOCK = 2**15  # Sobol points used at once


@dataclass(frozen=True, slots=True)
class World:
    """What defines the world.

    Args:
        features: "gaussian" (independent N(0, 1) coordinates) or "skewed" (independent Exp(1) - 1: mean 0, variance 1,
            skewness 2).
        dimension: number of features, >= 1.
        norm: length of theta*, > 0.
        seed: seed of theta*'s direction and of the bandit's prompts, the same for all replications.
    """

    features: str
    dimension: int
    norm: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise UserError(f"{self.features!r} is unknown", where="features", allowed=", ".join(FEATURES))
        if self.dimension < 1:
            raise UserError(f"{self.dimension} is too small", where="dimension", allowed="1 or more")
        if not (np.isfinite(self.norm) and self.norm > 0):
            raise UserError(f"{self.norm} is no length", where="norm", allowed="a finite number > 0")

    @property
    def truth(self) -> Array:
        """theta* ``[d]``: a direction drawn uniformly from the sphere, times `norm`."""
        direction = generator(self.seed, "log-linear/truth", index=self.dimension).standard_normal(self.dimension)
        return np.asarray(direction * (self.norm / np.linalg.norm(direction)))


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of several replications before any flip.

    Args:
        difference: ``[R, n, d]`` feature differences x, candidate minus fixed answer.
        clean: ``[R, n]`` +1 where the candidate won by the clean label, -1 where it lost.
        flip_noise: ``[R, n]`` uniforms; a label is flipped where its uniform lies below the flip rate.
    """

    difference: Array
    clean: Array
    flip_noise: Array

    def observed(self, flip_rate: float) -> Array:
        """Winner minus loser by the observed label, ``[R, n, d]``: x times the clean sign, flipped at `flip_rate`."""
        sign = np.where(self.flip_noise < check_rate(flip_rate), -self.clean, self.clean)
        return np.asarray(self.difference * sign[..., None])


def check_rate(flip_rate: float) -> float:
    """Return the flip rate, or refuse one outside [0, 0.5)."""
    if not 0.0 <= flip_rate < 0.5:
        raise UserError(f"{flip_rate} is out of range", where="flip_rate", allowed="0 <= flip_rate < 0.5")
    return float(flip_rate)


def draw(world: World, samples: int, seeds: Sequence[int]) -> Pairs:
    """Draw `samples` pairs for each replication: x, then a Bradley-Terry label P(win) = sigma(theta* . x).

    Args:
        world: the world.
        samples: pairs in each replication, >= 1.
        seeds: one seed per replication; a replication's noise depends on its seed, the sizes and the kind of features.

    Returns:
        Pairs with R = len(seeds).

    Edge cases: different `samples` give independent draws, not prefixes of one another.
    """
    if samples < 1:
        raise UserError(f"{samples} is too small", where="samples", allowed="1 or more")
    shape = (samples, world.dimension)
    index = samples * 1000 + world.dimension
    x = np.empty((len(seeds), *shape))
    for row, seed in enumerate(seeds):
        rng = generator(seed, f"log-linear/{world.features}", index=index)
        x[row] = rng.standard_normal(shape) if world.features == "gaussian" else rng.standard_exponential(shape) - 1.0
    label, flip = (
        np.stack([uniform(seed, f"log-linear/{world.features}/{name}", index, np.arange(samples)) for seed in seeds])
        for name in ("label", "flip")
    )
    return Pairs(x, np.where(label < _sigmoid(x @ world.truth), 1.0, -1.0), flip)


def noisy_win_rate(clean: Array, flip_rate: float) -> Array:
    """Observed win rate q = (1 - 2 eps) p + eps of pairs whose clean win rate is `clean`."""
    return (1.0 - 2.0 * check_rate(flip_rate)) * clean + flip_rate


def covariance(world: World, estimator: Estimator, flip_rate: float) -> Array:
    """n times the asymptotic covariance of an estimator that is consistent for theta*, ``[d, d]``.

    dpo_clean: H^-1; rdpo: H^-1 V H^-1; forward: J^-1, with p = sigma(theta* . x), q = (1-2 eps) p + eps and
    H = E[p(1-p) x x'], V = E[q(1-q) x x'] / (1-2 eps)^2, J = E[((1-2 eps) p(1-p))^2 / (q(1-q)) x x'].

    Args:
        world: the world.
        estimator: "dpo_clean" (DPO on unflipped labels, whatever the flip rate), "rdpo" or "forward".
        flip_rate: eps in [0, 0.5).

    Edge cases: at eps = 0 the three are equal.

    Source: White 1982 with the rDPO score p + c - y/(1-2 eps), c = eps/(1-2 eps), y the observed label; derived.
    """
    if estimator not in ESTIMATORS:
        raise UserError(f"{estimator!r} is unknown", where="estimator", allowed=", ".join(ESTIMATORS))
    keep = 1.0 - 2.0 * check_rate(flip_rate)

    def information(p: Array) -> Array:
        return np.asarray(p * (1.0 - p))

    def observed(p: Array) -> Array:
        return information(noisy_win_rate(p, flip_rate))

    def corrected(p: Array) -> Array:
        # far in the tails p(1-p) underflows; the ratio's limit there is 0
        below = observed(p)
        return np.divide((keep * information(p)) ** 2, below, out=np.zeros_like(p), where=below > 0)

    if estimator == "forward":
        return np.linalg.inv(moment(world, corrected))
    inverse = np.linalg.inv(moment(world, information))
    if estimator == "dpo_clean":
        return inverse
    return np.asarray(inverse @ moment(world, lambda p: observed(p) / keep**2) @ inverse)


def predicted_rmse(world: World, estimator: Estimator, flip_rate: float, samples: int) -> float:
    """Root of E||theta_hat - theta*||^2 by the asymptotic covariance: sqrt(trace(covariance) / n)."""
    return float(np.sqrt(np.trace(covariance(world, estimator, flip_rate)) / samples))


def moment(world: World, weight: Callable[[Array], Array]) -> Array:
    """E[weight(p) x x'], p = sigma(theta* . x), over the world's feature differences, ``[d, d]``.

    Gaussian features: exact up to one-dimensional quadrature, a I + b u u' with u the direction of theta*. Skewed
    features: 2^16 scrambled Sobol points with a fixed scramble.
    """
    if world.features == "gaussian":
        node, mass = _gauss_hermite()
        value = weight(_sigmoid(world.norm * node))
        across, along = float(mass @ value), float(mass @ (value * node**2))
        unit = world.truth / world.norm
        return np.asarray(across * np.eye(world.dimension) + (along - across) * np.outer(unit, unit))
    points, truth = _skewed_points(world.dimension), world.truth
    total = np.zeros((world.dimension, world.dimension))
    for start in range(0, len(points), _BLOCK):
        x = points[start : start + _BLOCK]
        total += (x * weight(_sigmoid(x @ truth))[:, None]).T @ x
    return total / len(points)


def gaussian_length_ratio(slope: Callable[[Array], Array], flip_rate: float, norm: float) -> float:
    """||theta_limit|| / ||theta*|| of a loss as n grows, with Gaussian features, where the direction is theta*'s.

    k solves E[u (q l'(k norm u) - (1-q) l'(-k norm u))] = 0, u ~ N(0, 1), q the observed win rate at theta*.

    Args:
        slope: l', derivative of the loss in the observed margin, vectorised over ``[m]``.
        flip_rate: eps in [0, 0.5), the true one; what the loss assumes is inside `slope`.
        norm: length of theta*.

    Returns:
        k; inf when the expected loss falls without end along theta*.

    Source: Stein's identity (Brillinger 1982 for the direction); derived.
    """
    import scipy.optimize

    node, mass = _gauss_hermite()
    q = noisy_win_rate(_sigmoid(norm * node), flip_rate)

    def pull(k: float) -> float:
        z = k * norm * node
        return float(mass @ (node * (q * slope(z) - (1.0 - q) * slope(-z))))

    limit = 50.0
    return float("inf") if pull(limit) < 0 else float(scipy.optimize.brentq(pull, 0.0, limit, xtol=1e-12))


@dataclass(frozen=True, slots=True)
class SubOptimality:
    """How much worse a fitted policy is than the best of its kind on the bandit, in units of reward, ``[R]`` each.

    Args:
        greedy: E_s[max_a r*(s, a) - r*(s, argmax_a theta . phi(s, a))], >= 0.
        softmax: E_s[r*(pi*) - r*(pi_theta)]; negative where a policy is sharper than pi*, at the price of a larger KL.
        regularised: the same for r* minus the KL to the reference, which is E_s KL(pi_theta || pi*) >= 0.
    """

    greedy: Array
    softmax: Array
    regularised: Array


def sub_optimality(world: World, theta: Array) -> SubOptimality:
    """Judge fitted parameters on 500 prompts with 20 candidates each, the same prompts for every call.

    Args:
        world: the world; candidates have its features.
        theta: ``[R, d]`` fitted parameters.

    Returns:
        SubOptimality, three arrays ``[R]``.
    """
    phi = _candidates(world)  # [S, A, d]
    score, reward = np.einsum("sad,rd->rsa", phi, theta), phi @ world.truth
    chosen = np.take_along_axis(reward[None], score.argmax(-1)[..., None], -1)[..., 0]
    log_pi, log_best = _log_softmax(score), _log_softmax(reward)
    pi, best = np.exp(log_pi), np.exp(log_best)
    return SubOptimality(
        greedy=(reward.max(-1) - chosen).mean(-1),
        softmax=((best * reward).sum(-1) - (pi * reward).sum(-1)).mean(-1),
        regularised=(pi * (log_pi - log_best)).sum(-1).mean(-1),
    )


def _candidates(world: World) -> Array:
    shape = (PROMPTS, ACTIONS, world.dimension)
    rng = generator(world.seed, f"log-linear/{world.features}/bandit", index=world.dimension)
    return rng.standard_normal(shape) if world.features == "gaussian" else rng.standard_exponential(shape) - 1.0


def _sigmoid(z: Array) -> Array:
    import scipy.special

    return np.asarray(scipy.special.expit(z))


def _log_softmax(z: Array) -> Array:
    import scipy.special

    return np.asarray(scipy.special.log_softmax(z, axis=-1))


@lru_cache(maxsize=1)
def _gauss_hermite() -> tuple[Array, Array]:
    """Nodes and weights of the standard normal; cut to those that weigh anything."""
    import scipy.special

    node, mass = scipy.special.roots_hermitenorm(NODES)
    return node, mass / mass.sum()


@lru_cache(maxsize=3)
def _skewed_points(dimension: int) -> Array:
    import scipy.stats

    sobol = scipy.stats.qmc.Sobol(dimension, rng=np.random.Generator(np.random.Philox(dimension)))
    return np.asarray(-np.log1p(-sobol.random_base2(POPULATION_LOG2)) - 1.0)
