"""What every component must do, whatever it computes: one case for each, one battery for all.

A new component adds one entry to `CASES` (how to call it, on which inputs) and inherits the tests.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from steersman.core.component import Component, Stage
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts
from steersman.objective import components as objective
from steersman.objective import components_advantage as advantage
from steersman.objective import components_d3s as d3s
from steersman.objective import components_policy as policy
from steersman.objective import components_reward as reward
from steersman.objective.advantage.poise import InternalValue
from steersman.objective.components_adora import ADORA
from steersman.objective.components_credit import ContrastiveCredit
from steersman.objective.components_filtration import PFPPO
from steersman.objective.components_tip import SelectTokens
from steersman.objective.components_weight import RewardWeight
from steersman.objective.select import rows as select_rows
from steersman.objective.select.groups import DynamicSampling
from steersman.objective.select.tokens import TopEntropy

FLOAT32 = 1e-6  # a permuted batch may be summed in another order

H = torch.tensor([1.5, -1.0, 0.0, 40.0, -40.0, 0.3])
LABEL = torch.tensor([1.0, 1.0, 0.5, 0.0, 1.0, 0.8])
LIKED = torch.tensor([True, False, True, True, False, False])
LOGP = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, 0.0, -9.0]] * 3)
MASK = torch.tensor([[True, True, False], [False, False, False]] * 3)
OLD = torch.tensor([[-1.2, -1.0, -0.5], [-0.3, -2.0, -9.0]] * 3)
SIGNED = torch.tensor([[1.0, -2.0, 0.5], [0.0, -1.0, 3.0], [-0.7, 0.2, 1.0]] * 2)
GROUP = torch.tensor([5, 9, 5, 5, 9, 1])


@dataclass(frozen=True)
class Case:
    """A component, its batched inputs (dimension 0 is the batch), how to call it, and what must be refused.

    `outputs` = "N": one value for each row; "scalar": one value for the batch. `degenerate`: inputs at the edge of
    sense (identical sides, nothing to average) for which the result must still be finite.
    """

    component: Component
    inputs: tuple[torch.Tensor, ...]
    degenerate: tuple[torch.Tensor, ...]
    bad_field: dict[str, Any]
    call: Callable[..., torch.Tensor]
    outputs: str = "N"


def pair_loss(component: Component, bad: dict[str, Any]) -> Case:
    same = (torch.zeros(3), torch.full((3,), 0.5))
    return Case(component, (H, LABEL), same, bad, lambda c, h, label: c(h, label))


def policy_loss(component: Component, bad: dict[str, Any]) -> Case:
    same = (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    inputs = (LOGP, OLD, SIGNED, MASK)
    return Case(component, inputs, same, bad, lambda c, p, old, a, mask: c(p, old, a, mask))


def batch(reward: torch.Tensor, group: torch.Tensor, **streams: torch.Tensor) -> Rollouts:
    """Graded rows of one action (groups 1, 5, 9) or three, the latter cut; those of group 9 are not valid."""
    n = len(reward)
    long = group % 4 != 1
    length = torch.where(long, 3, 1)
    known = {"group": group, "reward": reward, "valid": group != 9, "stop": torch.where(long, STOP_LENGTH, STOP_EOS)}
    ids = torch.zeros(n, 3, dtype=torch.int64)
    return Rollouts.of(ids, length, torch.zeros(n, dtype=torch.int64), **known, streams=streams)


def row_stage(component: Stage, bad: dict[str, Any], stream: str = "advantage_row") -> Case:
    """A stage from rewards and groups to a stream; one with a value a token is summed over the row."""

    def call(stage: Stage, reward: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        out = stage(batch(reward, group))[0].streams[stream]
        return out if out.ndim == 1 else out.sum(1)

    same = (torch.full((3,), 0.1), torch.tensor([2, 2, 7]))
    return Case(component, (H, GROUP), same, bad, call)


def token_stage(component: Stage, bad: dict[str, Any], needs: str, gives: str = "advantage") -> Case:
    """A stage whose first input is the stream `needs`, beside rewards and log-probabilities."""

    def call(stage: Stage, x: torch.Tensor, reward: torch.Tensor, group: torch.Tensor, old: torch.Tensor):
        streams = {"logp_old": old, "logp_ref": old - 0.1, "value_end": old[:, 0], needs: x}
        return stage(batch(reward, group, **streams))[0].streams[gives]

    same = (torch.zeros(2, 3), torch.zeros(2), torch.tensor([3, 3]), torch.zeros(2, 3))
    return Case(component, (SIGNED, H, GROUP, OLD), same, bad, call)


def weighed(stage: Stage, logp: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Weighted log-probabilities, the form in which token weights meet a gradient; every second row was cut."""
    n = len(logp)
    rows = Rollouts.of(
        torch.zeros(n, 3, dtype=torch.int64),
        torch.full((n,), 3),
        torch.zeros(n, dtype=torch.int64),
        stop=torch.where(old[:, 0] > -1, STOP_LENGTH, STOP_EOS),
        logp_behaviour=logp.detach(),
        streams={"logp_old": old, "advantage": old + 1.1, "entropy": -old, "divergence": old.square()},
    )
    return stage(rows)[0].streams["token_weight"] * logp


def weighing(component: Stage, bad: dict[str, Any]) -> Case:
    return Case(component, (LOGP, OLD), (torch.zeros(2, 3), torch.zeros(2, 3)), bad, weighed)


def kept(stage: Stage, score: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """The scores of the rows that a stage keeps, 0 for those that it drops; positive scores are correct."""
    rows = replace(batch(score, group), correct=score.detach() > 0, version=torch.arange(len(score)))
    rows = rows.with_streams(advantage=score[:, None].expand(-1, 3)) if "advantage" in stage.needs else rows
    left = stage(rows)[0].version
    return score * torch.zeros(len(score)).index_fill(0, left, 1.0)


def reweighted(stage: ADORA, row: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """The advantages of rows after the weights of their groups; positive ones are correct."""
    rows = replace(batch(row, group, advantage_row=row), correct=row.detach() > 0)
    return stage(rows)[0].streams["advantage_row"]


def told(stage: Stage, pos: torch.Tensor, other: torch.Tensor, row: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Log-probabilities weighed by the advantages of tokens after the evidence of two answers."""
    streams = {"advantage_row": row, "logp_teacher": pos, "logp_teacher_wrong": other}
    return stage(batch(row, group, **streams))[0].streams["advantage"] * pos


def credited(stage: advantage.UniformCredit, row: torch.Tensor) -> torch.Tensor:
    rows = batch(torch.zeros(len(row)), torch.zeros(len(row), dtype=torch.int64), advantage_row=row)
    return stage(rows)[0].streams["advantage"].mean(1)


def valued(stage: InternalValue, reward: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Advantages by what a copy of the stage learnt from a few prompts; it forgets them again."""
    fresh = stage.model_copy()
    fresh.update(SIGNED, H)
    state = torch.stack([reward, reward.square(), group.float()], 1).detach()
    return fresh(batch(reward, group, hidden_prompt=state))[0].streams["advantage_row"]


CASES = {
    "contrastive_credit": Case(
        ContrastiveCredit(negative="none", eps_w=0.9),
        (LOGP, OLD, H, GROUP),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2), torch.tensor([2, 2])),
        {"lam": 1.1},
        told,
    ),
    "dpo": pair_loss(objective.DPO(), {"beta": 0.0}),
    "cdpo": pair_loss(objective.CDPO(flip_rate=0.3), {"flip_rate": 0.5}),
    "rdpo": pair_loss(objective.RDPO(flip_rate=0.49), {"flip_rate": -0.1}),
    "rdpo guarded": pair_loss(objective.RDPO(beta=1.0, max_margin=3.0, clip_weight=1.0), {"max_margin": 0.0}),
    "ipo": pair_loss(objective.IPO(), {"tau": -1.0}),
    "ripo": pair_loss(objective.RIPO(), {"flip_rate": float("nan")}),
    "slic": pair_loss(objective.SLiC(beta=0.3), {"beta": float("inf")}),
    "rslic": pair_loss(objective.RSLiC(), {"flip_rate": "often"}),
    "probit": pair_loss(objective.Probit(beta=1.0, flip_rate=0.2), {"beta": -1.0}),
    "forward": pair_loss(objective.ForwardCorrectedDPO(beta=1.0), {"flip_rate": 0.7}),
    "kto": Case(
        objective.KTO(weight_desirable=1.2),
        (H, LIKED),
        (torch.zeros(3), torch.zeros(3, dtype=torch.bool)),
        {"weight_desirable": -1.0},
        lambda c, g, liked: c(g, liked, 0.4),
    ),
    "bradley_terry": Case(
        objective.BradleyTerry(margin=0.5, centering=0.01, correction="unbiased", flip_rate=0.2),
        (H, H.flip(0), LABEL),
        (torch.zeros(3), torch.zeros(3), torch.full((3,), 0.5)),
        {"correction": "none"},
        lambda c, first, second, label: c(first, second, label),
    ),
    "sft": Case(objective.SFT(), (LOGP,), (torch.zeros(1, 1),), {"beta": 1.0}, lambda c, logp: c(logp)),
    "aggregation": Case(
        objective.Aggregation(mode="seq_sum_const", constant=3.0),
        (LOGP, MASK),
        (torch.full((2, 3), float("nan")), torch.zeros(2, 3, dtype=torch.bool)),
        {"constant": None},
        lambda c, loss, mask: c(loss, mask),
        outputs="scalar",
    ),
    "reinforce": policy_loss(policy.Reinforce(), {"kind": "other"}),
    "clipped": policy_loss(policy.Clipped(dual=3.0), {"eps_low": 1.5}),
    "gspo": policy_loss(policy.GSPO(), {"eps_high": -0.1}),
    "cispo": policy_loss(policy.CISPO(), {"cap": 0.0}),
    "sapo": policy_loss(policy.SAPO(), {"tau_neg": float("inf")}),
    "clipped_value": Case(
        policy.ClippedValue(),
        (SIGNED, LOGP, OLD),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)),
        {"clip": 0.0},
        lambda c, value, old, returns: c(value, old, returns),
    ),
    "kl_loss": Case(
        policy.KLLoss(),
        (LOGP, OLD),
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        {"estimator": "k4"},
        lambda c, logp, ref: c(logp, ref, ref - 0.1),
    ),
    "importance": weighing(policy.ImportanceCorrection(mode="sequence_mask", high=3.0, low=0.1), {"high": 0.5}),
    "overlong_filter": weighing(select_rows.OverlongFilter(), {"exclude_from_group": "perhaps"}),
    "off_policy_mask": weighing(select_rows.OffPolicyMask(delta=0.1), {"delta": -0.1}),
    "top_entropy": weighing(TopEntropy(keep=0.4), {"keep": 0.0}),
    "reward_weight": Case(
        RewardWeight(temperature=0.5),
        (H, GROUP),
        (torch.full((3,), 0.1), torch.tensor([2, 2, 7])),
        {"temperature": 0.0},
        lambda c, reward, group: c(batch(reward, group))[0].weight * reward,
    ),
    "select_tokens": Case(
        SelectTokens(keep=0.4),
        (LOGP, OLD + 0.01 * torch.arange(18.0).view(6, 3)),  # equal scores go to the noise of a row's group
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        {"mode": "best"},
        weighed,
    ),
    "d3s_tokens": weighing(d3s.D3STokens(start=0.5, end=0.5), {"score": "length"}),
    "d3s_rows": Case(
        d3s.D3SRows(start=0.6, denominator="full"),
        (H, GROUP),
        (torch.full((3,), 0.1), torch.tensor([2, 2, 7])),
        {"end": 0.0},
        kept,
    ),
    "pods": Case(d3s.PODS(share=0.5), (H, GROUP), (torch.ones(3), torch.tensor([2, 2, 7])), {"share": 1.5}, kept),
    "pf_ppo": Case(
        PFPPO(strategy="bw", zero_variance="keep_all"),
        (H, GROUP),
        (torch.ones(3), torch.tensor([2, 2, 7])),
        {"upper": 0.5},
        kept,
    ),
    "adora": Case(
        ADORA(permuted=True, criterion="difficulty", normalize="mean1"),
        (H, GROUP),
        (torch.zeros(3), torch.tensor([2, 2, 7])),
        {"weight": -0.1},
        reweighted,
    ),
    "dynamic_sampling": Case(
        DynamicSampling(short="stop"), (H, GROUP), (torch.ones(3), torch.tensor([2, 2, 7])), {"rounds": 0}, kept
    ),
    "grpo": row_stage(advantage.GRPO(), {"scale": "rows"}),
    "grpo by batch": row_stage(advantage.GRPO(scale="batch"), {"eps": -1.0}),
    "rloo": row_stage(advantage.RLOO(), {"kind": "other"}),
    "opo": row_stage(advantage.OPO(), {"kind": "other"}),
    "passk": row_stage(advantage.PassK(), {"eps": float("nan")}),
    "baseline": row_stage(advantage.Baseline(), {"value": "group_mean"}),
    "baseline constant": row_stage(advantage.Baseline(value=0.25), {"value": float("inf")}),
    "internal_value": Case(
        InternalValue(features=("prompt",), clip="off", min_examples=6, blend=True),
        (H, GROUP),
        (torch.full((3,), 0.1), torch.tensor([2, 2, 7])),
        {"pool": 0},
        valued,
    ),
    "reinforce_pp_baseline": row_stage(advantage.ReinforcePPBaseline(), {"kind": "other"}, "advantage"),
    "shape_reward": row_stage(
        reward.ShapeReward(mean=1.0, std=2.0, clip=3.0, missing_eos="penalty"), {"std": 0.0}, "token_reward"
    ),
    "overlong": row_stage(reward.Overlong(limit=4, cache=2), {"cache": 0}, "token_reward"),
    "reinforce_pp": token_stage(advantage.ReinforcePP(), {"gamma": 1.1}, "token_reward"),
    "gae": token_stage(advantage.GAE(), {"lam": -0.1}, "value"),
    "gae bootstrap": token_stage(advantage.GAE(truncation="bootstrap"), {"truncation": "drop"}, "value"),
    "kl_reward": token_stage(reward.KLReward(), {"beta": -1.0}, "token_reward", "token_reward"),
    "uniform": Case(advantage.UniformCredit(), (H,), (torch.zeros(3),), {"kind": "other"}, credited),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def concrete(cls: type[Component]) -> set[type[Component]]:
    """All subclasses that a configuration can name."""
    below = {x for sub in cls.__subclasses__() for x in concrete(sub)}
    return below | ({cls} if "kind" in cls.model_fields else set())


def test_no_loss_is_left_out():
    named = {c for c in concrete(Component) if c.__module__.startswith("steersman.objective")}
    assert named == {type(case.component) for case in CASES.values()}


@every
def test_round_trip(case):
    cls, stored = type(case.component), case.component.model_dump()
    assert cls.model_validate(stored) == case.component
    assert cls.model_validate_json(case.component.model_dump_json()) == case.component
    assert stored["kind"] == cls.model_fields["kind"].default


@every
def test_frozen_and_closed(case):
    with pytest.raises(ValidationError):
        case.component.kind = "other"
    with pytest.raises(ValidationError, match="unheard_of"):
        type(case.component).model_validate(case.component.model_dump() | {"unheard_of": 1})


@every
def test_bad_values_are_named(case):
    (name,) = case.bad_field
    with pytest.raises(ValidationError, match=name):
        type(case.component).model_validate(case.component.model_dump() | case.bad_field)


@every
def test_same_input_same_output_and_inputs_untouched(case):
    before = [x.clone() for x in case.inputs]
    first = case.call(case.component, *case.inputs)
    assert torch.equal(first, case.call(case.component, *case.inputs))
    assert all(torch.equal(a, b) for a, b in zip(before, case.inputs, strict=True))
    shape = torch.Size([]) if case.outputs == "scalar" else case.inputs[0].shape
    assert first.shape == shape
    assert first.dtype == torch.float32


@every
def test_batch_order(case):
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    value = case.call(case.component, *case.inputs)
    permuted = case.call(case.component, *(x[order] for x in case.inputs))
    if case.outputs == "scalar":
        assert torch.allclose(permuted, value, rtol=FLOAT32)
    else:
        assert torch.equal(permuted, value[order])


@every
@pytest.mark.parametrize("which", ["inputs", "degenerate", "empty"])
def test_value_and_gradients_are_finite(case, which):
    given = case.degenerate if which == "degenerate" else case.inputs
    given = tuple(x[:0] for x in given) if which == "empty" else given
    leaf = given[0].clone().requires_grad_()
    value = case.call(case.component, leaf, *given[1:])
    assert torch.isfinite(value).all()
    value.sum().backward()
    assert torch.isfinite(leaf.grad).all()
