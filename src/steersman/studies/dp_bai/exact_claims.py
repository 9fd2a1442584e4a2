"""What measures the DP-BAI study's claims about exact figures and audits. Leaves out: the claims (`claims`)."""

from collections.abc import Sequence
from typing import Any

from steersman.stats import Interval
from steersman.studies.dp_bai import names
from steersman.study.declare import Finding, Result

MOST_ERRORS = 4.0
LEAST_R2 = 0.98
LAW_MARGIN = 0.2
RATIO_MARGIN = 0.02
ROUNDING = 1e-9


def _exact(results: Sequence[Result]) -> dict[str, Any] | None:
    found = [r.value for r in results if r.cell.part == names.PARTS["exact"]]
    return dict(found[0]) if found else None


def held(value: float, n: int, holds: bool, **more: Any) -> Finding:
    """A finding that is decided by itself."""
    return Finding(Interval(value, value, value, 0.95, "exact"), n, holds=holds, **more)


def simulator(results: Sequence[Result]) -> Finding | None:
    """Simulated errors of two and four arms are the enumerated ones."""
    if (value := _exact(results)) is None:
        return None
    off = []
    for row in value["simulator"]:
        p, n = row["exact"], row["trials"]
        off.append((row["wrong"] / n - p) / (p * (1 - p) / n) ** 0.5)
    worst = max(off, key=abs)
    return held(worst, len(off), max(map(abs, off)) <= MOST_ERRORS, unit="largest deviation, standard errors",
                 test=f"every one of {len(off)} within {MOST_ERRORS:g} standard errors", counted="settings",
                 reference=0.0, margin=MOST_ERRORS)  # fmt: skip


def linear(results: Sequence[Result]) -> Finding | None:
    """-ln(error) is linear in T."""
    if (value := _exact(results)) is None:
        return None
    found = [r["r2"] for r in [*(r for r in value["two"] if r["shrunk"] == 1.0), *value["four"]]]
    return held(min(found), len(found), min(found) > LEAST_R2, unit="smallest R^2", reference=LEAST_R2,
                 test="least squares over errors from .3 to .001, two arms and four", counted="curves")  # fmt: skip


def law(results: Sequence[Result]) -> Finding | None:
    """Slopes follow 1 / (a + b / epsilon)."""
    if (value := _exact(results)) is None:
        return None
    off = {(what, e): o for what, f in value["fits"].items() for e, o in f["off"].items()}
    place, worst = max(off.items(), key=lambda x: abs(x[1]))
    told = "; ".join(f"{what}: a {f['a']:.3g}, b {f['b']:.3g}" for what, f in value["fits"].items())
    return held(worst, len(off), abs(worst) <= LAW_MARGIN, unit="largest relative deviation of a slope",
                 reference=0.0, margin=LAW_MARGIN, test="non-negative least squares over epsilon", counted="slopes",
                 detail=f"Shown: {place[0]}, epsilon {place[1]}. {told}.")  # fmt: skip


def shrinking(results: Sequence[Result]) -> Finding | None:
    """Slope ratios of shrunk gaps lie between c^2 and c, near c where noise rules and near c^2 where it does not."""
    if (value := _exact(results)) is None:
        return None
    slope = {(r["epsilon"], r["shrunk"]): r["slope"] for r in value["two"]}
    ratios = {(e, c): slope[e, c] / slope[e, 1.0] for e, c in slope if c != 1.0}
    outside = {k: max(r - k[1], k[1] ** 2 - r) for k, r in ratios.items()}
    ends = {k: ratios[k] - (k[1] if k[0] == min(e for e, _ in slope) else k[1] ** 2)
            for k in ratios if k[0] in (min(e for e, _ in slope), max(e for e, _ in slope))}  # fmt: skip
    holds = max(outside.values()) <= RATIO_MARGIN and max(map(abs, ends.values())) <= RATIO_MARGIN
    told = ", ".join(f"epsilon {e:g}, c {c:g}: {ratios[e, c]:.3f}" for e, c in ends)
    worst = max(max(outside.values()), max(map(abs, ends.values())))
    return held(worst, len(ratios), holds, unit="largest distance from where the ratios should be", counted="ratios",
                 reference=0.0, margin=RATIO_MARGIN, detail=f"{told}.",
                 test="exact slopes of two arms, gaps times .7 and .5")  # fmt: skip


def never_refuted(results: Sequence[Result]) -> Finding | None:
    """Audits do not refute the method."""
    found = [r.value for r in results if r.cell.part == names.PARTS["audit"] and r.value["fault"] is None]
    if not found:
        return None
    worst = max(found, key=lambda a: a["epsilon_lower"] - a["epsilon"])
    told = "; ".join(f"epsilon {a['epsilon']:g}: at least {a['epsilon_lower']:.3f}" for a in found)
    return Finding(
        Interval(worst["epsilon_lower"], worst["epsilon_lower"], float("inf"), worst["confidence"], "Clopper-Pearson"),
        2 * worst["runs"], holds=not any(a["broken"] for a in found), reference=worst["epsilon"], unit="epsilon",
        test="one-sided Clopper-Pearson bounds, 5 % over all epsilons", counted="runs", detail=f"{told}.",
    )  # fmt: skip


def faults_found(results: Sequence[Result]) -> Finding | None:
    """Audits find every planted fault."""
    found = [r.value for r in results if r.cell.part == names.PARTS["audit"] and r.value["fault"] is not None]
    if not found:
        return None
    worst = min(found, key=lambda a: a["epsilon_lower"] / a["epsilon"])
    told = "; ".join(f"{a['fault']}, epsilon {a['epsilon']:g}: at least {a['epsilon_lower']:.3f}" for a in found)
    return Finding(
        Interval(worst["epsilon_lower"], worst["epsilon_lower"], float("inf"), worst["confidence"], "Clopper-Pearson"),
        2 * worst["runs"], holds=all(a["broken"] for a in found), reference=worst["epsilon"], unit="epsilon",
        test="one-sided Clopper-Pearson bounds", counted="runs", detail=f"{told}.",
    )  # fmt: skip


def exact_promise(results: Sequence[Result]) -> Finding | None:
    """Enumerated losses never exceed epsilon."""
    if (value := _exact(results)) is None:
        return None
    losses = [(r["loss"] / r["epsilon"]) for r in value["losses"]["returned"]]
    losses += [float(r["loss"]) / r["epsilon"] for r in value["losses"]["history"] if not r["fault"]]
    return held(max(losses), len(losses), max(losses) <= 1 + ROUNDING, unit="largest loss over epsilon",
                 reference=1.0, counted="settings",
                 test="the arm returned of two, every history of three arms on every table")  # fmt: skip


def exact_faults(results: Sequence[Result]) -> Finding | None:
    """Enumerated losses of every planted fault exceed epsilon."""
    if (value := _exact(results)) is None:
        return None
    found = [r for r in value["losses"]["history"] if r["fault"]]
    worst = min(found, key=lambda r: float(r["loss"]) / r["epsilon"])
    ratio = float(worst["loss"]) / worst["epsilon"]
    return held(ratio, len(found), ratio > 1 + ROUNDING, unit="smallest loss over epsilon", reference=1.0,
                 detail=f"Smallest: {worst['fault']}, epsilon {worst['epsilon']:g}.", counted="settings",
                 test="every history of three arms over two phases on every table")  # fmt: skip
