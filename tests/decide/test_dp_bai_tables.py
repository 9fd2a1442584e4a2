"""Experiments from files: what is read and refused, what is still to be tried, and intervals that cover."""

import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.dp_bai import DPBAI
from steersman.decide.dp_bai.tables import feed, mean_interval, read_arms, read_rewards
from steersman.decide.privacy import DiscreteLaplace, SeededBits

DRAWS = 3_000
NAMES = ("a", "b", "c")


def test_arms_and_rewards(tmp_path):
    (tmp_path / "arms.csv").write_text("\ufeffx, arm,y\r\n1,a,0\r\n\r\n0.5,b,1e0\r\n", encoding="utf-8")
    table = read_arms(tmp_path / "arms.csv")
    assert (table.names, table.columns) == (("a", "b"), ("x", "y"))
    assert table.features.tolist() == [[1, 0], [0.5, 1]]
    (tmp_path / "plain.csv").write_text("x\n3\n4\n")
    assert read_arms(tmp_path / "plain.csv").names == ("1", "2")
    (tmp_path / "log.csv").write_text("when,arm,reward\n1,b,1\n2,a,0.25\n3,b,0\n")
    assert read_rewards(tmp_path / "log.csv", ("a", "b")) == [[0.25], [1.0, 0.0]]
    assert read_rewards(tmp_path / "none.csv", NAMES) == [[], [], []]


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no arms"),
        ("arm\na\n", "no features"),
        ("arm,x\na,1\na,2\n", "there twice"),
        ("arm,x\na,1\n ,2\n", "line 3: the arm's name is ''"),
        ("arm,x\n\x1b[31ma,1\nb,2\n", "line 2: the arm's name is .*allowed: up to 200 printable"),
        ("arm,x\na,one\n", "line 2, column x.*'one' is not a finite number"),
        ("arm,x\na,nan\n", "not a finite number"),
        ("arm,x\na\n", "line 2: 1 cells under 2 columns"),
        ("arm,x,x\na,1,2\n", "column twice"),
    ],
)
def test_arms_that_cannot_be_read(tmp_path, text, said):
    (tmp_path / "arms.csv").write_text(text)
    with pytest.raises(UserError, match="(?s)" + said):
        read_arms(tmp_path / "arms.csv")


@pytest.mark.parametrize(
    "text, said",
    [
        ("arm,score\na,1\n", "allowed: arm and reward"),
        ("arm,reward\nz,1\n", "line 2: unknown arm 'z'"),
        ("arm,reward\na,\n", "line 2: '' is not a finite number"),
    ],
)
def test_rewards_that_cannot_be_read(tmp_path, text, said):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        read_rewards(tmp_path / "log.csv", NAMES)


def test_rewards_outside_the_range_are_named_by_line(tmp_path):
    (tmp_path / "log.csv").write_text("arm,reward\na,1\nb,1.5\n")
    assert read_rewards(tmp_path / "log.csv", NAMES, (0, 2)) == [[1.0], [1.5], []]
    with pytest.raises(UserError, match=r"line 3: a reward of 1.5\n.*from 0 to 1\n.*--clip"):
        read_rewards(tmp_path / "log.csv", NAMES, (0, 1))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_arms(tmp_path / "none.csv")
    (tmp_path / "arms.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not CSV in UTF-8"):
        read_arms(tmp_path / "arms.csv")


def test_phases_take_rewards_in_turn_and_say_what_they_lack():
    # three unrelated arms, sizes 3, 2, 1: T = 24 gives 4 trials of each of three arms, then 6 of each of two
    options = DPBAI(math.inf, 24, sizes=(3, 2, 1), noise=DiscreteLaplace(1))
    rewards = [[1.0] * 4, [0.0] * 4, [0.0] * 2]
    assert feed(options.start(np.eye(3)), rewards) == {2: 2}
    rewards[2] = [1.0] * 4
    run = options.start(np.eye(3))
    assert feed(run, rewards) == {0: 6, 2: 6}
    assert run.tried == {0: 4, 1: 4, 2: 4}
    rewards[0] += [0.0] * 6
    rewards[2] += [1.0] * 9  # more than needed: the rest is not read
    assert feed(run, rewards) == {}
    assert run.result().arm == 2
    assert run.result().private_means[1] == {0: 0.0, 2: 1.0}


@pytest.mark.parametrize("epsilon", [0.2, 5.0])
def test_intervals_cover(epsilon):
    generator, pulls, mean = np.random.default_rng(0), 40, 0.4
    noise, scale = DiscreteLaplace(), DiscreteLaplace().scale(epsilon)
    sums = [int(s) for s in generator.binomial(pulls, mean, DRAWS)]
    noisy = noise.laplace_on_integer(sums, scale.numerator, scale.denominator, SeededBits(0))
    found = [mean_interval(s / pulls, pulls, epsilon) for s in noisy]
    assert np.mean([i.contains(mean) for i in found]) >= 0.95
    wide = mean_interval(0.5, 10**6, 0.5, (-2.0, 2.0), 0.9)
    half = 4 * (math.sqrt(math.log(40) / 2e6) + math.log(20) / 5e5)
    assert (wide.low, wide.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert (found[0].low >= 0, found[0].high <= 1) == (True, True)
