"""Prompts kept once: the same hidden states as a plain forward, for the models that can, whichever rows leave."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language import decode_cache
from steersman.language.decode import generate
from steersman.language.decode_cache import GROWTH, SharedPrompts, attending_shared, shares_prompts, step_of
from tests.language.models import ALL, plain_logp, tiny

HIDDEN_TOLERANCE = 2e-5
"""float32 hidden states of order 1: one token at a time against whole rows."""
LOGP_TOLERANCE = 1e-5
"""Nats, float32."""
HALF_FACTOR = 1.1
"""Mean error of a bfloat16 model's hidden states against exact ones, beside that of its forward on whole rows."""
SHARING = {"llama", "gpt2", "qwen2", "qwen3", "cohere", "granite", "opt"}
NEW = 2 * GROWTH + 3


@pytest.mark.parametrize("name", ALL)
def test_which_models_share_prompts(name: str) -> None:
    assert shares_prompts(tiny(name)) == (name in SHARING)


@pytest.mark.parametrize("name", [n for n in ALL if n != "mamba"])
def test_every_architecture_records_the_log_probs_of_a_plain_forward(name: str) -> None:
    model = tiny(name)
    r = generate(model, [[5, 6, 7], [8], [9, 1, 4]], max_new_tokens=12, stop_ids=[2, 3], seed=1, samples_per_prompt=4)
    with torch.no_grad():
        expected = plain_logp(model, r)[0]
    assert int(r.action.sum()) > 100
    assert ((r.logp_behaviour - expected).abs() * r.action).max() < LOGP_TOLERANCE


def test_a_model_without_an_attention_cache_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be copied row by row"):
        generate(tiny("mamba"), [[5, 6]], max_new_tokens=2, stop_ids=2, seed=1)


def stepped(model, products: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of six rows of three prompts one token at a time, while rows leave; and those of whole rows.

    One token at a time by the model's own modules, or by its `products`.
    """
    step = step_of(model, 3 + NEW) if products else None
    assert (step is not None) == products
    block = torch.tensor([[3, 9, 4], [8, 5, 7], [6, 6, 2]])
    parent = torch.tensor([0, 0, 0, 1, 2, 2])
    tokens = (torch.arange(6 * NEW) * 17 % 97).view(6, NEW)
    rows, found, expected = torch.arange(6), [], []
    # rows left of each prompt: 3 1 2, then 2 1 1, then 0 1 1
    leave = {5: torch.tensor([0, 2, 3, 4]), 11: torch.tensor([2, 3])}
    with torch.inference_mode():
        truth = model.model(torch.cat([block[parent], tokens], 1), use_cache=False)[0][:, 3:]
        prompts = SharedPrompts(model.model(block, use_cache=True).past_key_values, parent, NEW)
        for i in range(NEW):
            if i in leave:
                prompts.select(leave[i])
                rows = rows[leave[i]]
            with attending_shared(model.model):
                found.append(prompts.forward(model.model, tokens[rows, i], step))
            expected.append(truth[rows, i])
    return torch.cat(found), torch.cat(expected)


WAYS = [("llama", False), ("qwen3", False), ("granite", False), ("llama", True), ("qwen2", True), ("qwen3", True)]


@pytest.mark.parametrize(("name", "products"), WAYS)
def test_hidden_states_are_those_of_whole_rows(name: str, products: bool) -> None:
    found, expected = stepped(tiny(name), products)
    assert (found - expected).abs().max() < HIDDEN_TOLERANCE


@pytest.mark.parametrize(("name", "products"), [("llama", False), ("qwen3", False), ("llama", True), ("qwen3", True)])
def test_half_precision_loses_no_more_than_whole_rows_do(name: str, products: bool) -> None:
    rounded = tiny(name).to(torch.bfloat16)
    found, whole = (x.double() for x in stepped(rounded, products))
    exact = stepped(rounded.double())[1]
    assert (found - exact).abs().mean() < HALF_FACTOR * (whole - exact).abs().mean()


def test_a_model_for_which_it_gives_other_numbers_does_not_share(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SharedPrompts.attend
    monkeypatch.setattr(
        SharedPrompts, "attend", lambda self, q, both, scale, cap: plain(self, q, both, 1.1 * scale, cap)
    )
    assert not shares_prompts(tiny("llama"))


def drawn(model, **options) -> Rollouts:
    prompts = [[5, 6, 7], [8, 9, 4]]
    return generate(model, prompts, max_new_tokens=NEW, stop_ids=[2, 3, 4], seed=1, samples_per_prompt=6, **options)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 20}], ids=str)
def test_sharing_changes_neither_tokens_nor_log_probs(monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    model = tiny("qwen2")
    assert shares_prompts(model)
    shared = drawn(model, **options)
    monkeypatch.setattr("steersman.language.decode_step.shares_prompts", lambda model: False)
    copied = drawn(model, **options)
    assert torch.equal(shared.ids, copied.ids)
    assert options == {"temperature": 0.0} or len(set(shared.length.tolist())) > 2
    assert (shared.logp_behaviour - copied.logp_behaviour).abs().max() < LOGP_TOLERANCE


def test_attention_and_modes_are_left_as_they_were() -> None:
    model = tiny("llama").train()
    before = model.config._attn_implementation
    drawn(model)
    assert model.training
    assert model.config._attn_implementation == before != decode_cache.ATTENTION
