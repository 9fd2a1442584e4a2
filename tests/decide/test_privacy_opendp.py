"""Noise drawn by OpenDP: its law, that it is never too small, and what is said where the package is missing."""

import importlib.util
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from steersman.core.errors import UserError
from steersman.decide.dp_bai import DPBAI
from steersman.decide.privacy import DiscreteLaplace, OpenDPLaplace, SeededBits
from steersman.decide.privacy.by_opendp import MOST, at_least

DRAWS = 20_000
SMALLEST_P = 1e-4
needs_opendp = pytest.mark.skipif(importlib.util.find_spec("opendp") is None, reason="opendp is not installed")


def test_without_the_package_the_cure_is_said(monkeypatch):
    monkeypatch.setattr("steersman.decide.privacy.by_opendp.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'steersman\[privacy\]'"):
        OpenDPLaplace()
    with pytest.raises(UserError, match="grid 0"):
        OpenDPLaplace(0)


@pytest.mark.parametrize(
    "scale", [Fraction(10, 3), Fraction(1, 10), Fraction(3, 7), Fraction(2), Fraction(10**20 + 1, 3)]
)
def test_the_scale_is_rounded_up_and_by_one_step_at_most(scale):
    found = at_least(scale)
    assert Fraction(math.nextafter(found, 0.0)) < scale <= Fraction(found)


@needs_opendp
@pytest.mark.parametrize("epsilon, grid", [(0.5, 1), (0.3, 4)])
def test_its_law_is_that_of_our_own_sampler(epsilon, grid):
    noise = OpenDPLaplace(grid)
    scale = noise.scale(epsilon)
    assert scale == DiscreteLaplace(grid).scale(epsilon)
    draws = noise.laplace_on_integer([7] * DRAWS, scale.numerator, scale.denominator)
    edge = int(2 * scale)
    counts = Counter(int(np.clip(k - 7, -edge, edge)) for k in draws)
    inner = DiscreteLaplace.pmf(np.arange(-edge + 1, edge), scale)
    tail = (1 - inner.sum()) / 2
    expected = np.concatenate([[tail], inner, [tail]]) * DRAWS
    seen = [counts[k] for k in range(-edge, edge + 1)]
    assert scipy.stats.chisquare(seen, expected).pvalue > SMALLEST_P


@needs_opendp
def test_an_experiment_with_it_is_certified_and_cannot_be_seeded(tmp_path):
    options = DPBAI(2.0, 400, noise=OpenDPLaplace(3))
    run = options.start(np.eye(3), tmp_path / "j")
    while (batch := run.ask()) is not None:
        run.tell([arm / 2 for arm in batch.arms])
    promised = run.result().certificate
    assert (promised.certified, promised.backend) == (True, "discrete Laplace by OpenDP")
    assert options.start(np.eye(3), tmp_path / "j").result() == run.result()
    with pytest.raises(UserError, match="another experiment"):
        DPBAI(2.0, 400, noise=DiscreteLaplace(3)).start(np.eye(3), tmp_path / "j")
    with pytest.raises(UserError, match="seeded bits"):
        options.start(np.eye(3), bits=SeededBits(0))
    with pytest.raises(UserError, match="seeded bits"):
        OpenDPLaplace().laplace_on_integer([1], 1, 1, SeededBits(0))
    with pytest.raises(UserError, match="a sum of"):
        OpenDPLaplace().laplace_on_integer([MOST + 1], 1, 1)
