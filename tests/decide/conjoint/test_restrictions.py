"""Combinations that a survey never shows: found, refused where shown, and their chance under a policy."""

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import ConjointData, Factor
from steersman.decide.conjoint.policy import FactoredPolicy
from steersman.decide.conjoint.restrictions import check_forbidden, never_together

FACTORS = (Factor("job", ("doctor", "gardener")), Factor("school", ("none", "some", "university")))


def survey(n=400, restricted=True):
    rng = np.random.default_rng(0)
    t = np.stack([rng.integers(0, 2, n), rng.integers(0, 3, n)], 1)
    if restricted:
        t = t[~((t[:, 0] == 0) & (t[:, 1] == 0))]
    return ConjointData(FACTORS, t, None, np.zeros(len(t)))


def test_a_restricted_design_is_seen():
    assert never_together(survey()) == [{"job": "doctor", "school": "none"}]
    assert never_together(survey(restricted=False)) == []
    assert never_together(survey(8)) == []


def test_what_was_shown_is_not_forbidden():
    check_forbidden(survey(), [{"job": "doctor", "school": "none"}])
    with pytest.raises(UserError, match="job=doctor and school=some is forbidden, and"):
        check_forbidden(survey(), [{"job": "doctor", "school": "some"}])
    with pytest.raises(UserError, match="no factor 'age'"):
        check_forbidden(survey(), [{"age": "3"}])
    with pytest.raises(UserError, match="no level 'x'"):
        check_forbidden(survey(), [{"job": "x"}])


def test_chance_of_a_combination():
    policy = FactoredPolicy(FACTORS, np.array([0.25, 0.75, 0.2, 0.3, 0.5]))
    one, other = {"job": "doctor", "school": "none"}, {"school": "some"}
    assert policy.chance([one]) == pytest.approx(0.05)
    assert policy.chance([one, other]) == pytest.approx(0.35)
    assert policy.chance([{"job": "doctor"}, other]) == pytest.approx(0.25 + 0.3 - 0.075)
    assert policy.chance([one, one]) == pytest.approx(0.05)
    assert policy.expected(lambda t: t[:, 1]) == pytest.approx(1.3)
    for wrong, word in (
        ([{}], "empty"),
        ([{"job": "x"}], "no level"),
        ([{"age": "x"}], "no factor"),
        ([one] * 16, "too many"),
    ):
        with pytest.raises(UserError, match=word):
            policy.chance(wrong)
