"""Peak memory of a distillation loss and its backward, by how the head is run and how many tokens are kept.

    python bench/distill_memory.py                 # V 32,768, 65,536 and 151,936; 512, 1,024 and 4,096 tokens; on a CPU
    python bench/distill_memory.py --small         # the two smallest of each
    python bench/distill_memory.py --device cuda

m hidden states of width D, a teacher of the same width, reverse KL over V ids, a share rho of the tokens kept,
k = rho m. The arms:

    naive           logits of the kept tokens at once, and autograd
    chunked         the same formula in chunks of R tokens, and autograd, which keeps each chunk's logs for the backward
    recomputed      `steersman.language.head_divergence`: chunks that are computed again in the backward

The law beside each measurement is ``4 V (a k + b)`` bytes: a copies of what is kept, and b rows that do not grow with
it (the gradient of the embedding has D, a chunk a few times R). For `recomputed` a is 0 by construction, and b is the
largest case's of the smallest size; for the others a and b are those of the two largest cases of the smallest size.
All further cases are predicted, so their column is a test of the law and not a fit. Of the trunk nothing is measured:
selection does not change what attention needs.

What is counted is the bytes of all tensors that are alive at a time, seen by a hook on every operation (on a GPU: what
the allocator counts). Exits with 1 where a prediction is off by more than 1 % and by more than a last chunk that is not
full can make of it, 3 R rows of V.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from steersman.core.component import Form
from steersman.language.head_divergence import Head, token_divergence
from steersman.objective.divergence import divergence

WIDTH = 256
ROWS = 32
"""Tokens of a chunk."""
SHARES = (1.0, 0.5, 0.2, 0.1)
ARMS = ("naive", "chunked", "recomputed")
FULL = ((32_768, 65_536, 151_936), (512, 1024, 4096))
SMALL = ((32_768, 65_536), (512, 1024))
MOST_BYTES = 24 << 30
"""Cases that the law puts above this are left out."""
OFF = 0.01


@dataclass(frozen=True)
class Case:
    """One measurement."""

    arm: str
    vocabulary: int
    tokens: int
    share: float

    @property
    def kept(self) -> int:
        return max(1, int(self.share * self.tokens))


class Alive(TorchDispatchMode):
    """The most bytes of tensors that were alive at a time, of those that operations made inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id_of(x) for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)}
        for x in tree_flatten(out)[0]:
            if isinstance(x, Tensor) and id_of(x) not in given:
                self.found[id_of(x)] = StorageWeakRef(x.untyped_storage()), x.untyped_storage().nbytes()
        self.found = {k: v for k, v in self.found.items() if not v[0].expired()}
        self.most = max(self.most, sum(n for _, n in self.found.values()))
        return out


def id_of(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def peak_of(work: Callable[[], Tensor], device: str) -> int:
    """Bytes above what was there before, at the peak of a loss and its backward."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work().backward()
        return torch.cuda.max_memory_allocated() - before
    with Alive() as seen, torch.autograd.set_multithreading_enabled(False):
        work().backward()
    return seen.most


def measure(case: Case, device: str) -> int:
    made = torch.Generator().manual_seed(0)

    def draw(rows: int) -> Tensor:
        return (torch.randn(rows, WIDTH, generator=made) / 16).to(device)

    hidden, other = draw(case.kept).requires_grad_(), draw(case.kept)
    weight, teacher = draw(case.vocabulary).requires_grad_(), draw(case.vocabulary)

    def loss() -> Tensor:
        if case.arm == "naive":
            return divergence(hidden @ weight.T, other @ teacher.T).mean()
        if case.arm == "chunked":
            parts = zip(hidden.split(ROWS), other.split(ROWS), strict=True)
            return torch.cat([divergence(a @ weight.T, b @ teacher.T) for a, b in parts]).mean()
        targets, chunk = torch.zeros(case.kept, dtype=torch.int64, device=device), 4 * case.vocabulary * ROWS
        return token_divergence(Head(hidden, weight), Head(other, teacher), targets, (Form(),), chunk)[0][0].mean()

    return peak_of(loss, device)


def rows_of(case: Case, peak: int) -> float:
    """The peak in rows of V float32 numbers."""
    return peak / (4 * case.vocabulary)


def law(arm: str, small: list[tuple[Case, int]]) -> tuple[float, float]:
    """a and b of an arm from the first cases of the smallest size."""
    (first, most), (second, less) = small[:2]
    if arm == "recomputed":
        return 0.0, rows_of(first, most)
    a = (rows_of(first, most) - rows_of(second, less)) / (first.kept - second.kept)
    return a, rows_of(first, most) - a * first.kept


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--small", action="store_true")
    asked.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked.add_argument("--out", type=Path, help="where the figures go as JSON")
    given = asked.parse_args()
    torch.set_num_threads(1)
    vocabularies, lengths = SMALL if given.small else FULL
    small = {a: [(c, measure(c, given.device)) for c in smallest(a, vocabularies[0], lengths[0])] for a in ARMS}
    laws, rows, wrong = {arm: law(arm, found) for arm, found in small.items()}, [], 0
    print(f"{'arm':11} {'V':>8} {'m':>5} {'kept':>5}   peak MiB   law MiB   ratio")
    for arm, vocabulary, tokens, share in product(ARMS, vocabularies, lengths, SHARES):
        case, (a, b) = Case(arm, vocabulary, tokens, share), laws[arm]
        told = 4 * vocabulary * (a * case.kept + b)
        if told > MOST_BYTES:
            print(f"{arm:11} {vocabulary:8,} {tokens:5} {case.kept:5}          –  {told / 2**20:8.0f}   left out")
            continue
        peak = measure(case, given.device)
        wrong += abs(peak - told) > OFF * told + 4 * vocabulary * 3 * ROWS
        sizes = f"{peak / 2**20:8.0f}  {told / 2**20:8.0f}   {peak / told:.3f}"
        print(f"{arm:11} {vocabulary:8,} {tokens:5} {case.kept:5}   {sizes}", flush=True)
        rows.append(asdict(case) | {"kept": case.kept, "peak_bytes": peak, "law_bytes": round(told)})
    for arm, (a, b) in laws.items():
        print(f"{arm:11} 4 V ({a:.2f} k + {b:.0f}) bytes")
    if given.out:
        machine = {"machine": platform.machine(), "device": given.device, "torch": torch.__version__}
        shape = {"width": WIDTH, "chunk_rows": ROWS, "laws": laws, "cases": rows}
        given.out.write_text(json.dumps(machine | shape, indent=1) + "\n")
    return int(wrong > 0)


def smallest(arm: str, vocabulary: int, tokens: int) -> list[Case]:
    return [Case(arm, vocabulary, tokens, share) for share in SHARES[:2]]


if __name__ == "__main__":
    sys.exit(main())
