"""What POISE's probe remembers and how it is fitted: examples of the last steps, a projection, a ridge regression.

Both records are frozen: whoever holds one replaces it. Leaves out: which rollouts become examples (`advantage.poise`),
the regression itself (`advantage.ridge`).
Source: arXiv 2605.07579, sections 3.2 and 4, appendix E (projection).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.advantage.ridge import Ridge, fit_ridge, principal


@dataclass(frozen=True, slots=True)
class Examples:
    """What the probe is fitted to, on the CPU.

    Args:
        x: features ``[B, D]`` float32.
        y: targets ``[B]`` float64.
        step: the step of the run each is from ``[B]``.
        group: the prompt of each within its step ``[B]``.
    """

    x: Tensor
    y: Tensor
    step: Tensor
    group: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"x": self.x, "y": self.y, "step": self.step, "group": self.group}


def added(before: Examples | None, x: Tensor, y: Tensor, step: int, keep: int, group: Tensor | None = None) -> Examples:
    """The examples with those of a step behind them, of the last `keep` steps that have any.

    Args:
        before: those of earlier steps; None = none.
        x, y: features and targets of the step.
        step: its number.
        keep: steps to be kept.
        group: the prompt of each row ``[N]``; None = each row has its own.

    Raises:
        UserError: shapes that disagree, features of another width than before, NaN or infinity, or a step before the
            last one.
    """
    if x.ndim != 2 or y.shape != x.shape[:1]:
        what = f"features are {tuple(x.shape)}, targets {tuple(y.shape)}"
        raise UserError(what, where="probe", allowed="[N, D] and [N]")
    check_features(x, x.shape[1] if before is None else before.x.shape[1])
    _check_finite(y, "the target")
    own = torch.arange(len(y)) if group is None else group.cpu()
    new = Examples(x.detach().cpu().float(), y.detach().cpu().double(), torch.full((len(y),), step), own)
    if before is None:
        return new
    if len(before) and step < int(before.step[-1]):
        raise UserError(f"step {step} comes after step {int(before.step[-1])}", where="probe")
    step_of = torch.cat([before.step, new.step])
    young = step_of >= torch.unique(step_of)[-keep:][:1]
    return Examples(*(torch.cat([getattr(e, k) for e in (before, new)])[young] for k in ("x", "y", "step", "group")))


def check_features(x: Tensor, width: int) -> None:
    """Refuse features that are not finite ``[N, width]``."""
    if x.ndim != 2:
        raise UserError(f"features are {tuple(x.shape)}", where="probe", allowed=f"[N, {width}]")
    if x.shape[1] != width:
        raise UserError(f"{x.shape[1]} features a row, the examples have {width}", where="probe")
    _check_finite(x, "a feature")


def _check_finite(x: Tensor, what: str) -> None:
    bad = (~torch.isfinite(x)).nonzero()
    if len(bad):
        row = int(bad[0, 0])
        value = float(x[tuple(bad[0])])
        raise UserError(f"{what} is {value}", where=f"probe, row {row}", allowed="finite numbers")


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted probe: projections of blocks of columns, then a ridge regression.

    Args:
        ridge: on the projected columns.
        blocks: (first column, last column + 1, mean, directions) of each projected block; other columns stay.
    """

    ridge: Ridge
    blocks: tuple[tuple[int, int, Tensor, Tensor], ...] = ()

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        """Predictions ``[N]``, float64, on the CPU."""
        return self.ridge(_projected(x.detach().cpu().double(), self.blocks))


def fit(examples: Examples, alpha: float | Literal["auto"], blocks: tuple[tuple[int, int, int], ...] = ()) -> Fit:
    """Fit the probe to its examples.

    Args:
        examples: at least one.
        alpha: see `ridge.fit_ridge`.
        blocks: (first column, last column + 1, most directions) of columns to be projected on their principal
            directions.
    """
    found: list[tuple[int, int, Tensor, Tensor]] = []
    for begin, end, most in blocks:
        found.append((begin, end, *principal(examples.x[:, begin:end], most)))
    made = tuple(found)
    _, prompt = torch.unique(torch.stack([examples.step, examples.group]), dim=1, return_inverse=True)
    return Fit(fit_ridge(_projected(examples.x.double(), made), examples.y, alpha, prompt), made)


def _projected(x: Tensor, blocks: tuple[tuple[int, int, Tensor, Tensor], ...]) -> Tensor:
    parts, at = [], 0
    for begin, end, mean, directions in blocks:
        parts += [x[:, at:begin], (x[:, begin:end] - mean) @ directions]
        at = end
    return torch.cat([*parts, x[:, at:]], 1)


def explained(prediction: Tensor, target: Tensor) -> float | None:
    """R^2 of predictions: 1 - mean squared error / variance of the targets; None where all targets are equal."""
    spread = float(target.double().var(correction=0)) if len(target) else 0.0
    return None if spread == 0 else 1 - float((prediction - target).double().square().mean()) / spread


def restored(state: Any) -> Examples | None:
    """Examples from what `Examples.state_dict` gave; None where there are none."""
    return None if "x" not in state else Examples(*(state[k] for k in ("x", "y", "step", "group")))
