"""Advantages of tokens: printed vectors, gaps that do not shift time, limits, whitening, bad input."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.objective.advantage.gae import broadcast, gae, reinforce_pp, reinforce_pp_baseline, whiten

PRINTED = 1e-6  # vectors printed with six decimals
EXACT = 1e-12  # float64 algebra
FLOAT32 = 1e-6  # float32 results against float64

REWARD = torch.tensor([[-0.02, 0.01, -0.03, 0.97]])
VALUE = torch.tensor([[0.1, 0.2, 0.4, 0.6]])
ALL = torch.ones(1, 4, dtype=torch.bool)


def spread(x, mask, fill):
    """The entries of `x` at the places of the mask, `fill` elsewhere."""
    out = torch.full(mask.shape, fill, dtype=x.dtype)
    out[mask] = x.flatten()
    return out


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        (0.95, [0.75015375, 0.705425, 0.5215, 0.37]),
        (1, [0.83, 0.75, 0.54, 0.37]),
        (0, [0.08, 0.21, 0.17, 0.37]),
    ],
)
def test_printed_advantages(lam, expected):
    advantage, returns = gae(REWARD, VALUE, ALL, 1, lam)
    assert torch.allclose(advantage, torch.tensor([expected]), atol=PRINTED, rtol=0)
    assert torch.allclose(returns, advantage + VALUE, atol=PRINTED, rtol=0)


def test_printed_returns_of_ragged_rows():
    reward = torch.tensor([[0.0, 0.0, 1.0], [0.0, -0.5, torch.nan]])
    value = torch.tensor([[0.2, 0.4, 0.6], [0.1, 0.3, torch.nan]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    _, returns = gae(reward, value, mask, 1.0, 0.95)
    expected = torch.tensor([[0.951, 0.98, 1.0], [-0.46, -0.5, 0.0]])
    # The second row is printed with two decimals: -0.5 + 0.05 x 0.8 = -0.46.
    assert torch.allclose(returns, expected, atol=PRINTED, rtol=0)


@pytest.mark.parametrize("fill", [5.0, float("nan")])
def test_gaps_do_not_shift_time(fill):
    mask = torch.tensor([[False, True, False, False, True, True, False, True, False]])
    gapped = gae(spread(REWARD, mask, fill), spread(VALUE, mask, fill), mask, 0.9, 0.8)
    plain = gae(REWARD, VALUE, ALL, 0.9, 0.8)
    for got, want in zip(gapped, plain, strict=True):
        assert torch.equal(got[mask], want.flatten())
        assert torch.equal(got[~mask], torch.zeros(5))


def test_against_the_sum_of_discounted_errors():
    noise = generator(3, "gae")
    reward, value = (torch.from_numpy(noise.standard_normal((3, 6))) for _ in range(2))
    ahead = torch.from_numpy(noise.standard_normal(3))
    gamma, lam = 0.9, 0.7
    after = torch.cat([value[:, 1:], ahead[:, None]], 1)
    delta = reward + gamma * after - value
    want = torch.stack([sum((gamma * lam) ** (s - t) * delta[:, s] for s in range(t, 6)) for t in range(6)], 1)
    advantage, returns = gae(reward, value, torch.ones(3, 6, dtype=torch.bool), gamma, lam, bootstrap=ahead)
    assert advantage.dtype == torch.float64
    assert torch.allclose(advantage, want, atol=EXACT, rtol=0)
    assert torch.allclose(returns, want + value, atol=EXACT, rtol=0)


def test_bootstrap_is_reward_after_the_last_action():
    more = REWARD + torch.tensor([0.0, 0.0, 0.0, 0.9 * 0.5])
    got = gae(REWARD, VALUE, ALL, 0.9, 0.8, bootstrap=torch.tensor([0.5]))
    assert torch.allclose(got[0], gae(more, VALUE, ALL, 0.9, 0.8)[0], atol=FLOAT32, rtol=0)


def test_rows_without_actions_and_empty_batches():
    advantage, returns = gae(REWARD, VALUE, ~ALL)
    assert torch.equal(advantage, torch.zeros(1, 4))
    assert torch.equal(returns, torch.zeros(1, 4))
    assert gae(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool))[0].shape == (0, 3)
    assert gae(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool))[1].shape == (2, 0)


def test_whiten():
    x = torch.tensor([[1.0, 2.0, torch.nan], [4.0, 9.0, 7.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    got = whiten(x, mask)
    kept = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    want = (kept - kept.mean()) / (((kept - kept.mean()) ** 2).mean() + 1e-8) ** 0.5
    assert got.dtype == torch.float32
    assert torch.allclose(got[mask].double(), want, atol=FLOAT32, rtol=0)
    assert torch.equal(got[~mask], torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_whitening_nothing_gives_zero(dtype):
    x = torch.full((2, 3), 0.1, dtype=dtype)
    one = torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(whiten(x, ~one), torch.zeros(2, 3, dtype=torch.promote_types(dtype, torch.float32)))
    assert not whiten(x, one).any()
    one[0, 0] = True
    assert not whiten(x, one).any()


def test_reinforce_pp_is_the_whitened_return():
    mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    reward = torch.tensor([[0.1, 9.0, -0.2, 1.0], [0.3, 0.5, 9.0, 9.0]], dtype=torch.float64)
    gamma = 0.9
    returns = torch.tensor(
        [[0.1 + gamma * (-0.2 + gamma), 0, -0.2 + gamma, 1.0], [0.3 + gamma * 0.5, 0.5, 0, 0]], dtype=torch.float64
    )
    got = reinforce_pp(reward, mask, gamma)
    kept = returns[mask]
    want = (kept - kept.mean()) / (kept.var(correction=0) + 1e-8).sqrt()
    assert torch.allclose(got[mask], want, atol=EXACT, rtol=0)
    assert torch.equal(got[~mask], torch.zeros(3, dtype=torch.float64))


def test_reinforce_pp_baseline_weighs_long_rows_more():
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, True]])
    valid = torch.tensor([True, True, False])
    got = reinforce_pp_baseline(torch.tensor([1.0, 0.0, torch.nan]), torch.tensor([0, 0, 0]), mask, valid)
    centred = torch.tensor([0.5, 0.5, 0.5, -0.5])
    want = (centred - 0.25) / (centred.var(correction=0) + 1e-8).sqrt()
    assert torch.allclose(got[mask & valid[:, None]], want, atol=FLOAT32, rtol=0)
    assert not got[2].any()
    assert not got[~mask].any()


def test_broadcast():
    mask = torch.tensor([[True, False], [True, True]])
    assert torch.equal(broadcast(torch.tensor([2.0, -1.0]), mask), torch.tensor([[2.0, 0.0], [-1.0, -1.0]]))
    with pytest.raises(UserError, match="broadcast"):
        broadcast(torch.ones(3), mask)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: gae(REWARD * torch.nan, VALUE, ALL), "reward, row 0.*token 0"),
        (lambda: gae(REWARD, VALUE / 0, ALL), "value, row 0.*inf"),
        (lambda: gae(REWARD[0], VALUE, ALL), "shape"),
        (lambda: gae(REWARD, VALUE, ALL.long()), "bool"),
        (lambda: gae(REWARD, VALUE, ALL, gamma=1.1), "gamma is 1.1"),
        (lambda: gae(REWARD, VALUE, ALL, lam=-0.1), "lam is -0.1"),
        (lambda: gae(REWARD, VALUE, ALL, bootstrap=torch.ones(2)), "bootstrap"),
        (lambda: gae(REWARD, VALUE, ALL, bootstrap=torch.tensor([torch.nan])), "bootstrap, row 0"),
        (lambda: whiten(REWARD, ALL[:, :2]), "shape of the mask"),
        (lambda: whiten(REWARD, ALL, eps=-1), "eps is -1"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
