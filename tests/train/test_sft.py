"""Supervised fine-tuning: the textbook loss, its two averages, weights of rows, held-out perplexity."""

import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import tiny_language as tiny
import torch
from torch import Tensor

from steersman.core.types import Rollouts
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.sft import SftLearner

CLOSE = 1e-5  # sums of 34 float32 log-probs in another order
Reduce = Literal["token_mean", "seq_mean_token_mean"]


class Recorder(Optimiser):
    """Keeps the gradients of the last step instead of moving anything."""

    def apply(self, step: int) -> dict[str, Tensor | float]:
        self.seen = [p.grad.clone() for p in self.parameters if p.grad is not None]
        for p in self.parameters:
            p.grad = None
        return {}


def learner(model: Any, rows: Rollouts, reduce: Reduce = "token_mean", micro: int = 30, **known: Any) -> SftLearner:
    return SftLearner(model, rows, Recorder(model.named_parameters(), AdamW(), 1), micro, reduce=reduce, **known)


def expected(model: Any, rows: Rollouts, reduce: Reduce) -> Tensor:
    """The weighted mean by hand."""
    logp, tokens = tiny.textbook_logp(model, rows), rows.action.sum(1)
    if reduce == "token_mean":
        return -(rows.weight * logp).sum() / (rows.weight * tokens).sum()
    return -(rows.weight * logp / tokens).sum() / rows.weight.sum()


@pytest.mark.parametrize("reduce", ["token_mean", "seq_mean_token_mean"])
@pytest.mark.parametrize("weight", [torch.ones(8), torch.tensor([3.0, 1, 0, 1, 0.5, 1, 1, 2])])
def test_loss_and_gradient_are_the_textbooks(reduce: Reduce, weight: Tensor) -> None:
    model = tiny.language_model()
    rows = replace(tiny.responses(tiny.FIRST, 1), weight=weight)
    it = learner(model, rows, reduce)
    metrics = it.step(torch.arange(8), 0)
    truth = expected(model, rows, reduce)
    assert float(metrics["loss"]) == pytest.approx(truth.item(), abs=CLOSE)
    assert metrics["tokens"] == float(rows.length.sum())
    truth.backward()
    for found, p in zip(it.optimiser.seen, it.optimiser.parameters, strict=True):  # type: ignore[attr-defined]
        torch.testing.assert_close(found, p.grad, atol=CLOSE, rtol=0)


def test_prompt_and_padding_teach_nothing() -> None:
    model = tiny.language_model()
    rows = tiny.responses(tiny.FIRST, 1, extra=5)
    ids = rows.ids.clone()
    ids[torch.arange(ids.shape[1]) >= rows.length[:, None]] = 17
    one, two = learner(model, rows), learner(model, replace(rows, ids=ids))
    assert float(one.step(torch.arange(8), 0)["loss"]) == float(two.step(torch.arange(8), 0)["loss"])


def test_evaluation_is_nats_per_token_and_perplexity() -> None:
    model = tiny.language_model()
    rows, held_out = tiny.responses(tiny.FIRST, 1), tiny.responses(tiny.SECOND, 2)
    found = learner(model, rows, held_out=held_out).evaluate()
    nats = float(expected(model, held_out, "token_mean").detach())
    assert found["loss"] == pytest.approx(nats, abs=CLOSE)
    assert found["perplexity"] == pytest.approx(math.exp(nats), rel=CLOSE)
    assert learner(model, rows).evaluate() == {}


def test_it_learns_what_it_is_shown() -> None:
    model, rows = tiny.language_model(), tiny.responses(tiny.FIRST, 1)
    it = SftLearner(model, rows, Optimiser(model.named_parameters(), AdamW(lr=0.03), 40), 1000)
    losses = [float(it.step(torch.arange(8), i)["loss"]) for i in range(40)]
    assert losses[0] > 3.0 > 0.5 > losses[-1]
