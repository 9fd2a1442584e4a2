"""The toy stages do what they say on rollouts made by hand; what loops make of them is tested with the loops."""

import pytest
import torch
import toy_stages as toys

from steersman.core.component import check_pipeline
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.task import chain_sum
from steersman.task.worlds import ChainSumWorld

TASK = chain_sum.ChainSum(k=(2, 3))
SUMS = 1e-6  # float32 sums of a few numbers


def rollouts() -> Rollouts:
    """Four demonstrations with the streams that toys read; rows 0 and 2 have an advantage, row 3 is not valid."""
    batch = chain_sum.demonstrate(TASK, chain_sum.prompts(TASK, 4, 0), 0, hint=0.0)
    n, width = batch.ids.shape
    known = {"reward": torch.tensor([1.0, 0.0, 0.5, torch.nan]), "correct": torch.tensor([True, False, True, True])}
    streams = {
        "logp_old": torch.full((n, width), -1.0),
        "advantage_row": torch.tensor([1.0, 0.0, -1.0, 0.0]),
        "logp_teacher": torch.full((n, width), -0.5),
        "hidden": torch.ones(n, width, 4) * torch.arange(1.0, n + 1)[:, None, None],
    }
    valid = torch.tensor([True, True, True, False])
    return Rollouts.of(
        batch.ids, batch.length, batch.prompt_length, group=batch.group, valid=valid, **known, streams=streams
    )


def test_rows_are_dropped_and_repeated():
    batch = rollouts()
    assert toys.DropSilent()(batch)[0].group.tolist() == batch.group[[0, 2]].tolist()
    assert toys.RepeatCorrect()(batch)[0].group.tolist() == batch.group[[0, 0, 1, 2, 2, 3]].tolist()


def test_token_weights():
    batch = rollouts()
    weight = toys.Fade(rate=0.5)(batch)[0].streams["token_weight"]
    first = weight[0, batch.prompt_length[0] : batch.length[0]]
    assert torch.allclose(first, 0.5 ** torch.arange(len(first)))
    assert not weight[~batch.action].any()
    weight, told = toys.HiddenNorm()(batch)[0].streams["token_weight"], toys.HiddenNorm()(batch)[1]
    mask = batch.action & batch.valid[:, None]
    assert float(weight[mask].mean()) == pytest.approx(1, abs=SUMS)
    assert told["norm_mean"] == pytest.approx(float(batch.streams["hidden"].norm(dim=2)[mask].mean()))


def test_a_hint_stands_before_the_response_of_rows_with_an_advantage():
    batch, world = rollouts(), ChainSumWorld(TASK)
    (asked,) = toys.Hinted().passes()
    chosen = asked.rows(batch)
    assert chosen.tolist() == [True, False, True, False]
    part = batch.index(chosen)
    rows = [{"answer": str(a)} for a in chain_sum.target(part).tolist()]
    for ids, row, n in zip(world.encode(asked.before(part, rows)), rows, part.prompt_length.tolist(), strict=True):
        hint = [chain_sum.HINT, int(row["answer"]), chain_sum.EQUALS]
        assert ids[-3:] == hint
        assert len(ids) == n + 3
    weight, told = toys.Hinted(most=1.5)(batch)[0].streams["token_weight"], toys.Hinted()(batch)[1]
    assert weight[batch.action].unique().tolist() == [1.0, 1.5]
    assert told == {"rows_scored": 2, "gained": 0.5}
    (asked,) = toys.Hinted(world="text").passes()
    assert asked.before(part, rows)[0].startswith(f"The answer is {rows[0]['answer']}.")


def test_memory_goes_round():
    first, second = toys.Memory(), toys.Memory()
    out, told = first(rollouts())
    assert out.streams["advantage_row"].tolist() == [1, 0, 0.5, 0]
    assert told == {"mean": 0.5, "rows": 3}
    second.load_state_dict(first.state_dict())
    assert second(rollouts())[0].streams["advantage_row"].tolist() == [0.5, -0.5, 0, 0]
    assert second(rollouts())[1] == first(rollouts())[1] | {"rows": 9.0}


STAGES = [toys.DropSilent(), toys.RepeatCorrect(), toys.Fade(), toys.Hinted(), toys.HiddenNorm(), toys.Memory()]


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.kind)
def test_no_rows(stage):
    out, _ = stage(rollouts().index(slice(0, 0)))
    assert len(out) == 0
    assert all(out.streams[name].shape[0] == 0 for name in stage.gives)


def test_pipelines():
    own = ["logp_old", "hidden"]
    have = check_pipeline([toys.Memory(), *STAGES], own)
    assert {"logp_teacher", "token_weight"} <= have
    with pytest.raises(UserError, match="DropSilent needs 'advantage_row'"):
        check_pipeline([toys.DropSilent(), toys.Memory()], own)
    with pytest.raises(UserError, match="HiddenNorm needs 'hidden'"):
        check_pipeline([toys.HiddenNorm()], ["logp_old"])
