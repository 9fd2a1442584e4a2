"""What measures the claims of the causal-minimax study.

Leaves out: the claims (`claims`), the correction over them (`study.verdict`). Random worlds are the units; splits of
one file share rows, which the findings say.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from steersman.stats import clopper_pearson, paired_bootstrap, sign_test
from steersman.studies.causal_minimax.names import COMPARED, EXACT, PARTS, RANK, RIVALS, SAME, SHARE
from steersman.studies.rdpo.evidence import conjunction, greater
from steersman.studies.rl_evidence import above, within
from steersman.study.declare import Finding, Result

EQUAL = "rows, environments, regressor and exact judge of all methods"
OVERLAP = "Splits share rows, so they are not independent and the p-value is smaller than it should be."


def worlds(results: Sequence[Result], part: str) -> list[dict[str, Any]]:
    """All worlds of a part."""
    return [w for r in results if r.cell.part == PARTS[part] for w in r.value["worlds"]]


def _exactly(found: list[dict[str, Any]], worst: float, what: str) -> Finding | None:
    if not found:
        return None
    note = "" if all(w["exact"] for w in found) else " Some maxima are lower bounds."
    return Finding(None, len(found), holds=worst <= EXACT, test=f"enumeration, to {EXACT:g}", counted="worlds",
                   detail=f"{what}: {worst:.2g}.{note}")  # fmt: skip


def condition(results: Sequence[Result]) -> Finding | None:
    """C1: no subset beats the whole set where the condition holds."""
    found = [w for w in worlds(results, "exact") if w["holds"]]
    return _exactly(found, max((w["whole"] - w["best"] for w in found), default=0.0), "Largest excess of the whole set")


def classes_alike(results: Sequence[Result]) -> Finding | None:
    """C2: one risk within a class."""
    found = worlds(results, "exact")
    return _exactly(found, max((w["within"] for w in found), default=0.0), "Largest spread of risks within a class")


def optimum_found(results: Sequence[Result]) -> Finding | None:
    """C3: the best class is the best subset."""
    found = worlds(results, "exact")
    done = _exactly(found, max((w["by_class"] - w["best"] for w in found), default=0.0), "Largest excess")
    if done is None:
        return None
    some, all_ = (sum(w[k] for w in found) for k in ("classes", "subsets"))
    told = f"{done.detail} {some:,} classes were judged instead of {all_:,} subsets."
    return Finding(None, done.n, holds=done.holds, test=done.test, counted=done.counted, detail=told)


def not_always(results: Sequence[Result]) -> Finding | None:
    """C4: the whole set is beaten in some world."""
    found = [w for w in worlds(results, "exact") if not w["holds"]]
    if not found:
        return None
    gaps = [w["gap"] for w in found if w["gap"] > 0]
    sizes = f"Gaps: median {np.median(gaps):.2g}, largest {max(gaps):.2g}." if gaps else ""
    return Finding(
        clopper_pearson(len(gaps), len(found)), len(found), holds=bool(gaps), test="enumeration", counted="worlds",
        unit="share of worlds where it is beaten", detail=f"Beaten in {len(gaps)} of {len(found)} worlds. {sizes}",
    )  # fmt: skip


def counts(results: Sequence[Result]) -> Finding | None:
    """C5: counts in closed form."""
    for r in results:
        if r.cell.part == PARTS["search"]:
            told = r.value["counts"]
            right = {"path from Y": lambda d: d + 1, "star": lambda d: 2**d,
                     "path through Y": lambda d: (d // 2 + 1) * (d - d // 2 + 1)}  # fmt: skip
            checked = [told[k][d][0] == f(int(d)) for k, f in right.items() for d in told[k]]
            published = r.value["published"]
            return Finding(None, len(checked) + 1, holds=all(checked) and published == 45, counted="graphs",
                           test="counting", detail=f"The published graph has {published} classes of 256.")  # fmt: skip
    return None


def few(results: Sequence[Result]) -> Finding | None:
    """C6: share of the subsets that sparse graphs of twelve variables need."""
    for r in results:
        if r.cell.part == PARTS["search"] and "12" in r.value["counts"]["sparse"]:
            share = [n / 2**12 for n in r.value["counts"]["sparse"]["12"]]
            return above([SHARE - s for s in share], 0.0, counted="graphs", unit="a quarter less the share judged",
                         detail=f"Shares: median {np.median(share):.3f}, largest {max(share):.3f}.")  # fmt: skip
    return None


def _compared(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [w for w in worlds(results, "estimated") if w["rows"] == COMPARED]


def _regret(found: list[dict[str, Any]], method: str) -> np.ndarray:
    return np.array([w["regret"][method] for w in found])


def better_than_whole(results: Sequence[Result]) -> Finding | None:
    """E1: wins and losses against the whole set where the condition fails."""
    found = [w for w in _compared(results) if not w["holds"]]
    if len(found) < 2:
        return None
    ours, whole = _regret(found, "causal minimax"), _regret(found, "whole stable set")
    wins, losses = int((ours < whole - EXACT).sum()), int((ours > whole + EXACT).sum())
    p_for, p_against = (sign_test(wins, losses, side).p_value for side in ("greater", "less"))
    beaten = sum(w["gap"] > EXACT for w in found)
    return Finding(
        paired_bootstrap(whole, ours), len(found), p_for, p_against, reference=0.0, counted="worlds", equal=EQUAL,
        test="sign test over worlds, ties left out", unit="regret of the whole set less ours",
        detail=f"Ours wins {wins} worlds, loses {losses}, ties {len(found) - wins - losses}; the whole set is truly "
        f"beaten in {beaten} of {len(found)}.",
    )  # fmt: skip


def nothing_lost(results: Sequence[Result]) -> Finding | None:
    """E2: the search without the shortcut, where the whole set is best."""
    found = [w for w in _compared(results) if w["holds"]]
    gap = _regret(found, "no shortcut") - _regret(found, "whole stable set") if found else np.zeros(0)
    return within([("no shortcut", gap.tolist(), 0.0, SAME)], counted="worlds", equal=EQUAL,
                  unit="regret less the whole set's")  # fmt: skip


def ranks(results: Sequence[Result]) -> Finding | None:
    """E3: Spearman's correlation of estimated and exact risks over the classes of a world."""
    found = [w["rank"] for w in _compared(results) if np.isfinite(w["rank"]) and w["spread"] > SAME]
    return above(found, RANK, counted="worlds", unit="rank correlation",
                 detail=f"Worlds whose risks differ by more than {SAME:g} over three classes or more.")  # fmt: skip


def rivals(results: Sequence[Result]) -> Finding | None:
    """E4: ours against every baseline, over all worlds."""
    found = _compared(results)
    ours = _regret(found, "causal minimax") if found else np.zeros(0)
    parts = [greater(name, _regret(found, name), ours) for name in RIVALS] if len(found) > 1 else []
    return conjunction([p for p in parts if p], test="paired sign-flip permutation tests, the largest p over baselines",
                       equal=EQUAL, reference=0.0, unit="regret of a baseline less ours", counted="worlds")  # fmt: skip


def gate(results: Sequence[Result]) -> Finding | None:
    """G1: exact risks at the gate."""
    found = [r.value for r in results if r.cell.part == PARTS["gate"]]
    gaps = [v["risk"]["whole stable set"] - v["risk"]["causal minimax"] for v in found]
    none = sum(not v["chosen"] for v in found)
    return above(gaps, 0.0, counted="draws", unit="risk of the whole set less ours", equal="rows, regressor",
                 detail=f"No stable variable was chosen in {none} of {len(found)} draws.")  # fmt: skip


def _splits(results: Sequence[Result], part: str) -> list[dict[str, Any]]:
    return [r.value for r in results if r.cell.part == PARTS[part]]


def correlation(results: Sequence[Result], part: str, mode: str, scale: str) -> Finding | None:
    """Rank correlation of estimated worst-case risks and largest test errors over the classes, a value a split."""
    found = []
    for v in _splits(results, part):
        rows = v["modes"][mode]
        x, y = [r["risk"] for r in rows], [r[scale] for r in rows]
        if np.ptp(x) > 0 and np.ptp(y) > 0:
            found.append(float(scipy.stats.spearmanr(x, y).statistic))
    total = len(_splits(results, part))
    told = f"Risks differ between classes in {len(found)} of {total} splits; elsewhere every predictor is the mean. "
    if total and len(found) < 2:
        return Finding(None, total, counted="splits", detail=told.strip())
    return above(found, 0.0, counted="splits", unit="rank correlation", detail=told + OVERLAP)


def chosen(v: dict[str, Any], mode: str = "corrected") -> dict[str, Any]:
    """The class with the smallest estimated risk of a split."""
    return min(v["modes"][mode], key=lambda r: r["risk"])


def against(results: Sequence[Result], part: str, other: str, scale: str = "training") -> Finding | None:
    """Largest test error of another predictor less that of the class that was chosen."""
    gaps, both = [], []
    for v in _splits(results, part):
        ours = chosen(v)[scale]
        theirs = next(r[scale] for r in v["modes"]["corrected"] if r["whole"]) if other == "whole stable set" else (
            v["baselines"][other][scale])  # fmt: skip
        gaps.append(theirs - ours)
        both.append((theirs, ours))
    told = f"Means: {np.mean([a for a, _ in both]):.3f} and {np.mean([b for _, b in both]):.3f}. " if both else ""
    return above(gaps, 0.0, counted="splits", unit=f"largest test error of {other} less ours", detail=told + OVERLAP)
