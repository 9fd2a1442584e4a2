"""Filters equal transformers' and a naive reference; what is drawn and recorded is the filtered distribution."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers.generation import logits_process as warpers

from steersman.core import noise
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import Rollouts
from steersman.language.build import SmallModel, build_model
from steersman.language.decode import generate
from steersman.language.sampler import BLOCK, HEAD, HeadDraw, Sampling, choose, draw, filtered, sampling

LOGP_TOLERANCE = 1e-5
"""Nats, float32 against float64, or a cached against a plain forward."""
CDF_TOLERANCE = 2e-6
"""float32 sums of some thousand probabilities, in two steps."""
P_MIN = 1e-4
"""Smallest acceptable p-value of the goodness-of-fit test (fixed seed: it either passes for good or never)."""
VOCAB, EOS = 40, 0
OPTIONS = [
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 7, "temperature": 1.6},
    {"top_k": 1000},
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"top_p": 1.0},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"min_p": 0.0},
    {"temperature": 1.3, "top_k": 12, "top_p": 0.8, "min_p": 0.1},
    {"temperature": 0.5, "top_k": 30, "top_p": 0.95, "min_p": 0.02},
]


def logits(rows: int = 50, vocab: int = 301, scale: float = 2.0) -> torch.Tensor:
    return torch.from_numpy(noise.generator(5, "logits").normal(0, scale, (rows, vocab))).float()


def transformers_logits(z: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """The chain that `generate` of transformers builds."""
    empty: Any = None
    if options.get("temperature", 1.0) != 1.0:
        z = warpers.TemperatureLogitsWarper(options["temperature"])(empty, z)
    if "top_k" in options:
        z = warpers.TopKLogitsWarper(options["top_k"])(empty, z)
    if options.get("top_p", 1.0) < 1.0:
        z = warpers.TopPLogitsWarper(options["top_p"])(empty, z)
    if "min_p" in options:
        z = warpers.MinPLogitsWarper(options["min_p"])(empty, z)
    return z


def naive(row: np.ndarray, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Any:
    """Probabilities of one row in float64, token by token."""
    p = np.exp((row - row.max()) / temperature)
    kept = sorted(range(len(p)), key=lambda v: -p[v])
    if top_k:
        kept = kept[:top_k]
    total, mass, few = sum(p[v] for v in kept), 0.0, []
    for v in kept:
        if few and mass >= top_p * total:
            break
        few.append(v)
        mass += p[v]
    few = [v for v in few if p[v] >= min_p * p[few[0]]]
    out = np.zeros(len(p))
    out[few] = p[few]
    return out / out.sum()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_filters_are_those_of_transformers(options: dict[str, Any]) -> None:
    z = logits()
    mine, theirs = filtered(z, Sampling(**options)), transformers_logits(z, options)
    assert torch.equal(mine, theirs)
    assert (mine > -math.inf).any(1).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_filtered_log_probs_equal_a_naive_reference(options: dict[str, Any]) -> None:
    z = logits(20)
    expected = np.array([naive(row, **options) for row in z.double().numpy()])
    mine = filtered(z, Sampling(**options)).log_softmax(-1).double().numpy()
    assert np.array_equal(np.isfinite(mine), expected > 0)
    kept = expected > 0
    assert np.abs(mine[kept] - np.log(expected[kept])).max() < LOGP_TOLERANCE
    u = torch.from_numpy(noise.uniform(1, "u", np.arange(20))).float()
    token, logp = choose(z, Sampling(**options), u)
    assert np.abs(logp.numpy() - np.log(expected[np.arange(20), token])).max() < LOGP_TOLERANCE


def test_the_order_of_the_filters_matters_and_is_the_documented_one() -> None:
    z = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # of the two likeliest, the first has 4/7 of the mass and alone reaches 0.55; of all four it would not
    both = filtered(z, Sampling(top_k=2, top_p=0.55))
    assert (both > -math.inf).tolist() == [[True, False, False, False]]
    assert (filtered(z, Sampling(top_p=0.55)) > -math.inf).tolist() == [[True, True, False, False]]
    # a high temperature flattens before top-p counts
    assert (filtered(z, Sampling(top_p=0.55, temperature=50)) > -math.inf).sum() == 3


def test_ties() -> None:
    z = torch.zeros(1, 4)
    assert (filtered(z, Sampling(top_k=2)) == 0).all()
    assert (filtered(z, Sampling(min_p=1.0)) == 0).all()
    assert (filtered(z, Sampling(top_p=0.5)) == 0).all()
    z = torch.tensor([[0.1, 0.4, 0.1, 0.4]]).log()
    assert (filtered(z, Sampling(top_p=0.3)) > -math.inf).tolist() == [[False, True, False, True]]


def test_top_p_of_a_large_vocabulary() -> None:
    """Some rows are so flat that the likeliest tokens alone do not reach p; a row's result depends on itself only."""
    z = logits(6, 3 * HEAD) * torch.tensor([3.0, 0.1, 2.0, 0.0, 1.0, 0.5])[:, None]
    options = Sampling(top_p=0.9)
    mine = filtered(z, options)
    kept = (mine > -math.inf).sum(1)
    assert kept.min() < HEAD < kept.max()
    expected = np.array([naive(row, top_p=0.9) for row in z.double().numpy()]) > 0
    expected[3] = True  # all tie
    border = ((mine > -math.inf).numpy() != expected).sum(1)
    assert border.max() <= 1, "float32 sums may differ by a token of the border"
    assert torch.equal(torch.cat([filtered(row[None], options) for row in z]), mine)


def test_half_precision_logits_are_filtered_in_float32() -> None:
    z = logits().bfloat16()
    options = Sampling(temperature=0.9, top_p=0.9)
    assert torch.equal(filtered(z, options), filtered(z.float(), options))


@pytest.mark.parametrize(
    "options, trainable",
    [
        ({}, True),
        ({"temperature": 0.6}, True),
        ({"top_p": 1.0, "min_p": 0.0}, True),
        ({"temperature": 0.0}, False),
        ({"top_k": 50}, False),
        ({"top_p": 0.99}, False),
        ({"min_p": 0.01}, False),
    ],
    ids=str,
)
def test_trainable(options: dict[str, Any], trainable: bool) -> None:
    assert Sampling(**options).trainable is trainable
    assert (
        Sampling(**options).model_dump()
        == {
            "kind": "sampling",
            "temperature": 1.0,
            "top_k": None,
            "top_p": None,
            "min_p": None,
        }
        | options
    )


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"temperature": math.inf}, {"temperature": math.nan}, {"top_k": 0}, {"top_k": 1.5},
                {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": math.nan}, {"min_p": -0.1}, {"min_p": 2.0}], ids=str
)  # fmt: skip
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        sampling(**options)


@pytest.fixture(scope="module")
def model():
    made = build_model(SmallModel(width=16, layers=2, heads=4, kv_heads=2, context=64, tie=False), VOCAB, 0)
    noise.normal_([("head", made.get_output_embeddings().weight)], 0.4, 3, "test")
    return made.eval()


PROMPTS = [[5, 6, 7], [8], [9, 10, 11], [12, 13], [5, 6, 7], [14, 15, 16, 17, 18]]
FILTERS = {"temperature": 1.2, "top_k": 20, "top_p": 0.8, "min_p": 0.05}


def run(model, prompts=PROMPTS, **options: Any) -> Rollouts:
    return generate(model, prompts, **({"max_new_tokens": 12, "stop_ids": EOS, "seed": 1} | options)).check()


def responses(r: Rollouts) -> list[list[int]]:
    return [r.ids[i, r.prompt_length[i] : r.length[i]].tolist() for i in range(len(r))]


def test_logp_behaviour_is_that_of_the_filtered_distribution(model) -> None:
    r = run(model, samples_per_prompt=8, **FILTERS)
    differ = -math.inf
    for i in range(len(r)):
        p, n = int(r.prompt_length[i]), int(r.length[i])
        with torch.no_grad():
            z = model(r.ids[i : i + 1, :n]).logits[0, p - 1 : n - 1].double().numpy()
        expected = np.array([np.log(naive(row, **FILTERS)[t]) for row, t in zip(z, r.ids[i, p:n], strict=True)])
        assert np.abs(r.logp_behaviour[i, p:n].numpy() - expected).max() < LOGP_TOLERANCE
        plain = torch.log_softmax(torch.from_numpy(z) / FILTERS["temperature"], -1)
        differ = max(differ, float((plain.gather(1, r.ids[i, p:n, None])[:, 0].numpy() - expected).max()))
    assert differ < 0, "removing tokens makes those kept more probable"


def test_filtered_tokens_do_not_depend_on_batches_or_order(model) -> None:
    whole = responses(run(model, samples_per_prompt=5, **FILTERS))
    for batch_tokens in (1, 40):
        assert responses(run(model, samples_per_prompt=5, batch_tokens=batch_tokens, **FILTERS)) == whole
    order = [3, 0, 5, 2, 1, 4]
    ids = [5 * i + j for i in order for j in range(5)]
    mixed = run(model, [PROMPTS[i] for i in order], samples_per_prompt=5, sample_ids=ids, pad_id=7, **FILTERS)
    assert responses(mixed) == [whole[i] for i in ids]
    assert responses(run(model, samples_per_prompt=5)) != whole


def test_frequencies_follow_the_filtered_distribution(model) -> None:
    n = 4000
    r = run(model, [PROMPTS[0]], samples_per_prompt=n, max_new_tokens=1, **FILTERS)
    with torch.no_grad():
        z = model(torch.tensor([PROMPTS[0]])).logits[0, -1].double().numpy()
    p = naive(z, **FILTERS)
    counts = np.bincount(r.ids[:, 3].numpy(), minlength=VOCAB)
    assert counts[p == 0].sum() == 0
    assert (p > 0).sum() > 5
    assert chisquare(counts[p > 0], p[p > 0] * n).pvalue > P_MIN
    # the test can fail: the unfiltered distribution is not what was drawn from
    plain = naive(z, temperature=FILTERS["temperature"])
    assert chisquare(counts, plain * n).pvalue < P_MIN


def test_greedy_ignores_filters(model) -> None:
    assert responses(run(model, temperature=0, top_k=3, top_p=0.1)) == responses(run(model, temperature=0))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_model_stops_the_run(temperature: float, value: float) -> None:
    made = build_model(SmallModel(width=16, layers=1, heads=2, context=64, tie=False), VOCAB, 0)
    with torch.no_grad():
        made.get_output_embeddings().weight[3] = value
    with pytest.raises(RunStopped, match="NaN or infinite"):
        run(made, temperature=temperature)


@pytest.mark.parametrize("vocabulary", [7, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_draw_over_several_blocks_is_the_inverse_cdf_of_the_whole(vocabulary: int) -> None:
    z = logits(40, vocabulary)
    u = torch.from_numpy(noise.uniform(1, "u", np.arange(40))).float()
    u[:2] = torch.tensor([0.0, 1.0])
    token, logp = draw(z, u)
    p = z.double().softmax(-1)
    upto = p.cumsum(-1).gather(1, token[:, None])[:, 0]
    below = upto - p.gather(1, token[:, None])[:, 0]
    assert (below - CDF_TOLERANCE <= u).all()
    assert (u <= upto + CDF_TOLERANCE).all()
    assert len(set((token // BLOCK).tolist())) == -(-vocabulary // BLOCK), "every block is drawn from"
    assert (logp - z.log_softmax(-1).gather(1, token[:, None])[:, 0]).abs().max() < LOGP_TOLERANCE


def test_a_block_without_any_possible_token_is_passed_over() -> None:
    z = torch.full((4, 3 * BLOCK), -math.inf)
    z[:, BLOCK + 5] = 2.0
    token, logp = draw(z, torch.tensor([0.0, 1e-30, 0.5, 1.0]))
    assert token.tolist() == [BLOCK + 5] * 4
    assert logp.abs().max() < LOGP_TOLERANCE


@pytest.mark.parametrize("vocabulary", [7, 2 * BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"bias": True},
        {"softcap": 1.5, "scale": 2.0},
        {"softcap": 1.5, "bias": True, "temperature": 0.7},
        {"scale": 40.0},  # logits beyond the powers of two of float32
        {"softcap": 300.0, "scale": 40.0},
    ],
)
def test_drawing_from_hidden_states_is_drawing_from_their_logits(vocabulary: int, form: dict[str, Any]) -> None:
    rng = noise.generator(2, "head")
    weight = torch.from_numpy(rng.normal(0, 0.5, (vocabulary, 16))).float()
    bias = torch.from_numpy(rng.normal(0, 0.5, vocabulary)).float() if form.get("bias") else None
    scale, softcap, temperature = form.get("scale", 1.0), form.get("softcap"), form.get("temperature", 1.0)
    head = HeadDraw(weight, bias, scale, softcap, temperature)
    for rows in (30, 30, 11):  # the room is used again, and made anew for fewer rows
        hidden = torch.from_numpy(rng.normal(0, 1, (rows, 16))).float()
        u = torch.from_numpy(rng.random(rows)).float()
        z = (
            torch.nn.functional.linear(hidden.double(), weight.double(), None if bias is None else bias.double())
            * scale
        )
        if softcap:
            z = softcap * torch.tanh(z / softcap)
        token, logp = head.draw(hidden, u)
        expected, expected_logp = draw((z / temperature).float(), u)
        assert torch.equal(token, expected)
        # a float32 logit is no more exact than its own size allows
        assert (logp - expected_logp).abs().max() < LOGP_TOLERANCE * max(1.0, float(z.abs().max()) / 10)


def test_draw_from_logits_that_are_no_distribution() -> None:
    token, logp = draw(torch.tensor([[0.0, math.nan], [0.0, math.inf], [0.0, 0.0]]), torch.tensor([0.5, 0.5, 0.9]))
    assert logp.isnan().tolist() == [True, True, False]
    assert token.max() <= 1


def test_watch_counts_every_row_and_token(model) -> None:
    seen: list[tuple[int, int]] = []
    r = run(model, samples_per_prompt=5, batch_tokens=100, watch=lambda rows, tokens: seen.append((rows, tokens)))
    assert [sum(x) for x in zip(*seen, strict=True)] == [len(r), int(r.action.sum())]
