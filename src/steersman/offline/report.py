"""Everything about a log in one result: description, quality, coverage, advice; as JSON values and as a page.

Leaves out: opening files and options (`recipes.measure`), the page's markup (`report_page`).
"""

from dataclasses import dataclass
from typing import Any

from steersman.offline import advise as advice_of
from steersman.offline import describe as described
from steersman.offline.advise import Advice, advise
from steersman.offline.chunks import Log
from steersman.offline.describe import Description, describe, odd
from steersman.offline.measure import Coverage, compare, coverage, quality
from steersman.offline.rows import Discretizer, Encoder
from steersman.page.number import Estimate
from steersman.stats.intervals import t_interval

SATURATED = 0.8
"""Share of transitions that are pairs of their own, in both logs, from which counts hardly differ any more."""


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What is known of a log.

    Args:
        log: its description; ref: that of the reference, None = none was given.
        discount: gamma of all returns.
        low, high: mean returns that TQ is measured between; None = not given.
        tq: trajectory quality with its 95 % interval over the log's episodes (low and high taken as known).
        coverage: beside the reference.
        encoder: how pairs were made; None = as they are.
        advice: a family with its evidence, or why there is none.
        notes: what is odd, a sentence each.
    """

    log: Description
    ref: Description | None
    discount: float
    low: float | None
    high: float | None
    tq: Estimate | None
    coverage: Coverage | None
    encoder: Encoder | None
    advice: Advice
    notes: tuple[str, ...]


def dataset_report(
    log: Log,
    ref: Log | None = None,
    low: float | None = None,
    high: float | None = None,
    *,
    encoder: Encoder | None = None,
    counter: str = "exact",
    discount: float = 1.0,
    repeats: int = 0,
    seed: int = 0,
) -> DatasetReport:
    """Measure a log, beside a reference and between two returns where they are given.

    Args:
        log: the data; ref: reference for coverage, as many transitions of the same task.
        low, high: mean returns of a random policy and of the best policy known, with the same `discount`.
        encoder, counter, repeats, seed: see `measure.coverage`.
        discount: gamma of returns.

    Raises:
        UserError: values that cannot be used, sizes that differ without `repeats`, low and high that are equal.

    Edge cases: without `ref`, or without both `low` and `high`, the log is described and nothing is recommended.
    """
    mine = describe(log, encoder, counter, discount)
    theirs = None if ref is None else describe(ref, encoder, counter, discount)
    covered = None
    if ref is not None and theirs is not None:
        alike = len(log) == len(ref)
        covered = (
            compare(mine.counted, theirs.counted) if alike else coverage(log, ref, encoder, counter, repeats, seed)
        )
    tq = _quality(mine, low, high)
    advice = advise(None if tq is None else tq.value, None if covered is None else covered.saco, mine.discrete)
    notes = tuple(odd(mine)) + _reference_notes(theirs, covered)
    return DatasetReport(mine, theirs, discount, low, high, tq, covered, encoder, advice, notes)


def _quality(found: Description, low: float | None, high: float | None) -> Estimate | None:
    if low is None or high is None:
        return None
    value = quality(found.returns.mean("trajectory quality"), low, high)
    if len(found.returns.value) < 2:
        return Estimate(value, float("nan"), float("nan"))
    around = t_interval(found.returns.value)
    ends = sorted((quality(around.low, low, high), quality(around.high, low, high)))
    return Estimate(value, ends[0], ends[1])


def _reference_notes(ref: Description | None, covered: Coverage | None) -> tuple[str, ...]:
    out = []
    if covered is not None and min(covered.u, covered.u_ref) > SATURATED * covered.rows:
        out.append(
            f"More than {SATURATED:.0%} of the transitions of both logs are pairs of their own, so SACo is near 1 "
            "whatever they hold: wider cells (fewer bins) or longer logs would tell more."
        )
    if ref is not None:
        out += [f"Reference: {line[0].lower()}{line[1:]}" for line in odd(ref) if "time limit" in line]
    if covered is not None and covered.spread is not None:
        out.append(f"Log and reference differ in size: both were subsampled to {covered.rows:,} transitions.")
    return tuple(out)


def as_json(found: DatasetReport) -> dict[str, Any]:
    """A report as JSON values, with the discretiser's edges, so that a later count can be made alike."""
    tq, c = found.tq, found.coverage
    quality_part = None if tq is None else {
        "tq": tq.value, "low": tq.low, "high": tq.high, "level": tq.level, "low_return": found.low,
        "high_return": found.high,
    }  # fmt: skip
    coverage_part = None if c is None else {
        "saco": c.saco, "lsaco": c.lsaco, "unique": c.u, "unique_reference": c.u_ref, "entropy": c.entropy,
        "entropy_reference": c.entropy_ref, "entropy_ratio": c.entropy_ratio, "perplexity": c.perplexity,
        "transitions": c.rows, "spread": c.spread, "counter": c.counter,
    }  # fmt: skip
    return {
        "log": described.as_json(found.log),
        "reference": None if found.ref is None else described.as_json(found.ref),
        "discount": found.discount,
        "quality": quality_part,
        "coverage": coverage_part,
        "discretiser": found.encoder.as_json() if isinstance(found.encoder, Discretizer) else None,
        "advice": advice_of.as_json(found.advice),
        "notes": list(found.notes),
    }
