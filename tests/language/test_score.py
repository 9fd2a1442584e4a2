"""Scores of rollouts against each row alone through the plain model: architectures, raggedness, gradients, LoRA."""

import copy

import pytest
import torch
from torch import nn

from steersman.core.errors import UserError
from steersman.core.types import Pairs
from steersman.language.score import pair_logp, response_hidden, response_logp
from steersman.language.trunk import unwrap
from tests.language.models import ALL, FLAT, RAGGED, plain_logp, rows, tiny

LOGP_TOLERANCE = 1e-5
"""Nats; a log-prob of size 5 carries about 5e-7 of rounding from each of a handful of operations."""
GRADIENT_TOLERANCE = 1e-5
"""Of the largest gradient of the same parameter, or of a hundredth of the model's largest: some are zero but for
rounding, such as those of key biases."""
MEAN_TOLERANCE = 1e-6


def assert_close(a, b, most=LOGP_TOLERANCE, mean=MEAN_TOLERANCE):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= most
    assert (a - b).mean().abs() <= mean


def pull(logp):
    return (torch.arange(logp.numel()).view(logp.shape) % 5 - 1.7) / logp.numel()


def gradients(model, logp):
    model.zero_grad()
    (logp * pull(logp)).sum().backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def assert_gradients_close(a, b):
    assert a.keys() == b.keys()
    largest = max(float(x.abs().max()) for x in b.values())
    for name in a:
        size = max(float(b[name].abs().max()), largest / 100)
        assert_close(a[name] / size, b[name] / size, GRADIENT_TOLERANCE, MEAN_TOLERANCE)


@pytest.mark.parametrize("name", ALL)
def test_equals_each_row_alone_through_the_plain_model(name):
    model, rollouts = tiny(name), rows(*RAGGED)
    expected_logp, expected_entropy = plain_logp(model, rollouts, temperature=0.8)
    logp, entropy = response_logp(model, rollouts, temperature=0.8)
    assert_close(logp, expected_logp)
    assert_close(entropy, expected_entropy)
    assert_gradients_close(gradients(model, logp), gradients(model, expected_logp))


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_padding_and_batch_split_change_nothing(name):
    model, rollouts, wide = tiny(name), rows(*RAGGED), rows(*RAGGED)
    ids = nn.functional.pad(wide.ids, (0, 9), value=7)
    wide = type(wide).of(ids, wide.length, wide.prompt_length)
    with torch.no_grad():
        whole = response_logp(model, rollouts)
        padded = response_logp(model, wide)
        parts = [response_logp(model, rollouts.index(torch.tensor(i))) for i in ([0, 6, 2], [1], [5, 4, 3])]
    for k in range(2):
        assert_close(padded[k][:, : rollouts.ids.shape[1]], whole[k])
        assert not padded[k][:, rollouts.ids.shape[1] :].any()
        assert_close(torch.cat([p[k] for p in parts]), whole[k][[0, 6, 2, 1, 5, 4, 3]])


@pytest.mark.parametrize("name", FLAT)
def test_a_shared_prompt_gives_the_same_numbers_and_gradients(name):
    rollouts = rows(*RAGGED)
    ids = rollouts.ids.clone()
    ids[6, :4] = ids[2, :4]
    rollouts = type(rollouts).of(ids, rollouts.length, rollouts.prompt_length)
    model = tiny(name)
    apart, together = response_logp(model, rollouts, share_prompt=False), response_logp(model, rollouts)
    assert_close(together[0], apart[0])
    assert_close(together[1], apart[1])
    assert_gradients_close(gradients(model, together[0]), gradients(model, apart[0]))


@pytest.mark.parametrize("share_prompt,tokens", [(False, 86), (True, 86 - 4)])
def test_the_trunk_sees_exactly_the_real_tokens(share_prompt, tokens):
    model, rollouts = tiny("llama"), rows(*RAGGED, extra=5)
    ids = rollouts.ids.clone()
    ids[6, :4] = ids[2, :4]
    rollouts = type(rollouts).of(ids, rollouts.length, rollouts.prompt_length)
    response_logp(model, rollouts)
    seen = []
    model.model.layers[0].mlp.register_forward_hook(lambda m, x, y: seen.append(y.shape[:-1].numel()))
    response_logp(model, rollouts, share_prompt=share_prompt)
    assert seen == [tokens]


def test_both_sides_of_a_pair_equal_each_side_alone():
    model, first, second = tiny("llama"), rows([9, 20, 6], [4, 5, 2]), rows([12, 7, 6], [4, 5, 3], seed=1)
    ids = second.ids.clone()
    ids[0, :4], ids[1, :5] = first.ids[0, :4], first.ids[1, :5]
    second = type(second).of(ids, second.length, second.prompt_length)
    pairs = Pairs(first, second, torch.ones(3))
    alone = response_logp(model, first), response_logp(model, second)
    together, apart = pair_logp(model, pairs), pair_logp(model, pairs, share_prompt=False)
    for side in range(2):
        for k in range(2):
            assert_close(together[side][k], alone[side][k])
            assert_close(apart[side][k], alone[side][k])
    joint = gradients(model, torch.cat([together[0][0].flatten(), together[1][0].flatten()]))
    assert_gradients_close(joint, gradients(model, torch.cat([alone[0][0].flatten(), alone[1][0].flatten()])))


@pytest.mark.parametrize("where", ["layers", "layers and head", "head copy"])
def test_lora_wrapped_models(where):
    peft = pytest.importorskip("peft")
    options = {
        "layers": {"target_modules": ["q_proj", "down_proj"]},
        "layers and head": {"target_modules": ["q_proj", "lm_head"]},
        "head copy": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    }[where]
    base = tiny("llama", tie_word_embeddings=False)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_dropout=0.5, init_lora_weights=False, **options))
    rollouts = rows(*RAGGED)
    model.train()
    logp, _ = response_logp(model, rollouts)
    assert model.training
    model.eval()
    expected, _ = plain_logp(model, rollouts)
    assert_close(logp, expected)
    found, wanted = gradients(model, logp), gradients(model, expected)
    assert any("lora" in k for k in found)
    assert_gradients_close(found, wanted)
    with model.disable_adapter(), torch.no_grad():
        assert (response_logp(model, rollouts)[0] - logp).abs().max() > 0.1


def test_virtual_tokens_are_refused():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(UserError, match="virtual tokens"):
        response_logp(model, rows(*RAGGED))


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_bfloat16_comes_back_as_float32(name):
    model, rollouts = tiny(name).bfloat16(), rows(*RAGGED)
    logp, entropy = response_logp(model, rollouts)
    assert logp.dtype == entropy.dtype == torch.float32
    exact = plain_logp(copy.deepcopy(model).float(), rollouts)[0]
    assert (logp - exact).abs().max() < 0.2
    assert (logp - exact).abs().mean() < 0.02


def test_mask_chooses_the_tokens():
    model, rollouts = tiny("llama"), rows(*RAGGED)
    mask = torch.zeros_like(rollouts.action)
    mask[2, 1] = mask[2, 19] = mask[1, 2] = True
    everything = type(rollouts).of(rollouts.ids, rollouts.length, torch.ones_like(rollouts.length))
    logp, entropy = response_logp(model, rollouts, mask=mask)
    for a, b in zip((logp, entropy), response_logp(model, everything), strict=True):
        assert_close(a, torch.where(mask, b, 0.0))
        assert int((a != 0).sum()) == 3


def test_no_entropy_and_nothing_to_score():
    model, rollouts = tiny("llama"), rows(*RAGGED)
    logp, entropy = response_logp(model, rollouts, entropy=False)
    assert not entropy.any()
    assert torch.equal(logp, response_logp(model, rollouts)[0])
    none, _ = response_logp(model, rollouts, mask=torch.zeros_like(rollouts.action))
    assert not none.any()
    none.sum().backward()
    empty, _ = response_logp(model, rows([0, 0], [0, 0]))
    assert not empty.any()
    assert response_logp(model, rollouts.index(torch.tensor([], dtype=torch.int64)))[0].shape == (0, 20)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_an_empty_row_beside_others(name):
    model = tiny(name)
    logp, _ = response_logp(model, rows([0, 30, 0], [0, 2, 0]))
    assert not logp[[0, 2]].any()
    alone, _ = response_logp(model, rows([0, 30, 0], [0, 2, 0]).index(torch.tensor([1])))
    assert_close(logp[1:2], alone)
    assert_gradients_close(gradients(model, logp[1:2]), gradients(model, alone))


def test_tokens_that_nothing_predicts_are_refused():
    model, rollouts = tiny("llama"), rows([4, 5], [0, 2])
    with pytest.raises(UserError, match="row 0"):
        response_logp(model, rollouts)
    with pytest.raises(UserError, match="row 1"):
        response_logp(
            model,
            rows([3, 2], [1, 1]),
            mask=torch.ones(2, 3, dtype=torch.bool).index_fill_(1, torch.tensor([0]), False),
        )


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba"])
def test_hidden_states_at_the_last_real_token_and_elsewhere(name):
    model, rollouts = tiny(name), rows(*RAGGED)
    trunk = unwrap(model).base_model
    rowwise = [trunk(rollouts.ids[n : n + 1, :k])[0][0] for n, k in enumerate(rollouts.length.tolist())]
    assert_close(response_hidden(model, rollouts), torch.stack([h[-1] for h in rowwise]))
    assert_close(response_hidden(trunk, rollouts), torch.stack([h[-1] for h in rowwise]))
    position = torch.stack([rollouts.length - 1, torch.zeros_like(rollouts.length)], 1)
    assert_close(response_hidden(model, rollouts, position), torch.stack([h[[-1, 0]] for h in rowwise]))


@pytest.mark.parametrize("position", [[3, 0], [0, -1]])
def test_hidden_states_outside_a_row_are_refused(position):
    with pytest.raises(UserError, match="response_hidden"):
        response_hidden(tiny("llama"), rows([3, 5], [1, 1]), torch.tensor(position))
