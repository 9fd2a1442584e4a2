"""Combinations of levels that a survey never shows, which a product policy may field all the same.

Leaves out: policies that avoid them, which could not be products (`FactoredPolicy.chance` says how often one fields
them). Source: Hainmueller, Hopkins and Yamamoto 2014, section 3 (restricted randomisation).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import ConjointData

EXPECTED = 12.0
"""A pair of levels expected as often as this and never shown did not fail to appear by chance (e^-12)."""


def never_together(data: ConjointData, expected: float = EXPECTED) -> list[dict[str, str]]:
    """Pairs of levels of two factors that no profile has, though independent factors would show them often.

    Args:
        data: pairs or ratings.
        expected: least number of profiles that independence would show.
    """
    shown = data.first if data.second is None else np.concatenate([data.first, data.second])
    found = []
    for d, f in enumerate(data.factors):
        for e, g in list(enumerate(data.factors))[d + 1 :]:
            table = np.zeros((len(f.levels), len(g.levels)))
            np.add.at(table, (shown[:, d], shown[:, e]), 1)
            wanted = table.sum(1)[:, None] * table.sum(0)[None, :] / len(shown)
            found += [{f.name: f.levels[i], g.name: g.levels[j]}
                      for i, j in zip(*np.nonzero((table == 0) & (wanted >= expected)), strict=True)]  # fmt: skip
    return found


def check_forbidden(data: ConjointData, forbidden: Sequence[Mapping[str, str]]) -> None:
    """Refuse combinations that the survey did show.

    Raises:
        UserError: such a combination, or an unknown factor or level.
    """
    shown = data.first if data.second is None else np.concatenate([data.first, data.second])
    names = [f.name for f in data.factors]
    for combination in forbidden:
        rows = np.ones(len(shown), bool)
        for factor, level in combination.items():
            if factor not in names:
                raise UserError(f"there is no factor {factor!r}", where="forbidden", allowed=", ".join(names))
            levels = data.factors[names.index(factor)].levels
            if level not in levels:
                raise UserError(f"there is no level {level!r}", where=f"forbidden, {factor}", allowed=", ".join(levels))
            rows &= shown[:, names.index(factor)] == levels.index(level)
        if rows.any():
            told = " and ".join(f"{k}={v}" for k, v in combination.items())
            raise UserError(f"{told} is forbidden, and {int(rows.sum())} profiles have it", where="forbidden")
