"""Which models run flat, which padded, and that the decision is made once and leaves the model as it was."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.language.trunk import capability, last_hidden, output_weight, unwrap
from tests.language.models import DENSE_HEAD, FLAT, PADDED, RAGGED, rows, tiny

ROUNDING = 5e-7
"""Of adding one and subtracting it again in float32."""


@pytest.mark.parametrize("name", FLAT + PADDED)
def test_the_decision(name):
    how = capability(tiny(name))
    assert how.flat == (name in FLAT)
    assert bool(how.why) == (name in PADDED)
    assert how.tiled_head == (name not in DENSE_HEAD)


def test_the_form_of_the_logits():
    assert capability(tiny("gemma2")).softcap == 3.0
    assert capability(tiny("cohere")).scale == 0.25
    assert capability(tiny("granite")).scale == pytest.approx(1 / 3)


def test_rows_beyond_the_window_go_padded():
    model = tiny("mistral")
    assert capability(model).window == 8
    seen = []
    model.model.layers[0].mlp.register_forward_hook(lambda m, x, y: seen.append(tuple(y.shape[:-1])))
    for lengths in ([8, 3], [9, 3]):
        rollouts = rows(lengths, [1, 1])
        last_hidden(model, rollouts.ids, rollouts.length)
    assert seen == [(1, 11), (2, 9)]


def test_the_model_is_left_as_it_was():
    model = tiny("llama").train()
    model.model.layers[1].eval()
    modes = [m.training for m in model.modules()]
    choice = model.config._attn_implementation
    rollouts = rows(*RAGGED)
    last_hidden(model, rollouts.ids, rollouts.length)
    assert [m.training for m in model.modules()] == modes
    assert model.config._attn_implementation == choice


def test_a_failing_forward_leaves_the_model_as_it_was():
    model = tiny("gpt2").train()
    choice = model.config._attn_implementation
    rollouts = rows([40], [1])
    with pytest.raises(IndexError):
        last_hidden(model, rollouts.ids, rollouts.length)
    assert model.training
    assert model.config._attn_implementation == choice


def test_generation_works_as_before():
    model = tiny("llama")
    ids = torch.tensor([[5, 6, 7]])
    before = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    capability(model)
    assert torch.equal(
        before, model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    )


def test_a_wrapped_head_is_read_through_its_wrapper():
    class Doubled(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2.0 * self.inner(x) + 1.0

    model = tiny("llama", tie_word_embeddings=False)
    head = model.lm_head
    model.set_output_embeddings(Doubled(head))
    weight, bias = output_weight(model, 32)
    assert (weight - 2.0 * head.weight).abs().max() <= ROUNDING
    assert torch.equal(bias, torch.ones(101))
    weight.sum().backward()
    assert (head.weight.grad == 2.0).all()


def test_what_cannot_be_scored_is_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    small = T5Config(vocab_size=11, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(UserError, match="encoder-decoder"):
        unwrap(T5ForConditionalGeneration(small))
    with pytest.raises(UserError, match="no language-model head"):
        output_weight(tiny("llama").model, 32)
