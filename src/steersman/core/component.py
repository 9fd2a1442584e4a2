"""What a part of a method is: a frozen record of its hyperparameters, the streams it needs and the streams it gives.

Calling a component applies the pure function that stands next to it. Unions of components are written out where they
are used (`recipes`), so nothing is registered by being imported. Leaves out: loops and forward passes (`train`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from steersman.core.errors import UserError
from steersman.core.streams import STREAMS, check_name
from steersman.core.types import Rollouts


class Component(BaseModel):
    """Base of everything a recipe can name; subclasses add ``kind: Literal[...]`` and hyperparameters.

    `needs` and `gives` are names of streams (`core.streams.STREAMS`); a needed stream that nothing gives makes the
    pipeline be refused before any compute.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """When in a run something happens: what schedules and noise are functions of.

    Args:
        seed: the run's seed.
        step: optimiser steps done before.
        total: optimiser steps of the whole run.
        round: refill round within the step.
    """

    seed: int = 0
    step: int = 0
    total: int = 1
    round: int = 0


START = Moment()


@dataclass(frozen=True, slots=True)
class Hinted:
    """A prompt with something more in it, which the task's world puts into tokens.

    Args:
        prompt: token ids of the row's own prompt, as sampled from.
        row: the grader's; its `prompt` is the text or the conversation, its `id` names it in messages.
        place: "after_prompt" = the text stands behind the prompt's own tokens; "in_user_turn" = it is the last turn of
            the user, or the whole prompt where that is plain text.
        text: with `{answer}` or `{feedback}` or both, and in a turn with `{prompt}` for what stood there.
        answer: what comes for `{answer}`: text, or token ids.
        behind: of an answer of token ids only the text behind the last of these; empty = all of it.
        feedback: what comes for `{feedback}`.
    """

    prompt: tuple[int, ...]
    row: Mapping[str, Any]
    place: Literal["after_prompt", "in_user_turn"]
    text: str
    answer: str | tuple[int, ...]
    behind: str = ""
    feedback: str = ""


Before = Callable[[Rollouts, Sequence[Mapping[str, Any]]], Sequence[Any]]
"""From the whole batch and the grader's row of each rollout to what stands before each response: text, turns, token
ids, `Hinted`, or None where there is nothing to score (in a pass that is `optional`)."""


@dataclass(frozen=True, slots=True)
class Form:
    """Which divergence of the policy's next-token distribution p from another one q (`objective.divergence`).

    Args:
        kind: reverse_kl = KL(p || q), forward_kl = KL(q || p), jsd = Jensen-Shannon with weight `beta` of q, sampled =
            log p - log q of the token that was drawn, whose gradient is in expectation that of reverse_kl.
        beta: of jsd, in (0, 1).
        top_k: the k likeliest tokens one by one and all others as one; None = the whole vocabulary.
        impossible: what becomes of tokens to which q gives no chance at all: an error, or left out of p and q.
        of: whose likeliest tokens top_k counts, those of p or of q.
        tail: whether the others count, as one; without them p and q are those of the k alone.
    """

    kind: Literal["reverse_kl", "forward_kl", "jsd", "sampled"] = "reverse_kl"
    beta: float = 0.5
    top_k: int | None = None
    impossible: Literal["refuse", "leave_out"] = "refuse"
    of: Literal["policy", "teacher"] = "policy"
    tail: bool = True


@dataclass(frozen=True, slots=True)
class Tail:
    """Tokens that can be told while a row grows: the last ones of its prompt, or of what the policy drew.

    Args:
        of: where they are.
        most: so many of them, >= 1.
        ends: of a response only those before the first place where these token ids stand in a row; empty = all.
    """

    of: Literal["prompt", "response"]
    most: int
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward pass that a stage asks for; the loop runs it, once, when the stage is reached and on those rows only.

    Args:
        stream: the stream it gives, zeros in rows it leaves out.
        by: whose pass: the live policy at rollout weights, the frozen reference, the critic, the teacher.
        quantity: what is asked: log-probability or entropy of each response token, the hidden state that predicts it,
            the critic's value before it, or how far the policy behind the row's own prompt is from `by` behind
            `before` (`form`).
        before: what stands before the response tokens instead of the row's own prompt; None = the prompt. The response
            keeps its token ids. It is asked about all rows, and those that are not in `rows` are not put into tokens.
        rows: which rows need it, bool ``[N]`` from the rollouts; None = all.
        optional: rows for which `before` gives None, or which would exceed the model's context, get NaN; otherwise they
            are an error.
        layer: of hidden states: of n layers that after `layer` of them, 0 to n, as `transformers` numbers its
            ``hidden_states``; a float below 1 = that share of the depth, rounded; None = the last.
        pool: tokens of each row, bool ``[N, L]`` from the rollouts, over which hidden states or entropies are averaged;
            the stream is then a vector or a number a row, 0 where a row has no such token. Hidden states are those *at*
            the tokens, entropies those of the distributions the tokens are predicted with. Must compare equal to itself
            (a function or a frozen dataclass), depend on each row alone, and read nothing beside ids and lengths,
            ``action``, ``forced`` and ``stop``. One with a `tail` (`Tail`, or None) that names the same tokens lets the
            sampler take the mean of hidden states while it draws.
        form: which divergence.
    """

    stream: str
    by: Literal["policy", "reference", "critic", "teacher"] = "policy"
    quantity: Literal["logp", "entropy", "hidden", "value", "divergence"] = "logp"
    before: Before | None = None
    rows: Callable[[Rollouts], Tensor] | None = None
    optional: bool = False
    layer: int | float | None = None
    pool: Callable[[Rollouts], Tensor] | None = None
    form: Form = Form()


OWN_PASSES: dict[str, Pass] = {
    "logp_old": Pass("logp_old"),
    "entropy": Pass("entropy", quantity="entropy"),
    "hidden": Pass("hidden", quantity="hidden"),
    "logp_ref": Pass("logp_ref", by="reference"),
    "value": Pass("value", by="critic", quantity="value"),
    "value_end": Pass("value_end", by="critic", quantity="value"),
}
"""The passes over the rollouts as they are, which every stage may count on by naming the stream in `needs`."""


class Stage(Component):
    """A component that maps a whole step's rollouts to rollouts; it may drop or repeat rows and write streams.

    `fields` names the optional fields of the rollouts that it reads (``correct``, ``answer``, ``logp_behaviour``).
    `columns` names the columns of a prompt's row that its passes show, which no prompt may lack.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[str, ...]] = ()

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        """Return the changed rollouts and metrics; the base class is the identity."""
        return rollouts, {}

    def passes(self) -> tuple[Pass, ...]:
        """Forward passes under other contexts that must have run before the stage is called."""
        return ()

    def passes_now(self, at: Moment) -> tuple[Pass, ...]:
        """Those of `passes` that are needed at this moment; all, unless the stage follows a schedule."""
        return self.passes()

    def most_rounds(self) -> int:
        """Refill rounds that a stage which drops whole groups may ask for; the first of a step counts."""
        return 1

    def check_kept(self, kept: int, wanted: int) -> None:
        """Called with the groups kept after the last round; a stage that will not go on with fewer raises."""

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
        stages: components in the order they will run; a stage's own passes (`Stage.passes`) count as given to it.
        given: streams that exist before the first of them (from the sampler or planned forward passes).

    Returns:
        All streams that exist after the last stage.

    Raises:
        UserError: names the stage, the missing stream, who gives it, and whether it stands too late in the list.
    """
    have = set(given)
    for place, stage in enumerate(stages):
        name = type(stage).__name__
        asked = [p.stream for p in stage.passes()] if isinstance(stage, Stage) else []
        have |= set(asked)
        for stream in (*stage.needs, *stage.gives, *asked):
            check_name(stream, f"{name} names", f"stages[{place}]")
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
