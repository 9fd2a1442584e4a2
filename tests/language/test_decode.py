"""Sampling: greedy equals transformers, tokens do not depend on batches, log-probs are those of a plain forward."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from steersman.core.errors import UserError
from steersman.core.noise import normal_, uniform
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts
from steersman.language.build import SmallModel, build_model
from steersman.language.decode import generate
from steersman.language.sampler import draw
from tests.language.models import tiny

LOGP_TOLERANCE = 1e-5
"""Nats between the sampler's log-prob (cached, one token at a time) and a plain forward of the whole row, float32."""
CDF_TOLERANCE = 2e-6
"""float32 cumulative sums of a few dozen probabilities."""
P_MIN = 1e-4
"""Smallest acceptable p-value of the goodness-of-fit test (fixed seed: it either passes for good or never)."""
VOCAB, EOS, NEW = 40, 0, 12


def sharp(model):
    """Spread the logits of a random model, so that greedy choices are no ties and rows end at different lengths."""
    normal_([("head", model.get_output_embeddings().weight)], 0.6, 3, "test")
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return sharp(build_model(SmallModel(width=16, layers=2, heads=4, kv_heads=2, context=64, tie=False), VOCAB, 0))


PROMPTS = [[5, 6, 7], [8], [9, 10, 11], [12, 13], [5, 6, 7], [14, 15, 16, 17, 18]]


def run(model, prompts=PROMPTS, **options) -> Rollouts:
    return generate(model, prompts, **({"max_new_tokens": NEW, "stop_ids": EOS, "seed": 1} | options)).check()


def responses(r: Rollouts) -> list[list[int]]:
    return [r.ids[i, r.prompt_length[i] : r.length[i]].tolist() for i in range(len(r))]


def others():
    yield "gpt2", GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=64))
    sliding = MistralConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, sliding_window=4
    )
    sliding.num_key_value_heads, sliding.intermediate_size = 1, 32
    yield "sliding window", MistralForCausalLM(sliding)
    for name in ("qwen2", "qwen3"):
        yield name, tiny(name, vocab_size=VOCAB, tie_word_embeddings=False)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "sliding window", "qwen2", "qwen3"])
def test_greedy_equals_transformers(model, kind: str) -> None:
    with torch.random.fork_rng():
        chosen = model if kind == "llama" else sharp(dict(others())[kind])
    mine = run(chosen, temperature=0, samples_per_prompt=2)
    for i, prompt in enumerate(PROMPTS):
        x = torch.tensor([prompt])
        theirs = chosen.generate(
            x,
            attention_mask=torch.ones_like(x),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
        assert responses(mine)[2 * i] == responses(mine)[2 * i + 1] == theirs[0, len(prompt) :].tolist()
    assert mine.logp_behaviour.abs().max() == 0


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logp_behaviour_is_that_of_a_plain_forward(model, temperature: float) -> None:
    r = run(model, samples_per_prompt=6, temperature=temperature)
    for i in range(len(r)):
        ids = r.ids[i : i + 1, : r.length[i]]
        with torch.no_grad():
            logp = torch.log_softmax(model(ids).logits[0] / temperature, -1)
        p = int(r.prompt_length[i])
        expected = logp[p - 1 : -1].gather(1, ids[0, p:, None])[:, 0]
        assert (r.logp_behaviour[i, p : r.length[i]] - expected).abs().max() < LOGP_TOLERANCE
        assert (r.logp_behaviour[i, r.length[i] :] == 0).all()
        assert (r.logp_behaviour[i, :p] == 0).all()


def test_each_token_is_the_inverse_cdf_at_its_own_noise(model) -> None:
    ids = [100, 7, 31, 2, 9, 50]
    r = run(model, sample_ids=ids, step=4)
    for i, name in enumerate(ids):
        p, n = int(r.prompt_length[i]), int(r.length[i])
        u = torch.from_numpy(uniform(1, "sample", name, np.arange(p, n), 4)).float()
        with torch.no_grad():
            logits = model(r.ids[i : i + 1, :n]).logits[0, p - 1 : n - 1]
        assert draw(logits, u)[0].tolist() == r.ids[i, p:n].tolist()


def test_masks_and_stops(model) -> None:
    r = run(model, samples_per_prompt=20)
    ended = r.stop == STOP_EOS
    assert 0 < int(ended.sum()) < len(r)
    for i, tokens in enumerate(responses(r)):
        assert EOS not in tokens[:-1]
        assert (tokens[-1] == EOS) == bool(ended[i])
        assert ended[i] or (len(tokens) == NEW and r.stop[i] == STOP_LENGTH)
        assert r.action[i].sum() == len(tokens)
        assert r.ids[i, : r.prompt_length[i]].tolist() == PROMPTS[i // 20]
    assert r.group.tolist() == [i // 20 for i in range(len(r))]


def test_tokens_do_not_depend_on_batches_or_order(model) -> None:
    whole = responses(run(model, samples_per_prompt=5))
    for batch_tokens in (1, 40, 100):
        assert responses(run(model, samples_per_prompt=5, batch_tokens=batch_tokens)) == whole
    order = [3, 0, 5, 2, 1, 4]
    ids = [5 * i + j for i in order for j in range(5)]
    mixed = responses(run(model, [PROMPTS[i] for i in order], samples_per_prompt=5, sample_ids=ids))
    assert mixed == [whole[i] for i in ids]
    alone = responses(run(model, [PROMPTS[4]], sample_ids=[23]))
    assert alone == [whole[23]]
    assert responses(run(model, samples_per_prompt=5, seed=2)) != whole
    assert responses(run(model, samples_per_prompt=5, step=1)) != whole
    # equal prompts have noise of their own
    assert whole[0:5] != whole[20:25]
    assert len({tuple(x) for x in whole[0:5]}) > 1


def test_global_generator_and_training_mode_are_left_alone(model) -> None:
    before = torch.get_rng_state()
    model.train()
    run(model)
    assert model.training
    model.eval()
    assert torch.equal(torch.get_rng_state(), before)


def test_rollouts_as_prompts_keep_their_group(model) -> None:
    first = run(model, PROMPTS[:2])
    first = Rollouts.of(first.ids, first.length, first.prompt_length, group=torch.tensor([7, 9]))
    again = run(model, first, samples_per_prompt=2)
    assert again.group.tolist() == [7, 7, 9, 9]
    assert responses(again) == responses(run(model, PROMPTS[:2], samples_per_prompt=2))


def test_several_stop_ids(model) -> None:
    r = run(model, samples_per_prompt=20, stop_ids=[EOS, 3], pad_id=39)
    last = {tokens[-1] for tokens, stop in zip(responses(r), r.stop, strict=True) if stop == STOP_EOS}
    assert last == {EOS, 3}
    assert (r.ids[torch.arange(r.ids.shape[1]) >= r.length[:, None]] == 39).all()


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=30), st.floats(1e-9, 1 - 1e-9))
@settings(max_examples=200, deadline=None)
def test_draw_inverts_the_cdf(logits: list[float], u: float) -> None:
    x = torch.tensor([logits])
    token, logp = draw(x, torch.tensor([u]))
    p = torch.softmax(x.double(), -1)[0]
    below, upto = float(p[: token[0]].sum()), float(p[: token[0] + 1].sum())
    assert below - CDF_TOLERANCE <= u <= upto + CDF_TOLERANCE
    assert float(logp[0]) == pytest.approx(math.log(p[token[0]]), abs=LOGP_TOLERANCE)


def test_draw_never_gives_an_impossible_token() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).repeat(4, 1)
    u = torch.tensor([0.0, 1e-30, 1 - 2**-24, 1.0])
    assert draw(logits, u)[0].tolist() == [1, 1, 3, 3]


def test_frequencies_follow_the_model(model) -> None:
    from scipy.stats import chisquare

    n = 4000
    r = run(model, [PROMPTS[0]], samples_per_prompt=n, max_new_tokens=1)
    with torch.no_grad():
        p = torch.softmax(model(torch.tensor([PROMPTS[0]])).logits[0, -1].double(), -1).numpy()
    counts = np.bincount(r.ids[:, 3].numpy(), minlength=VOCAB)
    common = p * n >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(p[common], p[~common].sum()) * n
    keep = expected > 0
    assert chisquare(observed[keep], expected[keep]).pvalue > P_MIN


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompts": [[1], []]}, "prompt 1: is empty"),
        ({"prompts": []}, "prompts"),
        ({"prompts": [[VOCAB]]}, "outside the model's vocabulary"),
        ({"prompts": [[1] * 60]}, "prompt 0: has 60 tokens; with 12 new ones that exceeds the context of 64"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"samples_per_prompt": 0}, "samples_per_prompt"),
        ({"sample_ids": [1, 1, 2, 3, 4, 5]}, "6 different ids"),
        ({"sample_ids": [1]}, "6 different ids"),
        ({"stop_ids": []}, "stop_ids"),
    ],
)
def test_bad_arguments(model, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(model, **options)
