"""The PF-PPO study: what it declares and plans, its stages and reward model, a miniature run of every arm, measures."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from steersman.core.component import Moment
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.recipes.rl_checks import check_method
from steersman.store.run import RunDir
from steersman.studies import pf_ppo, tiny_code_policy
from steersman.studies.pf_ppo import arms, claims, reward, show
from steersman.studies.pf_ppo.names import (
    ALL,
    EXACT,
    FULL_ARMS,
    NOISY_ARMS,
    POLICY,
    RANDOM,
    RELIABILITY,
    REWARD,
    SINGLE,
    STRATEGIES,
    TESTS,
    TRAINED,
)
from steersman.studies.pf_ppo.stages import NoisyVerdict, OracleFilter
from steersman.studies.rl_runs import recipe_of
from steersman.study.declare import Cell, Finding, Result
from steersman.study.plan import make_plan, undecidable
from steersman.task.tiny_code import TinyCode

ALPHA = 0.05
DEVIATIONS = 5.0  # standard errors within which moments of drawn noise lie
TINY = {"batches": 6, "evaluate_every": 3, "held_out": 6, "judged": 12}
EASY = TinyCode(inputs="int", size=(2, 3))
"""Half of its prompts want one program, which a few steps teach; so some responses are right."""
CLAIMS = {claim.id: claim for claim in claims.CLAIMS}


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("artefacts")
    small = {"width": 16, "mlp": 16, "layers": 1, "heads": 2}
    policy = tiny_code_policy.artefact(EASY, model=small, steps=80, batch=16, judged=20, optim={"lr": 2e-2})
    policy.build(policy.settings, root / POLICY, {})
    model = reward.artefact(prompts=60, epochs=1, batch=4)
    model.build({**model.settings, "task": EASY.model_dump(mode="json")}, root / REWARD, {POLICY: root / POLICY})
    return {POLICY: root / POLICY, REWARD: root / REWARD}


def cell(name: str, part: str = TRAINED, seed: int = 0) -> Cell:
    one = arms.arm(name, part)
    budget = {**one.settings["budget"], "batch": 10 if name == SINGLE else 2}
    return Cell(part, replace(one, settings={**one.settings, "budget": budget}), TINY, seed, (POLICY, REWARD))


@pytest.mark.parametrize("name", FULL_ARMS)
def test_arms_draw_as_many_responses_and_differ_in_what_they_learn_from(name: str) -> None:
    one = arms.arm(name)
    recipe = recipe_of(replace(cell(name), arm=one), "somewhere")
    assert check_method(recipe) == []
    assert recipe.budget.batch * recipe.rollout.samples == 320
    assert (recipe.rollout.updates, recipe.optim.lr, recipe.task.purpose) == (8, 4e-5, "sft")
    assert recipe.reward.kind == "model"


def test_quick_and_full_are_planned_and_can_decide_their_claims() -> None:
    quick, full = (make_plan(pf_ppo.STUDY, size) for size in ("quick", "full"))
    assert len(quick.runs) == arms.DRAWS["quick"] + 5 * arms.SEEDS["quick"]
    assert len(full.runs) == arms.DRAWS["full"] + (len(FULL_ARMS) + len(NOISY_ARMS) + 1) * arms.SEEDS["full"]
    assert not undecidable(claims.CLAIMS, "full")
    assert {r.id for r in quick.runs} < {r.id for r in make_plan(pf_ppo.STUDY, "quick", 1).runs}
    with pytest.raises(UserError, match="no gpu mode"):
        make_plan(pf_ppo.STUDY, "gpu")


@pytest.mark.parametrize(("a", "b", "steps"), [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)])
def test_edit_distance(a: str, b: str, steps: int) -> None:
    numbers = [[ord(c) for c in text] for text in (a, b)]
    assert reward.distance(*numbers) == reward.distance(*numbers[::-1]) == steps


def rollouts(rewards: list[float], correct: list[bool], samples: int = 5) -> Rollouts:
    n = len(rewards)
    ids = torch.arange(1, 1 + n * 4).reshape(n, 4)
    known = {"reward": torch.tensor(rewards), "correct": torch.tensor(correct)}
    group = torch.arange(n) // samples
    return Rollouts.of(ids, torch.full((n,), 4), torch.full((n,), 2), group=group, **known)


def test_a_pair_is_the_farthest_two_and_the_one_that_passes_is_better() -> None:
    made = rollouts([0.0] * 6, [True, False, False, True, True, True], samples=3)
    made.ids[:, 2:] = torch.tensor([[1, 1], [1, 2], [2, 2], [5, 5], [5, 5], [6, 6]])
    found = reward.farthest_pairs(made, made.correct, 3)
    assert found.first.ids[:, 2:].tolist() == [[1, 1]]  # the second prompt's farthest two both pass: no label
    assert found.second.ids[:, 2:].tolist() == [[2, 2]]


def test_the_oracle_keeps_what_the_reward_is_right_about() -> None:
    made = rollouts([2.0, -1.0, 0.1, -2.0, 1.0, 2.0, -2.0, 0.0, 1.9, 0.2], [True, True, False, False, False] * 2)
    out, _ = OracleFilter()(made)
    z = lambda x: (x - x.mean()) / x.std(correction=0)  # noqa: E731
    wrong = (z(made.reward.double()) - z(made.correct.double())).abs().reshape(2, 5)
    best = sorted((wrong.argsort(1)[:, :2] + torch.tensor([[0], [5]])).flatten().tolist())
    assert sorted(out.ids[:, 0].tolist()) == sorted(made.ids[best, 0].tolist())
    again, _ = OracleFilter(draws=9)(made)
    assert len(again) == len(made)


def test_noisy_verdicts_have_one_variance() -> None:
    made = rollouts([0.0] * 8000, [True, False] * 4000)
    found, _ = NoisyVerdict(std=0.5)(made, Moment(seed=3, step=2, total=5))
    error = found.reward.double() - made.correct.double()
    for side in (error[made.correct], error[~made.correct]):
        assert abs(float(side.mean())) < DEVIATIONS * 0.5 / len(side) ** 0.5
        assert abs(float(side.var()) - 0.25) < DEVIATIONS * 0.25 * (2 / len(side)) ** 0.5


@pytest.mark.parametrize(
    ("name", "part"), [*((n, TRAINED) for n in FULL_ARMS), *((n, EXACT) for n in NOISY_ARMS), (ALL, TESTS)]
)
def test_every_arm_runs(artefacts: Mapping[str, Path], tmp_path: Path, name: str, part: str) -> None:
    value = pf_ppo.run(cell(name, part), RunDir(tmp_path / "run"), artefacts)
    assert [p["batch"] for p in value["course"]] == [0, 3, 6]
    assert value["course"][-1]["trained"] == sum(value["batches"]["trained"])
    assert value["start"] == list(tiny_code_policy.judged(artefacts[POLICY]))
    assert [n for _, n in (value["final"], value["unseen"])] == [12, 6]
    assert [sum(x) for x in zip(*value["by_size"].values(), strict=True)] == value["final"]
    shares = {ALL: 1.0, SINGLE: 1.0, "grpo": 1.0, RANDOM: 0.4, "bon": 0.2, "br": 0.4, "bw": 0.4, "oracle filter": 0.4}
    if name in shares and part == TRAINED:  # reward models give no ties
        assert value["batches"]["rows"] == [10 * shares[name]] * 6


def test_reliability_has_every_filter_beside_its_null(artefacts: Mapping[str, Path]) -> None:
    one = next(c for c in arms.cells("quick") if c.part == RELIABILITY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steersman.studies.pf_ppo.reliability.SIMULATED", 2000)
        patch.setattr("steersman.studies.pf_ppo.reliability.TASK", EASY)
        value = pf_ppo.run(replace(one, task={"prompts": 120, "samples": 5}), None, artefacts)
    assert set(value["table"]) == set(STRATEGIES)
    for line in value["table"].values():
        assert line["excess"] == pytest.approx(line["r2"] - line["null"], abs=1e-12)
    assert value["table"]["none"]["excess"] == pytest.approx(0.0, abs=1e-12)
    assert value["passes"]["any"] >= max(value["passes"]["one"], value["passes"]["best by reward"])


def line(r2: float, null: float, seed: int) -> dict[str, float]:
    noise = 1e-3 * float(np.random.default_rng(seed).standard_normal())
    return {"r2": r2 + noise, "null": null, "excess": r2 + noise - null, "binned": 0.5, "slope": 0.1, "variance": 1.0}


def measured(sign: float = 1.0, seeds: int = 6) -> list[Result]:
    """R^2 in the paper's order and above its null, or the reverse."""
    one = next(c for c in arms.cells("quick") if c.part == RELIABILITY)
    place = {"bon": -2, "none": 0, "br": 1, "bw": 2}
    found = []
    for seed in range(seeds):
        r2 = {k: 0.3 + 0.04 * sign * place.get(k, 0.5 + 0.01 * i) for i, k in enumerate(STRATEGIES)}
        null = {k: 0.3 + 0.01 * sign * place.get(k, 0.1) for k in r2}
        table = {k: line(x, null[k], 10 * seed + i) for i, (k, x) in enumerate(r2.items())}
        error = [0.1 + 0.1 * sign * (3 <= i < 7) + 0.001 * seed * (i + 1) for i in range(10)]
        curve = [{"reward": 0.0, "score": 0.5, "unexplained": x} for x in error]
        value = {
            "table": table, "curve": curve, "passes": {"one": 0.4, "best by reward": 0.5, "any": 0.8},
            "simulated": {k: 0.3 + 0.05 * sign * p + 1e-4 * seed for k, p in place.items()},
            "expected": {k: 0.3 + 0.05 * p for k, p in place.items()},
        }  # fmt: skip
        found.append(Result(replace(one, seed=seed), value, {}, Path()))
    return found


def trained(by_arm: Mapping[str, float], part: str = TRAINED, seeds: int = 5) -> list[Result]:
    found = []
    for i, (name, accuracy) in enumerate(by_arm.items()):
        for seed in range(seeds):
            a = accuracy + 1e-3 * float(np.random.default_rng(31 * i + seed).standard_normal())
            share = 1.0 if name in (ALL, SINGLE) else 0.4
            course = [
                {"batch": b, "tokens": 900.0 * b, "trained": 900.0 * share * b, "accuracy": 0.45 + (a - 0.45) * b / 40}
                for b in range(0, 41, 10)
            ]
            value = {
                "start": [900, 2000], "final": [round(2000 * a), 2000], "unseen": [20, 2000],
                "by_size": {"3": [round(1000 * a), 1000], "4": [round(1000 * (2 * a - 0.45)), 1000]}, "course": course,
                "batches": {"reward": [0.1] * 40, "accuracy": [0.4] * 40, "entropy": [0.5] * 40},
            }  # fmt: skip
            found.append(Result(Cell(part, arms.arm(name, part), TINY, seed), value, {}, Path()))
    return found


PLACE = {"bon": -2, ALL: 0, "br": 1, "bw": 2, "top": 0.4, "pow-1": 0.5}
GOOD = {name: 0.5 + 0.02 * p for name, p in PLACE.items()} | {SINGLE: 0.48, RANDOM: 0.49}
BAD = {name: 0.5 - 0.02 * p for name, p in PLACE.items()} | {SINGLE: 0.52, RANDOM: 0.56}
WORSE = {name: a - 0.07 for name, a in GOOD.items()}
"""In the order of `GOOD`, but PPO on all five ends below its start of 0.45."""


def word(finding: Finding | None) -> str:
    assert finding is not None
    return "for" if finding.p_for < ALPHA else "against" if finding.p_against < ALPHA else "open"


@pytest.mark.parametrize("id", CLAIMS)
def test_every_claim_can_be_supported_and_contradicted(id: str) -> None:
    exact = {ALL: 0.5, "bw": 0.52}
    good = [*measured(1.0), *trained(GOOD), *trained(exact, EXACT), *trained({ALL: 0.5}, TESTS)]
    reverse = measured(-1.0) if id not in ("C5", "C5'") else measured(1.0)  # the correlation's other side has changed
    order = WORSE if id == "G1" else BAD
    bad = [*reverse, *trained(order), *trained({ALL: 0.5, "bw": 0.48}, EXACT), *trained({ALL: 0.43}, TESTS)]
    assert word(CLAIMS[id].measure(good)) == "for"
    assert word(CLAIMS[id].measure(bad)) == "against"
    assert CLAIMS[id].measure([]) is None


LEARNING = ("C3", "C3'", "C4a", "C4b", "C4c", "C4d", "C4e", "S1", "C5", "C5'", "C6")


@pytest.mark.parametrize("id", LEARNING)
def test_where_ppo_does_not_learn_filters_are_not_judged(id: str) -> None:
    with pytest.raises(UserError, match=r"precondition failed, PPO on all five gains -0\.02"):
        CLAIMS[id].measure([*measured(), *trained(WORSE)])


def test_exact_rewards_have_their_own_precondition() -> None:
    low = trained({ALL: 0.43, "bw": 0.5}, EXACT)
    with pytest.raises(UserError, match="precondition failed"):
        CLAIMS["H1"].measure([*trained(GOOD), *low])
    assert word(CLAIMS["H1"].measure([*trained(WORSE), *trained({ALL: 0.5, "bw": 0.52}, EXACT)])) == "for"


def test_figures_tables_and_sentence() -> None:
    found = [*measured(), *trained(GOOD), *trained({ALL: 0.5, "bw": 0.52}, EXACT), *trained({ALL: 0.52}, TESTS)]
    shown = show.show(found)
    assert shown.panels[0].title == "R² of the reward under each filter"
    assert [line.arm for line in shown.panels[0].lines] == ["R²", "by range"]
    assert {"R²", *show.AXES.values()} <= {d.metric for d in shown.differences}
    assert {d.b for d in shown.differences if d.metric == "R²"} == {"none", "its null"}
    told = show.sentence(found)
    assert "R² (what its range alone gives): bon" in told
    assert "Paid by the tests themselves ppo-m ends at 0.5" in told
    assert "All start at 0.450" in told
    assert "At equal trained tokens bw was" in told
    assert show.show([]).panels == ()
    assert show.sentence([]) == "Nothing has been run yet."
