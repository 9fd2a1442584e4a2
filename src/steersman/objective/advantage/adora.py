"""ADORA: each prompt is classified by its own responses, and the advantages of its whole group are multiplied.

Length criterion: the longest right response is longer than the mean wrong one. Difficulty criterion: at most a share
tau of the responses is right. Within a group all rows have one weight, so advantages keep their sign and their sum of
0; over a run they follow no fixed objective, because weight and advantage come from the same responses.
Leaves out: what is right and wrong (the grader), the advantages themselves (`advantage.group`), the stage
(`components_adora`).
Sources: arXiv 2602.10019; the released code ShadeCloak/ADORA, whose two versions contradict each other (`PRESETS`).
"""

import math
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.advantage.segment import by_group

Criterion = Literal["length", "difficulty", "both", "either"]
Strategy = Literal["amplify", "attenuate"]
Preset = Literal["repo_text", "repo_vision"]
NoValidFailure = Literal["advantage", "disadvantage"]
WEIGHTS: dict[str, float] = {"amplify": 2.0, "attenuate": 0.1}
"""What a group is multiplied by, by strategy, where no weight is given."""
PRESETS: tuple[str, ...] = get_args(Preset)


def check_options(
    criterion: str, mode: str, tau: float | int, weight: float | int | None, preset: str | None, no_valid_failure: str
) -> None:
    """Refuse unknown names, numbers out of range, and options that a preset would ignore.

    Raises:
        UserError: names the option and what is allowed.
    """
    names = {"criterion": (criterion, Criterion), "mode": (mode, Strategy)}
    names["no_valid_failure"] = (no_valid_failure, NoValidFailure)
    for name, (value, allowed) in names.items():
        if value not in get_args(allowed):
            raise UserError(f"unknown {name} {value!r}", where=f"adora, {name}", allowed=", ".join(get_args(allowed)))
    if preset is not None and preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}", where="adora, preset", allowed=", ".join(PRESETS))
    if not 0 <= tau <= 1:
        raise UserError(f"tau is {tau}", where="adora, tau", allowed="0 <= tau <= 1")
    if weight is not None and not 0 <= weight < float("inf"):
        raise UserError(f"weight is {weight}", where="adora, weight", allowed="a finite number >= 0")
    # "both" and "amplify" are defaults, which cannot be told from values that were asked for.
    against = criterion in ("difficulty", "either") or tau != 0.5
    against |= preset == "repo_text" and no_valid_failure == "disadvantage"
    if preset is not None and against:
        raise UserError(
            f"preset {preset} has a criterion and edge cases of its own, and criterion {criterion!r}, tau {tau} or "
            f"no_valid_failure {no_valid_failure!r} would be ignored",
            where="adora, preset",
            cure="Leave the preset out, or leave the others out.",
        )


def _checked(correct: Tensor, length: Tensor, group: Tensor, truncated: Tensor | None) -> Tensor:
    """`truncated` as a mask, everything checked."""
    if truncated is None:
        truncated = torch.zeros_like(correct, dtype=torch.bool)
    for name, x in (("correct", correct), ("truncated", truncated)):
        if x.ndim != 1 or x.dtype != torch.bool or x.shape != length.shape:
            what = f"{name} is {x.dtype} of shape {tuple(x.shape)} for {length.shape[0]} rows"
            raise UserError(what, where="adora", allowed="one bool for each row")
    bad = ~((length > 0) & torch.isfinite(length.double()))
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise UserError(f"length is {float(length[row])}", where=f"adora, row {row}", allowed="a finite number > 0")
    return truncated


def _signs(yes: Tensor) -> Tensor:
    return torch.where(yes, 1, -1)


def adora_class(
    correct: Tensor,
    length: Tensor,
    group: Tensor,
    truncated: Tensor | None = None,
    criterion: str = "both",
    tau: float | int = 0.5,
    preset: str | None = None,
    no_valid_failure: str = "advantage",
) -> Int[Tensor, " N"]:
    """The class of each row's group: 1 = advantageous now, -1 = disadvantageous, 0 = the criterion says nothing.

    length: max_{right} L > mean_{wrong, not truncated} L. difficulty: right / G <= tau. "both" and "either" join the
    two as "and" and "or" of a logic with three values: nothing and true is nothing, nothing or true is true.

    Args:
        correct: bool ``[N]``.
        length: L ``[N]`` > 0, action tokens of each row.
        group: prompt id of each row ``[N]``.
        truncated: bool ``[N]``, rows that were cut; wrong ones among them are in no mean. None = none was.
        criterion: which.
        tau: in [0, 1].
        preset: a released program, which has the length criterion and edge cases of its own.
        no_valid_failure: what the length criterion says where every wrong response was cut.

    Returns:
        int64 ``[N]``, equal within a group.

    Raises:
        UserError: as `adora_weights`.

    Edge cases: where all responses are wrong, or all right, there is nothing to compare and the length criterion says
    nothing; equal lengths are no advantage; a group of one has class 0.
    """
    check_options(criterion, "amplify", tau, None, preset, no_valid_failure)
    truncated = _checked(correct, length, group, truncated)
    g = by_group(length.double(), group, None, "adora")
    measured = ~correct & ~truncated
    right, failures = g.total(correct.double()), g.total(measured.double())
    best = g.best(torch.where(correct, g.score, torch.full_like(g.score, -torch.inf)))
    total = g.total(torch.where(measured, g.score, torch.zeros_like(g.score)))
    none = torch.inf if preset == "repo_vision" else -torch.inf
    mean = torch.where(failures > 0, total / failures.clamp(min=1), torch.full_like(total, none))
    longer = _signs(best > mean)
    if preset == "repo_text":
        return longer
    if preset == "repo_vision":
        return torch.where(right == 0, 0, longer)
    cut = torch.full_like(longer, 1 if no_valid_failure == "advantage" else -1)
    longer = torch.where(failures == 0, cut, longer)
    longer = torch.where((right == 0) | (right == g.size), 0, longer)
    hard = _signs(right / g.size.clamp(min=1) <= tau)
    joined = {
        "length": longer,
        "difficulty": hard,
        "both": torch.minimum(longer, hard),
        "either": torch.maximum(longer, hard),
    }
    return torch.where(g.size == 1, 0, joined[criterion])


def adora_weights(
    correct: Tensor,
    length: Tensor,
    group: Tensor,
    truncated: Tensor | None = None,
    criterion: str = "both",
    mode: str = "amplify",
    tau: float | int = 0.5,
    weight: float | int | None = None,
    preset: str | None = None,
    no_valid_failure: str = "advantage",
    normalize: str | Tensor | None = None,
) -> Float[Tensor, " N"]:
    """Factor of each row's advantage, one number for each group.

    A'_i = w_g A_i; amplify: w_g = weight if the group is advantageous, else 1; attenuate: w_g = weight if it is
    disadvantageous, else 1 (`adora_class`).

    Args:
        correct, length, group, truncated, criterion, tau, no_valid_failure: as in `adora_class`.
        mode: strategy.
        weight: >= 0; None = 2 under amplify and 0.1 under attenuate.
        preset: "repo_text" or "repo_vision": attenuation by the length criterion with the edge cases of that program,
            whatever `mode` says.
        normalize: "mean1" = divided by the mean over all rows; bool ``[N]`` = by the mean over these rows, of which
            those with an advantage matter; None = as they are.

    Returns:
        ``[N]`` float32, equal within a group.

    Raises:
        UserError: shapes or dtypes that disagree, lengths that are NaN or not positive, tau outside [0, 1], a negative
            weight, unknown names, options that a preset would ignore.

    Edge cases: an all-wrong group has no length criterion, hence weight 1 under "length" and "both". A mean of 0 cannot
    be brought to 1 and leaves the weights as they are. No rows give no weights.

    Source: arXiv 2602.10019. How the criteria combine, tau apart, and what undefined comparisons mean could not be
    read there; "both" and the three-valued logic are ours.
    """
    check_options(criterion, mode, tau, weight, preset, no_valid_failure)
    mode = mode if preset is None else "attenuate"
    found = adora_class(correct, length, group, truncated, criterion, tau, preset, no_valid_failure)
    hit = found == (1 if mode == "amplify" else -1)
    w = torch.where(hit, float(WEIGHTS[mode] if weight is None else weight), 1.0).double()
    return normalised(w, normalize).float()


def normalised(w: Tensor, normalize: str | Tensor | None) -> Tensor:
    """Weights divided by their mean over the rows that `normalize` names (`adora_weights`)."""
    if normalize is None:
        return w
    if isinstance(normalize, str):
        if normalize != "mean1":
            what = f"unknown normalize {normalize!r}"
            raise UserError(what, where="adora, normalize", allowed='"mean1", a bool mask, None')
        normalize = torch.ones_like(w, dtype=torch.bool)
    if normalize.shape != w.shape or normalize.dtype != torch.bool:
        what = f"is {normalize.dtype} of shape {tuple(normalize.shape)} for {w.shape[0]} rows"
        raise UserError(what, where="adora, normalize", allowed="one bool for each row")
    mean = w[normalize].mean() if bool(normalize.any()) else w.new_ones(())
    return w / mean if bool(mean > 0) else w


def longer_by_chance(right: int, wrong: int) -> float:
    """How often the length criterion holds if length has nothing to do with being right, for normal lengths.

    P(max of n right > mean of m wrong) = 1 - E[Phi(Z / sqrt(m))^n], Z standard normal.

    Args:
        right: n >= 1.
        wrong: m >= 1.

    Returns:
        A probability; it rises with n, so that under attenuation hard prompts are hit most.

    Raises:
        UserError: numbers below 1.
    """
    if right < 1 or wrong < 1:
        raise UserError(f"right is {right} and wrong is {wrong}", where="longer_by_chance", allowed="at least 1 each")
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    below = torch.special.ndtr(torch.from_numpy(points) / wrong**0.5) ** right
    return 1 - float((torch.from_numpy(weights) * below).sum()) / math.sqrt(2 * math.pi)
