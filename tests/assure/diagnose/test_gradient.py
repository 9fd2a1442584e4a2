"""A gradient diagnosis of gradients that are known: who is clearest, who is biased, the sentence, the page, JSON."""

import json

import pytest
import torch

from steersman.assure.diagnose.gradient import Shape, as_json, diagnose_gradients
from steersman.assure.diagnose.gradient_page import page, sentence
from steersman.core.errors import UserError

P = 20


def draws(batches: int, first: float, second: float, noise: float, seed: int) -> torch.Tensor:
    """Gradients ~ N((first, second, 0 ...), noise^2)."""
    g = noise * torch.randn(batches, P, generator=torch.Generator().manual_seed(seed))
    g[:, 0] += first
    g[:, 1] += second
    return g


def known(**more: torch.Tensor):
    shape, other = Shape(8, 4), Shape(32, 1)
    seen = {
        shape: {"plain": draws(40, 1, 0, 0.3, 0), "turned": draws(40, 1, 1, 0.3, 1), **more},
        other: {"quiet": draws(40, 1, 0, 0.1, 2), "nothing": draws(40, 0, 0, 0.3, 3)},
    }
    return diagnose_gradients(seen, draws(60, 1, 0, 0.2, 4))


def test_the_clearest_and_the_biased_are_named() -> None:
    found = known()
    assert found.clearest is not None
    assert (found.clearest.estimator, str(found.clearest.shape)) == ("quiet", "32 x 1")
    assert "turned" in {r.estimator for r in found.astray}
    assert "plain" not in {r.estimator for r in found.astray}
    assert sentence(found).startswith("quiet on 32 x 1 has the clearest gradient")
    assert "turned on 8 x 4 (cosine 0.69 [0.63, 0.76])" in sentence(found)
    assert found.rows[1].found.direction.contains(0.5**0.5)
    assert (found.batches, found.reference_batches) == (40, 60)


def test_noise_alone_is_called_noise() -> None:
    seen = {Shape(2, 2): {"nothing": draws(9, 0, 0, 0.3, 3)}}
    found = diagnose_gradients(seen, draws(60, 1, 0, 0.2, 4))
    assert found.clearest is None
    assert "told from noise" in sentence(found)
    assert "<svg" in page(found, {})


def test_json_and_page_hold_every_row() -> None:
    found = known(silent=torch.zeros(40, P))
    told = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert [r["estimator"] for r in told["estimators"]] == ["plain", "turned", "silent", "quiet", "nothing"]
    silent = told["estimators"][2]
    assert silent["silent"] == 1
    assert silent["signal"] == {"value": None, "low": None, "high": None}
    assert silent["spread"]["value"] == 0
    shown = page(found, {"policy": "a <b>"})
    assert "a &lt;b&gt;" in shown
    assert all(name in shown for name in ("plain", "turned", "silent", "quiet", "nothing"))


def test_a_reference_without_a_gradient_is_refused() -> None:
    with pytest.raises(UserError, match="no batch of the reference has a gradient"):
        diagnose_gradients({Shape(2, 2): {"a": draws(9, 1, 0, 0.3, 3)}}, torch.zeros(5, P))
