"""The D3S study: what it declares and plans, a miniature run of every arm, measures that can say yes and no."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steersman.core.errors import UserError
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_checks import check_method
from steersman.store.run import RunDir
from steersman.studies import chain_sum_policy, d3s
from steersman.studies.d3s import arms, claims, gradients, names, show
from steersman.studies.rl_runs import recipe_of
from steersman.studies.rl_stages import Decisive, Kept
from steersman.study.declare import Cell, Finding, Result
from steersman.study.plan import make_plan
from steersman.task import chain_sum
from steersman.task.chain_sum_truth import Role, read

ALPHA = 0.05
CLOSE = 1e-6
TINY = {"batches": 2, "evaluate_every": 1, "held_out": 12, "judged": 12}
CLAIMS = {claim.id: claim for claim in claims.CLAIMS}
ALL = [("main", n, 1) for n in names.MAIN_ARMS] + [("bare", n, 0) for n in names.BARE_ARMS]
ALL += [("four", n, 1) for n in names.FOUR_ARMS]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Learnt for three steps: they answer nothing rightly, so every advantage is 0 unless a test makes it."""
    small = {"width": 16, "mlp": 16, "layers": 1, "heads": 2}
    made = {}
    for fillers, name in names.POLICIES.items():
        one = chain_sum_policy.artefact(arms.task(fillers), model=small, steps=3, batch=8, judged=12)
        made[name] = tmp_path_factory.mktemp("policy")
        one.build(one.settings, made[name], {})
    return made


def cell(name: str, fillers: int = 1, seed: int = 0, part: str = "main") -> Cell:
    one = arms.arm(name, fillers)
    settings = {**one.settings, "rollout": {**one.settings["rollout"], "samples": 4}}
    settings["budget"] = {**settings["budget"], "batch": 4}
    # Rewards of an untaught policy are all 0; a fine for length gives rows that differ.
    settings["stages"] = [{"kind": "overlong", "limit": 14, "cache": 10}, *settings["stages"]]
    return Cell(names.PARTS[part], replace(one, settings=settings), TINY, seed, (names.POLICIES[fillers],))


@pytest.mark.parametrize(("part", "name", "fillers"), ALL)
def test_an_arm_is_a_users_recipe_with_the_shared_sizes(part: str, name: str, fillers: int) -> None:
    recipe = recipe_of(Cell(names.PARTS[part], arms.arm(name, fillers), TINY, 7, ()), "somewhere")
    check_method(recipe)
    assert isinstance(recipe, RLRecipe)
    assert recipe.budget.batch == (8 if name == "quarter batch" else 32)
    assert (recipe.rollout.samples, recipe.optim.lr, recipe.budget.seed) == (8, 5e-5, 7)
    assert recipe.rollout.updates == (4 if part == "four" else 1)
    assert recipe.budget.steps == 2 * recipe.rollout.updates
    assert (recipe.task.error, recipe.task.error_hard, recipe.task.fillers) == (0.018, 0.264, fillers)


def test_the_matched_arm_has_as_many_tokens_as_the_schedule() -> None:
    p = np.linspace(0, 1, 100_001)
    on_schedule = float(np.mean((0.25 + 0.25 * p) * (0.2 + 0.3 * p)))
    assert arms.MATCHED["rows"] * arms.MATCHED["tokens"] == pytest.approx(on_schedule, abs=CLOSE)


def test_quick_and_full_are_planned() -> None:
    quick, full = (make_plan(d3s.STUDY, size) for size in ("quick", "full"))
    assert len(quick.runs) == 2 + 4 * len(names.QUICK_ARMS)
    assert len(full.runs) == 2 + 7 * len(ALL)
    assert {a.name for a in quick.mode.artefacts} == {"policy"}
    assert {a.name for a in full.mode.artefacts} == set(names.POLICIES.values())
    more = make_plan(d3s.STUDY, "quick", 1)
    assert {r.id for r in quick.runs} < {r.id for r in more.runs}
    with pytest.raises(UserError, match="no gpu mode"):
        make_plan(d3s.STUDY, "gpu")


def test_every_claim_names_arms_that_its_part_has() -> None:
    results = full_results()
    for id, claim in CLAIMS.items():
        assert claim.measure(results) is not None, id


@pytest.mark.parametrize(("part", "name", "fillers"), ALL)
def test_every_arm_runs(policies: dict[str, Path], tmp_path: Path, part: str, name: str, fillers: int) -> None:
    value = d3s.run(cell(name, fillers, part=part), RunDir(tmp_path / "run"), policies)
    assert [p["batch"] for p in value["course"]] == [0, 1, 2]
    trained = value["batches"]["trained"]
    assert value["course"][2]["trained"] == sum(trained)
    assert value["course"][2]["tokens"] == sum(value["batches"]["tokens"]) == value["timing"]["tokens"]
    if name in ("grpo", "gspo", "quarter batch"):
        assert value["course"][2]["trained"] == value["course"][2]["tokens"]
    else:
        assert value["course"][2]["trained"] < 0.75 * value["course"][2]["tokens"]
    assert value["final"][1] == 12


def test_gradients_of_all_methods(policies: dict[str, Path], tmp_path: Path) -> None:
    methods = {n: cell(n).arm.settings for n in names.GRADIENT_ARMS}
    one = replace(arms.cells("quick")[0], task={"batches": 3})
    one = replace(one, arm=replace(one.arm, settings={"methods": methods}))
    value = d3s.run(one, RunDir(tmp_path / "run"), policies)
    assert value["optimal"] == [gradients.BRUTE] * 2
    assert set(value["methods"]) == set(names.GRADIENT_ARMS)
    for name, told in value["methods"].items():
        assert all(len(told[k]) == 3 for k in ("norm", "full", "cosine", "tokens", "filler")), name
        assert all(-1 <= x <= 1 for x in told["cosine"])
    plain, rows = value["methods"]["grpo"], value["methods"]["random rows"]
    assert plain["norm"] == pytest.approx(plain["full"])
    for norm, full, kept, tokens in zip(rows["norm"], rows["full"], rows["tokens"], plain["tokens"], strict=True):
        assert full == pytest.approx(norm * kept / tokens)
        assert 0 < kept < tokens


def test_token_view_of_all_methods(policies: dict[str, Path], tmp_path: Path) -> None:
    one = next(c for c in arms.cells("quick") if c.part == names.PARTS["view"])
    methods = {n: cell(n).arm.settings for n in names.VIEW_ARMS}
    one = replace(one, arm=replace(one.arm, settings={"methods": methods}))
    value = d3s.run(one, RunDir(tmp_path / "run"), policies)
    assert set(value["kept"]) == set(names.VIEW_ARMS)
    kept = {n: value["kept"][n]["tokens"] for n in names.VIEW_ARMS}
    assert kept["grpo"] > kept["d1s_cross"] > kept["d3s"] > kept["d2s"] > 0
    shown = show.show([Result(one, value, {}, Path())])
    assert {s.name for s in shown.streams} >= {"advantage", "entropy"}


def test_the_brute_force_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "max_variance", lambda a, n: torch.arange(n))
    assert gradients._optimal(0) < gradients.BRUTE


def test_signal_to_noise_by_hand() -> None:
    g = [(torch.tensor([1.0, 0.0]), 2.0, 0.0), (torch.tensor([3.0, 0.0]), 4.0, 0.0)]
    told = gradients._told(g, torch.stack([x for x, _, _ in g]), [4.0, 4.0])
    assert told["snr"] == pytest.approx((4 - 2 / 2) / 2)  # mean (2, 0), variance 2
    assert told["full"] == pytest.approx([0.5, 3.0])
    assert told["cosine"] == pytest.approx([1.0, 1.0])


def test_stages_that_know_the_truth() -> None:
    task = arms.task(1)
    rows = chain_sum.examples(task, 6, seed=0)
    role = read(task, rows).role
    same, told = Kept(fillers=1)(rows)
    assert same is rows
    assert told["rows"] == 6
    assert told["filler"] == pytest.approx(5 / 18)
    kept, told = Decisive(fillers=1)(rows)
    assert torch.equal(kept.streams["token_weight"] != 0, role == Role.DECISIVE)
    assert told["tokens_out"] == 6 * 5
    assert Kept(fillers=1)(kept)[1]["decisive"] == 1.0
    none = rows.index(torch.zeros(6, dtype=torch.bool))
    assert Kept(fillers=1)(none)[1] == {"rows": 0.0, "tokens": 0.0}
    assert len(Decisive(fillers=1)(none)[0]) == 0


def value(accuracy: float, share: float = 1.0, filler: float = 0.28, seed: int = 0) -> dict[str, Any]:
    """A result of 60 batches that climbs from .47 and learns from a share of the tokens."""
    rng = np.random.default_rng(seed)
    batch = np.arange(0, 61, 10)
    course = 0.47 + (accuracy - 0.47) * batch / 60 + 0.001 * rng.standard_normal(len(batch))
    return {
        "start": [1880, 4000],
        "final": [round(4000 * (accuracy + 0.001 * rng.standard_normal())), 4000],
        "course": [
            {"batch": int(b), "tokens": 4608.0 * b, "trained": 4608.0 * share * b, "accuracy": float(a)}
            for b, a in zip(batch, course, strict=True)
        ],
        "batches": {
            "tokens": [4608.0] * 60,
            "trained": [4608.0 * share] * 60,
            "filler": [filler + 0.01 * float(x) for x in rng.standard_normal(60)],
            "decisive": [0.2] * 60,
            "norm": [0.3] * 60,
            "entropy": [0.4] * 60,
            "zero_signal": [0.1] * 60,
        },
    }


def seeds(accuracy: float, first: int, n: int = 5, **known: Any) -> list[dict[str, Any]]:
    return [value(accuracy, seed=first + s, **known) for s in range(n)]


def trained(part: str, name: str, values: list[dict[str, Any]]) -> list[Result]:
    one = arms.Arm(name, {})
    return [Result(Cell(names.PARTS[part], one, TINY, s), v, {}, Path()) for s, v in enumerate(values)]


def compared(norms: dict[str, float], cosines: dict[str, float], optimal: int = gradients.BRUTE) -> list[Result]:
    rng = np.random.default_rng(0)
    methods = {
        n: {
            "norm": (norms.get(n, 1.0) + 0.01 * rng.standard_normal(16)).tolist(),
            "full": [1.0] * 16,
            "cosine": (cosines.get(n, 0.5) + 0.01 * rng.standard_normal(16)).tolist(),
            "tokens": [10.0] * 16,
            "filler": [0.3] * 16,
            "snr": None if n == "pods" else 0.1,
        }
        for n in names.GRADIENT_ARMS
    }
    result = {"optimal": [optimal, gradients.BRUTE], "methods": methods}
    return [Result(Cell(names.PARTS["gradients"], arms.Arm("every method", {}), {}, 0), result, {}, Path())]


IN_ORDER = {n: float(i) for i, n in enumerate(claims.NORMS)}


def full_results() -> list[Result]:
    found = compared(IN_ORDER, {})
    for i, (part, name, _) in enumerate(ALL):
        found += trained(part, name, seeds(0.7, 10 * i, share=1.0 if name in ("grpo", "gspo") else 0.2))
    return found


def word(finding: Finding | None) -> str:
    assert finding is not None
    if finding.holds is not None:
        return "for" if finding.holds else "against"
    return "for" if finding.p_for < ALPHA else "against" if finding.p_against < ALPHA else "open"


def test_selection_claim() -> None:
    assert word(CLAIMS["S1"].measure(compared({}, {}))) == "for"
    assert word(CLAIMS["S1"].measure(compared({}, {}, gradients.BRUTE - 1))) == "against"


def test_the_order_of_norms_must_hold_at_every_place() -> None:
    assert word(CLAIMS["N1"].measure(compared(IN_ORDER, {}))) == "for"
    assert word(CLAIMS["N1"].measure(compared({**IN_ORDER, "d1s": 5.0}, {}))) == "against"
    assert word(CLAIMS["N1"].measure(compared({**IN_ORDER, "d1s": IN_ORDER["pods"]}, {}))) == "open"


@pytest.mark.parametrize(
    ("id", "a", "b"),
    [("N2", "d1s_cross", "grpo"), ("N3", "d2s", "grpo"), ("N4", "d1s_cross", "random rows"),
     ("N5", "d2s", "d2s random tokens")],
)  # fmt: skip
def test_cosines(id: str, a: str, b: str) -> None:
    assert word(CLAIMS[id].measure(compared({}, {a: 0.6, b: 0.5}))) == "for"
    assert word(CLAIMS[id].measure(compared({}, {a: 0.4, b: 0.5}))) == "against"


ENDS = {
    "E1": ("main", "d3s", "grpo"), "E2": ("main", "d1s_cross", "grpo"), "R1": ("main", "d1s_cross", "random rows"),
    "R2": ("main", "d3s", "d3s random"), "R3": ("main", "d1s_cross", "quarter batch"),
    "A1": ("main", "d1s_cross", "d1s"), "A2": ("main", "d3s", "pods"), "A3": ("main", "d3s", "d3s_i"),
    "C1": ("main", "d3s", "d2s"), "C2": ("main", "d3s", "d2s matched"),
    "F2": ("main", "d2s", "d2s random tokens"), "F3": ("bare", "d2s", "d2s random tokens"),
    "F4": ("main", "d2s oracle", "d2s"), "F5": ("main", "d3s", "d3s entropy"),
    "F6": ("main", "d3s", "d3s advantage"), "B1": ("bare", "d3s", "grpo"), "B3": ("bare", "d3s", "d3s random"),
    "M1": ("four", "gspo + d3s", "gspo"),
}  # fmt: skip


@pytest.mark.parametrize(("id", "part", "a", "b"), [(id, *known) for id, known in ENDS.items()])
@pytest.mark.parametrize(("accuracy", "said"), [(0.75, "for"), (0.65, "against")])
def test_accuracy_at_the_end(id: str, part: str, a: str, b: str, accuracy: float, said: str) -> None:
    found = [*trained(part, a, seeds(accuracy, 0)), *trained(part, b, seeds(0.7, 50))]
    assert word(CLAIMS[id].measure(found)) == said


@pytest.mark.parametrize(
    ("id", "part", "a", "b"),
    [("E3", "main", "d3s", "grpo"), ("E4", "main", "d1s_cross", "grpo"), ("B2", "bare", "d3s", "grpo"),
     ("M2", "four", "gspo + d3s", "gspo")],
)  # fmt: skip
def test_equal_trained_tokens(id: str, part: str, a: str, b: str) -> None:
    # A fifth of the tokens and almost the same accuracy: behind by batches, far ahead by trained tokens.
    found = [*trained(part, a, seeds(0.68, 0, share=0.2)), *trained(part, b, seeds(0.7, 50))]
    assert word(CLAIMS[id].measure(found)) == "for"
    assert CLAIMS[id].measure(found).estimate.value == pytest.approx(0.68 - (0.47 + 0.23 * 0.2), abs=0.01)
    found = [*trained(part, a, seeds(0.5, 0, share=0.2)), *trained(part, b, seeds(0.7, 50))]
    assert word(CLAIMS[id].measure(found)) == "against"


def test_gain_and_fillers() -> None:
    assert word(CLAIMS["G0"].measure(trained("main", "grpo", seeds(0.7, 0)))) == "for"
    assert word(CLAIMS["G0"].measure(trained("main", "grpo", seeds(0.5, 0)))) == "against"
    assert word(CLAIMS["F1"].measure(trained("main", "d2s", seeds(0.6, 0, filler=0.8)))) == "for"
    assert word(CLAIMS["F1"].measure(trained("main", "d2s", seeds(0.6, 0, filler=0.3)))) == "against"


@pytest.mark.parametrize("id", CLAIMS)
def test_without_results_nothing_is_claimed(id: str) -> None:
    assert CLAIMS[id].measure([]) is None


def test_figures_tables_and_sentence() -> None:
    found = full_results()
    shown = show.show(found)
    assert len(shown.panels) == 10
    metrics = {d.metric for d in shown.differences}
    assert set(show.AXES.values()) | set(show.KINDS.values()) <= metrics
    assert "At equal trained tokens d3s was" in show.sentence(found)
    assert show.show([]).panels == ()
    assert show.sentence([]) == "Nothing has been run yet."
