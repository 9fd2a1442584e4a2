"""The conjoint study: what it plans, a miniature of every part, its measures, the survey by the environment."""

import csv
import gzip
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.conjoint import optimize_policy
from steersman.studies.conjoint import STUDY, arms, average, claims, contest, measures, names, networks, show, worlds
from steersman.studies.conjoint import survey as survey_runs
from steersman.study.declare import Result
from steersman.study.plan import make_plan

ALPHA = 0.05
CLAIMS = {c.id: c for c in claims.CLAIMS}
SMALL = {
    "exact": {"instances": 10},
    "average": {"samples": [300, 3500], "replications": 3},
    "rules": {"samples": 300, "replications": 3},
    "game": {"samples": [400, 10_000], "replications": 2},
    "solvers": {"games": 2},
    "push": {"games": 2},
    "models": {"samples": 400},
    "proxy": {"respondents": 150},
}


@pytest.fixture(scope="module")
def results():
    """Every part of the full size but the survey, small, two blocks each, the first arms."""
    made = []
    for cell in arms.cells("full"):
        if cell.seed > 1 or (cell.part == names.PARTS["average"] and "8" in cell.arm.name):
            continue
        part = next(k for k, v in names.PARTS.items() if v == cell.part)
        small = replace(cell, task=SMALL[part])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(networks, "STEPS", 30)
            made.append(Result(small, arms.run(small, {}), {}, Path()))
    return made


def test_what_is_planned(monkeypatch):
    monkeypatch.delenv(names.SURVEY, raising=False)
    for name in ("quick", "full"):
        plan = make_plan(STUDY, name)
        assert len({cell.arm.name for cell in plan.mode.cells}) > 5
        assert not any(c.part == names.PARTS["survey"] for c in plan.mode.cells)
    assert names.SURVEY in STUDY.mode("full", 0).note
    with pytest.raises(UserError, match="no gpu mode"):
        STUDY.mode("gpu", 0)
    assert len(arms.cells("quick", 1)) > len(arms.cells("quick"))


def test_every_part_runs_and_every_claim_has_a_measure(results):
    for claim in claims.CLAIMS:
        found = claim.measure(results)
        assert (found is None) == (claim.parts == (names.PARTS["survey"],)), claim.id
        assert claim.measure([]) is None, claim.id
    assert "missed by" in show.sentence(results)
    assert show.sentence([]) == "Nothing has been run yet."
    shown = show.show(results)
    assert len(shown.panels) >= 6
    assert len(shown.differences) >= 10


def test_runs_are_repeatable(results):
    for r in results[:4]:
        assert arms.run(r.cell, {}) == r.value


def test_the_true_optimum_is_inside_and_the_closed_form_holds():
    for count in names.COUNTS:
        model, noise = worlds.ratings(count)
        found = optimize_policy(model, lam=average.lam_of(model), method="closed")
        assert found.policy.x.min() >= average.INSIDE
        assert noise == pytest.approx((1 / 0.7 - 1.2) ** 0.5)


def test_a_relaxed_profile_is_a_mixture_and_a_hard_one_a_level():
    x, rng = np.array([0.3, 0.7, 1.0, 0.0]), np.random.default_rng(0)
    hard = contest._profiles(x, rng, None)
    assert set(np.unique(hard)) == {0.0, 1.0}
    assert hard[:, 0].mean() == pytest.approx(0.3, abs=0.02)
    assert hard[:, 2].min() == 1.0
    soft = contest._profiles(x, rng, 0.5)
    assert soft[:, :2].sum(1) == pytest.approx(1.0)
    assert ((soft[:, 0] > 0.01) & (soft[:, 0] < 0.99)).mean() > 0.5


def test_a_network_is_antisymmetric_and_learns():
    model = networks.run("four-way", 0, 3000)
    assert model["network"]["chance"] < 0.5 * model["logit"]["chance"]
    worth = networks.Worth(worlds.binary(2), np.array([0.0, 1.0, -1.0, 2.0]))
    a, b = np.array([[0, 1], [1, 0]]), np.array([[1, 1], [0, 0]])
    assert worth.pair_prob(a, b) + worth.pair_prob(b, a) == pytest.approx(1.0)


def altered(results, part, change):
    """Results of a part with their values changed."""
    return [replace(r, value=change(r.value)) if r.cell.part == names.PARTS[part] else r for r in results]


def test_exact_statements_are_contradicted_where_they_fail(results):
    assert CLAIMS["E1"].measure(results).holds
    assert not CLAIMS["E1"].measure(altered(results, "exact", lambda v: v | {"worst": 1e-6})).holds
    assert not CLAIMS["E1"].measure(altered(results, "exact", lambda v: v | {"wrongly_refused": 1})).holds
    assert CLAIMS["G1"].measure(results).holds
    assert not CLAIMS["G1"].measure(altered(results, "game", lambda v: v | {"truth_exploitability": 0.01})).holds


@pytest.mark.parametrize("exponent,word", [(-0.5, "for"), (-0.2, "against")])
def test_slopes(results, exponent, word):
    rng = np.random.default_rng(0)

    def made(v):
        scale = [(r["samples"] ** exponent * np.exp(rng.normal() * 0.01)) ** 2 for r in v["rows"]]
        return v | {"rows": [r | {"square": [s] * 3} for r, s in zip(v["rows"], scale, strict=True)]}

    found = CLAIMS["A1"].measure(altered(results, "average", made))
    assert (found.p_for if word == "for" else found.p_against) < ALPHA


def test_rules_and_coverage(results):
    rng = np.random.default_rng(0)
    ahead = altered(results, "rules", lambda v: v | {"clash": {"ours": [1.0] * 10, "amce": [0.9] * 10}})
    assert CLAIMS["R1"].measure(ahead).p_for < ALPHA
    behind = altered(results, "rules", lambda v: v | {"clash": {"ours": [0.9] * 10, "amce": [1.0] * 10}})
    assert CLAIMS["R1"].measure(behind).p_against < ALPHA
    for share, side in ((0.95, "p_for"), (0.8, "p_against")):

        def made(v, share=share):
            rows = [
                r | {"samples": 10_000, "covered": (rng.random(600) < share).astype(float).tolist()}
                for r in v["rows"][:1]
            ]
            return v | {"rows": rows}

        assert getattr(CLAIMS["A3"].measure(altered(results, "average", made)), side) < ALPHA


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A small survey with the columns of the real one, named by the environment."""
    draw, rows = random.Random(0), []
    for who in range(150):
        side = draw.choice(("Dem", "Rep"))
        for task in range(10):
            pair = [(draw.choice(("Dem", "Rep")), *(draw.choice("ab") for _ in names.SURVEY_FACTORS)) for _ in "ab"]
            worth = [2 * (p == side) + 0.8 * ((x[4] == "a") == (side == "Dem")) + 0.5 * (x[0] == "a") for p, *x in pair]
            first = draw.random() < 1 / (1 + 2.718 ** (worth[1] - worth[0]))
            rows += [(int(c), *p, who, f"{who}-{task}") for p, c in zip(pair, (first, not first), strict=True)]
    path = tmp_path / "survey.csv.gz"
    with gzip.open(path, "wt", newline="") as out:
        csv.writer(out).writerows([("Y", "party", *names.SURVEY_FACTORS, "id", "pair_id"), *rows])
    monkeypatch.setenv(names.SURVEY, str(path))
    return path


def test_the_survey_by_the_environment(file, tmp_path, results, monkeypatch):
    mode = STUDY.mode("full", 0)
    cells = [c for c in mode.cells if c.part == names.PARTS["survey"]]
    assert {c.arm.name for c in cells} == {names.setting_arm(*s) for s in names.SETTINGS}
    assert not STUDY.mode("quick", 0).artefacts
    folder = tmp_path / "made"
    folder.mkdir()
    (artefact,) = mode.artefacts
    assert artefact.build(artefact.settings, folder, {}) == "1,500 pairs of 150 respondents"
    chunk = [
        replace(c, task={"resamples": 3}, seed=0) for c in cells[: len(names.SETTINGS)] if "two-way" not in c.arm.name
    ]
    found = [Result(c, arms.run(c, {"survey": folder}), {}, Path()) for c in chunk]
    for r in found:
        assert r.value["exploitability"] < measures.EXPLOITABLE
        assert np.shape(r.value["draws"]) == (3, 3 + len(names.SURVEY_FACTORS))
        assert r.value["average"] >= r.value["equilibrium"] - 1e-9
    assert CLAIMS["V5"].measure(found).holds
    assert CLAIMS["V1"].measure(found).n == 3
    assert CLAIMS["V2"].measure(found) is None  # one setting is missing here
    assert any("Survey" in p.title for p in show.show([*results, *found]).panels)
    monkeypatch.setenv(names.SURVEY, str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match="there is no file"):
        survey_runs.path()
