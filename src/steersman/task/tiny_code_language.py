"""The language of TinyCode: tokens, trees, text, types, and a trusted evaluator of its own tiny grammar.

A program is one expression of Python over ``x``, an int or a list of ints. Its grammar: x; whole numbers; + - * // %
and unary -; abs, min, max, sum, len, sorted; ``a if c < d else b``; slices with constant bounds; at most one
comprehension ``[e for i in l]``. Whatever is in the grammar and well typed ends soon and needs next to no memory (lists
never grow), so it may be evaluated in this process; anything else is refused unseen. Nothing is compiled or executed.

Leaves out: which programs a task asks for (`tiny_code_functions`), running text as Python (`reward.sandbox`).
"""

import ast
import re
import warnings
from collections.abc import Sequence
from typing import Any, Literal

Tree = tuple[Any, ...]
"""("x",), ("i",), ("const", n), ("neg", a), (op, a, b) with op of `OPERATORS`, ("abs" | "sum" | "len" | "sorted", a),
("min" | "max", a) or with two arguments, ("if", comparison, a, b, then, else), ("slice", list, from, to, step),
("for", element, list)."""
Kind = Literal["int", "list"]

OPERATORS = ("+", "-", "*", "//", "%")
COMPARISONS = ("<", ">", "<=", ">=", "==", "!=")
NAMES = ("abs", "min", "max", "sum", "len", "sorted")
TOKENS = (
    *"0123456789", *OPERATORS, *COMPARISONS, *"=()[],: ;fxi", *NAMES, " if ", " else ", " for i in ", "<eos>", "<pad>",
)  # fmt: skip
VOCABULARY = len(TOKENS)
EOS, PAD = VOCABULARY - 2, VOCABULARY - 1
LARGEST_NUMBER = 9999
"""Largest whole number that a program may hold."""
LONGEST = 150
"""Most characters of a program; keeps trees shallow."""
_TOKEN = re.compile("|".join(re.escape(t) for t in sorted(TOKENS[:EOS], key=len, reverse=True)))
_NUMERAL = re.compile(r"\d[a-z]|[a-z]\d|(?<!\d)0\d")
_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%"}
_COMPARE = {ast.Lt: "<", ast.Gt: ">", ast.LtE: "<=", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


class Refused(Exception):
    """A text that is no program of the language; `status` is error (no Python) or forbidden."""

    def __init__(self, status: Literal["error", "forbidden"], reason: str) -> None:
        self.status = status
        super().__init__(reason)


def tokenize(text: str) -> list[int]:
    """Token ids of a text, the longest token first.

    Raises:
        ValueError: the text has other characters.
    """
    found = _TOKEN.findall(text)
    if "".join(found) != text:
        raise ValueError(f"{text!r} is no text of TinyCode")
    return [_IDS[t] for t in found]


def text_of(ids: Sequence[int]) -> str:
    """Text of token ids."""
    return "".join(TOKENS[i] for i in ids)


def parse(text: str, kind: Kind) -> Tree:
    """The tree of a program whose `x` is an int or a list.

    Raises:
        Refused: with status error if it is no expression of Python, forbidden if it is not in the language or its types
            do not fit.
    """
    if len(text) > LONGEST:
        raise Refused("forbidden", f"longer than {LONGEST} characters")
    if _NUMERAL.search(text):
        raise Refused("error", "no numeral")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(text, mode="eval").body
        tree = _translate(body)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Refused("error", f"{type(error).__name__}: {error}") from None
    if _count(tree, "for") > 1:
        raise Refused("forbidden", "more than one comprehension")
    type_of(tree, {"x": kind})
    return tree


def _translate(node: ast.AST) -> Tree:
    match node:
        case ast.Name(id=("x" | "i") as name):
            return (name,)
        case ast.Constant(value=int(n)) if type(n) is int and n <= LARGEST_NUMBER:
            return ("const", n)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(n))) if type(n) is int and n <= LARGEST_NUMBER:
            return ("const", -n)
        case ast.UnaryOp(op=ast.USub(), operand=a):
            return ("neg", _translate(a))
        case ast.BinOp(left=a, op=op, right=b) if type(op) in _BINARY:
            return (_BINARY[type(op)], _translate(a), _translate(b))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in NAMES:
            if len(args) == 1 or (len(args) == 2 and name in ("min", "max")):
                return (name, *(_translate(a) for a in args))
        case ast.IfExp(test=ast.Compare(left=a, ops=[op], comparators=[b]), body=c, orelse=d) if type(op) in _COMPARE:
            return ("if", _COMPARE[type(op)], _translate(a), _translate(b), _translate(c), _translate(d))
        case ast.Subscript(value=a, slice=ast.Slice(lower=lower, upper=upper, step=step)):
            return ("slice", _translate(a), *(_bound(b) for b in (lower, upper, step)))
        case ast.ListComp(elt=e, generators=[ast.comprehension(target=ast.Name(id="i"), iter=a, ifs=[], is_async=0)]):
            return ("for", _translate(e), _translate(a))
    raise Refused("forbidden", f"{type(node).__name__} is not in the language")


def _bound(node: ast.AST | None) -> int | None:
    if node is None:
        return None
    tree = _translate(node)
    if tree[0] != "const":
        raise Refused("forbidden", "the bound of a slice is no number")
    return int(tree[1])


def type_of(tree: Tree, names: dict[str, Kind]) -> Kind:
    """The type of a program's value, where `names` gives those of `x` and `i`.

    Raises:
        Refused: types that do not fit; a name that is not there; a step of 0.
    """

    def ints(*parts: Tree) -> Kind:
        return _all("int", [type_of(p, names) for p in parts])

    match tree:
        case ("x" | "i" as name,):
            if name not in names:
                raise Refused("forbidden", f"{name} is not known here")
            return names[name]
        case ("const", _):
            return "int"
        case ("min" | "max", a) | ("sum" | "len", a):
            _all("list", [type_of(a, names)])
            return "int"
        case ("sorted", a):
            return _all("list", [type_of(a, names)])
        case ("slice", a, _, _, step):
            if step == 0:
                raise Refused("forbidden", "a step of 0")
            return _all("list", [type_of(a, names)])
        case ("for", e, a):
            _all("list", [type_of(a, names)])
            return "list" if type_of(e, names | {"i": "int"}) == "int" else _all("int", ["list"])
        case ("if", _, a, b, c, d):
            ints(a, b)
            return _all(type_of(c, names), [type_of(d, names)])
    return ints(*tree[1:])


def _all(wanted: Kind, found: Sequence[Kind]) -> Kind:
    if any(f != wanted for f in found):
        raise Refused("forbidden", f"a value that is no {wanted}")
    return wanted


def evaluate(tree: Tree, x: Any, i: int = 0) -> Any:
    """The value of a well typed program.

    Args:
        tree: of `parse`.
        x: an int or a list of ints, as the program was parsed for.
        i: the comprehension's element.

    Raises:
        ZeroDivisionError: division by 0.
        ValueError: the least or greatest of an empty list.
    """
    match tree:
        case ("x",):
            return x
        case ("i",):
            return i
        case ("const", n):
            return n
        case ("if", comparison, a, b, c, d):
            return evaluate(c if _holds(comparison, evaluate(a, x, i), evaluate(b, x, i)) else d, x, i)
        case ("slice", a, start, stop, step):
            return evaluate(a, x, i)[start:stop:step]
        case ("for", e, a):
            return [evaluate(e, x, v) for v in evaluate(a, x, i)]
    return _apply(tree[0], [evaluate(a, x, i) for a in tree[1:]])


def _apply(name: str, v: list[Any]) -> Any:
    match name:
        case "+":
            return v[0] + v[1]
        case "-":
            return v[0] - v[1]
        case "*":
            return v[0] * v[1]
        case "//":
            return v[0] // v[1]
        case "%":
            return v[0] % v[1]
        case "neg":
            return -v[0]
        case "abs":
            return abs(v[0])
        case "min":
            return min(*v)
        case "max":
            return max(*v)
        case "sum":
            return sum(v[0])
        case "len":
            return len(v[0])
    return sorted(v[0])


def _holds(comparison: str, a: int, b: int) -> bool:
    match comparison:
        case "<":
            return a < b
        case ">":
            return a > b
        case "<=":
            return a <= b
        case ">=":
            return a >= b
        case "==":
            return a == b
    return a != b


def render(tree: Tree) -> str:
    """The text of a tree, with as few parentheses as Python needs; `parse` gives the tree back, but for
    the negative of a number, which is a number."""
    return _render(tree)[0]


def _render(tree: Tree) -> tuple[str, int]:
    """Text and how tightly it binds: 0 if-else, 1 + -, 2 * // %, 3 unary -, 4 the rest."""

    def inside(part: Tree, least: int) -> str:
        text, binds = _render(part)
        return text if binds >= least else f"({text})"

    match tree:
        case ("x" | "i" as name,):
            return name, 4
        case ("const", n):
            return str(n), 4 if n >= 0 else 3
        case ("neg", a):
            return f"-{inside(a, 3)}", 3
        case ("+" | "-" as op, a, b):
            return f"{inside(a, 1)}{op}{inside(b, 2)}", 1
        case ("*" | "//" | "%" as op, a, b):
            return f"{inside(a, 2)}{op}{inside(b, 3)}", 2
        case ("if", comparison, a, b, c, d):
            return f"{inside(c, 1)} if {inside(a, 1)}{comparison}{inside(b, 1)} else {inside(d, 0)}", 0
        case ("slice", a, start, stop, step):
            bounds = ["" if b is None else str(b) for b in (start, stop)] + ([] if step is None else [str(step)])
            return f"{inside(a, 4)}[{':'.join(bounds)}]", 4
        case ("for", e, a):
            return f"[{inside(e, 0)} for i in {inside(a, 1)}]", 4
    return f"{tree[0]}({','.join(inside(a, 0) for a in tree[1:])})", 4


def size(tree: Tree) -> int:
    """Number of nodes: names, numbers, operators, calls, comparisons, slices and their bounds, comprehensions."""
    if tree[0] == "const":
        return 1
    if tree[0] == "slice":
        return 1 + size(tree[1]) + sum(b is not None for b in tree[2:])
    parts = tree[2:] if tree[0] == "if" else tree[1:]
    return 1 + (tree[0] == "if") + sum(size(p) for p in parts)


def _count(tree: Tree, name: str) -> int:
    return (tree[0] == name) + sum(_count(p, name) for p in tree[1:] if isinstance(p, tuple))


_IDS = {t: i for i, t in enumerate(TOKENS)}
