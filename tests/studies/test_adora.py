"""The ADORA study: what it declares and plans, a miniature run of every arm, measures that can say yes and no."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steersman.core.errors import UserError
from steersman.objective.advantage.adora import longer_by_chance
from steersman.objective.components_adora import ADORA
from steersman.recipes.rl_checks import check_method
from steersman.store.run import RunDir
from steersman.studies import adora, chain_sum_policy
from steersman.studies.adora import arms, claims, classes, names, show
from steersman.studies.rl_runs import recipe_of
from steersman.study.declare import Cell, Finding, Result
from steersman.study.plan import make_plan

ALPHA = 0.05
STANDARD_ERRORS = 4.0
WRITTEN = 2e-4
"""Streams of samples are rounded to four decimals."""
TINY = {"batches": 2, "evaluate_every": 1, "held_out": 12, "judged": 12}
CLAIMS = {claim.id: claim for claim in claims.CLAIMS}
ALL = [(w, n, w) for w in names.WORLDS for n in names.WORLD_ARMS[w]]
ALL += [("grid", n, "long") for n in names.GRID_ARMS] + [("joined", n, "long") for n in names.JOINED_ARMS]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small, but taught long enough to answer a digit that is sometimes right."""
    small = {"width": 16, "mlp": 32, "layers": 1, "heads": 2}
    made = {}
    for world, name in names.POLICIES.items():
        one = chain_sum_policy.artefact(arms.task(world), model=small, steps=60, batch=32, judged=12)
        made[name] = tmp_path_factory.mktemp("policy")
        one.build(one.settings, made[name], {})
    return made


def cell(part: str, name: str, world: str, seed: int = 0) -> Cell:
    one = arms.arm(name, world)
    settings = {**one.settings, "rollout": {**one.settings["rollout"], "samples": 4}}
    settings["budget"] = {**settings["budget"], "batch": 4}
    settings["stages"] = [{**s, "rounds": 2} if s["kind"] == "dynamic_sampling" else s for s in settings["stages"]]
    return Cell(names.PARTS[part], replace(one, settings=settings), TINY, seed, (names.POLICIES[world],))


@pytest.mark.parametrize(("part", "name", "world"), ALL)
def test_an_arm_is_a_users_recipe_with_the_shared_sizes(part: str, name: str, world: str) -> None:
    recipe = recipe_of(Cell(names.PARTS[part], arms.arm(name, world), TINY, 7, ()), "somewhere")
    check_method(recipe)
    assert (recipe.budget.batch, recipe.rollout.samples, recipe.optim.lr, recipe.budget.seed) == (32, 8, 5e-5, 7)
    assert recipe.rollout.max_new_tokens == 24 + chain_sum_policy.SETTINGS["spare"]
    good = {"long": (0.2, 0.05), "short": (0.05, 0.2)}[world]
    assert (recipe.task.error, recipe.task.error_long, recipe.task.fillers) == (*good, 0)
    own = [s for s in recipe.stages if isinstance(s, ADORA)]
    assert len(own) == (name not in ("grpo", "dr_grpo", "rloo", "filter"))


def test_settings_of_the_arms() -> None:
    def stage(name: str) -> ADORA:
        recipe = recipe_of(Cell("", arms.arm(name, "long"), TINY, 0, ()), "somewhere")
        return next(s for s in recipe.stages if isinstance(s, ADORA))

    assert stage("amplify") == ADORA()
    assert stage("attenuate") == ADORA(mode="attenuate", criterion="length")
    assert stage("amplify permuted").permuted
    assert stage("attenuate mean1").normalize == "mean1"
    assert {(stage(n).tau, stage(n).weight) for n in names.AMPLIFIED} == {
        (t, w) for t in (0.25, 0.5, 0.75) for w in (1.5, 2.0, 3.0)
    } - {(0.5, 2.0)}
    assert {stage(n).weight for n in names.ATTENUATED} == {0.0, 0.05, 0.2}
    joined = {n: stage(n) for n in names.JOINED.values()}
    assert set(joined.values()) == {ADORA()}


def test_quick_and_full_are_planned() -> None:
    quick, full = (make_plan(adora.STUDY, size) for size in ("quick", "full"))
    assert len(quick.runs) == 3 + 4 * 2 * len(names.QUICK_ARMS)
    assert len(full.runs) == 3 + 5 * len(ALL)
    more = make_plan(adora.STUDY, "quick", 1)
    assert {r.id for r in quick.runs} < {r.id for r in more.runs}
    with pytest.raises(UserError, match="no gpu mode"):
        make_plan(adora.STUDY, "gpu")


@pytest.mark.parametrize(("part", "name", "world"), [a for a in ALL if a[0] != "short"])
def test_every_arm_runs(policies: dict[str, Path], tmp_path: Path, part: str, name: str, world: str) -> None:
    value = adora.run(cell(part, name, world), RunDir(tmp_path / "run"), policies)
    assert [p["batch"] for p in value["course"]] == [0, 1, 2]
    assert value["course"][2]["tokens"] == sum(value["batches"]["tokens"]) == value["timing"]["tokens"]
    assert len(value["batches"]["length"]) == 2
    weighed = "adora" in name or name.startswith(("amplify", "attenuate"))
    assert (value["batches"]["weight"] != [None, None]) == weighed


def test_the_other_world_runs(policies: dict[str, Path], tmp_path: Path) -> None:
    value = adora.run(cell("short", "attenuate", "short"), RunDir(tmp_path / "run"), policies)
    assert value["final"][1] == 12


def test_classes_of_a_policy(policies: dict[str, Path], tmp_path: Path) -> None:
    one = replace(arms.cells("quick")[0], task={"prompts": 6, "world": "long"})
    value = adora.run(one, RunDir(tmp_path / "run"), policies)
    assert value["tables"] == [12, 12]
    assert set(value["flicker"]) == set(names.CRITERIA)
    for by_size in value["flicker"].values():
        assert set(by_size) == {"5", "8", "16", "64"}
        assert all(len(x) == 6 and set(x) <= {0, 1} for x in by_size.values())
    assert sum(value["longer"]["groups"]) <= 6 * 128 // 8


def test_token_view_of_all_methods(policies: dict[str, Path], tmp_path: Path) -> None:
    one = next(c for c in arms.cells("quick") if c.part == names.PARTS["view"])
    value = adora.run(one, RunDir(tmp_path / "run"), policies)
    assert set(value["kept"]) == set(names.VIEW_ARMS)
    shown = show.show([Result(one, value, {}, Path())])
    assert len(shown.samples) <= 8 * arms.SHOWN
    for sample in shown.samples:
        # The advantage of a row is multiplied by one of two weights.
        size = {v.arm: next(x for x in v.streams["advantage"] if x is not None) for v in sample.views}
        assert size["amplify"] in (pytest.approx(size["grpo"]), pytest.approx(2 * size["grpo"], abs=WRITTEN))
        assert size["attenuate"] in (pytest.approx(size["grpo"]), pytest.approx(0.1 * size["grpo"], abs=WRITTEN))


def test_the_table_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "PRESETS", ("repo_vision", "repo_text"))
    assert classes._tables()[0] < 12


def test_flicker_compares_two_draws_of_the_same_prompts() -> None:
    right = torch.zeros(2, 128, dtype=torch.bool)
    right[:, 0] = right[:, 64] = True
    length = torch.full((2, 128), 10)
    length[0, 0], length[0, 64] = 20, 20  # longer in both draws
    length[1, 0], length[1, 64] = 20, 5  # in one of them
    none = torch.zeros_like(right)
    assert classes._flicker(right, length, none, 8, "length") == [0, 1]
    assert classes._flicker(right, length, none, 8, "difficulty") == [0, 0]


def test_lengths_that_mean_nothing_hold_as_often_as_by_chance() -> None:
    rng = torch.Generator().manual_seed(0)
    right = torch.rand(500, 128, generator=rng) < 0.5
    length = (1000 + 100 * torch.randn(500, 128, generator=rng)).long()
    found = classes._longer(right, length, torch.zeros_like(right), seed=0)
    for k, (holds, chance, groups) in enumerate(zip(*found.values(), strict=True), 1):
        p = longer_by_chance(k, 8 - k)
        for count in (holds, chance):
            assert abs(count / groups - p) <= STANDARD_ERRORS * (p * (1 - p) / groups) ** 0.5, k


def value(
    accuracy: float, length: float = 19.0, slope: float = 0.0, reweighted: float = 0.1, seed: int = 0
) -> dict[str, Any]:
    """A result of 40 batches that climbs from .53."""
    rng = np.random.default_rng(seed)
    batch, tokens = np.arange(0, 41, 10), 256 * length
    course = 0.53 + (accuracy - 0.53) * batch / 40 + 0.001 * rng.standard_normal(len(batch))
    own = {k: [0.5] * 40 for k in ("weight", "norm", "zero_signal", "length_correct", "length_wrong")}
    return {
        "start": [2120, 4000],
        "final": [round(4000 * (accuracy + 0.001 * rng.standard_normal())), 4000],
        "course": [
            {"batch": int(b), "tokens": tokens * b, "trained": tokens * b, "accuracy": float(a)}
            for b, a in zip(batch, course, strict=True)
        ],
        "batches": {
            **own,
            "tokens": [tokens] * 40,
            "trained": [tokens] * 40,
            "length": [length + slope * i + 0.01 * float(rng.standard_normal()) for i in range(40)],
            "reweighted": [reweighted + 0.001 * float(rng.standard_normal()) for _ in range(40)],
        },
    }


def seeds(accuracy: float, first: int, n: int = 5, **known: Any) -> list[dict[str, Any]]:
    return [value(accuracy, seed=first + s, **known) for s in range(n)]


def trained(part: str, name: str, values: list[dict[str, Any]]) -> list[Result]:
    one = arms.Arm(name, {})
    return [Result(Cell(names.PARTS[part], one, TINY, s), v, {}, Path()) for s, v in enumerate(values)]


def classified(few: Mapping[str, float], many: float = 0.0, good: int = 12) -> list[Result]:
    """Results of the classes: the share of 200 prompts that change at 8 responses in each world, and at 64 in both."""
    found = []
    for world, share in few.items():
        eight, all_ = ([1] * round(200 * x) + [0] * round(200 * (1 - x)) for x in (share, many))
        one = {"5": eight, "8": eight, "16": eight, "64": all_}
        counts = {"holds": [1] * 7, "chance": [1] * 7, "groups": [2] * 6 + [0]}
        told = {"tables": [good, 12], "flicker": dict.fromkeys(names.CRITERIA, one), "longer": counts}
        where = Cell(names.PARTS["classes"], arms.Arm("classes", {}), {"world": world}, 0)
        found.append(Result(where, told, {}, Path()))
    return found


def word(finding: Finding | None) -> str:
    assert finding is not None
    if finding.holds is not None:
        return "for" if finding.holds else "against"
    return "for" if finding.p_for < ALPHA else "against" if finding.p_against < ALPHA else "open"


def test_classes_claims() -> None:
    assert word(CLAIMS["X1"].measure(classified({"long": 0.3, "short": 0.3}))) == "for"
    assert word(CLAIMS["X1"].measure(classified({"long": 0.3, "short": 0.3}, good=11))) == "against"
    assert word(CLAIMS["X2"].measure(classified({"long": 0.4, "short": 0.4}))) == "for"
    assert word(CLAIMS["X2"].measure(classified({"long": 0.4, "short": 0.05}))) == "against"
    assert word(CLAIMS["X2"].measure(classified({"long": 0.4, "short": 0.22}))) == "open"
    assert CLAIMS["X2"].measure(classified({"long": 0.4})) is None
    assert word(CLAIMS["X3"].measure(classified({"long": 0.4, "short": 0.4}))) == "for"
    assert word(CLAIMS["X3"].measure(classified({"long": 0.1, "short": 0.1}, many=0.5))) == "against"


ENDS = {
    "H1": ("long", "amplify", "grpo"), "H2": ("long", "attenuate", "grpo"), "H3": ("short", "amplify", "grpo"),
    "V2": ("short", "grpo", "attenuate"), "K1": ("long", "amplify", "amplify permuted"),
    "K2": ("long", "attenuate", "attenuate permuted"), "K3": ("long", "amplify mean1", "grpo"),
    "K4": ("long", "attenuate mean1", "grpo"), "J1": ("joined", "dr_grpo + adora", "dr_grpo"),
    "J2": ("joined", "rloo + adora", "rloo"), "J3": ("joined", "filter + adora", "filter"),
}  # fmt: skip


@pytest.mark.parametrize(("id", "part", "a", "b"), [(id, *known) for id, known in ENDS.items()])
@pytest.mark.parametrize(("accuracy", "said"), [(0.8, "for"), (0.7, "against")])
def test_accuracy_at_the_end(id: str, part: str, a: str, b: str, accuracy: float, said: str) -> None:
    found = [*trained(part, a, seeds(accuracy, 0)), *trained(part, b, seeds(0.75, 50))]
    assert word(CLAIMS[id].measure(found)) == said


def test_learning_is_needed_in_both_worlds() -> None:
    found = trained("long", "grpo", seeds(0.78, 0))
    assert CLAIMS["G0"].measure(found) is None
    assert word(CLAIMS["G0"].measure([*found, *trained("short", "grpo", seeds(0.76, 9))])) == "for"
    assert word(CLAIMS["G0"].measure([*found, *trained("short", "grpo", seeds(0.56, 9))])) == "against"


@pytest.mark.parametrize(("length", "said"), [(19.5, "for"), (18.5, "against")])
def test_length_at_the_end(length: float, said: str) -> None:
    found = [*trained("short", "attenuate", seeds(0.7, 0, length=length)), *trained("short", "grpo", seeds(0.7, 50))]
    assert word(CLAIMS["V1"].measure(found)) == said


@pytest.mark.parametrize(("id", "name"), [("L1", "amplify"), ("L2", "attenuate")])
def test_slopes_must_be_steeper_in_both_worlds(id: str, name: str) -> None:
    def results(long: float, short: float) -> list[Result]:
        base = [r for part in names.WORLDS for r in trained(part, "grpo", seeds(0.7, 50))]
        own = [trained(p, name, seeds(0.7, 0, slope=s)) for p, s in (("long", long), ("short", short))]
        return [*base, *own[0], *own[1]]

    assert word(CLAIMS[id].measure(results(0.05, 0.05))) == "for"
    assert word(CLAIMS[id].measure(results(0.05, -0.05))) == "against"
    assert claims.slope(value(0.7, slope=0.05)) == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize(("short", "said"), [(0.5, "for"), (0.01, "against")])
def test_reweighted_groups(short: float, said: str) -> None:
    found = [*trained("short", "attenuate", seeds(0.7, 0, reweighted=short)), *trained("long", "attenuate",
             seeds(0.7, 50))]  # fmt: skip
    assert word(CLAIMS["V3"].measure(found)) == said


@pytest.mark.parametrize(("odd", "said"), [(0.752, "for"), (0.65, "against"), (0.779, "open")])
def test_robustness_needs_every_setting(odd: float, said: str) -> None:
    found = [*trained("long", "amplify", seeds(0.75, 0)), *trained("long", "attenuate", seeds(0.75, 20))]
    for i, name in enumerate(names.GRID_ARMS):
        found += trained("grid", name, seeds(odd if i == 3 else 0.75, 100 + 10 * i))
    assert word(CLAIMS["S1"].measure(found)) == said


@pytest.mark.parametrize("id", CLAIMS)
def test_without_results_nothing_is_claimed(id: str) -> None:
    assert CLAIMS[id].measure([]) is None


def full_results() -> list[Result]:
    found = classified({"long": 0.3, "short": 0.3})
    for i, (part, name, _) in enumerate(ALL):
        found += trained(part, name, seeds(0.75, 10 * i))
    return found


def test_every_claim_names_arms_that_its_part_has() -> None:
    for id, claim in CLAIMS.items():
        assert claim.measure(full_results()) is not None, id


def test_figures_tables_and_sentence() -> None:
    shown = show.show(full_results())
    assert len(shown.panels) == 13
    assert {m for d in shown.differences for m in show.AXES.values() if d.metric.startswith(m)} == set(
        show.AXES.values()
    )
    assert "Other values of tau and weight ended between" in show.sentence(full_results())
    assert show.show([]).panels == ()
    assert show.sentence([]) == "Nothing has been run yet."
