"""How good the gradients of several advantage estimators are at a policy's weights: figures and their JSON form.

Leaves out: drawing and computing gradients (`recipes.diagnose_gradient`), the page (`gradient_page`), the formulas
(`stats.gradient_quality`).
Source: arXiv 2605.07579, section 3.3: spread, squared mean and bias of estimators at equal responses.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from steersman.core.errors import UserError
from steersman.stats.gradient_quality import FIGURES, GradientQuality, quality, reliability
from steersman.stats.intervals import Interval


@dataclass(frozen=True, slots=True)
class Shape:
    """A batch: prompts, and responses of each."""

    prompts: int
    samples: int

    def __str__(self) -> str:
        return f"{self.prompts} x {self.samples}"


@dataclass(frozen=True, slots=True)
class GradientRow:
    """An estimator on batches of one shape; `silent` = share of batches with a gradient of 0."""

    estimator: str
    shape: Shape
    found: GradientQuality
    silent: float


@dataclass(frozen=True, slots=True)
class GradientDiagnosis:
    """All estimators, and what they are held against.

    Args:
        rows: shape by shape; estimators of a shape saw the same rollouts.
        batches, reference_batches: B and R.
        reliability: share of the reference's squared length that is not noise.
    """

    rows: tuple[GradientRow, ...]
    batches: int
    reference_batches: int
    reliability: float

    @property
    def shapes(self) -> list[Shape]:
        """The shapes in their order."""
        return list(dict.fromkeys(r.shape for r in self.rows))

    @property
    def clearest(self) -> GradientRow | None:
        """The row with most signal against noise; None where no gradient can be told from noise."""
        there = [r for r in self.rows if r.found.signal.bounded and r.found.signal.low > 0]
        return max(there, key=lambda r: r.found.signal.value, default=None)

    @property
    def astray(self) -> list[GradientRow]:
        """Rows whose expected gradient points elsewhere than the reference: the interval ends below 1."""
        return [r for r in self.rows if r.found.direction.bounded and r.found.direction.high < 1]


def diagnose_gradients(seen: Mapping[Shape, Mapping[str, Tensor]], reference: Tensor) -> GradientDiagnosis:
    """Judge estimators by their gradients on independent batches.

    Args:
        seen: shape -> estimator -> a gradient a batch ``[B, P]``.
        reference: gradients of other batches ``[R, P]`` by an estimator without bias.

    Raises:
        UserError: rewards that gave no gradient at all; fewer than three batches.
    """
    far = reference.double().numpy()
    if not np.any(far):
        what = "no batch of the reference has a gradient: the responses to each prompt were worth the same"
        raise UserError(what, where="gradients", cure="Take prompts that are solved now and then.")
    rows = [
        GradientRow(name, shape, quality(g.double().numpy(), far), float((g == 0).all(1).float().mean()))
        for shape, of in seen.items()
        for name, g in of.items()
    ]
    batches = len(next(iter(next(iter(seen.values())).values())))
    return GradientDiagnosis(tuple(rows), batches, len(far), reliability(far))


def as_json(found: GradientDiagnosis) -> dict[str, Any]:
    """The diagnosis as JSON values; what could not be computed or bounded is None."""
    rows = [
        {"estimator": r.estimator, "prompts": r.shape.prompts, "samples": r.shape.samples, "silent": r.silent}
        | {k: _interval(getattr(r.found, k)) for k in FIGURES}
        for r in found.rows
    ]
    sizes = {"batches": found.batches, "reference_batches": found.reference_batches}
    return {**sizes, "reliability": found.reliability, "estimators": rows}


def _interval(x: Interval) -> dict[str, float | None]:
    return {k: v if math.isfinite(v := getattr(x, k)) else None for k in ("value", "low", "high")}
