"""The chunked head for two models: divergences of their next-token distributions at given tokens.

Logits exist only for a few tokens at a time, and for those the pure functions of `objective.divergence` are applied to
them. Nothing of them is kept for the backward pass, which computes each chunk again; so the largest tensors are a few
times chunk times vocabulary, however many tokens there are. (Chunks alone do not save memory: autograd keeps a
normalised copy of each until the backward.) The second model has no gradient.

Leaves out: which tokens (`language.compare`), a single model (`language.head`), which divergence and why (`objective`).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from steersman.core.component import Form
from steersman.core.errors import UserError
from steersman.objective.divergence import FORMS, SAMPLED, check_form, divergence_unchecked, sampled_unchecked

CPU_CHUNK_BYTES = 16 << 20
"""Logits of one model at a time on a CPU; about eight tensors of this size are alive at once."""
GPU_CHUNK_BYTES = 256 << 20
"""The same on an accelerator."""
_COLUMNS = 8192
"""Vocabulary entries of which a weight in low precision is converted at a time."""


class Side(Protocol):
    """Whose distribution the policy's is compared with, at T tokens."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens V."""
        ...

    def logits(self, here: slice) -> Float[Tensor, "t V"]:
        """Logits (or log-probabilities) at the tokens `here`, divided by the temperature, without a gradient."""
        ...


@dataclass(frozen=True, slots=True)
class Head:
    """Hidden states that predict T tokens, and what makes logits of them: a `Side`, and the policy.

    ``z = scale (hidden weight^T + bias)``; with a cap ``z = softcap tanh(z / softcap)``; logits ``z / temperature``.

    Args:
        hidden: ``[T, D]``; with no weight the model's own logits ``[T, V]``.
        weight: output embedding ``[V, D]``; None = `hidden` are logits.
        bias: ``[V]``; None = none.
        scale, softcap, temperature: as in `head.token_logp`.
    """

    hidden: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    @property
    def vocabulary(self) -> int:
        """Number of tokens V."""
        return int(self.hidden.shape[1] if self.weight is None else self.weight.shape[0])

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits."""
        return torch.promote_types(self.hidden.dtype, torch.float32)

    def raw(self, here: slice) -> Tensor:
        """What the head's product gives for the tokens `here` ``[t, V]``."""
        hidden = self.hidden[here].to(self.dtype)
        if self.weight is None:
            return hidden.clone()
        if self.weight.dtype == self.dtype:
            out = hidden @ self.weight.t()
        else:
            out = torch.cat([hidden @ w.to(self.dtype).t() for w in self.weight.split(_COLUMNS)], 1)
        return out if self.bias is None else out.add_(self.bias.to(self.dtype))

    def shaped(self, raw: Tensor) -> Tensor:
        """Logits of the head's product."""
        z = raw if self.scale == 1 else raw * self.scale
        z = torch.tanh(z / self.softcap) * self.softcap if self.softcap else z
        return z if self.temperature == 1 else z / self.temperature

    def logits(self, here: slice) -> Tensor:
        """Logits at the tokens `here`."""
        return self.shaped(self.raw(here))


@dataclass(frozen=True, slots=True)
class Mixed:
    """Two sides as one: q is proportional to first^(1 - share) second^share, a mean of log-probabilities.

    Args:
        first, second: at the same tokens; of spare ids that only one has nothing is said.
        share: of the second, in (0, 1).
    """

    first: Side
    second: Side
    share: float

    @property
    def vocabulary(self) -> int:
        """Number of tokens that both have."""
        return min(self.first.vocabulary, self.second.vocabulary)

    def logits(self, here: slice) -> Tensor:
        """Means of the logits at the tokens `here`; what one side excludes is excluded."""
        a, b = (side.logits(here)[:, : self.vocabulary] for side in (self.first, self.second))
        return (1 - self.share) * a + self.share * b


def token_divergence(
    policy: Head,
    other: Side,
    targets: Int[Tensor, " T"],
    forms: tuple[Form, ...],
    chunk_bytes: int | None = None,
    shared: int | None = None,
) -> tuple[tuple[Float[Tensor, " T"], ...], Float[Tensor, " T"], Float[Tensor, " T"]]:
    """Divergences of the policy from another distribution at each token, with log-probability and entropy beside them.

    Args:
        policy: p; gradients reach its hidden states, weight and bias.
        other: q, at the same tokens.
        targets: the tokens that were drawn ``[T]``, int64.
        forms: which divergences, see `objective.divergence.divergence`.
        chunk_bytes: logits of one model that exist at a time; None = 16 MiB on a CPU, 256 MiB elsewhere. Changes
            rounding only.
        shared: divergences are those of the first so many token ids, renormalised, for models with one tokenizer and
            spare rows of different number; None = all ids, of which both have equally many.

    Returns:
        ``(divergences, logp, entropy)``, each ``[T]`` float32 (float64 for float64 hidden states), nats; logp (of the
        targets) and entropy are the policy's, detached.

    Raises:
        UserError: two vocabularies, or a form out of range.

    Edge cases: T = 0 gives empty tensors. NaN logits, or tokens impossible to one model alone, give NaN or infinite
    values, which the caller must look for (`compare` does); here that would mean waiting for an accelerator.
    """
    if shared is None and policy.vocabulary != other.vocabulary:
        what = f"the policy's vocabulary has {policy.vocabulary} tokens, that of the other {other.vocabulary}"
        raise UserError(what, where="divergence", cure="Both must use the same tokenizer.")
    for form in forms:
        check_form(form.kind, form.beta, form.top_k, form.of, FORMS)
    if chunk_bytes is None:
        chunk_bytes = CPU_CHUNK_BYTES if policy.hidden.device.type == "cpu" else GPU_CHUNK_BYTES
    rows = max(1, chunk_bytes // (policy.dtype.itemsize * policy.vocabulary))
    out = _TokenDivergence.apply(policy.hidden, policy.weight, policy.bias, policy, other, targets, forms, rows, shared)
    return tuple(out[:-2]), out[-2], out[-1]


def _values(z: Tensor, y: Tensor, drawn: Tensor, forms: tuple[Form, ...], shared: int | None) -> list[Tensor]:
    """Divergences of a chunk from the logits of both."""
    z, y, found = z[:, :shared], y[:, :shared], []
    for form in forms:
        p = z.masked_fill(y == -torch.inf, -torch.inf) if form.impossible == "leave_out" else z
        if form.kind == SAMPLED:
            found.append(_of_drawn(p, y, drawn, form.impossible == "leave_out"))
        else:
            found.append(divergence_unchecked(p, y, form.kind, form.beta, form.top_k, form.of, form.tail))
    return found


def _of_drawn(z: Tensor, y: Tensor, drawn: Tensor, leave_out: bool) -> Tensor:
    """`sampled_unchecked`; a token that only the policy has is as one to which the other gives no chance."""
    both = drawn < y.shape[1]
    drawn = torch.where(both, drawn, 0)
    alone = ~both | (y.gather(1, drawn[:, None])[:, 0] == -torch.inf)
    found = sampled_unchecked(z, y, torch.where(alone, y.argmax(1), drawn))  # of those a number, whose gradient is 0
    return torch.where(alone, torch.zeros_like(found) if leave_out else torch.full_like(found, torch.inf), found)


def _chunks(tokens: int, rows: int) -> list[slice]:
    return [slice(t, min(t + rows, tokens)) for t in range(0, tokens, rows)]


class _TokenDivergence(torch.autograd.Function):
    """`token_divergence`; hidden, weight and bias are those of the policy, given apart so that they get gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        policy: Head,
        other: Side,
        targets: Tensor,
        forms: tuple[Form, ...],
        rows: int,
        shared: int | None,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(hidden, weight, bias)
        ctx.shared, ctx.targets = shared, targets
        ctx.shape, ctx.other, ctx.forms, ctx.rows = (
            (policy.scale, policy.softcap, policy.temperature),
            other,
            forms,
            rows,
        )
        values = [torch.empty(len(hidden), dtype=policy.dtype, device=hidden.device) for _ in (*forms, "logp", "H")]
        with torch.autocast(hidden.device.type, enabled=False):
            for here in _chunks(len(hidden), rows):
                z = policy.logits(here)
                for whole, part in zip(
                    values, _values(z, other.logits(here), targets[here], forms, shared), strict=False
                ):
                    whole[here] = part
                log_p = z.log_softmax(-1)
                values[-2][here] = log_p.gather(1, targets[here, None])[:, 0]
                values[-1][here] = torch.special.entr(log_p.exp_()).sum(-1)
        ctx.mark_non_differentiable(*values[-2:])
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        policy = Head(hidden, weight, bias, *ctx.shape)
        wanted = ctx.needs_input_grad[:3]
        given = [x for x in (hidden, weight, bias) if x is not None]
        sums = _Sums(policy, wanted)
        with torch.autocast(given[0].device.type, enabled=False):
            for here in _chunks(len(hidden), ctx.rows):
                with torch.enable_grad():
                    raw = policy.raw(here).detach().requires_grad_()
                    found = _values(
                        policy.shaped(raw), ctx.other.logits(here), ctx.targets[here], ctx.forms, ctx.shared
                    )
                (pull,) = torch.autograd.grad(found, raw, [g[here] for g in grads[:-2]])
                sums.add(here, pull)
        return *sums.result(), *(None,) * 6


class _Sums:
    """Gradients of hidden states, weight and bias, summed over chunks in the type of the logits."""

    def __init__(self, policy: Head, wanted: tuple[bool, ...]) -> None:
        self.policy = policy
        leaves = (policy.hidden, policy.weight, policy.bias)
        self.found = [
            torch.zeros_like(x, dtype=policy.dtype) if w and x is not None else None
            for x, w in zip(leaves, wanted, strict=True)
        ]

    def add(self, here: slice, pull: Tensor) -> None:
        """Take in the gradient of the products ``[t, V]`` of the tokens `here`."""
        to_hidden, to_weight, to_bias = self.found
        weight, dtype = self.policy.weight, self.policy.dtype
        if to_bias is not None:
            to_bias.add_(pull.sum(0))
        if to_hidden is not None:
            to_hidden[here] = pull if weight is None else _back(pull, weight, dtype)
        if to_weight is not None:
            to_weight.addmm_(pull.t(), self.policy.hidden[here].to(dtype))

    def result(self) -> tuple[Tensor | None, ...]:
        """The gradients in the types of what they belong to."""
        leaves = (self.policy.hidden, self.policy.weight, self.policy.bias)
        return tuple(None if g is None or x is None else g.to(x.dtype) for g, x in zip(self.found, leaves, strict=True))


def _back(pull: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``pull weight``, converting a weight of low precision part by part."""
    if weight.dtype == dtype:
        return pull @ weight
    out = torch.zeros(len(pull), weight.shape[1], dtype=dtype, device=pull.device)
    for part, rows in zip(pull.split(_COLUMNS, 1), weight.split(_COLUMNS), strict=True):
        out.addmm_(part, rows.to(dtype))
    return out
