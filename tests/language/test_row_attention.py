"""Attention within rows, dropout off, and activation checkpointing that recomputes what was computed."""

import pytest
import torch

from steersman.language.pack import flatten
from steersman.language.row_attention import CannotFlatten, rows_attention
from steersman.language.score import response_logp
from tests.language.models import RAGGED, rows, tiny

TOLERANCE = 1e-5


def attention_inputs(heads: int = 4, shared: int = 2):
    rollouts = rows(*RAGGED)
    stream = flatten(rollouts.ids, rollouts.length)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, heads, len(stream), 8, generator=generator)
    k, v = (torch.randn(1, shared, len(stream), 8, generator=generator) for _ in range(2))
    return rollouts, stream, q, k, v


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_each_row_attends_to_its_own_past_only(softcap, scaling, shared):
    rollouts, stream, q, k, v = attention_inputs(shared=shared)
    out, _ = rows_attention(torch.nn.Identity(), q, k, v, None, scaling, steersman_rows=stream, softcap=softcap)
    for n, length in enumerate(rollouts.length.tolist()):
        at = stream.where[n, :length]
        for head in range(4):
            kv = head * shared // 4
            scores = q[0, head, at] @ k[0, kv, at].T * (8**-0.5 if scaling is None else scaling)
            scores = softcap * torch.tanh(scores / softcap) if softcap else scores
            future = torch.ones(length, length).triu(1).bool()
            expected = scores.masked_fill(future, -torch.inf).softmax(-1) @ v[0, kv, at]
            assert (out[0, at, head] - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    "extra", [{"attention_mask": torch.ones(1)}, {"s_aux": torch.ones(1)}, {"steersman_rows": None}]
)
def test_what_rows_do_not_tell_is_refused(extra):
    _, stream, q, k, v = attention_inputs()
    with pytest.raises(CannotFlatten):
        rows_attention(torch.nn.Identity(), q, k, v, **({"attention_mask": None, "steersman_rows": stream} | extra))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_dropout_is_off_in_train_mode(name):
    dropout = {"llama": ["attention_dropout"], "gpt2": ["attn_pdrop", "resid_pdrop", "embd_pdrop"]}
    model = tiny(name, **dict.fromkeys(dropout.get(name, ["hidden_dropout", "attention_dropout"]), 0.5)).train()
    rollouts = rows(*RAGGED)
    in_train = response_logp(model, rollouts)[0]
    assert torch.equal(in_train, response_logp(model.eval(), rollouts)[0])


CHECKPOINTED = {"llama": "model.layers.0.mlp", "opt": "model.decoder.layers.0.fc1", "bloom": "transformer.h.0.mlp"}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_checkpointing_recomputes_and_changes_nothing(name, reentrant, training):
    model = tiny(name, **{"dropout" if name == "opt" else "attention_dropout": 0.5})
    rollouts = rows(*RAGGED)
    grads, recomputed, calls = [], [], []
    inner = model.get_submodule(CHECKPOINTED[name])
    inner.register_forward_pre_hook(lambda *_: calls.append(inner.training))
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.train(training)
        model.zero_grad()
        response_logp(model, rollouts)
        calls.clear()
        logp, _ = response_logp(model, rollouts)
        logp.square().sum().backward()
        recomputed.append(len(calls))
        assert not any(calls)
        assert all(m.training == training for m in model.modules())
        grads.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    assert recomputed[1] > recomputed[0]
    assert grads[0].keys() == grads[1].keys()
    for k in grads[0]:
        assert torch.equal(grads[0][k], grads[1][k])
