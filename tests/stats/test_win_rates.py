"""Win rates by hand; the length-controlled one against scikit-learn, a known truth and its refusals."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from steersman.core.errors import UserError
from steersman.stats import length_controlled_win_rate, wilson, win_rate, win_rates

RELATIVE_WIDTH = 0.06
SKLEARN = 1e-5
CONVERGED = 1e-8
NORMAL_975 = 1.959963984540054
SIMULATIONS = 300
FOUR_SIGMA = 4.0
NEAR_PROMPTS, EACH_SIDE = win_rates.NEAR_PROMPTS, win_rates.EACH_SIDE


def simulated(rng, n=300, at_equal=0.2, slope=0.02):
    d = rng.normal(20.0, 50.0, n)
    return (rng.random(n) < 1 / (1 + np.exp(-(at_equal + slope * d)))).astype(float), d


def test_win_rate_counts_ties_half():
    found = win_rate(250, 100, 250)
    assert found.value == 0.5
    half = 1.96 * math.sqrt((250 * 0.25 * 2) / 600 / 600)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=RELATIVE_WIDTH)
    assert win_rate(50, 10, 40).value == pytest.approx(0.55)
    assert win_rate(50, 10, 40) == win_rate(50, 10, 40)
    swapped = win_rate(40, 10, 50)
    assert swapped.low == pytest.approx(1 - win_rate(50, 10, 40).high, abs=0.02)


def test_prompts_that_all_ended_alike_get_wilson():
    assert win_rate(5, 0, 0) == wilson(5, 5)
    assert win_rate(0, 0, 5) == wilson(0, 5)
    ties = win_rate(0, 5, 0)
    assert (ties.value, ties.low, ties.high) == (0.5, wilson(2, 5).low, wilson(3, 5).high)


def test_length_controlled_agrees_with_scikit_learn():
    y, d = simulated(np.random.default_rng(0))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1_000).fit((d / d.std())[:, None], y)
    found = length_controlled_win_rate(y, d)
    assert found.win_rate.value == pytest.approx(1 / (1 + math.exp(-model.intercept_[0])), abs=SKLEARN)
    assert found.slope == pytest.approx(model.coef_[0, 0] / d.std(), abs=SKLEARN)
    assert found.raw == pytest.approx(y.mean())
    assert found.raw > found.win_rate.value  # what is won by length alone is taken out


def test_length_controlled_covers_the_truth():
    rng, truth = np.random.default_rng(1), 1 / (1 + math.exp(-0.2))
    hits = np.mean([length_controlled_win_rate(*simulated(rng)).win_rate.contains(truth) for _ in range(SIMULATIONS)])
    assert abs(hits - 0.95) < FOUR_SIGMA * math.sqrt(0.95 * 0.05 / SIMULATIONS)


def test_length_controlled_symmetries():
    y, d = simulated(np.random.default_rng(2))
    y[:30] = 0.5
    found, swapped, scaled = (length_controlled_win_rate(*args) for args in ((y, d), (1 - y, -d), (y, d * 1000)))
    assert swapped.win_rate.value == pytest.approx(1 - found.win_rate.value, abs=CONVERGED)
    assert swapped.win_rate.low == pytest.approx(1 - found.win_rate.high, abs=CONVERGED)
    assert scaled.win_rate.low == pytest.approx(found.win_rate.low, abs=CONVERGED)
    assert scaled.slope * 1000 == pytest.approx(found.slope, abs=CONVERGED)


def test_equal_lengths_give_the_plain_win_rate():
    found = length_controlled_win_rate([1.0, 0.0, 0.5, 1.0], np.zeros(4))
    assert found.win_rate.value == pytest.approx(0.625, abs=CONVERGED)
    assert found.slope == 0.0
    error = math.sqrt(2 * 0.375**2 + 0.625**2 + 0.125**2) / (4 * 0.625 * 0.375)  # sandwich error of logit(W) by hand
    centre = math.log(0.625 / 0.375)
    ends = [1 / (1 + math.exp(-centre - sign * NORMAL_975 * error)) for sign in (-1, 1)]
    assert [found.win_rate.low, found.win_rate.high] == pytest.approx(ends, abs=CONVERGED)


def test_a_reading_where_hardly_any_prompt_is_would_be_far_from_the_truth_and_is_refused(monkeypatch):
    """Judged by quality alone, both equal, but for answers so much longer that they always lose: a curve no logistic
    regression has. Read at equal length, which was hardly seen, it says whatever the other prompts make it say."""
    rng = np.random.default_rng(4)
    d = rng.normal(100.0, 20.0, 400)
    y = (rng.random(400) < np.where(d > 100, 0.1, 0.5)).astype(float)
    with pytest.raises(UserError, match=r"only 0 of 400 prompts have answers of nearly equal length, fewer than 10"):
        length_controlled_win_rate(y, d)
    monkeypatch.setattr(win_rates, "_refuse_extrapolation", lambda d: None)
    assert not length_controlled_win_rate(y, d).win_rate.contains(0.5)  # the truth, by how y is drawn


def test_enough_prompts_must_be_near_equal_length_and_on_both_sides():
    near = np.tile([-1.0, 1.0], NEAR_PROMPTS // 2)
    far = np.array([-9.0, 9.0, -9.0, 9.0, 9.0, -9.0])
    y = np.tile([1.0, 0.0, 0.0, 1.0], 10)
    for scale in (1.0, 1000.0):
        d = scale * np.concatenate([near, far])
        assert length_controlled_win_rate(y[: len(d)], d).win_rate.low > 0
        with pytest.raises(UserError, match=f"only {NEAR_PROMPTS - 1} of 15 prompts") as error:
            length_controlled_win_rate(y[1 : len(d)], d[1:])
        assert error.value.where == "length_difference"
    apart = np.concatenate([np.full(30, -100.0), np.full(30, 100.0)])  # both sides, and nobody between
    with pytest.raises(UserError, match="only 0 of 60"):
        length_controlled_win_rate(np.tile([1.0, 0.0], 30), apart)
    leaning = np.concatenate([np.linspace(1, 30, 40), [-1.0] * (EACH_SIDE - 1), [10_000.0]])
    with pytest.raises(UserError, match=f"only {EACH_SIDE - 1} of 45 prompts have an answer that is not longer"):
        length_controlled_win_rate(np.tile([1.0, 0.0, 0.0], 15), leaning)


def test_regression_that_does_not_converge_is_refused(monkeypatch):
    y, d = simulated(np.random.default_rng(3))
    monkeypatch.setattr(win_rates, "NEWTON_STEPS", 1)
    with pytest.raises(UserError, match="did not converge"):
        length_controlled_win_rate(y, d)


@pytest.mark.parametrize(
    "call, where",
    [
        (lambda: win_rate(0, 0, 0), "wins, ties, losses"),
        (lambda: win_rate(1, -1, 0), "ties"),
        (lambda: win_rate(1, 0, 0.5), "losses"),
        (lambda: length_controlled_win_rate([], []), "outcome"),
        (lambda: length_controlled_win_rate([1.0, 0.0], [1.0]), "outcome, length_difference"),
        (lambda: length_controlled_win_rate([1.0, 2.0], [1.0, 2.0]), "outcome, row 1"),
        (lambda: length_controlled_win_rate([1.0, 0.0], [1.0, math.nan]), "length_difference, row 1"),
        (lambda: length_controlled_win_rate([1.0, 0.0], [3.0, 3.0]), "length_difference"),
        (lambda: length_controlled_win_rate([1.0, 1.0], [3.0, 1.0]), "outcome"),
        (lambda: length_controlled_win_rate([1.0, 0.0, 0.0], [3.0, 1.0, 3.0]), "outcome"),
    ],
)
def test_refusals_name_argument_and_row(call, where):
    with pytest.raises(UserError) as error:
        call()
    assert error.value.where == where
