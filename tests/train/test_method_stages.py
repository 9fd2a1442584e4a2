"""ADORA, PF-PPO and D3S in the rl loop: in every subset, resumed, with a critic, and where nothing is left.

Whole groups come first (advantages, ADORA), then PF-PPO filters, then D3S selects.
"""

from itertools import combinations

import pytest
import rl_toys as toys
import torch

from steersman.core.errors import RunStopped, UserError
from steersman.core.types import Rollouts
from steersman.objective.components_adora import ADORA
from steersman.objective.components_advantage import GAE, GRPO, UniformCredit
from steersman.objective.components_d3s import D3S, PODS, D3SRows, D3STokens
from steersman.objective.components_filtration import PFPPO
from steersman.objective.components_policy import Clipped
from steersman.objective.select.groups import DynamicSampling
from steersman.objective.select.tokens import in_loss

LARGEST = 1e-5  # parameters of size 0.25 after two steps of 2e-3, sums in another order
STEPS = 2
PARTS = {
    "adora": [ADORA(criterion="difficulty", tau=0.7)],
    "pf_ppo": [PFPPO(strategy="br", zero_variance="random")],
    "d3s": [D3SRows(start=0.5, end=0.75), D3STokens(start=0.4, end=0.6)],
}
SUBSETS = [names for k in range(4) for names in combinations(PARTS, k)]
subsets = pytest.mark.parametrize("names", SUBSETS, ids=lambda names: "+".join(names) or "grpo")


def stages(names):
    """The stages of a subset in the combined order."""
    whole = [GRPO(), *(PARTS["adora"] if "adora" in names else []), UniformCredit()]
    return whole + [s for name in ("pf_ppo", "d3s") if name in names for s in PARTS[name]]


def method(names, **more):
    return {"stages": stages(names), "loss": Clipped(), **more}


def made(how, **changes):
    return toys.learner(how, total=STEPS, drawing=toys.drawing(samples=4), **changes)


def collected(learner):
    """Batches as they come out of collection, beside what a step tells."""
    found = []
    plain = learner._collect

    def collect(step, drawn):
        batch, told = plain(step, drawn)
        found.append(batch)
        return batch, told

    learner._collect = collect
    return found


@subsets
def test_two_steps_of_every_subset(names):
    learner = made(method(names))
    batches, before = collected(learner), toys.parameters(learner)
    told = [learner.step(i) for i in range(STEPS)]
    assert not torch.equal(toys.parameters(learner), before)
    for step, (batch, metrics) in enumerate(zip(batches, told, strict=True)):
        assert all(torch.isfinite(torch.as_tensor(x)).all() for x in metrics.values())
        assert metrics["tokens_trained"] == float(in_loss(batch).sum()) > 0
        rows, tokens = 16.0, metrics["tokens_generated"]
        if "pf_ppo" in names:
            assert metrics["pf_ppo/rows_in"] == rows
            rows, tokens = metrics["pf_ppo/rows_out"], metrics["pf_ppo/tokens_out"]
            assert rows == 2 * metrics["pf_ppo/groups_out"] == 8
        if "d3s" in names:
            share = (0.5, 0.75)[step]
            assert (metrics["d3s_rows/share"], metrics["d3s_rows/rows_in"]) == (share, rows)
            rows = metrics["d3s_rows/rows_out"]
            assert rows == share * metrics["d3s_rows/rows_in"]
            assert metrics["d3s_tokens/tokens_in"] == metrics["d3s_rows/tokens_out"] < tokens
            tokens = metrics["d3s_tokens/tokens_out"]
        if "adora" in names:
            assert metrics["adora/reweighted"] > 0
            assert metrics["adora/weight_mean"] > 1
        assert len(batch) == rows
        assert metrics["tokens_trained"] == tokens


@subsets
def test_order_of_rows_padding_and_micro_batches_do_not_matter(names):
    """Equal rewards are common here, so noise decides; it belongs to rows and not to places."""
    first = made(method(names))
    drawn = toys.record(first.engine)
    told = [first.step(i) for i in range(STEPS)]
    for change, micro in ((toys.shuffled, 4096), (toys.widened, 40)):
        other = made(method(names), micro=micro)
        toys.replay(other.engine, drawn, change)
        again = [other.step(i) for i in range(STEPS)]
        assert float((toys.parameters(first) - toys.parameters(other)).abs().max()) <= LARGEST
        assert [a["tokens_trained"] for a in again] == [t["tokens_trained"] for t in told]
    assert float((toys.parameters(first) - toys.parameters(made(method(names)))).abs().max()) > 50 * LARGEST


@subsets
def test_a_run_goes_on_as_if_it_had_not_stopped(names):
    straight = made(method(names, epochs=2))
    for i in range(STEPS):
        straight.step(i)
    begun, resumed = made(method(names, epochs=2)), made(method(names, epochs=2))
    begun.step(0)
    resumed.load_state_dict(begun.state_dict())  # inside a batch that serves two updates
    resumed.step(1)
    assert torch.equal(toys.parameters(resumed), toys.parameters(straight))


def test_methods_that_keep_everything_are_grpo():
    """Weight 1, no filter, all rows and all tokens: the same numbers to the last bit."""
    idle = [
        GRPO(),
        ADORA(weight=1.0),
        UniformCredit(),
        PFPPO(strategy="none"),
        D3SRows(start=1, end=1, scope="group"),
        D3STokens(start=1, end=1),
    ]
    plain, same = made(method(())), made({"stages": idle, "loss": Clipped()})
    for i in range(STEPS):
        assert float(plain.step(i)["loss/policy"]) == float(same.step(i)["loss/policy"])
    assert torch.equal(toys.parameters(plain), toys.parameters(same))


def test_entropies_are_asked_for_after_rows_are_dropped():
    learner = made(method(("pf_ppo", "d3s")))
    batches = collected(learner)
    told = learner.step(0)
    assert told["tokens_scored"] == float(batches[0].length.sum())
    assert len(batches[0]) < 16


def test_the_gradient_of_what_is_left_out_is_zero():
    """Training on the selection is training on a batch made of nothing else."""
    learner = made(method(("pf_ppo", "d3s")))
    batches = collected(learner)
    learner.engine.apply = lambda step, trains: {}
    learner.step(0)
    wanted = {n: p.grad.clone() for n, p in learner.engine.policy.named_parameters()}
    kept = in_loss(batches[0])
    noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
    changed = batches[0].with_streams(advantage=torch.where(kept, batches[0].streams["advantage"], 100 * noise))
    learner.engine.forget()
    learner._update(changed, 0, 0)
    for name, p in learner.engine.policy.named_parameters():
        assert torch.equal(p.grad, wanted[name])


@pytest.mark.parametrize("name", D3S)
def test_ablations_run(name):
    learner = made({"stages": [GRPO(), UniformCredit(), *D3S[name]], "loss": Clipped()})
    told = [learner.step(i) for i in range(STEPS)]
    assert all(0 < t["tokens_trained"] < t["tokens_generated"] for t in told)


def test_pods_runs_before_the_advantage():
    learner = made({"stages": [PODS(share=0.5), GRPO(), UniformCredit()], "loss": Clipped()})
    told = learner.step(0)
    assert (told["rows_kept"], told["pods/rows_out"], told["grpo/rows"]) == (8, 8, 8)


def test_a_critic_learns_from_what_the_filter_leaves():
    how = {"stages": [GAE(), PFPPO(strategy="bw", whiten="after", zero_variance="random")], "critic": True}
    learner = made({"loss": Clipped(), "minibatches": 2, **how})
    told = [learner.step(i) for i in range(STEPS)]
    assert told[0]["rows_kept"] == 8
    assert float(told[0]["loss/value"]) > 0
    assert all(t["skipped"] == 0 for t in told)


def test_refill_rounds_come_before_the_filter():
    parts = [DynamicSampling(rounds=3), *stages(tuple(PARTS))]
    learner = made({"stages": parts, "loss": Clipped()})
    told = learner.step(0)
    assert told["pf_ppo/groups_in"] <= told["dynamic_sampling/groups_out"] * told["rounds"]
    assert told["tokens_trained"] > 0


def test_a_threshold_that_leaves_nothing_skips_and_then_stops():
    nothing = [GRPO(), UniformCredit(), PFPPO(strategy="top", upper=2.0, most_empty=2), *PARTS["d3s"]]
    learner = made({"stages": nothing, "loss": Clipped()})
    before = toys.parameters(learner)
    told = learner.step(0)
    assert (told["skipped"], told["rows_kept"], told["tokens_trained"]) == (1, 0, 0)
    assert torch.equal(toys.parameters(learner), before)
    with pytest.raises(RunStopped, match="2 batches in a row"):
        learner.step(1)


class OneGrade(toys.ToyWorld):
    """Every response is worth the same."""

    def grade(self, rollouts: Rollouts, rows):
        graded = super().grade(rollouts, rows)
        graded.scores.value.fill_(0.5)
        return graded


def test_a_batch_without_a_signal_is_skipped():
    learner = made(method(("adora", "d3s")), world=OneGrade())
    told = learner.step(0)
    assert (told["skipped"], told["d3s_rows/silent"], told["d3s_rows/rows_out"]) == (1, 1, 0)


def test_a_grader_without_right_and_wrong_is_refused_before_any_compute():
    class OnlyScores(toys.ToyWorld):
        gives = ()

    with pytest.raises(UserError, match="ADORA reads 'correct'"):
        made(method(("adora",)), world=OnlyScores())
