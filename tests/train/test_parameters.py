"""Trainable parameters by name: out and back in place."""

import pytest
import torch
from torch import nn

from steersman.core.errors import CorruptFile
from steersman.train.parameters import load_trainable_state, trainable_state


class Tied(nn.Module):
    """Two names for one weight, one frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=True)
        self.head.weight = self.embed.weight
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)


def test_only_what_is_trained_and_a_tied_weight_once() -> None:
    state = trainable_state(Tied())
    assert state.keys() == {"embed.weight", "head.bias"}
    assert not any(x.requires_grad for x in state.values())


def test_values_come_back_in_place() -> None:
    first, second = Tied(), Tied()
    kept, frozen = second.embed.weight, second.frozen.weight.clone()
    load_trainable_state(second, {k: x.clone() for k, x in trainable_state(first).items()})
    assert second.embed.weight is kept is second.head.weight
    assert kept.requires_grad
    assert torch.equal(kept, first.embed.weight)
    assert torch.equal(second.head.bias, first.head.bias)
    assert torch.equal(second.frozen.weight, frozen)


def test_names_and_shapes_must_fit() -> None:
    model = Tied()
    before = {k: x.clone() for k, x in trainable_state(model).items()}
    with pytest.raises(CorruptFile, match=r"differ in 1 parameters, first 'head\.bias'"):
        load_trainable_state(model, {"embed.weight": before["embed.weight"]})
    with pytest.raises(CorruptFile, match=r"differ in 2 parameters, first 'head\.bais'"):
        load_trainable_state(model, {"embed.weight": before["embed.weight"], "head.bais": before["head.bias"]})
    for wrong in (torch.zeros(5, 4), torch.zeros(3), torch.zeros(1, 3)):
        with pytest.raises(CorruptFile, match=r"embed.weight has shape .* the model wants \(5, 3\)"):
            load_trainable_state(model, before | {"embed.weight": wrong})
    with pytest.raises(CorruptFile, match=r"head\.bias has shape"):
        load_trainable_state(model, {"embed.weight": torch.ones(5, 3), "head.bias": torch.zeros(6)})
    for name, x in trainable_state(model).items():
        assert torch.equal(x, before[name]), "a refused state must leave the model as it was"
