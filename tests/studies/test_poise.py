"""The POISE study: what it declares and plans, a miniature run of every part, measures that can say yes and no."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steersman.core.errors import UserError
from steersman.recipes.rl_checks import check_method
from steersman.stats.gradients import allocation
from steersman.store.run import RunDir
from steersman.studies import chain_sum_policy, poise
from steersman.studies.poise import arms, claims, estimates, names, probes, show
from steersman.studies.rl_runs import recipe_of
from steersman.studies.rl_stages import TrueValue
from steersman.study.declare import Arm, Cell, Result
from steersman.study.plan import make_plan
from steersman.task import chain_sum
from steersman.task.chain_sum_truth import success

ALPHA = 0.05
CLOSE = 0.01
"""Of a share of 20,000 prompts."""
TINY = {"batches": 2, "evaluate_every": 1, "held_out": 12, "judged": 12}
CLAIMS = {claim.id: claim for claim in claims.CLAIMS}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Taught for a few steps: it answers next to nothing rightly."""
    small = {"width": 16, "mlp": 16, "layers": 2, "heads": 2}
    one = chain_sum_policy.artefact(arms.TASK, model=small, steps=30, batch=16, judged=12)
    folder = tmp_path_factory.mktemp("policy")
    one.build(one.settings, folder, {})
    return folder


def test_prompts_differ_as_much_as_the_arms_say() -> None:
    given = chain_sum.prompts(arms.TASK, 20_000, 0)
    rows = replace(given, reward=torch.zeros(len(given)))
    value = -TrueValue(error=0.01, error_hard=0.6)(rows)[0].streams["advantage_row"].double()
    assert float(value.mean()) == pytest.approx(success(arms.TASK), abs=CLOSE)
    assert float(value.var() / (value.mean() * (1 - value.mean()))) == pytest.approx(arms.BETWEEN, abs=CLOSE)


@pytest.mark.parametrize("name", names.ARMS)
def test_an_arm_is_a_users_recipe_with_equal_responses(name: str) -> None:
    recipe = recipe_of(Cell(names.PARTS["training"], arms.arm(name), TINY, 7, ()), "somewhere")
    assert check_method(recipe) == []
    assert recipe.budget.batch * recipe.rollout.samples == arms.RESPONSES
    assert (recipe.optim.lr, recipe.budget.seed, recipe.rollout.updates) == (arms.LR, 7, 1)


def test_quick_and_full_are_planned() -> None:
    quick, full = (make_plan(poise.STUDY, size) for size in ("quick", "full"))
    assert len(quick.runs) == 1 + 4 + 2 * len(names.QUICK_ARMS)
    assert len(full.runs) == 1 + 6 + 10 * len(names.ARMS)
    assert {a.name for a in full.mode.artefacts} == {names.POLICY, names.TRUTH}
    more = make_plan(poise.STUDY, "quick", 1)
    assert {r.id for r in quick.runs} < {r.id for r in more.runs}
    with pytest.raises(UserError, match="no gpu mode"):
        make_plan(poise.STUDY, "gpu")


def tiny_training(name: str, seed: int = 0) -> Cell:
    one = arms.arm(name)
    settings = {**one.settings, "budget": {**one.settings["budget"], "batch": 4}}
    settings["stages"] = [s for s in settings["stages"] if s["kind"] != "dynamic_sampling"]
    settings["budget"]["phases"] = []
    return Cell(names.PARTS["training"], replace(one, settings=settings), TINY, seed, (names.POLICY,))


@pytest.mark.parametrize("name", names.ARMS)
def test_every_arm_runs(policy: Path, tmp_path: Path, name: str) -> None:
    found = poise.run(tiny_training(name), RunDir(tmp_path), {names.POLICY: policy})
    assert [p["batch"] for p in found["course"]] == [0, 1, 2]
    assert len(found["batches"]["norm"]) == 2
    assert (found["batches"]["cold"][0] is None) == (not name.startswith("poise"))


def test_probes_are_fitted_and_judged(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PROMPTS", 12)
    monkeypatch.setitem(probes.CRITIC, "steps", 2)
    made = probes.values_artefact(arms.TASK, names.TRUTH, names.POLICY)
    values = tmp_path / "values"
    values.mkdir()
    made.build({**made.settings, "draws": 4}, values, {names.POLICY: policy})
    every = Arm("every probe", {"task": arms.TASK.model_dump(mode="json", exclude_none=True)})
    cell = Cell(names.PARTS["probe"], every, {"examples": [32, 64]}, 0, (names.POLICY, names.TRUTH))
    found = poise.run(cell, RunDir(tmp_path), {names.POLICY: policy, names.TRUTH: values})["sizes"]
    assert found.keys() == {"32", "64"}
    assert [*found["64"]] == [*names.PROBES, *names.OTHERS]
    assert all(np.isfinite(v["mae"]) for v in found["64"].values())
    assert found["32"]["running mean"]["r"] is None


def test_the_noise_of_true_values_is_taken_out_of_squared_errors() -> None:
    rng = np.random.default_rng(0)
    value = rng.uniform(size=20_000)
    truth = rng.binomial(8, value) / 8
    told = probes._judged(value + 0.1, truth, 8)
    assert told["mse"] == pytest.approx(0.01, abs=0.002)
    wanted = 1 - (np.mean(value * (1 - value)) + 0.01) / (value.mean() * (1 - value.mean()))
    assert told["reduction"] == pytest.approx(wanted, abs=0.02)


def test_gradients_of_every_estimator(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "TAUGHT", (2, 32, 2))
    monkeypatch.setattr(estimates, "LITTLE", (1, 8, 2))
    every = Arm("every estimator", {"task": arms.TASK.model_dump(mode="json", exclude_none=True)})
    cell = Cell(names.PARTS["gradients"], every, {"rounds": 4, "prompts": 2}, 0, (names.POLICY,))
    found = poise.run(cell, RunDir(tmp_path), {names.POLICY: policy})
    assert found["estimators"].keys() == {name for of in names.ALLOCATIONS.values() for name in of}
    told = found["estimators"]["poise"]
    assert (len(told["distance"]), len(told["along"]), len(told["leak"])) == (4, 4, 2)
    assert "along" not in found["estimators"]["constant"]
    assert all(np.mean(found["estimators"][n]["distance"]) > 0 for n in ("poise", "constant", "true value 16x4"))


# Claims on made-up results --------------------------------------------------------------------------------------------


def gradient_value(bias: float = 0.0, rounds: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    parts = [120.0, 12.0]
    size = {"poise": 2.0, "rloo 8x8": 3.0, "rloo 32x2": 4.5, "none": 2.5, "constant": 3.5}
    size |= {f"true value {n}x{m}": allocation(*parts, n, m) for n, m in names.ALLOCATIONS}
    found: dict[str, Any] = {}
    for of in names.ALLOCATIONS.values():
        for name in of:
            at = {"poise": bias, "group mean": claims.EIGHTH, "own rollout": 0.02, "refit before use": -0.4}.get(
                name, 0.0
            )
            found[name] = {
                "distance": (size.get(name, 2.5) * rng.gamma(50, 1 / 50, rounds)).tolist(),
                "square": 1.0,
                "along": (at + 0.05 * rng.normal(size=rounds)).tolist(),
                "leak": (at**2 + 1e-5 * rng.normal(size=rounds // 2)).tolist(),
                "bias": at**2,
            }
    return {"estimators": found, "exact": 1.0, "parts": parts}


def probe_value(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    level = {"all features": 0.06, "alpha 0.01": 0.2, "running mean": 0.22}
    one = {
        name: {"mae": level.get(name, 0.1) + 0.002 * rng.normal(), "r": 0.9, "mse": 0.01, "reduction": 0.3}
        for name in (*names.PROBES, *names.OTHERS)
    }
    one["running mean"]["r"] = None
    return {"sizes": {"256": one, "1024": one}}


def training_value(name: str, seed: int) -> dict[str, Any]:
    level = {"poise": 0.8, "dapo": 0.7}.get(name, 0.75) + 0.003 * np.random.default_rng(seed).normal()
    draws = 512.0 if name == "dapo" else 256.0
    course = [
        {"batch": b, "rows": b * draws, "tokens": b * draws, "accuracy": 0.35 + b * (level - 0.35) / 8}
        for b in (0, 4, 8)
    ]
    norm = [0.1 if name == "poise" else 0.2 + 0.01 * seed] * 8
    series = {k: [0.3] * 8 for k in poise.SERIES} | {"norm": norm, "rows": [draws] * 8}
    return {"start": [35, 100], "final": [round(1000 * level), 1000], "course": course, "batches": series}


def full_results(bias: float = 0.0) -> list[Result]:
    found = []
    for cell in arms.cells("full"):
        if cell.part == names.PARTS["gradients"]:
            value = gradient_value(bias)
        elif cell.part == names.PARTS["probe"]:
            value = probe_value(cell.seed)
        else:
            value = training_value(cell.arm.name, cell.seed)
        found.append(Result(cell, value, {}, Path()))
    return found


def test_every_claim_can_be_measured_and_says_yes_where_it_holds() -> None:
    results = full_results()
    for id, claim in CLAIMS.items():
        found = claim.measure(results)
        assert found is not None, id
        if id != "A5":  # its level is that of the others
            assert found.p_for is not None, id
            assert found.p_for < ALPHA, id
        assert claim.measure([]) is None, id


def test_claims_say_no_where_they_fail() -> None:
    found = CLAIMS["C1"].measure(full_results(bias=0.3))
    assert found is not None
    assert found.p_against is not None
    assert found.p_against < ALPHA
    assert found.p_for is not None
    assert found.p_for > ALPHA
    turned = [
        replace(r, value=training_value("dapo" if r.cell.arm.name == "poise" else "poise", r.cell.seed))
        if r.cell.part == names.PARTS["training"]
        else r
        for r in full_results()
    ]
    against = CLAIMS["C5"].measure(turned)
    assert against is not None
    assert against.p_against is not None
    assert against.p_against < ALPHA


def test_figures_and_sentence() -> None:
    results = full_results()
    shown = show.show(results)
    assert len(shown.panels) == 10
    assert {d.metric for d in shown.differences} >= {"spread of the gradient", "accuracy, equal batches"}
    said = show.sentence(results)
    assert "from dapo" in said
    assert "Spread of the gradient: poise" in said
    assert show.show([]).panels == ()
    assert show.sentence([]) == "Nothing has been run yet."
