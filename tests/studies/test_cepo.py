"""The CEPO study: what it declares and plans, a miniature run of every arm, measures that can say yes and no."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steersman.core.component import Moment
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.recipes.rl_checks import check_method
from steersman.store.run import RunDir
from steersman.studies import cepo, chain_sum_policy
from steersman.studies.cepo import arms, claims, coin, evidence, names, show
from steersman.studies.rl_runs import recipe_of
from steersman.studies.rl_stages import ExactCredit, OracleCredit, exact_evidence, true_steps
from steersman.study.declare import Cell, Finding, Result
from steersman.study.plan import make_plan
from steersman.task import chain_sum
from steersman.task.chain_sum_truth import Role, read

ALPHA = 0.05
ROUNDING = 1e-6
TINY = {"batches": 2, "evaluate_every": 1, "held_out": 12, "judged": 12}
CLAIMS = {claim.id: claim for claim in claims.CLAIMS}
ALL = [("main", n, 1) for n in names.MAIN_ARMS] + [("noise", n, 8) for n in names.NOISE_ARMS]
ONE_RUN = [c for c in arms.cells("quick") if c.part in (names.PARTS["evidence"], names.PARTS["coin"])]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Learnt for a few steps: they hardly answer, so advantages come from a fine for length where a test needs them."""
    made = {}
    for fillers, name in names.POLICIES.items():
        small = {"width": 16, "mlp": 16, "layers": 1, "heads": 2, **arms.SUPERVISED[fillers].get("model", {})}
        one = chain_sum_policy.artefact(arms.task(fillers), model=small, steps=3, batch=8, judged=12)
        made[name] = tmp_path_factory.mktemp("policy")
        one.build(one.settings, made[name], {})
    return made


def cell(name: str, fillers: int = 1, seed: int = 0, part: str = "main") -> Cell:
    one = arms.arm(name, fillers)
    settings = {**one.settings, "rollout": {**one.settings["rollout"], "samples": 4}}
    settings["budget"] = {**settings["budget"], "batch": 4}
    fine = [{"kind": "overlong", "limit": 14, "cache": 10}] if name not in arms.SELF else []
    settings["stages"] = [*fine, *settings["stages"]]
    return Cell(names.PARTS[part], replace(one, settings=settings), TINY, seed, (names.POLICIES[fillers],))


@pytest.mark.parametrize(("part", "name", "fillers"), ALL)
def test_an_arm_is_a_users_recipe_with_the_shared_sizes(part: str, name: str, fillers: int) -> None:
    recipe = recipe_of(Cell(names.PARTS[part], arms.arm(name, fillers), TINY, 7, ()), "somewhere")
    check_method(recipe)
    assert (recipe.budget.batch, recipe.rollout.samples, recipe.budget.steps) == (32, 8, 2)
    assert recipe.optim.lr == pytest.approx(2.5e-4 if name == names.FAST else 5e-5)
    assert (recipe.task.error, recipe.task.fillers, recipe.task.hint) == (0.12, fillers, 0.5)
    for stage in recipe.stages:
        if hasattr(stage, "eps_w"):
            assert (stage.lam, stage.decay, stage.eps_w) == ((0.5, 20, 0.5) if fillers == 1 else (1.0, 0, 0.9))
        if hasattr(stage, "hint"):
            assert stage.hint.text == "?{answer}="
    if name in arms.SELF:
        assert recipe.teacher.hint.text == "?{answer}="


def test_quick_and_full_are_planned() -> None:
    quick, full = (make_plan(cepo.STUDY, size) for size in ("quick", "full"))
    assert len(quick.runs) == 3 + 3 * len(names.QUICK_ARMS)
    assert len(full.runs) == 3 + 10 * len(names.MAIN_ARMS) + 7 * len(names.NOISE_ARMS)
    assert {a.name for a in quick.mode.artefacts} == {"policy"}
    assert {a.name for a in full.mode.artefacts} == set(names.POLICIES.values())
    more = make_plan(cepo.STUDY, "quick", 1)
    assert {r.id for r in quick.runs} < {r.id for r in more.runs}
    with pytest.raises(UserError, match="no gpu mode"):
        make_plan(cepo.STUDY, "gpu")


@pytest.mark.parametrize(("part", "name", "fillers"), ALL)
def test_every_arm_runs(policies: dict[str, Path], tmp_path: Path, part: str, name: str, fillers: int) -> None:
    value = cepo.run(cell(name, fillers, part=part), RunDir(tmp_path / "run"), policies)
    assert [p["batch"] for p in value["course"]] == [0, 1, 2]
    told = value["batches"]
    if name in ("grpo", names.FAST, "oracle", "cepo exact"):
        assert told["scored"] == [0, 0]
    elif name not in arms.SELF:
        assert all(s > t for s, t in zip(told["scored"], told["tokens"], strict=True))
        assert told["lam"] == pytest.approx([0.5, 0.475] if fillers == 1 else [1, 1])
    else:
        known = [d for d in told["divergence"] if d is not None]  # an untaught policy has no sibling that was right
        assert np.isfinite(known).all()
        assert name == "sdpo" or len(known) == 2
    assert value["final"][1] == 12
    json.dumps(value)


def test_evidence_of_a_policy_runs(policies: dict[str, Path], tmp_path: Path) -> None:
    one = replace(ONE_RUN[0], task={"batches": 2, "judged": 12})
    value = cepo.run(one, RunDir(tmp_path / "run"), policies)
    assert value["right"][2] == 12
    assert set(value["auc"]) == {"cepo", "rlsd", "exact cepo", "exact rlsd"}
    json.dumps(value)


def responses(n: int = 64) -> tuple[Any, Rollouts]:
    """The demonstrator's responses to unhinted prompts, two a prompt, graded."""
    task = arms.task(1)
    rows = chain_sum.demonstrate(task, chain_sum.prompts(task, n, 0), seed=3, hint=0.0)
    scores = chain_sum.grade(rows)
    found = replace(rows, group=torch.arange(n) // 2, reward=scores.value, correct=scores.parts["correct"])
    return task, replace(found, answer=tuple(str(a) for a in chain_sum.verify(rows)[0].tolist()))


def test_evidence_is_told_apart_by_what_tokens_do() -> None:
    """Evidence made by hand: 2 nats on running sums, 0.1 on fillers, and most of all at the first error."""
    task, rows = responses()
    found = read(task, rows)
    role = found.role
    first = (role == Role.DECISIVE) & (found.step == found.first_error[:, None]) & ~rows.correct[:, None]
    delta = torch.where(role == Role.DECISIVE, 2.0, torch.where(role == Role.FILLER, 0.1, 0.5)).double()
    delta = torch.where(first, 9.0, delta)
    none = torch.zeros_like(delta)
    right, own = none - 1, -1 - delta
    logp = {
        "cepo": {evidence.RIGHT: right, evidence.OTHER: own - 1},
        "rlsd": {evidence.RIGHT: right, evidence.OTHER: own},
    }
    seen = evidence._Seen()
    wrong = evidence.rejected(rows, "lowest", Moment(), [str(a) for a in chain_sum.target(rows).tolist()])
    seen.add(rows, logp, wrong, task)
    told = seen.told()
    assert told["prompts"]["rlsd"]["filler"] == pytest.approx([0.1] * len(told["prompts"]["rlsd"]["filler"]))
    assert min(told["prompts"]["cepo"]["decisive"]) >= 3.0 - ROUNDING
    assert told["auc"]["rlsd"] == [1.0] * len(told["auc"]["rlsd"])
    assert len(told["auc"]["rlsd"]) > 5
    assert told["signed"]["rlsd"]["first error"] == pytest.approx(9.0)
    assert told["signed"]["rlsd"]["steps of right responses"] == pytest.approx(2.0)
    assert told["sharpness"] == [0, int(rows.action.sum())]
    assert told["steps"]["rlsd"] == pytest.approx([2.0] * 5)
    assert told["steps"]["exact rlsd"][4] > 0


def test_exact_evidence_is_that_of_bayes() -> None:
    """Of a wrong response without an error at first, the exact loss of r+ is largest where the last error is made."""
    task, rows = responses()
    exact = exact_evidence(task, rows, [None] * len(rows))
    assert torch.isnan(exact["cepo"]).all()
    decisive = read(task, rows).role == Role.DECISIVE
    correct = torch.where(decisive, exact["rlsd"], 0.0)[rows.correct].sum(1)
    prior = chain_sum_success(task, rows)[rows.correct]
    assert float((correct + prior.log()).abs().max()) < ROUNDING  # telescopes from the prior to certainty
    assert torch.isneginf(torch.where(decisive, exact["rlsd"], 0.0)[~rows.correct].sum(1)).all()


def chain_sum_success(task: Any, rows: Rollouts) -> torch.Tensor:
    from steersman.task.chain_sum_truth import success_of_prompts

    return success_of_prompts(task, rows)


def test_the_oracle_credits_what_decides() -> None:
    task, rows = responses()
    found = read(task, rows)
    a = torch.where(rows.correct, 1.0, -2.0)
    out, told = OracleCredit(fillers=1, lam=0.5, eps_w=0.5)(rows.with_streams(advantage_row=a))
    value = out.streams["advantage"] / a[:, None]
    true = true_steps(task, rows, a < 0)
    assert torch.equal(true[rows.correct], (found.role == Role.DECISIVE)[rows.correct])
    assert true[~rows.correct].sum() == found.error[~rows.correct].sum()
    assert value[true].tolist() == pytest.approx([1.25] * int(true.sum()))
    rest = rows.action & ~true
    assert value[rest].tolist() == pytest.approx([0.75] * int(rest.sum()))
    assert 0 < told["decisive"] < 1
    late = OracleCredit(fillers=1, decay=5)(rows.with_streams(advantage_row=a), Moment(step=5))[0]
    assert torch.equal(late.streams["advantage"], torch.where(rows.action, a[:, None], 0.0))


def test_exact_credit_is_the_formula_on_exact_evidence() -> None:
    task, rows = responses()
    a = torch.where(rows.correct, 1.0, -2.0)
    out, _ = ExactCredit(fillers=1, lam=1.0, eps_w=0.5)(rows.with_streams(advantage_row=a))
    wrong = evidence.rejected(rows, "lowest", Moment())
    delta = exact_evidence(task, rows, wrong)["cepo"].nan_to_num(0.0, 10.0, -10.0)
    wanted = a[:, None] * (a.sign()[:, None] * delta).exp().clamp(0.5, 1.5)
    assert float((out.streams["advantage"] - torch.where(rows.action, wanted, 0.0)).abs().max()) < ROUNDING
    assert len(out.streams["advantage"].unique()) > 6


def test_the_hint_is_the_one_that_examples_show(policies: dict[str, Path]) -> None:
    from steersman.language.load import load_model

    model = load_model(chain_sum_policy.model_folder(policies["policy"]))
    assert 0 <= chain_sum_policy.count_right_told(model, arms.task(1), 8, 24) <= 8


def test_token_view_of_all_methods(policies: dict[str, Path], tmp_path: Path) -> None:
    one = next(c for c in arms.cells("quick") if c.part == names.PARTS["view"])
    methods = {n: cell(n).arm.settings for n in names.VIEW_ARMS}
    one = replace(one, arm=replace(one.arm, settings={"methods": methods}))
    value = cepo.run(one, RunDir(tmp_path / "run"), policies)
    assert set(value["kept"]) == set(names.VIEW_ARMS)
    assert value["kept"]["tip"]["tokens"] < value["kept"]["grpo"]["tokens"]
    assert {"advantage", "divergence"} <= {s["name"] for s in value["streams"]}


@pytest.fixture(scope="module")
def exact() -> dict[str, Any]:
    return coin.run()


def test_the_exact_world(exact: dict[str, Any]) -> None:
    assert word(CLAIMS["C6a"].measure(of_coin(exact))) == "for"
    assert exact["opsd"]["coin"]["least"] == pytest.approx(np.log(2), abs=0.01)
    assert word(CLAIMS["C6b"].measure(of_coin(exact))) == "for"
    assert word(CLAIMS["C6d"].measure(of_coin(exact))) == "for"
    assert word(CLAIMS["C6e"].measure(of_coin(exact))) == "for"
    for id, path in (("C6a", ("opsd", "coin", "bit")), ("C6d", ("opsd", "benign", "right"))):
        broken = json.loads(json.dumps(exact))
        broken[path[0]][path[1]][path[2]] = 0.6
        assert word(CLAIMS[id].measure(of_coin(broken))) == "against"


def test_expected_updates_of_the_coin_by_simulation() -> None:
    """The sum over cases is what sampling tends to, and grpo's alone would be 0 everywhere."""
    p, q, n = 0.8, 0.6, 400_000
    rng = np.random.default_rng(0)
    b, a, c, d = (rng.random(n) < x for x in (p, q, 0.5, p))
    for method in ("rlsd", "cepo"):
        told = np.log(np.where(b == c, coin.TOLD, 1 - coin.TOLD))
        wrong = np.log(np.where(b == d, coin.TOLD, 1 - coin.TOLD))
        other = np.log(np.where(b, p, 1 - p)) if method == "rlsd" else wrong
        advantage = (a - q) / np.sqrt(q * (1 - q))
        weight = np.exp(np.clip(np.sign(advantage) * (told - other), -20, 20)).clip(0.5, 1.5)
        x = advantage * (0.5 + 0.5 * weight) * (b - p)
        assert abs(x.mean() - coin._gradient(method, p, q)) < 5 * x.std() / np.sqrt(n)
        assert abs(coin._gradient(method, p, q)) > 1e-3


def of_coin(value: dict[str, Any]) -> list[Result]:
    return [Result(ONE_RUN[1], value, {}, Path())]


def of_evidence(gap: float, area: float = 0.5, bad: int = 0, n: int = 40) -> list[Result]:
    """Evidence with a log ratio of CEPO that is `gap` above RLSD's."""
    rng = np.random.default_rng(0)

    def sizes(scale: float) -> dict[str, list[float]]:
        noise = np.exp(0.05 * rng.standard_normal((3, n)))
        return {
            "decisive": (scale * noise[0]).tolist(),
            "copied": noise[1].tolist(),
            "filler": (0.01 * noise[2]).tolist(),
        }

    auc = {k: (area + 0.05 * rng.standard_normal(n)).tolist() for k in ("cepo", "rlsd", "exact cepo", "exact rlsd")}
    value = {
        "prompts": {"cepo": sizes(np.exp(gap)), "rlsd": sizes(1.0)},
        "auc": auc,
        "signed": {m: {"first error": -0.5, "later steps of wrong responses": None} for m in ("cepo", "rlsd")},
        "steps": {"cepo": [0.1, 2.0], "rlsd": [0.1, 0.5], "exact rlsd": [0.2, 0.4]},
        "sharpness": [bad, 1000],
        "bayes": {"cepo": 0.9, "rlsd": None},
        "right": [20, 39, 40],
    }
    return [Result(ONE_RUN[0], value, {}, Path())]


def value(accuracy: float, seed: int, scored: float = 0.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    course = [{"batch": b, "tokens": 4608.0 * b, "scored": scored * b, "accuracy": 0.55 + (accuracy - 0.55) * b / 40}
              for b in (0, 10, 20, 30, 40)]  # fmt: skip
    batches = {k: [0.1] * 40 for k in cepo.SERIES} | {"tokens": [4608.0] * 40, "scored": [scored] * 40}
    final = [round(4000 * (accuracy + 0.002 * rng.standard_normal())), 4000]
    return {"start": [2200, 4000], "final": final, "course": course, "batches": batches}


def trained(
    part: str, name: str, accuracy: float, seconds: float = 10.0, n: int = 5, scored: float = 0.0
) -> list[Result]:
    one, offset = arms.Arm(name, {}), sum(map(ord, name))
    timing = [{"cpu_seconds": seconds + 0.1 * s} for s in range(n)]
    return [Result(Cell(names.PARTS[part], one, TINY, s), value(accuracy, offset + s, scored), timing[s], Path())
            for s in range(n)]  # fmt: skip


def word(finding: Finding | None) -> str:
    assert finding is not None
    if finding.holds is not None:
        return "for" if finding.holds else "against"
    return "for" if finding.p_for < ALPHA else "against" if finding.p_against < ALPHA else "open"


def test_evidence_claims() -> None:
    assert word(CLAIMS["C1"].measure(of_evidence(1.0))) == "for"
    assert word(CLAIMS["C1"].measure(of_evidence(-1.0))) == "against"
    assert CLAIMS["C1"].measure(of_evidence(1.0)).estimate.value == pytest.approx(1.0, abs=0.05)
    assert word(CLAIMS["C2"].measure(of_evidence(0.0))) == "for"
    assert word(CLAIMS["C2"].measure(of_evidence(0.0, bad=1))) == "against"
    for id in ("C3", "C3r"):
        assert word(CLAIMS[id].measure(of_evidence(0.0, area=0.9))) == "for"
        assert word(CLAIMS[id].measure(of_evidence(0.0, area=0.4))) == "against"


ENDS = {
    "C4": ("main", "cepo", "grpo"), "C4r": ("main", "cepo", "rlsd"), "C4s": ("main", "cepo", "cepo shuffled"),
    "C4o": ("main", "oracle", "grpo"),
    "C4e": ("main", "cepo exact", "grpo"), "N4": ("noise", "cepo exact", "grpo"),
    "C4w": ("main", "cepo own", "cepo"), "C4m": ("main", "cepo modal", "cepo"),
    "N1": ("noise", "cepo", "grpo"), "N2": ("noise", "cepo", "rlsd"), "N3": ("noise", "oracle", "grpo"),
    "S1": ("main", "grpo", "opsd"), "S2": ("main", "grpo", "sdpo"),
}  # fmt: skip


@pytest.mark.parametrize(("id", "part", "a", "b"), [(id, *known) for id, known in ENDS.items()])
@pytest.mark.parametrize(("accuracy", "said"), [(0.75, "for"), (0.65, "against")])
def test_accuracy_at_the_end(id: str, part: str, a: str, b: str, accuracy: float, said: str) -> None:
    found = [*trained(part, a, accuracy), *trained(part, b, 0.7)]
    assert word(CLAIMS[id].measure(found)) == said


def test_gain_rate_and_cost() -> None:
    assert word(CLAIMS["G0"].measure(trained("main", "grpo", 0.75))) == "for"
    assert word(CLAIMS["G0"].measure(trained("main", "grpo", 0.56))) == "against"
    assert word(CLAIMS["S0"].measure(trained("main", "opsd", 0.6))) == "for"
    assert word(CLAIMS["S0"].measure(trained("main", "opsd", 0.5))) == "against"
    plain = trained("main", "grpo", 0.7)
    for cepo_at, said in ((0.701, "for"), (0.76, "against")):
        found = [*plain, *trained("main", "cepo", cepo_at), *trained("main", names.FAST, 0.95)]
        assert word(CLAIMS["C5"].measure(found)) == said
    for seconds, said in ((11.0, "for"), (14.0, "against")):
        found = [*plain, *trained("main", "cepo", 0.7, seconds, scored=4608.0)]
        assert word(CLAIMS["C7"].measure(found)) == said
        assert "1.250" in CLAIMS["C7"].measure(found).detail  # (2 + 2 + 6) / 8 of the arithmetic


def test_every_claim_names_arms_that_its_part_has() -> None:
    results = everything()
    for id, claim in CLAIMS.items():
        assert claim.measure(results) is not None, id


def everything() -> list[Result]:
    found = [*of_evidence(1.0), *of_coin(coin.run())]
    for part, name, _ in ALL:
        found += trained(part, name, 0.7)
    return found


@pytest.mark.parametrize("id", CLAIMS)
def test_without_results_nothing_is_claimed(id: str) -> None:
    assert CLAIMS[id].measure([]) is None


def test_figures_tables_and_sentence() -> None:
    found = everything()
    shown = show.show(found)
    assert len(shown.panels) == 9
    assert len([d for d in shown.differences if d.b == "grpo"]) == len(names.MAIN_ARMS) + len(names.NOISE_ARMS) - 2
    assert "After as many batches cepo was" in show.sentence(found)
    assert show.show([]).panels == ()
    assert show.sentence([]) == "Nothing has been run yet."
