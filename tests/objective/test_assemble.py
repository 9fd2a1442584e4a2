"""Reward assembly: order of the steps, missing ends, the length limit's printed vector, where the score lands."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.objective.assemble import missing_eos, overlong, shape_score, token_reward

FLOAT32 = 1e-6  # sums of float32 products

SCORE = torch.tensor([4.0, -20.0, 1.0])
ENDED = torch.tensor([True, False, False])
ACTION = torch.tensor([[False, True, True, False], [True, False, True, True], [False, False, False, False]])


def test_normalise_comes_before_clip():
    got = shape_score(SCORE, mean=2, std=4.0, clip=1)
    assert torch.equal(got, torch.tensor([0.5, -1.0, -0.25]))  # clipping first would give -0.25 for the second
    assert torch.equal(shape_score(SCORE, clip=10.0), torch.tensor([4.0, -10.0, 1.0]))
    assert torch.equal(shape_score(SCORE), SCORE)
    assert shape_score(SCORE.bfloat16()).dtype == torch.float32


def test_invalid_scores_are_left_out():
    score = torch.tensor([4.0, torch.nan, 1.0])
    valid = torch.tensor([True, False, True])
    assert torch.equal(shape_score(score, mean=1.0, std=1.0, valid=valid), torch.tensor([3.0, 0.0, 0.0]))
    got = token_reward(score, ACTION, valid=valid)
    assert torch.equal(got, torch.tensor([[0.0, 0.0, 4.0, 0.0], [0.0] * 4, [0.0] * 4]))


def test_missing_end():
    assert torch.equal(missing_eos(SCORE, ENDED, "none"), SCORE)
    assert torch.equal(missing_eos(SCORE, ENDED, "penalty", 1.5), torch.tensor([4.0, -21.5, -0.5]))
    assert torch.equal(missing_eos(SCORE, ENDED, "replace", -1.0), torch.tensor([4.0, -1.0, -1.0]))


def test_overlong_printed_vector():
    got = overlong(torch.tensor([10, 16, 17, 18, 20, 21, 0]), 20, 4)
    assert torch.equal(got, torch.tensor([0.0, 0.0, -0.25, -0.5, -1.0, -1.0, 0.0]))


def test_the_score_lands_on_the_last_action_token():
    got = token_reward(SCORE, ACTION)
    want = torch.zeros(3, 4)
    want[0, 2], want[1, 3] = 4.0, -20.0  # the third row has no action token and no reward
    assert torch.equal(got, want)


def test_kl_falls_due_at_action_tokens_only():
    old = torch.full((3, 4), -1.0)
    ref = torch.tensor([[torch.nan, -1.5, 0.0, torch.nan], [-2.0, torch.nan, -1.0, -1.0], [torch.nan] * 4])
    got = token_reward(SCORE, ACTION, old, ref, 0.1)
    want = torch.tensor([[0.0, -0.05, 4.0 + 0.1, 0.0], [-0.1, 0.0, 0.0, -20.0], [0.0] * 4])
    assert torch.allclose(got, want, atol=FLOAT32, rtol=0)
    assert torch.equal(token_reward(SCORE, ACTION, old, ref, 0), token_reward(SCORE, ACTION))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: shape_score(SCORE, mean=0.0), "mean is 0.0 and std is None"),
        (lambda: shape_score(SCORE, mean=0.0, std=0.0), "std is 0"),
        (lambda: shape_score(SCORE, mean=float("nan"), std=1.0), "mean is nan"),
        (lambda: shape_score(SCORE, clip=-1), "clip is -1"),
        (lambda: shape_score(SCORE / 0), "row 0"),
        (lambda: missing_eos(SCORE, ENDED.long(), "none"), "terminated"),
        (lambda: missing_eos(SCORE, ENDED[:2], "none"), "terminated"),
        (lambda: missing_eos(SCORE, ENDED, "drop"), "unknown option 'drop'"),
        (lambda: missing_eos(SCORE, ENDED, "penalty", -1), "value is -1"),
        (lambda: overlong(torch.tensor([1.0]), 20, 4), "integers"),
        (lambda: overlong(torch.tensor([-1]), 20, 4), "integers"),
        (lambda: overlong(torch.tensor([1]), 20, 0), "cache is 0"),
        (lambda: overlong(torch.tensor([1]), 20, 21), "cache is 21"),
        (lambda: token_reward(SCORE, ACTION[:2]), "3 scores"),
        (lambda: token_reward(SCORE, ACTION.long()), "bool"),
        (lambda: token_reward(SCORE * torch.nan, ACTION), "row 0"),
        (lambda: token_reward(SCORE, ACTION, beta=0.1), "missing"),
        (lambda: token_reward(SCORE, ACTION, beta=-1), "beta is -1"),
        (lambda: token_reward(SCORE, ACTION, SCORE, SCORE, 0.1), "logp_old has shape"),
        (lambda: token_reward(SCORE, ACTION, ACTION / 0, ACTION * 1.0, 0.1), "row 0"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
