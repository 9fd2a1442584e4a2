"""Hidden states taken while responses are drawn: those of the scoring pass, for at most one token more a row."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from steersman.core.component import Tail
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language import decode_step
from steersman.language.capture import Capture, RunningMean, TailState
from steersman.language.decode import generate
from steersman.language.decode_cache import step_of
from steersman.language.decode_llama import Step
from steersman.language.score import Pool, pooled_states
from steersman.objective.advantage.internal import PromptEnd, ReasoningEnd
from tests.language.models import ALL, tiny

TOLERANCE = 2e-6
"""Of the size of the states: one way through the model takes a token at a time, the other whole rows, in float32."""
LOGP_TOLERANCE = 2e-6
"""Nats; a row that takes in its last token stays in the batch for it, and the batch's size rounds differently."""
SUM_TOLERANCE = 1e-6
"""Of means of at most nine numbers below 5, added up in another order."""
NEW, STOP, END = 10, [2, 3, 4, 5, 6, 7], 45
PROMPTS = [[5, 6, 7], [8, 9, 4], [11, 3, 9, 14, 5, 6, 7, 8], [5]]
SAMPLED = [name for name in ALL if name != "mamba"]  # it has no cache of attention
POOLS: dict[str, dict[str, tuple[int, Any]]] = {
    "a few of each": {"hidden_prompt": (1, PromptEnd(2)), "hidden_reasoning": (2, ReasoningEnd(3))},
    "the last token": {"hidden_prompt": (2, PromptEnd(1)), "hidden_reasoning": (1, ReasoningEnd(1))},
    "all, up to an end": {"hidden_prompt": (0, PromptEnd(10)), "hidden_reasoning": (1, ReasoningEnd(100, (END,)))},
    "all": {"hidden_reasoning": (2, ReasoningEnd(100))},
    "before an end": {"hidden_reasoning": (1, ReasoningEnd(2, (END,)))},
}


def drawn(
    model: Any, pools: dict[str, tuple[int, Any]] | None = None, prompts: Any = PROMPTS, **changes: Any
) -> Rollouts:
    states = {name: TailState(layer, pool.tail) for name, (layer, pool) in (pools or {}).items()}
    known = {"max_new_tokens": NEW, "stop_ids": STOP, "seed": 1, "samples_per_prompt": 6, "states": states} | changes
    return generate(model, prompts, **known)


def differ(model: Any, rollouts: Rollouts, pools: dict[str, tuple[int, Any]]) -> float:
    """Largest difference from a scoring pass, as a share of the states' size."""
    with torch.no_grad():
        _, means = pooled_states(model, rollouts, [Pool(layer, pool(rollouts)) for layer, pool in pools.values()])
    gaps = [(rollouts.streams[k] - x).abs().max() / x.abs().max() for k, x in zip(pools, means, strict=True)]
    return float(max(gaps))


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("asked", POOLS)
def test_they_are_those_of_the_scoring_pass(name: str, asked: str) -> None:
    model, pools = tiny(name), POOLS[asked]
    plain, found = drawn(model), drawn(model, pools)
    assert differ(model, found, pools) <= TOLERANCE
    assert all(x.dtype == torch.float32 and not x.is_inference() for x in found.streams.values())
    assert torch.equal(found.ids, plain.ids)
    assert float((found.logp_behaviour - plain.logp_behaviour).abs().max()) <= LOGP_TOLERANCE
    assert len(found.length.unique()) > 2  # rows leave the batch one after the other


def test_the_end_of_the_reasoning_is_in_some_rows_and_matters() -> None:
    model = tiny("llama")
    found = drawn(model, POOLS["all, up to an end"], temperature=3.0)
    with_end = (found.ids == END) & found.action
    assert with_end.any(1).sum() >= 1
    whole = drawn(model, {"hidden_reasoning": (1, ReasoningEnd(100))}, temperature=3.0)
    gap = (whole.streams["hidden_reasoning"] - found.streams["hidden_reasoning"]).abs().amax(1)
    assert torch.equal(gap > 0, with_end.any(1))
    assert differ(model, found, POOLS["all, up to an end"]) <= TOLERANCE


@pytest.mark.parametrize("changes", [{"batch_tokens": 40}, {"temperature": 0.0}, {"top_p": 0.9}, {"max_new_tokens": 1}])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_splits_and_ways_of_drawing_do_not_matter(name: str, changes: dict[str, Any]) -> None:
    model, pools = tiny(name), POOLS["a few of each"]
    found = drawn(model, pools, **changes)
    assert differ(model, found, pools) <= TOLERANCE
    order = [2, 0, 3, 1]
    ids = torch.cat([torch.arange(6) + 6 * k for k in order])
    other = drawn(model, pools, [PROMPTS[k] for k in order], sample_ids=ids, **changes)
    for stream, x in found.streams.items():
        assert float((other.streams[stream] - x[ids]).abs().max()) <= TOLERANCE * float(x.abs().max())


class Products(TorchDispatchMode):
    """Counts matrix products and the rows that go into them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm", "baddbmm_")
        return func(*args, **(kwargs or {}))


def products(model: Any, pools: dict[str, tuple[int, Any]] | None, new: int = NEW) -> int:
    drawn(model, pools)  # probes are done
    with Products() as found:
        drawn(model, pools, [[5, 6, 7]], max_new_tokens=new, stop_ids=[0], samples_per_prompt=2)
    return found.calls


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_it_costs_in_matrix_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean of prompts nothing, one of responses a forward of the trunk more; without either no hook is set."""
    model = tiny(name)
    plain, longer = products(model, None), products(model, None, NEW + 1)
    one_token = longer - plain
    assert one_token > 5
    assert products(model, {"hidden_prompt": (1, PromptEnd(2))}) == plain
    assert products(model, POOLS["a few of each"]) == plain + one_token - 1  # the head is not asked about it
    monkeypatch.setattr(decode_step, "layer_states", None)
    assert products(model, None) == plain
    with pytest.raises(TypeError):
        products(model, {"hidden_prompt": (1, PromptEnd(2))})


def test_the_list_of_products_gives_them_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk of Llama's form stays on its short way; no module is called for a token."""
    model, calls, plain = tiny("llama"), [], Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda self, *given: calls.append(len(given[3])) or plain(self, *given))
    assert step_of(model, NEW) is not None
    calls.clear()
    found = drawn(model, POOLS["a few of each"], [[5, 6, 7]], stop_ids=[0])
    assert calls == [2] * NEW  # two layers are asked about; the last token is the one more
    assert differ(model, found, POOLS["a few of each"]) <= TOLERANCE


def test_a_hook_of_the_user_hands_over_to_the_modules() -> None:
    model, calls = tiny("llama"), []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    drawn(model)
    calls.clear()
    found = drawn(model, POOLS["a few of each"], [[5, 6, 7]], stop_ids=[0])
    assert len(calls) == NEW + 1  # the prompts, and each token
    assert differ(model, found, POOLS["a few of each"]) <= TOLERANCE


def test_a_list_of_products_with_other_states_between_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Step.__call__

    def off_by_one(self: Step, token: Tensor, position: int, attend: Any, seen: Any) -> Tensor:
        return plain(self, token, position, attend, {n + 1: x for n, x in seen.items()})

    monkeypatch.setattr(Step, "__call__", off_by_one)
    assert step_of(tiny("llama"), NEW) is None


def test_half_precision_is_averaged_in_float32() -> None:
    model = tiny("llama").to(torch.bfloat16)
    found = drawn(model, POOLS["a few of each"])
    assert {x.dtype for x in found.streams.values()} == {torch.float32}


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="no layer 3"):
        drawn(tiny("llama"), {"hidden_prompt": (3, PromptEnd(1))})


@pytest.mark.parametrize("most", [1, 3, 9, 50])
@pytest.mark.parametrize("ends", [(), (1,), (1, 1), (1, 0, 1)])
def test_a_running_mean_is_that_of_the_pool(most: int, ends: tuple[int, ...]) -> None:
    rows, new = 64, 9
    generator = torch.Generator().manual_seed(most)
    ids = torch.randint(0, 2, (rows, new + 2), generator=generator)
    length = torch.randint(3, new + 3, (rows,), generator=generator)
    states = torch.randn(rows, new + 2, 4, generator=generator)
    rollouts = Rollouts.of(ids, length, torch.full((rows,), 2))
    mean = RunningMean(Tail("response", most, ends), rows, new)
    for t in range(2, int(length.max())):
        there = (length > t).nonzero()[:, 0]
        mean.add(ids[:, 2 : t + 1].t(), there, states[there, t])
    tokens = ReasoningEnd(most, ends)(rollouts).float()
    wanted = (states * tokens[..., None]).sum(1) / tokens.sum(1).clamp(min=1)[:, None]
    assert float((mean() - wanted).abs().max()) <= SUM_TOLERANCE
    assert mean.ring.shape[1] == len(ends) + (most if most < new else 0)  # never all of a response


def test_nothing_wanted_is_nothing() -> None:
    none = Capture({}, 0, 3, 4)
    assert (none.layers, none.grows, none.means()) == ([], False, {})
