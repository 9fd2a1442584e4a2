"""Which tokens of a rollout tell what it is worth, and what is read at them: the features of POISE's probe.

A response is reasoning up to the token ids that end it (``</think>``, or "#" in the running sums), and the answer
behind them; without such an end all of it is reasoning. Only tokens drawn by the policy count, never prompt or padding.
Leaves out: hidden states themselves (planned passes), the regression (`advantage.ridge`).
Source: arXiv 2605.07579, section 3.1 and appendix B.3. The paper does not define its three entropies; both readings
are here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steersman.core.component import Tail
from steersman.core.types import Rollouts


@dataclass(frozen=True, slots=True)
class PromptEnd:
    """The last `most` tokens of the prompts; `predicted` = without the first of a row, which nothing predicts."""

    most: int
    predicted: bool = False

    @property
    def tail(self) -> Tail | None:
        """The same tokens for a sampler."""
        return None if self.predicted else Tail("prompt", self.most)

    def __call__(self, rollouts: Rollouts) -> Bool[Tensor, "N L"]:
        """Which tokens they are."""
        column = torch.arange(rollouts.ids.shape[1], device=rollouts.ids.device)
        end = rollouts.prompt_length[:, None]
        return (column >= (end - self.most).clamp(min=int(self.predicted))) & (column < end)


@dataclass(frozen=True, slots=True)
class ReasoningEnd:
    """The last `most` tokens of the reasoning, which `ends` (token ids in a row) end."""

    most: int
    ends: tuple[int, ...] = ()

    @property
    def tail(self) -> Tail:
        """The same tokens for a sampler."""
        return Tail("response", self.most, self.ends)

    def __call__(self, rollouts: Rollouts) -> Bool[Tensor, "N L"]:
        """Which tokens they are."""
        reasoning, _, _ = segments(rollouts, self.ends)
        left = reasoning.flip(1).cumsum(1).flip(1)
        return reasoning & (left <= self.most)


def segments(
    rollouts: Rollouts, ends: tuple[int, ...] = ()
) -> tuple[Bool[Tensor, "N L"], Bool[Tensor, "N L"], Bool[Tensor, " N"]]:
    """The tokens of each response before and behind the first place where `ends` stand, and whether they do.

    Args:
        rollouts: N rows.
        ends: token ids in a row; none = the whole response is reasoning.

    Returns:
        ``(reasoning, answer, ended)``: actions before the end, actions behind it, rows that have one. Where it is
        missing (the response was cut, or its form is another) everything is reasoning.
    """
    ids, action = rollouts.ids, rollouts.action
    n, width = ids.shape
    size = len(ends)
    if not size or width < size:
        return action, torch.zeros_like(action), torch.zeros(n, dtype=torch.bool, device=ids.device)
    here = torch.ones(n, width - size + 1, dtype=torch.bool, device=ids.device)
    for i, token in enumerate(ends):
        place = slice(i, width - size + 1 + i)
        here &= (ids[:, place] == token) & action[:, place]
    ended = here.any(1)
    column = torch.arange(width, device=ids.device)
    first = torch.where(ended, here.int().argmax(1), width)[:, None]
    return action & (column < first), action & (column >= first + size), ended


def moments(entropy: Float[Tensor, "N L"], mask: Bool[Tensor, "N L"]) -> Float[Tensor, "N 3"]:
    """Mean, population deviation and maximum of the entropies of each row's tokens; 0 for a row without any.

    Args:
        entropy: nats.
        mask: tokens that count; the entropies of others may be anything.
    """
    kept = torch.where(mask, entropy, 0.0).double()
    n = mask.sum(1).clamp(min=1)
    mean = kept.sum(1) / n
    spread = torch.where(mask, kept - mean[:, None], 0.0).square().sum(1) / n
    return torch.stack([mean, spread.sqrt(), kept.amax(1).clamp(min=0)], 1)


def segment_means(
    entropy: Float[Tensor, "N L"],
    prompt: Float[Tensor, " N"],
    reasoning: Bool[Tensor, "N L"],
    answer: Bool[Tensor, "N L"],
) -> Float[Tensor, "N 5"]:
    """Mean entropies of prompt, reasoning and answer, and whether the latter two are there (1) or empty (0).

    Args:
        entropy: of the response tokens, nats.
        prompt: mean of the prompt's last tokens.
        reasoning, answer: tokens of the segments; the mean of an empty one is 0.
    """
    means = [moments(entropy, mask)[:, 0] for mask in (reasoning, answer)]
    there = [mask.any(1).double() for mask in (reasoning, answer)]
    return torch.stack([prompt.double(), *means, *there], 1)
