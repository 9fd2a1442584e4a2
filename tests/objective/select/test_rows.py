"""Cut rows and rows the policy has moved away from: what they lose, what they keep, counts, combination, bad input."""

import pytest
import torch

from steersman.core.component import check_pipeline
from steersman.core.errors import UserError
from steersman.core.types import STOP_ABORTED, STOP_EOS, STOP_LENGTH, Rollouts
from steersman.objective.advantage.group import rloo
from steersman.objective.components_advantage import RLOO
from steersman.objective.loss.importance import off_policy_mask
from steersman.objective.select.rows import OffPolicyMask, OverlongFilter

GROUP = torch.tensor([8, 1, 8, 1, 8, 3])
STOP = torch.tensor([STOP_EOS, STOP_LENGTH, STOP_LENGTH, STOP_EOS, STOP_ABORTED, STOP_LENGTH])
VALID = torch.tensor([True, True, True, True, False, False])
REWARD = torch.tensor([1.0, 0.0, 0.0, 1.0, torch.nan, torch.nan])


def rollouts(**known):
    """Six rows: prompts of one token, three actions, one column of padding."""
    defaults = {"group": GROUP, "stop": STOP, "valid": VALID, "reward": REWARD}
    ids = torch.zeros(6, 5, dtype=torch.int64)
    return Rollouts.of(ids, torch.full((6,), 4), torch.ones(6, dtype=torch.int64), **(defaults | known))


def test_cut_rows_leave_the_loss_and_stay_in_their_group():
    out, metrics = OverlongFilter()(rollouts())
    weight = torch.zeros(6, 5)
    weight[[0, 3], 1:4] = 1
    assert torch.equal(out.streams["token_weight"], weight)
    assert metrics == {
        "cut_rows": 3,
        "cut_share": 0.5,
        "rows_in": 4,
        "rows_out": 2,
        "tokens_in": 12,
        "tokens_out": 6,
    }
    advantage = RLOO()(out)[0].streams["advantage_row"]
    assert torch.equal(advantage, rloo(REWARD, GROUP, VALID))
    assert advantage[0] == 1  # against the cut row of its group


def test_cut_rows_can_be_left_out_of_their_group():
    out, metrics = OverlongFilter(exclude_from_group=True)(rollouts())
    assert out.group.tolist() == [8, 1, 8]
    assert torch.equal(out.streams["token_weight"][:, 1:4], torch.tensor([[1.0], [1.0], [0.0]]).expand(3, 3))
    assert (metrics["cut_rows"], metrics["rows_in"], metrics["rows_out"]) == (3, 4, 2)
    assert not RLOO()(out)[0].streams["advantage_row"].any()  # each is alone now
    for name in ("advantage_row", "advantage"):
        late = rollouts(streams={name: torch.zeros(6, 5) if name == "advantage" else torch.zeros(6)})
        assert len(OverlongFilter()(late)[0]) == 6
        with pytest.raises(UserError, match=f"{name} exists already"):
            OverlongFilter(exclude_from_group=True)(late)


def test_weights_multiply():
    half = torch.full((6, 5), 0.5)
    out, metrics = OverlongFilter()(rollouts(streams={"token_weight": half}))
    assert out.streams["token_weight"].sum() == 3
    some = half.clone()
    some[0, 2] = 0
    _, metrics = OverlongFilter()(rollouts(streams={"token_weight": some}))
    assert (metrics["tokens_in"], metrics["tokens_out"]) == (11, 5)


@pytest.mark.parametrize("exclude", [True, False])
def test_all_rows_cut_and_no_rows(exclude):
    stage = OverlongFilter(exclude_from_group=exclude)
    out, metrics = stage(rollouts(stop=torch.full((6,), STOP_LENGTH)))
    assert len(out) == (0 if exclude else 6)
    assert not out.streams["token_weight"].any()
    assert (metrics["cut_share"], metrics["rows_out"]) == (1, 0)
    again, metrics = stage(rollouts().index(slice(0, 0)))
    assert len(again) == 0
    assert metrics["cut_share"] == 0


def drifted(**known):
    """Gaps of 0.4, 0.4, 0.1, -0.4 nats a token; the signs of the advantages are -, +, -, -; two rows are not valid."""
    old = torch.full((6, 5), -2.0)
    gap = torch.tensor([0.4, 0.4, 0.1, -0.4, 9.0, 9.0])[:, None] * torch.tensor([5.0, 0.5, 1.0, 1.5, torch.nan])
    advantage = torch.tensor([-1.0, 1.0, -1.0, -1.0, -1.0, -1.0])[:, None].expand(6, 5)
    streams = {"logp_old": old, "advantage": advantage}
    return rollouts(logp_behaviour=old + gap, **{"streams": streams, **known})


def test_bad_rows_that_the_policy_has_left_are_dropped():
    batch = drifted()
    out, metrics = OffPolicyMask(delta=0.3)(batch)
    assert torch.equal(out.streams["token_weight"][:, 1:4].sum(1), torch.tensor([0.0, 3, 3, 3, 0, 0]))
    assert not out.streams["token_weight"][:, [0, 4]].any()
    assert (metrics["rows_in"], metrics["rows_out"], metrics["tokens_out"]) == (4, 3, 9)
    mask = batch.action & VALID[:, None]
    want = off_policy_mask(batch.streams["logp_old"], batch.logp_behaviour, batch.streams["advantage"], mask, 0.3)
    assert torch.equal(out.streams["token_weight"], want.float())
    assert OffPolicyMask(delta=0.41)(batch)[1]["rows_out"] == 4
    assert OffPolicyMask(delta=0.05)(batch)[1]["rows_out"] == 2
    twice = batch.index(torch.tensor([0, 0, 1, 3]))
    assert OffPolicyMask(delta=0.3)(twice)[1]["rows_out"] == 2
    assert OffPolicyMask()(batch.index(slice(0, 0)))[1]["rows_out"] == 0


def test_what_it_needs():
    assert OffPolicyMask.fields == ("logp_behaviour",)
    check_pipeline([OffPolicyMask()], ["logp_old", "advantage"])
    with pytest.raises(UserError, match="OffPolicyMask needs 'advantage'"):
        check_pipeline([OffPolicyMask()], ["logp_old"])
    with pytest.raises(UserError, match="no logp_behaviour"):
        OffPolicyMask()(rollouts())
