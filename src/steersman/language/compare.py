"""How far a policy is from another model, or from itself behind another text, at chosen tokens of responses.

The two see the same response tokens, each behind its own prompt; the distribution for a token is what stands at the
place before it *in the same row*. Only the chosen tokens go through the heads (`head_divergence`). An analytic
policy can take the second model's place.
Leaves out: which tokens, and what is learnt from it (`train`).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from steersman.core.component import Form
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.head import token_logp
from steersman.language.head_divergence import Head, Side, token_divergence
from steersman.language.pack import take
from steersman.language.score import predicted
from steersman.language.trunk import capability, last_hidden, logits_of, output_weight


class Teacher(Protocol):
    """A policy known in closed form; anything with these two can teach, no model is needed."""

    vocabulary: int
    """Number of tokens V; ids mean what they mean to the policy that is taught."""

    def log_probs(self, ids: Int[Tensor, "C L"], length: Int[Tensor, " C"]) -> Float[Tensor, "C V"]:
        """Log-probabilities of the next token after each of C contexts, ``ids[c, :length[c]]``, prompt included."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """An analytic policy at T tokens: the contexts are the rows' own tokens before each."""

    teacher: Teacher
    ids: Int[Tensor, "N L"]
    rows: Int[Tensor, " T"]
    columns: Int[Tensor, " T"]
    temperature: float = 1.0

    @property
    def vocabulary(self) -> int:
        """Number of tokens V."""
        return self.teacher.vocabulary

    def logits(self, here: slice) -> Float[Tensor, "t V"]:
        """Log-probabilities at the tokens `here`, divided by the temperature."""
        ids, length = self.ids[self.rows[here]], self.columns[here]
        with torch.no_grad():
            found = self.teacher.log_probs(ids, length)
        if tuple(found.shape) != (len(length), self.vocabulary):
            what = f"log_probs gave {tuple(found.shape)} for {len(length)} contexts"
            raise UserError(what, where=type(self.teacher).__name__, allowed=f"[{len(length)}, {self.vocabulary}]")
        return found.to(ids.device).float() / self.temperature


def places(
    chosen: Bool[Tensor, "N L"], rollouts: Rollouts, shown: Rollouts
) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"]]:
    """Rows and columns in `shown`, the same responses behind other prompts, of the tokens chosen in `rollouts`."""
    rows, columns = predicted(chosen, rollouts.length)
    return rows, columns - rollouts.prompt_length[rows] + shown.prompt_length[rows]


@torch.no_grad()
def other_side(model: nn.Module, shown: Rollouts, rows: Tensor, columns: Tensor, temperature: float = 1.0) -> Head:
    """The second model at given tokens, detached; every process runs one call of the trunk, tokens or none."""
    return _Stream(model, shown, temperature).at(rows, columns, detach=True)


class _Stream:
    """One pass of a trunk over rows, and the head behind it."""

    def __init__(self, model: nn.Module, rollouts: Rollouts, temperature: float) -> None:
        self.ids, how = rollouts.ids, capability(model)
        self.form = {"temperature": temperature}
        self.weight = self.bias = None
        if how.tiled_head:
            self.hidden, self.where = last_hidden(model, rollouts.ids, rollouts.length, rollouts.prompt_length)
            self.weight, self.bias = output_weight(model, self.hidden.shape[1])
            self.form |= {"scale": how.scale, "softcap": how.softcap}  # type: ignore[dict-item]
        else:
            self.hidden, self.where = logits_of(model, rollouts.ids, rollouts.length)

    def at(self, rows: Tensor, columns: Tensor, detach: bool = False) -> Head:
        """The head with the hidden states that predict some tokens."""
        parts = take(self.hidden, self.where[rows, columns - 1]), self.weight, self.bias
        hidden, weight, bias = (x if x is None or not detach else x.detach() for x in parts)
        assert hidden is not None
        return Head(hidden, weight, bias, **self.form)  # type: ignore[arg-type]

    def logp(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability with gradients and entropy of some tokens."""
        head, targets = self.at(rows, columns), self.ids[rows, columns]
        if head.weight is not None:
            return token_logp(head.hidden, head.weight, targets, bias=head.bias, **self.form)  # type: ignore[arg-type]
        log_p = head.logits(slice(None)).log_softmax(-1)
        return log_p.gather(1, targets[:, None])[:, 0], torch.special.entr(log_p.detach().exp()).sum(-1)


class Compared(NamedTuple):
    """What `compare` found, each ``[N, L]`` float32 nats, 0 elsewhere.

    Args:
        divergence: for each form, at the chosen tokens, with gradients.
        logp: log-probability of the tokens; with gradients only at those of `reads`.
        entropy: of the policy, detached.
    """

    divergence: tuple[Float[Tensor, "N L"], ...]
    logp: Float[Tensor, "N L"]
    entropy: Float[Tensor, "N L"]


def compare(
    model: nn.Module,
    rollouts: Rollouts,
    chosen: Bool[Tensor, "N L"],
    other: Side,
    forms: tuple[Form, ...] = (Form(),),
    *,
    temperature: float = 1.0,
    reads: Bool[Tensor, "N L"] | None = None,
    chunk_bytes: int | None = None,
    shared: int | None = None,
    who: str = "the teacher",
) -> Compared:
    """Divergences of a policy from another side at chosen tokens, in one pass of its trunk.

    Args:
        model: the policy, see `score.response_logp`.
        rollouts: rows on its device.
        chosen: the tokens that are compared.
        other: the other side at those tokens, in the order of ``chosen.nonzero()`` (`other_side`, `Known`).
        forms: which divergences.
        temperature: > 0; divides the policy's logits (the other side has its own).
        reads: further tokens whose log-probability is wanted with gradients; None = none.
        chunk_bytes: see `head_divergence.token_divergence`.
        shared: see `head_divergence.token_divergence`.
        who: name of the other side in messages.

    Returns:
        `Compared`; no token chosen gives zeros.

    Raises:
        UserError: vocabularies that differ; NaN logits; a token that is impossible to one side and possible to the
            other where the divergence is infinite for it. It names the side, the row and the token.
    """
    rows, columns = predicted(chosen, rollouts.length)
    stream = _Stream(model, rollouts, temperature)
    policy = stream.at(rows, columns)
    values, logp, entropy = token_divergence(policy, other, rollouts.ids[rows, columns], forms, chunk_bytes, shared)
    for form, x in zip(forms, values, strict=True):
        if not bool(torch.isfinite(x.detach()).all()):
            i = int((~torch.isfinite(x.detach())).nonzero()[0, 0])
            place = f"prompt {int(rollouts.group[rows[i]])}, token {int(columns[i] - rollouts.prompt_length[rows[i]])}"
            _blame(policy, other, slice(i, i + 1), form, shared, who, f"{place} of a response")
    flat = rows * rollouts.ids.shape[1] + columns
    blank = torch.zeros(rollouts.ids.numel(), dtype=torch.float32, device=rollouts.ids.device)

    def aligned(x: Tensor, where: Tensor = flat, onto: Tensor = blank) -> Tensor:
        return onto.index_copy(0, where, x.float())

    found_logp, found_entropy = aligned(logp), aligned(entropy)
    if reads is not None and bool(reads.any()):
        more_rows, more = predicted(reads, rollouts.length)
        place = more_rows * rollouts.ids.shape[1] + more
        live, spread = stream.logp(more_rows, more)
        found_logp, found_entropy = aligned(live, place, found_logp), aligned(spread, place, found_entropy)
    shape = rollouts.ids.shape
    return Compared(tuple(aligned(x).view(shape) for x in values), found_logp.view(shape), found_entropy.view(shape))


def _blame(policy: Head, other: Side, here: slice, form: Form, shared: int | None, who: str, where: str) -> None:
    """Say whose fault it is that a divergence is no number.

    Raises:
        UserError: always.
    """
    with torch.no_grad():
        z, y = policy.logits(here)[:, :shared], other.logits(here)[:, :shared]
    for name, logits in (("the policy", z), (who, y)):
        if not bool(torch.isfinite(logits.amax())):
            raise UserError(f"{name} gives logits that are {float(logits.amax())}", where=where)
    first, second, logits = (who, "the policy", z) if form.kind == "forward_kl" else ("the policy", who, y)
    never = (logits == -torch.inf).nonzero()
    if not len(never):  # the policy drew one of its spare ids
        raise UserError(f"the policy drew a token that {who} does not have", where=where)
    token = int(never[0, 1])
    what = f"{second} gives token {token} no chance at all and {first} some, so that {form.kind} is infinite"
    cure = 'Use jsd, or impossible = "leave_out", which takes such tokens out of both.'
    raise UserError(what, where=where, cure=cure)
