"""TQ, SACo and their variants: the paper's figures, closed forms, invariances, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.offline.measure import (
    Count,
    Discretizer,
    count,
    coverage,
    lsaco,
    offline_performance,
    quality,
    saco,
    trajectory_quality,
    unique_pairs,
)
from steersman.offline.transitions import Transitions

GOLDEN = 5e-6  # the paper's tables have two decimals, the quotients are compared to five
EXACT = 1e-12


def rows(returns: list[list[float]], states: list[int] | None = None, actions: list[int] | None = None) -> Transitions:
    """A log of one-dimensional whole-number states from the rewards of each episode."""
    reward = [r for episode in returns for r in episode]
    n = len(reward)
    ends = np.zeros(n, bool)
    ends[np.cumsum([len(e) for e in returns]) - 1] = True
    obs = np.arange(n) if states is None else np.array(states)
    return Transitions.from_arrays(obs, actions or [0] * n, reward, ends, np.zeros(n, bool))


def counted(unique: int, rows: int = 100_000, signature: str = "s", counter: str = "exact") -> Count:
    return Count(unique, rows, signature, counter, ((rows, unique),), None)


def test_the_papers_tables() -> None:
    # CartPole, run 1 (tables A.5 and A.8): replay data 208.05, random 22.23, best 500; 55,916 of 95,384 pairs.
    assert quality(208.05, 22.23, 500.0) == pytest.approx(0.38893, abs=GOLDEN)
    assert saco(counted(55_916), counted(95_384)) == pytest.approx(0.58622, abs=GOLDEN)


def test_the_measure_of_a_log_is_that_of_its_mean_return() -> None:
    log = rows([[1.0, 2.0], [4.0], [0.0, 0.0, 2.0]])  # returns 3, 4, 2
    assert trajectory_quality(log, low=1.0, high=5.0) == pytest.approx(0.5, abs=EXACT)
    # Discounted by a half: 1 + 1 = 2, 4, 0.5.
    assert trajectory_quality(log, low=0.0, high=1.0, discount=0.5) == pytest.approx(6.5 / 3, abs=EXACT)


def test_of_low_and_high_themselves() -> None:
    low, high = rows([[0.0, 1.0], [2.0]]), rows([[5.0], [3.0, 4.0]])
    assert trajectory_quality(low, low, high) == 0.0
    assert trajectory_quality(high, low, high) == 1.0


def test_it_is_not_clipped() -> None:
    assert trajectory_quality(rows([[10.0]]), 0.0, 5.0) == pytest.approx(2.0, abs=EXACT)
    assert trajectory_quality(rows([[-5.0]]), 0.0, 5.0) == pytest.approx(-1.0, abs=EXACT)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_scale_and_offset_per_episode_do_not_matter(a: float, b: float) -> None:
    def changed(episodes: list[list[float]]) -> Transitions:
        return rows([[a * r + (b if t == 0 else 0.0) for t, r in enumerate(e)] for e in episodes])

    given, low, high = [[1.0, 2.0], [4.0]], [[0.0, 1.0], [2.0]], [[5.0], [3.0, 4.0]]
    before = trajectory_quality(rows(given), rows(low), rows(high))
    assert trajectory_quality(changed(given), changed(low), changed(high)) == pytest.approx(before, abs=1e-9)


def test_an_offset_per_step_matters_where_lengths_differ() -> None:
    def changed(episodes: list[list[float]]) -> Transitions:
        return rows([[r + 1.0 for r in e] for e in episodes])

    given, low, high = [[1.0, 2.0, 0.0], [4.0]], [[0.0, 1.0], [2.0]], [[5.0], [3.0, 4.0]]
    before = trajectory_quality(rows(given), rows(low), rows(high))
    assert abs(trajectory_quality(changed(given), changed(low), changed(high)) - before) > 0.01


def test_unfinished_episodes_have_no_return() -> None:
    log = Transitions.from_arrays(np.arange(4), [0] * 4, [1.0, 1.0, 7.0, 7.0], [0, 1, 0, 0], [0] * 4)
    assert trajectory_quality(log, 0.0, 1.0) == pytest.approx(2.0, abs=EXACT)
    with pytest.raises(UserError, match="no episode is whole: 1 were dropped"):
        trajectory_quality(log.slice(2, 4), 0.0, 1.0)
    with pytest.raises(UserError, match="no episode is whole"):
        trajectory_quality(log.slice(1, 2), 0.0, 1.0)  # has its end and not its beginning


def test_equal_low_and_high_are_refused() -> None:
    with pytest.raises(UserError, match="expert and minimum returns are equal"):
        trajectory_quality(rows([[1.0]]), 2.0, 2.0)
    with pytest.raises(UserError, match="finite"):
        trajectory_quality(rows([[1.0]]), 0.0, math.nan)


def test_unique_pairs_by_hand() -> None:
    # The authors' "exact" count adds the action to the state, and would take (1, 2) and (2, 1) for one pair.
    assert unique_pairs([[1], [2], [1]], [2, 1, 2]) == 2
    assert unique_pairs(np.zeros((3, 2)), [0, 0, 1]) == 2


def test_forms_of_actions_give_one_count() -> None:
    draw = np.random.default_rng(0)
    obs, action = draw.integers(0, 4, (200, 2)), draw.integers(0, 3, 200)
    one = unique_pairs(obs, action)
    assert one == len({(*s, a) for s, a in zip(map(tuple, obs), action, strict=True)})
    assert unique_pairs(obs, action[:, None]) == one
    assert unique_pairs(obs, np.eye(3, dtype=int)[action]) == one


def test_orders_columns_and_names_do_not_matter() -> None:
    draw = np.random.default_rng(1)
    obs, action = draw.integers(0, 5, (300, 3)), draw.integers(0, 3, 300)
    one, order = unique_pairs(obs, action), draw.permutation(300)
    assert unique_pairs(obs[order], action[order]) == one
    assert unique_pairs(obs[:, [2, 0, 1]], action) == one
    assert unique_pairs(obs, np.array([2, 0, 1])[action]) == one
    assert unique_pairs(np.concatenate([obs, obs]), np.concatenate([action, action])) == one


def test_zero_has_one_sign_and_nan_none() -> None:
    assert unique_pairs([[0.0], [-0.0]], [0, 0]) == 1
    with pytest.raises(UserError, match=r"obs, row 1, column 0: nan"):
        unique_pairs([[0.0], [np.nan]], [0, 0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=60))
def test_entropy_lies_below_the_log_of_the_count(pairs: list[tuple[int, int]]) -> None:
    log = rows([[0.0] * len(pairs)], [s for s, _ in pairs], [a for _, a in pairs])
    found = count(log)
    assert found.unique == len(set(pairs))
    assert found.entropy is not None
    assert found.entropy <= math.log(found.unique) + EXACT
    assert math.log(found.unique) <= math.log(len(pairs)) + EXACT
    times = {p: pairs.count(p) for p in pairs}.values()
    assert found.entropy == pytest.approx(-sum(t / len(pairs) * math.log(t / len(pairs)) for t in times), abs=1e-9)
    assert (abs(found.perplexity - found.unique) < 1e-6) == (len(set(times)) == 1)


def test_coverage_of_the_reference_is_one() -> None:
    log = rows([[0.0] * 50], list(np.random.default_rng(2).integers(0, 9, 50)))
    found = coverage(log, log)
    assert found.saco == 1.0
    assert found.lsaco == 1.0
    assert found.entropy_ratio == 1.0


def test_coverage_and_its_variants_by_hand() -> None:
    log, ref = rows([[0.0] * 4], [0, 0, 1, 1]), rows([[0.0] * 4], [0, 1, 2, 3])
    found = coverage(log, ref)
    assert (found.u, found.u_ref, found.saco) == (2, 4, 0.5)
    assert found.lsaco == pytest.approx(0.5, abs=EXACT)
    assert found.entropy_ratio == pytest.approx(0.5, abs=EXACT)
    assert found.perplexity == pytest.approx(2.0, abs=EXACT)
    assert coverage(ref, log).saco == 2.0  # more than the reference saw
    assert found.curve == ((1, 1), (2, 1), (3, 2), (4, 2))
    assert coverage(log, rows([[0.0] * 4], [0] * 4)).lsaco is None


def test_the_curve_ends_in_the_count_and_never_falls() -> None:
    log = rows([[0.0] * 1000], list(np.random.default_rng(3).integers(0, 300, 1000)))
    found = count(log)
    assert len(found.curve) == 24
    assert found.curve[-1] == (1000, found.unique)
    assert list(found.curve) == sorted(found.curve)
    for n, u in found.curve:
        assert u == unique_pairs(log.obs[:n], log.action[:n])


def test_unequal_sizes_are_refused_or_subsampled() -> None:
    draw = np.random.default_rng(4)
    log, ref = (
        rows([[0.0] * 400], list(draw.integers(0, 99, 400))),
        rows([[0.0] * 100], list(draw.integers(0, 99, 100))),
    )
    with pytest.raises(UserError, match="400 transitions against 100"):
        coverage(log, ref)
    found = coverage(log, ref, repeats=8)
    assert found.rows == 100
    assert found.spread is not None
    assert 0 < found.spread < 0.2
    assert found == coverage(log, ref, repeats=8)
    assert found.saco != coverage(log, ref, repeats=8, seed=1).saco
    assert found.saco == pytest.approx(1.0, abs=0.2)  # both are uniform over the same states


def test_counts_made_differently_are_refused() -> None:
    with pytest.raises(UserError, match="counted differently"):
        saco(counted(1), counted(1, signature="other"))
    with pytest.raises(UserError, match="counted differently"):
        saco(counted(1), counted(1, counter="hll"))
    with pytest.raises(UserError, match="100,000 transitions against 5"):
        saco(counted(1), counted(1, rows=5))
    with pytest.raises(UserError, match="no pairs"):
        saco(counted(1), counted(0))
    assert lsaco(counted(10), counted(100)) == pytest.approx(0.5, abs=EXACT)
    single, double = (
        Transitions.from_arrays(np.zeros((2, 1), d), [0, 1], [0.0] * 2, [0, 1], [0, 0]) for d in ("f4", "f8")
    )
    with pytest.raises(UserError, match="counted differently"):
        coverage(single, double)


def test_two_discretisers_are_refused_even_with_equal_bins() -> None:
    log = rows([[0.0] * 5], [0, 1, 2, 3, 9])
    wide, narrow = (count(log, Discretizer.fit(np.array(x), 10)) for x in ([0.0, 9.0], [0.0, 5.0]))
    with pytest.raises(UserError, match="counted differently"):
        saco(wide, narrow)


def test_exact_and_hyperloglog_agree() -> None:
    draw = np.random.default_rng(5)
    log, ref = (rows([[0.0] * 60_000], list(draw.integers(0, top, 60_000))) for top in (40_000, 80_000))
    exact, near = (coverage(log, ref, counter=c) for c in ("exact", "hll"))
    assert near.u / exact.u == pytest.approx(1, abs=0.03)
    assert near.saco / exact.saco == pytest.approx(1, abs=0.03)
    assert near.entropy is None
    assert near.perplexity is None


def test_an_unknown_counter_is_refused() -> None:
    with pytest.raises(UserError, match="allowed: exact, hll"):
        count(rows([[0.0]]), counter="kmv")


def test_performance_is_the_best_point_of_the_mean_curve() -> None:
    best, last = offline_performance(np.array([[0.0, 8.0, 2.0], [0.0, 0.0, 4.0]]), low=0.0, high=10.0)
    assert best == pytest.approx(0.4, abs=EXACT)  # the mean over seeds first: not the mean of each seed's best
    assert last == pytest.approx(0.3, abs=EXACT)


def test_duplicating_states_keeps_quality_and_never_lowers_entropy() -> None:
    draw = np.random.default_rng(6)
    states = draw.integers(0, 6, 500)
    twin = states * 2 + draw.integers(0, 2, 500)  # each state has two copies that behave alike
    episodes = [[float(s)] for s in states]
    one, two = rows(episodes, list(states)), rows(episodes, list(twin))
    assert trajectory_quality(one, 0.0, 6.0) == trajectory_quality(two, 0.0, 6.0)
    assert count(two).entropy >= count(one).entropy
    assert count(two).entropy <= count(one).entropy + math.log(2) + EXACT
