"""Read and encode the files a recipe names, and say what was dropped, cut or odd.

Leaves out: formats (`language.records`) and truncation policies (`language.encode`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.language.encode import Encoded, encode_completions, encode_pairs
from steersman.language.records import Records, read_completions, read_pairs, read_rated
from steersman.objective.components import KTO
from steersman.recipes.training import PreferenceRecipe, Recipe, SftRecipe


@dataclass(frozen=True, slots=True)
class Data:
    """Encoded training and held-out rows, and lines about what was dropped or cut."""

    train: Encoded[Any, Any]
    held_out: Encoded[Any, Any] | None
    notes: tuple[str, ...]


def read_data(recipe: Recipe, tokenizer: Any, context: int | None) -> Data:
    """Read and encode the recipe's files.

    Raises:
        UserError: names file, line and cause.
    """
    notes: list[str] = []
    found = []
    for name in (recipe.data.train, recipe.data.evaluation):
        found.append(_encode(recipe, Path(name), tokenizer, context, notes) if name else None)
    train, held_out = found
    assert train is not None
    return Data(train, held_out, tuple(notes))


def _encode(recipe: Recipe, path: Path, tokenizer: Any, context: int | None, notes: list[str]) -> Encoded[Any, Any]:
    settings: Any = {"truncation": recipe.data.truncation, "context": context, "where": path}
    records: Records[Any]
    if isinstance(recipe, SftRecipe):
        records = read_completions(path)
        encoded: Encoded[Any, Any] = encode_completions(records.rows, tokenizer, **settings)
    elif isinstance(recipe, PreferenceRecipe) and isinstance(recipe.loss, KTO):
        records = read_rated(path)
        encoded = encode_completions(records.rows, tokenizer, **settings)
    else:
        records = read_pairs(path)
        encoded = encode_pairs(records.rows, tokenizer, **settings)
    notes.extend(_remarks(path, records, encoded))
    return encoded


def _remarks(path: Path, records: Records[Any], encoded: Encoded[Any, Any]) -> list[str]:
    """One line for everything that was dropped, cut or odd."""
    report = encoded.report
    counts = {
        "pairs with identical sides dropped": len(records.identical) + report.dropped_identical,
        "too long, dropped": report.dropped_long,
        "prompts cut on the left": report.truncated_prompt,
        "responses cut on the right": report.truncated_completion,
        "ties (label 0.5)": records.ties,
        "responses with an end-of-sequence token inside": report.inner_end,
    }
    lines = [f"{path.name}: {report.rows_out} rows, {report.tokens} tokens, longest {report.longest}"]
    counts |= {f"rows with a column {name!r}, which is not used": n for name, n in (records.ignored or {}).items()}
    return lines + [f"{path.name}: {n} {what}" for what, n in counts.items() if n]
