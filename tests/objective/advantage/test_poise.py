"""POISE: who is paired with whom, that the gradient stays unbiased (exactly, by enumeration), and every fallback."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from steersman.core.component import Moment
from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.core.types import Rollouts
from steersman.objective.advantage.internal import PromptEnd, ReasoningEnd, moments, segments
from steersman.objective.advantage.poise import InternalValue, cross_rollout, leave_one_out_target

EXACT = 1e-12
"""Sums of a few float64 numbers of size 1."""
UNBIASED = 1e-9
BIASED = 3e-3
"""What the same test finds of a baseline that knows its own rollout, at least; the exact gradient has size 0.06."""
D = 3


@st.composite
def batches(draw):
    """Groups of 2 to 8 rows in any order, with scores and predictions."""
    sizes = draw(st.lists(st.integers(2, 8), min_size=1, max_size=4))
    group = draw(st.permutations([g * 7 + 1 for g, n in enumerate(sizes) for _ in range(n)]))
    number = st.floats(-3, 3, width=32)
    score, prediction = (draw(st.lists(number, min_size=len(group), max_size=len(group))) for _ in range(2))
    to = {"dtype": torch.float64}
    return torch.tensor(score, **to), torch.tensor(prediction, **to), torch.tensor(group)


@settings(max_examples=100, deadline=None)
@given(batches())
def test_every_row_is_compared_with_its_siblings_alone(batch):
    score, prediction, group = batch
    advantage, target = cross_rollout(score, prediction, group), leave_one_out_target(score, group)
    for i in range(len(group)):
        siblings = [j for j in range(len(group)) if j != i and group[j] == group[i]]
        assert float(advantage[i]) == pytest.approx(float(score[i] - prediction[siblings].mean()), abs=EXACT)
        assert float(target[i]) == pytest.approx(float(score[siblings].mean()), abs=EXACT)
    changed = score.clone()
    changed[0] += 1
    moved = (leave_one_out_target(changed, group) - target).abs() > EXACT
    assert not bool(moved[0])
    assert torch.equal(moved, (group == group[0]) & (torch.arange(len(group)) != 0))
    other = prediction.clone()
    other[0] += 1
    assert not bool((cross_rollout(score, other, group) - advantage)[0].abs() > EXACT)


def test_swapping_two_rollouts_swaps_their_baselines_and_a_changed_one_moves_the_other_only():
    group, score = torch.tensor([5, 5]), torch.tensor([1.0, 0.0])
    a, b = torch.tensor([0.25, 0.75]), torch.tensor([0.75, 0.25])
    assert (score - cross_rollout(score, a, group)).tolist() == [0.75, 0.25]
    assert (score - cross_rollout(score, b, group)).tolist() == [0.25, 0.75]
    assert (score - cross_rollout(score, torch.tensor([0.5, 0.75]), group)).tolist() == [0.75, 0.5]
    assert cross_rollout(torch.ones(2), a, group).tolist() == [0.25, 0.75]  # a group of equal scores is not silent


def test_rows_that_are_not_valid_are_in_nothing():
    group, valid = torch.tensor([1, 1, 1]), torch.tensor([True, True, False])
    score, prediction = torch.tensor([1.0, 0.0, torch.nan]), torch.tensor([0.5, 0.25, torch.nan])
    assert cross_rollout(score, prediction, group, valid).tolist() == [0.75, -0.5, 0.0]
    assert leave_one_out_target(score, group, valid).tolist() == [0.0, 1.0, 0.5]


@pytest.mark.parametrize("group", [[1], [1, 1, 2], [1, 1, 1, 3]])
def test_a_rollout_without_a_sibling_is_refused(group):
    n, group = len(group), torch.tensor(group)
    zero = torch.zeros(n)
    for call in (lambda: cross_rollout(zero, zero, group), lambda: leave_one_out_target(zero, group)):
        with pytest.raises(UserError, match=rf"row {n - 1}: it is the only rollout of its prompt"):
            call()


def test_a_rollout_whose_siblings_are_not_valid_is_refused():
    group, valid = torch.tensor([1, 1, 1]), torch.tensor([False, True, False])
    with pytest.raises(UserError, match=r"row 1: .* pairing needs two"):
        cross_rollout(torch.zeros(3), torch.zeros(3), group, valid)


# Features -------------------------------------------------------------------------------------------------------------


def made(ids, prompt, length=None, **known):
    ids = torch.tensor(ids)
    length = torch.tensor(length or [ids.shape[1]] * len(ids))
    return Rollouts.of(ids, length, torch.tensor(prompt), **known)


def test_spans_never_touch_the_prompt_the_padding_or_the_answer():
    rows = made([[1, 2, 3, 4, 9, 5, 8, 0], [1, 2, 3, 4, 5, 6, 7, 7], [9, 8, 9, 3, 9, 8, 3, 8]], [2, 7, 1], [7, 8, 8])
    column = torch.arange(8)
    found = [
        [column[row].tolist() for row in PromptEnd(3)(rows)],
        [column[r].tolist() for r in ReasoningEnd(2, (9,))(rows)],
    ]
    assert found == [[[0, 1], [4, 5, 6], [0]], [[2, 3], [7], [1]]]
    assert [column[row].tolist() for row in PromptEnd(3, predicted=True)(rows)] == [[1], [4, 5, 6], []]
    reasoning, answer, ended = segments(rows, (9, 8))
    assert ended.tolist() == [False, False, True]  # row 2's prompt has one, too, which is no end
    assert [column[row].tolist() for row in reasoning] == [[2, 3, 4, 5, 6], [7], [1, 2, 3]]
    assert [column[row].tolist() for row in answer] == [[], [], [6, 7]]
    assert column[ReasoningEnd(9)(rows)[0]].tolist() == [2, 3, 4, 5, 6]
    assert not bool(segments(made([[1, 9]], [1]), (9, 9, 9))[2].any())


def test_forced_tokens_are_no_reasoning():
    forced = torch.zeros(1, 6, dtype=torch.bool)
    forced[0, 3] = True
    rows = made([[1, 2, 3, 9, 9, 5]], [1], forced=forced)
    reasoning, answer, ended = segments(rows, (9,))
    assert torch.arange(6)[reasoning[0]].tolist() == [1, 2]
    assert torch.arange(6)[answer[0]].tolist() == [5]
    assert ended.tolist() == [True]


def test_moments_are_of_the_tokens_that_count():
    entropy = torch.tensor([[torch.nan, 1.0, 3.0, 5.0], [torch.nan] * 4])
    mask = torch.tensor([[False, True, True, False], [False] * 4])
    assert moments(entropy, mask).tolist() == [[2.0, 1.0, 3.0], [0.0, 0.0, 0.0]]


def with_streams(rows, seed=0):
    """Rows with random hidden states and entropies."""
    draw = generator(seed, "streams")

    def tensor(*shape):
        return torch.from_numpy(draw.normal(size=shape)).float()

    n, width = rows.ids.shape
    streams = {"hidden_prompt": tensor(n, D), "hidden_reasoning": tensor(n, D), "entropy": tensor(n, width).abs()}
    return rows.with_streams(**streams, entropy_prompt=tensor(n).abs())


@pytest.mark.parametrize(("entropy", "more"), [("moments", 3), ("segments", 5)])
def test_features_are_two_states_and_entropies(entropy, more):
    rows = with_streams(made([[1, 2, 3, 9, 5], [1, 2, 3, 4, 5]], [2, 1]))
    probe = InternalValue(entropy=entropy, reasoning_end=(9,))
    phi = probe.features_of(rows)
    assert phi.shape == (2, 2 * D + more)
    assert torch.equal(phi[:, :D], rows.streams["hidden_prompt"])
    assert torch.equal(phi[:, D : 2 * D], rows.streams["hidden_reasoning"])
    spread = rows.streams["entropy"].double()
    if entropy == "segments":
        wanted = [spread[0, 2].item(), spread[0, 4].item(), 1.0, 1.0]
        assert phi[0, 2 * D + 1 :].tolist() == pytest.approx(wanted)
        assert phi[1, 2 * D + 1 :].tolist() == pytest.approx([float(spread[1, 1:].mean()), 0.0, 1.0, 0.0])
    assert [p.stream for p in probe.passes()] == [
        "hidden_prompt", "hidden_reasoning", *(["entropy_prompt"] if entropy == "segments" else []),
    ]  # fmt: skip
    assert InternalValue(features=("prompt",)).needs == ()


def test_no_gradient_flows_through_features():
    known = {"group": torch.tensor([0, 0]), "reward": torch.tensor([0.0, 1.0])}
    rows = with_streams(made([[1, 2, 3], [1, 2, 3]], [1, 1], **known))
    states = rows.streams["hidden_prompt"].requires_grad_()
    out, _ = InternalValue()(rows.with_streams(hidden_prompt=states))
    assert not out.streams["advantage_row"].requires_grad


# The gradient of an enumerable policy ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """An easy and a hard prompt with a few responses: probabilities, rewards, features; each is one token long.

    The features are such that a probe can tell the reward of the very response they are of.
    """

    p: torch.Tensor
    reward: torch.Tensor
    phi: torch.Tensor

    @classmethod
    def of(cls, prompts=2, responses=3):
        draw = generator(3, "world")
        reward = torch.from_numpy((draw.random((prompts, responses)) < 0.5).astype(float))
        reward[:, 0], reward[:, 1] = 1.0, 0.0
        easy = torch.where(torch.arange(prompts) % 2 == 0, 1.5, -1.5)[:, None]
        p = (torch.from_numpy(draw.normal(size=(prompts, responses))) + easy * reward).softmax(1)
        noise = torch.from_numpy(draw.normal(size=(prompts, responses, D)))
        return cls(p, reward, torch.cat([reward[..., None] + 0.3 * noise[..., :1], noise[..., 1:]], 2))

    def score_function(self, x, y):
        """Gradient of log p(y | x) with respect to the logits of all prompts."""
        grad = torch.zeros_like(self.p)
        grad[x] = -self.p[x]
        grad[x, y] += 1
        return grad

    def exact(self):
        """Gradient of the mean expected reward over prompts."""
        return self.p * (self.reward - (self.p * self.reward).sum(1, keepdim=True)) / len(self.p)

    def rollouts(self, x, y, group, **known):
        """Rows with a state of the reasoning, one of the prompt, which is the same in all its rows, and the reward."""
        n = len(x)
        phi = self.phi[x, y].float()
        prompt = self.phi[x].mean(1).float()
        rows = Rollouts.of(torch.zeros(n, 2, dtype=torch.int64), torch.full((n,), 2), torch.ones(n, dtype=torch.int64))
        streams = {"hidden_reasoning": phi, "hidden_prompt": prompt}
        return replace(rows, group=group, reward=self.reward[x, y], streams=streams, **known)


def every_draw(responses, k):
    return torch.cartesian_prod(*[torch.arange(responses)] * k).view(-1, k)


def expected_gradient(world, stage, k, fallback=0.0):
    """E over all draws of k responses of every prompt of the mean of A_i grad log p(y_i | x_i), each draw a batch.

    `stage` is called on every possible batch with the memory it has now.
    """
    prompts, responses = world.p.shape
    draws = every_draw(responses, prompts * k)
    x = torch.arange(prompts).repeat_interleave(k)
    total = torch.zeros_like(world.p)
    for y in draws:
        probability = world.p[x, y].prod()
        out, told = copy.deepcopy(stage)(world.rollouts(x, y, x), Moment(step=10))
        assert told["fallback"] == fallback
        advantage = out.streams["advantage_row"]
        grads = torch.stack([world.score_function(int(a), int(b)) for a, b in zip(x, y, strict=True)])
        total += probability * (advantage[:, None, None] * grads).mean(0)
    return total


def taught(world, **options):
    """A stage that has seen some batches of the world."""
    stage = InternalValue(**{"features": ("reasoning",), "min_examples": 8, **options})
    draw = generator(5, "past")
    for step in range(3):
        x = torch.arange(len(world.p)).repeat_interleave(8)
        y = (torch.from_numpy(draw.random((len(x), 1))) > world.p.cumsum(1)[x, :-1]).sum(1)
        stage(world.rollouts(x, y, torch.arange(len(x)) // 2), Moment(step=step))
    stage._r2 = 1.0  # the probe is used, whatever it was worth
    return stage


FAIR = {
    "pairs": ({}, 2),
    "cold": ({"min_examples": 1000}, 2),
    "three rollouts": ({}, 3),
    "blend": ({"blend": True}, 3),
    "blend of pairs": ({"blend": True}, 2),
    "fixed penalty": ({"alpha": 0.01}, 2),
    "projected": ({"pca": (2, 2)}, 2),
}
LEAKING = {"own rollout": {"pairing": "own"}, "refit before use": {"refit": "before", "alpha": 0.01}}


@pytest.mark.parametrize(("options", "k"), FAIR.values(), ids=FAIR)
def test_the_expected_gradient_is_the_exact_one(options, k):
    world = World.of(prompts=1 if k == 3 else 2)
    stage = taught(world, **{k: v for k, v in options.items() if k != "min_examples"})
    if "min_examples" in options:
        stage = InternalValue(features=("reasoning",), **options)
    assert float((expected_gradient(world, stage, k) - world.exact()).abs().max()) <= UNBIASED


@pytest.mark.parametrize("options", LEAKING.values(), ids=LEAKING)
def test_a_baseline_that_knows_the_rollout_is_biased_by_the_same_test(options):
    world = World.of()
    stage = taught(world, **options)
    assert float((expected_gradient(world, stage, 2) - world.exact()).abs().max()) >= BIASED


@pytest.mark.parametrize("k", [1, 2])
def test_features_of_the_prompt_give_the_exact_gradient_with_one_response_and_with_pairs(k):
    world = World.of()
    stage = taught(world, features=("prompt",))
    x = torch.arange(len(world.p)).repeat_interleave(k)
    out, told = copy.deepcopy(stage)(world.rollouts(x, torch.zeros_like(x), x), Moment(step=10))
    assert told["cold"] == told["fallback"] == told["alone"] == 0  # so the probe is what is tested
    baseline = 1 - out.streams["advantage_row"]
    assert float(baseline[0] - baseline[-1]) > 0.1  # and it tells the easy prompt from the hard one
    assert float((expected_gradient(world, stage, k) - world.exact()).abs().max()) <= UNBIASED


def test_features_of_the_prompt_refitted_before_use_are_biased_by_the_same_test():
    world = World.of()
    stage = taught(world, features=("prompt",), refit="before", alpha=0.01)
    assert float((expected_gradient(world, stage, 1) - world.exact()).abs().max()) >= BIASED


def test_the_fallback_and_prompts_alone_are_unbiased_too():
    world = World.of()
    stage = taught(world)
    stage._r2 = -1.0
    gap = expected_gradient(world, stage, 2, fallback=1.0) - world.exact()
    assert float(gap.abs().max()) <= UNBIASED
    prompt_only = replace(world, phi=world.phi[:, :1].expand(-1, world.p.shape[1], -1))
    stage = taught(prompt_only, pairing="own")  # a feature of the prompt alone may be a row's own
    gap = expected_gradient(prompt_only, stage, 2) - world.exact()
    assert float(gap.abs().max()) <= UNBIASED


# The stage ------------------------------------------------------------------------------------------------------------


def batch(seed, groups=40, k=2, **known):
    """Prompts whose value is a function of the prompt state, rewards drawn by it."""
    draw = generator(seed, "batch")
    state = torch.from_numpy(draw.normal(size=(groups, D))).float()
    value = torch.sigmoid(3 * state[:, 0])
    group = torch.arange(groups).repeat_interleave(k)
    reward = (torch.from_numpy(draw.random(groups * k)) < value[group]).double()
    n = groups * k
    rows = Rollouts.of(torch.ones(n, 4, dtype=torch.int64), torch.full((n,), 4), torch.ones(n, dtype=torch.int64))
    rows = with_streams(replace(rows, group=group, reward=reward), seed)
    return replace(rows.with_streams(hidden_prompt=state[group]), **known)


def test_the_probe_learns_between_batches_and_says_so():
    stage, told = InternalValue(alpha="auto", min_examples=64), []
    for step in range(6):
        rows = batch(step)
        out, metrics = stage(rows, Moment(step=step))
        told.append(metrics)
        assert out.streams["advantage_row"].dtype == torch.float64
    assert [t["cold"] for t in told] == [1.0] + [0.0] * 5
    assert [t["examples"] for t in told] == [0, 80, 160, 240, 320, 320]  # four batches of 80
    assert told[-1]["r2"] > 0.2
    assert told[-1]["variance_reduction"] > 0.2
    assert told[-1]["fallback"] == 0.0
    assert told[-1]["alpha"] >= 0.01


def test_the_baseline_is_what_a_refit_from_scratch_of_the_last_batches_predicts():
    stage, past = InternalValue(buffer_steps=2, min_examples=10), []
    for step in (0, 3, 7):
        rows = batch(step)
        stage(rows, Moment(step=step))
        past.append((stage.features_of(rows), leave_one_out_target(rows.reward, rows.group)))
    fresh, rows = InternalValue(buffer_steps=9), batch(11)
    for phi, target in past[-2:]:
        fresh.update(phi, target)
    out, _ = stage(rows, Moment(step=8))
    wanted = cross_rollout(rows.reward, fresh.predict(stage.features_of(rows)), rows.group)
    assert float((out.streams["advantage_row"] - wanted).abs().max()) <= EXACT


def test_a_restored_stage_goes_on_exactly():
    stage = InternalValue(blend=True, min_examples=10)
    for step in range(3):
        stage(batch(step), Moment(step=step))
    again = InternalValue(blend=True, min_examples=10)
    again.load_state_dict(stage.state_dict())
    for step in (3, 4):
        one, two = (s(batch(step), Moment(step=step)) for s in (stage, again))
        assert torch.equal(one[0].streams["advantage_row"], two[0].streams["advantage_row"])
        assert one[1] == two[1]
    assert InternalValue().state_dict() == {}
    again.load_state_dict({})
    with pytest.raises(UserError, match="before its first fit"):
        again.predict(torch.zeros(1, 9))


def test_a_copy_does_not_share_what_it_learns():
    stage = InternalValue(min_examples=10)
    stage(batch(0), Moment(step=0))
    other = stage.model_copy()
    other(batch(1), Moment(step=1))
    assert len(stage.state_dict()["y"]) == 80
    assert len(other.state_dict()["y"]) == 160


def test_where_the_probe_explains_nothing_the_next_baseline_is_the_mean_in_memory():
    stage, found = InternalValue(min_examples=10, alpha=0.01), []
    for step in range(8):  # rewards that have nothing to do with the features
        mean = float(stage.state_dict()["y"].mean()) if step else None
        rows = batch(step)
        reward = torch.from_numpy(generator(step, "coin").integers(2, size=len(rows))).double()
        out, told = stage(replace(rows, reward=reward), Moment(step=step))
        found.append(told)
        if told["fallback"]:
            break
    assert found[-2]["r2"] <= 0
    assert all(t["r2"] > 0 for t in found[1:-2])
    assert (reward - out.streams["advantage_row"]).unique().tolist() == pytest.approx([mean], abs=EXACT)


def test_the_first_baseline_is_the_mean_of_the_other_prompts():
    rows = batch(0, groups=3)
    out, told = InternalValue()(rows)
    baseline = rows.reward - out.streams["advantage_row"]
    for i in range(6):
        assert float(baseline[i]) == pytest.approx(float(rows.reward[rows.group != rows.group[i]].mean()), abs=EXACT)
    assert told["cold"] == 1.0
    alone, _ = InternalValue()(batch(0, groups=1))
    assert torch.equal(alone.streams["advantage_row"], batch(0, groups=1).reward)


def test_rewards_that_are_all_equal_give_advantages_of_exactly_nothing():
    stage = InternalValue(min_examples=10)
    for step in range(3):
        rows = batch(step)
        out, told = stage(replace(rows, reward=torch.ones_like(rows.reward)), Moment(step=step))
    assert float(out.streams["advantage_row"].abs().max()) <= EXACT
    assert "r2" not in told


def test_a_row_that_is_not_valid_is_no_target_and_its_sibling_falls_back():
    stage = InternalValue(min_examples=10)
    stage(batch(0), Moment(step=0))
    rows = batch(1)
    valid = torch.arange(80) != 1
    reward = torch.where(valid, rows.reward, torch.nan)
    out, told = stage(replace(rows, valid=valid, reward=reward), Moment(step=1))
    advantage, first = out.streams["advantage_row"], stage.state_dict()["y"][:80]
    assert float(advantage[1]) == 0.0
    assert float(reward[0] - advantage[0]) == pytest.approx(float(first.mean()), abs=EXACT)
    assert told["alone"] == pytest.approx(1 / 79)
    assert len(stage.state_dict()["y"]) == 80 + 78
    assert bool(torch.isfinite(advantage).all())


def test_one_rollout_of_a_prompt_is_enough_for_features_of_the_prompt():
    stage = InternalValue(features=("prompt",), min_examples=30)
    for step in range(5):
        _, told = stage(batch(step, k=1), Moment(step=step))
    assert told["r2"] > 0
    assert len(stage.state_dict()["y"]) == 160
    more = InternalValue(features=("prompt",), min_examples=30)
    more(batch(0, k=3), Moment(step=0))
    assert len(more.state_dict()["y"]) == 40  # an example a prompt, its mean reward
    with pytest.raises(UserError, match=r"row 0: it is the only rollout of prompt 0.*\n.*features = "):
        InternalValue()(batch(0, k=1))


def test_scores_that_are_not_zero_or_one():
    rows = batch(0)
    wide = replace(rows, reward=rows.reward * 8 - 3)
    with pytest.raises(UserError, match=r"its score is .*\n.*allowed: 0 to 1, as clip says"):
        InternalValue()(wide)
    for clip, low, high in (("observed", -3, 5), ((-3, 5), -3, 5), (None, None, None)):
        stage = InternalValue(clip=clip, min_examples=10, alpha=0.01)
        stage(wide, Moment(step=0))
        far = 100 * torch.ones(2, 2 * D + 3) * torch.tensor([[1.0], [-1.0]])
        found = stage.predict(far)
        if low is None:
            assert float(found.abs().max()) > 8
        else:
            assert {float(x) for x in found} == {low, high}


def test_responses_without_an_end_of_reasoning_are_counted():
    rows = batch(0)
    ids = rows.ids.clone()
    ids[:20, 2] = 9
    _, told = InternalValue(reasoning_end=(9,))(replace(rows, ids=ids))
    assert told["unfinished_share"] == 0.75
    assert "unfinished_share" not in InternalValue()(rows)[1]


def test_a_batch_without_a_row_teaches_nothing():
    stage = InternalValue()
    out, told = stage(batch(0).index(slice(0, 0)))
    assert out.streams["advantage_row"].shape == (0,)
    assert told == {}
    assert stage.state_dict() == {}


def test_bad_settings_and_bad_examples_are_refused():
    for wrong in ({"features": ()}, {"features": ("prompt", "prompt")}, {"clip": (1, 0)}, {"alpha": 0}, {"layer": -1}):
        with pytest.raises(ValidationError):
            InternalValue(**wrong)
    stage = InternalValue()
    stage.update(torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(UserError, match="5 features a row, the examples have 4"):
        stage.update(torch.zeros(2, 5), torch.zeros(2))
    with pytest.raises(UserError, match=r"targets \(3,\)"):
        stage.update(torch.zeros(2, 4), torch.zeros(3))
    stage.update(torch.zeros(2, 4), torch.zeros(2), step=4)
    with pytest.raises(UserError, match="step 0 comes after step 4"):
        stage.update(torch.zeros(2, 4), torch.zeros(2), step=0)


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (torch.zeros(2, 5), "5 features a row, the examples have 4"),
        (torch.zeros(4), r"features are \(4,\).*\[N, 4\]"),
        (torch.tensor([[0.0] * 4, [0.0, torch.nan, 0.0, 0.0]]), "row 1: a feature is nan"),
        (torch.tensor([[torch.inf] * 4, [0.0] * 4]), "row 0: a feature is inf"),
    ],
)
def test_features_that_cannot_be_read_are_refused_and_nothing_is_changed(phi, message):
    stage = InternalValue()
    draw = generator(2, "examples")
    good = torch.from_numpy(draw.normal(size=(12, 4))).float()
    stage.update(good, (good[:, 0] > 0).double())
    before, said = stage.state_dict(), stage.predict(good)
    with pytest.raises(UserError, match=f"(?s){message}"):
        stage.predict(phi)
    if phi.ndim == 2:
        with pytest.raises(UserError, match=message):
            stage.update(phi, torch.zeros(2))
    with pytest.raises(UserError, match="row 1: the target is nan"):
        stage.update(good[:2], torch.tensor([0.0, torch.nan]))
    assert all(torch.equal(before[k], stage.state_dict()[k]) for k in ("x", "y", "step", "group"))
    assert torch.equal(stage.predict(good), said)


def test_features_of_rows_that_are_not_valid_are_not_looked_at():
    stage = InternalValue(min_examples=8)
    stage(batch(0), Moment(step=0))
    rows = batch(1)
    valid = torch.arange(len(rows)) != 3
    streams = {k: torch.where(valid.view(-1, *[1] * (x.ndim - 1)), x, torch.nan) for k, x in rows.streams.items()}
    out, _ = stage(replace(rows, valid=valid, streams=streams), Moment(step=1))
    assert bool(torch.isfinite(out.streams["advantage_row"]).all())
