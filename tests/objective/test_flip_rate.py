"""Flip-rate estimates: consistency and coverage on simulated labels, identification, audits, bad input."""

import math

import numpy as np
import pytest
import torch

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.objective.flip_rate import audit_flip_rate, profile_flip_rate

WILSON = 5e-4  # published to three decimals
CLOSE = 0.03  # estimate from 4000 clear pairs, about 2.5 standard errors
LEAST_COVERED = 34  # of 40 at 95 %: fewer has probability 0.003
SHARED = 1e-6


def simulate(seed, n, eps, spread, scale=1.0):
    """Margins oriented to the observed label: clean Bradley-Terry choices, flipped with probability eps."""
    g = generator(seed, "pairs")
    z = g.normal(size=n) * spread
    first = (g.random(n) < 1 / (1 + np.exp(-z))) ^ (g.random(n) < eps)
    return torch.from_numpy(np.where(first, z, -z) / scale), torch.from_numpy(z / scale), torch.from_numpy(first)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3])
def test_consistent_together_with_the_scale(eps):
    margin, _, _ = simulate(3, 4000, eps, 4.0, scale=25.0)
    found = profile_flip_rate(margin)
    assert found.value == pytest.approx(eps, abs=CLOSE)
    assert found.scale == pytest.approx(25.0, rel=0.25)
    assert found.low <= eps <= found.high
    assert found.recommended == found.low
    assert found.identified
    assert not found.warning
    assert found.method == "likelihood"


def test_coverage_of_the_interval():
    eps = 0.2
    found = [profile_flip_rate(simulate(seed, 600, eps, 5.0)[0]) for seed in range(40)]
    assert all(x.identified for x in found)
    assert sum(x.low <= eps <= x.high for x in found) >= LEAST_COVERED
    # an interval that always covers would prove nothing
    assert not all(x.low <= 0.12 <= x.high for x in found)
    assert max(x.high - x.low for x in found) < 0.25


def test_unit_of_the_margin_and_form_of_the_label_do_not_matter():
    margin, z, first = simulate(5, 1000, 0.2, 4.0)
    found = profile_flip_rate(margin)
    assert profile_flip_rate(margin * 1000).value == pytest.approx(found.value, abs=SHARED)
    labelled = profile_flip_rate(z, first.double())
    assert labelled.value == pytest.approx(found.value, abs=SHARED)
    assert labelled.high == pytest.approx(found.high, abs=SHARED)
    assert profile_flip_rate(margin, scale=1.0).value == pytest.approx(0.2, abs=2 * CLOSE)


def test_without_clear_pairs_the_rate_is_not_identified():
    found = profile_flip_rate(simulate(1, 2000, 0.3, 0.5)[0])
    assert not found.identified
    assert (found.low, found.high, found.recommended) == (0.0, 0.5, 0.0)
    assert "audit" in found.warning
    few = profile_flip_rate(torch.tensor([1.0, -1.0, 2.0]))
    assert not few.identified


def test_margins_that_know_nothing():
    margin = torch.from_numpy(generator(2, "noise").normal(size=3000))
    found = profile_flip_rate(margin)
    assert not found.identified or found.high > 0.45
    assert found.warning


def test_a_high_rate_warns():
    found = profile_flip_rate(simulate(4, 20000, 0.45, 8.0)[0])
    assert found.value == pytest.approx(0.45, abs=CLOSE)
    assert "almost no information" in found.warning


def test_audit_is_wilson_and_errs_low():
    found = audit_flip_rate(30, 100)
    assert (found.value, found.method) == (0.3, "audit")
    assert 1 - found.high == pytest.approx(0.604, abs=WILSON)
    assert 1 - found.low == pytest.approx(0.781, abs=WILSON)
    assert found.recommended == found.low
    assert audit_flip_rate(0, 50).recommended == 0
    assert audit_flip_rate(45, 100).warning


def test_bad_input_is_refused():
    good = torch.tensor([1.0, -1.0, 2.0])
    for call in (
        lambda: profile_flip_rate(good[:1]),
        lambda: profile_flip_rate(torch.tensor([1.0, math.nan])),
        lambda: profile_flip_rate(torch.zeros(5)),
        lambda: profile_flip_rate(good, level=1.0),
        lambda: profile_flip_rate(good, scale=-1.0),
        lambda: profile_flip_rate(good, torch.tensor([1.0, 2.0, 0.0])),
        lambda: audit_flip_rate(5, 0),
        lambda: audit_flip_rate(-1, 10),
        lambda: audit_flip_rate(50, 100),
    ):
        with pytest.raises(UserError):
            call()
