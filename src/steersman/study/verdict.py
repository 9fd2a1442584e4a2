"""From findings to words: Holm over the study's tested claims, then supported, contradicted, inconclusive or not
testable here, each with its reason.

Holm is applied once to the evidence for the claims and once to the evidence against them, so the chance of any false
"supported" is at most alpha, and so is that of any false "contradicted". Leaves out: measuring (the study's claims)
and showing (`study.summary`). Source: Holm 1979.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from steersman.core.errors import UserError
from steersman.page.number import p_value
from steersman.stats import holm, smallest_p
from steersman.study.declare import Claim, Finding, Mode, ModeName, Result, Word
from steersman.study.plan import ALPHA


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim with its verdict.

    Args:
        claim: the claim.
        finding: what was measured, or None.
        word: the verdict.
        reason: why, in a few words; empty only where the word says it all.
        p: the p-value that goes with the word, before correction; None where there was no test.
        p_corrected: the same after Holm.
    """

    claim: Claim
    finding: Finding | None
    word: Word
    reason: str
    p: float | None = None
    p_corrected: float | None = None


def judge(
    claims: Sequence[Claim],
    mode: Mode,
    results: Sequence[Result],
    missing: Mapping[str, Collection[str]],
    extra_seeds: int = 0,
) -> tuple[Judged, ...]:
    """Measure every claim and decide it.

    Args:
        claims: all claims of the study.
        mode: the size that was run.
        results: results of the finished runs of this mode, and of no other.
        missing: by part, the runs that failed or were not finished.
        extra_seeds: seeds added to the mode's own, for what the plan can reach.

    Returns:
        One `Judged` per claim, in order. A claim whose runs are not all there is not measured at all: what is left
        may be a selection.
    """
    early = {c.id: _not_measured(c, mode, missing) for c in claims}
    findings: dict[str, Finding] = {}
    for claim in claims:
        if early[claim.id] is not None:
            continue
        try:
            found = claim.measure([r for r in results if r.cell.part in claim.parts])
        except UserError as error:
            early[claim.id] = Judged(claim, None, "inconclusive", f"could not be measured: {error.args[0]}")
            continue
        if found is None:
            early[claim.id] = Judged(claim, None, "not testable here", f"no run of the {mode.name} mode tests it")
        else:
            findings[claim.id] = found
    return decide(claims, findings, {k: v for k, v in early.items() if v is not None}, mode.name, extra_seeds)


def _not_measured(claim: Claim, mode: Mode, missing: Mapping[str, Collection[str]]) -> Judged | None:
    lost = [run for part in claim.parts for run in missing.get(part, ())]
    if lost:
        total = sum(cell.part in claim.parts for cell in mode.cells)
        return Judged(claim, None, "inconclusive", f"{len(lost)} of its {total} runs failed or are not finished")
    if not any(cell.part in claim.parts for cell in mode.cells):
        return Judged(claim, None, "not testable here", f"no run of the {mode.name} mode tests it")
    return None


def decide(
    claims: Sequence[Claim],
    findings: Mapping[str, Finding],
    early: Mapping[str, Judged],
    mode: ModeName,
    extra_seeds: int = 0,
) -> tuple[Judged, ...]:
    """Decide claims from their findings.

    adjusted p = Holm over all claims with a p-value, once for `p_for`, once for `p_against`; supported if the first is
    below alpha = 0.05, contradicted if the second is, inconclusive otherwise. An exact statement (`holds`) is decided
    by itself and is not counted in the correction.

    Args:
        claims: all claims, in order.
        findings: by claim id.
        early: verdicts of the claims that have no finding.
        mode: name of the mode, for the reasons.
        extra_seeds: seeds added to the mode's own.

    Returns:
        One `Judged` per claim.

    Raises:
        UserError: a finding with both a test and an exact answer.
    """
    tested = [c.id for c in claims if c.id in findings and _has_test(findings[c.id], c.id)]
    favour = _corrected([findings[c].p_for for c in tested])
    against = _corrected([findings[c].p_against for c in tested])
    best = _best(claims, findings, tested, mode, extra_seeds)
    out = []
    for claim in claims:
        if claim.id not in findings:
            out.append(early[claim.id])
        elif claim.id not in tested:
            out.append(_exact(claim, findings[claim.id]))
        else:
            i = tested.index(claim.id)
            out.append(_tested(claim, findings[claim.id], favour[i], against[i], best[i], mode))
    return tuple(out)


def _has_test(finding: Finding, claim: str) -> bool:
    tested = finding.p_for is not None or finding.p_against is not None
    if tested and finding.holds is not None:
        raise UserError("has both a test and an exact answer", where=f"claim {claim}")
    return tested


def _corrected(values: Sequence[float | None]) -> list[float | None]:
    return [None if math.isnan(p) else float(p) for p in holm(values)] if values else []


def _best(
    claims: Sequence[Claim], findings: Mapping[str, Finding], tested: Sequence[str], mode: ModeName, extra: int
) -> list[float]:
    """The smallest corrected p-value each tested claim could have reached with its number of pairs."""
    by_id = {c.id: c for c in claims}
    limits: list[float | None] = []
    for name in tested:
        claim = by_id[name]
        planned = claim.pairs.get(mode, 0)
        pairs = min(planned + extra, findings[name].n) if planned else 0
        limits.append(smallest_p(pairs, 1, alternative=claim.sided) if pairs else 0.0)
    return [float(p) for p in holm(limits)] if limits else []


def _exact(claim: Claim, finding: Finding) -> Judged:
    if finding.holds is None:
        return Judged(claim, finding, "inconclusive", "no test was possible")
    return Judged(claim, finding, "supported" if finding.holds else "contradicted", "exact statement")


def _tested(
    claim: Claim, finding: Finding, favour: float | None, against: float | None, best: float, mode: ModeName
) -> Judged:
    yes, no = favour is not None and favour < ALPHA, against is not None and against < ALPHA
    if yes and no:
        reason = "its two tests contradict each other"
        return Judged(claim, finding, "inconclusive", reason, finding.p_for, favour)
    if yes:
        return Judged(claim, finding, "supported", _p(favour), finding.p_for, favour)
    if no:
        return Judged(claim, finding, "contradicted", _p(against), finding.p_against, against)
    use_favour = against is None or (favour is not None and favour <= against)
    p, corrected = (finding.p_for, favour) if use_favour else (finding.p_against, against)
    if best >= ALPHA:
        seeds = f"{finding.n} seed{'' if finding.n == 1 else 's'}"
        reason = f"by design ({mode}: {seeds} cannot reach p < {ALPHA:g})"
    else:
        reason = _p(corrected)
    return Judged(claim, finding, "inconclusive", reason, p, corrected)


def _p(corrected: float | None) -> str:
    text = p_value(corrected)
    return f"p {text}" if text.startswith("<") else f"p = {text}"
