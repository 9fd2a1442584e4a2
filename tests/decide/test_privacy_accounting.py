"""Several experiments on the same people: epsilons add, concentrated privacy adds, and a package converts it."""

import importlib.util
import math

import pytest

from steersman.core.errors import UserError
from steersman.decide.privacy import PrivacyCertificate, compose, epsilon_at, zcdp

ROUNDING = 1e-12
DELTA = 1e-6


def one(epsilon, neighbouring="reward", delta=0.0):
    return PrivacyCertificate(epsilon, delta, neighbouring, "m", "b", "operating system", ((2, 5, 2.0),), True, ())


def test_epsilons_of_experiments_on_the_same_people_add():
    assert compose([one(0.5), one(0.25)]) == 0.75
    assert compose([]) == 0
    assert compose([one(0.5), one(math.inf)]) == math.inf
    assert one(0.5).as_dict()["per_phase"] == ((2, 5, 2.0),)


def test_concentrated_privacy_is_half_the_sum_of_squares():
    assert zcdp([one(0.5), one(0.25)]) == pytest.approx(0.15625, abs=ROUNDING)
    assert zcdp([]) == 0
    assert zcdp([one(math.inf)]) == math.inf


@pytest.mark.parametrize("together", [compose, zcdp, lambda c: epsilon_at(c, DELTA)])
def test_promises_that_do_not_add_up_are_refused(together):
    with pytest.raises(UserError, match="differ"):
        together([one(1), one(1, "row")])
    with pytest.raises(UserError, match="pure promises"):
        together([one(1, delta=1e-5)])


def test_a_delta_that_is_no_probability_and_a_package_that_is_not_there_are_refused(monkeypatch):
    for delta in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(UserError, match="delta"):
            epsilon_at([one(1)], delta)
    monkeypatch.setattr("steersman.decide.privacy.accounting.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install dp-accounting"):
        epsilon_at([one(1)], DELTA)


@pytest.mark.skipif(importlib.util.find_spec("dp_accounting") is None, reason="dp-accounting is not installed")
def test_many_small_experiments_cost_less_than_their_sum_and_one_costs_its_own():
    many = [one(0.05)] * 50
    found, rho = epsilon_at(many, DELTA), zcdp(many)
    # never worse than the textbook conversion rho + 2 sqrt(rho ln(1/delta)), which the package improves on
    assert rho < found <= rho + 2 * math.sqrt(rho * math.log(1 / DELTA)) < compose(many)
    assert epsilon_at([one(0.3)], DELTA) == pytest.approx(0.3)
    assert epsilon_at([], DELTA) == 0
    assert epsilon_at([one(math.inf)], DELTA) == math.inf
