"""Hidden states of a layer against the plain model's ``hidden_states``, under padding, and hooks that are gone."""

import pytest
import torch
from torch import nn

from steersman.core.errors import UserError
from steersman.language.layers import layer_index, layer_states
from steersman.language.score import Pool, pooled_states, response_logp
from steersman.language.trunk import trunk_of, unwrap
from tests.language.models import ALL, RAGGED, rows, tiny

TOLERANCE = 2e-5
"""Of states of size up to 5, by two ways through the model, in float32."""
LAYERS = 3
NO_EMBEDDINGS = ("mamba",)
"""`transformers` leaves the embeddings out of their ``hidden_states``, so that each layer stands a place earlier."""


def deep(name):
    return tiny(name, num_hidden_layers=LAYERS)


def left_padded(model, rollouts):
    """All rows in one left-padded batch through the plain model; hidden_states[l] brought back to the rows' columns."""
    n, width = rollouts.ids.shape
    shift = width - rollouts.length
    column = torch.arange(width)
    real = column >= shift[:, None]
    ids = torch.where(real, rollouts.ids.gather(1, (column - shift[:, None]).clamp(min=0)), 2)
    place = (real.long().cumsum(1) - 1).clamp(min=0)
    found = model(ids, attention_mask=real.long(), position_ids=place, output_hidden_states=True, use_cache=False)
    back = (column + shift[:, None]).clamp(max=width - 1)
    return [h.gather(1, back[..., None].expand(-1, -1, h.shape[2])) for h in found.hidden_states]


def alone(model, rollouts):
    """The same with each row alone, for models that know no left padding."""
    out = [torch.zeros(*rollouts.ids.shape, 32) for _ in range(LAYERS + 1)]
    for n, length in enumerate(rollouts.length.tolist()):
        found = model(rollouts.ids[n : n + 1, :length], output_hidden_states=True, use_cache=False)
        for state, whole in zip(found.hidden_states, out, strict=True):
            whole[n, :length] = state[0]
    return out


def averaged(states, tokens):
    weight = tokens.float()
    return (states * weight[..., None]).sum(1) / weight.sum(1).clamp(min=1)[:, None]


def spans(rollouts):
    """The last three tokens of the prompts, and all actions of the rows with an odd number."""
    column = torch.arange(rollouts.ids.shape[1])
    prompt = (column < rollouts.prompt_length[:, None]) & (column >= rollouts.prompt_length[:, None] - 3)
    odd = rollouts.action & (torch.arange(len(rollouts)) % 2 == 1)[:, None]
    return prompt, odd


@pytest.mark.parametrize("how", [left_padded, alone])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_every_layer_is_that_of_output_hidden_states(name, how):
    model, rollouts = deep(name), rows(*RAGGED)
    with torch.no_grad():
        truth = how(model, rollouts)
        for tokens in spans(rollouts):
            _, found = pooled_states(model, rollouts, [Pool(layer, tokens) for layer in range(LAYERS + 1)])
            for layer, mean in enumerate(found):
                assert float((mean - averaged(truth[layer], tokens)).abs().max()) <= TOLERANCE, layer
                others = [truth[k] for k in range(LAYERS + 1) if k != layer]
                assert all(float((mean - averaged(x, tokens)).abs().max()) > 100 * TOLERANCE for x in others)
                assert not mean[~tokens.any(1)].any()


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_gives_a_layer_in_the_middle_beside_the_same_log_probs(name):
    model, rollouts = deep(name), rows(*RAGGED)
    prompt, odd = spans(rollouts)
    with torch.no_grad():
        truth = alone(model, rollouts)
        plain = response_logp(model, rollouts)
        (logp, entropy), found = pooled_states(model, rollouts, [Pool(2, prompt), Pool(LAYERS, odd)])
    assert torch.equal(logp, plain[0])
    assert torch.equal(entropy, plain[1])
    middle = truth[2 - (name in NO_EMBEDDINGS)]
    assert float((found[0] - averaged(middle, prompt)).abs().max()) <= TOLERANCE * float(middle.abs().max())
    assert float((found[1] - averaged(truth[LAYERS], odd)).abs().max()) <= TOLERANCE * float(truth[LAYERS].abs().max())


def test_under_gradients_and_checkpointing_states_are_the_same_and_carry_no_gradient():
    model, rollouts = deep("llama"), rows(*RAGGED)
    prompt, _ = spans(rollouts)
    with torch.no_grad():
        _, plain = pooled_states(model, rollouts, [Pool(1, prompt)])
    model.gradient_checkpointing_enable()
    model.train()
    before = hooks(model)
    (logp, _), found = pooled_states(model, rollouts, [Pool(1, prompt)])
    logp.sum().backward()
    assert not found[0].requires_grad
    assert torch.equal(found[0], plain[0])
    assert hooks(model) == before


def test_states_of_bfloat16_are_averaged_in_float32():
    model, rollouts = deep("llama").to(torch.bfloat16), rows(*RAGGED)
    tokens = rollouts.action
    response_logp(model, rollouts)  # the first call tries two rows of its own
    with torch.no_grad(), layer_states(trunk_of(model), LAYERS, [1]) as seen:
        row = rollouts.index(torch.tensor([2]))
        _, found = pooled_states(model, row, [Pool(1, tokens[2:3])])
    states = seen[1][0].flatten(0, 1)[: int(row.length)][tokens[2][: int(row.length)]]
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0][0], states.float().sum(0) / len(states))


def hooks(model):
    return [h for m in model.modules() for h in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]


def test_hooks_are_gone_after_an_error():
    model, rollouts = deep("llama"), rows(*RAGGED)
    response_logp(model, rollouts)
    before = hooks(model)
    with layer_states(trunk_of(model), LAYERS, [0, 1, LAYERS]):
        assert len(hooks(model)) == len(before) + 3
    assert hooks(model) == before
    model.model.layers[2].forward = broken
    with pytest.raises(RuntimeError, match="in a layer"):
        pooled_states(model, rollouts, [Pool(1, rollouts.action)])
    assert hooks(model) == before


def broken(*given, **named):
    raise RuntimeError("in a layer")


def test_layers_are_numbers_or_shares_of_the_depth():
    assert [layer_index(x, 36) for x in (None, 0, 19, 36, 0.53)] == [36, 0, 19, 36, 19]
    for wrong in (37, -1, 1.5):
        with pytest.raises(UserError, match="no layer"):
            layer_index(wrong, 36)
    with pytest.raises(UserError, match=r"no layer 4\n.*0 to 3"):
        pooled_states(deep("llama"), rows(*RAGGED), [Pool(4, rows(*RAGGED).action)])


def test_a_model_whose_layers_cannot_be_told_is_refused():
    two = nn.ModuleDict({k: nn.ModuleList(nn.Linear(2, 2) for _ in range(3)) for k in "ab"})
    with pytest.raises(UserError, match="2 lists of 3 modules"), layer_states(two, 3, [1]):
        pass
    assert unwrap(deep("llama")) is not None
