"""PF-PPO as a stage: which rows are left, how often, with what weight; whitening, normalised rewards, empty batches."""

import pytest
import torch

from steersman.core.component import Moment, check_pipeline
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.objective.advantage.gae import whiten
from steersman.objective.components_filtration import PFPPO
from steersman.objective.components_reward import KLReward, counted
from steersman.objective.select.rows import OverlongFilter

WEIGHT = 1e-6  # float32
N, G = 30, 5
AT = Moment(seed=4, step=2, total=9)


def rollouts(n=N, seed=0, **known):
    """Groups of five with different rewards in [-1, 1], responses of two to five tokens; row 7 is not graded."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(n, dtype=torch.bool)
    valid[7:8] = False
    defaults = {
        "group": torch.arange(n) // G * 3,
        "reward": (torch.rand(n, generator=generator) * 2 - 1).where(valid, torch.nan),
        "valid": valid,
        "version": torch.arange(n),
        "streams": {"advantage": torch.randn(n, 7, generator=generator)},
    }
    ids = torch.randint(0, 9, (n, 7), generator=generator)
    length = torch.randint(4, 8, (n,), generator=generator)
    return Rollouts.of(ids, length, torch.full((n,), 2), **(defaults | known))


def groups(batch):
    return [((batch.group == g) & batch.valid).nonzero()[:, 0] for g in batch.group.unique()]


def test_best_and_worst_of_each_prompt():
    batch = rollouts()
    out, metrics = PFPPO(strategy="bw")(batch, AT)
    wanted = []
    for rows in groups(batch):
        r = batch.reward[rows]
        wanted += [int(rows[r.argmax()]), int(rows[r.argmin()])]
    assert out.version.tolist() == sorted(wanted)
    assert torch.equal(out.streams["advantage"], batch.streams["advantage"][out.version])
    good = batch.reward[batch.valid].double()
    assert metrics == {
        "groups_in": 6,
        "groups_out": 6,
        "distinct_rows": 12,
        "reward_in": pytest.approx(float(good.mean())),
        "reward_out": pytest.approx(float(out.reward.mean())),
        "variance_in": pytest.approx(float(good.var(correction=0))),
        "variance_out": pytest.approx(float(out.reward.double().var(correction=0))),
        "rows_in": 29,
        "rows_out": 12,
        "tokens_in": float(counted(batch).sum()),
        "tokens_out": float(out.action.sum()),
    }


def test_best_and_a_random_other():
    batch = rollouts()
    seen = [set() for _ in groups(batch)]
    for step in range(60):
        out = PFPPO()(batch, Moment(seed=4, step=step, total=99))[0]
        for others, rows in zip(seen, groups(batch), strict=True):
            mine = out.version[torch.isin(out.version, rows)].tolist()
            best = int(rows[batch.reward[rows].argmax()])
            assert len(mine) == 2
            assert best in mine
            others |= set(mine) - {best}
    assert all(len(others) == len(rows) - 1 for others, rows in zip(seen, groups(batch), strict=True))


def test_no_filter_is_the_batch_as_it_was():
    batch = rollouts()
    out, _ = PFPPO(strategy="none")(batch, AT)
    assert out.version.tolist() == batch.valid.nonzero()[:, 0].tolist()
    control, _ = PFPPO(strategy="none", draws=2)(batch, AT)
    assert torch.bincount(control.group // 3).tolist() == [2] * 6
    assert control.version.tolist() != PFPPO(strategy="none", draws=2)(batch, Moment(seed=5))[0].version.tolist()


@pytest.mark.parametrize(
    ("options", "of_five"),
    [
        ({"strategy": "bon"}, 1),
        ({"strategy": "br"}, 2),
        ({"strategy": "br", "draws": 4}, 4),
        ({"strategy": "bw", "draws": 99}, 5),
        ({"strategy": "pow-1"}, 5),
        ({"strategy": "bw", "draw": "sample"}, 2),
        ({"strategy": "none", "draw": "sample", "draws": 3}, 3),
    ],
)
def test_how_many_rows_are_left(options, of_five):
    batch = rollouts(valid=torch.ones(N, dtype=torch.bool), reward=torch.linspace(-1, 0.9, N))
    out, metrics = PFPPO(**options)(batch, AT)
    assert torch.bincount(out.group // 3).tolist() == [of_five] * 6
    assert metrics["distinct_rows"] == len(out.version.unique()) <= metrics["rows_out"]


def test_independent_draws_follow_the_weights():
    batch = rollouts()
    times = torch.zeros(N)
    for step in range(100):
        out = PFPPO(strategy="bw", draw="sample")(batch, Moment(seed=4, step=step, total=999))[0]
        times += torch.bincount(out.version, minlength=N)
    ends = [int(rows[k]) for rows in groups(batch) for k in (batch.reward[rows].argmax(), batch.reward[rows].argmin())]
    assert times[ends].min() > 70  # 100 expected, standard deviation 7
    assert float(times.sum()) == float(times[ends].sum()) == 100 * 12


def test_thresholds_and_normalised_rewards():
    batch = rollouts()
    good = batch.reward.where(batch.valid, -9.0)
    assert PFPPO(strategy="top", upper=0.3)(batch, AT)[0].version.tolist() == (good > 0.3).nonzero()[:, 0].tolist()
    both = PFPPO(strategy="top-bottom", upper=0.3, lower=-0.6)(batch, AT)[0]
    assert both.version.tolist() == ((batch.reward > 0.3) | (batch.reward < -0.6)).nonzero()[:, 0].tolist()
    large = rollouts(reward=batch.reward * 20 + 3)
    again = PFPPO(strategy="top-bottom", upper=0.3, lower=-0.6, mean=3.0, std=20.0)(large, AT)[0]
    assert again.version.tolist() == both.version.tolist()
    with pytest.raises(UserError, match="under pow-2"):
        PFPPO(strategy="pow-2")(large, AT)
    assert PFPPO(strategy="pow-2", clip=1.0)(large, AT)[1]["rows_out"] == 29
    assert torch.equal(
        PFPPO(strategy="pow-2", clip=1.0, mean=3.0, std=20.0)(large, AT)[0].reward, large.reward[drawn(batch)]
    )


def drawn(batch):
    """Rows of pow-2 by the plain rewards."""
    return PFPPO(strategy="pow-2")(batch, AT)[0].version


def test_equal_rewards():
    reward = rollouts().reward.clone()
    reward[:5] = 0.25
    batch = rollouts(reward=reward)
    out, metrics = PFPPO(strategy="bw")(batch, AT)
    assert (metrics["groups_in"], metrics["groups_out"]) == (6, 5)
    assert not (out.group == 0).any()
    kept, _ = PFPPO(strategy="bw", zero_variance="keep_all")(batch, AT)
    assert (kept.group == 0).sum() == 5
    random = [PFPPO(strategy="bw", zero_variance="random")(batch, Moment(seed=s))[0] for s in range(30)]
    assert {int((x.group == 0).sum()) for x in random} == {2}
    assert len({tuple(x.version[x.group == 0].tolist()) for x in random}) > 5


def test_ties_do_not_favour_the_first_row():
    reward = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).repeat(6)
    batch = rollouts(reward=reward, valid=torch.ones(N, dtype=torch.bool))
    times = torch.zeros(5)
    for step in range(100):
        out = PFPPO(strategy="bw")(batch, Moment(step=step, total=200))[0]
        times += torch.bincount(out.version % 5, minlength=5)
    assert times[:3].min() > 160  # 200 expected, standard deviation 11.5
    assert times[3:].min() > 255  # 300 expected, standard deviation 12
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    shuffled = PFPPO()(batch.index(order), AT)[0].version.sort().values
    assert torch.equal(shuffled, PFPPO()(batch, AT)[0].version)


def test_it_ranks_the_grade_and_not_the_shaped_reward():
    batch = rollouts()
    old = torch.randn(N, 7, generator=torch.Generator().manual_seed(8))
    shaped = KLReward(beta=5.0)(batch.with_streams(logp_old=old, logp_ref=old * 0))[0]
    assert PFPPO(strategy="bw")(shaped, AT)[0].version.tolist() == PFPPO(strategy="bw")(batch, AT)[0].version.tolist()


def test_rows_out_of_the_loss_are_not_ranked():
    batch = rollouts()
    best = torch.stack([rows[batch.reward[rows].argmax()] for rows in groups(batch)])
    stop = torch.zeros(N, dtype=torch.int64)
    stop[best] = STOP_LENGTH
    out, metrics = PFPPO(strategy="bw")(OverlongFilter()(rollouts(stop=stop))[0], AT)
    assert not torch.isin(out.version, best).any()
    assert (metrics["rows_in"], metrics["rows_out"]) == (23, 12)


def test_weights_undo_the_filter():
    batch = rollouts(weight=torch.full((N,), 3.0))
    out, _ = PFPPO(importance="rank")(batch, AT)
    for rows in groups(batch):
        best = int(rows[batch.reward[rows].argmax()])
        size = len(rows)
        for row, weight in zip(out.version.tolist(), out.weight.tolist(), strict=True):
            if row in rows.tolist():
                chance = 0.5 if row == best else 0.5 / (size - 1)
                assert weight == pytest.approx(3 / size / chance, abs=WEIGHT)
    assert torch.equal(PFPPO()(batch, AT)[0].weight, torch.full((12,), 3.0))


def test_advantages_can_be_whitened_over_what_is_left():
    batch = rollouts()
    before, after = PFPPO(strategy="bw")(batch, AT)[0], PFPPO(strategy="bw", whiten="after")(batch, AT)[0]
    assert torch.equal(before.ids, after.ids)
    assert torch.equal(after.streams["advantage"], whiten(before.streams["advantage"], counted(before)))
    assert PFPPO(whiten="after").needs == PFPPO(whiten="after").gives == ("advantage",)
    check_pipeline([PFPPO()], [])
    with pytest.raises(UserError, match="PFPPO needs 'advantage'"):
        check_pipeline([PFPPO(whiten="after")], [])


def test_batches_of_which_nothing_is_left_are_counted_and_then_stop_the_run():
    stage = PFPPO(strategy="top", upper=5.0, most_empty=3)
    batch = rollouts()
    for _ in range(2):
        out, metrics = stage(batch, AT)
        assert (len(out), metrics["rows_out"], metrics["reward_out"]) == (0, 0, 0)
    stage(batch.index(slice(0, 0)), AT)  # nothing came, so nothing was filtered
    copy = PFPPO(strategy="top", upper=5.0, most_empty=3)
    copy.load_state_dict(stage.state_dict())
    for resumed in (stage, copy):
        with pytest.raises(RunStopped, match="3 batches in a row"):
            resumed(batch, AT)
    relieved = PFPPO(strategy="top", upper=5.0, most_empty=3)
    high = rollouts(reward=torch.full((N,), 6.0), valid=torch.ones(N, dtype=torch.bool))
    for given in (batch, batch, high, batch, batch):
        relieved(given, AT)
    assert relieved.state_dict() == {"empty": 2}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"strategy": "best"}, "strategy"),
        (
            {"strategy": "top"},
            "strategy top needs upper: give the reward above which responses are kept, upper = NUMBER",
        ),
        ({"strategy": "top-bottom", "upper": 0.5}, "strategy top-bottom needs lower: give the reward below which"),
        ({"strategy": "top-bottom", "upper": -0.5, "lower": 0.5}, "upper is -0.5 and lower is 0.5.*set upper >= lower"),
        (
            {"strategy": "top", "upper": 0.1, "lower": 0.0},
            "lower is 0.0, and strategy top takes upper; leave lower out",
        ),
        ({"upper": 0.1}, "takes neither"),
        ({"draws": 0}, "draws"),
        ({"draw": "twice"}, "draw"),
        ({"mean": 1.0}, "both or neither"),
        ({"std": 0.0}, "std"),
        ({"strategy": "bw", "importance": "rank"}, "never draws some responses"),
        ({"strategy": "top-random", "upper": 0.1, "importance": "rank"}, "cannot correct"),
        ({"most_empty": 0}, "most_empty"),
        ({"zero_variance": "keep"}, "zero_variance"),
    ],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        PFPPO(**options)


@pytest.mark.parametrize("draw", ["deterministic", "sample"])
def test_more_draws_than_rows_of_a_group_are_capped(draw):
    batch = rollouts()
    out, _ = PFPPO(strategy="none", draws=G + 3, draw=draw)(batch, AT)
    assert [len(rows) for rows in groups(out)] == [len(rows) for rows in groups(batch)]
    if draw == "deterministic":
        assert out.version.tolist() == [i for i in range(N) if i != 7]


def test_bad_rollouts_are_named():
    batch = rollouts()
    with pytest.raises(UserError, match="have no reward"):
        PFPPO()(Rollouts.of(batch.ids, batch.length, batch.prompt_length))
    with pytest.raises(UserError, match="score is nan"):
        PFPPO()(rollouts(valid=torch.ones(N, dtype=torch.bool), reward=torch.full((N,), torch.nan)))
