"""The 80/20 rule and the weights that selections share: counts, ties, masks, combination, bad input."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from steersman.core.component import check_pipeline
from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.objective.select.rows import OverlongFilter
from steersman.objective.select.tokens import TopEntropy, in_loss, top_entropy, weigh

MASK = torch.tensor([[True, True, True, False], [False, True, True, True]])
#   ten masked tokens in the second example: 0.1 ... 1.0, beside 1.1 and 1.2 outside the mask
TENTHS = torch.tensor([[0.1, 0.2, 0.3, 1.1, 0.4, 0.5], [1.2, 0.6, 0.7, 0.8, 0.9, 1.0]])
TEN = TENTHS < 1.05


@pytest.mark.parametrize(("keep", "least"), [(0.2, 0.9), (0.25, 0.8), (0.1, 1.0), (0.01, 1.0), (0.3, 0.8), (1.0, 0.1)])
def test_share(keep, least):
    assert torch.equal(top_entropy(TENTHS, TEN, keep), TEN & (least <= TENTHS))


@given(st.integers(1, 60), st.sampled_from([0.05, 0.07, 0.2, 0.55, 0.7, 1.0]))
@example(100, 0.07)
@example(100, 0.55)
def test_number_kept(n, keep):
    """At least the share asked for, and less than one token more; decimal shares count as what they say."""
    entropy = torch.from_numpy(generator(n, "entropy").permutation(n).astype("float32"))[None]
    kept = int(top_entropy(entropy, torch.ones(1, n, dtype=torch.bool), keep).sum())
    hundredths = round(100 * keep) * n
    assert kept == max(-(-hundredths // 100), 1)


def test_ties_are_kept_together():
    entropy = torch.tensor([[2.0, 1.0, 1.0, 9.0], [9.0, 1.0, 0.0, 0.5]])
    assert top_entropy(entropy, MASK, 0.3).tolist() == [[True, True, True, False], [False, True, False, False]]
    assert torch.equal(top_entropy(torch.zeros(2, 4), MASK, 0.01), MASK)
    flipped = top_entropy(entropy.flip(0), MASK.flip(0), 0.3)
    assert torch.equal(flipped.flip(0), top_entropy(entropy, MASK, 0.3))


def test_an_empty_mask_and_what_stands_outside():
    none = torch.zeros(2, 4, dtype=torch.bool)
    assert not top_entropy(torch.full((2, 4), torch.nan), none, 0.2).any()
    assert top_entropy(torch.zeros(0, 4), none[:0], 0.2).shape == (0, 4)
    entropy = torch.where(MASK, torch.arange(8.0).view(2, 4), torch.nan)
    assert top_entropy(entropy, MASK, 0.1).nonzero().tolist() == [[1, 3]]


def rollouts(**known):
    """Rows of ten actions in all: five, three and two; the last row is not valid."""
    ids = torch.zeros(3, 6, dtype=torch.int64)
    valid = torch.tensor([True, True, False])
    defaults = {"valid": valid, "streams": {"entropy": torch.arange(18.0).view(3, 6).sin()}}
    return Rollouts.of(ids, torch.tensor([6, 4, 5]), torch.tensor([1, 1, 3]), **(defaults | known))


def test_stage_writes_and_multiplies_token_weights():
    batch = rollouts()
    mask = batch.action & batch.valid[:, None]
    out, metrics = TopEntropy(keep=0.25)(batch)
    want = top_entropy(batch.streams["entropy"], mask, 0.25)
    assert torch.equal(out.streams["token_weight"], want.float())
    assert int(want.sum()) == 2
    assert not out.streams["token_weight"][2].any()
    least = float(batch.streams["entropy"][want].min())
    assert metrics == {"rows_in": 2, "rows_out": 2, "tokens_in": 8, "tokens_out": 2, "threshold": pytest.approx(least)}
    half, _ = TopEntropy(keep=0.25)(weigh(batch, torch.full((3, 6), 0.5)))
    assert torch.equal(half.streams["token_weight"], 0.5 * want)
    repeated, metrics = TopEntropy(keep=0.25)(batch.index(torch.tensor([1, 0, 1, 0])))
    assert metrics["tokens_out"] == 4
    assert torch.equal(repeated.streams["token_weight"][1], out.streams["token_weight"][0])


def test_the_share_is_of_the_tokens_still_in_the_loss():
    stop = torch.tensor([STOP_LENGTH, 0, 0])
    batch, _ = OverlongFilter()(rollouts(stop=stop))
    out, metrics = TopEntropy(keep=1 / 3)(batch)
    assert (metrics["tokens_in"], metrics["tokens_out"]) == (3, 1)
    assert in_loss(out).nonzero().tolist() == [[1, 2]]  # sin 8 is the largest of sin 7, 8, 9


def test_no_rows_and_no_tokens():
    out, metrics = TopEntropy()(rollouts().index(torch.zeros(3, dtype=torch.bool)))
    assert out.streams["token_weight"].shape == (0, 6)
    assert metrics == {"rows_in": 0, "rows_out": 0, "tokens_in": 0, "tokens_out": 0}
    out, metrics = TopEntropy()(rollouts(valid=torch.zeros(3, dtype=torch.bool)))
    assert not out.streams["token_weight"].any()


def test_weights_that_are_not_numbers_stay_visible():
    broken = rollouts().with_streams(token_weight=torch.full((3, 6), torch.nan))
    assert weigh(broken, torch.zeros(3, 6)).streams["token_weight"].isnan().all()
    assert int(in_loss(broken).sum()) == 8


def test_it_needs_the_entropy():
    with pytest.raises(UserError, match="TopEntropy needs 'entropy'"):
        check_pipeline([TopEntropy()], ["logp_old"])
    assert "token_weight" in check_pipeline([TopEntropy()], ["entropy"])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: top_entropy(TENTHS, TEN, 0.0), "keep is 0"),
        (lambda: top_entropy(TENTHS, TEN, 1.5), "keep is 1.5"),
        (lambda: top_entropy(TENTHS, TEN.float(), 0.2), "mask is torch.float32"),
        (lambda: top_entropy(TENTHS[0], TEN, 0.2), "entropy has shape"),
        (lambda: top_entropy(torch.full((2, 6), torch.nan), TEN, 0.2), "row 0: entropy is nan at token 0"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
