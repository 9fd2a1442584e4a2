"""Descriptions, what is odd, and the whole report with its page."""

import json
import math
import re

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.offline.describe import describe, odd
from steersman.offline.measure import coverage, trajectory_quality
from steersman.offline.report import as_json, dataset_report
from steersman.offline.report_page import page
from steersman.offline.rows import Discretizer
from steersman.offline.transitions import Transitions

EXACT = 1e-12


def walk(n: int = 400, length: int = 10, seed: int = 0, limit: bool = True) -> Transitions:
    draw = np.random.default_rng(seed)
    last = np.arange(n) % length == length - 1
    return Transitions.from_arrays(
        draw.integers(0, 5, (n, 2)), draw.integers(0, 3, n), draw.standard_normal(n), last & (not limit), last & limit,
        n_actions=4,
    )  # fmt: skip


def test_a_description_is_that_of_the_arrays() -> None:
    log = walk()
    found = describe(log, discount=0.9)
    value = np.array([(log.reward[a : a + 10] * 0.9 ** np.arange(10)).sum() for a in range(0, 400, 10)])
    np.testing.assert_allclose(found.returns.value, value, rtol=0, atol=EXACT)
    assert (found.rows, found.terminated, found.truncated) == (400, 0, 40)
    assert found.reward == pytest.approx((log.reward.min(), log.reward.mean(), log.reward.max(), 1.0), abs=EXACT)
    assert found.action_times.tolist() == [*np.bincount(log.action).tolist(), 0]
    assert (found.low.tolist(), found.high.tolist()) == ([0, 0], [4, 4])


def test_what_is_odd() -> None:
    assert odd(describe(walk())) == ["1 of 4 actions were never taken: 3."]
    assert "40 of 40 episodes end as terminated after exactly 10 steps" in odd(describe(walk(limit=False)))[0]
    cut = odd(describe(walk().slice(5, 396)))
    assert "2 episodes are not whole and left out of returns (1 without an end, 1 without a beginning)." in cut
    still = Transitions.from_arrays(np.ones((4, 2)), [0] * 4, [1.0] * 4, [0, 0, 0, 1], [0] * 4)
    assert odd(describe(still)) == ["Every reward is 1.", "2 of 2 observation dimensions never change: 0, 1."]
    assert any("nothing is known of returns" in line for line in odd(describe(still.slice(0, 2))))


def test_one_step_episodes_are_no_time_limit() -> None:
    bandit = Transitions.from_arrays(np.arange(9), [0] * 9, np.arange(9.0), [1] * 9, [0] * 9)
    assert not odd(describe(bandit))


def test_a_report_agrees_with_the_measures() -> None:
    log, ref = walk(seed=1), walk(seed=2)
    found = dataset_report(log, ref, -20.0, 20.0)
    assert found.tq.value == pytest.approx(trajectory_quality(log, -20.0, 20.0), abs=EXACT)
    assert found.tq.low < found.tq.value < found.tq.high
    assert found.coverage == coverage(log, ref)
    assert found.advice.family is not None
    # The interval is that of the mean return, seen on the scale of TQ.
    se = found.log.returns.value.std(ddof=1) / math.sqrt(40) / 40
    assert found.tq.high - found.tq.value == pytest.approx(2.0227 * se, rel=1e-4)


@pytest.mark.parametrize(("known", "missing"), [({}, "reference"), ({"low": 0.0, "high": 1.0}, "reference"),
                                                ({"ref": walk(seed=2)}, "low and high")])  # fmt: skip
def test_without_both_it_describes_and_recommends_nothing(known: dict, missing: str) -> None:
    found = dataset_report(walk(), **known)
    assert found.advice.family is None
    assert missing in found.advice.sentence
    text = page(found, "x", {})
    assert "No family of methods is recommended" in text
    assert "works" not in text


def test_refusals() -> None:
    with pytest.raises(UserError, match="equally many"):
        dataset_report(walk(), walk(200))
    with pytest.raises(UserError, match="are equal"):
        dataset_report(walk(), None, 1.0, 1.0)


def test_sizes_that_differ_are_subsampled_and_said() -> None:
    found = dataset_report(walk(), walk(200), 0.0, 1.0, repeats=3)
    assert found.coverage.rows == 200
    assert any("subsampled to 200" in n for n in found.notes)


def test_saturated_counts_are_said() -> None:
    draw = np.random.default_rng(0)
    logs = [Transitions.from_arrays(draw.random((50, 3)), [0] * 50, [0.0] * 50, [0] * 49 + [1], [0] * 50) for _ in "ab"]
    assert any("pairs of their own" in n for n in dataset_report(*logs).notes)
    grid = Discretizer.fit(logs[1], 2)
    assert not any("pairs of their own" in n for n in dataset_report(*logs, encoder=grid).notes)


def test_the_result_holds_the_grid_and_no_nan() -> None:
    draw = np.random.default_rng(1)
    log = Transitions.from_arrays(draw.random((50, 3)), [0] * 50, [0.0] * 50, [0] * 49 + [1], [0] * 50)
    grid = Discretizer.fit(log)
    found = as_json(dataset_report(log, log, -1.0, 1.0, encoder=grid))
    assert Discretizer.from_json(found["discretiser"]) == grid
    assert found["coverage"]["saco"] == 1.0
    assert json.loads(json.dumps(found)) == found or math.isnan(found["quality"]["low"])  # one episode: no interval


def test_the_page_shows_the_plane_and_escapes() -> None:
    text = page(dataset_report(walk(seed=1), walk(seed=2), -20.0, 20.0), "<b>name", {"log": "<i>"})
    assert "<b>name" not in text
    for word in ("your data", "random", "mixed", "replay", "noisy", "expert", "low", "high", "BCQ, CQL, CRR"):
        assert word in text
    assert len(re.findall("<svg", text)) == 4
    assert "nan" not in re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S).lower()
