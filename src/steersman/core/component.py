"""What a part of a method is: a frozen record of its hyperparameters, the streams it needs and the streams it gives.

Calling a component applies the pure function that stands next to it. Unions of components are written out where they
are used (`recipes`), so nothing is registered by being imported. Leaves out: loops and forward passes (`train`).
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from steersman.core.errors import UserError
from steersman.core.streams import STREAMS
from steersman.core.types import Rollouts


class Component(BaseModel):
    """Base of everything a recipe can name; subclasses add ``kind: Literal[...]`` and hyperparameters.

    `needs` and `gives` are names of streams (`core.streams.STREAMS`); a needed stream that nothing gives makes the
    pipeline be refused before any compute.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()


class Stage(Component):
    """A component that maps a whole step's rollouts to rollouts; it may drop or repeat rows and write streams."""

    def __call__(self, rollouts: Rollouts) -> tuple[Rollouts, dict[str, float]]:
        """Return the changed rollouts and metrics; the base class is the identity."""
        return rollouts, {}

    def state_dict(self) -> dict[str, Any]:
        """What the stage remembers between steps, as tensors and JSON values; empty for a stateless stage."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; a stateless stage refuses anything but an empty state."""
        if state:
            raise UserError(f"{type(self).__name__} keeps no state but was given {sorted(state)}")


def check_pipeline(stages: Sequence[Component], given: Iterable[str]) -> frozenset[str]:
    """Refuse an order of stages in which one needs a stream that nothing before it gives.

    Args:
        stages: components in the order they will run.
        given: streams that exist before the first of them (from the sampler or planned forward passes).

    Returns:
        All streams that exist after the last stage.

    Raises:
        UserError: names the stage, the missing stream, who gives it, and whether it stands too late in the list.
    """
    have = set(given)
    for place, stage in enumerate(stages):
        name = type(stage).__name__
        for stream in (*stage.needs, *stage.gives):
            if stream not in STREAMS:
                near = get_close_matches(stream, STREAMS, n=1)
                raise UserError(
                    f"{name} names the unknown stream {stream!r}",
                    where=f"stages[{place}]",
                    cure=f"Did you mean {near[0]!r}?" if near else "",
                )
        for stream in stage.needs:
            if stream in have:
                continue
            later = [type(s).__name__ for s in stages[place + 1 :] if stream in s.gives]
            cure = f"Move {later[0]} before it." if later else f"It is given by: {STREAMS[stream].given_by}."
            raise UserError(
                f"{name} needs {stream!r}, which nothing before it gives", where=f"stages[{place}]", cure=cure
            )
        have |= set(stage.gives)
    return frozenset(have)
