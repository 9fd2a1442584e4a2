"""Hardness by hand, and a bound that no exact error exceeds."""

import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.dp_bai import error_bound, exact_two_arm, hardness

ROUNDING = 1e-12


def test_hardness_by_hand():
    # gaps .1, .3, .4: 2/.01 = 200, 3/.09 = 33, 4/.16 = 25; 2/.1 = 20, 3/.3 = 10, 4/.4 = 10
    found = hardness([0.5, 0.9, 0.6, 0.8], 2, 0.5)
    assert (found.bai, found.private) == pytest.approx((200.0, 40.0))
    assert found.total == found.bai + found.private
    assert hardness([0.9, 0.8], 2, math.inf).private == 0
    # d^2 = 4 arms count in two dimensions: the fifth would be the hardest here, 5/.26 against 4/.25
    assert hardness([1.0, 0.5, 0.5, 0.5, 0.49], 2, 1.0).bai == pytest.approx(16)
    assert hardness([1.0, 0.5, 0.5, 0.5, 0.49], 3, 1.0).bai == pytest.approx(5 / 0.2601)
    assert hardness([1.0, 0.6, 0.6, 0.6, 0.6], 3, 1.0).bai == pytest.approx(5 / 0.16)
    assert hardness([0.5, 0.5], 2, 1.0).total == math.inf


def test_the_bound_by_hand_and_against_exact_errors():
    assert error_bound([0.5, 0.5], 2, 1.0, 100) == 1.0
    # one phase, floor(4/4) = 1: T' = 999; H = 2/.25 + 2/.5
    assert error_bound([0.9, 0.4], 2, 1.0, 1000) == pytest.approx(math.exp(-999 / (65 * 12)), abs=ROUNDING)
    for epsilon in (0.1, 1.0, 10.0):
        for pulls in (50, 500):
            assert exact_two_arm(0.9, 0.4, pulls, epsilon) <= error_bound([0.9, 0.4], 2, epsilon, 2 * pulls)


@pytest.mark.parametrize("arguments", [([0.5], 2, 1.0), ([0.5, math.nan], 2, 1.0), ([0.5, 0.4], 0, 1.0),
                                       ([0.5, 0.4], 2, 0.0), (np.zeros((2, 2)), 2, 1.0)])  # fmt: skip
def test_what_has_no_hardness_is_refused(arguments):
    with pytest.raises(UserError, match="allowed"):
        hardness(*arguments)
