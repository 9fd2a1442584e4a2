"""The functions that TinyCode asks for: grown from small to large, one shortest program each, told apart by behaviour.

A program has values on 64 fixed inputs, of which prompts show the first 19. Programs are made size by size out of
smaller ones that were kept; small sizes completely, larger ones from a fixed random sample of the ways to put parts
together. A program is kept if it fails on no input, is not (nearly) constant, stays within bounds, and no program that
came before (so none shorter) agrees with it on all inputs that may be shown: no two functions are alike to a reader of
prompts. Everything is vectorised over programs and inputs, made once a process, and depends on nothing.

Leaves out: prompts (`tiny_code`), other ways to write the same function.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from steersman.core.noise import generator
from steersman.task.tiny_code_language import OPERATORS, Kind, Tree, render, tokenize

Purpose = Literal["sft", "reward", "rl", "validation", "test"]
SHARES: dict[Purpose, float] = {"sft": 0.5, "reward": 0.15, "rl": 0.2, "validation": 0.05, "test": 0.1}
"""Which share of all functions each purpose has; a function belongs to one purpose only."""
LARGEST = 9
"""Nodes of the largest program."""
MAX_TOKENS = 39
"""Tokens of the longest program."""
PROBES = 64
VISIBLE = 19
"""Inputs from the front of the probes that prompts show: the ints -9 to 9, and as many lists."""
MOST_ALIKE = 56
"""Inputs on which a function may have one and the same value; then tests on inputs that are not shown tell it from a
constant."""
_CONSTANTS = range(-3, 10)
_BOUND, _LONGEST = 9999, 5
_KEPT, _TRIED = 1200, 24_000
_NONE = np.int64(2**40)
"""What stands behind the end of a list; larger than any value, so that sorting leaves it there."""

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Functions:
    """All F functions of one signature, ordered by size.

    Args:
        given: what x is.
        made: what comes out.
        program: the shortest program of each.
        tree: the same as trees.
        size: nodes ``[F]``.
        value: number of the value at each probe ``[F, 64]``, an index into `values`.
        values: the distinct values.
        purpose: index into `SHARES` ``[F]``, from a hash of the function's behaviour.
    """

    given: Kind
    made: Kind
    program: tuple[str, ...]
    tree: tuple[Tree, ...]
    size: Array
    value: npt.NDArray[np.int32]
    values: tuple[Any, ...]
    purpose: Array

    def __len__(self) -> int:
        return len(self.program)


@cache
def probes(kind: Kind) -> tuple[Any, ...]:
    """The 64 inputs: -9 to 9, then -31 to -10 and 10 to 32; or distinct lists of 1 to 5 numbers from -9 to 9."""
    if kind == "int":
        return (*range(-9, 10), *range(-31, -9), *range(10, 33))
    draw, found = generator(0, "tiny_code/lists"), dict[tuple[int, ...], None]()
    while len(found) < PROBES:
        found[tuple(draw.integers(-9, 10, 1 + len(found) % _LONGEST).tolist())] = None
    return tuple(map(list, found))


@cache
def functions(given: Kind, made: Kind) -> Functions:
    """All functions of a signature: int to int, list to int, or list to list.

    Raises:
        ValueError: no list is made of an int.
    """
    if given == "int":
        if made != "int":
            raise ValueError("no list is made of an int")
        return _collected(given, made, _grow({1: ([("x",)], np.array([probes("int")]))}, "int"))
    lists = _grow_lists()
    return _collected(given, made, lists if made == "list" else _grow(_folds(lists), "list -> int"))


Part = tuple[list[Tree], Array]
"""Programs and their values ``[K, W]`` or ``[K, W, 5]``."""
Bank = dict[int, Part]
"""Size -> what was kept."""


def _grow(leaves: Bank, name: str, largest: int = LARGEST) -> Bank:
    """Programs that make an int, out of given ones, constants, operators, calls and if-else."""
    width = next(iter(leaves.values()))[1].shape[1]
    constants: Part = [("const", c) for c in _CONSTANTS], np.repeat(np.array(_CONSTANTS)[:, None], width, 1)
    bank: Bank = {1: _joined([constants, *([leaves[1]] if 1 in leaves else [])])}
    known = _Known()
    known.is_new(bank[1][1])
    for size in range(2, largest + 1):
        draw = generator(0, f"tiny_code/{name}", size)
        ways = _ways(bank, size)
        quota = max(1, _TRIED // max(1, len(ways)))
        made = [_new(leaves[size], known)] if size in leaves else []
        made += [_combined(head, [bank[s] for s in parts], quota, draw, known) for head, parts in ways]
        if any(trees for trees, _ in made):
            bank[size] = _some(_joined(made), draw)
    return bank


def _ways(bank: Bank, size: int) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """(head of the tree, sizes of the parts) of every way to make a program of `size` nodes."""
    ways: list[tuple[tuple[str, ...], tuple[int, ...]]] = [((name,), (size - 1,)) for name in ("neg", "abs")]
    for a in range(1, size - 1):
        ways += [((name,), (a, size - 1 - a)) for name in (*OPERATORS, "min", "max")]
    left = size - 2
    for a in range(1, left - 2):
        for b in range(1, left - a - 1):
            for c in range(1, left - a - b):
                ways += [(("if", name), (a, b, c, left - a - b - c)) for name in ("<", ">", "==")]
    return [w for w in ways if all(s in bank for s in w[1])]


def _combined(head: tuple[str, ...], parts: list[Part], quota: int, draw: np.random.Generator, known: "_Known") -> Part:
    """Up to `quota` programs of one way, all of them if there are no more; only those that are kept."""
    counts = [len(trees) for trees, _ in parts]
    total = math.prod(counts)
    flat = np.arange(total) if total <= quota else np.unique(draw.integers(0, total, quota))
    index = np.unravel_index(flat, counts)
    result, good = _applied(head, [v[i] for (_, v), i in zip(parts, index, strict=True)])
    good &= (np.abs(result) <= _BOUND).all(1) & (result != result[:, :1]).any(1)
    place = np.flatnonzero(good)
    place = place[known.is_new(result[place])]
    chosen = zip(*(i[place].tolist() for i in index), strict=True)
    return [(*head, *(parts[k][0][i] for k, i in enumerate(picks))) for picks in chosen], result[place]


def _applied(head: tuple[str, ...], v: list[Array]) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Values of programs ``[K, W]``, and which of them fail nowhere ``[K]``."""
    good = np.ones(len(v[0]), dtype=bool)
    if head[0] in ("//", "%"):
        good = (v[1] != 0).all(1)
        below = np.where(v[1] == 0, 1, v[1])
        return (v[0] // below if head[0] == "//" else v[0] % below), good
    if head[0] == "if":
        holds = {"<": v[0] < v[1], ">": v[0] > v[1], "==": v[0] == v[1]}[head[1]]
        return np.where(holds, v[2], v[3]), good & holds.any(1) & ~holds.all(1)
    if head[0] in ("neg", "abs"):
        return (-v[0] if head[0] == "neg" else np.abs(v[0])), good
    act: Any = {"+": np.add, "-": np.subtract, "*": np.multiply, "min": np.minimum, "max": np.maximum}[head[0]]
    return act(v[0], v[1]), good


class _Known:
    """Behaviours on the inputs that may be shown, by a 64-bit hash of the values."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def is_new(self, values: Array) -> npt.NDArray[np.bool_]:
        """Which rows behave unlike all before them; they are remembered."""
        new = np.zeros(len(values), dtype=bool)
        for i, code in enumerate(_hash(values[:, :VISIBLE]).tolist()):
            new[i] = code not in self._seen
            self._seen.add(code)
        return new


def _hash(values: Array) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each row: the values mixed with fixed odd numbers and summed, modulo 2^64."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    odd = _odd(flat.shape[1])
    mixed = (flat.astype(np.uint64) + odd) * odd
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return mixed.sum(1, dtype=np.uint64)


@cache
def _odd(width: int) -> npt.NDArray[np.uint64]:
    return generator(0, "tiny_code/hash").integers(1, 2**63, width, dtype=np.uint64) | np.uint64(1)


def _joined(parts: list[Part]) -> Part:
    return [t for trees, _ in parts for t in trees], np.concatenate([v for _, v in parts])


def _where(part: Part, keep: npt.NDArray[np.bool_]) -> Part:
    return [t for t, k in zip(part[0], keep.tolist(), strict=True) if k], part[1][keep]


def _new(part: Part, known: _Known) -> Part:
    return _where(part, known.is_new(part[1]))


def _some(part: Part, draw: np.random.Generator) -> Part:
    """At most `_KEPT` of the programs, in their order."""
    keep = np.zeros(len(part[0]), dtype=bool)
    keep[draw.permutation(len(keep))[:_KEPT]] = True
    return _where(part, keep)


def _grow_lists() -> Bank:
    """Programs that make a list: values ``[K, 64, 5]``, `_NONE` behind the end."""
    x = np.full((1, PROBES, _LONGEST), _NONE)
    for row, given in zip(x[0], probes("list"), strict=True):
        row[: len(given)] = given
    elements = _grow({1: ([("i",)], np.arange(-9, 10)[None])}, "elements", largest=5)
    elements = {s: _where(e, np.array([_has(t, "i") for t in e[0]])) for s, e in elements.items()}
    bank: Bank = {1: ([("x",)], x)}
    known = _Known()
    known.is_new(x)
    for size in range(2, LARGEST + 1):
        trees, values = bank[size - 1]
        made: list[Part] = [([("sorted", t) for t in trees], np.sort(values, 2))]
        for bounds in _BOUNDS:
            if (inner := size - 1 - sum(b is not None for b in bounds)) in bank:
                trees, values = bank[inner]
                made.append(([("slice", t, *bounds) for t in trees], _sliced(values, bounds)))
        for inner in range(1, size - 1):
            if size - 1 - inner in elements:
                made += [_mapped(t, v, elements[size - 1 - inner]) for t, v in zip(*bank[inner], strict=True)]
        part = _new(_joined(made), known)
        good = ((np.abs(part[1]) <= _BOUND) | (part[1] == _NONE)).all((1, 2)) & (part[1] != part[1][:, :1]).any((1, 2))
        bank[size] = _some(_where(part, good), generator(0, "tiny_code/list", size))
    return bank


def _mapped(tree: Tree, values: Array, elements: Part) -> Part:
    """The comprehensions of all elements over one list without a comprehension."""
    if _has(tree, "for"):
        return [], np.empty((0, *values.shape), np.int64)
    made = np.where(values == _NONE, _NONE, elements[1][:, np.clip(values, -9, 9) + 9])
    return [("for", e, tree) for e in elements[0]], made


_BOUNDS: tuple[tuple[int | None, int | None, int | None], ...] = (
    *((a, None, None) for a in (1, 2, 3, -1, -2, -3)),
    *((None, b, None) for b in (1, 2, 3, -1, -2)),
    *((1, 3, None), (1, -1, None), (None, None, -1), (None, None, 2)),
)


def _sliced(v: Array, bounds: tuple[int | None, int | None, int | None]) -> Array:
    """The slice of each list of ``[K, 64, 5]``."""
    out = np.full_like(v, _NONE)
    length = (v != _NONE).sum(-1)
    for n in range(_LONGEST + 1):
        take = list(range(n))[slice(*bounds)]
        rows = np.nonzero(length == n)
        out[rows[0][:, None], rows[1][:, None], np.arange(len(take))] = v[rows][:, take]
    return out


def _folds(lists: Bank) -> Bank:
    """The ints that one call makes of a list: sum, len, least and greatest where no list is empty."""
    folds: Bank = {}
    for size in range(1, LARGEST):
        trees, v = lists[size]
        inside = v != _NONE
        full = inside.any(2).all(1)
        made: list[Part] = []
        for name, value, fine in (
            ("sum", np.where(inside, v, 0).sum(2), full | True),
            ("len", inside.sum(2), full | True),
            ("min", v.min(2), full),
            ("max", np.where(inside, v, -_NONE).max(2), full),
        ):
            fine = fine & (value != value[:, :1]).any(1) & (np.abs(value) <= _BOUND).all(1)
            made.append(_where(([(name, t) for t in trees], value), fine))
        folds[size + 1] = _joined(made)
    return folds


def _has(tree: Tree, name: str) -> bool:
    return tree[0] == name or any(_has(p, name) for p in tree[1:] if isinstance(p, tuple))


def _collected(given: Kind, made: Kind, bank: Bank) -> Functions:
    sizes = [s for s in sorted(bank) if s > 1]
    trees, table = _joined([bank[s] for s in sizes])
    size = np.repeat(sizes, [len(bank[s][0]) for s in sizes])
    if made == "list":
        rows, number = np.unique(table.reshape(-1, _LONGEST), axis=0, return_inverse=True)
        values: tuple[Any, ...] = tuple([n for n in row if n != _NONE] for row in rows.tolist())
    else:
        unique, number = np.unique(table, return_inverse=True)
        values = tuple(unique.tolist())
    value = number.reshape(len(trees), PROBES).astype(np.int32)
    short = np.array([len(tokenize(render(t))) <= MAX_TOKENS for t in trees])
    # A value that most inputs have stands in the middle of them all when they are sorted.
    middle = np.sort(value, 1)[:, PROBES // 2, None]
    keep = short & ((value == middle).sum(1) <= MOST_ALIKE)
    (trees, table), size, value = _where((trees, table), keep), size[keep], value[keep]
    border = np.cumsum(list(SHARES.values()))
    purpose = np.searchsorted(border, _hash(table).astype(np.float64) * 2.0**-64, side="right")
    program = tuple(render(t) for t in trees)
    return Functions(given, made, program, tuple(trees), size, value, values, np.minimum(purpose, len(SHARES) - 1))
