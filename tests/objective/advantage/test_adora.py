"""ADORA's weights: every edge case of both released programs, the criteria by definition, invariances, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.objective.advantage.adora import adora_class, adora_weights, longer_by_chance
from steersman.objective.advantage.group import grpo

MEAN = 1e-6  # float32
CHANCE = 0.008  # the known rates are rounded to two digits and simulated to +-0.003
SIMULATED = 0.005  # 100,000 draws

# One group each: right answers, lengths, cut rows -> class by the length criterion of (text, vision, ours).
T, F = True, False
GROUPS = {
    "mixed, longest right answer longer": ([T, F, F], [9, 4, 8], [F, F, F], (1, 1, 1)),
    "mixed, longest right answer shorter": ([T, F, F], [5, 4, 8], [F, F, F], (-1, -1, -1)),
    "equal lengths": ([T, F, T, F], [6, 6, 6, 6], [F, F, F, F], (-1, -1, -1)),
    "all wrong": ([F, F, F], [3, 4, 5], [F, F, F], (-1, 0, 0)),
    "all wrong, all cut": ([F, F], [9, 9], [T, T], (-1, 0, 0)),
    "all right": ([T, T, T], [3, 4, 5], [F, F, F], (1, -1, 0)),
    "every failure was cut": ([T, F, F], [3, 9, 9], [F, T, T], (1, -1, 1)),
    "the long failure was cut": ([T, F, F], [5, 4, 9], [F, F, T], (1, 1, 1)),
    "a cut right answer counts": ([T, F, F], [9, 4, 8], [T, F, F], (1, 1, 1)),
    "one right row": ([T], [5], [F], (1, -1, 0)),
    "one wrong row": ([F], [5], [F], (-1, 0, 0)),
}


def tensors(name):
    correct, length, cut, wanted = GROUPS[name]
    group = torch.full((len(correct),), 11)
    return torch.tensor(correct), torch.tensor(length), group, torch.tensor(cut), wanted


def one(weights):
    """The one weight of a group."""
    assert len(weights.unique()) == 1
    return weights[0].item()


def test_the_longest_right_answer_decides_and_not_the_mean():
    correct, length = torch.tensor([T, T, F]), torch.tensor([2, 9, 8])
    assert adora_class(correct, length, torch.zeros(3, dtype=torch.int64), criterion="length").unique() == 1


@pytest.mark.parametrize("name", GROUPS)
def test_both_released_programs_and_our_rules(name):
    *rows, (text, vision, ours) = tensors(name)
    for preset, found in (("repo_text", text), ("repo_vision", vision)):
        assert one(adora_class(*rows, preset=preset)) == found
        w = one(adora_weights(*rows, preset=preset))
        assert w == pytest.approx(0.1 if found == -1 else 1)
        assert one(adora_weights(*rows, preset=preset, weight=0.3)) == pytest.approx(0.3 if found == -1 else 1)
    assert one(adora_class(*rows, criterion="length")) == ours
    assert one(adora_weights(*rows, criterion="length", mode="attenuate")) == pytest.approx(0.1 if ours == -1 else 1)
    assert one(adora_weights(*rows, criterion="length", mode="amplify")) == (2 if ours == 1 else 1)


def test_all_columns_at_once():
    """The table as one batch: groups do not see each other, in any order of rows."""
    parts = [tensors(name) for name in GROUPS]
    correct, length, cut = (torch.cat([p[i] for p in parts]) for i in (0, 1, 3))
    group = torch.cat([torch.full_like(p[1], 7 - i) for i, p in enumerate(parts)])
    order = torch.randperm(len(group), generator=torch.Generator().manual_seed(0))
    wanted = torch.cat([torch.full_like(p[1], p[4][2]) for p in parts])
    found = adora_class(correct[order], length[order], group[order], cut[order], criterion="length")
    assert torch.equal(found, wanted[order])


@pytest.mark.parametrize(("said", "wanted"), [("advantage", 1), ("disadvantage", -1)])
def test_what_failures_say_that_were_all_cut(said, wanted):
    rows = tensors("every failure was cut")[:4]
    assert one(adora_class(*rows, criterion="length", no_valid_failure=said)) == wanted
    assert one(adora_class(*tensors("all right")[:4], criterion="length", no_valid_failure=said)) == 0


@pytest.mark.parametrize(("tau", "wanted"), [(0.0, -1), (0.25, -1), (1 / 3, 1), (0.5, 1), (1.0, 1)])
def test_difficulty_is_a_share_of_right_answers(tau, wanted):
    rows = tensors("mixed, longest right answer longer")[:4]
    assert one(adora_class(*rows, criterion="difficulty", tau=tau)) == wanted
    assert one(adora_class(*tensors("all wrong")[:4], criterion="difficulty", tau=tau)) == 1
    assert one(adora_class(*tensors("all right")[:4], criterion="difficulty", tau=tau)) == (1 if tau == 1 else -1)


JOINED = {  # group -> class by (both, either) at tau 1/2
    "mixed, longest right answer longer": (1, 1),
    "mixed, longest right answer shorter": (-1, 1),
    "equal lengths": (-1, 1),
    "all wrong": (0, 1),
    "all right": (-1, 0),
    "one right row": (0, 0),
    "one wrong row": (0, 0),
}


@pytest.mark.parametrize("name", JOINED)
def test_criteria_join_with_three_values(name):
    rows = tensors(name)[:4]
    both, either = JOINED[name]
    assert one(adora_class(*rows, criterion="both")) == both
    assert one(adora_class(*rows, criterion="either")) == either
    assert one(adora_weights(*rows)) == (2 if both == 1 else 1)
    assert one(adora_weights(*rows, criterion="either", mode="attenuate")) == pytest.approx(0.1 if either == -1 else 1)


def test_an_all_wrong_group_is_not_amplified_by_default():
    assert one(adora_weights(*tensors("all wrong")[:4])) == 1


def test_weights():
    rows = tensors("mixed, longest right answer longer")[:4]
    assert one(adora_weights(*rows)) == 2
    assert one(adora_weights(*rows, weight=3)) == 3
    assert one(adora_weights(*rows, mode="attenuate")) == 1
    assert adora_weights(*rows).dtype == torch.float32
    bad = tensors("mixed, longest right answer shorter")[:4]
    assert one(adora_weights(*bad, criterion="length", mode="attenuate", weight=0)) == 0


layout = st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.integers(-1, 2), st.booleans()), max_size=14)
options = st.tuples(
    st.sampled_from(["length", "difficulty", "both", "either"]),
    st.sampled_from(["amplify", "attenuate"]),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([None, 0.0, 0.2, 3.0]),
    st.none(),
    st.sampled_from(["advantage", "disadvantage"]),
)


@given(layout, options)
@settings(deadline=None)
def test_any_layout(rows, how):
    """Equal within a group, blind to the order of rows; advantages keep their sign and their sum of 0."""
    correct, length, group, cut = (torch.tensor([r[i] for r in rows]) for i in range(4))
    correct, cut, length, group = correct.bool(), cut.bool(), length.long(), group.long()
    w = adora_weights(correct, length, group, cut, *how)
    for g in group.unique():
        assert len(w[group == g].unique()) == 1
        alone = group == g
        assert torch.equal(w[alone], adora_weights(correct[alone], length[alone], group[alone], cut[alone], *how))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(len(rows)))
    again = adora_weights(correct[order], length[order], group[order], cut[order], *how)
    assert torch.equal(again, w[order])
    a = grpo(correct.double(), group)
    assert not ((a * w).sign() * a.sign() < 0).any()
    for g in group.unique():
        assert abs(float((a * w)[group == g].sum())) < MEAN
    if how[3] == 0.0 or not len(rows):
        return
    ones = adora_weights(correct, length, group, cut, *how, normalize="mean1")
    assert ones.mean().item() == pytest.approx(1, abs=MEAN)
    assert torch.allclose(ones / ones[0], w / w[0])


def test_the_mean_can_be_over_some_rows():
    correct = torch.tensor([T, F, F, F, F])
    length, group = torch.tensor([9, 4, 4, 4, 4]), torch.tensor([1, 1, 1, 2, 2])
    signal = group == 1
    w = adora_weights(correct, length, group, normalize=signal)
    assert torch.allclose(w, torch.tensor([1.0, 1, 1, 0.5, 0.5]))
    assert torch.equal(
        adora_weights(correct, length, group, normalize=signal & ~signal), adora_weights(correct, length, group)
    )


def test_a_mean_of_nothing_stays():
    rows = tensors("mixed, longest right answer shorter")[:4]
    assert not adora_weights(*rows, criterion="length", mode="attenuate", weight=0, normalize="mean1").any()


def test_no_rows():
    none = torch.zeros(0, dtype=torch.int64)
    assert adora_weights(none.bool(), none, none).shape == (0,)


def test_how_often_the_length_criterion_holds_by_chance():
    known = {1: 0.50, 2: 0.72, 4: 0.89, 6: 0.91, 7: 0.87}
    for right, rate in known.items():
        assert longer_by_chance(right, 8 - right) == pytest.approx(rate, abs=CHANCE)
    z = torch.randn(100_000, 5, generator=torch.Generator().manual_seed(0))
    drawn = (z[:, :3].amax(1) > z[:, 3:].mean(1)).double().mean().item()
    assert longer_by_chance(3, 2) == pytest.approx(drawn, abs=SIMULATED)


GOOD = tensors("all right")[:3]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"correct": torch.ones(3)}, "correct is torch.float32"),
        ({"correct": torch.ones(2, dtype=torch.bool)}, "correct is"),
        ({"truncated": torch.ones(3)}, "truncated is"),
        ({"length": torch.tensor([3.0, float("nan"), 5.0])}, "row 1"),
        ({"length": torch.tensor([3, 0, 5])}, "length is 0"),
        ({"length": torch.tensor([3, 4, -5])}, "length is -5"),
        ({"group": torch.zeros(3)}, "group is torch.float32"),
        ({"tau": 1.5}, "tau is 1.5"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"weight": -0.1}, "weight is -0.1"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"criterion": "lenght"}, "unknown criterion"),
        ({"mode": "double"}, "unknown mode"),
        ({"preset": "repo"}, "unknown preset"),
        ({"no_valid_failure": "none"}, "unknown no_valid_failure"),
        ({"normalize": "mean"}, "unknown normalize"),
        ({"normalize": torch.ones(3)}, "one bool for each row"),
        ({"preset": "repo_text", "criterion": "either"}, "would be ignored"),
        ({"preset": "repo_vision", "tau": 0.4}, "would be ignored"),
        ({"preset": "repo_text", "no_valid_failure": "disadvantage"}, "would be ignored"),
    ],
)
def test_bad_input_is_named(change, match):
    given = dict(zip(("correct", "length", "group"), GOOD, strict=True))
    with pytest.raises(UserError, match=match):
        adora_weights(**(given | change))
