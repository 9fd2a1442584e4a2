"""DP-BAI on people: the method asks which arm to try, a person or a service tells the rewards.

The output, which is everything anyone may see (the arms tried, the noisy means, the arm returned), is private because a
reward enters one phase's sum only, and that sum is used once its Laplace noise is on it and both are on disk. Rewards
and sums stay in the memory of a `Run`: they are in no result, no journal and no `repr`, and a `Run` cannot be pickled.
If a process dies within a phase, no noise has been drawn for it; the phase's rewards are told again. Source: Chen,
Karthik, Chee and Tan, ICLR 2024; the proof of privacy is in docs/dp-bai.md. Leaves out: simulation (`play`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError
from steersman.decide.dp_bai.phases import Rounding
from steersman.decide.dp_bai.plan import Design, Plan, make_plan
from steersman.decide.privacy.bits import SYSTEM, Bits
from steersman.decide.privacy.certificate import Neighbouring, PrivacyCertificate
from steersman.decide.privacy.laplace import DiscreteLaplace, NoiseBackend, exact_epsilon
from steersman.store.files import digest
from steersman.train.trial import Journal, Procedure

EXACT = DiscreteLaplace()
MOST_TRIALS = 10_000_000
"""A larger budget is refused: what is still to be tried is listed one by one."""
SNAP = 1e-9
"""Rewards this close to a point of the grid, in steps of the grid, are on it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What to try next.

    Args:
        phase: from 1.
        arms: arms to try, in this order.
    """

    phase: int
    arms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The outcome of an experiment; all of it may be published.

    Args:
        arm: the arm recommended, from 0.
        active_history: the arms left before each phase, and at the end.
        private_means: of each phase, the noisy mean of each arm pulled, in units of reward.
        pulls: how many trials were used.
        certificate: what is promised.
        note: what else there is to know; empty if nothing.
    """

    arm: int
    active_history: tuple[tuple[int, ...], ...]
    private_means: tuple[dict[int, float], ...]
    pulls: int
    certificate: PrivacyCertificate
    note: str = ""


@dataclass(frozen=True, slots=True)
class DPBAI:
    """Options of DP-BAI; each is fixed before the first reward.

    Args:
        epsilon: > 0; infinity means no noise and no promise.
        budget: T, the most trials.
        rounding: "floor" (never more than T) or the "paper"'s, refused where it could exceed T.
        noise: `DiscreteLaplace` (exact), `OpenDPLaplace` (exact, by that package) or `FloatLaplace` (uncertified).
        reward_range: (low, high) that every reward is known to lie in.
        on_out_of_range: "raise", or "clip" to the range. NaN is always refused.
        neighbouring: "reward" = a person owns one reward; "row" = the n-th reward of every arm, for which the same
            noise promises K epsilon.
        design: "max-det", or a control: "all", "random".
        sizes: another schedule, strictly falling from K to 1.
        seed: of the "random" design only; it protects nobody.
    """

    epsilon: float
    budget: int
    rounding: Rounding = "floor"
    noise: NoiseBackend = EXACT
    reward_range: tuple[float, float] = (0.0, 1.0)
    on_out_of_range: Literal["raise", "clip"] = "raise"
    neighbouring: Neighbouring = "reward"
    design: Design = "max-det"
    sizes: tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epsilon != math.inf:
            exact_epsilon(self.epsilon)
        if not isinstance(self.budget, int) or isinstance(self.budget, bool) or not 0 <= self.budget <= MOST_TRIALS:
            raise UserError(f"budget {self.budget!r}", allowed=f"a whole number of trials, 0 to {MOST_TRIALS:,}")
        if not hasattr(self.noise, "laplace_on_integer"):
            raise UserError(f"noise {self.noise!r}", allowed="DiscreteLaplace(), OpenDPLaplace() or FloatLaplace()")
        low, high = self.reward_range
        if not (low < high and math.isfinite(high - low)):
            raise UserError(
                f"reward range {self.reward_range}", allowed="two numbers a finite distance apart, the lower first"
            )
        if self.on_out_of_range not in ("raise", "clip") or self.neighbouring not in ("reward", "row"):
            raise UserError(
                f"on_out_of_range {self.on_out_of_range!r}, neighbouring {self.neighbouring!r}",
                allowed="raise or clip; reward or row",
            )

    @property
    def promise(self) -> float:
        """Epsilon for a change of one reward."""
        return self.epsilon

    def plan(self, features: npt.ArrayLike) -> Plan:
        """Everything that does not depend on rewards; errors as `start`."""
        return make_plan(features, self.budget, self.rounding, self.design, self.sizes, self.seed)

    def start(self, features: npt.ArrayLike, journal: Path | None = None, bits: Bits = SYSTEM) -> "Run":
        """Begin an experiment, or go on with one from its journal.

        Args:
            features: [K, d] of the arms, public.
            journal: a folder in which each phase's noisy sums are written before they are used.
            bits: of the noise; the operating system's, unless this is a test.

        Raises:
            UserError: features that cannot be used; a journal of another experiment, or with seeded or no noise.
            BudgetTooSmall: with the least budget that works.
        """
        return Run(self, features, journal, bits)

    def procedure(self, arms: Any, law: Any = "laplace") -> Procedure:
        """The method over replications, for `simulate`; see `play.dp_bai_procedure`."""
        from steersman.decide.dp_bai.play import dp_bai_procedure

        return dp_bai_procedure(self, arms, law)


class Run:
    """One experiment: `ask`, `tell`, and at the end `result`. Made by `DPBAI.start`."""

    def __init__(self, options: DPBAI, features: npt.ArrayLike, journal: Path | None, bits: Bits) -> None:
        if bits.seeded and not options.noise.seedable:
            raise UserError(f"seeded bits with {options.noise.name}", allowed="the operating system's, which it draws")
        self._options, self._bits = options, bits
        self._plan = options.plan(features)
        self._history: list[tuple[int, ...]] = [tuple(range(len(self._plan.points)))]
        self._means: list[dict[int, float]] = []
        self._spent: list[tuple[int, int]] = []
        self._journal: Journal | None = None
        self._open()
        if journal is not None:
            if bits.seeded or math.isinf(options.epsilon):
                raise UserError(
                    "a journal holds what protects people: seeded noise can be replayed, and without noise it would "
                    "hold raw sums",
                    where=str(journal),
                    cure="Give a finite epsilon and no seed, or no journal.",
                )
            self._journal = Journal(journal, self._about(features))
            for entry in self._journal.entries:
                self._close(entry["noisy"])

    def _about(self, features: npt.ArrayLike) -> dict[str, Any]:
        o = self._options
        return {
            "method": "dp-bai",
            "features": digest(np.asarray(features, np.float64).tolist()),
            "epsilon": str(exact_epsilon(o.epsilon)),
            "noise": o.noise.name,
            "grid": o.noise.grid,
            "trials": [o.budget, o.rounding, list(self._plan.sizes), o.design, o.seed],
            "rewards": [list(o.reward_range), o.on_out_of_range, o.neighbouring],
        }

    def __repr__(self) -> str:
        return f"Run(phase {len(self._history)} of {self._plan.phases}, {len(self._history[-1])} arms left)"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UserError("a running experiment holds raw rewards and cannot be copied or pickled", cure="Use a journal.")

    @property
    def phase(self) -> int:
        """The phase to come or under way, from 1; M + 1 at the end."""
        return len(self._history)

    @property
    def phases(self) -> int:
        """M."""
        return self._plan.phases

    @property
    def rank(self) -> int:
        """How many dimensions the features span."""
        return int(self._plan.points.shape[1])

    @property
    def tried(self) -> dict[int, int]:
        """Trials of each arm in the phases that are over; public."""
        return {
            arm: sum(each for (_, each), means in zip(self._spent, self._means, strict=True) if arm in means)
            for arm in self._history[0]
        }

    @property
    def done(self) -> bool:
        """Whether one arm is left."""
        return len(self._history) > self._plan.phases

    def ask(self) -> Batch | None:
        """What is still to be tried in this phase, or None at the end. Asking twice asks the same."""
        if self.done:
            return None
        return Batch(self.phase, self._order[self._told :])

    def tell(self, rewards: Sequence[float], phase: int | None = None) -> None:
        """Tell rewards of the arms asked for, in their order; fewer may be told at a time.

        When the last one of a phase is told, noise is drawn, added, journalled, and the phase ends.

        Args:
            rewards: numbers in the reward range.
            phase: the batch's phase, to have rewards of an earlier one refused.

        Raises:
            UserError: too many rewards, a NaN, or one outside the range (none of them is counted then); an experiment
                that is over; a phase whose noise has been drawn.
        """
        if phase is not None and phase != self.phase:
            raise UserError(
                f"rewards of phase {phase}, but this is phase {self.phase}: a phase's noise is drawn once",
                cure="Ask for what is to be tried now.",
            )
        if self.done:
            raise UserError("the experiment is over: no reward can be told any more")
        if len(rewards) > len(self._order) - self._told:
            raise UserError(f"{len(rewards)} rewards for {len(self._order) - self._told} trials")
        units = [self._on_grid(x, n) for n, x in enumerate(rewards, 1)]
        for unit in units:
            self._sums[self._told % len(self._sums)] += unit
            self._told += 1
        if self._told == len(self._order):
            if self._drawn is None:  # it is there if the disk refused it before
                self._drawn = self._noisy()
            if self._journal is not None:
                self._journal.append({"phase": self.phase, "noisy": self._drawn})
            self._close(self._drawn)

    def _open(self) -> None:
        """Begin a phase: nothing of earlier rewards is left."""
        self._told, self._sums, self._order = 0, [], ()
        self._drawn: list[int] | list[float] | None = None
        if not self.done:
            self._collection = self._plan.collect(self._history[-1], self.phase - 1)
            self._order = self._collection.arms * self._collection.pulls
            self._sums = [0] * len(self._collection.arms)

    def _on_grid(self, reward: float, number: int) -> int:
        low, high = self._options.reward_range
        x = float(reward)
        if math.isnan(x) or (not low <= x <= high and self._options.on_out_of_range == "raise"):
            raise UserError(f"reward {number} of those told is {x}", allowed=f"numbers from {low:g} to {high:g}")
        grid = self._options.noise.grid
        place = (min(max(x, low), high) - low) / (high - low) * grid
        if abs(place - round(place)) <= SNAP:
            return round(place)
        return math.floor(place) + (self._bits.below(2**53) < (place - math.floor(place)) * 2**53)

    def _noisy(self) -> list[int] | list[float]:
        if math.isinf(self._options.epsilon):
            return self._sums
        scale = self._options.noise.scale(self._options.epsilon)
        return self._options.noise.laplace_on_integer(self._sums, scale.numerator, scale.denominator, self._bits)

    def _close(self, noisy: Sequence[float]) -> None:
        """End a phase by its noisy sums, drawn just now or read from the journal."""
        low, high = self._options.reward_range
        done = self._collection
        shares = np.array(noisy, np.float64) / (done.pulls * self._options.noise.grid)
        means = low + (high - low) * shares
        # Where all are pulled the sums decide, whole numbers whose ties are ties.
        estimates = np.array(noisy, np.float64) if done.weights is None else done.estimates(means)
        self._means.append({a: float(m) for a, m in zip(done.arms, means, strict=True)})
        self._spent.append((len(done.arms), done.pulls))
        self._history.append(self._plan.survivors(self._history[-1], estimates, self.phase - 1))
        self._open()

    def result(self) -> Recommendation:
        """The arm, what led to it, and the certificate.

        Raises:
            UserError: trials are still to be made.
        """
        if not self.done:
            raise UserError(f"phase {self.phase} of {self._plan.phases} is under way", cure="Ask and tell until None.")
        note = "" if self._plan.phases else "There is one arm; nothing was tried."
        pulls = sum(arms * each for arms, each in self._spent)
        return Recommendation(
            self._history[-1][0], tuple(self._history), tuple(self._means), pulls, self._certificate(), note
        )

    def _certificate(self) -> PrivacyCertificate:
        o, arms = self._options, len(self._plan.points)
        private = math.isfinite(o.epsilon)
        scale = float(o.noise.scale(o.epsilon)) if private else 0.0
        return PrivacyCertificate(
            epsilon=o.epsilon * (arms if o.neighbouring == "row" else 1) if self._spent else 0.0,
            delta=0.0,
            neighbouring=o.neighbouring,
            mechanism="each phase's sums of rewards with Laplace noise, each reward in one phase",
            backend=o.noise.name if private else "none",
            entropy="seed" if self._bits.seeded else "operating system",
            per_phase=tuple((arms, each, scale) for arms, each in self._spent),
            certified=not self._spent or (private and o.noise.certified and not self._bits.seeded),
            assumptions=(
                "features, budget, epsilon and schedule were chosen without looking at rewards",
                f"rewards lie in [{o.reward_range[0]:g}, {o.reward_range[1]:g}]"
                + (", or were clipped to it" if o.on_out_of_range == "clip" else ""),
                "nobody but the operator sees raw rewards, errors about them, or when they came",
            ),
        )
