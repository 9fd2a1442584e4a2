"""The figures of an evaluation from explicit numbers: units, invalid rows, curves, verdicts."""

import math

import numpy as np
import pytest
import torch

from steersman import stats
from steersman.core.types import STOP_LENGTH, Rollouts, Scores
from steersman.recipes import evaluate_measures as measures
from steersman.recipes.evaluate_judges import Judged
from steersman.reward.verifiable import Graded

EXACT = 1e-12
NAN = math.nan


def test_accuracy_of_one_sample_is_wilsons() -> None:
    found = measures.accuracy(np.array([1.0, 0, 1, NAN]), 4)
    want = stats.wilson(2, 3)
    assert found["accuracy"] == {
        "value": 2 / 3, "low": want.low, "high": want.high, "method": "wilson", "prompts": 3
    }  # fmt: skip
    assert [(row["k"], row["prompts"]) for row in found["pass_at_k"]] == [(1, 3)]


def test_prompts_are_the_unit_and_invalid_samples_are_left_out() -> None:
    correct = np.array([1.0, 0, 0, NAN, NAN, NAN, NAN, NAN, 1, 1, 0, 0, NAN, 1, 1, NAN])
    found = measures.accuracy(correct, 4)
    shares = [1 / 3, 1 / 2, 1.0]
    assert found["accuracy"]["value"] == pytest.approx(np.mean(shares), abs=EXACT)
    want = stats.bootstrap(shares, seed=measures.SEED)
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == (want.low, want.high)
    one, two, four = found["pass_at_k"]
    assert one["value"] == pytest.approx(np.mean(shares), abs=EXACT)
    assert two["value"] == pytest.approx(np.mean([2 / 3, 1 - 1 / 6, 1.0]), abs=EXACT)
    assert (two["prompts"], four["prompts"], four["value"]) == (3, 1, 1.0)


def test_nothing_valid_is_no_figure() -> None:
    assert measures.accuracy(np.array([NAN, NAN]), 2) == {"accuracy": None, "pass_at_k": []}
    assert measures.mean_score(np.array([NAN, NAN]), 2) is None


def test_what_a_grader_says() -> None:
    valid = torch.tensor([True, True, False, True])
    parts = {"correct": torch.tensor([True, False, True, False]), "format_ok": torch.tensor([True, True, True, False])}
    parts["status"] = torch.tensor([0, 1, -1, 3])
    value = torch.tensor([1.0, 0.25, NAN, 0.0])
    found = measures.graded(Graded(Scores(value, valid, parts), (None,) * 4), 2)
    assert found["score"]["value"] == pytest.approx((0.625 + 0) / 2, abs=EXACT)
    assert found["accuracy"]["value"] == pytest.approx(0.25, abs=EXACT)
    assert found["format_ok"]["value"] == pytest.approx(0.5, abs=EXACT)
    assert found["status"] == {
        "correct": 1, "wrong": 1, "unparsable": 0, "no_answer": 1, "looping": 0, "crashing": 0, "invalid": 1
    }  # fmt: skip
    only_scores = Graded(Scores(value, valid), (None,) * 4)
    assert measures.graded(only_scores, 2).keys() == {"score", "status"}
    assert measures.correct_or_score(only_scores)[[0, 1, 3]].tolist() == [1.0, 0.25, 0.0]
    assert np.isnan(measures.correct_or_score(only_scores)[2])


def rows(lengths: list[int]) -> Rollouts:
    length = torch.tensor(lengths) + 2
    return Rollouts.of(
        torch.zeros(len(lengths), int(length.max()), dtype=torch.int64), length, torch.full_like(length, 2)
    )


def test_lengths() -> None:
    rollouts = rows([1, 2, 3, 10])
    rollouts.stop[3] = STOP_LENGTH
    found = measures.lengths(rollouts)
    assert (found["mean"], found["median"], found["most"], found["ended"]) == (4.0, 2.5, 10, 0.75)


def test_best_of_n_curve() -> None:
    ranking = np.array([3.0, 1, 2, 4, 1, 2, NAN, 3])
    gold = np.array([1.0, 0, 0, NAN, 0, 1, 1, 0])
    curve = measures.best_of(ranking, gold, 2, 3)
    assert [row["n"] for row in curve] == [1, 2, 3]
    assert [row["kl"] for row in curve] == [stats.kl_best_of_n(n) for n in (1, 2, 3)]
    assert [row["gold"]["value"] for row in curve] == pytest.approx([1 / 3, (2 / 3 + 1 / 3) / 2, 0.5], abs=EXACT)
    assert curve[2]["ranking"]["value"] == 3.0
    assert [row["prompts"] for row in measures.best_of(ranking, np.where(np.arange(8) == 4, NAN, gold), 2, 3)] == [
        2,
        2,
        1,
    ]


def test_kl_sums_over_tokens_and_averages_over_responses() -> None:
    rollouts = rows([1, 3, 2, 2])
    logp = torch.full(rollouts.ids.shape, -1.0)
    ref = logp - torch.tensor([[0.5], [0.1], [-0.3], [0.2]])
    found = measures.kl(logp, ref, rollouts, 2)
    k1 = [0.5 * 1, 0.1 * 3, -0.3 * 2, 0.2 * 2]
    assert found["tokens"] == 8
    assert found["k1"]["per_response"]["value"] == pytest.approx(sum(k1) / 4, abs=1e-6)
    assert found["k1"]["per_token"]["value"] == pytest.approx(sum(k1) / 8, abs=1e-6)
    k3 = [n * (math.exp(-x) - 1 + x) for n, x in ((1, 0.5), (3, 0.1), (2, -0.3), (2, 0.2))]
    assert found["k3"]["per_response"]["value"] == pytest.approx(sum(k3) / 4, abs=1e-6)


def test_win_rate_of_one_verdict_a_prompt() -> None:
    outcome = np.array([1.0] * 6 + [0.5] * 2 + [0.0] * 3 + [NAN])
    flipped = np.array([False] * 6 + [True, False] + [False] * 4)
    ours, theirs = np.arange(12.0), np.full(12, 5.0)
    found = measures.win_rate(Judged(outcome, flipped, {11: "no"}), 12, ours, theirs)
    want = stats.win_rate(6, 2, 3, seed=measures.SEED)
    assert found["win_rate"] == {"value": 7 / 11, "low": want.low, "high": want.high, "method": "bca"}
    assert [found[k] for k in ("wins", "ties", "losses", "invalid", "prompts")] == [6, 2, 3, 1, 11]
    assert found["sign_test"] == {"prompts_won": 6, "prompts_lost": 3, "p": stats.sign_test(6, 3).p_value}
    assert found["flip_rate"] == pytest.approx(1 / 11, abs=EXACT)
    separated = measures.win_rate(Judged(np.arange(12) // 6.0), 12, ours, theirs)["length_controlled"]
    assert (separated["win_rate"], "separated by a length" in separated["why"]) == (None, True)
    shorter = measures.win_rate(Judged(outcome), 12, np.arange(12.0) % 5, theirs)["length_controlled"]
    assert shorter["win_rate"] is None
    assert shorter["why"].startswith("only 0 of 11 prompts have answers of nearly equal length")
    gap = np.array([0.0, 1, -1, 2, -2, 0, 1, -1, 0, 1, 30, NAN])
    controlled = measures.win_rate(Judged(outcome), 12, theirs + np.nan_to_num(gap), theirs)["length_controlled"]
    want_even = stats.length_controlled_win_rate(outcome[:11], gap[:11])
    assert controlled["win_rate"]["value"] == want_even.win_rate.value
    assert controlled["slope_per_character"] == want_even.slope
    assert found["flip_rate"] is not None
    assert measures.win_rate(Judged(outcome), 12, ours, theirs)["flip_rate"] is None


def test_win_rate_of_several_verdicts_a_prompt() -> None:
    outcome = np.array([1.0, 1, 0.5, 0, 0, 0.5, NAN, NAN, NAN, 0, 1, 0.5])
    found = measures.win_rate(Judged(outcome), 4, np.zeros(12), np.zeros(12))
    shares = [2.5 / 3, 0.5 / 3, 0.5]
    want = stats.bootstrap(shares, seed=measures.SEED)
    assert found["win_rate"]["value"] == pytest.approx(np.mean(shares), abs=EXACT)
    assert found["win_rate"]["low"] == want.low
    assert (found["sign_test"]["prompts_won"], found["sign_test"]["prompts_lost"], found["prompts"]) == (1, 1, 3)
    assert found["length_controlled"]["win_rate"]["value"] == pytest.approx(np.mean(shares), abs=1e-6)


def test_no_verdict_at_all() -> None:
    found = measures.win_rate(Judged(np.array([NAN, NAN])), 2, np.zeros(2), np.zeros(2))
    assert (found["win_rate"], found["invalid"]) == (None, 2)
