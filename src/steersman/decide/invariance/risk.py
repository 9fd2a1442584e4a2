"""The worst-case risk of a predictor: the largest squared error over the interventions on the mutable variables.

Leaves out: the searches themselves (`exact`, `direct`, `gradient`), fitting predictors (`world`, `fit`).
Source: Liu et al. 2023, equation 3; what each search promises is ours to say.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.invariance.data import Columns, count
from steersman.decide.invariance.direct import constant, losses, search_direct
from steersman.decide.invariance.discrete import DiscreteSCM, Function
from steersman.decide.invariance.exact import TablePolicy, maximise, risk_under
from steersman.decide.invariance.gradient import search_gradient
from steersman.decide.invariance.regressors import extrapolates
from steersman.decide.invariance.world import Policy, SampledWorld

Adversary = Literal["auto", "exact", "direct", "gradient"]
ADVERSARIES = ("auto", "exact", "direct", "gradient")
JUDGED = 4
"""Copies of the rows, with fresh noise, on which a policy that was found is judged."""


@dataclass(frozen=True)
class WorstCase:
    """The worst environment that was found for a predictor.

    Args:
        risk: mean squared error there.
        se: standard error of the simulation; 0 where nothing is sampled.
        policy: by mutable variable, a function of columns (its parents) with the intervention; `rows` lists it.
        bound: exact, or lower: a search that samples can only show that the risk is at least this.
        how: the search, in words.
        starts: risks of all starts, on the noise they were found with.
        environment: some rows of the worst environment, with the prediction in the column "prediction".
    """

    risk: float
    se: float
    policy: Mapping[str, Policy]
    bound: Literal["exact", "lower"]
    how: str
    starts: tuple[float, ...] = ()
    environment: Columns = field(default_factory=dict, repr=False)

    def rows(self, name: str) -> list[dict[str, float]]:
        """One intervention as a table of parents and value."""
        if name not in self.policy:
            raise UserError(f"{name!r} is not mutable", where="worst case", allowed=", ".join(self.policy))
        listed: Any = self.policy[name]
        return listed.rows() if hasattr(listed, "rows") else []


@dataclass(frozen=True)
class WorstCaseRisk:
    """R(f) = max over J of E_{P_J}(Y - f)^2 in a world.

    Args:
        world: a `DiscreteSCM`, or a `SampledWorld` of rows and mechanisms.
        adversary: exact (discrete worlds), direct, gradient; auto = exact where the world is discrete, else direct.
        allowed: (low, high) by mutable variable, for discrete worlds; a sampled world has its ranges.
        grid: values of a continuous mutable variable that the direct method tries.
        draws: copies of the rows in a search.
        restarts: starts of the gradient search (5 or more), and of coordinate ascent.
        bounded: keep gradient's values in the range; False leaves them free and warns where that means infinity.
        seed: of all noise.

    Raises:
        UserError: an adversary that the world does not allow.
    """

    world: DiscreteSCM | SampledWorld
    adversary: Adversary = "auto"
    allowed: Mapping[str, tuple[float, float]] | None = None
    grid: int = 21
    draws: int = 2
    restarts: int = 5
    bounded: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        discrete = isinstance(self.world, DiscreteSCM)
        if self.adversary not in ADVERSARIES:
            raise UserError(f"{self.adversary!r} is no adversary", where="adversary", allowed=", ".join(ADVERSARIES))
        if self.adversary == "exact" and not discrete:
            raise UserError("only a discrete world has an exact worst case", where="adversary",
                            allowed="auto, direct, gradient")  # fmt: skip
        if discrete and self.adversary in ("direct", "gradient"):
            raise UserError(f"a world of tables is searched exactly, not by {self.adversary}", where="adversary",
                            allowed="auto, exact")  # fmt: skip
        if self.grid < 2 or self.draws < 1:
            raise UserError(f"grid {self.grid}, draws {self.draws}", where="adversary", allowed="2 or more, 1 or more")

    def levels(self) -> dict[str, list[int]] | None:
        """Numbers of the levels that are allowed in a discrete world.

        Raises:
            UserError: none is left, or a variable that is not mutable.
        """
        if self.allowed is None or not isinstance(self.world, DiscreteSCM):
            return None
        found = {}
        for m, (low, high) in self.allowed.items():
            if m not in self.world.graph.mutable:
                raise UserError(f"{m!r} is not mutable", where="mutable_range",
                                allowed=", ".join(self.world.graph.mutable))  # fmt: skip
            found[m] = [i for i, v in enumerate(self.world.values[m]) if low <= v <= high]
            if not found[m]:
                raise UserError(f"no level lies between {low:g} and {high:g}", where=f"mutable_range of {m}")
        return found

    def of(self, function: Function, judged: "DiscreteSCM | SampledWorld | None" = None) -> WorstCase:
        """The worst case of a predictor.

        Args:
            function: columns -> predictions.
            judged: the world in which the intervention that was found is judged, such as that of held-out rows; None =
                the same one (with fresh noise, where there is noise).
        """
        if isinstance(self.world, DiscreteSCM):
            return self._exact(self.world, function, judged)
        self._warn(function)
        if not self.world.graph.mutable:
            policy, starts, how = {}, (), "nothing changes"
        elif self.adversary == "gradient":
            found = search_gradient(self.world, function, self.grid, self.draws, self.restarts, self.seed, self.bounded)  # type: ignore[arg-type]
            policy, starts, how = found.policy, found.starts, f"gradient ascent from {len(found.starts)} starts"
        else:
            found = search_direct(self.world, function, self.grid, self.draws, seed=self.seed)
            policy, starts, how = found.policy, found.starts, f"the direct method on {self.grid} grid values"
        world = judged if isinstance(judged, SampledWorld) else self.world
        return _judge(world, function, policy, starts, how, self.seed)

    def _exact(self, world: DiscreteSCM, function: Function, judged: "DiscreteSCM | SampledWorld | None") -> WorstCase:
        found = maximise(world, world.losses(function), self.levels(), self.restarts, self.seed)
        risk, exact = found.risk, found.exact
        if isinstance(judged, DiscreteSCM):
            choices = {m: p.choice for m, p in found.policy.items()}
            risk, exact = risk_under(judged, judged.losses(function), choices), False
        return WorstCase(risk, 0.0, found.policy, "exact" if exact else "lower", found.how, found.restarts,
                         _states(world, function, found.policy))  # fmt: skip

    def under(self, function: Function, policy: Mapping[str, Any]) -> tuple[float, float]:
        """Risk and simulation error of a predictor in one environment.

        Args:
            function: the predictor.
            policy: by mutable variable, a function of columns, or a number it is held at.
        """
        made: dict[str, Policy] = {m: p if callable(p) else constant(float(p)) for m, p in policy.items()}
        if isinstance(self.world, DiscreteSCM):
            w = self.world
            choices = {}
            for m, p in made.items():
                choices[m] = p.choice if isinstance(p, TablePolicy) else w.places({m: p(w.columns)}, m).reshape(w.shape)
            return risk_under(w, w.losses(function), choices), 0.0
        found = _judge(self.world, function, made, (), "", self.seed)
        return found.risk, found.se

    def _warn(self, function: Function) -> None:
        assert isinstance(self.world, SampledWorld)
        open_ended = (self.adversary == "gradient" and not self.bounded) or any(
            r.beyond for r in self.world.ranges.values()
        )
        if open_ended and extrapolates(getattr(function, "model", function)):
            warnings.warn(
                "mutable variables may leave the range they were seen in, where this predictor extrapolates: the "
                "worst-case risk has no bound but the range that was searched",
                stacklevel=3,
            )


def _judge(
    world: SampledWorld,
    function: Function,
    policy: Mapping[str, Policy],
    starts: tuple[float, ...],
    how: str,
    seed: int,
) -> WorstCase:
    """Risk on fresh noise; rows are the units of the standard error."""
    n = count(world.rows)
    copies = JUDGED if world.graph.mutable else 1
    base = {k: np.tile(v, copies) for k, v in world.rows.items()}
    u = world.uniform(n * copies, seed, "invariance/judged")
    loss = losses(world, function, base, policy, u).reshape(copies, n).mean(0)
    shown = {k: v[:n] for k, v in world.simulate(base, policy, u).items()}
    shown["prediction"] = function(shown)
    se = float(loss.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return WorstCase(float(loss.mean()), se, dict(policy), "lower" if policy else "exact", how, starts, shown)


def _states(world: DiscreteSCM, function: Function, policy: Mapping[str, TablePolicy]) -> dict[str, np.ndarray]:
    """States of the worst environment with their probability."""
    p = world.held
    for m, chosen in policy.items():
        shape = [1] * len(world.shape)
        shape[world.axis(m)] = -1
        p = p * (np.arange(len(world.values[m])).reshape(shape) == chosen.choice)
    keep = p.ravel() > 0
    shown = {k: v[keep] for k, v in world.columns.items()}
    told = np.broadcast_to(world.table(function), p.shape).ravel()[keep]
    return {**shown, "prediction": told, "probability": p.ravel()[keep]}
