"""Hidden states from the sampler in the loop: when, that they are the scoring pass's, and what falls back to it."""

from dataclasses import replace
from typing import Any

import pytest
import rl_toys as toys
import torch
from distributed_cases import bloom

from steersman.core.component import START, Moment, Pass, Stage
from steersman.core.errors import RunStopped
from steersman.core.types import Rollouts
from steersman.objective.advantage.internal import PromptEnd, ReasoningEnd
from steersman.objective.advantage.poise import InternalValue
from steersman.objective.components_advantage import UniformCredit
from steersman.objective.components_policy import Clipped
from steersman.objective.select.groups import DynamicSampling
from steersman.objective.select.tokens import TopEntropy
from steersman.train import collect
from steersman.train.captured import by_sampler, drawing_with, taken
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Averaged
from steersman.train.optimise import Optimiser
from steersman.train.passes import OWN_PASSES, Passes

STATES = 2e-6
"""Of states of size 3, by two ways through the model, in float32."""
PARAMETERS = 3e-5
"""After four updates of 2e-3 from advantages that differ by rounding."""
BOTH = InternalValue(features=("prompt", "reasoning"), pool=3, min_examples=6)
POOLS = {"hidden_prompt": PromptEnd(3), "hidden_reasoning": ReasoningEnd(3)}


class Asks(Stage):
    """Asks for one pass."""

    pass_: Any = None

    def passes(self) -> tuple[Pass, ...]:
        return (self.pass_,)


def asked(*stages: Stage) -> list[str]:
    return sorted(by_sampler(stages, OWN_PASSES, START))


def mean(**changes: Any) -> Stage:
    known = {"stream": "hidden_prompt", "quantity": "hidden", "layer": 0, "pool": PromptEnd(2)}
    return Asks(pass_=Pass(**(known | changes)))


def test_the_sampler_is_asked_where_nothing_else_needs_a_forward():
    assert asked(BOTH) == ["hidden_prompt", "hidden_reasoning"]
    assert asked(InternalValue(features=("prompt",))) == ["hidden_prompt"]
    assert asked(InternalValue()) == []  # its entropies come with a forward, and the states with them
    assert asked(InternalValue(features=("prompt", "entropy"), entropy="segments")) == []
    assert asked(TopEntropy(), BOTH) == ["hidden_prompt", "hidden_reasoning"]
    assert asked(TopEntropy(), InternalValue(features=("prompt", "entropy"))) == ["hidden_prompt"]  # there already
    assert asked(mean()) == ["hidden_prompt"]
    for change in (
        {"pool": lambda r: r.action},  # may be any tokens
        {"pool": PromptEnd(2, predicted=True)},
        {"rows": lambda r: r.valid},
        {"by": "reference"},
        {"before": lambda r, rows: [[1]] * len(r)},
        {"quantity": "entropy", "layer": None, "stream": "entropy_prompt"},
    ):
        assert asked(mean(**change)) == [], change
    two = by_sampler((mean(), mean(layer=1)), OWN_PASSES, START)
    assert two["hidden_prompt"].layer == 0  # the second stage's is another pass, and is run when its turn comes


def test_nothing_asked_leaves_the_drawing_as_it_is():
    plain = toys.drawing()
    assert drawing_with(plain, {}) is plain
    assert plain.states == {}


def collected(made: Any) -> Rollouts:
    """A step's batch with all of its streams."""
    passes = Passes(made.engine, made.world.encode, 0.8, made.engine.context)
    return collect.collect(made.engine, made.world, made.stages, passes, made.settings, Moment(7, 0, 6), []).rollouts


def invalid(rollouts: Rollouts) -> torch.Tensor:
    return rollouts.ids[:, 1] % 3 == 0


@pytest.mark.parametrize("how", ["llama", "padded trunk", "two rows a batch"])
def test_the_streams_are_those_of_the_scoring_pass(how: str) -> None:
    made = toys.learner("poise", world=toys.ToyWorld(invalid), micro=24)
    if how == "padded trunk":
        model = bloom()
        made.engine = LocalEngine(model, Optimiser(model.named_parameters(), toys.ADAMW, 6), micro_tokens=24)
    if how == "two rows a batch":
        made.settings = replace(made.settings, drawing=replace(made.settings.drawing, batch_tokens=30))
    found = collected(made)
    layer = made.stages[0].passes()[0].layer
    quantities = {name: Averaged("hidden", layer, pool) for name, pool in POOLS.items()}
    told = made.engine.score(found, "policy", list(quantities.values()), 0.8)
    assert 0 < int(found.valid.sum()) < len(found)
    for name, q in quantities.items():
        gap = (found.streams[name] - told[q])[found.valid]
        assert float(gap.abs().max()) <= STATES * float(told[q].abs().max())
        assert not found.streams[name][~found.valid].any()


def run(made: Any) -> list[float]:
    """Tokens scored for each of two batches, which serve two updates each."""
    told = [made.step(i) for i in range(4)]
    return [t["tokens_scored"] for t in told if "tokens_scored" in t]


def test_no_scoring_pass_is_run_and_the_run_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    sampler = toys.learner("poise", say=said.append, old="sampler")
    assert run(sampler) == [0.0, 0.0]
    assert sorted(said)[0] == "hidden_prompt comes from the sampler: no scoring pass is run for it"
    assert len(said) == len(set(said))
    monkeypatch.setattr(collect, "by_sampler", lambda *_: {})
    scored = toys.learner("poise", old="sampler")
    assert run(scored)[0] > 0
    gap = (toys.parameters(sampler) - toys.parameters(scored)).abs().max()
    assert float(gap) <= PARAMETERS
    assert float((toys.parameters(sampler) - toys.parameters(toys.learner("poise"))).abs().max()) > 100 * PARAMETERS


def test_other_methods_ask_the_sampler_for_nothing() -> None:
    for method in ("grpo", "dapo", "remembers"):
        made = toys.learner(method)
        drawn = toys.record(made.engine)
        made.step(0)
        assert all(r.streams == {} for r in drawn.values())


def test_every_round_of_refills_has_them() -> None:
    stages = [DynamicSampling(rounds=3), *toys.PROBED]
    made = toys.learner({"stages": stages, "loss": Clipped(), "epochs": 2}, old="sampler")
    drawn = toys.record(made.engine)
    assert made.step(0)["tokens_scored"] == 0
    assert len(drawn) > 1
    assert all(r.streams.keys() == POOLS.keys() for r in drawn.values())


def test_an_engine_that_gives_none_has_them_scored() -> None:
    made = toys.learner("poise", old="sampler")
    plain = made.engine.sample
    made.engine.sample = lambda prompts, drawing, *at: plain(prompts, replace(drawing, states={}), *at)
    assert made.step(0)["tokens_scored"] > 0


def test_a_second_stage_with_the_same_stream_of_another_layer_gets_its_own() -> None:
    other = InternalValue(features=("prompt",), pool=3, min_examples=6, layer=0)
    made = toys.learner({"stages": [BOTH, other, UniformCredit()], "loss": Clipped()})
    found = collected(made)
    embedded = made.engine.score(found, "policy", [Averaged("hidden", 0, PromptEnd(3))])
    assert torch.equal(found.streams["hidden_prompt"], next(iter(embedded.values())))


def test_states_that_are_no_numbers_stop_the_run() -> None:
    rollouts = Rollouts.of(torch.zeros(2, 4, dtype=torch.int64), torch.tensor([4, 4]), torch.tensor([2, 2]))
    broken = rollouts.with_streams(hidden_prompt=torch.tensor([[1.0, 2.0], [1.0, torch.nan]]))
    passes = Passes(None, lambda x: x, 1.0, None)
    with pytest.raises(RunStopped, match="row 1: the sampler gives NaN"):
        taken(passes, by_sampler((mean(),), OWN_PASSES, START), broken)
    kept = taken(passes, {}, broken)
    assert kept is broken
    assert passes.done == {}
