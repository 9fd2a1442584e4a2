"""The one table of named tensors that travel with rollouts: name, shape, unit, who gives it.

A stage declares its `needs` and `gives` by these names. Leaves out: the tensors themselves (`Rollouts.streams`).
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from torch import Tensor

from steersman.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Stream:
    """One named tensor: `shape` says of what: "N L" a value a token, "N" a value a row, "N L D" and "N D" vectors."""

    shape: Literal["N L", "N", "N L D", "N D"]
    unit: str
    given_by: str
    signed: bool
    meaning: str


STREAMS: dict[str, Stream] = {
    "token_reward": Stream("N L", "reward", "reward stages", True, "reward that falls due at a token"),
    "logp": Stream("N L", "nats", "a scoring pass of the policy", False, "log-probability under the live policy"),
    "logp_old": Stream("N L", "nats", "the scoring pass at rollout weights", False, "log-probability when sampled"),
    "logp_ref": Stream("N L", "nats", "the frozen reference", False, "log-probability under the reference"),
    "log_ratio": Stream("N L", "nats", "logp and logp_ref", True, "log-probability gained over the reference"),
    "entropy": Stream("N L", "nats", "any scoring pass", False, "entropy of the distribution the token was drawn from"),
    "value": Stream("N L", "reward", "a critic", True, "expected return before the token"),
    "value_end": Stream("N", "reward", "a critic", True, "expected return after the last token of a row that was cut"),
    "returns": Stream("N L", "reward", "advantage stages with a critic", True, "what the critic is fitted to"),
    "advantage_row": Stream("N", "reward", "advantage stages", True, "advantage of the whole response"),
    "advantage": Stream("N L", "reward", "advantage and credit stages", True, "advantage of a token"),
    "token_weight": Stream("N L", "1", "selection stages", False, "weight of a token in the loss"),
    "logp_teacher": Stream("N L", "nats", "a teacher or another context", False, "log-probability under a teacher"),
    "logp_teacher_wrong": Stream(
        "N L", "nats", "a second context", False, "log-probability under a teacher that was shown a wrong answer"
    ),
    "divergence": Stream("N L", "nats", "a loss that distils", False, "KL(policy || teacher) at a token"),
    "divergence_forward": Stream("N L", "nats", "a loss that distils", False, "KL(teacher || policy) at a token"),
    "divergence_jsd": Stream("N L", "nats", "a teacher", False, "Jensen-Shannon divergence of policy and teacher"),
    "taught": Stream("N", "1", "a loss that distils", False, "1 = a teacher can judge the row, 0 = it cannot"),
    "hidden": Stream("N L D", "1", "hidden-state capture", True, "hidden state that predicts the token"),
    "hidden_prompt": Stream("N D", "1", "hidden-state capture", True, "mean hidden state of the prompt's last tokens"),
    "hidden_reasoning": Stream(
        "N D", "1", "hidden-state capture", True, "mean hidden state of the last tokens before the final answer"
    ),
    "entropy_prompt": Stream("N", "nats", "hidden-state capture", False, "mean entropy at the prompt's last tokens"),
}


def per_token(name: str) -> bool:
    """Whether the second dimension of a stream is tokens."""
    return "L" in STREAMS[name].shape


def check_name(name: str, what: str = "", where: str = "streams") -> None:
    """Refuse a name that is not in the table; `what` says who used it."""
    if name not in STREAMS:
        near = get_close_matches(name, STREAMS, n=1)
        found = f"{what} the unknown stream {name!r}" if what else f"unknown stream {name!r}"
        cure = f"Did you mean {near[0]!r}?" if near else ""
        raise UserError(found, where=where, allowed=", ".join(STREAMS), cure=cure)


def check_stream(name: str, value: Tensor, n: int, width: int) -> None:
    """Refuse a stream that is not in the table or whose leading sizes are not `n` rows by `width` tokens."""
    check_name(name)
    shape = STREAMS[name].shape
    expected = (n, width) if per_token(name) else (n,)
    if tuple(value.shape[: len(expected)]) != expected or value.ndim != len(shape.split()):
        raise UserError(f"has shape {tuple(value.shape)}, expected [{shape}]", where=f"streams.{name}")
