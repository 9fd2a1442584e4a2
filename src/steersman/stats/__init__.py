"""Intervals, tests and fits: pure numpy/scipy functions that every room above may use.

`intervals` holds closed-form intervals (`wilson`, `clopper_pearson`, `t_interval`); `resampling` the bootstraps
(`bootstrap`, `paired_bootstrap`, `hierarchical_bootstrap`, `share_interval`, `ratio_bootstrap`) and the interquartile
mean `iqm`; `decisions` the tests (`permutation_test`, `sign_test`, `mcnemar`, `equivalence_test`), the correction
`holm` and the planner's `smallest_p`; `fits` the power law `fit_power_law`; `samples` the estimates `pass_at_k` and
`best_of_n` and the bound `kl_best_of_n`; `win_rates` the summaries `win_rate` and `length_controlled_win_rate`. Every
function refuses empty input, NaN and mismatched lengths by name and row. Nothing here knows of runs, studies or claims.
"""

from steersman.stats.decisions import (
    Equivalence,
    Significance,
    equivalence_test,
    holm,
    mcnemar,
    permutation_test,
    sign_test,
    smallest_p,
)
from steersman.stats.fits import PowerLaw, fit_power_law
from steersman.stats.intervals import Interval, clopper_pearson, t_interval, wilson
from steersman.stats.resampling import (
    bootstrap,
    hierarchical_bootstrap,
    iqm,
    paired_bootstrap,
    ratio_bootstrap,
    share_interval,
)
from steersman.stats.samples import best_of_n, kl_best_of_n, pass_at_k
from steersman.stats.win_rates import LengthControlled, length_controlled_win_rate, win_rate

__all__ = [
    "Equivalence",
    "Interval",
    "LengthControlled",
    "PowerLaw",
    "Significance",
    "best_of_n",
    "bootstrap",
    "clopper_pearson",
    "equivalence_test",
    "fit_power_law",
    "hierarchical_bootstrap",
    "holm",
    "iqm",
    "kl_best_of_n",
    "length_controlled_win_rate",
    "mcnemar",
    "paired_bootstrap",
    "pass_at_k",
    "permutation_test",
    "ratio_bootstrap",
    "share_interval",
    "sign_test",
    "smallest_p",
    "t_interval",
    "wilson",
    "win_rate",
]
