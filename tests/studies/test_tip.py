"""The TIP study: what it declares and plans, a miniature run of every arm, its measures, memory counted exactly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.core.errors import UserError
from steersman.objective.components_tip import SelectTokens
from steersman.recipes.rl_checks import check_method
from steersman.store.run import RunDir
from steersman.studies import planted_policy, tip
from steersman.studies.rl_runs import recipe_of
from steersman.studies.tip import arms, claims, memory, names, show
from steersman.study.declare import Cell, Finding, Result
from steersman.study.plan import make_plan
from steersman.task import planted
from steersman.task.planted import Planted

TINY = {"batches": 2, "evaluate_every": 1, "held_out": 8, "judged": 8}
CLAIMS = {claim.id: claim for claim in claims.CLAIMS}
LOSS = 1e-6  # float32, between variants that add in another order
ALPHA = 0.05


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learnt for three steps."""
    small = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    one = planted_policy.artefact(Planted(), model=small, steps=3, batch=8, judged=8)
    folder = tmp_path_factory.mktemp("student")
    one.build(one.settings, folder, {})
    return folder


def cell(name: str, **setting: str) -> Cell:
    one = arms.arm(name, **setting)
    settings = {**one.settings, "budget": {**one.settings["budget"], "batch": 4}}
    return Cell(names.PARTS["main"], replace(one, settings=settings), TINY, 0, (names.STUDENTS["unsure"],))


@pytest.mark.parametrize("name", names.MAIN_ARMS)
def test_an_arm_is_a_users_recipe(name: str) -> None:
    recipe = recipe_of(Cell(names.PARTS["main"], arms.arm(name), TINY, 7, ()), "somewhere")
    check_method(recipe)
    assert (recipe.budget.batch, recipe.rollout.samples, recipe.optim.lr, recipe.budget.seed) == (64, 1, 1e-4, 7)
    stages = [s for s in recipe.stages if isinstance(s, SelectTokens)]
    assert len(stages) == (name != "full")
    if stages:
        assert stages[0].keep == int(name.rpartition(" ")[2]) / 100
        assert (stages[0].mode == "sample") == ("sampled" in name)
        assert (stages[0].mode == "bottom") == name.startswith("bottom")


def test_settings_beside_the_main_one() -> None:
    hard = arms.arm("q3 20, forward KL", "saturated", "fast")
    assert hard.name == "q3 20, forward KL, saturated, fast"
    assert hard.settings["loss"]["divergence"] == "forward_kl"
    assert (hard.settings["optim"]["lr"], hard.settings["task"]["carried"]) == (5e-4, 0.0)
    assert arms.arm("q3 20 + anchor", "saturated", "fast").settings["stages"][0]["anchor"] == arms.ANCHOR


def test_quick_and_full_are_planned() -> None:
    quick, full = (make_plan(tip.STUDY, size) for size in ("quick", "full"))
    assert len(quick.runs) == 2 + 2 * len(names.QUICK_ARMS)
    assert len(full.runs) == 2 + 5 * len(names.MAIN_ARMS) + 3 * (3 * len(names.LIMIT_ARMS) + len(names.CURES))
    assert {a.name for a in quick.mode.artefacts} == {"student"}
    assert {a.name for a in full.mode.artefacts} == set(names.STUDENTS.values())
    assert {r.id for r in quick.runs} < {r.id for r in make_plan(tip.STUDY, "quick", 1).runs}
    with pytest.raises(UserError, match="no gpu mode"):
        make_plan(tip.STUDY, "gpu")


def test_every_arm_that_a_claim_or_a_figure_names_exists() -> None:
    known = set(names.MAIN_ARMS)
    assert {*show.SEEN, *show.WIDE, *show.VIEWED, *names.QUICK_ARMS} <= known


@pytest.mark.parametrize("name", ["full", "soft-or 20", "entropy sampled 10", "q3 20 + anchor"])
def test_a_miniature_run(name: str, student: Path, tmp_path: Path) -> None:
    result = tip.run(cell(name), RunDir(tmp_path), {"student": student})
    assert result["final"][1] == result["judged"]["exact"][1] == 8
    assert set(result["judged"]) == {"exact", "carry", "times", "plain"}
    assert len(result["course"]) == 3
    assert all(len(x) == 2 for x in result["batches"].values())
    assert all(x is not None for key in ("divergence_all", "carry_kept", "loss") for x in result["batches"][key])
    assert (result["batches"]["divergence_left"] == [None, None]) == (name == "full")


def test_the_first_batch(student: Path) -> None:
    found = tip.run(replace(arms.cells("quick")[0], task={"prompts": 12}), RunDir(student), {"student": student})
    assert sum(k["share"] for k in found["kinds"].values()) <= 1
    assert set(found["kept"]) == set(names.QUICK_ARMS) - {"full"}
    assert all(0 <= x <= 1 for row in found["kept"].values() for x in row.values())
    shown = show.show([Result(arms.cells("quick")[0], found, {}, student)])
    assert shown.samples
    assert shown.samples[0].mark == "carry"


def test_judging_a_perfect_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demonstrator without errors is right everywhere; one that forgets every carry at no carry."""

    def answers(task: Planted) -> Any:
        def generate(model: Any, given: Any, **options: Any) -> Any:
            right, carry, times = planted.truth(Planted(), given.ids)
            wrong = torch.where(carry & (task.carried == 0), (right - 1) % 5, right)
            n = len(given)
            words = (planted.FORMAT + torch.arange(4)).expand(n, 4)
            groups = torch.stack([words, torch.full_like(wrong, planted.SYNONYM), wrong], 2).flatten(1)
            ids = torch.cat([given.ids, groups, torch.full((n, 1), planted.EOS)], 1)
            return planted.Rollouts.of(ids, torch.full((n,), ids.shape[1]), given.prompt_length)

        return generate

    monkeypatch.setattr(planted_policy, "generate", answers(Planted(carried=1.0)))
    found = planted_policy.judge(None, Planted(), 50)
    assert all(right == of for right, of in found.values())
    assert sum(found[k][1] for k in ("carry", "times", "plain")) == 200
    monkeypatch.setattr(planted_policy, "generate", answers(Planted(carried=0.0)))
    found = planted_policy.judge(None, Planted(), 50)
    assert found["carry"][0] == 0
    assert found["plain"][0] == found["plain"][1]


def results(arm_values: dict[str, list[dict[str, Any]]], part: str = "main") -> list[Result]:
    return [
        Result(Cell(names.PARTS[part], replace(arms.arm("full"), name=name), TINY, seed), value, {}, Path())
        for name, values in arm_values.items()
        for seed, value in enumerate(values)
    ]


def value(exact: int, carry: int) -> dict[str, Any]:
    judged = {"exact": [exact, 100], "carry": [carry, 100]}
    return {"judged": judged, "began": {"exact": [20, 100], "carry": [8, 100]},
            "batches": {"divergence_all": [exact / 100] * 12}}  # fmt: skip


def measured(id: str, found: list[Result]) -> Finding:
    finding = CLAIMS[id].measure(found)
    assert finding is not None
    return finding


def test_measures_can_say_yes_and_no() -> None:
    good, bad = [value(50 + i, 60 + i) for i in range(5)], [value(21 + i, 7 + i) for i in range(5)]
    up = results({"soft-or 20": good, "entropy top 20": bad, "full": bad, "q3 10": good})
    down = results({"soft-or 20": bad, "entropy top 20": good, "full": good, "q3 10": bad})
    for id in ("B3", "B4", "F1", "D1"):
        assert measured(id, up).p_for < ALPHA  # type: ignore[operator]
        assert measured(id, down).p_against < ALPHA or id in ("B3",)  # type: ignore[operator]
    assert measured("B2", up).p_for < ALPHA  # type: ignore[operator]
    assert measured("B2", down).p_against < ALPHA  # type: ignore[operator]
    assert CLAIMS["B4"].measure([]) is None


def first_batch(kept: float, inside: float) -> list[Result]:
    kinds = {k: {"in_quadrant": inside} for k in names.KINDS}
    one = {"kinds": kinds, "kept": {"entropy top 20": {"carry": kept}}}
    return [Result(arms.cells("quick")[0], one, {}, Path())]


def test_exact_measures() -> None:
    assert measured("B1", first_batch(0.01, 0.9)).holds is True
    assert measured("B1", first_batch(0.2, 0.9)).holds is False
    assert measured("P1", first_batch(0.0, 0.95)).holds is True
    assert measured("P1", first_batch(0.0, 0.5)).holds is False


@pytest.fixture(scope="module")
def peaks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = memory.run([5000, 9000], [160], [1.0, 0.5, 0.2])["peaks"]
    return found


def test_variants_do_the_same_work(peaks: list[dict[str, Any]]) -> None:
    for size in {(p["vocabulary"], p["keep"]) for p in peaks}:
        losses = [p["loss"] for p in peaks if (p["vocabulary"], p["keep"]) == size]
        assert losses == pytest.approx([losses[0]] * len(memory.VARIANTS), abs=LOSS)


def test_the_meter_counts_what_is_alive() -> None:
    with memory.Meter() as meter:
        a = torch.zeros(100)
        b = a + 1
        del b
        c = a.view(10, 10)  # no memory of its own
    assert (meter.most, meter.now) == (800, 400)
    assert c.shape == (10, 10)


def test_memory_claims_hold_and_could_fail(peaks: list[dict[str, Any]]) -> None:
    def told(of: list[dict[str, Any]]) -> list[Result]:
        return [Result(arms.cells("quick")[1], {"peaks": of}, {}, Path())]

    for id in ("M1", "M2", "M3"):
        assert measured(id, told(peaks)).holds is True
    constant = [{**p, "bytes": 10**6 * p["vocabulary"] ** 2} for p in peaks]
    assert measured("M1", told(constant)).holds is False
    assert measured("M2", told(constant)).holds is False
    swapped = [{**p, "variant": {"chunks": "recompute", "recompute": "chunks"}.get(p["variant"], "")} for p in peaks]
    assert measured("M3", told(swapped)).holds is False
