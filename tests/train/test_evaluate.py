"""What is said of held-out prompts: the prompt is the unit, invalid rows count nowhere."""

import pytest
import rl_toys as toys
import torch

from steersman.stats import pass_at_k, wilson
from steersman.train.evaluate import Evaluation, accuracy, evaluate

YES, NO = True, False


def test_one_sample_a_prompt_has_wilson_s_interval():
    found = accuracy(torch.tensor([[YES], [NO], [YES], [YES]]), torch.ones(4, 1, dtype=torch.bool), 0)
    wanted = wilson(3, 4)
    assert found == {"accuracy": 0.75, "accuracy_low": wanted.low, "accuracy_high": wanted.high}


def test_several_samples_give_pass_at_k_and_an_interval_over_prompts():
    correct = torch.tensor([[YES, NO, NO], [NO, NO, NO], [YES, YES, YES], [YES, NO, YES]])
    found = accuracy(correct, torch.ones(4, 3, dtype=torch.bool), 0)
    assert found["accuracy"] == pytest.approx((1 / 3 + 0 + 1 + 2 / 3) / 4)
    assert found["pass_at_3"] == 0.75
    assert 0 < found["accuracy_low"] < found["accuracy"] < found["accuracy_high"] < 1


def test_invalid_rows_are_neither_right_nor_wrong():
    correct = torch.tensor([[YES, YES], [YES, NO], [YES, YES]])
    valid = torch.tensor([[YES, NO], [YES, YES], [NO, NO]])
    found = accuracy(correct, valid, 0)
    assert found["accuracy"] == (1 + 0.5) / 2
    assert found["pass_at_1"] == pytest.approx(pass_at_k([1, 2], [1, 1], 1).mean())
    assert accuracy(correct, torch.zeros_like(valid), 0) == {}


def test_held_out_prompts_are_answered_with_noise_of_their_own():
    made = toys.learner("grpo")
    train = toys.record(made.engine)
    made.step(0)
    trained = train[0, 0]
    answers: list = []
    told = evaluate(made.engine, made.world, toys.drawing(), Evaluation(prompts=4, samples=2), 7, answers)
    assert len(answers[0]) == 8
    assert not torch.equal(answers[0].logp_behaviour[:1, :8], trained.logp_behaviour[:1, :8])
    assert told["length"] == pytest.approx(float(answers[0].action.sum(1).double().mean()))
    assert {"reward", "accuracy", "pass_at_2", "ended_share", "invalid_share"} <= told.keys()


def test_no_held_out_prompts_no_metrics():
    made = toys.learner("grpo", world=toys.ToyWorld(held_out=0))
    assert made.evaluate() == {}


def test_greedy_answers_are_the_same_whatever_the_seed():
    made = toys.learner("grpo")
    how = Evaluation(prompts=3, temperature=0.0)
    found = []
    for seed in (1, 2):
        evaluate(made.engine, made.world, toys.drawing(), how, seed, found)
    assert torch.equal(found[0].ids, found[1].ids)
