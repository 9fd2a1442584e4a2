"""TinyCode: find a program from three examples of what it does. Prompts, demonstrator, exact graders.

Prompt: ``f(2)=5 f(-1)=-1 f(4)=9 ; ``, response: one expression over ``x`` and the end of sequence. A response is right
if it gives the value of the function asked for on eight inputs that were not shown. The examples are chosen to tell the
function from all others that the task knows: the first at random, each further one so that it leaves fewest. Of a few
functions drawn, the first is asked for that its examples single out, else the one that leaves fewest others; how many
are left is told. Functions, not prompts, are split into purposes. Everything is a function of (seed, purpose, step,
round, row).

Two graders give the same grades: the language's own evaluator, fast, and the sandbox, which runs the text as Python.
Both refuse unseen what is not in the language (`tiny_code_language`). Leaves out: the table (`tiny_code_functions`).
Source: arXiv 2409.06957 names the setting (code from a reward model and tests); the task itself is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from steersman.core.component import Component
from steersman.core.errors import UserError
from steersman.core.noise import uniform
from steersman.core.types import Rollouts, Scores
from steersman.reward.code import CODE_STATUSES
from steersman.reward.sandbox import Sandbox, SandboxFault, Verdict
from steersman.reward.verifiable import Graded, Row
from steersman.task.tiny_code_functions import (
    LARGEST,
    MAX_TOKENS,
    PROBES,
    SHARES,
    VISIBLE,
    Functions,
    Purpose,
    functions,
    probes,
)
from steersman.task.tiny_code_language import EOS, PAD, Kind, Refused, Tree, evaluate, parse, text_of, tokenize

MAX_ROUND = 2**20
_OF_VERDICT = {"pass": "correct", "fail": "wrong"}
_SIGNATURES: dict[str, tuple[tuple[Kind, Kind], ...]] = {
    "int": (("int", "int"),),
    "list": (("list", "int"), ("list", "list")),
    "both": (("int", "int"), ("list", "int"), ("list", "list")),
}
_EXAMPLE: dict[tuple[Kind, Kind], int] = {("int", "int"): 12, ("list", "int"): 26, ("list", "list"): 52}
"""Most tokens of an example: ``f()= `` and both values, an int of an input 2 and of a result 5, a list 5 of them."""


class TinyCode(Component):
    """The task's knobs; a record that the functions below take."""

    kind: Literal["tiny_code"] = "tiny_code"
    inputs: Literal["int", "list", "both"] = Field("both", description="What x is.")
    size: tuple[int, int] = Field((2, LARGEST), description="Nodes of the shortest program, from and to.")
    shown: int = Field(3, ge=1, le=6, description="Examples in the prompt.")
    tests: int = Field(8, ge=2, le=32, description="Inputs on which a response is tested, none of them shown.")
    draws: int = Field(
        8, ge=1, le=64, description="Functions drawn for a prompt; the first that examples single out is taken."
    )

    @model_validator(mode="after")
    def _range(self) -> "TinyCode":
        if not 2 <= self.size[0] <= self.size[1] <= LARGEST:
            raise ValueError(f"size runs from {self.size[0]} to {self.size[1]}; allowed is 2 to {LARGEST}")
        return self

    @property
    def max_response(self) -> int:
        """Tokens of the longest response asked for, its end of sequence included."""
        return MAX_TOKENS + 1

    @property
    def max_prompt(self) -> int:
        """Tokens that no prompt exceeds."""
        return self.shown * max(_EXAMPLE[pair] for pair in _SIGNATURES[self.inputs]) + len(" ; ") - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """Prompts and what grading needs.

    Args:
        prompts: rows that end with the prompt; `group` numbers the prompts of a step across its rounds.
        rows: of each `id`, `kind` (what x is), `tests` (``[["f", [input], value], ...]``, as `reward.code_grader`
            takes them), `answer` (the shortest program), `size` (its nodes), `others` (how many other functions of the
            wanted sizes give what is shown).
    """

    prompts: Rollouts
    rows: tuple[Row, ...]

    @property
    def ambiguity(self) -> float:
        """Share of the prompts whose examples another function of the wanted sizes fits too."""
        return sum(row["others"] > 0 for row in self.rows) / len(self.rows)


def prompts(task: TinyCode, n: int, seed: int, step: int = 0, round: int = 0, purpose: Purpose = "rl") -> Asked:
    """`n` prompts: a signature, then a size, then a function of the purpose, each uniformly; then examples and tests.

    Args:
        task: the knobs.
        n: number of prompts, >= 1.
        seed: the run's seed.
        step: step of the run.
        round: refill round within the step, 0 <= round < 2^20.
        purpose: whose functions: "sft", "reward", "rl", "validation", "test".

    Raises:
        UserError: n < 1, round out of range, an unknown purpose, or no function of the wanted sizes.
    """
    if n < 1:
        raise UserError(f"{n} prompts were asked for", where="tiny_code", allowed="1 or more")
    if not 0 <= round < MAX_ROUND:
        raise UserError(f"round {round} is out of range", where="tiny_code", allowed=f"0 to {MAX_ROUND - 1}")
    if purpose not in SHARES:
        raise UserError(f"there is no purpose {purpose!r}", where="tiny_code", allowed=", ".join(SHARES))
    row = np.arange(n, dtype=np.uint64) + (np.uint64(round) << np.uint64(32))

    def noise(what: str, width: int) -> npt.NDArray[np.float64]:
        return uniform(seed, f"tiny_code/{purpose}/{what}", row[:, None], np.arange(width), step)

    pick, which, order = noise("cell", 2), noise("function", task.draws), noise("test", PROBES)
    orders = noise("shown", task.draws * VISIBLE).reshape(n, task.draws, VISIBLE).argsort(2)
    cells = _cells(task.inputs, task.size, purpose)
    ids, rows = [], []
    for i in range(n):
        sizes = cells[int(pick[i, 0] * len(cells))]
        cell = sizes[int(pick[i, 1] * len(sizes))]
        candidates = cell.members[(which[i] * len(cell.members)).astype(int)]
        function, shown, others = _identified(cell, candidates, orders[i], task.shown)
        of = cell.of
        tests = _tests(of, function, shown, order[i].argsort(), task.tests)
        given, value = probes(of.given), [of.values[v] for v in of.value[function].tolist()]
        text = " ".join(f"f({_written(given[j])})={_written(value[j])}" for j in shown) + " ; "
        ids.append(tokenize(text))
        known = {"kind": of.given, "answer": of.program[function], "size": int(of.size[function]), "others": others}
        name = f"tiny_code, {purpose}, step {step}, prompt {i}"
        rows.append({"id": name, "tests": [["f", [given[j]], value[j]] for j in tests]} | known)
    group = torch.from_numpy(row.astype(np.int64))
    return Asked(_padded(ids, [len(x) for x in ids], group), tuple(rows))


def examples(task: TinyCode, n: int, seed: int, step: int = 0) -> Rollouts:
    """`n` fresh prompts with the demonstrator's responses: supervised batches, of the purpose "sft"."""
    return demonstrate(prompts(task, n, seed, step, purpose="sft"))


def demonstrate(asked: Asked) -> Rollouts:
    """Each prompt with the shortest program that is right."""
    given = asked.prompts
    before = [x[:k] for x, k in zip(given.ids.tolist(), given.prompt_length.tolist(), strict=True)]
    ids = [x + tokenize(row["answer"]) + [EOS] for x, row in zip(before, asked.rows, strict=True)]
    return _padded(ids, [len(x) for x in before], given.group)


def responses(rollouts: Rollouts) -> list[str | None]:
    """The text of each response without its end of sequence; None where it did not end."""
    spans = zip(rollouts.ids.tolist(), rollouts.prompt_length.tolist(), rollouts.length.tolist(), strict=True)
    found = [ids[start:end] for ids, start, end in spans]
    return [text_of(ids[:-1]) if ids and ids[-1] == EOS else None for ids in found]


def grade(
    rollouts: Rollouts, rows: Sequence[Row], sandbox: Sandbox | None = None, score: Literal["all", "fraction"] = "all"
) -> Graded:
    """Grade responses on their rows' tests.

    Args:
        rollouts: prompts with responses.
        rows: of `Asked`; ``rows[i]`` belongs to rollout i.
        sandbox: None = the language's own evaluator; else programs run there, with the same grades.
        score: 1 if every test passes, or the share that passes.

    Returns:
        `Graded`, as `reward.code_grader.CodeGrader` gives it: statuses of `CODE_STATUSES`; unparsable = did not end,
        no_code = nothing before its end, error = no Python or fails on an input, forbidden = not in the language.
        A row that is not valid in the rollouts stays invalid, as does one whose sandbox failed.
    """
    if len(rows) != len(rollouts):
        raise UserError(f"{len(rows)} rows for {len(rollouts)} responses", where="tiny_code")
    texts, valid = responses(rollouts), rollouts.valid.tolist()
    errors = {i: "the rollout is not valid" for i, v in enumerate(valid) if not v}
    marks: list[tuple[str, tuple[bool, ...]]] = [("unparsable" if t is None else "no_code", ()) for t in texts]
    trees: dict[int, Tree] = {}
    for i, text in enumerate(texts):
        if text and i not in errors:
            try:
                trees[i] = parse(text, rows[i]["kind"])
            except Refused as refused:
                marks[i] = (refused.status, ())
    if sandbox is None:
        marks = [judge(trees[i], rows[i]) if i in trees else m for i, m in enumerate(marks)]
    else:
        programs = [f"def f(x):\n    return {texts[i]}\n" for i in trees]
        calls = [[(name, tuple(given), value) for name, given, value in rows[i]["tests"]] for i in trees]
        for i, verdict in zip(trees, sandbox.run_many(programs, calls), strict=True):
            if isinstance(verdict, SandboxFault):
                errors[i] = str(verdict)
            else:
                marks[i] = _mark(verdict)
    return _graded(marks, errors, texts, score)


def judge(tree: Tree, row: Row) -> tuple[str, tuple[bool, ...]]:
    """(status, which tests pass) of a program of the language, by the language's own evaluator."""
    said = []
    for _, (given,), wanted in row["tests"]:
        try:
            value = evaluate(tree, given)
            said.append("correct" if type(value) is type(wanted) and value == wanted else "wrong")
        except (ZeroDivisionError, ValueError):
            said.append("error")
    return next((s for s in said if s != "correct"), "correct"), tuple(s == "correct" for s in said)


def _mark(verdict: Verdict) -> tuple[str, tuple[bool, ...]]:
    return _OF_VERDICT.get(verdict.status, verdict.status), verdict.per_test


def _graded(
    marks: Sequence[tuple[str, tuple[bool, ...]]], errors: dict[int, str], texts: Sequence[str | None], score: str
) -> Graded:
    valid = torch.tensor([i not in errors for i in range(len(marks))], dtype=torch.bool)
    status = [CODE_STATUSES.index(s) if i not in errors else -1 for i, (s, _) in enumerate(marks)]
    share = torch.tensor([sum(p) / len(p) if p else 0.0 for _, p in marks], dtype=torch.float32)
    correct = torch.tensor([s == 0 for s in status], dtype=torch.bool)
    value = torch.where(valid, correct.float() if score == "all" else share, torch.nan)
    format_ok = torch.tensor([bool(t) for t in texts], dtype=torch.bool) & valid
    parts = {"correct": correct, "format_ok": format_ok, "passed": share, "status": torch.tensor(status)}
    answers = tuple(t if t and i not in errors else None for i, t in enumerate(texts))
    return Graded(Scores(value, valid, parts, errors), answers, statuses=CODE_STATUSES)


@dataclass(frozen=True, slots=True)
class _Cell:
    """Functions of one signature, size and purpose, and all functions that the task knows of this signature."""

    of: Functions
    members: npt.NDArray[np.int64]
    rivals: npt.NDArray[np.int32]


@lru_cache(maxsize=32)
def _cells(inputs: str, size: tuple[int, int], purpose: Purpose) -> tuple[tuple[_Cell, ...], ...]:
    """For each signature, for each size that has any, its functions."""
    place = list(SHARES).index(purpose)
    cells = []
    for signature in _SIGNATURES[inputs]:
        of = functions(*signature)
        rivals = np.ascontiguousarray(of.value[(size[0] <= of.size) & (of.size <= size[1]), :VISIBLE].T)
        found = [np.flatnonzero((of.size == s) & (of.purpose == place)) for s in range(size[0], size[1] + 1)]
        cells.append(tuple(_Cell(of, members, rivals) for members in found if len(members)))
    cells = [c for c in cells if c]
    if not cells:
        raise UserError(f"no function for {purpose!r} has {size[0]} to {size[1]} nodes", where="tiny_code")
    return tuple(cells)


def _identified(cell: _Cell, which: Any, orders: Any, shown: int) -> tuple[int, list[int], int]:
    """The first of several functions and orders of inputs whose examples leave fewest rivals.

    Args:
        cell: the functions.
        which: candidates, numbers within the cell's table ``[D]``.
        orders: random orders of the inputs that may be shown ``[D, 19]``.
        shown: number of examples.

    Returns:
        the function, its examples, how many other functions they leave.
    """
    best: tuple[int, list[int], int] = 0, [], len(cell.of)
    for function, order in zip(which.tolist(), orders, strict=True):
        examples, others = _telling(cell.rivals, cell.of.value[function, :VISIBLE], order, shown)
        if others < best[2]:
            best = function, examples, others
        if others == 0:
            break
    return best


def _telling(rivals: Any, value: Any, order: Any, shown: int) -> tuple[list[int], int]:
    """Examples that tell a function from its rivals: the first at random, then each the one that leaves fewest."""
    taken = [int(order[0])]
    left = rivals[:, rivals[taken[0]] == value[taken[0]]]
    while len(taken) < shown:
        alike = (left == value[:, None]).sum(1)
        alike[taken] = len(rivals[0]) + 1
        taken.append(int(order[alike[order].argmin()]))
        left = left[:, left[taken[-1]] == value[taken[-1]]]
    return taken, left.shape[1] - 1


def _tests(of: Functions, which: int, shown: list[int], order: Any, n: int) -> list[int]:
    """`n` inputs that are not shown, in random order; the last is exchanged if all of them had the same value."""
    left = [j for j in order.tolist() if j not in shown]
    tests, value = left[:n], of.value[which]
    if len({int(value[j]) for j in tests}) == 1:
        tests[-1] = next(j for j in left[n:] if value[j] != value[tests[0]])  # there is one: MOST_ALIKE
    return tests


def _written(value: Any) -> str:
    return str(value).replace(" ", "")


def _padded(ids: Sequence[Sequence[int]], prompt_length: Sequence[int], group: Tensor) -> Rollouts:
    length = torch.tensor([len(x) for x in ids])
    out = torch.full((len(ids), int(length.max())), PAD)
    for row, x in zip(out, ids, strict=True):
        row[: len(x)] = torch.tensor(x)
    return Rollouts.of(out, length, torch.tensor(prompt_length), group=group)
