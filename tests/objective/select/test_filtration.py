"""PF-PPO's weights by hand and by definition, shared ties, thresholds; draws against their weights; bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.objective.select.filtration import RANKED, STRATEGIES, draw_rows, rank_weights

SUM = 1e-6  # float32
P_LEAST = 1e-3
"""A chi-square test of draws must not be below it; with fixed noise it either always is or never."""

FIVE = torch.tensor([0.3, 0.9, -0.2, 0.1, -0.7])
ONE = torch.zeros(5, dtype=torch.int64)
THRESHOLDS = {"top": 0.2, "top-random": 0.2, "top-bottom": (0.2, -0.5)}


def noise_of(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(strategy, reward=FIVE, group=ONE, **how):
    return rank_weights(reward, group, strategy, THRESHOLDS.get(strategy), **how)


BY_HAND = {  # of rewards .3 .9 -.2 .1 -.7
    "none": [0.2] * 5,
    "bon": [0, 1, 0, 0, 0],
    "br": [0.125, 0.5, 0.125, 0.125, 0.125],
    "bw": [0, 0.5, 0, 0, 0.5],
    "pow-1": [x / 2.2 for x in (0.3, 0.9, 0.2, 0.1, 0.7)],
    "pow-2": [x / 1.44 for x in (0.09, 0.81, 0.04, 0.01, 0.49)],
    "pow-3": [x / 1.108 for x in (0.027, 0.729, 0.008, 0.001, 0.343)],
    "top": [0.5, 0.5, 0, 0, 0],
    "top-random": [2 / 7, 2 / 7, 1 / 7, 1 / 7, 1 / 7],
    "top-bottom": [1 / 3, 1 / 3, 0, 0, 1 / 3],
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_by_hand(strategy):
    assert of(strategy).tolist() == pytest.approx(BY_HAND[strategy], abs=SUM)
    assert of(strategy).dtype == torch.float32
    assert of(strategy, FIVE.double()).dtype == torch.float64


def test_top_random_tosses_coins_with_noise():
    noise = torch.tensor([0.9, 0.9, 0.1, 0.9, 0.49])
    assert of("top-random", noise=noise).tolist() == pytest.approx([0.25, 0.25, 0.25, 0, 0.25])


def test_tied_ranks_share_without_noise_and_split_with_it():
    reward = torch.tensor([1.0, 1.0, 0.0, -1.0])
    group = torch.zeros(4, dtype=torch.int64)
    shared = {"bon": [0.5, 0.5, 0, 0], "bw": [0.25, 0.25, 0, 0.5], "br": [1 / 3, 1 / 3, 1 / 6, 1 / 6]}
    for strategy, wanted in shared.items():
        assert of(strategy, reward, group).tolist() == pytest.approx(wanted)
    first = torch.tensor([0.2, 0.1, 0.5, 0.5])
    assert of("bon", reward, group, noise=first).tolist() == [0, 1, 0, 0]
    assert of("br", reward, group, noise=1 - first).tolist() == pytest.approx([0.5, 1 / 6, 1 / 6, 1 / 6])
    mean = sum(of("br", reward, group, noise=noise_of(4, seed)) for seed in range(400)) / 400
    assert mean.tolist() == pytest.approx(shared["br"], abs=0.03)


def test_best_and_worst_are_different_rows():
    reward = torch.tensor([0.0, 0.0, 0.0])
    for seed in range(20):
        w = of("bw", reward, torch.zeros(3, dtype=torch.int64), noise=noise_of(3, seed), zero_variance="random")
        assert sorted(w.tolist()) == [0, 0.5, 0.5]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_small_and_equal_groups(strategy):
    alone = rank_weights(torch.tensor([0.4]), torch.tensor([3]), strategy, THRESHOLDS.get(strategy))
    assert alone.tolist() == [1]
    pair = torch.tensor([0.4, 0.3]), torch.tensor([3, 3])
    assert of("bw", *pair).tolist() == of("br", *pair).tolist() == [0.5, 0.5]
    equal = torch.tensor([0.4, 0.4, 0.4]), torch.tensor([3, 3, 3])
    dropped = strategy in RANKED
    assert of(strategy, *equal).tolist() == pytest.approx([0 if dropped else 1 / 3] * 3)
    assert of(strategy, *equal, zero_variance="keep_all").tolist() == pytest.approx([1 / 3] * 3)
    assert of(strategy, *equal, zero_variance="random").tolist() == pytest.approx([1 / 3] * 3)
    none = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert of(strategy, *none, noise=torch.zeros(0, dtype=torch.float64)).shape == (0,)


def test_random_and_keep_all_differ_with_noise():
    equal = torch.tensor([0.4, 0.4, 0.4]), torch.tensor([3, 3, 3])
    noise = torch.tensor([0.3, 0.1, 0.2])
    assert of("bon", *equal, noise=noise, zero_variance="random").tolist() == [0, 1, 0]
    assert of("bon", *equal, noise=noise, zero_variance="keep_all").tolist() == pytest.approx([1 / 3] * 3)


def test_thresholds_may_leave_nothing_and_zeros_weigh_alike():
    low = torch.tensor([0.1, 0.0, -0.3])
    group = torch.zeros(3, dtype=torch.int64)
    assert of("top", low, group).tolist() == [0, 0, 0]
    assert of("top-bottom", low, group).tolist() == [0, 0, 0]
    assert of("pow-3", torch.zeros(3), group).tolist() == pytest.approx([1 / 3] * 3)
    assert of("top", torch.tensor([0.2, 0.21]), group[:2]).tolist() == [0, 1]  # above, not at


rows = st.lists(st.tuples(st.integers(-4, 4).map(lambda k: k / 4), st.integers(-1, 2)), max_size=12)


@given(rows, st.sampled_from(STRATEGIES), st.booleans())
@settings(deadline=None)
def test_any_layout(rows, strategy, noisy):
    """Each kept group sums to 1, groups do not see each other, and the order of rows does not matter."""
    reward, group = torch.tensor([r[0] for r in rows], dtype=torch.float32), torch.tensor([r[1] for r in rows]).long()
    noise = noise_of(len(rows)) if noisy else None
    w = of(strategy, reward, group, noise=noise)
    for g in group.unique():
        mine = group == g
        assert float(w[mine].sum()) == pytest.approx(1, abs=SUM) or not w[mine].any()
        alone = of(strategy, reward[mine], group[mine], noise=None if noise is None else noise[mine])
        assert torch.allclose(alone, w[mine])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    again = of(strategy, reward[order], group[order], noise=None if noise is None else noise[order])
    assert torch.allclose(again, w[order])
    if strategy in (*RANKED, "none"):  # by rank alone
        assert torch.allclose(of(strategy, (3 * reward).exp(), group, noise=noise), w)


def test_powers_see_more_than_ranks():
    assert not torch.allclose(of("pow-1"), of("pow-1", FIVE**3))


DRAWS = {"none": 5, "bon": 1, "br": 2, "bw": 2, "pow-2": 5, "top": 2}


def counts(strategy, draws, times=4000, sample=False):
    """How often each of five rows came in groups of the same five rewards."""
    group = torch.arange(times).repeat_interleave(5)
    w = rank_weights(FIVE.repeat(times), group, strategy, THRESHOLDS.get(strategy))
    drawn = draw_rows(w, group, torch.full_like(group, draws), noise_of(5 * times, 1), noise_of(5 * times, 2), sample)
    assert torch.bincount(group[drawn], minlength=times).unique().tolist() == [draws]
    assert bool((drawn[1:] >= drawn[:-1]).all())
    return torch.bincount(drawn % 5, minlength=5).double(), torch.bincount(drawn, minlength=5 * times).view(times, 5)


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("strategy", DRAWS)
def test_rows_come_as_often_as_their_weights_say(strategy, sample):
    from scipy.stats import chisquare

    draws, times = DRAWS[strategy], 4000
    total, _ = counts(strategy, draws, times, sample)
    expected = torch.tensor(BY_HAND[strategy], dtype=torch.float64) * draws * times
    expected = expected * total.sum() / expected.sum()
    assert not total[expected == 0].any()
    seen = expected > 0
    if seen.sum() > 1:
        # systematic draws vary less than independent ones, so the test is conservative for them
        assert chisquare(total[seen].numpy(), expected[seen].numpy()).pvalue > P_LEAST


def test_deterministic_draws_vary_least():
    _, each = counts("bw", 2)
    assert (each == torch.tensor([0, 1, 0, 0, 1])).all()
    _, each = counts("br", 2)
    assert (each[:, 1] == 1).all()
    assert (each.sum(1) == 2).all()
    assert each.max() == 1
    _, each = counts("none", 5)
    assert (each == 1).all()
    _, each = counts("br", 3)  # 1.5 times the best, 3/8 times the others
    assert set(each[:, 1].tolist()) == {1, 2}
    assert float(each[:, 1].double().mean()) == pytest.approx(1.5, abs=0.03)
    _, each = counts("none", 7)
    assert set(each.unique().tolist()) == {1, 2}


def test_equal_weights_make_a_simple_random_sample():
    """The control: every pair of five rows equally often, not only every row."""
    _, each = counts("none", 2, 10_000)
    pairs = torch.tensor([[i, j] for i in range(5) for j in range(i)])
    share = torch.stack([(each[:, i] * each[:, j]).double().mean() for i, j in pairs.tolist()])
    assert share.tolist() == pytest.approx([0.1] * 10, abs=0.012)  # four standard errors


def test_independent_draws_repeat():
    _, each = counts("br", 2, sample=True)
    assert each.max() == 2
    assert float((each[:, 1] == 2).double().mean()) == pytest.approx(0.25, abs=0.03)


def test_groups_without_weight_or_draws_give_nothing():
    group = torch.tensor([4, 4, 9, 9, 2])
    w = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0], dtype=torch.float64)
    draws = torch.tensor([2, 2, 1, 1, 0])
    assert len(draw_rows(w, group, draws, noise_of(5), noise_of(5, 1))) == 1
    none = group[:0]
    assert draw_rows(w[:0], none, none, w[:0], w[:0]).shape == (0,)


def test_weighing_by_rank_brings_back_the_mean_of_all():
    """(1 / G) / w of br: the mean of anything over weighed draws is its mean over all responses."""
    times = 100_000 // 5
    value = torch.tensor([3.0, -1.0, 0.5, 2.0, 7.0], dtype=torch.float64)
    group = torch.arange(times).repeat_interleave(5)
    w = rank_weights(FIVE.repeat(times), group, "br")
    drawn = draw_rows(w, group, torch.full_like(group, 2), noise_of(5 * times, 1), noise_of(5 * times, 2))
    each = value[drawn % 5] * (0.2 / w[drawn])
    error = 3 * float(each.view(-1, 2).mean(1).std()) / math.sqrt(times)
    assert float(each.mean()) == pytest.approx(float(value.mean()), abs=error)
    assert abs(float(value[drawn % 5].mean() - value.mean())) > 10 * error  # without it, it is not


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: rank_weights(FIVE, ONE, "best"), "unknown strategy"),
        (lambda: rank_weights(FIVE, ONE, "bw", zero_variance="keep"), "unknown zero_variance"),
        (lambda: rank_weights(torch.tensor([0.1, float("nan")]), ONE[:2], "bw"), "row 1"),
        (lambda: rank_weights(FIVE, ONE[:3], "bw"), "for 5 rows"),
        (lambda: rank_weights(FIVE, ONE.float(), "bw"), "group is torch.float32"),
        (lambda: rank_weights(FIVE * 2, ONE, "pow-1"), "reward is 1.79"),
        (lambda: rank_weights(FIVE, ONE, "top"), "threshold is None"),
        (lambda: rank_weights(FIVE, ONE, "top", (0.1, 0.2)), "one number"),
        (lambda: rank_weights(FIVE, ONE, "top-bottom", 0.1), "a pair"),
        (lambda: rank_weights(FIVE, ONE, "top-bottom", (-0.5, 0.5)), "upper >= lower"),
        (lambda: rank_weights(FIVE, ONE, "top", float("inf")), "threshold is inf"),
        (lambda: rank_weights(FIVE, ONE, "br", 0.1), "threshold is 0.1 for strategy br"),
        (lambda: rank_weights(FIVE, ONE, "br", noise=FIVE[:2]), "noise has shape"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
