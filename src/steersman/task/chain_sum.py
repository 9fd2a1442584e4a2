"""The running-sum testbed: prompts, a noisy demonstrator and a verifier on token ids, all vectorised.

Prompt: k digits d_1..d_k and "="; with a hint also "?", an answer r, "=". Response: k steps, each of [fillers, drawn
uniformly from four tokens], [copy of d_j], [running sum s_j mod 10]; then "#", the final sum, end of sequence. The
demonstrator replaces the right running sum of a step by one of the nine wrong digits, uniformly, with probability e and
then continues consistently; e may depend on the digit. The hint of an example is the demonstrator's own final answer,
right or wrong, so that a policy conditioned on an answer learns the Bayes posterior. Everything is a function of (seed,
step, round, row): row i is the same in a batch of any size.

With `error_long` there are two modes: the first token of a response chooses "a", short, or "b", long, each as often; in
a long one every step ends with the re-check tokens "c", "d" and errs with `error_long` instead of `error`.

Token table: 0-9 the digits; 10-13 "a" to "d"; 14 "="; 15 "#"; 16 hint "?"; 17 end of sequence; 18 padding.
Leaves out: what is true of a response token by token (`chain_sum_truth`), policies (`language`).
"""

from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from steersman.core.component import Component
from steersman.core.errors import UserError
from steersman.core.noise import uniform
from steersman.core.types import Rollouts, Scores
from steersman.reward.answer import STATUSES

FILLER, FILLERS, EQUALS, HASH, HINT, EOS, PAD, VOCABULARY = 10, 4, 14, 15, 16, 17, 18, 19
"""First filler token and their number, then one id each, then the number of tokens."""
TOKENS = (*"0123456789abcd=#?", "<eos>", "<pad>")
SHORT, LONG, CHECKS = FILLER, FILLER + 1, (FILLER + 2, FILLER + 3)
"""With two modes: the first token of a short and of a long response, and what ends each step of a long one."""
HARD_DIGIT = 5
"""Digits from here on have the error rate `error_hard`."""
MAX_ROUND = 2**20

Steps = Annotated[int, Field(ge=1, le=64)]
Rate = Annotated[float, Field(ge=0.0, le=0.9)]


class ChainSum(Component):
    """The task's knobs; calling nothing, it is a record that the functions below take."""

    kind: Literal["chain_sum"] = "chain_sum"
    k: Steps | tuple[Steps, Steps] = Field(5, description="Digits of a prompt, or the range from which k is uniform.")
    error: Rate = Field(0.12, description="Probability that the demonstrator errs at a step.")
    error_hard: Rate | None = Field(None, description="The same for digits 5 to 9; absent: as `error`.")
    fillers: int = Field(1, ge=0, le=8, description="Meaningless tokens before each step.")
    hint: float = Field(0.5, ge=0.0, le=1.0, description="Share of examples whose prompt shows the final answer.")
    error_long: Rate | None = Field(
        None, description="Two modes: the same in long responses, `error` in short ones; absent: one mode."
    )

    @model_validator(mode="after")
    def _range(self) -> "ChainSum":
        if self.shortest > self.longest:
            raise ValueError(f"the range of k runs from {self.shortest} to {self.longest}")
        if self.error_long is not None and self.error_hard is not None:
            raise ValueError("error_hard and error_long exclude each other: a step has one error rate")
        return self

    @property
    def shortest(self) -> int:
        """Fewest digits of a prompt."""
        return self.k if isinstance(self.k, int) else self.k[0]

    @property
    def longest(self) -> int:
        """Most digits of a prompt."""
        return self.k if isinstance(self.k, int) else self.k[1]

    @property
    def modes(self) -> bool:
        """Whether responses are short or long."""
        return self.error_long is not None

    @property
    def lead(self) -> int:
        """Tokens of a response before its first step."""
        return int(self.modes)

    @property
    def width(self) -> int:
        """Tokens of a step of a short response."""
        return self.fillers + 2

    @property
    def max_response(self) -> int:
        """Tokens of the longest response, its end of sequence included."""
        return self.lead + self.longest * (self.width + len(CHECKS) * self.modes) + 3

    @property
    def max_length(self) -> int:
        """Tokens of the longest row: hinted prompt and response."""
        return self.longest + 4 + self.max_response

    def widths(self, long: Bool[Tensor, " N"]) -> Int[Tensor, "N 1"]:
        """Tokens of a step of each response."""
        return (self.width + len(CHECKS) * long.long())[:, None]

    def error_rates(self, long: bool = False) -> Float[Tensor, " 10"]:
        """e(d) of the ten digits, float64; in `long` responses `error_long`."""
        if long and self.error_long is not None:
            return torch.full((10,), self.error_long, dtype=torch.float64)
        hard = self.error if self.error_hard is None else self.error_hard
        return torch.tensor([self.error] * HARD_DIGIT + [hard] * (10 - HARD_DIGIT), dtype=torch.float64)


def prompts(task: ChainSum, n: int, seed: int, step: int = 0, round: int = 0, purpose: str = "train") -> Rollouts:
    """`n` prompts without hint or response, a function of (seed, purpose, step, round, row).

    Args:
        task: the knobs.
        n: number of prompts, >= 1.
        seed: the run's seed.
        step: step of the run.
        round: refill round within the step, 0 <= round < 2^20.
        purpose: prompts of different purposes ("train", "held-out") are independent draws; short prompts may coincide.

    Returns:
        `Rollouts` whose rows end with the prompt (``length == prompt_length``); `group` numbers the prompts of a step
        across its rounds.
    """
    digits, k = _digits(task, n, seed, step, round, purpose)
    ids = torch.full((n, task.longest + 1), PAD)
    ids[:, :-1] = torch.where(torch.arange(task.longest) < k[:, None], digits, PAD)
    ids[torch.arange(n), k] = EQUALS
    return Rollouts.of(ids, k + 1, k + 1, group=torch.from_numpy(_index(n, round).astype(np.int64))).trim()


def examples(task: ChainSum, n: int, seed: int, step: int = 0) -> Rollouts:
    """`n` fresh prompts with the demonstrator's responses, a share `task.hint` of them hinted: supervised batches."""
    return demonstrate(task, prompts(task, n, seed, step, purpose="examples"), seed, step)


def demonstrate(task: ChainSum, given: Rollouts, seed: int, step: int = 0, hint: float | None = None) -> Rollouts:
    """The demonstrator's responses to prompts.

    Args:
        task: the knobs.
        given: prompts; a hint and a response they already have are dropped.
        seed: the run's seed.
        step: step of the run.
        hint: probability that a prompt is hinted with the demonstrator's own answer; None: `task.hint`.

    Returns:
        `Rollouts`, right-padded with `PAD`, with `group` of `given`; noise is indexed by row, not by group.
    """
    digits, k = read_digits(given)
    n, most = digits.shape
    row = np.arange(n)[:, None]

    def noise(what: str, width: int) -> Tensor:
        return torch.from_numpy(uniform(seed, f"chain_sum/{what}", row, np.arange(width), step))

    long = (noise("mode", 1)[:, 0] < 0.5) & task.modes
    rates = torch.stack([task.error_rates(), task.error_rates(long=True)])
    wrong = noise("error", most) < rates[long.long()[:, None], digits.clamp(min=0)]
    offset = torch.where(wrong, 1 + (9 * noise("offset", most)).long(), 0)
    sums = (digits.clamp(min=0) + offset).cumsum(1) % 10
    fillers = FILLER + (FILLERS * noise("filler", most * task.fillers)).long()
    final = sums.gather(1, k[:, None] - 1)
    hinted = noise("hint", 1)[:, 0] < (task.hint if hint is None else hint)
    start = k + 1 + 3 * hinted
    response = _response(task, digits, k, sums, fillers, long)
    length = start + task.lead + k * task.widths(long)[:, 0] + 3
    column = torch.arange(int(length.max()))
    prompt = torch.full((n, most + 4), PAD)
    prompt[:, :most] = digits
    place = k[:, None] + torch.arange(4)
    prompt.scatter_(1, place, torch.cat([_full(n, EQUALS), _full(n, HINT), final, _full(n, EQUALS)], 1))
    source = torch.cat([prompt, response], 1)
    index = torch.where(column < start[:, None], column, column - start[:, None] + prompt.shape[1])
    ids = torch.where(column < length[:, None], source.gather(1, index.clamp(max=source.shape[1] - 1)), PAD)
    return Rollouts.of(ids, length, start, group=given.group)


def read_digits(rollouts: Rollouts) -> tuple[Int[Tensor, "N K"], Int[Tensor, " N"]]:
    """The prompts' digits (-1 beyond k) and k.

    Raises:
        UserError: names the first row whose prompt is not digits, "=" and perhaps a hint.
    """
    ids, start = rollouts.ids, rollouts.prompt_length
    column = torch.arange(ids.shape[1], device=ids.device)
    equals = (ids == EQUALS) & (column < start[:, None])
    k = torch.where(equals.any(1), equals.int().argmax(1), 0)
    inside = column < k[:, None]
    good = (k > 0) & ((ids < 10) | ~inside).all(1) & ((start == k + 1) | _hint_follows(rollouts, k))
    if not bool(good.all()):
        row = int((~good).nonzero()[0, 0])
        shown = text(ids[row, : int(start[row])])
        raise UserError(f"{shown!r} is no prompt of chain_sum", where=f"row {row}", allowed="digits = [? digit =]")
    most = int(k.max())
    return torch.where(inside, ids, -1)[:, :most], k


def target(rollouts: Rollouts) -> Int[Tensor, " N"]:
    """The right answer of each row: the sum of its prompt's digits mod 10."""
    return read_digits(rollouts)[0].clamp(min=0).sum(1) % 10


def verify(rollouts: Rollouts) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Read the answer of each response and judge it.

    A response answers when it ends with "#", a digit, end of sequence; what stands before is not looked at.

    Returns:
        the answer ``[N]``, -1 where there is none; the index in `reward.answer.STATUSES` ``[N]``: correct, wrong,
        unparsable (ended and has a "#", but not a digit between "#" and the end), no_answer (not ended, or no "#").
    """
    ids, length = rollouts.ids, rollouts.length
    right = target(rollouts)
    column = torch.arange(ids.shape[1], device=ids.device)
    response = (column >= rollouts.prompt_length[:, None]) & (column < length[:, None])

    def from_end(back: int, default: int = PAD) -> Tensor:
        place = length - back
        token = ids.gather(1, place.clamp(min=0)[:, None])[:, 0]
        return torch.where(place >= rollouts.prompt_length, token, default)

    ended = from_end(1) == EOS
    marked = ((ids == HASH) & response).any(1)
    answered = ended & (from_end(3) == HASH) & (from_end(2) < 10)
    answer = torch.where(answered, from_end(2), -1)
    failed = torch.where(ended & marked, STATUSES.index("unparsable"), STATUSES.index("no_answer"))
    judged = torch.where(answer == right, STATUSES.index("correct"), STATUSES.index("wrong"))
    return answer, torch.where(answered, judged, failed)


def grade(rollouts: Rollouts) -> Scores:
    """`Scores` of responses: 1 if correct, else 0; a row that is not `valid` in the rollouts stays invalid.

    Parts: `correct` and `format_ok` (bool), `status` (index in `STATUSES`).
    """
    answer, status = verify(rollouts)
    correct = status == STATUSES.index("correct")
    value = torch.where(rollouts.valid, correct.float(), torch.nan)
    errors = {int(i): "the rollout is not valid" for i in (~rollouts.valid).nonzero()[:, 0]}
    parts = {"correct": correct & rollouts.valid, "format_ok": (answer >= 0) & rollouts.valid, "status": status}
    return Scores(value, rollouts.valid, parts, errors)


def text(ids: Tensor) -> str:
    """Token ids ``[L]`` as text, e.g. "27=a22b79#9<eos>"."""
    return "".join(TOKENS[i] for i in ids.tolist())


def _hint_follows(rollouts: Rollouts, k: Tensor) -> Bool[Tensor, " N"]:
    if rollouts.ids.shape[1] < 4:
        return torch.zeros_like(k, dtype=torch.bool)
    place = (k[:, None] + torch.arange(1, 4, device=k.device)).clamp(max=rollouts.ids.shape[1] - 1)
    mark, answer, equals = rollouts.ids.gather(1, place).T
    return (rollouts.prompt_length == k + 4) & (mark == HINT) & (answer < 10) & (equals == EQUALS)


def _response(
    task: ChainSum, digits: Tensor, k: Tensor, sums: Tensor, fillers: Tensor, long: Tensor
) -> Int[Tensor, "N R"]:
    """Response tokens, `PAD` beyond their end: every place takes the token of its step and place in the step."""
    n, most = digits.shape
    checks = torch.tensor(CHECKS[: len(CHECKS) * task.modes], dtype=torch.long).expand(n, most, -1)
    steps = torch.cat([fillers.view(n, most, task.fillers), digits[..., None], sums[..., None], checks], 2)
    width, own = task.widths(long), steps.shape[2]
    place = torch.arange(most * own)
    index = (place // width * own + place % width).clamp(max=most * own - 1)
    body = torch.where(place < k[:, None] * width, steps.flatten(1).gather(1, index), PAD)
    out = torch.cat([torch.where(long, LONG, SHORT)[:, None][:, : task.lead], body, torch.full((n, 3), PAD)], 1)
    end = torch.cat([_full(n, HASH), sums.gather(1, k[:, None] - 1), _full(n, EOS)], 1)
    out.scatter_(1, task.lead + k[:, None] * width + torch.arange(3), end)
    return out


def _digits(task: ChainSum, n: int, seed: int, step: int, round: int, purpose: str) -> tuple[Tensor, Tensor]:
    if n < 1:
        raise UserError(f"{n} prompts were asked for", where="chain_sum", allowed="1 or more")
    row = _index(n, round)
    draws = uniform(seed, f"chain_sum/{purpose}/digit", row[:, None], np.arange(task.longest), step)
    size = uniform(seed, f"chain_sum/{purpose}/k", row, step=step)
    k = task.shortest + np.floor(size * (task.longest - task.shortest + 1)).astype(np.int64)
    return torch.from_numpy(np.floor(draws * 10).astype(np.int64)), torch.from_numpy(k)


def _index(n: int, round: int) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    if not 0 <= round < MAX_ROUND:
        raise UserError(f"round {round} is out of range", where="chain_sum", allowed=f"0 to {MAX_ROUND - 1}")
    return np.arange(n, dtype=np.uint64) + (np.uint64(round) << np.uint64(32))


def _full(n: int, token: int) -> Tensor:
    return torch.full((n, 1), token)
