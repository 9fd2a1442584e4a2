"""Instances of the DP-BAI study, and arms that remember sums, since rewards are paired over epsilons."""

from typing import Any

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.decide.dp_bai.worlds import LinearArms
from steersman.train.trial import TrialNoise

LISTED = (
    (1.0, 0.0, 0.0), (0.94, 0.04, 0.0), (0.5, 0.4, 0.2), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.3, 0.3, 0.3),
    (0.6, 0.1, 0.1), (0.2, 0.7, 0.1), (0.4, 0.0, 0.9), (0.1, 0.2, 0.6),
)  # fmt: skip
"""Features of I2; with theta = (.7, .5, .3) the best two arms are 0.022 apart."""


class Remembered(LinearArms):
    """Arms that keep the sums of a whole batch: methods that differ in epsilon alone pull the same rewards."""

    def sums(self, noise: TrialNoise, arm: int, pulls: Any, phase: int, used: Any, whole: bool) -> Any:
        """As `LinearArms.sums`."""
        index = noise.index
        if self.rewards != "uniform" or not len(index) or (pulls != pulls[0]).any() or np.any(np.diff(index) != 1):
            return super().sums(noise, arm, pulls, phase, used, whole)
        kept: dict[Any, Any] = self.__dict__.setdefault("kept", {})
        place = (noise.seed, int(index[0]), len(index), arm, int(pulls[0]), phase, whole)
        if place not in kept:
            kept[place] = super().sums(noise, arm, pulls, phase, used, whole)
        return kept[place]


def instance(name: str, rescaled: bool = False) -> LinearArms:
    """One of the instances.

    Args:
        name: I1 to I5.
        rescaled: I1 in other units: its first feature divided by ten, and theta's first number times ten. Means and the
            linear model are the same.
    """
    if name == "I1":
        w = np.random.default_rng(0).uniform(0, 0.8, 27)
        features = np.concatenate([[[0, 1], [0, 0.9], [10, 0]], np.stack([np.ones(27), w], 1)])
        units = np.array([0.1, 1.0]) if rescaled else np.ones(2)
        return Remembered(features * units, features @ [0.045, 0.5], "uniform")
    if name == "I2":
        return Remembered(np.array(LISTED), np.array(LISTED) @ [0.7, 0.5, 0.3])
    if name == "I4":
        return Remembered(np.eye(8), np.linspace(0.65, 0.3, 8))
    if name in ("I3", "I5"):
        return _sphere(*{"I3": (50, 5), "I5": (200, 3)}[name])
    raise UserError(f"instance {name}", allowed="I1 to I5")


def _sphere(count: int, dim: int) -> LinearArms:
    """Unit vectors whose means with theta = .9 times the first axis lie in [.1, .9]."""
    draw = generator(0, f"dp-bai study/sphere/{dim}")
    found: list[npt.NDArray[np.float64]] = []
    while len(found) < count:
        x = draw.standard_normal(dim)
        x /= np.linalg.norm(x)
        if 0.1 <= 0.9 * x[0] <= 0.9:
            found.append(x)
    features = np.stack(found)
    return Remembered(features, 0.9 * features[:, 0])
