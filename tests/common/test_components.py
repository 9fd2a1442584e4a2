"""What every component must do, whatever it computes: one case for each, one battery for all.

A new component adds one entry to `CASES` (how to call it, on which inputs) and inherits the tests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from steersman.core.component import Component
from steersman.objective import components as objective

FLOAT32 = 1e-6  # a permuted batch may be summed in another order

H = torch.tensor([1.5, -1.0, 0.0, 40.0, -40.0, 0.3])
LABEL = torch.tensor([1.0, 1.0, 0.5, 0.0, 1.0, 0.8])
LIKED = torch.tensor([True, False, True, True, False, False])
LOGP = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, 0.0, -9.0]] * 3)
MASK = torch.tensor([[True, True, False], [False, False, False]] * 3)


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


CASES = {
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
