"""Counter-based randomness: every number is a function of (seed, purpose, step, index), never of what ran before.

Results therefore do not depend on batch splits, order, padding or resume points, and there is no generator state to
save. The mixing function is Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011),
vectorised here over arbitrary index arrays, which library generators do not offer. Whole-array draws (permutations,
normals) go through NumPy's own Philox with the same key. Leaves out: noise that protects people, which must never be
seeded (`decide`).
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def key(seed: int, purpose: str) -> tuple[int, int]:
    """Two 32-bit words derived from a run's seed and the name of what the noise is for.

    Args:
        seed: any integer.
        purpose: a short fixed name such as "order" or "sample"; different purposes are independent.
    """
    digest = hashlib.blake2b(f"{seed}\x00{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def philox(counter: npt.NDArray[np.uint64], key: tuple[int, int]) -> npt.NDArray[np.uint64]:
    """Philox 4x32-10 of ``[..., 4]`` counters: four independent 32-bit words for each.

    Args:
        counter: uint64 array ``[..., 4]`` holding 32-bit words.
        key: two 32-bit words.

    Returns:
        uint64 array of the same shape holding 32-bit words.
    """
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) & _LOW for i in range(4))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], -1)


def uniform(
    seed: int, purpose: str, index: npt.ArrayLike, position: npt.ArrayLike = 0, step: int = 0
) -> npt.NDArray[np.float64]:
    """Uniform numbers in the open interval (0, 1), one for each (index, position), broadcast together.

    Args:
        seed: the run's seed.
        purpose: what the noise is for.
        index: ids of what is drawn, e.g. sample ids ``[N, 1]``; 0 <= index < 2**63.
        position: second coordinate, e.g. token positions ``[L]``; 0 <= position < 2**32.
        step: the step of the run, 0 <= step < 2**32.

    Returns:
        float64 array with 52 random bits; never exactly 0 or 1, so that logarithms and inverse CDFs are finite.
    """
    i, p = np.broadcast_arrays(np.asarray(index, np.uint64), np.asarray(position, np.uint64))
    counter = np.stack([i & _LOW, i >> _SHIFT, p & _LOW, np.full(i.shape, step, np.uint64)], -1)
    words = philox(counter, key(seed, purpose))
    bits = (words[..., 0] << np.uint64(20)) | (words[..., 1] >> np.uint64(12))
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def generator(seed: int, purpose: str, step: int = 0, index: int = 0) -> np.random.Generator:
    """A NumPy generator of its own for each (seed, purpose, step, index): permutations, normals, integers."""
    k0, k1 = key(seed, purpose)
    # A plain list with a word of 2**63 or more would become float64 and lose its low bits.
    words = np.array([(k0 << 32) | k1, (step << 32) | index], np.uint64)
    return np.random.Generator(np.random.Philox(key=words))


def permutation(n: int, seed: int, purpose: str, step: int = 0) -> Tensor:
    """A random order of ``range(n)`` as int64 ``[n]``, the same on every machine."""
    return torch.from_numpy(generator(seed, purpose, step).permutation(n))


def normal_(tensors: Sequence[tuple[str, Tensor]], std: float, seed: int, purpose: str) -> None:
    """Fill named tensors with N(0, std^2) noise in place; each name has noise of its own."""
    for name, x in tensors:
        draw: Any = generator(seed, f"{purpose}/{name}").standard_normal(tuple(x.shape), dtype=np.float32)
        with torch.no_grad():
            x.copy_(torch.from_numpy(np.asarray(draw)) * std)
