"""What is true of a `chain_sum` response token by token: roles, errors, and P(answer | prefix) of the demonstrator.

A step's error adds an offset to the running sum, 0 with probability 1 - e(d_j) and each of 1..9 with e(d_j)/9, and
offsets add up mod 10. So P(final answer = r | prefix) is the probability that the offsets still to come make up the
difference: a dynamic programme over ten states, and, since every offset that is not 0 is equally likely, also a closed
form. With two modes the first token decides between two error rates; before it P is the mean of both. Where a response
leaves the grammar nothing is claimed: roles are `NONE` and probabilities NaN from there on.
Leaves out: the world itself (`chain_sum`).
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.task.chain_sum import CHECKS, EOS, FILLER, FILLERS, HASH, LONG, SHORT, ChainSum, read_digits, target


class Role(IntEnum):
    """What a response token does; `NONE` = prompt, padding, or from the token on that leaves the grammar."""

    NONE = 0
    DECISIVE = 1
    COPIED = 2
    FILLER = 3
    ANSWER = 4
    OTHER = 5
    MODE = 6
    CHECK = 7


@dataclass(frozen=True, slots=True)
class Reading:
    """A response taken apart.

    Args:
        role: `Role` of each token ``[N, L]``; a running sum is decisive, "#" and end of sequence are other.
        step: number of the step a token belongs to ``[N, L]``, from 0; k for "#", answer, end; -1 where role is NONE
            or MODE.
        sums: running sum written at each step ``[N, K]``; -1 where there is none.
        error: whether the running sum of a step does not follow from the one before ``[N, K]``.
        first_error: number of the first such step ``[N]``, -1 = none.
        whole: whether the whole response keeps the grammar, end of sequence included ``[N]``.
        long: whether the response chose the long mode ``[N]``; False where there is one mode.
    """

    role: Int[Tensor, "N L"]
    step: Int[Tensor, "N L"]
    sums: Int[Tensor, "N K"]
    error: Bool[Tensor, "N K"]
    first_error: Int[Tensor, " N"]
    whole: Bool[Tensor, " N"]
    long: Bool[Tensor, " N"]


def read(task: ChainSum, rollouts: Rollouts) -> Reading:
    """Take responses apart by the task's grammar.

    The grammar speaks of kinds of tokens: a mode, a filler, a digit, a re-check, "#", end of sequence. A wrong copy, a
    wrong running sum or an answer that differs from the last running sum keeps it.

    Args:
        task: the knobs (fillers of a step, modes).
        rollouts: prompts with responses of any policy.

    Raises:
        UserError: a prompt is not one of this task's.
    """
    ids = rollouts.ids
    digits, k = read_digits(rollouts)
    column = torch.arange(ids.shape[1], device=ids.device)
    inside = (column >= rollouts.prompt_length[:, None]) & (column < rollouts.length[:, None])
    long = _long(task, rollouts)
    width = task.widths(long)
    place = column - rollouts.prompt_length[:, None] - task.lead  # -1 = the mode
    step, within, body = place // width, place % width, k[:, None] * width
    expected = torch.full_like(ids, int(Role.CHECK))
    expected[within < task.fillers] = Role.FILLER
    expected[within == task.fillers] = Role.COPIED
    expected[within == task.fillers + 1] = Role.DECISIVE
    expected = torch.where(place < body, expected, int(Role.OTHER))
    expected = torch.where(place == body + 1, int(Role.ANSWER), expected)
    expected = torch.where(place < 0, int(Role.MODE), expected)
    kept = inside & (_kinds(task, ids, expected, place, within, body) & (place < body + 3) | ~inside).cumprod(1).bool()
    role = torch.where(kept, expected, int(Role.NONE))
    sums = _sums(task, rollouts, role, digits.shape[1], k, width)
    before = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], 1)
    error = (sums >= 0) & (sums != (before + digits.clamp(min=0)) % 10)
    first = torch.where(error.any(1), error.int().argmax(1), -1)
    tokens = task.lead + body[:, 0] + 3
    whole = (kept.sum(1) == tokens) & (rollouts.length == rollouts.prompt_length + tokens)
    step = torch.where(kept & (place >= 0), torch.minimum(step, k[:, None]), -1)
    return Reading(role, step, sums, error, first, whole, long)


def _long(task: ChainSum, rollouts: Rollouts) -> Bool[Tensor, " N"]:
    if not task.modes:
        return torch.zeros_like(rollouts.length, dtype=torch.bool)
    first = rollouts.prompt_length.clamp(max=rollouts.ids.shape[1] - 1)[:, None]
    return (rollouts.ids.gather(1, first)[:, 0] == LONG) & (rollouts.length > rollouts.prompt_length)


def _kinds(task: ChainSum, ids: Tensor, expected: Tensor, place: Tensor, within: Tensor, body: Tensor) -> Tensor:
    """Whether each token is of the kind that its place asks for, bool ``[N, L]``."""
    good = ids < 10
    good = torch.where(expected == Role.FILLER, (ids >= FILLER) & (ids < FILLER + FILLERS), good)
    good = torch.where(expected == Role.OTHER, ids == torch.where(place == body, HASH, EOS), good)
    check = torch.where(within == task.width, *CHECKS)
    good = torch.where(expected == Role.CHECK, ids == check, good)
    return torch.where(expected == Role.MODE, (ids == SHORT) | (ids == LONG), good)


def _sums(task: ChainSum, rollouts: Rollouts, role: Tensor, most: int, k: Tensor, width: Tensor) -> Int[Tensor, "N K"]:
    j = torch.arange(most, device=k.device)
    place = rollouts.prompt_length[:, None] + task.lead + j * width + task.fillers + 1
    safe = place.clamp(max=role.shape[1] - 1)
    there = (role.gather(1, safe) == Role.DECISIVE) & (safe == place) & (j < k[:, None])
    return torch.where(there, rollouts.ids.gather(1, safe), -1)


def offsets_to_come(
    task: ChainSum, digits: Int[Tensor, "N K"], long: Bool[Tensor, " N"] | None = None
) -> Float[Tensor, "N K1 10"]:
    """P(offsets of the steps j, j+1, .. add up to o mod 10) by dynamic programming, for j = 0..K.

    D_K = [o = 0];  D_j(o) = (1 - e_j) D_{j+1}(o) + e_j/9 sum_{c != 0} D_{j+1}(o - c).

    Args:
        task: the error rates e(d).
        digits: ``[N, K]``, -1 beyond a prompt's end, where no error is made.
        long: which rows are in the long mode ``[N]``; None = none.

    Returns:
        float64 ``[N, K + 1, 10]``.
    """
    n, most = digits.shape
    long = torch.zeros(n, dtype=torch.bool, device=digits.device) if long is None else long
    rate = _rates(task, digits, long)
    table = torch.zeros(n, most + 1, 10, dtype=torch.float64, device=digits.device)
    table[:, most, 0] = 1.0
    for j in range(most - 1, -1, -1):
        after, e = table[:, j + 1], rate[:, j, None]
        table[:, j] = (1 - e) * after + e / 9 * (after.sum(1, keepdim=True) - after)
    return table


def _rates(task: ChainSum, digits: Tensor, long: Tensor) -> Float[Tensor, "N K"]:
    """e of each step in the mode of its row, 0 beyond a prompt's end."""
    both = torch.stack([task.error_rates(), task.error_rates(long=True)]).to(digits.device)
    return torch.where(digits >= 0, both[long.long()[:, None], digits.clamp(min=0)], 0.0)


def answer_given_prefix(
    task: ChainSum, rollouts: Rollouts, answer: Int[Tensor, " N"]
) -> tuple[Float[Tensor, "N L"], Float[Tensor, "N L"]]:
    """P(the demonstrator ends with `answer` | prefix), before and after each response token.

    A prefix counts by its last running sum and the digits still to come, and by the answer once that is written;
    fillers and copies tell nothing. A prefix that the demonstrator never writes is judged in the same way.

    Args:
        task: the knobs.
        rollouts: prompts without hints, with responses of any policy.
        answer: the digit ``[N]`` asked about.

    Returns:
        before, after: float64 ``[N, L]``; ``after - before`` is what the token changed. NaN where role is `NONE`. Only
        running sums, the answer, the end and, with two modes, the mode change anything.

    Raises:
        UserError: a hinted prompt, which would make the answer certain.
    """
    digits, k = read_digits(rollouts)
    hinted = rollouts.prompt_length != k + 1
    if bool(hinted.any()):
        raise UserError(
            "the prompt is hinted; probabilities are those without a hint", where=f"row {int(hinted.nonzero()[0, 0])}"
        )
    found = read(task, rollouts)
    table = offsets_to_come(task, digits, found.long)
    rest = digits.clamp(min=0).flip(1).cumsum(1).flip(1)
    rest = torch.cat([rest, torch.zeros_like(rest[:, :1])], 1)  # [N, K + 1]: sum of the digits still to come
    sums = torch.cat([torch.zeros_like(found.sums[:, :1]), found.sums], 1).clamp(min=0)
    needed = (answer[:, None] - sums - rest) % 10
    at = table.gather(2, needed[..., None])[..., 0]  # [N, K + 1]: after j steps
    step = found.step.clamp(min=0)
    before = at.gather(1, step)
    done = at.gather(1, (step + 1).clamp(max=at.shape[1] - 1))
    before = torch.where(found.role == Role.CHECK, done, before)
    after = torch.where(found.role == Role.DECISIVE, done, before)
    if task.modes:
        other = offsets_to_come(task, digits, ~found.long)[:, 0]
        either = (table[:, 0] + other).gather(1, needed[:, :1]) / 2
        before = torch.where(found.role == Role.MODE, either, before)
    written = (rollouts.ids == answer[:, None]).double()
    after = torch.where(found.role == Role.ANSWER, written, after)
    end = (found.role == Role.OTHER) & (rollouts.ids == EOS)
    final = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], 1)  # what the answer token left
    before, after = torch.where(end, final, before), torch.where(end, final, after)
    outside = found.role == Role.NONE
    return before.masked_fill(outside, torch.nan), after.masked_fill(outside, torch.nan)


def success_given_prefix(task: ChainSum, rollouts: Rollouts) -> tuple[Float[Tensor, "N L"], Float[Tensor, "N L"]]:
    """P(the demonstrator ends with the right answer | prefix), before and after each token: `answer_given_prefix`."""
    return answer_given_prefix(task, rollouts, target(rollouts))


def success_of_prompts(task: ChainSum, rollouts: Rollouts) -> Float[Tensor, " N"]:
    """P(the demonstrator answers a prompt rightly) = (1 + 9 prod_j (1 - 10 e(d_j)/9)) / 10, float64 ``[N]``.

    With two modes the mean of both. A single offset has the Fourier coefficients 1 and, nine times, 1 - 10 e/9;
    convolution multiplies them.
    """
    digits, _ = read_digits(rollouts)
    none = torch.zeros(len(rollouts), dtype=torch.bool, device=digits.device)
    found = [(1 + 9 * (1 - _rates(task, digits, long) * (10 / 9)).prod(1)) / 10 for long in (none, ~none)]
    return (found[0] + found[1]) / 2


def success(task: ChainSum) -> float:
    """P(the demonstrator is right) over the task's prompts: mean over k of (1 + 9 (mean_d (1 - 10 e(d)/9))^k) / 10.

    With two modes the mean of both.
    """
    sizes = range(task.shortest, task.longest + 1)
    factors = [float((1 - task.error_rates(long) * (10 / 9)).mean()) for long in (False, True)]
    return sum((1 + 9 * factor**k) / 10 for factor in factors for k in sizes) / (2 * len(sizes))
