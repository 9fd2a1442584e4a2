"""DP-BAI by ask and tell: the right arm, budgets, crashes, and nothing raw that leaves it."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import RunStopped, UserError
from steersman.decide.dp_bai import DPBAI, BudgetTooSmall, halving
from steersman.decide.privacy import SYSTEM, DiscreteLaplace, FloatLaplace, SeededBits, SystemBits

FEATURES = np.array([[1, 0, 0.2], [0, 1, 0], [0.4, 0.5, 0.1], [0.2, 0.3, 0.9], [0.7, 0.7, 0], [0, 0, 1]])
RANGE_ERROR = 4 * 30 * math.sqrt(0.25 / 5000)  # four standard errors of a mean of 5,000 coins worth 30
THETA = np.array([0.2, 0.1, 0.9])
BEST = int(np.argmax(FEATURES @ THETA))


class CountedBits(SystemBits):
    """The operating system's bits, counted."""

    def __init__(self):
        self.asked = 0

    def below(self, n):
        self.asked += 1
        return super().below(n)


def play(run, reward=lambda arm: float(FEATURES[arm] @ THETA), most=None):
    while (batch := run.ask()) is not None:
        run.tell([reward(a) for a in batch.arms[:most]], batch.phase)
    return run.result()


def test_a_strong_signal_finds_the_best_arm_and_says_what_it_promises():
    run = DPBAI(epsilon=5.0, budget=3000, noise=DiscreteLaplace(10)).start(FEATURES)
    found = play(run)
    assert found.arm == BEST
    assert found.active_history[0] == tuple(range(6))
    assert found.active_history[-1] == (BEST,)
    assert [len(a) for a in found.active_history] == [6, 4, 2, 1]
    promised = found.certificate
    assert (promised.epsilon, promised.delta, promised.certified) == (5.0, 0.0, True)
    assert promised.entropy == "operating system"
    assert found.pulls == sum(n * k for n, k, _ in promised.per_phase) <= 3000
    assert {scale for *_, scale in promised.per_phase} == {2.0}
    json.dumps(promised.as_dict())


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 4), st.sampled_from(["floor", "paper"]))
def test_each_arm_of_a_phase_is_tried_equally_often_and_the_budget_holds(seed, arms, dim, rounding):
    features = np.random.default_rng(seed).normal(size=(arms, dim))
    with pytest.raises(BudgetTooSmall) as caught:
        DPBAI(1.0, 0, rounding).start(features)
    budget = caught.value.least
    run = DPBAI(1.0, budget, rounding).start(features, bits=SeededBits(seed))
    phases = []
    while (batch := run.ask()) is not None:
        counts = np.unique(batch.arms, return_counts=True)[1]
        assert len(set(counts)) == 1
        phases.append(batch.phase)
        run.tell([0.5] * len(batch.arms))
    assert phases == list(range(1, len(phases) + 1))
    assert run.result().pulls <= budget
    with pytest.raises(BudgetTooSmall, match=f"at least {budget} "):
        DPBAI(1.0, budget - 1, rounding).start(features)


def test_no_noise_is_successive_rejects_of_the_schedule():
    generator = np.random.default_rng(2)
    means = generator.permutation(8) / 8
    run = DPBAI(math.inf, 400, design="all", sizes=halving(8), noise=DiscreteLaplace(8)).start(np.eye(8))
    found = play(run, lambda arm: float(means[arm]))
    order = np.argsort(-means)
    assert found.active_history == tuple(tuple(sorted(order[:n].tolist())) for n in (8, 4, 2, 1))
    assert found.private_means[0] == pytest.approx(dict(enumerate(means)))
    assert not found.certificate.certified
    assert found.certificate.epsilon == math.inf


def test_unseen_arms_are_estimated_in_units_of_reward():
    # rewards 2 + 6 x lie in [-10, 20]; the map to [0, 1] is not linear in the features, the estimates must be
    features = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.05], [0.5, 0.5], [0.6, 0.6]])
    mean = features @ [-8.0, 19.0]
    found = play(DPBAI(math.inf, 10_000, reward_range=(-10, 20)).start(features), lambda arm: float(mean[arm]))
    assert found.arm == 1
    assert list(found.private_means[0]) == [0, 1]  # two arms told of five
    assert list(found.private_means[0].values()) == pytest.approx([-8.0, 19.0], abs=RANGE_ERROR)
    # all rewards negative: 0.2 of the first arm's is best, but taken in units of [0, 1] it would be the worst
    loss = np.array([-9.0, -8.0, -1.8])
    options = DPBAI(math.inf, 10_000, reward_range=(-10, 0), sizes=(3, 1), design="max-det")
    below = play(options.start([[1.0], [8 / 9], [0.2]]), lambda arm: float(loss[arm]))
    assert below.arm == 2


def test_pieces_and_wholes_are_the_same():
    options = DPBAI(1.0, 500)
    told = [play(options.start(FEATURES, bits=SeededBits(4)), lambda arm: float(arm > 2), m) for m in (None, 7)]
    assert told[0] == told[1]
    assert not told[0].certificate.certified  # a seed can be replayed
    run = options.start(FEATURES)
    assert run.ask() == run.ask()


def test_a_crash_resumes_and_draws_no_noise_twice(tmp_path):
    options, bits = DPBAI(1.0, 600, design="all"), CountedBits()
    run = options.start(FEATURES, tmp_path / "j", bits)
    run.tell([1.0] * len(run.ask().arms))
    drawn = bits.asked
    written = (tmp_path / "j" / "0001.json").read_bytes()
    run.tell([1.0] * 5)  # of phase 2; then the process dies
    again = options.start(FEATURES, tmp_path / "j", bits)
    assert bits.asked == drawn
    assert (again.phase, again.ask().phase) == (2, 2)
    with pytest.raises(UserError, match="drawn once"):
        again.tell([1.0], phase=1)
    whole = play(again, lambda arm: 1.0)
    assert (tmp_path / "j" / "0001.json").read_bytes() == written
    drawn = bits.asked
    assert options.start(FEATURES, tmp_path / "j", bits).result() == whole
    assert bits.asked == drawn
    with pytest.raises(UserError, match="is over"):
        again.tell([1.0])


def test_two_processes_cannot_both_draw_a_phase(tmp_path):
    options = DPBAI(1.0, 600)
    one, other = (options.start(FEATURES, tmp_path / "j") for _ in range(2))
    one.tell([1.0] * len(one.ask().arms))
    with pytest.raises(RunStopped, match="not drawn twice"):
        other.tell([1.0] * len(other.ask().arms))
    assert other.phase == 1


def test_noise_the_disk_refused_is_kept_not_drawn_again(tmp_path, monkeypatch):
    bits = CountedBits()
    run = DPBAI(1.0, 600).start(FEATURES, tmp_path / "j", bits)
    monkeypatch.setattr("os.link", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunStopped):
        run.tell([1.0] * len(run.ask().arms))
    monkeypatch.undo()
    drawn = bits.asked
    run.tell([])
    assert bits.asked == drawn
    assert run.phase == 2


def test_journals_of_other_experiments_and_of_seeds_are_refused(tmp_path):
    DPBAI(1.0, 600).start(FEATURES, tmp_path / "j")
    for options, features in (
        (DPBAI(2.0, 600), FEATURES),
        (DPBAI(1.0, 601), FEATURES),
        (DPBAI(1.0, 600), 2 * FEATURES),
    ):
        with pytest.raises(UserError, match="another experiment"):
            options.start(features, tmp_path / "j")
    with pytest.raises(UserError, match="can be replayed"):
        DPBAI(1.0, 600).start(FEATURES, tmp_path / "k", SeededBits(0))
    with pytest.raises(UserError, match="raw sums"):
        DPBAI(math.inf, 600).start(FEATURES, tmp_path / "k")
    assert not (tmp_path / "k").exists()


def test_nothing_raw_leaves_a_run(tmp_path):
    run = DPBAI(0.01, 60_000).start(FEATURES, tmp_path / "j")
    asked = run.ask().arms
    run.tell([1.0] * len(asked))
    raw = len(asked) // len(set(asked))
    noisy = json.loads((tmp_path / "j" / "0001.json").read_text())["entry"]["noisy"]
    # The noise has a scale of 100: any one noisy sum equals the raw one once in 200 times, all of them hardly ever.
    assert len(noisy) == len(set(asked)) >= 3
    assert noisy != [raw] * len(noisy)
    run.tell([1.0] * 50)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UserError, match="cannot be copied"):
            leak(run)
    assert repr(run) == "Run(phase 2 of 3, 4 arms left)"


def test_rewards_that_cannot_be_are_refused_whole():
    run = DPBAI(1.0, 600).start(FEATURES)
    before = run.ask()
    for bad in (math.nan, -0.01, 1.01, math.inf):
        with pytest.raises(UserError, match="reward 2 of those told"):
            run.tell([1.0, bad])
    with pytest.raises(UserError, match="rewards for"):
        run.tell([1.0] * (len(before.arms) + 1))
    assert run.ask() == before
    clipping = DPBAI(1.0, 600, on_out_of_range="clip").start(FEATURES)
    clipping.tell([7.0, -7.0])
    assert len(clipping.ask().arms) == len(before.arms) - 2
    with pytest.raises(UserError):
        clipping.tell([math.nan])
    with pytest.raises(UserError, match="under way"):
        clipping.result()


def test_rewards_between_the_points_of_the_grid_are_rounded_without_bias():
    run = DPBAI(math.inf, 40_000, design="all").start(np.eye(2), bits=SeededBits(1))
    found = play(run, lambda arm: (0.3, 0.6)[arm])
    for arm, mean in ((0, 0.3), (1, 0.6)):
        assert found.private_means[0][arm] == pytest.approx(mean, abs=4 * math.sqrt(0.25 / 20_000))


def test_one_arm_doubled_arms_flat_arms_and_rows():
    alone = DPBAI(1.0, 0).start([[2.0]]).result()
    assert (alone.arm, alone.pulls, alone.certificate.epsilon) == (0, 0, 0.0)
    assert "nothing was tried" in alone.note
    twice = play(
        DPBAI(3.0, 4000).start(np.concatenate([FEATURES, FEATURES])), lambda arm: float(FEATURES[arm % 6] @ THETA)
    )
    assert twice.arm % 6 == BEST
    line = play(DPBAI(3.0, 4000).start([[1.0, 2.0], [0.2, 0.4], [0.0, 0.0]]), lambda arm: (0.8, 0.16, 0.0)[arm])
    assert line.arm == 0
    assert line.certificate.per_phase[0][:2] == (1, 4000)
    rows = play(DPBAI(0.5, 600, neighbouring="row").start(FEATURES))
    assert rows.certificate.epsilon == 0.5 * 6
    assert not play(DPBAI(0.5, 600, noise=FloatLaplace()).start(FEATURES)).certificate.certified


@pytest.mark.parametrize(
    "options, said",
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"budget": -1}, "budget"),
        ({"budget": 2.5}, "budget"),
        ({"budget": True}, "budget"),
        ({"budget": 10**11}, "budget"),
        ({"noise": "opendp"}, "noise 'opendp'"),
        ({"reward_range": (-1e308, 1e308)}, "finite distance"),
        ({"reward_range": (0, math.nan)}, "finite distance"),
        ({"reward_range": (1, 0)}, "reward range"),
        ({"on_out_of_range": "drop"}, "drop"),
        ({"neighbouring": "person"}, "person"),
        ({"rounding": "up"}, "up"),
        ({"design": "d-optimal"}, "d-optimal"),
        ({"sizes": (6, 6, 1)}, "strictly falling"),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(UserError, match=said):
        DPBAI(**{"epsilon": 1.0, "budget": 600} | options).start(FEATURES)


def test_the_noise_on_a_sum_has_the_scale_it_says():
    options = DPBAI(0.5, 2, design="all", noise=DiscreteLaplace(4))
    found = [play(options.start(np.eye(2), bits=SeededBits(s)), lambda arm: 0.5).private_means[0] for s in range(2000)]
    size = np.mean([abs(m[a] - 0.5) * 4 for m in found for a in (0, 1)])
    q = math.exp(-1 / 8)
    assert size == pytest.approx(2 * q / (1 - q * q), rel=0.08)  # E|k|; scale 8 in steps of the grid
    assert not SYSTEM.seeded
