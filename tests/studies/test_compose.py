"""The study of combinations: what it declares and plans, a miniature run of every subset, measures, the token view."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_checks import check_method
from steersman.store.run import RunDir
from steersman.studies import adora, chain_sum_policy, compose
from steersman.studies.compose import arms, claims, show
from steersman.studies.compose.names import ALL, COMBINED, METHODS, PLAIN, POLICY, TRAINED, VIEW
from steersman.studies.rl_runs import recipe_of
from steersman.study.declare import Cell, Finding, Result
from steersman.study.plan import make_plan, undecidable

ALPHA = 0.05
TINY = {"batches": 2, "evaluate_every": 1, "held_out": 12, "judged": 12}
CLAIMS = {claim.id: claim for claim in claims.CLAIMS}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"width": 16, "mlp": 16, "layers": 1, "heads": 2}
    made = chain_sum_policy.artefact(arms.TASK, model=small, steps=3, batch=8, judged=12)
    folder = tmp_path_factory.mktemp("policy")
    made.build(made.settings, folder, {})
    return folder


def small(settings: Mapping[str, Any]) -> dict[str, Any]:
    rollout, budget = {**settings["rollout"], "samples": 4}, {**settings["budget"], "batch": 4}
    return {**settings, "rollout": rollout, "budget": budget}


def cell(name: str, seed: int = 0, **task: Any) -> Cell:
    one = arms.arm(name)
    return Cell(TRAINED, replace(one, settings=small(one.settings)), {**TINY, **task}, seed, (POLICY,))


def test_every_subset_is_an_arm_and_the_last_is_the_shipped_recipe() -> None:
    assert len(ALL) == len(set(ALL)) == 2 ** len(METHODS)
    assert arms.stages(PLAIN) == ["grpo", "uniform"]
    assert arms.stages("pf-ppo + d3s") == ["grpo", "uniform", "pf_ppo", "d3s_rows", "d3s_tokens"]
    values = {"preset": arms.RECIPE, "model": {"path": "x"}, "task": {"kind": "chain_sum"}}
    shipped, ours = RLRecipe.model_validate(values), recipe_of(cell(COMBINED), "x")
    assert ours.stages[:-1] == shipped.stages
    assert (ours.loss, ours.aggregate, ours.kl) == (shipped.loss, shipped.aggregate, shipped.kl)


@pytest.mark.parametrize("name", ALL)
def test_arms_differ_in_their_stages_only(name: str) -> None:
    recipe = recipe_of(cell(name, seed=7, batches=5), "somewhere")
    assert check_method(recipe) == []
    assert (recipe.budget.seed, recipe.budget.steps, recipe.optim.lr) == (7, 5, arms.LR)
    mine, plain = arms.arm(name).settings, arms.arm(PLAIN).settings
    assert {k: v for k, v in mine.items() if k != "stages"} == {k: v for k, v in plain.items() if k != "stages"}


def test_the_policy_is_that_of_the_adora_study() -> None:
    ours, theirs = compose.mode("quick").artefacts[0], adora.mode("quick").artefacts
    assert (ours.name, ours.settings) in [(a.name, a.settings) for a in theirs]


def test_quick_and_full_are_planned_and_can_decide_their_claims() -> None:
    quick, full = (make_plan(compose.STUDY, size) for size in ("quick", "full"))
    assert len(quick.runs) == 1 + 8 * arms.SEEDS["quick"]
    assert len(full.runs) == 1 + 8 * arms.SEEDS["full"]
    assert not undecidable(claims.CLAIMS, "quick")
    assert {r.id for r in quick.runs} < {r.id for r in make_plan(compose.STUDY, "quick", 1).runs}
    with pytest.raises(UserError, match="no gpu mode"):
        make_plan(compose.STUDY, "gpu")


@pytest.mark.parametrize("name", ALL)
def test_every_arm_runs_and_counts_what_it_learns_from(policy: Path, tmp_path: Path, name: str) -> None:
    value = compose.run(cell(name), RunDir(tmp_path / "run"), {POLICY: policy})
    assert [p["batch"] for p in value["course"]] == [0, 1, 2]
    assert value["course"][2]["trained"] == sum(value["batches"]["trained"])
    assert value["course"][2]["tokens"] == sum(value["batches"]["tokens"])
    if name in (PLAIN, "adora"):
        assert value["batches"]["trained"] == value["batches"]["tokens"]
    else:
        assert all(t < g for t, g in zip(value["batches"]["trained"], value["batches"]["tokens"], strict=True))


def test_one_batch_is_shown_under_every_arm(policy: Path) -> None:
    one = next(c for c in arms.cells("quick") if c.part == VIEW)
    methods = {k: small(v) | {"budget": {**v["budget"], "batch": 8}} for k, v in one.arm.settings["methods"].items()}
    # An untaught policy is seldom right; prompts with right and wrong answers are then few or none.
    value = compose.run(replace(one, arm=replace(one.arm, settings={"methods": methods})), None, {POLICY: policy})
    assert list(value["kept"]) == list(ALL)
    assert value["kept"][PLAIN]["rows"] == 8 * 4
    found = [Result(one, value, {}, Path())]
    shown = show.show(found)
    assert len(shown.samples) == len(value["samples"])
    assert all([v.arm for v in s.views] == list(show.VIEWED) for s in shown.samples)


def value(accuracy: float, share: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """A result of 20 batches that climbs from .5; it learns from a share of its tokens."""
    rng = np.random.default_rng(seed)
    batch = np.arange(0, 21, 2)
    course = 0.5 + (accuracy - 0.5) * batch / 20 + 0.001 * rng.standard_normal(len(batch))
    return {
        "start": [1000, 2000],
        "final": [round(2000 * (accuracy + 0.001 * rng.standard_normal())), 2000],
        "course": [
            {"batch": int(b), "tokens": 4000.0 * b, "trained": 4000.0 * share * b * (1 + 0.01 * seed),
             "accuracy": float(a)} for b, a in zip(batch, course, strict=True)
        ],
        "batches": {"trained": [4000.0 * share] * 20, "norm": [0.1] * 20, "length": [19.0] * 20},
    }  # fmt: skip


def results(by_arm: Mapping[str, tuple[float, float]], n: int = 4) -> list[Result]:
    return [
        Result(Cell(TRAINED, arms.arm(name), TINY, seed), value(a, share, 7 * i + seed), {}, Path())
        for i, (name, (a, share)) in enumerate(by_arm.items())
        for seed in range(n)
    ]


def word(finding: Finding | None) -> str:
    assert finding is not None
    return "for" if finding.p_for < ALPHA else "against" if finding.p_against < ALPHA else "open"


GOOD = {PLAIN: (0.6, 1.0), "adora": (0.62, 1.0), "pf-ppo": (0.61, 0.25), "d3s": (0.61, 0.14),
        "adora + pf-ppo": (0.6, 0.25), "adora + d3s": (0.6, 0.14), "pf-ppo + d3s": (0.6, 0.05),
        COMBINED: (0.66, 0.04)}  # fmt: skip
BAD = {PLAIN: (0.53, 1.0), "adora": (0.52, 1.0), "pf-ppo": (0.52, 2.0), "d3s": (0.52, 2.0),
       "adora + pf-ppo": (0.56, 2.0), "adora + d3s": (0.56, 2.0), "pf-ppo + d3s": (0.56, 2.0),
       COMBINED: (0.48, 2.0)}  # fmt: skip


@pytest.mark.parametrize("id", CLAIMS)
def test_every_claim_can_be_supported_and_contradicted(id: str) -> None:
    assert word(CLAIMS[id].measure(results(GOOD))) == "for"
    assert word(CLAIMS[id].measure(results(BAD))) == "against"
    assert CLAIMS[id].measure([]) is None


def test_figures_tables_and_sentence() -> None:
    shown = show.show(results(GOOD))
    assert len(shown.panels) == 6
    assert {line.arm for line in shown.panels[0].lines} == set(ALL)
    assert {d.metric for d in shown.differences} == set(show.AXES.values())
    against_plain = {d.a for d in shown.differences if d.b == PLAIN}
    assert against_plain == set(ALL) - {PLAIN}
    assert "At equal trained tokens all three were" in show.sentence(results(GOOD))
    assert show.show([]).panels == ()
    assert show.sentence([]) == "Nothing has been run yet."
