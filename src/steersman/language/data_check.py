"""What a training file holds, before anything is trained on it: broken rows, duplicates, leakage, lengths, labels.

Texts are compared exactly and once more after Unicode (NFKC), case and white-space normalisation. Leaves out: judging
the texts; near-duplicates beyond that normalisation.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.language.chat import render
from steersman.language.jsonl import Problem, Problems
from steersman.language.records import READERS, Completion, Pair, Rated, Records, Text, detect

Row = Completion | Pair | Rated


@dataclass(frozen=True, slots=True)
class Lengths:
    """Distribution of a length over rows."""

    smallest: int
    median: float
    p95: float
    largest: int
    mean: float


@dataclass(frozen=True, slots=True)
class Leakage:
    """Rows of the evaluation file that the training file also holds, as evaluation line numbers.

    `prompts`: the same prompt; `rows`: the same prompt and responses; both after normalisation. A row without a prompt
    can only count as a row.
    """

    rows_in_eval: int
    prompts: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DataReport:
    """Findings about one file; line numbers are 1-based.

    Args:
        problems: broken lines, which a training command would refuse.
        duplicates: lines that repeat an earlier row exactly (prompt, responses, label).
        near_duplicates: further lines that do so after normalisation.
        contradictions: lines that exchange the sides of an earlier pair, or rate an earlier response differently.
        identical: lines of pairs whose sides are the same; training drops them.
        labels: pairs: number of rows preferring chosen, tied, preferring rejected; ratings: desirable, undesirable.
        characters, tokens: field -> distribution; tokens only where a tokenizer was given.
        over_context: lines whose prompt with the longest response exceeds the context.
        long_prompts: lines whose prompt alone exceeds it.
    """

    path: str
    format: str
    rows: int
    problems: tuple[Problem, ...]
    duplicates: tuple[int, ...]
    near_duplicates: tuple[int, ...]
    contradictions: tuple[int, ...]
    identical: tuple[int, ...]
    labels: dict[str, int]
    ignored: dict[str, int]
    characters: dict[str, Lengths]
    tokens: dict[str, Lengths]
    context: int | None
    over_context: tuple[int, ...]
    long_prompts: tuple[int, ...]
    leakage: Leakage | None
    eval_problems: tuple[Problem, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why training would refuse the file, or the second one; empty if it would not."""
        found = []
        if not self.rows:
            found.append("no row can be trained on")
        if self.rows == 0 and self.identical:
            found.append(f"{_count(len(self.identical), 'pair')} with identical sides")
        if self.problems:
            found.append(f"{_count(len(self.problems), 'broken line')}")
        if self.long_prompts:
            found.append(f"{_count(len(self.long_prompts), 'prompt')} longer than the context")
        if self.leakage is not None and not self.leakage.rows_in_eval:
            found.append("no row of the second file can be used")
        if self.eval_problems:
            found.append(f"{_count(len(self.eval_problems), 'broken line')} in the second file")
        return tuple(found)

    @property
    def clean(self) -> bool:
        """Whether both files have rows, none of them is broken and no prompt exceeds the context."""
        return not self.reasons

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values, with `clean` and `reasons`."""
        return asdict(self) | {"clean": self.clean, "reasons": list(self.reasons)}


def check_file(
    path: str | os.PathLike[str],
    eval_path: str | os.PathLike[str] | None = None,
    *,
    tokenizer: Any = None,
    context: int | None = None,
) -> DataReport:
    """Examine a training file without training.

    Args:
        path: JSON Lines file in any format of `records`.
        eval_path: a second file whose overlap with the first is reported.
        tokenizer: measures lengths in tokens too.
        context: tokens the model accepts; needs a tokenizer.

    Raises:
        UserError: a file that cannot be read at all or whose format is unknown. Broken rows do not raise.
    """
    kind, records, problems = _load(path)
    rows: tuple[Row, ...] = records.rows
    exact, near = _repeats(rows, _same), _repeats(rows, _normal)
    tokens, over, long_prompts = _token_lengths(rows, tokenizer, context, problems, str(path))
    leakage, eval_problems = None, Problems()
    if eval_path is not None:
        _, held_out, eval_problems = _load(eval_path)
        leakage = _leakage(rows, held_out.rows)
    return DataReport(
        path=str(path),
        format=kind,
        rows=len(rows),
        problems=tuple(sorted(problems.found, key=lambda p: p.line)),
        duplicates=exact,
        near_duplicates=tuple(sorted(set(near) - set(exact))),
        contradictions=_contradictions(rows),
        identical=records.identical,
        labels=_labels(rows),
        ignored=dict(records.ignored or {}),
        characters={name: _lengths([len(t) for t in texts]) for name, texts in _fields(rows).items()},
        tokens=tokens,
        context=context,
        over_context=over,
        long_prompts=long_prompts,
        leakage=leakage,
        eval_problems=tuple(eval_problems.found),
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _load(path: str | os.PathLike[str]) -> tuple[str, Records[Any], Problems]:
    kind, problems = detect(path), Problems()
    return kind, READERS[kind](path, problems), problems


def _sides(row: Row) -> dict[str, Text]:
    if isinstance(row, Pair):
        return {"chosen": row.chosen, "rejected": row.rejected}
    return {"completion": row.completion}


def _plain(text: Text) -> str:
    """One string for text or a conversation, with the roles."""
    return text if isinstance(text, str) else "\x1e".join(f"{m['role']}\x1f{m['content']}" for m in text)


def _same(text: str) -> str:
    return text


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _key(parts: Iterable[str]) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.digest()


def _label(row: Row) -> str:
    return str(row.label) if isinstance(row, Pair) else str(row.desirable) if isinstance(row, Rated) else ""


def _row_key(row: Row, how: Any, *, label: bool = True) -> bytes:
    texts = [how(_plain(t)) for t in (row.prompt, *_sides(row).values())]
    return _key([*texts, _label(row)] if label else texts)


def _repeats(rows: Sequence[Row], how: Any) -> tuple[int, ...]:
    """Lines that repeat an earlier row under the normalisation `how`."""
    seen: set[bytes] = set()
    found = []
    for row in rows:
        key = _row_key(row, how)
        if key in seen:
            found.append(row.line)
        seen.add(key)
    return tuple(found)


def _contradictions(rows: Sequence[Row]) -> tuple[int, ...]:
    """Lines that say the opposite of an earlier line about the same texts."""
    said: dict[bytes, set[bool]] = defaultdict(set)
    found = []
    for row in rows:
        if isinstance(row, Completion) or (isinstance(row, Pair) and row.label == 0.5):
            continue
        texts = [_normal(_plain(t)) for t in _sides(row).values()]
        ordered = sorted(texts)
        first = (texts == ordered) == (row.label > 0.5) if isinstance(row, Pair) else row.desirable
        key = _key([_normal(_plain(row.prompt)), *ordered])
        if first not in said[key] and said[key]:
            found.append(row.line)
        said[key].add(first)
    return tuple(found)


def _leakage(rows: Sequence[Row], held_out: Sequence[Row]) -> Leakage:
    prompts = {_key([_normal(_plain(row.prompt))]) for row in rows if row.prompt}
    whole = {_row_key(row, _normal, label=False) for row in rows}
    same_prompt = [r.line for r in held_out if r.prompt and _key([_normal(_plain(r.prompt))]) in prompts]
    same_row = [r.line for r in held_out if _row_key(r, _normal, label=False) in whole]
    return Leakage(len(held_out), tuple(same_prompt), tuple(same_row))


def _labels(rows: Sequence[Row]) -> dict[str, int]:
    pairs, rated = [r for r in rows if isinstance(r, Pair)], [r for r in rows if isinstance(r, Rated)]
    if pairs:
        return {
            "chosen better": sum(r.label > 0.5 for r in pairs),
            "tie": sum(r.label == 0.5 for r in pairs),
            "rejected better": sum(r.label < 0.5 for r in pairs),
        }
    if rated:
        good = sum(r.desirable for r in rated)
        return {"desirable": good, "undesirable": len(rated) - good}
    return {}


def _fields(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Field -> its texts; of conversations, the contents alone."""
    out: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for name, text in {"prompt": row.prompt, **_sides(row)}.items():
            if text:
                out[name].append(text if isinstance(text, str) else "".join(m["content"] for m in text))
    return dict(out)


def _lengths(values: Sequence[int]) -> Lengths:
    x = np.asarray(values)
    return Lengths(int(x.min()), float(np.median(x)), float(np.quantile(x, 0.95)), int(x.max()), float(x.mean()))


def _token_lengths(
    rows: Sequence[Row], tokenizer: Any, context: int | None, problems: Problems, path: str
) -> tuple[dict[str, Lengths], tuple[int, ...], tuple[int, ...]]:
    """Token length distributions, lines over the context, and lines whose prompt alone is."""
    if tokenizer is None or not rows:
        return {}, (), ()
    from steersman.language.encode import Truncation, encode_completions, encode_pairs

    usable: list[Row] = []
    for row in rows:  # a template may refuse single rows; each is a broken row of its own
        try:
            if not isinstance(row.prompt, str):
                render(tokenizer, row.prompt, generation_prompt=True)
            usable.append(row)
        except UserError as error:
            problems.add(row.line, error.what)
    if not usable:
        return {}, (), ()
    policy = Truncation(kind="drop")
    if isinstance(usable[0], Pair):
        pairs = encode_pairs(usable, tokenizer, policy, where=path)  # type: ignore[arg-type]
        kept, sides = pairs.rows, {"chosen": pairs.data.first, "rejected": pairs.data.second}
    else:
        encoded = encode_completions(usable, tokenizer, policy, where=path)  # type: ignore[arg-type]
        kept, sides = encoded.rows, {"completion": encoded.data}
    prompt = next(iter(sides.values())).prompt_length.numpy()
    whole = np.max([x.length.numpy() for x in sides.values()], axis=0)
    lengths = {"prompt": _lengths(prompt)} if any(row.prompt for row in kept) else {}
    lengths |= {name: _lengths((x.length - x.prompt_length).numpy()) for name, x in sides.items()}
    lengths["longest row"] = _lengths(whole)
    lines = np.array([row.line for row in kept])
    limit = np.inf if context is None else context
    return lengths, tuple(lines[whole > limit].tolist()), tuple(lines[prompt > limit].tolist())
