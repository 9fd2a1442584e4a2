"""flip_rate = "auto": the pilot leaves no trace in the policy, and finds the rate where a policy can learn."""

import json
from pathlib import Path

import pytest
import tiny_language as tiny
import torch

from steersman.core.noise import generator
from steersman.core.types import Pairs, Rollouts
from steersman.objective.components import CDPO, RDPO, PairLoss
from steersman.recipes.flips import settle_flip_rate
from steersman.store.run import RunDir
from steersman.train.loop import Budget
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.preference import PreferenceLearner, summed_logp

PAIRS, FLIPPED = 400, 0.2


@pytest.fixture(scope="module")
def noisy() -> tuple[Pairs, tuple[torch.Tensor, torch.Tensor]]:
    """One prompt token of many; the better response is word 5, the worse word 6, but a fifth are exchanged."""
    prompt = torch.from_numpy(generator(0, "prompts").integers(10, tiny.VOCABULARY, (PAIRS, 1)))
    wrong = torch.from_numpy(generator(0, "flips").random(PAIRS) < FLIPPED)
    better, worse = torch.full((PAIRS, 1), 5), torch.full((PAIRS, 1), 6)
    end = torch.full((PAIRS, 1), tiny.END)
    length, one = torch.full((PAIRS,), 3), torch.ones(PAIRS, dtype=torch.int64)
    sides = [
        Rollouts.of(torch.cat([prompt, torch.where(wrong[:, None], b, a), end], 1), length, one)
        for a, b in ((better, worse), (worse, better))
    ]
    pairs = Pairs(*sides, torch.ones(PAIRS))
    model = tiny.language_model()
    return pairs, (summed_logp(model, pairs.first, 4096), summed_logp(model, pairs.second, 4096))


def settle(noisy, path: Path, loss: PairLoss, said: list[str]):
    pairs, reference = noisy
    model = tiny.language_model()
    before = {n: p.clone() for n, p in model.named_parameters()}

    def build(it: PairLoss) -> PreferenceLearner:
        optimiser = Optimiser(model.named_parameters(), AdamW(lr=3e-3), 20)
        return PreferenceLearner(model, pairs, reference, it, optimiser, 4096)

    found = settle_flip_rate(model, loss, build, Budget(steps=20, batch=64), RunDir(path), said.append)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    return found


def test_it_recovers_the_rate_and_trains_with_the_lower_end(noisy, tmp_path: Path) -> None:
    said: list[str] = []
    loss, found = settle(noisy, tmp_path, RDPO(beta=0.5, flip_rate="auto", max_margin=9.0), said)
    assert found["low"] <= FLIPPED <= found["high"]
    assert found["identified"]
    assert loss == RDPO(beta=0.5, flip_rate=found["low"], max_margin=9.0)
    assert found["judged_on"] == PAIRS // 5
    assert any(f"training with {found['recommended']:.3f}" in line for line in said)


def test_the_estimate_is_kept_and_not_made_again(noisy, tmp_path: Path) -> None:
    file = tmp_path / "flip_rate.json"
    kept = {"value": 0.3, "low": 0.25, "high": 0.35, "recommended": 0.25, "warning": "think", "identified": True}
    file.write_text(json.dumps(kept))
    said: list[str] = []
    loss, found = settle(noisy, tmp_path, CDPO(flip_rate="auto"), said)
    assert (loss, found) == (CDPO(flip_rate=0.25), kept)
    assert said[-1] == "warning: think"
    assert not any("pilot" in line for line in said)
