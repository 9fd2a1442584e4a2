"""Worlds in which the truth is known: models of ratings and of two groups of voters, and surveys drawn from them.

Leaves out: estimating anything. Source: settings of Jerzak, Chandra and Hazra 2025 (arXiv 2504.19043), section 6, and
of the authors' package; coefficients are drawn here.
"""

from dataclasses import replace

import numpy as np

from steersman.core.noise import generator
from steersman.decide.conjoint import ConjointData, Factor, Outcome, Terms
from steersman.decide.conjoint.outcome import one_hot

EXPLAINED = 0.7
"""Share of a rating's variance that main effects explain."""
CROSSED = 0.2
"""Variance of the interactions against that of the main effects."""
PARTIES = ("A", "B")
TASKS = 10


def binary(count: int, four: bool = False) -> tuple[Factor, ...]:
    """Factors of two levels each, and if wanted one of four."""
    found = [Factor(f"f{d}", ("0", "1")) for d in range(count)]
    return (*found, Factor("four", ("0", "1", "2", "3"))) if four else tuple(found)


def crossed(factors: tuple[Factor, ...]) -> Terms:
    """All two-way interactions."""
    return Terms(factors, tuple((d, e) for d in range(len(factors)) for e in range(d + 1, len(factors))))


def draw_profiles(factors: tuple[Factor, ...], n: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform profiles [n, D]."""
    return np.stack([rng.integers(0, len(f.levels), n) for f in factors], 1)


def ratings(count: int) -> tuple[Outcome, float]:
    """A model of ratings whose main effects have variance 1 under the design, and the noise's standard deviation."""
    factors = binary(count, four=True)
    terms, rng = crossed(factors), generator(count, "conjoint study/ratings")
    every = terms.features(one_hot(factors, draw_profiles(factors, 20_000, rng)))
    k = len(terms.mains)
    theta = rng.standard_normal(every.shape[1])
    theta[:k] /= (every[:, :k] @ theta[:k]).std()
    theta[k:] *= CROSSED**0.5 / (every[:, k:] @ theta[k:]).std()
    return Outcome(terms, theta, 0.0, "linear", False), (1 / EXPLAINED - 1 - CROSSED) ** 0.5


def rated(model: Outcome, noise: float, n: int, rng: np.random.Generator) -> ConjointData:
    """A survey of ratings."""
    shown = draw_profiles(model.factors, n, rng)
    return ConjointData(model.factors, shown, None, model.predict(shown) + noise * rng.standard_normal(n))


def chosen(model: Outcome, n: int, rng: np.random.Generator) -> ConjointData:
    """A survey of choices between two, five by each respondent."""
    first, second = (draw_profiles(model.factors, n, rng) for _ in range(2))
    y = (rng.random(n) < model.predict(first, second)).astype(np.float64)
    return ConjointData(model.factors, first, second, y, np.arange(n) // 5)


def voters(seed: int = 0, count: int = 3, scale: float = 0.5, advantage: float = 0.5) -> dict[str, Outcome]:
    """Models of two groups, each of which leans to its party; binary factors, all two-way interactions."""
    terms, rng = crossed(binary(count)), generator(seed, "conjoint study/voters")
    size = len(terms.names)
    return {
        party: Outcome(terms, rng.standard_normal(size) * scale, sign * advantage, "logit", True)
        for party, sign in zip(PARTIES, (1, -1), strict=True)
    }


def primary_voters(models: dict[str, Outcome]) -> dict[str, Outcome]:
    """The same groups within their own party: without an advantage, and somewhat keener."""
    return {g: replace(m, intercept=0.0, theta=1.5 * m.theta) for g, m in models.items()}


def voted(models: dict[str, Outcome], share: float, n: int, rng: np.random.Generator, within: bool) -> ConjointData:
    """A survey of voters: pairs of the two parties' candidates, and if wanted as many of the voters' own party.

    Args:
        models: by group.
        share: of the first group.
        n: pairs between the parties.
        rng: of all draws.
        within: whether each respondent also judges pairs of their own party.
    """
    factors = next(iter(models.values())).factors
    group = np.where(rng.random(n) < share, *PARTIES)
    first, second = (draw_profiles(factors, n, rng) for _ in range(2))
    parts = [(first, second, group, np.tile(PARTIES, (n, 1)), models)]
    if within:
        first, second = (draw_profiles(factors, n, rng) for _ in range(2))
        parts.append((first, second, group, np.stack([group, group], 1), primary_voters(models)))
    chance = [np.where(g == PARTIES[0], *(m[p].predict(a, b) for p in PARTIES)) for a, b, g, _, m in parts]
    y = [(rng.random(n) < c).astype(np.float64) for c in chance]
    joined = [np.concatenate([part[i] for part in parts]) for i in range(4)]
    who = np.tile(np.arange(n), len(parts))
    return ConjointData(factors, joined[0], joined[1], np.concatenate(y), who, joined[2], joined[3])


def leaning(
    respondents: int, loyalty: float, rng: np.random.Generator, taste: float = 0.8
) -> tuple[ConjointData, np.ndarray]:
    """Respondents of two true sides (0 or 1), who favour their party by `loyalty` and disagree on the first factor.

    Returns:
        ten tasks of each, without groups; the true side of each respondent.
    """
    factors, n = binary(3), respondents * TASKS
    side, who = rng.integers(0, 2, respondents), np.repeat(np.arange(respondents), TASKS)
    first, second = (draw_profiles(factors, n, rng) for _ in range(2))
    party = np.array(PARTIES)[rng.integers(0, 2, (n, 2))]
    sign = np.where(side[who] == 0, 1.0, -1.0)
    odds = loyalty * sign * ((party[:, 0] == PARTIES[0]).astype(float) - (party[:, 1] == PARTIES[0]))
    odds += taste * sign * (second[:, 0] - first[:, 0]) + 0.5 * (second[:, 1] - first[:, 1])
    y = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    return ConjointData(factors, first, second, y, who, None, party), side
