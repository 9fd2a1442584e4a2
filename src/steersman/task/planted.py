"""The planted-quadrant testbed: what a student gets wrong, and how sure it is of it, is known token by token.

Prompt: three digits a2 a1 a0, an operation, three digits b2 b1 b0, "=". Response, least significant digit first: four
times a format word (".", ":", ";", "," in this order), one of eight synonyms, a digit of the result; then end of
sequence. "+" (80 % of the prompts) is addition, "x" the absolute difference digit by digit, whose fourth digit is 0.

The teacher is known in closed form (`PlantedTeacher`): the right digit and format at every place, whatever the student
wrote before, a mildly tilted choice of synonyms, and a floor spread over the vocabulary. The student imitates a
corrupted generator (`examples`), so that each kind of token lies in one quadrant of entropy and divergence:

    carry     a digit that receives a carry; the generator forgets it in 90 %      sure and wrong       Q3
    times     a digit under "x"; the generator guesses in 60 %                     unsure and wrong     Q1
    synonym   uniform, the teacher's choice is tilted                              unsure, nearly right Q2
    plain     digits without a carry, format words, the end                        sure and right       Q4

Everything is a function of (seed, step, round, row). Leaves out: the world (`planted_world`), training.
Source: designed here for TIP, arXiv 2604.14084, table 1; figures of a pilot stand in the study.
"""

from enum import IntEnum
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from steersman.core.component import Component
from steersman.core.errors import UserError
from steersman.core.noise import uniform
from steersman.core.types import Rollouts, Scores
from steersman.reward.answer import STATUSES
from steersman.task.chain_sum import MAX_ROUND

DIGITS, GROUP = 3, 3
"""Digits of an operand, and tokens of a group: format word, synonym, digit."""
PLACES = DIGITS + 1
PROMPT, RESPONSE = 2 * DIGITS + 2, GROUP * PLACES + 1
PLUS, TIMES, EQUALS, FORMAT, SYNONYM, SYNONYMS, EOS, PAD, VOCABULARY = 10, 11, 12, 13, 17, 8, 25, 26, 27
"""Ids: 0-9 are the digits; first of the four format words; first synonym and their number; number of all."""
TOKENS = (*"0123456789+x=.:;,abcdefgh", "<eos>", "<pad>")
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Kind(IntEnum):
    """What a response token is, by its place and prompt."""

    OTHER = 0
    PLAIN = 1
    CARRY = 2
    TIMES = 3
    SYNONYM = 4


class Planted(Component):
    """The task's knobs; a record that the functions below take."""

    kind: Literal["planted"] = "planted"
    base: int = Field(5, ge=2, le=10, description="of the digits")
    times: Share = Field(0.2, description="share of prompts with digit-wise differences")
    carried: Share = Field(0.1, description="share of carries that the student's generator gets right")
    guessed: Share = Field(0.6, description="share of digits under x that it guesses")
    tilt: float = Field(0.9, ge=0.0, le=10.0, description="nats between the teacher's last and first synonym")
    floor: float = Field(2e-3, gt=0.0, lt=1.0, description="probability that the teacher spreads over the vocabulary")

    @property
    def max_response(self) -> int:
        """Tokens of a right response, its end of sequence included."""
        return RESPONSE


def prompts(task: Planted, n: int, seed: int, step: int = 0, round: int = 0, purpose: str = "train") -> Rollouts:
    """`n` prompts, a function of (seed, purpose, step, round, row); `group` numbers those of a step.

    Raises:
        UserError: no prompt, or a round out of range.
    """
    if n < 1 or not 0 <= round < MAX_ROUND:
        raise UserError(f"{n} prompts of round {round}", where="planted", allowed=f"1 or more, 0 to {MAX_ROUND - 1}")
    row = np.arange(n, dtype=np.uint64) + (np.uint64(round) << np.uint64(32))
    draw = torch.from_numpy(uniform(seed, f"planted/{purpose}", row[:, None], np.arange(2 * DIGITS + 1), step))
    digits = (task.base * draw[:, :-1]).long()
    operation = torch.where(draw[:, -1:] < task.times, TIMES, PLUS)
    end = torch.full((n, 1), EQUALS)
    ids = torch.cat([digits[:, :DIGITS], operation, digits[:, DIGITS:], end], 1)
    length = torch.full((n,), PROMPT)
    return Rollouts.of(ids, length, length, group=torch.from_numpy(row.astype(np.int64)))


def truth(task: Planted, ids: Int[Tensor, "N L"]) -> tuple[Tensor, Tensor, Tensor]:
    """What the prompts ask for.

    Args:
        task: the knobs.
        ids: rows that begin with a prompt.

    Returns:
        The right digits ``[N, 4]``, least significant first; which of them receive a carry; which rows are under "x"
        ``[N]``.

    Raises:
        UserError: names the first row that does not begin with a prompt.
    """
    if ids.shape[1] < PROMPT:
        raise UserError(f"rows have {ids.shape[1]} tokens", where="planted", allowed=f"prompts of {PROMPT}")
    head = ids[:, :PROMPT]
    a, b = head[:, :DIGITS].flip(1), head[:, DIGITS + 1 : PROMPT - 1].flip(1)
    operation = head[:, DIGITS]
    good = (torch.cat([a, b], 1) < task.base).all(1) & (head[:, -1] == EQUALS)
    good &= (operation == PLUS) | (operation == TIMES)
    if not bool(good.all()):
        row = int((~good).nonzero()[0, 0])
        raise UserError(f"{text(head[row])!r} is no prompt of planted", where=f"row {row}", allowed="ddd + ddd =")
    times, sums, carry = operation == TIMES, [], [torch.zeros_like(a[:, 0])]
    for i in range(DIGITS):
        total = a[:, i] + b[:, i] + carry[-1]
        sums.append(total % task.base)
        carry.append(total // task.base)
    none = torch.zeros_like(a[:, :1])
    right = torch.where(times[:, None], torch.cat([(a - b).abs(), none], 1), torch.stack([*sums, carry[-1]], 1))
    return right, (torch.stack(carry, 1) > 0) & ~times[:, None], times


def examples(task: Planted, n: int, seed: int, step: int = 0) -> Rollouts:
    """`n` fresh prompts with the corrupted generator's responses: what the student imitates."""
    given = prompts(task, n, seed, step, purpose="examples")
    right, carry, times = truth(task, given.ids)
    row = np.arange(n)[:, None]

    def noise(what: str) -> Tensor:
        return torch.from_numpy(uniform(seed, f"planted/{what}", row, np.arange(PLACES), step))

    forgets = carry & (noise("carry") >= task.carried)
    guesses = times[:, None] & (noise("guesses") < task.guessed)
    written = torch.where(forgets, (right - 1) % task.base, right)
    written = torch.where(guesses, (task.base * noise("guess")).long(), written)
    synonyms = SYNONYM + (SYNONYMS * noise("synonym")).long()
    words = (FORMAT + torch.arange(PLACES)).expand(n, PLACES)
    groups = torch.stack([words, synonyms, written], 2).flatten(1)
    ids = torch.cat([given.ids, groups, torch.full((n, 1), EOS)], 1)
    return Rollouts.of(ids, torch.full((n,), PROMPT + RESPONSE), given.prompt_length, group=given.group)


def kinds(task: Planted, rollouts: Rollouts) -> Int[Tensor, "N L"]:
    """`Kind` of each response token by its place; `OTHER` in prompts and padding, and beyond the place of the end."""
    _, carry, times = truth(task, rollouts.ids)
    column = torch.arange(rollouts.ids.shape[1], device=rollouts.ids.device)
    place = (column - PROMPT).expand(rollouts.ids.shape)
    digit = (place // GROUP).clamp(0, PLACES - 1)
    of_digit = torch.where(carry.gather(1, digit), Kind.CARRY, torch.where(times[:, None], Kind.TIMES, Kind.PLAIN))
    found = torch.full_like(rollouts.ids, int(Kind.PLAIN))
    found = torch.where(place % GROUP == 1, Kind.SYNONYM, torch.where(place % GROUP == 2, of_digit, found))
    found = torch.where(place == RESPONSE - 1, Kind.PLAIN, found)
    inside = (place >= 0) & (place < RESPONSE) & (column < rollouts.length[:, None])
    return torch.where(inside, found, Kind.OTHER)


def written_digits(rollouts: Rollouts) -> Int[Tensor, "N 4"]:
    """The tokens at the places of digits, `PAD` where the response ended before."""
    place = (PROMPT + torch.arange(PLACES, device=rollouts.ids.device) * GROUP + 2).expand(len(rollouts), PLACES)
    token = rollouts.ids.gather(1, place.clamp(max=rollouts.ids.shape[1] - 1))
    return torch.where(place < rollouts.length[:, None], token, PAD)


def formatted(rollouts: Rollouts) -> Bool[Tensor, " N"]:
    """Whether a response is four groups of format word, synonym, digit, and the end."""
    wide = rollouts.widen(PROMPT + RESPONSE)
    body = wide.ids[:, PROMPT : PROMPT + RESPONSE - 1].view(-1, PLACES, GROUP)
    word, synonym, digit = body.unbind(2)
    good = (
        (word == FORMAT + torch.arange(PLACES, device=word.device))
        & (synonym >= SYNONYM)
        & (synonym < SYNONYM + SYNONYMS)
        & (digit < 10)
    )
    ended = (wide.ids[:, PROMPT + RESPONSE - 1] == EOS) & (rollouts.length == PROMPT + RESPONSE)
    return good.all(1) & ended


def grade(task: Planted, rollouts: Rollouts) -> Scores:
    """1 for a well-formed response with four right digits, else 0; a row that is not `valid` stays invalid.

    Parts: `correct` and `format_ok` (bool), `status` (index in `STATUSES`).
    """
    right, _, _ = truth(task, rollouts.ids)
    shaped = formatted(rollouts)
    correct = shaped & (written_digits(rollouts) == right).all(1)
    judged = torch.where(correct, STATUSES.index("correct"), STATUSES.index("wrong"))
    status = torch.where(shaped, judged, STATUSES.index("unparsable"))
    value = torch.where(rollouts.valid, correct.float(), torch.nan)
    errors = {int(i): "the rollout is not valid" for i in (~rollouts.valid).nonzero()[:, 0]}
    parts = {"correct": correct & rollouts.valid, "format_ok": shaped & rollouts.valid, "status": status}
    return Scores(value, rollouts.valid, parts, errors)


def text(ids: Tensor) -> str:
    """Token ids ``[L]`` as text, e.g. "012+044=.a1:c1;b1,h0<eos>"."""
    return "".join(TOKENS[i] for i in ids.tolist())


class PlantedTeacher:
    """The teacher in closed form: what to write at a place does not depend on what was written before it.

    Args:
        task: the knobs.
    """

    vocabulary = VOCABULARY

    def __init__(self, task: Planted) -> None:
        self.task = task

    def log_probs(self, ids: Int[Tensor, "C L"], length: Int[Tensor, " C"]) -> Float[Tensor, "C V"]:
        """Log-probabilities of the token after ``ids[c, :length[c]]``; after the right length it is the end.

        Raises:
            UserError: a context that ends inside a prompt, or does not begin with one.
        """
        if bool((length < PROMPT).any()):
            raise UserError("a context ends inside the prompt", where="PlantedTeacher", allowed=f"{PROMPT} or more")
        wide = torch.nn.functional.pad(ids, (0, max(PROMPT - ids.shape[1], 0)), value=PAD)
        right, _, _ = truth(self.task, wide)
        place = length - PROMPT
        group = (place // GROUP).clamp(max=PLACES - 1)
        token = torch.where(place % GROUP == 2, right.gather(1, group[:, None])[:, 0], FORMAT + group)
        token = torch.where(place >= RESPONSE - 1, EOS, token)
        sure = torch.nn.functional.one_hot(token, VOCABULARY).double()
        lean = (self.task.tilt * torch.linspace(0, 1, SYNONYMS, dtype=torch.float64)).softmax(0)
        choice = torch.zeros(VOCABULARY, dtype=torch.float64, device=ids.device)
        choice[SYNONYM : SYNONYM + SYNONYMS] = lean.to(ids.device)
        open_ = (place % GROUP == 1) & (place < RESPONSE - 1)
        ideal = torch.where(open_[:, None], choice, sure)
        return ((1 - self.task.floor) * ideal + self.task.floor / VOCABULARY).log().float()
