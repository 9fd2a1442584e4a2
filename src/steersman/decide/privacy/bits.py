"""Where random bits come from: the operating system for people, a seed for simulations.

Leaves out: laws of noise (`laplace`).
"""

import hashlib
import secrets
from typing import Protocol


class Bits(Protocol):
    """A source of fair, independent bits."""

    seeded: bool
    """Whether the bits can be drawn again by who knows a seed; such bits protect nobody."""

    def below(self, n: int) -> int:
        """A uniform whole number in 0 .. n - 1."""


class SystemBits:
    """The operating system's cryptographic generator; cannot be replayed."""

    seeded = False

    def below(self, n: int) -> int:
        """A uniform whole number in 0 .. n - 1, n >= 1."""
        return secrets.randbelow(n)


class SeededBits:
    """Bits that are a function of (seed, purpose), by hashing a counter; for tests and simulations.

    Args:
        seed: any integer.
        purpose: what the bits are for; different purposes are independent.
    """

    seeded = True

    def __init__(self, seed: int, purpose: str = "") -> None:
        self._key = f"{seed}\x00{purpose}".encode()
        self._count = 0
        self._pool, self._left = 0, 0

    def below(self, n: int) -> int:
        """A uniform whole number in 0 .. n - 1, n >= 1, by rejection: no number is favoured."""
        size = (n - 1).bit_length()
        while True:
            found = self._take(size)
            if found < n:
                return found

    def _take(self, size: int) -> int:
        while self._left < size:
            block = hashlib.blake2b(self._key + self._count.to_bytes(16, "little")).digest()
            self._count += 1
            self._pool |= int.from_bytes(block, "little") << self._left
            self._left += 8 * len(block)
        found = self._pool & ((1 << size) - 1)
        self._pool >>= size
        self._left -= size
        return found


SYSTEM = SystemBits()
