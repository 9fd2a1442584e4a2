"""Part A of the rDPO study: what a fit is called, the losses, and the finished runs as arrays paired by seed.

Leaves out: what is run (`exact`), what is claimed (`exact_claims`) and drawn (`exact_show`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steersman.objective.loss.preference import cdpo, dpo, forward_corrected_dpo, ipo, probit, rdpo, ripo
from steersman.study.declare import Result

Array = npt.NDArray[np.float64]

PART = "log-linear"
NORM = 2.0
DIMENSION, SAMPLES = 10, 8000  # the point at which losses are compared
FLIP_RATES = (0.1, 0.2, 0.3, 0.4)
FEATURES = ("gaussian", "skewed")
TAU = 0.5  # IPO's margin target is then 1
CURVES = ("dpo", "cdpo", "rdpo", "forward")
FAMILY = ("dpo_tuned", "ipo", "ripo", "probit")
LABELS = {  # as the arms of Part B are called, so that one name has one colour in the whole report
    "dpo": "dpo",
    "cdpo": "cdpo",
    "rdpo": "rdpo",
    "forward": "fwd",
    "dpo_tuned": "dpo, tuned beta",
    "ipo": "ipo",
    "ripo": "ripo",
    "probit": "robust probit",
}
METRICS = ("error", "cosine", "length", "greedy", "softmax", "regularised", "at_bound", "converged", "steps")

_FUNCTIONS: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {
    "dpo": lambda h, beta, rate: dpo(h, beta),
    "dpo_tuned": lambda h, beta, rate: dpo(h, beta),
    "cdpo": cdpo,
    "rdpo": rdpo,
    "forward": forward_corrected_dpo,
    "ipo": lambda h, beta, rate: ipo(h, TAU),
    "ripo": lambda h, beta, rate: ripo(h, TAU, rate),
    "probit": probit,
}


def loss_function(name: str, assumed: float, beta: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A loss of the library as a function of the margin alone, at an assumed flip rate."""
    function = _FUNCTIONS[name]
    return lambda h: function(h, beta, assumed)


def derivative(name: str, assumed: float) -> Callable[[Array], Array]:
    """The derivative of a loss in the margin as a function of arrays, from the loss itself by autograd."""
    loss = loss_function(name, assumed)

    def slope(z: Array) -> Array:
        h = torch.from_numpy(np.ascontiguousarray(z)).requires_grad_()
        (found,) = torch.autograd.grad(loss(h).sum(), h)
        return found.numpy()

    return slope


class Point(NamedTuple):
    """One setting that was fitted: the world, the data's true flip rate, the loss and the rate it assumes."""

    features: str
    dimension: int
    samples: int
    flip_rate: float
    loss: str
    assumed: float


class Table:
    """All fits of a study's results: for every `Point` and metric one value per seed.

    Args:
        results: finished cells of any part; only those of Part A that hold fits are read.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        found: dict[Point, dict[int, dict[str, float]]] = {}
        for result in results:
            if result.cell.part != PART:
                continue
            for fit in result.value.get("fits", ()):
                point = Point(*(fit[name] for name in Point._fields))
                rows = found.setdefault(point, {})
                for i, seed in enumerate(fit["seeds"]):
                    rows[int(seed)] = {metric: float(fit[metric][i]) for metric in METRICS}
        self._found = found

    def points(self) -> tuple[Point, ...]:
        """Everything that was fitted, sorted."""
        return tuple(sorted(self._found))

    def values(self, point: Point, metric: str) -> dict[int, float]:
        """Seed -> value, sorted by seed; empty where nothing was fitted.

        Without flips cDPO, rDPO and the forward correction that assume none are DPO bit for bit, and are read from it.
        """
        if point.flip_rate == 0 == point.assumed and point.loss in CURVES:
            point = point._replace(loss="dpo")
        return {seed: row[metric] for seed, row in sorted(self._found.get(point, {}).items())}

    def paired(self, *requests: tuple[Point, str]) -> tuple[Array, ...]:
        """Values of several (point, metric) on the seeds that all of them have, in one order."""
        columns = [self.values(*request) for request in requests]
        seeds = sorted(set(columns[0]).intersection(*columns[1:]))
        return tuple(np.array([column[seed] for seed in seeds]) for column in columns)


def at(features: str, flip_rate: float, loss: str, assumed: float | None = None) -> Point:
    """The point at which losses are compared: 10 features, 8,000 pairs; the loss assumes the truth unless told."""
    return Point(features, DIMENSION, SAMPLES, flip_rate, loss, flip_rate if assumed is None else assumed)
