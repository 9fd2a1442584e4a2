"""What a chosen policy is worth on respondents who did not help to choose it; respondents drawn again.

The model that chose a policy is too fond of it. Here policies are chosen on all folds but one and judged on that one,
folds made of whole respondents. Leaves out: the value of an equilibrium on held-out data, which no randomised pair
reveals without a model. Source: Jerzak, Chandra and Hazra 2025, section 4; doubly robust estimates: Dudik, Langford and
Li 2011.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steersman.core import noise
from steersman.core.errors import UserError
from steersman.decide.conjoint.data import ConjointData
from steersman.decide.conjoint.optimal import normal_interval, optimize_policy
from steersman.decide.conjoint.outcome import Outcome, PairLinear, PairLogit, RatingLinear, RatingLogit, respondents
from steersman.decide.conjoint.penalty import Kind
from steersman.decide.conjoint.policy import FactoredPolicy, design_policy
from steersman.decide.conjoint.surface import surface
from steersman.stats.intervals import Interval

Model = RatingLinear | RatingLogit | PairLinear | PairLogit


@dataclass(frozen=True, slots=True)
class CrossFit:
    """Values of policies on folds that did not choose them, each with a normal interval clustered by respondent.

    Args:
        ips: mean of w Y, w = prod_d x_d(t_d) / p_d(t_d), clipped.
        snips: sum of w Y / sum of w.
        dr: mean of Q_model + w (Y - model), right if either the design or the model is.
        design: the design's value on the same rows.
        ess: (sum w)^2 / sum w^2, rows that the weights leave.
        rows: judged profiles.
        clipped: share of weights that were clipped.
    """

    ips: Interval
    snips: Interval
    dr: Interval
    design: Interval
    ess: float
    rows: int
    clipped: float


def crossfit_value(
    data: ConjointData,
    model: Model,
    penalty: Kind = "l2",
    lam: float = 0.05,
    folds: int = 5,
    clip: float = 50.0,
    level: float = 0.95,
    seed: int = 0,
) -> CrossFit:
    """Value of policies chosen on the other folds, against a profile of the design.

    Args:
        data: pairs or ratings; the design is estimated on the folds that choose.
        model: how outcomes are modelled.
        penalty, lam: of `optimize_policy`.
        folds: 2 or more, of whole respondents.
        clip: most that a weight may be; clipping lowers variance and biases ips.
        level: of the intervals.
        seed: of the folds.

    Raises:
        UserError: fewer respondents than folds, or what fitting refuses.

    Edge cases: pairs count in both orders, a half each.
    """
    units = respondents(data)
    count = int(units.max()) + 1
    if not 2 <= folds <= count:
        raise UserError(f"{folds} folds do not fit {count} respondents", where="folds", allowed=f"2 to {count}")
    if not clip > 0:
        raise UserError(f"{clip} is out of range", where="clip", allowed="> 0")
    fold = (noise.generator(seed, "conjoint/folds").permutation(count) % folds)[units]
    parts: list[np.ndarray] = []
    for k in range(folds):
        train = data.take(fold != k)
        found = model.fit(train)
        design = design_policy(data.factors, list(train.design))
        chosen = optimize_policy(found, design, penalty, lam)
        parts.append(_judge(data.take(fold == k), found, chosen.policy, design, units[fold == k]))
    return _estimates(np.concatenate(parts), clip, level)


def _judge(
    data: ConjointData, model: Outcome, policy: FactoredPolicy, design: FactoredPolicy, unit: np.ndarray
) -> np.ndarray:
    """Rows of weight, outcome, predicted outcome, predicted value of the policy, respondent; pairs in both orders."""
    value = surface(model, design.x if model.paired else None).value(policy.x)
    orders = [data] if data.second is None else [data, data.swapped(np.ones(len(data), bool))]
    rows = []
    for d in orders:
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.exp(policy.log_prob(d.first) - design.log_prob(d.first))
        if not np.isfinite(weight).all():
            raise UserError("a fold shows a level that the others never do", where="folds", cure="merge rare levels")
        rows.append(np.stack([weight, d.outcome, model.predict(d.first, d.second), np.full(len(d), value), unit], 1))
    return np.concatenate(rows)


def _estimates(rows: np.ndarray, clip: float, level: float) -> CrossFit:
    raw, y, predicted, value, unit = rows.T
    w = np.minimum(raw, clip)
    snips = float(w @ y / w.sum()) if w.sum() else float("nan")
    groups = np.unique(unit, return_inverse=True)[1]

    def interval(score: np.ndarray, centre: float | None = None) -> Interval:
        middle = float(score.mean()) if centre is None else centre
        total = np.bincount(groups, score - (middle if centre is None else 0.0))
        count = len(total)
        return normal_interval(middle, float(np.sqrt((total**2).sum() * count / (count - 1)) / len(score)), level)

    return CrossFit(
        interval(w * y),
        interval(w * (y - snips) / w.mean(), snips),
        interval(value + w * (y - predicted)),
        interval(y),
        float(w.sum() ** 2 / (w @ w)),
        len(rows),
        float((raw > clip).mean()),
    )


def choose_lam(
    data: ConjointData,
    model: Model,
    lams: Sequence[float] | None = None,
    penalty: Kind = "l2",
    folds: int = 5,
    seed: int = 0,
) -> tuple[float, list[tuple[float, CrossFit]]]:
    """The lam whose cross-fitted doubly robust value is largest, with all that were tried.

    Args:
        data, model, penalty, folds, seed: as `crossfit_value`.
        lams: None = 10^-4, 10^-3.5, ..., 1 times the outcome's standard deviation.

    Edge cases: the largest value of several is itself optimistic; the interval at the chosen lam does not know that.
    """
    tried = np.std(data.outcome) * 10.0 ** np.arange(-4, 0.5, 0.5) if lams is None else lams
    found = [(float(lam), crossfit_value(data, model, penalty, float(lam), folds, seed=seed)) for lam in tried]
    return max(found, key=lambda pair: pair[1].dr.value)[0], found


def bootstrap_respondents(
    data: ConjointData, statistic: Callable[[ConjointData], np.ndarray], resamples: int = 200, seed: int = 0
) -> np.ndarray:
    """A statistic of respondents drawn again with replacement, everything fitted anew; [resamples, k].

    Args:
        data: without respondents named, rows are drawn.
        statistic: fits, chooses and returns numbers.
        resamples: 2 or more.
        seed: of the draws.

    Edge cases: intervals of an optimum's value are centred on an optimistic number; use them for spread.
    """
    if resamples < 2:
        raise UserError(f"{resamples} resamples are too few", where="bootstrap", allowed="2 or more")
    units = respondents(data)
    order = np.argsort(units, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(units))[:-1])
    out = []
    for i in range(resamples):
        drawn = noise.generator(seed, "conjoint/bootstrap", i).integers(0, len(rows), len(rows))
        taken = np.concatenate([rows[j] for j in drawn])
        own = np.repeat(np.arange(len(drawn)), [len(rows[j]) for j in drawn])
        out.append(np.asarray(statistic(replace(data.take(taken), cluster=own)), np.float64))
    return np.stack(out)
