"""The presets' study: what it declares and plans, a miniature run of every arm, measures that can say yes and no."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.recipes.presets import PRESETS
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_checks import check_method
from steersman.store.run import RunDir
from steersman.studies import chain_sum_policy, rl_curves, rl_presets, rl_runs
from steersman.studies.rl_evidence import above, each_above, within
from steersman.studies.rl_presets import arms, claims, show
from steersman.studies.rl_presets.claims import FOUR, ONE, PLAIN
from steersman.study.declare import Cell, Finding, Result
from steersman.study.plan import make_plan, undecidable

ALPHA = 0.05
NAMES = (*ONE, *FOUR)
TINY = {"batches": 2, "evaluate_every": 1, "held_out": 12, "judged": 12}
CLAIMS = {claim.id: claim for claim in claims.CLAIMS}
LEARNERS = {f"L{i + 1}": name for i, name in enumerate(claims.TITLES)}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"width": 16, "mlp": 16, "layers": 1, "heads": 2}
    made = chain_sum_policy.artefact(model=small, steps=3, batch=8, judged=12)
    folder = tmp_path_factory.mktemp("policy")
    made.build(made.settings, folder, {})
    return folder


def cell(name: str, seed: int = 0, **task: Any) -> Cell:
    one = arms.arm(name)
    settings = {**one.settings, "rollout": {**one.settings["rollout"], "samples": 2}}
    settings["budget"] = {**settings["budget"], "batch": 4}
    settings["budget"] = {k: v for k, v in settings["budget"].items() if k != "phases"} | (
        {"phases": [{"steps": 2, "trains": ["critic"]}]} if name == "ppo" else {}
    )
    return Cell("one update", replace(one, settings=settings), {**TINY, **task}, seed, (arms.POLICY,))


def test_every_preset_that_was_asked_for_has_an_arm() -> None:
    asked = {"grpo", "dr_grpo", "rloo", "reinforce_pp", "dapo", "gspo", "cispo", "sapo", "ppo"}
    assert set(claims.PRESET_ARMS.values()) == asked
    assert asked <= set(PRESETS)


@pytest.mark.parametrize("name", NAMES)
def test_an_arm_is_the_users_recipe_with_the_shared_sizes(name: str) -> None:
    recipe = rl_runs.recipe_of(cell(name, seed=7, batches=5), "somewhere")
    full = RLRecipe.model_validate({**arms.arm(name).settings, "model": {"path": "x"}})
    check_method(full)
    assert (full.budget.batch, full.rollout.samples, full.optim.lr) == (32, 8, 3e-4)
    assert full.rollout.updates == (4 if name in FOUR else 1)
    assert recipe.budget.steps == 5 * full.rollout.updates
    assert recipe.budget.seed == 7
    if name != PLAIN:
        tables = {"preset": claims.PRESET_ARMS[name], "model": {"path": "x"}, "task": {"kind": "chain_sum"}}
        own = RLRecipe.model_validate({**tables, "rollout": {"max_new_tokens": arms.ROOM}})
        same = ("stages", "loss", "aggregate", "kl")
        assert [getattr(own, k) for k in same] == [getattr(full, k) for k in same]
        assert own.budget.phases == full.budget.phases


def test_quick_and_full_are_planned_and_can_decide_their_claims() -> None:
    quick, full = (make_plan(rl_presets.STUDY, size) for size in ("quick", "full"))
    assert len(quick.runs) == 5 + 4 * 3
    assert len(full.runs) == 11 * 8
    assert {run.cell.arm.name for run in full.runs} == set(NAMES)
    assert not undecidable(claims.CLAIMS, "quick")
    more = make_plan(rl_presets.STUDY, "quick", 1)
    assert {r.id for r in quick.runs} < {r.id for r in more.runs}
    assert len(more.runs) == 6 + 4 * 4
    with pytest.raises(UserError, match="no gpu mode"):
        make_plan(rl_presets.STUDY, "gpu")


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_runs(policy: Path, tmp_path: Path, name: str) -> None:
    value = rl_presets.run(cell(name), RunDir(tmp_path / "run"), {arms.POLICY: policy})
    assert [p["batch"] for p in value["course"]] == [0, 1, 2]
    assert value["course"][2]["tokens"] == sum(value["batches"]["tokens"]) == value["timing"]["tokens"]
    assert all(len(series) == 2 for series in value["batches"].values())
    assert value["final"][1] == 12
    assert value["start"] == list(chain_sum_policy.judged(policy))


def test_a_run_repeats_bit_for_bit_and_a_finished_one_is_not_done_again(policy: Path, tmp_path: Path) -> None:
    runs = [RunDir(tmp_path / "a"), RunDir(tmp_path / "b"), RunDir(tmp_path / "a")]
    one, two, again = (rl_presets.run(cell("dapo"), run, {arms.POLICY: policy}) for run in runs)
    assert one == two == again


def value(accuracy: float, steps: float = 1.0, dapo: bool = False, seed: int = 0) -> dict[str, Any]:
    """A result of 60 batches that climbs from .54; DAPO's draws `steps` times the tokens."""
    rng = np.random.default_rng(seed)
    batch = np.arange(0, 61, 10)
    rise = np.interp(batch, [0, 20, 40, 60], [0.0, 0.69, 0.95, 1.0])
    course = 0.54 + (accuracy - 0.54) * rise + 0.002 * rng.standard_normal(len(batch))
    return {
        "start": [2160, 4000],
        "final": [round(4000 * (accuracy + 0.001 * rng.standard_normal())), 4000],
        "course": [
            {"batch": int(b), "tokens": 4608.0 * steps * b, "accuracy": float(a)}
            for b, a in zip(batch, course, strict=True)
        ],
        "batches": {
            "tokens": [4608.0 * steps] * 60,
            "zero_signal": [0.1] * 50 + [float(0.8 + 0.02 * rng.standard_normal())] * 10,
            "silent_kept": [0.0] * 60 if dapo else [3.0] * 60,
            "entropy": [0.4] * 60,
        },
    }


def results(by_arm: Mapping[str, list[dict[str, Any]]]) -> list[Result]:
    return [
        Result(Cell(claims.PARTS[name in FOUR], arms.arm(name), TINY, seed), v, {}, Path())
        for name, values in by_arm.items()
        for seed, v in enumerate(values)
    ]


def seeds(accuracy: float, n: int = 5, **known: Any) -> list[dict[str, Any]]:
    return [value(accuracy, seed=s, **known) for s in range(n)]


def word(finding: Finding | None) -> str:
    assert finding is not None
    if finding.holds is not None:
        return "for" if finding.holds else "against"
    return "for" if finding.p_for < ALPHA else "against" if finding.p_against < ALPHA else "open"


@pytest.mark.parametrize(("accuracy", "said"), [(0.98, "for"), (0.9, "against"), (0.951, "open")])
@pytest.mark.parametrize(("id", "name"), [("P1", PLAIN), ("P2", "grpo")])
def test_the_goal_must_be_reached_on_every_seed(id: str, name: str, accuracy: float, said: str) -> None:
    assert word(CLAIMS[id].measure(results({name: seeds(accuracy)}))) == said
    if said == "for":
        one_fails = [*seeds(accuracy, 4), value(0.9)]
        assert word(CLAIMS[id].measure(results({name: one_fails}))) == "against"


@pytest.mark.parametrize(("accuracy", "said"), [(0.985, "for"), (0.75, "against")])
def test_the_shape_is_an_equivalence(accuracy: float, said: str) -> None:
    assert word(CLAIMS["P3"].measure(results({PLAIN: seeds(accuracy)}))) == said


@pytest.mark.parametrize(("id", "name"), LEARNERS.items())
@pytest.mark.parametrize(("accuracy", "said"), [(0.9, "for"), (0.6, "against"), (0.84, "open")])
def test_learning_is_a_gain_of_more_than_was_said(id: str, name: str, accuracy: float, said: str) -> None:
    assert word(CLAIMS[id].measure(results({name: seeds(accuracy)}))) == said


def test_dapo_is_compared_at_equal_batches_and_at_equal_tokens() -> None:
    found = results({PLAIN: seeds(0.97), "dapo": [value(0.985, steps=5.0, dapo=True, seed=9 + s) for s in range(5)]})
    ratio = CLAIMS["D1"].measure(found)
    assert (ratio.estimate.value, ratio.n) == (pytest.approx(5.0), 5)
    assert word(CLAIMS["D2"].measure(found)) == "for"
    assert word(CLAIMS["D3"].measure(found)) == "against"
    both = {d.metric: d.estimate.value for d in show.differences(found) if d.a == "dapo"}
    assert both["accuracy, equal batches"] > 0 > both["accuracy, equal generated tokens"]
    # At 276,480 tokens DAPO has learnt from 12 batches.
    v = found[-1].value
    assert rl_curves.accuracy_at(v, "tokens", 276_480) == pytest.approx(rl_curves.accuracy_at(v, "batch", 12))


def test_groups_without_a_signal() -> None:
    assert word(CLAIMS["D4"].measure(results({"dapo": seeds(0.9, dapo=True)}))) == "for"
    assert word(CLAIMS["D4"].measure(results({"dapo": seeds(0.9)}))) == "against"
    found = CLAIMS["Z1"].measure(results({PLAIN: seeds(0.98)}))
    assert word(found) == "for"
    assert found.estimate.value == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(("id", "name"), [("F1", "gspo"), ("F2", "cispo"), ("F3", "sapo")])
@pytest.mark.parametrize(("accuracy", "said"), [(0.985, "for"), (0.9, "against"), (0.968, "open")])
def test_four_updates_are_compared_with_grpo_of_four_updates(id: str, name: str, accuracy: float, said: str) -> None:
    found = results({"grpo x4": [value(0.988, seed=20 + s) for s in range(5)], name: seeds(accuracy)})
    assert word(CLAIMS[id].measure(found)) == said


@pytest.mark.parametrize("id", CLAIMS)
def test_without_results_nothing_is_claimed(id: str) -> None:
    assert CLAIMS[id].measure([]) is None


def test_values_without_spread_decide_by_themselves() -> None:
    assert above([0.4, 0.4], 0.3).p_for == 0.0
    assert above([0.4, 0.4], 0.3).p_against == 1.0
    assert above([0.25, 0.25], 0.25).p_for == 0.5
    assert above([0.4], 0.3) is None
    assert within([("a", [0.0, 0.0], 0.0, 0.1)]).p_for == 0.0
    assert within([("a", [0.0], 0.0, 0.1)]) is None
    assert each_above([], [], 0.5) is None


def test_figures_and_sentence() -> None:
    found = results(
        {name: [value(0.97, seed=i + s, dapo=name == "dapo") for s in range(3)] for i, name in enumerate(NAMES)}
    )
    shown = show.show(found)
    assert len(shown.panels) == 6
    assert {line.arm for line in shown.panels[0].lines} == set(ONE)
    assert {line.arm for line in shown.panels[1].lines} == set(FOUR)
    assert {d.metric for d in shown.differences} == {"accuracy, equal batches", "accuracy, equal generated tokens"}
    assert "At equal generated tokens DAPO was" in show.sentence(found)
    assert show.show([]).panels == ()
    assert show.sentence([]) == "Nothing has been run yet."


def test_a_run_is_judged_with_the_room_it_was_trained_with(policy: Path, tmp_path: Path) -> None:
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl_runs, "count_right", lambda model, task, n, room: asked.append(room) or 0)
        rl_presets.run(cell(PLAIN), RunDir(tmp_path / "run"), {arms.POLICY: policy})
    settings = chain_sum_policy.artefact().settings
    assert asked == [arms.ROOM] == [18 + settings["spare"]]
