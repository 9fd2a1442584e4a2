"""Peak memory of the loss of a distillation and its gradient, by what is kept and how the logits are made.

Counted are the bytes of tensors that are alive, from the operations themselves, so the figures do not depend on the
machine. What an operation uses inside itself is not seen. Hidden states, the output matrix and its gradient are there
in every variant and are the constant of the law; the trunk is left out.
Source: tip.md 2.9 after arXiv 2604.14084: bytes = copies x rho m V 4 + constant.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from steersman.core.component import Form
from steersman.core.noise import generator
from steersman.language.head_divergence import Head, token_divergence
from steersman.objective.divergence import divergence
from steersman.studies.tip.names import CHUNK

WIDTH = 32


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that operations made and that are still alive: now, and the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.most = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what it made."""
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._count(x.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self.known:
            return
        self.known.add(place)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, place, size)

    def _free(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.now -= size


def _whole(policy: Head, teacher: Head) -> Tensor:
    """The logits of all rows at once."""
    here = slice(None)
    return divergence(policy.logits(here), teacher.logits(here)).sum()


def _chunked(policy: Head, teacher: Head) -> Tensor:
    """Logits in chunks, of which autograd keeps what the backward needs."""
    rows = len(policy.hidden)
    parts = [slice(i, min(i + CHUNK, rows)) for i in range(0, rows, CHUNK)]
    return torch.stack([divergence(policy.logits(p), teacher.logits(p)).sum() for p in parts]).sum()


def _again(policy: Head, teacher: Head) -> Tensor:
    """Logits in chunks that are computed again in the backward: the library's own."""
    targets = torch.zeros(len(policy.hidden), dtype=torch.int64)
    return token_divergence(policy, teacher, targets, (Form(),), CHUNK * 4 * policy.vocabulary)[0][0].sum()


VARIANTS: dict[str, Callable[[Head, Head], Tensor]] = {"whole": _whole, "chunks": _chunked, "recompute": _again}


def peak(variant: str, rows: int, vocabulary: int, keep: float) -> tuple[int, float]:
    """The most bytes alive during a loss and its backward, and the loss as a check that variants do the same work.

    Args:
        variant: of `VARIANTS`.
        rows: tokens of the step.
        vocabulary: of both models.
        keep: share of the tokens that is selected; the first ones, since memory does not care which.
    """
    draw = generator(0, "tip/memory")

    def given(n: int) -> Tensor:
        return torch.from_numpy(draw.standard_normal((n, WIDTH), dtype="float32") / WIDTH**0.5)

    hidden, other, weight, frozen = given(rows), given(rows), given(vocabulary), given(vocabulary)
    k = max(1, int(keep * rows + 1e-9))
    hidden.requires_grad_()
    weight.requires_grad_()
    with Meter() as meter:
        loss = VARIANTS[variant](Head(hidden[:k], weight), Head(other[:k], frozen)) / k
        loss.backward()  # type: ignore[no-untyped-call]
    return meter.most, float(loss.detach())


def run(vocabularies: list[int], rows: list[int], keeps: list[float]) -> dict[str, Any]:
    """Every variant at every size; a row each: variant, vocabulary, rows, keep, bytes, loss."""
    found = []
    for v in vocabularies:
        for m in rows:
            for keep in keeps:
                for variant in VARIANTS:
                    bytes_, loss = peak(variant, m, v, keep)
                    found.append({"variant": variant, "vocabulary": v, "rows": m, "keep": keep, "bytes": bytes_,
                                  "loss": loss})  # fmt: skip
    return {"peaks": found}
