"""Importance weights: each mode by hand, the band's edges, what the mask hides, unbiasedness, bad input."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.objective.loss.importance import importance_weight, off_policy_mask

FLOAT32 = 1e-6  # products of float32 exponentials
EXACT = 1e-12  # float64 algebra

RATIO = torch.tensor([[0.4, 3.0, 1.0], [0.5, 0.5, 9.0]])
OLD = RATIO.log()
ZERO = torch.zeros(2, 3)
MASK = torch.tensor([[True, True, True], [True, True, False]])


@pytest.mark.parametrize(
    ("mode", "high", "low", "expected"),
    [
        ("token_truncate", 2.0, 0.0, [[0.4, 2.0, 1.0], [0.5, 0.5, 0.0]]),
        ("token_mask", 2.0, 0.45, [[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]),
        ("token_mask", 4.0, 0.0, [[0.4, 3.0, 1.0], [0.5, 0.5, 0.0]]),
        ("sequence_truncate", 1.1, 0.0, [[1.1, 1.1, 1.1], [0.25, 0.25, 0.0]]),
        ("sequence_mask", 1.1, 0.0, [[0.0, 0.0, 0.0], [0.25, 0.25, 0.0]]),
        ("sequence_mask", 3.0, 0.5, [[1.2, 1.2, 1.2], [0.0, 0.0, 0.0]]),
        ("sequence_geometric", 1.1, 0.6, [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
        ("sequence_geometric", 1.01, 0.4, [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]),
    ],
)
def test_modes_by_hand(mode, high, low, expected):
    got = importance_weight(OLD, ZERO, MASK, mode, high, low)
    assert got.dtype == torch.float32
    assert torch.allclose(got, torch.tensor(expected), atol=FLOAT32, rtol=0)


@pytest.mark.parametrize(
    "mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "sequence_geometric"]
)
def test_the_same_policy_weighs_one_and_hidden_values_do_no_harm(mode):
    low = 0.0 if mode.endswith("truncate") else 1.0
    x = torch.where(MASK, OLD, torch.nan).requires_grad_()
    got = importance_weight(x, x.detach(), MASK, mode, 1.0, low)
    assert torch.equal(got, MASK.float())
    assert not got.requires_grad
    assert not importance_weight(OLD, ZERO, ~MASK & MASK, mode).any()


def test_nan_inside_the_mask_stays_visible():
    for mode in ("token_truncate", "token_mask", "sequence_mask"):
        assert importance_weight(OLD * torch.nan, ZERO, MASK, mode).isnan().any()


def test_sequence_weights_are_unbiased_where_nothing_is_cut():
    """Over both tokens of two draws from b, E_b[W f] = E_old[f] for a function f of the whole sequence."""
    b, old = (torch.tensor(p, dtype=torch.float64) for p in ([0.7, 0.3], [0.4, 0.6]))
    pairs = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    f = torch.tensor([1.0, -2.0, 0.5, 7.0], dtype=torch.float64)
    w = importance_weight(old.log()[pairs], b.log()[pairs], torch.ones(4, 2, dtype=torch.bool), "sequence_mask", 100.0)
    assert float((b[pairs].prod(1) * w[:, 0] * f).sum()) == pytest.approx(
        float((old[pairs].prod(1) * f).sum()), abs=EXACT
    )


def test_off_policy_mask():
    behaviour = torch.full((3, 2), -1.0)
    logp = torch.tensor([[-1.3, -1.5], [-1.3, -1.5], [-1.0, -1.2]])  # moved away by 0.4, 0.4, 0.1 nats a token
    a = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, -1.0]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    got = off_policy_mask(logp, behaviour, a, mask, 0.3)
    assert got.tolist() == [[False, False], [True, False], [True, False]]
    assert torch.equal(off_policy_mask(logp, behaviour, a, mask, 0.5), mask)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: importance_weight(OLD, ZERO, MASK, "rows"), "unknown mode 'rows'"),
        (lambda: importance_weight(OLD, ZERO, MASK, high=0.9), "high is 0.9"),
        (lambda: importance_weight(OLD, ZERO, MASK, "token_mask", 2.0, 1.1), "low is 1.1"),
        (lambda: importance_weight(OLD, ZERO, MASK, "token_truncate", 2.0, 0.5), "cuts from above only"),
        (lambda: importance_weight(OLD, ZERO[0], MASK), "logp_behaviour has shape"),
        (lambda: importance_weight(OLD, ZERO, MASK.float()), "bool"),
        (lambda: off_policy_mask(OLD, ZERO, torch.ones(2), MASK, 0.1), "advantage has shape"),
        (lambda: off_policy_mask(OLD, ZERO, OLD, MASK, -0.1), "delta is -0.1"),
        (lambda: off_policy_mask(OLD, ZERO, OLD, MASK.long(), 0.1), "bool"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
