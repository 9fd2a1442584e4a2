"""Part B of the rDPO study on a miniature world: it runs, resumes, and its measures can say yes, no and open."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steersman.language.build import SmallModel, build_model, train_tokenizer
from steersman.language.load import load_model
from steersman.language.save import save_model
from steersman.store.checkpoint import save_checkpoint
from steersman.store.run import RunDir
from steersman.studies.rdpo import sentiment, sentiment_claims, sentiment_show, sentiment_world
from steersman.study.declare import Cell, Result
from steersman.task.sentiment import Gold

Artefacts = dict[str, Path]
TEXTS = [f"{a} film is {b} and {c} number {i}" for i, (a, b, c) in enumerate(
    (a, b, c) for a in ("the", "this", "that", "one") for b in ("great", "dull", "warm", "awful")
    for c in ("moving", "boring", "slow", "fun")
)]  # fmt: skip
SMALL = {"labels": "bradley_terry", "flip_rate": 0.3, "steps": 4, "batch": 8, "evaluate_every": 2}


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    root = tmp_path_factory.mktemp("artefacts")
    places = {name: root / name for name in ("gold", "base", "world")}
    terms = ("awful", "boring", "dull", "fun", "great", "moving", "slow", "warm")
    weight = np.array([-2.0, -2, -2, 2, 2, 2, -2, 2])
    gold = Gold(terms, np.ones(len(terms)), weight, 0.1, 1.0)
    gold.save(places["gold"])
    tokenizer = train_tokenizer(TEXTS, 300, context=64)
    model = build_model(SmallModel(width=16, layers=1, heads=2, mlp=16, context=64), len(tokenizer), seed=0)
    save_model(model, tokenizer, places["base"] / "model")
    heads = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    prompts = [[tokenizer.eos_token_id, *ids[:5]] for ids in heads]
    state: dict[str, Any] = {"test_prompts": torch.tensor(prompts[48:])}
    for name, chosen, each in (
        ("train", prompts[:32], 4),
        ("validation", prompts[32:48], 4),
        ("test", prompts[48:], 1),
    ):
        state[name] = sentiment_world._scored(model, tokenizer, gold, chosen, each, name)
    save_checkpoint(places["world"], 0, state)
    return places


def cell(arm: sentiment_claims.Arm = sentiment_claims.RDPO, seed: int = 0, **task: Any) -> Cell:
    return Cell(sentiment_claims.PART, arm, {**SMALL, **task}, seed)


def test_a_cell_runs_and_repeats_bit_for_bit(artefacts: Artefacts, tmp_path: Path) -> None:
    one = sentiment.run(cell(), RunDir(tmp_path / "a"), artefacts)
    two = sentiment.run(cell(), RunDir(tmp_path / "b"), artefacts)
    assert one == two
    assert [row["step"] for row in one["course"]] == [0, 2, 4]
    assert one["course"][0]["kl"] == 0.0
    assert one["last"].keys() >= {"gold", "win_rate", "kl", "accuracy_clean", "likelihood"}
    assert one["last"]["kl"] >= -1.0
    strip = one["strip"]
    assert all(len(t) == p + len(r) for t, p, r in zip(
        strip["tokens"], strip["prompt_tokens"], strip["log_ratio"], strict=True
    ))  # fmt: skip


def test_an_interrupted_cell_ends_as_the_uninterrupted_one(
    artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sentiment.run(cell(seed=1), RunDir(tmp_path / "whole"), artefacts)
    step = sentiment.PreferenceLearner.step
    calls = {"left": 3}

    def interrupted(self: Any, rows: Any, number: int) -> Any:
        calls["left"] -= 1
        if calls["left"] < 0:
            raise KeyboardInterrupt
        return step(self, rows, number)

    monkeypatch.setattr(sentiment.PreferenceLearner, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sentiment.run(cell(seed=1), RunDir(tmp_path / "cut"), artefacts)
    monkeypatch.setattr(sentiment.PreferenceLearner, "step", step)
    assert sentiment.run(cell(seed=1), RunDir(tmp_path / "cut"), artefacts) == whole


def test_every_arm_of_the_full_mode_builds_its_loss(artefacts: Artefacts, tmp_path: Path) -> None:
    arms = {c.arm.name: c.arm for c in sentiment_claims.cells("full")}
    for name, arm in arms.items():
        short = {"steps": 1, "evaluate_every": 1}
        result = sentiment.run(cell(arm, seed=2, **short), RunDir(tmp_path / name.replace(" ", "-")), artefacts)
        assert np.isfinite(result["last"]["gold"])


def test_labels_are_flipped_at_their_rate_and_alike_for_all_arms(artefacts: Artefacts) -> None:
    world = sentiment_world.load_world(artefacts["world"])
    noisy, rate = sentiment.make_labels(world, SMALL, False, 0)
    clean, _ = sentiment.make_labels(world, SMALL, True, 0)
    assert rate == 0.3
    assert (noisy["validation"] == clean["validation"]).all()
    share = float((noisy["train"] != clean["train"]).mean())
    n = len(noisy["train"])
    assert abs(share - 0.3) <= 4 * np.sqrt(0.21 / n)
    sign, _ = sentiment.make_labels(world, SMALL | {"labels": "sign", "flip_rate": 0.0}, False, 0)
    assert (sign["train"] == sign["train_truth"]).all()


def test_lexicon_labels_come_with_an_audited_rate(artefacts: Artefacts) -> None:
    world = sentiment_world.load_world(artefacts["world"])
    labels, rate = sentiment.make_labels(world, SMALL | {"labels": "lexicon", "flip_rate": 0.0}, False, 0)
    assert 0 <= rate < 0.5
    assert rate <= float((labels["validation"] != labels["validation_truth"]).mean()) + 0.2


def test_kl_of_the_base_policy_to_itself_is_zero(artefacts: Artefacts, tmp_path: Path) -> None:
    still = replace(sentiment_claims.RDPO, settings={
        **sentiment_claims.RDPO.settings, "optim": {"lr": 1e-12, "schedule": "linear", "warmup": 0.1}
    })  # fmt: skip
    found = sentiment.run(cell(still, seed=3), RunDir(tmp_path / "still"), artefacts)["last"]
    assert abs(found["kl"]) <= 1e-3
    model = load_model(artefacts["base"] / "model")
    assert model.config.vocab_size >= 257


def fake(arm: str, seed: int, gold: float, world: tuple[str, float] = sentiment_claims.BT, **last: float) -> Result:
    task = {"labels": world[0], "flip_rate": world[1]}
    course = [{"step": 0, "gold": 0.0, "kl": 0.0}, {"step": 60, "gold": gold, "kl": 3.0}]
    value = {"last": {"gold": gold, "likelihood": -0.6, **last}, "course": course, "assumed_rate": 0.3}
    made = Cell(sentiment_claims.PART, replace(sentiment_claims.DPO, name=arm), task, seed)
    return Result(made, value, {}, Path("."))


def worlds(gap: Callable[[int], float], a: str = "rdpo", b: str = "dpo", n: int = 10, **more: Any) -> list[Result]:
    base = [0.3 + 0.01 * s for s in range(n)]
    rows = [fake(b, s, base[s], **more) for s in range(n)]
    return rows + [fake(a, s, base[s] + gap(s), **more) for s in range(n)]


MEASURES = [
    (sentiment_claims.same_settings(0.3), {}),
    (sentiment_claims.same_settings(0.2), {"world": ("bradley_terry", 0.2)}),
    (sentiment_claims.same_settings(0.3, "sign"), {"world": ("sign", 0.3)}),
    (sentiment_claims.matched_kl, {}),
    (sentiment_claims.against("cdpo"), {"b": "cdpo"}),
    (sentiment_claims.lexicon, {"world": ("lexicon", 0.0)}),
]


@pytest.mark.parametrize(("measure", "more"), MEASURES)
def test_measures_can_support_contradict_and_stay_open(measure: Any, more: dict[str, Any]) -> None:
    better = measure(worlds(lambda s: 0.2 + 0.001 * s, **more))
    worse = measure(worlds(lambda s: -0.2 - 0.001 * s, **more))
    unclear = measure(worlds(lambda s: 0.2 if s % 2 else -0.2, **more))
    assert better.p_for <= 0.001 < 0.9 <= better.p_against
    assert worse.p_against <= 0.001 < 0.9 <= worse.p_for
    assert unclear.p_for > 0.1
    assert unclear.p_against > 0.1
    assert better.n == 10
    assert measure([]) is None


def test_tuning_selects_by_noisy_likelihood_not_by_gold() -> None:
    rows = []
    for s in range(6):
        rows += [fake("dpo", s, 0.9, likelihood=-0.7), fake("dpo b0.03", s, 0.2, likelihood=-0.5)]
        rows += [fake("dpo b0.3", s, 0.3, likelihood=-0.8)]
        rows += [fake(name, s, 0.4 + 0.01 * s, likelihood=-0.6) for name in ("rdpo", "rdpo b0.03", "rdpo b0.3")]
    found = sentiment_claims.tuned(rows)
    assert found is not None
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(0.4 + 0.025 - 0.2)
    assert "dpo (+0.900)" in found.detail


def test_gold_at_a_kl_is_interpolated() -> None:
    course = [{"kl": 1.0, "gold": 0.0}, {"kl": 3.0, "gold": 1.0}]
    assert sentiment_claims.gold_at(course, 2.0) == pytest.approx(0.5)
    assert np.isnan(sentiment_claims.gold_at(course, 4.0))


def test_the_report_parts_are_drawn_from_results(artefacts: Artefacts, tmp_path: Path) -> None:
    results = []
    for arm in (sentiment_claims.DPO, sentiment_claims.RDPO):
        for seed in (0, 1):
            made = cell(arm, seed)
            value = sentiment.run(made, RunDir(tmp_path / f"{arm.name}{seed}"), artefacts)
            results.append(Result(made, value, {}, tmp_path))
    assert {p.title for p in sentiment_show.panels(results)} >= {"KL to the reference"}
    assert [d.a for d in sentiment_show.differences(results)] == ["rdpo"]
    assert [v.arm for v in sentiment_show.samples(results)[0].views] == ["dpo", "rdpo"]
    assert "2 seeds); that could be chance." in sentiment_show.sentence(results, {"C4a": "inconclusive"})
    assert "DPO given rDPO's initial step size scored higher" in sentiment_show.sentence(
        results, {"C4f": "contradicted"}
    )
    assert sentiment_show.panels([]) == ()
    assert sentiment_show.sentence([], {}) == ""
