"""The claims of Part A, as written down before the first run, and what measures each.

Leaves out: how evidence from several settings is put together (`evidence`), the verdict (`study.verdict`).
Source: derivations from the paper's abstract (arXiv 2403.00409).
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from steersman.stats import Interval
from steersman.studies.rdpo.evidence import Part, conjunction, greater, within
from steersman.studies.rdpo.exact_data import FEATURES, FLIP_RATES, NORM, PART, Point, Table, at, derivative
from steersman.study.declare import Claim, Finding, Result
from steersman.task.log_linear import World, gaussian_length_ratio, predicted_rmse

# A pilot on seeds 0-19 fixed the numbers of seeds, nothing else; the study's own begin at FIRST_SEED.
FIRST_SEED, QUICK_SEEDS, SEEDS = 1000, 12, 40
PAIRS = {"quick": QUICK_SEEDS, "full": SEEDS}

EXACT_TOLERANCE = 1e-12  # relative, float64
MOST_STANDARD_ERRORS = 4.0
SLOPE, SLOPE_MARGIN = -0.5, 0.05
PREDICTED_MARGIN = 0.2  # of the squared error, about a tenth of the error
REACH = NORM / 4  # the asymptotic region: settings whose predicted error is at most this
COSINE_MARGIN = 0.002
SAME = "pairs, clean labels, flips (nested over rates), the ball ||theta|| <= 4 ||theta*||, convergence"


def _ordering(table: Table, worse: Sequence[Point], better: Sequence[Point], metric: str = "error") -> list[Part]:
    """One part for each pair of points: the first's metric is larger than the second's."""
    found = []
    for a, b in zip(worse, better, strict=True):
        wrong = f", assumed {a.assumed:g} against {b.assumed:g}" if a.loss == b.loss else ""
        x, y = table.paired((a, metric), (b, metric))
        found.append(greater(f"{a.features}, eps {a.flip_rate:g}{wrong}", x, y))
    return [part for part in found if part is not None]


PERMUTATION = "paired sign-flip permutation test, one-sided; the largest p over the settings"
PERMUTED = {"test": PERMUTATION, "equal": SAME, "reference": 0.0}
ERROR = {**PERMUTED, "unit": "difference of ||theta - theta*||"}


def unbiasedness(results: Sequence[Result]) -> Finding | None:
    """C1: expectation over flips, closed form and drawn."""
    for result in results:
        if result.cell.part == PART and "exact" in result.value:
            value = result.value
            worst = max(value["exact"]["rdpo"].values())
            scores = [abs(row[f"{what}_score"]) for row in value["monte_carlo"] for what in ("loss", "gradient")]
            row = next(r for r in value["monte_carlo"] if r["flip_rate"] == 0.3 and r["margin"] == 0.7)
            half = 1.96 * row["loss_error"]
            others = {name: max(errors.values()) for name, errors in value["exact"].items() if name != "rdpo"}
            told = ", ".join(f"{name} {error:.2g}" for name, error in others.items())
            return Finding(
                Interval(row["loss"], row["loss"] - half, row["loss"] + half, 0.95, "normal, known variance"),
                value["draws"],
                counted="draws",
                holds=worst <= EXACT_TOLERANCE and max(scores) <= MOST_STANDARD_ERRORS,
                test=f"closed form to {EXACT_TOLERANCE:g} and {len(scores)} Monte Carlo means within 4 standard errors",
                equal="margin and flips",
                reference=0.0,
                unit="bias of the loss (margin .7, eps .3)",
                detail=f"Largest relative error of rDPO's expectation {worst:.1g} (for comparison: {told}); largest "
                f"Monte Carlo deviation {max(scores):.2f} standard errors.",
            )
    return None


@lru_cache(maxsize=512)
def predicted(point: Point) -> float:
    """The sandwich's root mean squared error for a point fitted by rDPO (by DPO at eps = 0)."""
    return predicted_rmse(World(point.features, point.dimension, NORM), "rdpo", point.flip_rate, point.samples)


def _region(table: Table, features: str, rate: float) -> list[Point]:
    """rDPO's points at a flip rate whose predicted error lies in the asymptotic region."""
    return [
        p for p in table.points()
        if (p.features, p.flip_rate, p.loss, p.assumed) == (features, rate, "rdpo", rate) and predicted(p) <= REACH
    ]  # fmt: skip


def rate_in_n(results: Sequence[Result]) -> Finding | None:
    """C2a: each seed's slope of log error in log n, pooled within (dimension, flip rate)."""
    table, parts, told = Table(results), [], []
    for features in FEATURES:
        up, down = 0.0, np.zeros(0)
        for rate in FLIP_RATES:
            region = _region(table, features, rate)
            for d in sorted({p.dimension for p in region}):
                points = [p for p in region if p.dimension == d]
                values = np.log(np.stack(table.paired(*((p, "error") for p in points))))
                if len(points) < 2 or values.shape[1] < 2:
                    continue
                u = np.log([p.samples for p in points])
                u = u - u.mean()
                down = u @ values + (down if len(down) else 0.0)
                up += float(u @ u)
                told.append(f"{features} d {d} eps {rate:g} n {points[0].samples}-{points[-1].samples}")
        if up:
            part = within(features, down / up, SLOPE, SLOPE_MARGIN)
            parts += [part] if part else []
    return conjunction(
        parts,
        test="two one-sided t tests over seeds' slopes; the larger p of the two worlds",
        equal=SAME,
        reference=SLOPE,
        margin=SLOPE_MARGIN,
        unit="slope of log error in log n",
        detail=f"Settings with a predicted error of at most ||theta*||/4: {', '.join(told)}.",
    )


def prediction(results: Sequence[Result]) -> Finding | None:
    """C2b: squared error over the sandwich's prediction, for each flip rate."""
    table, parts = Table(results), []
    for features in FEATURES:
        for rate in FLIP_RATES:
            region = _region(table, features, rate)
            if region:
                squares = np.stack(table.paired(*((p, "error") for p in region))) ** 2
                share = (squares / np.array([predicted(p) for p in region])[:, None] ** 2).mean(0)
                part = within(f"{features}, eps {rate:g}", share, 1.0, PREDICTED_MARGIN)
                parts += [part] if part else []
    return conjunction(
        parts,
        test="two one-sided t tests over seeds; the largest p over the settings",
        equal=SAME,
        reference=1.0,
        margin=PREDICTED_MARGIN,
        unit="squared error / predicted",
        detail="Flip rates without a setting whose predicted error is at most ||theta*||/4 are not part of it.",
    )


def envelope(results: Sequence[Result]) -> Finding | None:
    """C2c: log inflation of the error over the noise-free fit, minus log 1/(1 - 2 eps)."""
    table, parts = Table(results), []
    for features in FEATURES:
        for rate in FLIP_RATES:
            region = _region(table, features, rate)
            if not region:
                continue
            clean = [p._replace(flip_rate=0.0, loss="dpo", assumed=0.0) for p in region]
            values = np.log(np.stack(table.paired(*((p, "error") for p in [*region, *clean]))))
            inflation = (values[: len(region)] - values[len(region) :]).mean(0)
            part = greater(f"{features}, eps {rate:g}", inflation, np.full_like(inflation, -math.log(1 - 2 * rate)))
            parts += [part] if part else []
    return conjunction(parts, **PERMUTED, unit="log of (inflation times 1 - 2 eps)")


def rdpo_beats_dpo(results: Sequence[Result]) -> Finding | None:
    """C3a."""
    return _losses(results, "dpo", "rdpo")


def dpo_beats_cdpo(results: Sequence[Result]) -> Finding | None:
    """C3b."""
    return _losses(results, "cdpo", "dpo")


def _losses(results: Sequence[Result], worse: str, better: str) -> Finding | None:
    settings = [(f, e) for f in FEATURES for e in FLIP_RATES]
    parts = _ordering(Table(results), [at(f, e, worse) for f, e in settings], [at(f, e, better) for f, e in settings])
    return conjunction(parts, **ERROR)


def same_direction(results: Sequence[Result]) -> Finding | None:
    """C3c: cosine to theta* of DPO and cDPO minus that of rDPO, Gaussian features."""
    table, parts = Table(results), []
    for loss in ("dpo", "cdpo"):
        a, b = table.paired((at("gaussian", 0.3, "rdpo"), "cosine"), (at("gaussian", 0.3, loss), "cosine"))
        part = within(f"rDPO minus {'DPO' if loss == 'dpo' else 'cDPO'}", a - b, 0.0, COSINE_MARGIN)
        parts += [part] if part else []
    return conjunction(
        parts,
        test="two one-sided t tests over seeds; the larger p",
        equal=SAME,
        reference=0.0,
        margin=COSINE_MARGIN,
        unit="difference of cosines to theta*",
    )


def mostly_length(results: Sequence[Result]) -> Finding | None:
    """C3d: share of the gain in squared error, DPO to rDPO, that is error of length.

    ||t - t*||^2 = (||t|| - ||t*||)^2 + 2 ||t|| ||t*|| (1 - cos): the first term is length.
    """
    table, parts = Table(results), []
    for features in FEATURES:
        points = [(at(features, 0.3, loss), metric) for loss in ("dpo", "rdpo") for metric in ("error", "length")]
        error, length, error_r, length_r = table.paired(*points)
        gain = error**2 - error_r**2
        bent = gain - NORM**2 * ((length - 1) ** 2 - (length_r - 1) ** 2)  # what the direction contributes
        # more than half: the length's part exceeds the direction's
        part = greater(f"{features}, eps 0.3", gain - bent, bent)
        parts += [part] if part else []
    return conjunction(parts, **PERMUTED, unit="gain in squared error: length minus direction")


def tuned_dpo(results: Sequence[Result]) -> Finding | None:
    """C3e: rDPO's parameter error and softmax sub-optimality minus those of DPO with an oracle's beta."""
    table, parts = Table(results), []
    for metric, what in (("error", "parameter error"), ("regularised", "sub-optimality of the softmax policy")):
        a, b = table.paired((at("gaussian", 0.3, "rdpo"), metric), (at("gaussian", 0.3, "dpo_tuned"), metric))
        part = greater(what, a, b)
        parts += [part] if part else []
    return conjunction(
        parts,
        **PERMUTED,
        unit="rDPO minus tuned DPO",
        detail="Sub-optimality is the regularised one, KL(pi || pi*).",
    )


def skewed_direction(results: Sequence[Result]) -> Finding | None:
    """C3f: with skewed features rDPO's direction is nearer theta*'s than DPO's."""
    parts = _ordering(Table(results), [at("skewed", 0.3, "rdpo")], [at("skewed", 0.3, "dpo")], "cosine")
    return conjunction(parts, **PERMUTED, unit="cosine of rDPO minus cosine of DPO")


def needless_correction(results: Sequence[Result]) -> Finding | None:
    """C5: on clean labels, rDPO that assumes flips minus DPO."""
    table, settings = Table(results), [(f, e) for f in FEATURES for e in (0.1, 0.2, 0.3)]
    wrong = [at(f, 0.0, "rdpo", e) for f, e in settings]
    parts = _ordering(table, wrong, [at(f, 0.0, "rdpo", 0.0) for f, _ in settings])
    bound = ", ".join(
        f"{p.features} e' {p.assumed:g}: {np.mean(list(values.values())):.0%}"
        for p in wrong
        if (values := table.values(p, "at_bound"))
    )
    return conjunction(parts, **ERROR, detail=f"Fits that ran into the ball: {bound}.")


def forward_beats_rdpo(results: Sequence[Result]) -> Finding | None:
    """C6: rDPO minus forward correction, skewed features."""
    table, rates = Table(results), (0.3, 0.4)
    parts = _ordering(table, [at("skewed", e, "rdpo") for e in rates], [at("skewed", e, "forward") for e in rates])
    gaussian = _ordering(table, [at("gaussian", 0.3, "rdpo")], [at("gaussian", 0.3, "forward")])
    told = "".join(
        f"Gaussian features, eps 0.3 (not part of the claim): {p.estimate.value:.3g} "
        f"[{p.estimate.low:.3g}, {p.estimate.high:.3g}]." for p in gaussian
    )  # fmt: skip
    return conjunction(parts, **ERROR, detail=told)


def minimum_at_truth(results: Sequence[Result]) -> Finding | None:
    """C7a: at eps = .3 every assumed rate .1 or more away is worse than .3."""
    table, away = Table(results), (0.0, 0.05, 0.1, 0.15, 0.2, 0.4, 0.45)
    right = at("gaussian", 0.3, "rdpo")
    parts = _ordering(table, [right._replace(assumed=e) for e in away], [right] * len(away))
    return conjunction(parts, **ERROR)


def over_worse_than_under(results: Sequence[Result]) -> Finding | None:
    """C7b: at eps = .3, assuming .3 + d is worse than assuming .3 - d."""
    right = at("gaussian", 0.3, "rdpo")
    over, under = ([right._replace(assumed=e) for e in rates] for rates in ((0.35, 0.4, 0.45), (0.25, 0.2, 0.15)))
    limits = ", ".join(f"{p.assumed:g}: {_limit(p.assumed):.3g}" for p in sorted([*over, *under]))
    told = (
        f"Length over the truth's with infinitely many pairs, by assumed rate: {limits} (inf: the loss has no minimum)."
    )
    return conjunction(_ordering(Table(results), over, under), **ERROR, detail=told)


def _limit(assumed: float) -> float:
    """rDPO's length ratio with infinitely many pairs at eps = .3, told another rate (Gaussian features)."""
    return gaussian_length_ratio(derivative("rdpo", assumed), 0.3, NORM)


OURS = "derived here"
POINT = "10 features, 8,000 pairs"


def _claim(
    id: str, text: str, paper: str, measure: Callable[[Sequence[Result]], Finding | None], permuted: bool = True
) -> Claim:
    return Claim(id, text, paper, measure, (PART,), PAIRS if permuted else {}, "greater")


CLAIMS: tuple[Claim, ...] = (
    _claim("C1", "Over label flips, rDPO's expected loss and gradient are those of DPO on clean labels",
           "abstract (the loss is unbiased); exact", unbiasedness, False),
    _claim("C2a", "rDPO's parameter error falls as n^(-1/2): exponent within 0.05 of -1/2",
           "abstract: O(sqrt(d/n) / (1 - 2 eps))", rate_in_n, False),
    _claim("C2b", "At every flip rate rDPO's squared error is within a fifth of the sandwich covariance's prediction",
           f"{OURS}: H^-1 V H^-1 / n", prediction, False),
    _claim("C2c", "The error grows with the flip rate by more than the bound's factor 1/(1 - 2 eps)",
           f"{OURS}: the bound's factor is a lower envelope", envelope),
    _claim("C3a", f"Under flips (eps .1 to .4) rDPO has a smaller parameter error than DPO ({POINT})",
           "abstract: rDPO is more robust than DPO", rdpo_beats_dpo),
    _claim("C3b", f"Under flips (eps .1 to .4) DPO has a smaller parameter error than cDPO ({POINT})",
           f"{OURS}: label smoothing shrinks twice", dpo_beats_cdpo),
    _claim("C3c", "With Gaussian features at eps .3, DPO, cDPO and rDPO point the same way (cosine within .002)",
           f"{OURS}: Stein's identity", same_direction, False),
    _claim("C3d", "At eps .3 more than half of rDPO's gain over DPO in squared error is length, not direction",
           OURS, mostly_length),
    _claim("C3e", "At eps .3 DPO with an oracle's beta is nearer the truth than rDPO, in parameters and in policy",
           f"{OURS}: against the paper's conclusion", tuned_dpo),
    _claim("C3f", "With skewed features at eps .3 rDPO's direction is nearer the truth than DPO's",
           OURS, skewed_direction),
    _claim("C5", f"On clean labels, rDPO that assumes flips (.1 to .3) is worse than DPO ({POINT})",
           OURS, needless_correction),
    _claim("C6", "With skewed features at eps .3 and .4, forward correction has a smaller parameter error than rDPO",
           f"{OURS}: forward correction is efficient", forward_beats_rdpo),
    _claim("C7a", "At eps .3 the best assumed rate is near .3: every rate .1 or more away is worse",
           OURS, minimum_at_truth),
    _claim("C7b", "At eps .3, over-estimating the rate is worse than under-estimating it by as much (.05, .1, .15)",
           OURS, over_worse_than_under),
)  # fmt: skip
