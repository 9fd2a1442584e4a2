"""Reward learner: Bradley-Terry by hand, margins that follow the better side, flip rates, weights, evaluation."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_language as tiny
import torch

from steersman.language.build import train_tokenizer
from steersman.language.save import save_model
from steersman.objective.components import BradleyTerry
from steersman.reward.model import build_reward_model, score_rows
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.reward_model import RewardLearner

CLOSE = 1e-5  # differences of float32 rewards of size 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from steersman.language.build import SmallModel, build_model

    tokenizer = train_tokenizer(["a b c"], 257)
    model = build_model(SmallModel(width=16, layers=2, heads=2, context=64), 257, 0)
    return save_model(model, tokenizer, tmp_path_factory.mktemp("base") / "model")


def learner(folder: Path, pairs: Any = None, loss: BradleyTerry = BradleyTerry(), **known: Any) -> RewardLearner:
    model: Any = build_reward_model(folder, 3)
    pairs = tiny.make_pairs() if pairs is None else pairs
    return RewardLearner(model, pairs, loss, Optimiser(model.named_parameters(), AdamW(lr=1e-3), 9), 30, **known)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def differences(it: RewardLearner) -> list[float]:
    first, second = (score_rows(it.model, s, 64) for s in (it.pairs.first, it.pairs.second))
    return (first - second).tolist()


def test_loss_by_hand_with_margins_for_the_better_side(folder: Path) -> None:
    label = torch.tensor([1.0, 0, 1, 0.25, 1, 0, 1, 0.5])
    margin = torch.tensor([0.0, 1.0, 2.0, 0.5, 0.0, 0.3, 0.7, 1.0])
    it = learner(folder, tiny.make_pairs(label), BradleyTerry(margin=0.1), margin=margin)
    expected = []
    for d, p, m in zip(differences(it), label.tolist(), (margin + 0.1).tolist(), strict=True):
        expected.append(-p * math.log(sigma(d - m)) - (1 - p) * math.log(sigma(-d - m)))
    assert float(it.step(torch.arange(8), 0)["loss"]) == pytest.approx(sum(expected) / 8, abs=CLOSE)


def test_swapping_sides_and_labels_changes_nothing(folder: Path) -> None:
    label, margin = torch.tensor([1.0, 0, 1, 0.25, 1, 0, 1, 0.5]), torch.linspace(0, 1, 8)
    pairs = tiny.make_pairs(label)
    other = replace(pairs, first=pairs.second, second=pairs.first, label=1 - label)
    losses = [float(learner(folder, p, margin=margin).step(torch.arange(8), 0)["loss"]) for p in (pairs, other)]
    assert losses[0] == pytest.approx(losses[1], abs=CLOSE)


def test_centring_sees_the_sum_and_not_the_margin(folder: Path) -> None:
    plain, centred = learner(folder), learner(folder, loss=BradleyTerry(centering=0.1), margin=torch.full((8,), 0.0))
    rewards = [score_rows(plain.model, s, 64) for s in (plain.pairs.first, plain.pairs.second)]
    penalty = 0.1 * float((rewards[0] + rewards[1]).square().mean())
    losses = [float(it.step(torch.arange(8), 0)["loss"]) for it in (centred, plain)]
    assert losses[0] - losses[1] == pytest.approx(penalty, abs=CLOSE)


def test_a_flip_rate_for_each_pair_follows_its_pair(folder: Path) -> None:
    rates = torch.linspace(0, 0.4, 8)
    it = learner(folder, loss=BradleyTerry(correction="unbiased", flip_rate=0.1), flip_rate=rates)
    chosen = [6, 1, 3]
    d, expected = differences(it), 0.0
    for i in chosen:
        e = float(rates[i])
        expected += (-(1 - e) * math.log(sigma(d[i])) + e * math.log(sigma(-d[i]))) / (1 - 2 * e) / 3
    assert float(it.step(torch.tensor(chosen), 0)["loss"]) == pytest.approx(expected, abs=CLOSE)


def test_weights_are_relative(folder: Path) -> None:
    weight = torch.tensor([2.0, 1, 1, 1, 1, 1, 1, 0])
    losses = []
    for scale in (1.0, 5.0):
        it = learner(folder, tiny.make_pairs(weight=weight * scale))
        by_hand = [-w * math.log(sigma(d)) / 8 for w, d in zip(weight.tolist(), differences(it), strict=True)]
        losses.append(float(it.step(torch.arange(8), 0)["loss"]))
        assert losses[-1] == pytest.approx(sum(by_hand), abs=CLOSE)


def test_equal_rewards_are_no_right_answer(folder: Path) -> None:
    label = torch.tensor([1.0, 0, 0, 1, 0, 0, 1, 0.5])
    it = learner(folder, tiny.make_pairs(label), held_out=tiny.make_pairs(label))
    with torch.no_grad():
        it.model.score.weight.zero_()  # type: ignore[union-attr,operator]
    found = it.evaluate()
    assert found["accuracy"] == 0.0
    assert found["accuracy_low"] == pytest.approx(0.0, abs=CLOSE)  # none of seven, not the four whose label is 0
    assert found["loss"] == pytest.approx(math.log(2), abs=CLOSE)


def test_it_learns_and_every_embedding_row_that_is_read_has_a_gradient(folder: Path) -> None:
    it = learner(folder)
    model: Any = it.model
    before = model.get_input_embeddings().weight.clone()
    accuracy = [float(it.step(torch.arange(8), i)["accuracy"]) for i in range(9)]
    assert accuracy[-1] == 1.0
    moved = (model.get_input_embeddings().weight != before).any(1)
    assert bool(moved[tiny.END])  # the end-of-sequence token is also the pad token, and is read at the end of each row


def test_without_held_out_pairs_there_is_no_evaluation(folder: Path) -> None:
    assert learner(folder).evaluate() == {}
