"""Figures of gradient estimators on Gaussian gradients whose answers are known: values, coverage, edge cases."""

import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.stats.gradient_quality import FIGURES, quality, reliability
from steersman.stats.gradients import distances, mean_square

EXACT = 1e-12
LEAST, MOST = 0.90, 0.985
"""Share of 200 nominal 95 % intervals that hold the truth; binomial noise is 0.015."""
BIAS = 0.02
"""Of an average of 200 estimates, as a share of the truth; sd of such an average is about 0.01."""
P = 40
REF = np.zeros(P)
REF[0], REF[1] = 0.8, 0.6


def draw(seed: int, batches: int = 30, turn: float = 0.0, scale: float = 1.0, noise: float = 0.3):
    """Gradients ~ N(scale * REF turned, noise^2), and references ~ N(REF, 0.25^2)."""
    g = generator(seed, "quality")
    mean = np.zeros(P)
    mean[:2] = math.cos(turn) * REF[:2] + math.sin(turn) * np.array([-0.6, 0.8])
    return scale * (mean + noise * g.normal(size=(batches, P))), REF + 0.25 * g.normal(size=(60, P))


def truth(turn: float, scale: float, noise: float) -> dict[str, float]:
    toward = np.zeros(P)
    g = generator(9, "many").normal(size=(50_000, P)) * noise
    toward[:2] = math.cos(turn) * REF[:2] + math.sin(turn) * np.array([-0.6, 0.8])
    sample = toward + g
    return {
        "spread": (scale * noise) ** 2 * P,
        "square": scale**2,
        "signal": 1 / (noise**2 * P),
        "cosine": float((sample @ REF / np.linalg.norm(sample, axis=1)).mean()),
        "direction": math.cos(turn),
        "length": scale * math.cos(turn),
    }


@pytest.mark.parametrize(("turn", "scale", "noise"), [(0.0, 1.0, 0.3), (0.5, 0.5, 0.15)])
def test_values_and_intervals_hold_the_truth(turn, scale, noise):
    wanted = truth(turn, scale, noise)
    found = [quality(*draw(i, 30, turn, scale, noise)) for i in range(200)]
    for name in FIGURES:
        each = [getattr(q, name) for q in found]
        assert np.mean([e.value for e in each]) == pytest.approx(wanted[name], rel=BIAS), name
        held = np.mean([e.contains(wanted[name]) for e in each])
        assert LEAST <= held <= (1 if name == "direction" and turn == 0 else MOST), name  # there it is at its maximum


def test_leaving_out_is_leaving_out():
    """The interval from sums equals the one from figures that are computed anew without each batch."""
    g, r = draw(3, 6)
    values = {name: getattr(quality(g, r), name) for name in FIGURES}
    fewer_g = [quality(np.delete(g, i, 0), r) for i in range(len(g))]
    fewer_r = [quality(g, np.delete(r, i, 0)) for i in range(len(r))]
    for name, found in values.items():
        variance = 0.0
        for fewer in (fewer_g, fewer_r):
            x = np.array([getattr(q, name).value for q in fewer])
            variance += np.square(x - x.mean()).sum() * (len(x) - 1) / len(x)
        assert found.high - found.value == pytest.approx(2.570582 * math.sqrt(variance), rel=1e-6), name


def test_spread_and_square_are_those_of_the_rows():
    g, r = draw(0)
    found = quality(g, r)
    assert found.spread.value == pytest.approx(distances(g).mean(), abs=EXACT)
    assert found.square.value == pytest.approx(mean_square(g), abs=EXACT)
    assert reliability(r) == pytest.approx(mean_square(r) / np.square(r.mean(0)).sum(), abs=EXACT)
    assert 0 < reliability(r) < 1


def test_what_is_only_noise_has_no_direction():
    g, r = draw(0)
    nothing = generator(1, "nothing").normal(size=g.shape)
    found = quality(nothing - nothing.mean(0), r)  # its squared mean comes out below 0
    assert math.isnan(found.direction.value)
    assert not found.direction.bounded
    blind = quality(g, r - r.mean(0))
    assert all(math.isnan(getattr(blind, k).value) for k in ("cosine", "direction", "length"))
    assert blind.spread.bounded


def test_a_batch_without_a_signal_has_the_cosine_zero():
    g, r = draw(0)
    half = quality(np.concatenate([g, 0 * g]), r)
    assert half.cosine.value == pytest.approx(quality(g, r).cosine.value / 2, abs=EXACT)
    silent = quality(0 * g, r)
    assert (silent.spread.value, silent.square.value) == (0, 0)
    assert math.isnan(silent.signal.value)


@pytest.mark.parametrize("change", ["few", "widths", "nan", "flat"])
def test_what_is_no_sample_is_refused(change):
    g, r = draw(0)
    given = {"few": (g[:2], r), "widths": (g, r[:, 1:]), "nan": (np.where(g > 0, np.nan, g), r), "flat": (g[0], r)}
    with pytest.raises(UserError, match="are \\("):
        quality(*given[change])


def test_the_interval_of_a_spread_does_not_reach_below_nothing() -> None:
    """One batch far from the others: the jackknife's own lower end is negative."""
    g = np.zeros((6, 2))
    g[0] = 5.0, 1.0
    found = quality(g, np.ones((6, 2))).spread
    assert found.low == 0
    assert found.value > 0
    assert found.high > 2 * found.value  # so the lower end would lie below 0
