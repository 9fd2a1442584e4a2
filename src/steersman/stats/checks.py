"""The input checks that every statistics function shares: one message that names the argument and the row.

Leaves out: anything statistical. Infinite values are refused like NaN, because no summary here has a meaning for them.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from steersman.core.errors import UserError

Seed = int | np.random.Generator
ALTERNATIVES = ("two-sided", "greater", "less")


def array(name: str, values: Any, *, ndim: int | tuple[int, ...] | None = 1) -> np.ndarray:
    """Return ``values`` as a finite, non-empty float64 array, or refuse it by name and row.

    Args:
        name: the argument's name for the message.
        values: anything numpy can read as numbers.
        ndim: the number of dimensions allowed; None for one or more.

    Returns:
        A float64 array.

    Raises:
        UserError: not numeric, wrong number of dimensions, empty, NaN or infinite.
    """
    try:
        out = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"not an array of numbers ({error})", where=name, allowed="finite numbers") from None
    wanted = (ndim,) if isinstance(ndim, int) else ndim
    if out.ndim == 0 or (wanted is not None and out.ndim not in wanted):
        shown = "one or more" if wanted is None else " or ".join(map(str, wanted))
        raise UserError(f"has {out.ndim} dimensions (shape {out.shape})", where=name, allowed=f"{shown} dimension(s)")
    if out.size == 0:
        raise UserError("is empty", where=name, allowed="at least one value")
    bad = np.argwhere(~np.isfinite(out))
    if len(bad):
        row = ", ".join(map(str, bad[0]))
        raise UserError(
            f"{out[tuple(bad[0])]} ({len(bad)} of {out.size} values are not finite)",
            where=f"{name}, row {row}",
            allowed="finite numbers",
            cure="remove or repair these rows; they are never dropped silently",
        )
    return out


def same_length(name_a: str, a: np.ndarray, name_b: str, b: np.ndarray) -> None:
    """Refuse two arrays that cannot be paired, naming the first row without a partner."""
    if len(a) != len(b):
        first = min(len(a), len(b))
        longer = name_a if len(a) > len(b) else name_b
        raise UserError(
            f"lengths differ: {name_a} has {len(a)}, {name_b} has {len(b)}; {longer} row {first} has no partner",
            where=f"{name_a}, {name_b}",
            allowed="one row of each per pair",
        )


def whole(name: str, value: Any, *, least: int = 0) -> int:
    """Return a count as an int, or refuse it: not whole (NaN, fractions, booleans) or below ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        if not (isinstance(value, float | np.floating) and float(value).is_integer()):
            raise UserError(f"{value!r} is not a whole number", where=name, allowed=f"integers >= {least}") from None
        number = int(value)
    if isinstance(value, bool | np.bool_) or number < least:
        raise UserError(f"{value!r} is not allowed", where=name, allowed=f"integers >= {least}")
    return number


def probability(name: str, value: float) -> float:
    """Return a number strictly between 0 and 1, or refuse it."""
    if not isinstance(value, int | float | np.number) or not 0.0 < float(value) < 1.0:
        raise UserError(f"{value!r} is out of range", where=name, allowed="numbers with 0 < value < 1, such as 0.95")
    return float(value)


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return a word of a fixed list, or refuse it."""
    if value not in allowed:
        raise UserError(f"{value!r} is not known", where=name, allowed=", ".join(allowed))
    return value


def generator(seed: Seed) -> np.random.Generator:
    """Return the caller's generator, or a counter-based one (Philox) from a whole-number seed."""
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.Generator(np.random.Philox(whole("seed", seed)))


def scipy_random(seed: Seed) -> dict[str, np.random.Generator]:
    """Return the keyword under which this scipy takes a generator (renamed in 1.15)."""
    import scipy

    major, minor = (int(part) for part in scipy.__version__.split(".")[:2])
    return {"rng" if (major, minor) >= (1, 15) else "random_state": generator(seed)}


def finite_statistic(value: Any, statistic: Callable[..., Any]) -> float:
    """Return a statistic of the data as a float, or refuse a statistic that is not one finite number."""
    out = np.asarray(value, dtype=np.float64)
    if out.size != 1 or not np.isfinite(out).all():
        name = getattr(statistic, "__name__", repr(statistic))
        raise UserError(f"{name} of the data is {value!r}", where="statistic", allowed="one finite number")
    return float(out.reshape(()))
