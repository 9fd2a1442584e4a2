"""Filters side by side: a reward that is equally reliable has no excess, one that is better at its ends has some."""

import math

import numpy as np
import pytest
import torch

from steersman.core.errors import UserError
from steersman.objective.select.filtration import draw_rows, rank_weights
from steersman.reward.reliability import null_r_squared, r_squared
from steersman.reward.reliability_report import reward_reliability

EXACT = 1e-9
DRAWN = 0.02  # weights against one draw of two rows from each of 4,000 prompts


def responses(noise, prompts=4000, n=5, seed=3):
    """Rewards, scores whose noise has the standard deviation `noise(reward)`, prompt ids."""
    random = np.random.default_rng(seed)
    reward = random.normal(size=prompts * n)
    score = 0.6 * reward + noise(reward) * random.normal(size=reward.shape)
    return reward, score, np.repeat(np.arange(prompts), n)


FLAT = responses(lambda r: 0.9 + 0 * r)
ENDS = responses(lambda r: np.where(np.abs(r) < 1, 1.2, 0.3))


def test_an_equally_reliable_reward_has_no_excess():
    report = reward_reliability(*FLAT, resamples=200)
    assert [line.strategy for line in report.table] == ["none", "bon", "br", "bw"]
    r2 = [line.r2 for line in report.table]
    assert r2[1] < r2[0] < r2[2] < r2[3]  # the published order
    for line in report.table:
        assert line.excess_low - EXACT <= 0 <= line.excess_high + EXACT
        assert line.r2_low < line.r2 < line.r2_high
        assert line.excess == pytest.approx(line.r2 - line.null, abs=EXACT)
        assert (line.prompts, line.reason) == (4000, "")
    assert (report.choose(), report.choose("r2")) == ("none", "bw")


def test_a_reward_that_is_reliable_at_its_ends_has_excess():
    report = reward_reliability(*ENDS, resamples=200)
    best_worst = report.table[3]
    assert best_worst.excess_low > 0.02
    assert report.choose() == report.choose("r2") == "bw"
    middle, ends = report.curve[4], (report.curve[0], report.curve[9])
    assert all(middle.unexplained > 5 * end.unexplained for end in ends)


def test_a_large_excess_alone_is_no_reason():
    """A reward that is reliable for good responses only: the best of each prompt have most excess and little R^2."""
    report = reward_reliability(*responses(lambda r: np.where(r < 0.5, 1.2, 0.3)), resamples=200)
    best, best_worst = report.table[1], report.table[3]
    assert best.excess > best_worst.excess
    assert best.r2 < best_worst.r2
    assert report.choose() != "bon"


def test_one_line_by_hand():
    reward, score, group = (x[:40] for x in ENDS)
    line = reward_reliability(reward, score, group, ["bw"], bins=4, resamples=100).table[0]
    w = rank_weights(torch.from_numpy(reward), torch.from_numpy(group), "bw").numpy()
    kept = w > 0
    assert kept.sum() == 16
    assert line.r2 == pytest.approx(np.corrcoef(reward[kept], score[kept])[0, 1] ** 2, abs=EXACT)
    assert line.slope == pytest.approx(np.polyfit(reward[kept], score[kept], 1)[0], abs=EXACT)
    assert line.variance == pytest.approx(reward[kept].var(), abs=EXACT)
    assert line.binned == pytest.approx(r_squared(reward[kept], score[kept], 4), abs=EXACT)
    rho2 = r_squared(reward, score)
    assert line.null == pytest.approx(null_r_squared(rho2, "bw", reward=reward, group=group), abs=EXACT)


def test_weights_say_what_draws_say():
    reward, score, group = ENDS
    ids, random = torch.from_numpy(group), torch.Generator().manual_seed(1)
    noise = [torch.rand(len(group), generator=random, dtype=torch.float64) for _ in range(2)]
    weight = rank_weights(torch.from_numpy(reward), ids, "br")
    rows = draw_rows(weight, ids, torch.full_like(ids, 2), *noise).numpy()
    line = reward_reliability(reward, score, group, ["br"], resamples=100).table[0]
    assert line.r2 == pytest.approx(r_squared(reward[rows], score[rows]), abs=DRAWN)


def test_thresholds_and_undefined_lines():
    reward = np.array([1.0, 2.0, 1.0, 2.0])
    group, score = np.array([0, 0, 1, 1]), np.array([0.0, 1.0, 0.0, 1.0])
    report = reward_reliability(
        reward, score, group, ["none", "top", "bon"], thresholds={"top": 5.0}, bins=2, resamples=100
    )
    none, top, bon = report.table
    assert none.r2 == pytest.approx(1, abs=EXACT)
    assert (top.reason, bon.reason) == ("the filter keeps nothing", "all rewards are equal")
    assert all(math.isnan(x) for x in (top.r2, top.r2_low, top.null, top.excess, bon.r2, bon.slope))
    assert (top.prompts, top.rows, bon.prompts, bon.rows) == (0, 0, 2, 2)
    assert report.choose("r2") == "none"
    with pytest.raises(UserError, match="unknown criterion"):
        report.choose("binned")
    flat = reward_reliability(reward, np.ones(4), group, resamples=100)
    with pytest.raises(UserError, match="no filter has a defined value"):
        flat.choose()


def test_the_curve_covers_all_responses_once():
    report = reward_reliability(*FLAT, ["none"], resamples=100)
    assert sum(b.rows for b in report.curve) == len(FLAT[0])
    fit = [b.isotonic for b in report.curve]
    assert fit == sorted(fit)
    assert len(report.curve) == 10


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"group": np.zeros(3, dtype=int)}, "lengths differ"),
        ({"score": np.array([0.0, np.nan, 1.0, 1.0])}, "score, row 1"),
        ({"resamples": 10}, "resamples"),
        ({"strategies": ["top"]}, "threshold is None"),
        ({"strategies": ["best"]}, "unknown strategy"),
        ({"reward": np.array([0.0, 2.0, 1.0, 1.0]), "strategies": ["pow-1"]}, "row 1"),
    ],
)
def test_bad_input_is_named(change, match):
    given = {"reward": np.arange(4.0), "score": np.arange(4.0), "group": np.array([0, 0, 1, 1]), "resamples": 100}
    with pytest.raises(UserError, match=match):
        reward_reliability(**(given | change))
