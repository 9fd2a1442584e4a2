"""What changed between two reports: claims added or gone, verdicts, estimates, results of runs.

Leaves out: making the reports (`study.summary`). Estimates count as changed when they differ at all; whether by more
than their intervals is said as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.study.summary import read_report


@dataclass(frozen=True, slots=True)
class ClaimChange:
    """A claim in two reports.

    Args:
        id: the claim.
        before, after: verdict words; empty where a report lacks the claim.
        estimate_before, estimate_after: value, low, high and unit, or None.
        how: "same", "verdict", "estimate beyond its interval", "estimate", "added" or "gone".
    """

    id: str
    before: str
    after: str
    estimate_before: Mapping[str, Any] | None
    estimate_after: Mapping[str, Any] | None
    how: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Two reports compared: their labels, claims, and runs (same result, other result, only in one)."""

    labels: tuple[str, str]
    claims: tuple[ClaimChange, ...]
    runs_same: int
    runs_changed: tuple[str, ...]
    runs_only: tuple[int, int]

    @property
    def changed(self) -> bool:
        """Whether any claim or any shared run differs."""
        return bool(self.runs_changed) or any(c.how != "same" for c in self.claims)


def find_report(place: Path) -> Path:
    """The ``report.json`` meant by a file, a report folder, or a study's folder.

    Raises:
        UserError: there is none.
    """
    for file in (place, place / "report.json", place / "report" / "report.json"):
        if file.is_file():
            return file
    raise UserError(
        "holds no report", where=str(place), allowed="report.json, or a folder with it, or a study's folder"
    )


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> Difference:
    """Compare what two ``report.json`` say."""
    claims_a, claims_b = ({c["id"]: c for c in report["claims"]} for report in (a, b))
    ids = list(dict.fromkeys([*claims_a, *claims_b]))
    runs_a, runs_b = a["runs"], b["runs"]
    shared = [run for run in runs_a if run in runs_b]
    changed = tuple(run for run in shared if runs_a[run] != runs_b[run])
    labels = tuple(f"{r['study']} {r['mode']}, {r['created'][:16].replace('T', ' ')}" for r in (a, b))
    return Difference(
        (labels[0], labels[1]),
        tuple(_change(i, claims_a.get(i), claims_b.get(i)) for i in ids),
        len(shared) - len(changed),
        changed,
        (len(runs_a) - len(shared), len(runs_b) - len(shared)),
    )


def compare_files(a: Path, b: Path) -> Difference:
    """Compare two reports on disk; see `find_report` for what may be given."""
    return compare(read_report(find_report(a)), read_report(find_report(b)))


def _change(claim: str, a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> ClaimChange:
    if a is None or b is None:
        one = a or b or {}
        words = ("", one["verdict"]) if a is None else (one["verdict"], "")
        estimates = (None, one["estimate"]) if a is None else (one["estimate"], None)
        return ClaimChange(claim, *words, *estimates, "added" if a is None else "gone")
    x, y = a["estimate"], b["estimate"]
    if a["verdict"] != b["verdict"]:
        how = "verdict"
    elif x == y or (x is not None and y is not None and repr(x) == repr(y)):  # repr: NaN equals itself here
        how = "same"
    elif x is None or y is None or not (x["low"] <= y["value"] <= x["high"] or y["low"] <= x["value"] <= y["high"]):
        how = "estimate beyond its interval"
    else:
        how = "estimate"
    return ClaimChange(claim, a["verdict"], b["verdict"], x, y, how)
