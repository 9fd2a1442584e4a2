"""Policies over profiles: one distribution for each factor, independent of one another.

A policy is held as one vector x [M] of all levels of all factors, M = sum_d L_d. Leaves out: how one is chosen
(`optimal`, `game`). Source: Jerzak, Chandra and Hazra 2025, section 3.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import Factor

SUM_ERROR = 1e-9
"""How far a factor's probabilities may be from one."""
MOST_COMBINATIONS = 15
"""Of levels, whose union is computed from 2^n products."""


@dataclass(frozen=True, slots=True)
class FactoredPolicy:
    """Pr(t) = prod_d x_d(t_d).

    Args:
        factors: the attributes, D of them.
        x: [M] float64, probabilities of all levels, factor after factor.

    Raises:
        UserError: another number of probabilities, one that is negative or NaN, a factor that does not sum to one.
    """

    factors: tuple[Factor, ...]
    x: np.ndarray

    def __post_init__(self) -> None:
        if self.x.shape != (sum(len(f.levels) for f in self.factors),):
            raise UserError(f"{self.x.shape} probabilities do not fit the factors' levels", where="policy")
        for factor, part in zip(self.factors, self.parts, strict=True):
            if not (np.isfinite(part).all() and (part >= 0).all() and abs(part.sum() - 1) <= SUM_ERROR):
                raise UserError(f"{part.tolist()} is no distribution", where=f"policy, factor {factor.name}")

    @property
    def parts(self) -> list[np.ndarray]:
        """The distribution of each factor."""
        return [self.x[s] for s in slices(self.factors)]

    def __getitem__(self, factor: str) -> dict[str, float]:
        """Probabilities of a factor's levels by name."""
        for f, part in zip(self.factors, self.parts, strict=True):
            if f.name == factor:
                return dict(zip(f.levels, part.tolist(), strict=True))
        allowed = ", ".join(f.name for f in self.factors)
        raise UserError(f"there is no factor {factor!r}", where="policy", allowed=allowed)

    def log_prob(self, profiles: np.ndarray) -> np.ndarray:
        """log Pr of profiles [n, D] (level numbers) in nats; minus infinity where it is zero."""
        with np.errstate(divide="ignore"):
            return sum(np.log(part)[profiles[:, d]] for d, part in enumerate(self.parts))  # type: ignore[return-value]

    def sample(self, n: int, generator: np.random.Generator) -> np.ndarray:
        """Draw n profiles; [n, D] level numbers."""
        return np.stack([generator.choice(len(p), n, p=p / p.sum()) for p in self.parts], 1)

    def entropy(self) -> float:
        """- sum_d sum_l x_dl log x_dl, in nats."""
        x = self.x[self.x > 0]
        return float(-(x * np.log(x)).sum())

    def kl_to(self, other: "FactoredPolicy") -> float:
        """KL(self || other) in nats: the sum over factors; infinite where other excludes what self may draw."""
        on = self.x > 0
        if (other.x[on] == 0).any():
            return math.inf
        return float((self.x[on] * np.log(self.x[on] / other.x[on])).sum())

    def divergence(self, other: "FactoredPolicy", profiles: np.ndarray, eps: float = 1e-6) -> np.ndarray:
        """How differently two policies field a profile: | log((Pr_self(t) + eps) / (Pr_other(t) + eps)) |.

        Args:
            other: a policy over the same factors.
            profiles: [n, D] level numbers t.
            eps: > 0, so that what neither fields does not diverge.

        Source: the policy divergence factor of Jerzak et al. 2025.
        """
        mine, theirs = np.exp(self.log_prob(profiles)), np.exp(other.log_prob(profiles))
        return np.abs(np.log((mine + eps) / (theirs + eps)))

    def chance(self, combinations: Sequence[Mapping[str, str]]) -> float:
        """Pr(a profile has at least one of these combinations of levels), exactly.

        Args:
            combinations: each {factor: level, ...}, all of which a profile must have.

        Raises:
            UserError: an unknown factor or level, an empty combination, more than `MOST_COMBINATIONS`.

        Source: inclusion and exclusion, factors being independent.
        """
        if len(combinations) > MOST_COMBINATIONS:
            raise UserError(f"{len(combinations)} are too many", where="combinations", allowed=f"{MOST_COMBINATIONS}")
        total, union = 0.0, [({}, -1.0)]
        for combination in combinations:
            if not combination:
                raise UserError("a combination is empty", where="combinations", allowed="{factor: level, ...}")
            for factor, level in combination.items():
                if level not in self[factor]:
                    raise UserError(f"there is no level {level!r}", where=f"factor {factor}",
                                    allowed=", ".join(self[factor]))  # fmt: skip
            both = [({**had, **combination}, -sign) for had, sign in union
                    if all(had.get(f, x) == x for f, x in combination.items())]  # fmt: skip
            union += both
        shares = {f.name: self[f.name] for f in self.factors}
        for levels, sign in union[1:]:
            total += sign * math.prod(shares[f][x] for f, x in levels.items())
        return min(1.0, max(0.0, total))

    def expected(self, feature: Callable[[np.ndarray], np.ndarray]) -> float:
        """E feature(t) over the policy, exactly; `feature` maps profiles [n, D] (level numbers) to [n].

        Raises:
            UserError: more profiles than can be enumerated.
        """
        grid = Grid(self.factors)
        return float(grid.joint(self.x) @ feature(grid.profiles))

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Plain data with the names of factors and levels; `from_dict` gives the policy back."""
        return {f.name: self[f.name] for f in self.factors}

    @staticmethod
    def from_dict(data: Mapping[str, Mapping[str, float]]) -> "FactoredPolicy":
        """A policy from names and probabilities."""
        factors = tuple(Factor(name, tuple(levels)) for name, levels in data.items())
        return FactoredPolicy(factors, np.array([v for levels in data.values() for v in levels.values()], np.float64))


def slices(factors: Sequence[Factor]) -> list[slice]:
    """Where each factor's levels lie in a vector of all levels."""
    ends = np.cumsum([0, *(len(f.levels) for f in factors)]).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def design_policy(factors: tuple[Factor, ...], design: Any) -> FactoredPolicy:
    """The design as a policy: one array per factor, a mapping by name, a `FactoredPolicy`, or None = uniform.

    Raises:
        UserError: a factor or a level is not named, or the numbers are no distributions.
    """
    if isinstance(design, FactoredPolicy):
        if design.factors != factors:
            raise UserError("has other factors or levels than the model", where="design")
        return design
    if design is None:
        design = [np.full(len(f.levels), 1 / len(f.levels)) for f in factors]
    elif isinstance(design, Mapping):
        missing = [f.name for f in factors if f.name not in design or set(design[f.name]) != set(f.levels)]
        if missing:
            raise UserError(f"does not name every level of {missing}", where="design")
        design = [[design[f.name][level] for level in f.levels] for f in factors]
    if len(design) != len(factors):
        raise UserError(f"has {len(design)} factors, the model {len(factors)}", where="design")
    return FactoredPolicy(factors, np.concatenate([np.asarray(part, np.float64) for part in design]))


def enumerable(factors: Sequence[Factor]) -> bool:
    """Whether `Grid` can hold all profiles of these factors."""
    return math.prod(len(f.levels) for f in factors) <= Grid.MOST_PROFILES


class Grid:
    """All profiles of some factors, and means over product policies of quantities known for each.

    Args:
        factors: the attributes.

    Raises:
        UserError: more than `MOST_PROFILES` profiles.
    """

    MOST_PROFILES = 4096

    def __init__(self, factors: tuple[Factor, ...]) -> None:
        sizes = [len(f.levels) for f in factors]
        if not enumerable(factors):
            raise UserError(
                f"{math.prod(sizes):,} profiles are too many to enumerate", where="factors",
                allowed=f"at most {self.MOST_PROFILES:,} profiles in a game, or for a model without coefficients",
                cure="leave out factors or merge levels",
            )  # fmt: skip
        self.factors = factors
        self.slices = slices(factors)
        self.profiles = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), 1)
        self.onehot = np.concatenate([np.eye(k)[self.profiles[:, d]] for d, k in enumerate(sizes)], 1)

    def joint(self, x: np.ndarray) -> np.ndarray:
        """Pr of every profile under the policy x [M]; [N]."""
        return self._levels(x).prod(1)

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """Derivative of `joint` by x [N, M]."""
        given = self._levels(x)
        return np.concatenate(
            [self.onehot[:, s] * np.delete(given, d, 1).prod(1)[:, None] for d, s in enumerate(self.slices)], 1
        )

    def gradient(self, u: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Derivative of sum_t u_t prod_d x_d(t_d) by x: means of u given each level; u [N] or [N, p] gives [M(, p)]."""
        return self.jacobian(x).T @ u

    def partial(self, u: np.ndarray, x: np.ndarray, factor: int) -> np.ndarray:
        """The part of `gradient` of one factor [L]."""
        others = np.ones(len(u))
        for d, s in enumerate(self.slices):
            if d != factor:
                others *= x[s][self.profiles[:, d]]
        size = self.slices[factor].stop - self.slices[factor].start
        return np.bincount(self.profiles[:, factor], others * u, minlength=size)

    def hessian(self, u: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Second derivative [M, M]; zero within a factor, as the mean is linear in each."""
        given, out = self._levels(x), np.zeros((len(x), len(x)))
        for d, a in enumerate(self.slices):
            for e, b in enumerate(self.slices[:d]):
                weight = np.delete(given, [d, e], 1).prod(1) * u
                out[a, b] = self.onehot[:, a].T @ (weight[:, None] * self.onehot[:, b])
                out[b, a] = out[a, b].T
        return out

    def _levels(self, x: np.ndarray) -> np.ndarray:
        return np.stack([x[s][self.profiles[:, d]] for d, s in enumerate(self.slices)], 1)
