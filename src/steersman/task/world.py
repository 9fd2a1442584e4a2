"""What a policy that writes text is trained on: prompts, and a grader of the responses to them.

A world is the one thing a loop knows of a task. Prompts are a function of (seed, step, round), so a loop keeps no data
position. Leaves out: the worlds themselves (`worlds`), sampling (`language`), what is made of grades (`objective`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Int
from torch import Tensor

from steersman.core.types import Rollouts
from steersman.reward.verifiable import Graded, Row


@dataclass(frozen=True, slots=True)
class Prompts:
    """P prompts of one step.

    Args:
        ids: token ids of each.
        group: a number for each ``[P]``, distinct within a step: ``round << 32 | place in its round``.
        rows: what the grader needs of each, as JSON values; `id` names it in messages.
    """

    ids: tuple[tuple[int, ...], ...]
    group: Int[Tensor, " P"]
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.ids)


def grades(world: "World") -> bool:
    """Whether a world says what responses are worth; one that does not is enough where a teacher does."""
    return bool(getattr(world, "grades", True))


class World(Protocol):
    """Prompts and their grader."""

    @property
    def gives(self) -> tuple[str, ...]:
        """Optional fields of `Rollouts` that grading fills: ``correct``, ``answer``, ``feedback``."""
        ...

    def draw(self, n: int, seed: int, step: int, round: int = 0) -> Prompts:
        """`n` training prompts, a function of the arguments."""
        ...

    def held_out(self, n: int | None = None) -> Prompts | None:
        """The first `n` prompts of evaluation, always the same ones (None = all); None where there are none."""
        ...

    def grade(self, rollouts: Rollouts, rows: Sequence[Row]) -> Graded:
        """Grade responses; ``rows[i]`` is the prompt's row of rollout i, and the grader's failures are invalid."""
        ...

    def texts(self, rollouts: Rollouts) -> list[tuple[str, str]]:
        """(prompt, response) of each row as people read them."""
        ...

    def pieces(self, rollouts: Rollouts) -> list[list[str]]:
        """The text that each real token of a row adds, special tokens spelt out."""
        ...

    def encode(self, before: Sequence[Any]) -> list[list[int]]:
        """Token ids of what a stage wants to stand before responses: texts, conversations, or ids already."""
        ...

    def close(self) -> None:
        """End the grader's processes."""
        ...
