"""What must not change a training run: micro-batches, padding, chunks, recompute, row order, resume, global seeds.

Each learner is trained on the same fixed data; parameters after three steps are compared by their largest and their
mean difference, and a run that was resumed is compared bit by bit, metrics and moments included.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_language as tiny
import torch
from torch import Tensor

from steersman.core import noise
from steersman.core.types import Pairs, Rollouts
from steersman.language import head
from steersman.objective.components import DPO, KTO, RDPO, BradleyTerry
from steersman.reward.model import head_of
from steersman.store.checkpoint import flatten
from steersman.store.run import RunDir
from steersman.train.fit import Learner, fit
from steersman.train.loop import Budget, Habits
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.preference import PreferenceLearner, summed_logp
from steersman.train.reward_model import RewardLearner
from steersman.train.sft import SftLearner
from steersman.train.unpaired import UnpairedLearner, mismatched

LARGEST, MEAN = 2e-5, 2e-7  # difference of parameters of size 0.15 after three steps of 1e-3 with eps 1e-4
STEPS, LONG = 3, 6
LIKED = torch.tensor([True, False, True, True, False, False, True, False])
# eps well above the noise of float32 gradients: AdamW divides by |gradient|, so rounding would decide about signs.
ADAMW = AdamW(lr=1e-3, eps=1e-4, schedule="cosine", warmup=0.3, weight_decay=0.1)


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to disk is what `store` tests; here it would only take time."""
    monkeypatch.setattr("steersman.store.files.os.fsync", lambda _: None)


@dataclass(frozen=True)
class Way:
    """How the same training is carried out."""

    micro: int = 64
    extra: int = 0
    recompute: bool = False
    order: tuple[int, ...] = tuple(range(8))


def reward_policy() -> Any:
    from transformers import LlamaForSequenceClassification

    trunk = tiny.language_model()
    config = trunk.config
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(trunk.model.state_dict())
    model.model.embed_tokens.padding_idx = None
    noise.normal_([("head", head_of(model).weight)], 0.25, 0, "head")
    return model.eval()


def data(way: Way) -> tuple[Pairs, Tensor]:
    """Pairs, wider by empty columns and with another filling of them, in the order asked for."""
    label = torch.tensor([1.0, 0, 1, 0.25, 1, 0, 1, 0.5])
    weight = torch.tensor([1.0, 2, 1, 1, 0.5, 1, 3, 1])
    pairs, order = tiny.make_pairs(label, weight, way.extra), torch.tensor(way.order)
    sides = []
    for side in (pairs.first, pairs.second):
        ids = side.ids.clone()
        if way.extra:
            ids[torch.arange(ids.shape[1]) >= side.length[:, None]] = 33
        sides.append(replace(side, ids=ids))
    return replace(pairs, first=sides[0], second=sides[1]).index(order), order


def sft(way: Way) -> Learner:
    pairs, _ = data(way)
    model = _prepared(tiny.language_model(), way)
    return SftLearner(model, pairs.first, _optimiser(model), way.micro, held_out=pairs.second)


def _preference(loss: Any, way: Way) -> Learner:
    pairs, _ = data(way)
    reference = tiny.language_model(1)
    known = tuple(summed_logp(reference, s, 10_000) for s in (pairs.first, pairs.second))
    model = _prepared(tiny.language_model(), way)
    held_out = {"held_out": pairs, "held_out_reference": known}
    return PreferenceLearner(model, pairs, known, loss, _optimiser(model), way.micro, **held_out)  # type: ignore[arg-type]


def dpo(way: Way) -> Learner:
    return _preference(DPO(beta=0.3), way)


def rdpo(way: Way) -> Learner:
    return _preference(RDPO(beta=0.3, flip_rate=0.2), way)


def kto(way: Way) -> Learner:
    pairs, order = data(way)
    rows: Rollouts = pairs.first
    whole, _ = data(replace(way, order=Way().order))
    other = mismatched(whole.first).index(order)  # a row keeps its partner wherever it stands
    reference = tiny.language_model(1)
    scored = summed_logp(reference, rows, 10_000), other, summed_logp(reference, other, 10_000)
    model = _prepared(tiny.language_model(), way)
    held_out = rows, LIKED[order], scored[0]
    return UnpairedLearner(model, rows, LIKED[order], *scored, KTO(beta=0.3), _optimiser(model), way.micro, held_out)


def reward(way: Way) -> Learner:
    pairs, order = data(way)
    model = _prepared(reward_policy(), way)
    margin = torch.linspace(0, 1, 8)[order]
    loss = BradleyTerry(centering=0.01)
    return RewardLearner(model, pairs, loss, _optimiser(model), way.micro, pairs, margin)


def _prepared(model: Any, way: Way) -> Any:
    if way.recompute:
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    return model


def _optimiser(model: Any) -> Optimiser:
    return Optimiser(model.named_parameters(), ADAMW, LONG)


LEARNERS: dict[str, Callable[[Way], Learner]] = {f.__name__: f for f in (sft, dpo, rdpo, kto, reward)}
learners = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS.keys())


def parameters(learner: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


def trained(learner: Learner, order: tuple[int, ...] = Way().order) -> Tensor:
    """Parameters after three steps on all rows but one, whose place in the data is given by `order`."""
    place = {row: i for i, row in enumerate(order)}
    for step in range(STEPS):
        rows = [place[r] for r in range(8) if r != step]
        learner.step(torch.tensor(rows), step)
    return parameters(learner)


def assert_close(found: Tensor, expected: Tensor, start: Tensor) -> None:
    difference = (found - expected).abs()
    assert float((expected - start).abs().mean()) > 100 * MEAN  # it did train
    assert float(difference.max()) <= LARGEST
    assert float(difference.mean()) <= MEAN


@pytest.fixture(scope="module")
def plain() -> dict[str, tuple[Tensor, Tensor]]:
    """Each learner's parameters before and after the plain way."""
    found = {}
    for name, make in LEARNERS.items():
        start = parameters(make(Way())).clone()
        found[name] = start, trained(make(Way())).clone()
    return found


WAYS = {
    "micro 1": Way(micro=1),
    "micro 16": Way(micro=16),
    "micro 10000": Way(micro=10_000),
    "padding": Way(extra=13),
    "recompute": Way(recompute=True),
    "row order": Way(order=(5, 2, 7, 0, 3, 6, 1, 4)),
}


@learners
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_how_it_is_carried_out_does_not_change_the_parameters(
    make: Callable[[Way], Learner], way: Way, plain: dict[str, tuple[Tensor, Tensor]]
) -> None:
    start, expected = plain[make.__name__]
    assert_close(trained(make(way), way.order), expected, start)


@pytest.mark.parametrize("make", [sft, dpo, kto])
def test_chunks_of_the_head_do_not_change_the_parameters(
    make: Callable[[Way], Learner], plain: dict[str, tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles: list[tuple[int, int]] = []
    tiling = head._tiling
    monkeypatch.setattr(head, "_tiling", lambda *known: tiles.append(tiling(*known)) or tiles[-1])
    monkeypatch.setattr(head, "CPU_CHUNK_BYTES", 4 * 50)
    start, expected = plain[make.__name__]
    assert_close(trained(make(Way())), expected, start)
    assert max(rows * columns for rows, columns in tiles) <= 50  # not even one row of the vocabulary at once


@learners
def test_recompute_really_recomputes(make: Callable[[Way], Learner]) -> None:
    calls = []
    for recompute in (False, True):
        learner: Any = make(Way(recompute=recompute, micro=10_000))
        layer = next(m for m in learner.model.modules() if type(m).__name__ == "LlamaMLP")
        count: list[int] = []
        layer.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        learner.step(torch.arange(8), 0)
        calls.append(len(count))
    assert calls[1] == calls[0] + 1


def run(make: Callable[[Way], Learner], path: Path, learner: Learner | None = None) -> tuple[Any, RunDir]:
    learner, run_dir = learner or make(Way(micro=16)), RunDir(path)
    habits = Habits(log_every=2, evaluate_every=3, checkpoint_every=1, keep=LONG)
    fit(learner, Budget(steps=LONG, batch=3, seed=5), run_dir, habits)
    return learner, run_dir


def assert_same(first: tuple[Any, RunDir], second: tuple[Any, RunDir]) -> None:
    """Parameters, moments and metrics, bit by bit."""
    one, two = (flatten(x[0].state_dict()) for x in (first, second))
    assert one[1] == two[1]
    assert one[0].keys() == two[0].keys()
    assert all(torch.equal(one[0][k], two[0][k]) for k in one[0])
    texts = [(x[1].path / "metrics.jsonl").read_bytes() for x in (first, second)]
    assert texts[0] == texts[1]
    assert b"eval/" in texts[0]


@learners
def test_resumed_at_every_step_and_run_twice_it_is_the_same_bit_by_bit(
    make: Callable[[Way], Learner], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    whole = run(make, tmp_path / "whole")
    torch.manual_seed(123)
    np.random.seed(7)
    assert_same(run(make, tmp_path / "again"), whole)
    for step in range(1, LONG):
        folder = tmp_path / f"cut-{step}"
        shutil.copytree(tmp_path / "whole", folder)
        for later in range(step + 1, LONG + 1):
            shutil.rmtree(folder / "ckpt" / f"step-{later:08d}")
        assert_same(run(make, folder), whole)


@learners
def test_training_leaves_the_global_generators_alone(make: Callable[[Way], Learner]) -> None:
    learner = make(Way())
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    learner.step(torch.arange(4), 0)
    learner.evaluate()
    assert torch.equal(before, torch.random.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()
