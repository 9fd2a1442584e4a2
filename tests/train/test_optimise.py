"""The optimiser against AdamW by hand, the schedule against closed forms, clipping, decay, and averages."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from steersman.core.errors import UserError
from steersman.train.optimise import AdamW, Optimiser, mean_metrics

RELATIVE = 1e-12
"""Closed forms in float64."""
FLOAT32 = 1e-6
"""A few float32 steps against the same steps in float64."""


def rates(total: int, **settings: Any) -> list[float]:
    return [AdamW(**settings).rate(s, total) for s in range(total)]


def test_constant_with_warm_up() -> None:
    assert rates(10, lr=2.0, warmup=0.4) == pytest.approx([0.5, 1.0, 1.5, *[2.0] * 7], rel=RELATIVE)
    assert rates(3, lr=2.0) == [2.0] * 3


def test_linear_decay() -> None:
    assert rates(5, lr=1.0, schedule="linear") == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2], rel=RELATIVE)
    assert rates(5, lr=1.0, schedule="linear", final=0.5) == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6], rel=RELATIVE)
    assert rates(6, lr=1.0, schedule="linear", warmup=0.34) == pytest.approx(
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25], rel=RELATIVE
    )


def test_cosine_decay() -> None:
    half = math.sqrt(0.5)
    expected = [1.0, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert rates(4, lr=1.0, schedule="cosine") == pytest.approx(expected, rel=RELATIVE)
    shifted = [0.2 + 0.8 * x for x in expected]
    assert rates(4, lr=1.0, schedule="cosine", final=0.2) == pytest.approx(shifted, rel=RELATIVE)
    assert rates(6, lr=3.0, schedule="cosine", warmup=0.34)[2:] == pytest.approx(
        [3 * x for x in expected], rel=RELATIVE
    )


@given(
    st.integers(1, 200),
    st.sampled_from(["constant", "linear", "cosine"]),
    st.floats(0, 0.99),
    st.floats(0, 1),
    st.floats(1e-8, 10),
)
def test_any_schedule_rises_then_falls_within_its_bounds(
    total: int, schedule: Any, warmup: float, final: float, lr: float
) -> None:
    found = rates(total, lr=lr, schedule=schedule, warmup=warmup, final=final)
    warm = int(warmup * total)
    assert all(0 < r <= lr * (1 + RELATIVE) or (final == 0 and r >= 0) for r in found)
    assert all(a < b for a, b in pairwise(found[:warm]))
    assert all(a >= b - lr * RELATIVE for a, b in pairwise(found[warm:]))
    assert AdamW(lr=lr, schedule=schedule, warmup=warmup, final=final).rate(total, total) == pytest.approx(
        lr if schedule == "constant" else lr * final, rel=1e-9, abs=lr * RELATIVE
    )


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"warmup": 1.0}, {"clip": -1.0}, {"beta1": 1.0}, {"schedule": "wsd"}])
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AdamW(**bad)


def parameters() -> dict[str, Tensor]:
    return {
        "matrix": torch.nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]])),
        "vector": torch.nn.Parameter(torch.tensor([1.0, -1.0])),
        "scalar": torch.nn.Parameter(torch.tensor(2.0)),
        "frozen": torch.nn.Parameter(torch.tensor([5.0]), requires_grad=False),
    }


def gradient(name: str, step: int) -> Tensor:
    shape = parameters()[name].shape
    return torch.linspace(-1, 2, max(math.prod(shape), 1)).reshape(shape) * (step + 1) + 0.1


def by_hand(settings: AdamW, steps: int) -> dict[str, Tensor]:
    """Algorithm 2 of Loshchilov and Hutter 2019 in float64, with clipping of the whole gradient."""
    values = {n: p.detach().double() for n, p in parameters().items() if n != "frozen"}
    m, v = ({n: torch.zeros_like(p) for n, p in values.items()} for _ in range(2))
    for step in range(steps):
        grads = {n: gradient(n, step).double() for n in values}
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
        scale = min(1.0, settings.clip / (norm + 1e-6)) if settings.clip else 1.0
        rate = settings.rate(step, steps)
        for n, p in values.items():
            g = grads[n] * scale
            m[n] = settings.beta1 * m[n] + (1 - settings.beta1) * g
            v[n] = settings.beta2 * v[n] + (1 - settings.beta2) * g * g
            first, second = m[n] / (1 - settings.beta1 ** (step + 1)), v[n] / (1 - settings.beta2 ** (step + 1))
            decay = settings.weight_decay if p.ndim > 1 else 0.0
            values[n] = p - rate * decay * p - rate * first / (second.sqrt() + settings.eps)
    return values


SETTINGS = {
    "plain": AdamW(lr=0.1, clip=0.0),
    "clipped": AdamW(lr=0.1, clip=0.5, eps=0.1),
    "loose clip": AdamW(lr=0.1, clip=1e6, eps=0.1),
    "decay": AdamW(lr=0.1, weight_decay=0.3, clip=0.0),
    "all": AdamW(lr=0.1, schedule="cosine", warmup=0.4, beta1=0.8, beta2=0.9, eps=1e-2, weight_decay=0.2, clip=2.0),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_equal_the_published_algorithm(name: str) -> None:
    settings, steps, p = SETTINGS[name], 5, parameters()
    optimiser = Optimiser(p.items(), settings, steps)
    for step in range(steps):
        for n in ("matrix", "vector", "scalar"):
            p[n].grad = gradient(n, step)
        norm = math.sqrt(sum(float(gradient(n, step).square().sum()) for n in ("matrix", "vector", "scalar")))
        found = optimiser.apply(step)
        assert float(found["grad_norm"]) == pytest.approx(norm, rel=FLOAT32), "the norm before clipping"
        assert found["lr"] == settings.rate(step, steps)
        assert all(x.grad is None for x in p.values())
    for n, expected in by_hand(settings, steps).items():
        torch.testing.assert_close(p[n].detach().double(), expected, rtol=FLOAT32 * 10, atol=FLOAT32)
    assert p["frozen"].item() == 5.0


def test_only_matrices_decay() -> None:
    p = parameters()
    optimiser = Optimiser(p.items(), AdamW(lr=0.1, weight_decay=0.5), 1)
    for x in p.values():
        if x.requires_grad:
            x.grad = torch.zeros_like(x)
    optimiser.apply(0)
    assert torch.equal(p["vector"].detach(), parameters()["vector"].detach())
    assert torch.equal(p["scalar"].detach(), parameters()["scalar"].detach())
    torch.testing.assert_close(p["matrix"].detach(), parameters()["matrix"].detach() * 0.95, rtol=FLOAT32, atol=0)


def test_a_parameter_without_a_gradient_stays() -> None:
    p = parameters()
    optimiser = Optimiser(p.items(), AdamW(lr=0.1), 1)
    p["vector"].grad = torch.ones(2)
    assert float(optimiser.apply(0)["grad_norm"]) == pytest.approx(math.sqrt(2), rel=FLOAT32)
    assert torch.equal(p["matrix"].detach(), parameters()["matrix"].detach())
    assert not torch.equal(p["vector"].detach(), parameters()["vector"].detach())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_reported_as_it_is(bad: float) -> None:
    p = parameters()
    optimiser = Optimiser(p.items(), AdamW(lr=0.1), 1)
    p["vector"].grad = torch.tensor([1.0, bad])
    norm = float(optimiser.apply(0)["grad_norm"])
    assert math.isnan(norm) if math.isnan(bad) else norm == bad


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="optim: no parameter is trainable"):
        Optimiser([("frozen", parameters()["frozen"])], AdamW(), 1)


def test_metrics_average_over_the_rows_that_have_them() -> None:
    rows = [{"a": torch.tensor(1.0), "b": 2.0}, {"a": torch.tensor(2, dtype=torch.int64)}, {"a": 6.0, "c": math.nan}]
    found = mean_metrics(rows)
    assert (found["a"], found["b"], list(found)) == (3.0, 2.0, ["a", "b", "c"])
    assert math.isnan(found["c"])
    assert mean_metrics([]) == {}


def test_metrics_average_in_float64() -> None:
    tenth = torch.tensor(0.1, dtype=torch.bfloat16)
    assert mean_metrics([{"a": tenth}] * 3)["a"] == pytest.approx(float(tenth), rel=RELATIVE)
    assert mean_metrics([{"a": 2.0**30 + 1}, {"a": 2.0**30}])["a"] == 2.0**30 + 0.5
    assert mean_metrics([{"a": torch.ones((), requires_grad=True)}])["a"] == 1.0
