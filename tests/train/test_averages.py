"""Averages over tokens as planned passes: the plain model's numbers, one forward for all, however rows are cut."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import rl_toys as toys
import torch
from torch import Tensor

from steersman.core.component import Pass, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Averaged, OfLayer
from steersman.train.optimise import Optimiser
from steersman.train.passes import Passes, check_parts
from tests.language.models import RAGGED, plain_logp, rows, tiny

TOLERANCE = 2e-5
"""States and entropies of size 5, by two ways through the model."""
LAYER = 1


@dataclass(frozen=True)
class Last:
    """The last `n` tokens of the prompts, without the first of a row."""

    n: int
    first: bool = True

    def __call__(self, rollouts: Rollouts) -> Tensor:
        column = torch.arange(rollouts.ids.shape[1])
        begin = (rollouts.prompt_length - self.n).clamp(min=0 if self.first else 1)[:, None]
        return (column >= begin) & (column < rollouts.prompt_length[:, None])


def odd(rollouts: Rollouts) -> Tensor:
    return rollouts.action & (rollouts.ids % 2 == 1)


class Averages(Stage):
    """Asks for averages beside what it needs."""

    kind: Literal["averages"] = "averages"
    needs = ("logp_old", "entropy")

    def passes(self) -> tuple[Pass, ...]:
        return (
            Pass("hidden_prompt", quantity="hidden", layer=LAYER, pool=Last(3)),
            Pass("hidden_reasoning", quantity="hidden", layer=0.5, pool=odd),
            Pass("entropy_prompt", quantity="entropy", pool=Last(3, first=False)),
        )


def engine(micro_tokens: int = 4096) -> LocalEngine:
    model = tiny("llama")
    return LocalEngine(model, Optimiser(model.named_parameters(), toys.ADAMW, 1), micro_tokens=micro_tokens)


def planned(micro_tokens: int = 4096) -> tuple[Rollouts, list[Any]]:
    """The rollouts after the passes of `Averages`, and how often the trunk ran."""
    made, given, calls = engine(micro_tokens), rows(*RAGGED), []
    made.score(given, "policy", ["logp"])
    handle = made.policy.model.register_forward_hook(lambda *_: calls.append(1))
    found = Passes(made, lambda x: x, 0.8, None).before(Averages(), given, lambda r: [{}] * len(r))
    handle.remove()
    return found, calls


def mean(states: Tensor, tokens: Tensor) -> Tensor:
    tokens = tokens.float()
    return (states * tokens[..., None]).sum(1) / tokens.sum(1).clamp(min=1)[:, None]


def test_averages_are_those_of_the_plain_model():
    found, _ = planned()
    model, given = tiny("llama"), rows(*RAGGED)
    states = torch.zeros(*given.ids.shape, 32)
    spread = torch.zeros(given.ids.shape)
    with torch.no_grad():
        for n, length in enumerate(given.length.tolist()):
            out = model(given.ids[n : n + 1, :length], output_hidden_states=True, use_cache=False)
            states[n, :length] = out.hidden_states[LAYER][0]
            log_p = (out.logits[0, :-1] / 0.8).log_softmax(-1)
            spread[n, 1:length] = -(log_p.exp() * log_p).sum(-1)
        logp, entropy = plain_logp(model, given, 0.8)
    assert float((found.streams["hidden_prompt"] - mean(states, Last(3)(given))).abs().max()) <= TOLERANCE
    assert float((found.streams["hidden_reasoning"] - mean(states, odd(given))).abs().max()) <= TOLERANCE
    before = Last(3, first=False)(given)
    wanted = mean(spread[..., None], before)[:, 0]
    assert float((found.streams["entropy_prompt"] - wanted).abs().max()) <= TOLERANCE
    assert not found.streams["entropy_prompt"][given.prompt_length == 1].any()
    assert float((found.streams["logp_old"] - logp).abs().max()) <= TOLERANCE
    assert float((found.streams["entropy"] - entropy).abs().max()) <= TOLERANCE


def test_everything_comes_out_of_one_forward_however_the_rows_are_cut():
    whole, calls = planned()
    assert len(calls) == 1
    cut, calls = planned(micro_tokens=25)
    assert len(calls) > 3
    for name, x in whole.streams.items():
        assert float((cut.streams[name] - x).abs().max()) <= TOLERANCE, name


def test_without_a_row_and_without_log_probs():
    made, given = engine(), rows(*RAGGED)
    none = Passes(made, lambda x: x, 1.0, None).before(Averages(), given.index(slice(0, 0)), lambda r: [])
    assert none.streams["hidden_prompt"].ndim == 2
    assert len(none.streams["hidden_prompt"]) == 0
    average, layer = Averaged("hidden", LAYER, Last(3)), OfLayer(0)
    told = made.score(given, "policy", [average, layer])
    assert told.keys() == {average, layer}
    embedded = made.policy.get_input_embeddings()(given.ids).detach()
    for n, row in enumerate(given.action):
        columns = row.nonzero()[:, 0]
        assert torch.equal(told[layer][n, columns], embedded[n, columns - 1])
        assert not told[layer][n][~row].any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Pass("entropy_prompt", quantity="logp", pool=odd), "average of 'logp'"),
        (Pass("entropy", quantity="entropy", pool=odd), "a stream of tokens"),
        (Pass("entropy", quantity="entropy", layer=1), "a layer of 'entropy'"),
    ],
)
def test_what_has_no_average_is_refused_before_any_compute(wrong, message):
    class Asks(Stage):
        def passes(self) -> tuple[Pass, ...]:
            return (wrong,)

    with pytest.raises(UserError, match=rf"stages\[0\]: Asks asks for .*{message}"):
        check_parts([Asks()], [], (), critic=False)


def test_tokens_that_are_no_mask_or_padding_are_refused():
    made, given = engine(), rows(*RAGGED)
    for pool, message in ((lambda r: r.ids, "averaged are torch.int64"), (lambda r: r.ids > -1, "is padding")):
        with pytest.raises(UserError, match=message):
            made.score(given, "policy", [Averaged("hidden", None, pool)])
    with pytest.raises(UserError, match="no layer 3"):
        made.score(given, "policy", [Averaged("hidden", 3, odd)])
