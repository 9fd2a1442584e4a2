"""Which trunks are read as a list of products, with which weights, and that a wrong reading is noticed and not used."""

import pytest
import torch
from torch import nn

from steersman.language import decode_llama
from steersman.language.decode import generate
from steersman.language.decode_cache import shares_prompts, step_of
from steersman.language.decode_llama import read
from tests.language.models import ALL, tiny

NEW = 20
LLAMAS = {"llama", "qwen2", "qwen3", "granite"}
LOGP_TOLERANCE = 1e-5
"""Nats, float32."""


@pytest.mark.parametrize("name", ALL)
def test_which_models_have_the_form_and_give_the_same_hidden_states(name: str) -> None:
    assert (step_of(tiny(name), NEW) is not None) == (name in LLAMAS)


def drawn(model):
    return generate(model, [[5, 6, 7], [8, 9, 4]], max_new_tokens=20, stop_ids=[2, 3], seed=1, samples_per_prompt=6)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_it_changes_neither_tokens_nor_log_probs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = tiny(name)
    fast = drawn(model)
    calls: list[int] = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    plain = drawn(model)
    assert torch.equal(fast.ids, plain.ids)
    assert (fast.logp_behaviour - plain.logp_behaviour).abs().max() < LOGP_TOLERANCE
    assert len(calls) > 10  # a hook of the user's own is called for each token, as it always was


def test_weights_are_those_of_now() -> None:
    model, same = tiny("llama"), tiny("llama")
    drawn(model)
    with torch.no_grad():
        for m in (model, same):
            m.model.layers[1].mlp.up_proj.weight.mul_(-1.5)
            m.model.layers[0].self_attn.k_proj.weight.mul_(-1.5)
    assert torch.equal(drawn(model).ids, drawn(same).ids)


def test_wide_projections_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_llama, "_JOIN_BELOW", 1)
    model = tiny("qwen2")
    step = read(model.model, NEW)
    owned = {p.data_ptr() for p in model.parameters()}
    parts = [w for layer in step.layers for p in (layer.inputs, layer.gates) for w, _ in p.parts]
    assert len(parts) == 5 * len(step.layers)
    assert {w.data_ptr() for w in parts} <= owned
    assert step_of(model, NEW) is not None


class Adapter(nn.Linear):
    """A linear map with something more to it."""


def with_adapter(model) -> None:
    part = model.model.layers[1].mlp
    part.up_proj = Adapter(part.up_proj.in_features, part.up_proj.out_features, bias=False)


def with_module(model) -> None:
    model.model.layers[0].gate = nn.Identity()


def with_weight(model) -> None:
    model.model.layers[0].mlp.extra = nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize("change", [with_adapter, with_module, with_weight])
def test_a_trunk_with_other_parts_is_not_read(change) -> None:
    model = tiny("llama")
    assert read(model.model, NEW) is not None
    change(model)
    assert read(model.model, NEW) is None


@pytest.mark.parametrize("wrong", ["eps", "scale", "order"])
def test_a_wrong_reading_is_not_used(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """The form of Llama with another meaning: only the probe can see that."""
    model = tiny("llama")
    layer = model.model.layers[0]
    if wrong == "eps":
        layer.input_layernorm.forward = lambda x: x * layer.input_layernorm.weight
    elif wrong == "scale":
        plain = layer.mlp.forward
        layer.mlp.forward = lambda x: 0.9 * plain(x)
    else:
        layer.mlp.act_fn.forward = lambda x: x
        monkeypatch.setattr(type(layer.mlp.act_fn), "__call__", lambda self, x: nn.functional.silu(x))
        plain = layer.mlp.forward
        layer.mlp.forward = lambda x: layer.mlp.down_proj(layer.mlp.gate_proj(x) * layer.mlp.up_proj(x))
    assert read(model.model, NEW) is not None
    assert step_of(model, NEW) is None
    assert shares_prompts(model)


@pytest.mark.parametrize("number", ["residual_multiplier", "embedding_multiplier"])
def test_a_number_between_the_parts_is_noticed(number: str) -> None:
    model = tiny("granite", **{number: 0.5})
    assert read(model.model, NEW) is not None
    assert step_of(model, NEW) is None


def test_rotations_that_depend_on_the_length_are_not_read() -> None:
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert read(tiny("llama", rope_parameters=scaled).model, NEW) is None
