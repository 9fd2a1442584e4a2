"""The DP-BAI study: miniature runs of each part, and every claim on results that support, refute, leave open."""

import json
from pathlib import Path

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.dp_bai import simulate
from steersman.store.run import RunDir
from steersman.studies import dp_bai
from steersman.studies.dp_bai import arms, claims, exact, names, show
from steersman.studies.dp_bai.worlds import instance
from steersman.study.declare import Cell, Result

ALPHA = 0.05
N = 2_000
CLAIMS = {claim.id: claim for claim in claims.CLAIMS}


def error_result(rows=(), pairs=(), sets=(), place="I1", budget=1001):
    cell = Cell(names.PARTS["error"], arms.PLAYED, {"instance": place, "budget": budget}, 0)
    return Result(cell, {"rows": list(rows), "pairs": list(pairs), "sets": list(sets)}, {}, Path())


def pair(other, epsilon, more, less, a=names.OURS, epsilon_b=None):
    """DP-BAI was wrong alone `less` times, the other `more` times."""
    return {"a": a, "epsilon_a": epsilon, "b": other, "epsilon_b": epsilon_b or epsilon, "trials": N,
            "only_a": less, "only_b": more}  # fmt: skip


def verdict(finding):
    assert not (finding.p_for < ALPHA and finding.p_against < ALPHA)
    return "for" if finding.p_for < ALPHA else "against" if finding.p_against < ALPHA else "open"


AGAINST = {
    "C1a": (names.ON_FEATURES, ("I1",), claims.USUAL, False), "C1b": (names.ON_FEATURES, ("I1",), claims.EVERY, False),
    "C7c": (names.ALL, ("I3", "I5"), claims.ABLATED, False), "C7d": (names.PLAIN, ("I3",), claims.ABLATED, False),
    "C7e": (names.POOLED, ("I2", "I3", "I4"), ("0.1", "0.5"), True),
    "C8e": (names.ON_FEATURES, ("I2",), claims.USUAL, False), "C8f": (names.ON_ARMS, ("I2",), claims.USUAL, True),
    "C9": (names.ON_FEATURES, ("I1",), ("0.01",), True),
    "C10a": (names.HALVING, claims.RELATED, ("0.1", "0.5", "1"), False),
}  # fmt: skip


@pytest.mark.parametrize("name", AGAINST)
@pytest.mark.parametrize("more, less, word", [(80, 20, "for"), (20, 80, "against"), (50, 50, "open")])
def test_orderings_can_be_supported_contradicted_and_left_open(name, more, less, word):
    other, places, epsilons, turned = AGAINST[name]
    counts = (less, more) if turned else (more, less)

    def results(odd=None):
        return [
            error_result(
                pairs=[pair(other, e, *(counts[::-1] if (p, e) == odd else counts)) for e in epsilons], place=p
            )
            for p in places
        ]

    assert verdict(CLAIMS[name].measure(results())) == word
    if word == "for" and len(places) * len(epsilons) > 1:  # one setting that disagrees is enough
        assert verdict(CLAIMS[name].measure(results((places[-1], epsilons[-1])))) != "for"
    assert CLAIMS[name].measure([]) is None


def test_small_budgets_are_not_part_of_a_claim_about_long_ones():
    odd = error_result(pairs=[pair(names.ON_FEATURES, "0.1", 0, 90)], budget=201)
    good = error_result(pairs=[pair(names.ON_FEATURES, "0.1", 90, 0)])
    assert verdict(CLAIMS["C1a"].measure([odd, good])) == "for"


@pytest.mark.parametrize("more, less, word", [(5, 5, "for"), (300, 10, "against"), (30, 9, "open")])
def test_equivalences(more, less, word):
    for name, other, to in (("C2a", names.OURS, "inf"), ("C2b", names.OD, "inf")):
        found = CLAIMS[name].measure([error_result(pairs=[pair(other, "10", more, less, epsilon_b=to)])])
        assert verdict(found) == word
    found = CLAIMS["C8a"].measure([error_result(pairs=[pair(names.ON_ARMS, "0.1", 2 * more, 2 * less)])])
    assert verdict(found) == word


@pytest.mark.parametrize("mean, word", [(0.05, "for"), (-0.05, "against"), (0.0, "open")])
@pytest.mark.parametrize("name, place", [("C7a", "I5"), ("C7b", "I3")])
def test_random_sets_are_the_units(name, place, mean, word):
    gaps = list(mean + 0.03 * np.linspace(-1, 1, 10))
    found = CLAIMS[name].measure([error_result(sets=[{"epsilon": "0.1", "gaps": gaps}], place=place)])
    assert verdict(found) == word
    assert found.n == 10


@pytest.mark.parametrize("wrong, word", [(100, "for"), (1990, "against")])
def test_the_bound(wrong, word):
    # at T = 10^5 the bound is about .3 on the paper's instance
    row = {"method": names.OURS, "epsilon": "10", "wrong": wrong, "trials": N}
    assert verdict(CLAIMS["C5"].measure([error_result([row], budget=10**5)])) == word
    assert CLAIMS["C5"].measure([error_result([row | {"method": names.HALVING}])]) is None


def test_halving_must_agree_on_every_replication():
    for differ in (0, 1):
        found = CLAIMS["C10b"].measure([error_result(pairs=[pair(names.HALVING, "0.1", differ, 0)], place="I4")])
        assert found.holds is (differ == 0)


def audit_result(fault, lower, epsilon=1.0):
    cell = Cell(names.PARTS["audit"], arms.PLAYED, {}, 0)
    value = {"fault": fault, "epsilon_lower": lower, "epsilon": epsilon, "confidence": 0.98, "runs": 10,
             "broken": lower > epsilon}  # fmt: skip
    return Result(cell, value, {}, Path())


def test_audits_decide_by_the_promise():
    for lower in (0.9, 1.1):
        assert CLAIMS["C6a"].measure([audit_result(None, 0.5, 2.0), audit_result(None, lower)]).holds is (lower < 1)
        found = [audit_result("reuse", 1.7), audit_result("no-noise", lower)]
        assert CLAIMS["C6b"].measure(found).holds is (lower > 1)
    assert CLAIMS["C6a"].measure([audit_result("reuse", 3.0)]) is None
    assert CLAIMS["C6b"].measure([audit_result(None, 0.5)]) is None


@pytest.fixture(scope="module")
def figures():
    return json.loads(json.dumps(exact.figures(5, 4_000), allow_nan=False))


EXACT = ("C0", "C3a", "C3b", "C4", "C6c", "C6d")


def exact_result(value):
    return [Result(Cell(names.PARTS["exact"], arms.EXACT, {}, 0), value, {}, Path())]


@pytest.mark.parametrize("name", EXACT)
def test_exact_claims_hold_and_would_be_seen_to_fail(figures, name):
    assert CLAIMS[name].measure(exact_result(figures)).holds is True
    broken = json.loads(json.dumps(figures))
    broken["simulator"][0]["wrong"] += 400
    broken["four"][0]["r2"] = 0.9
    broken["fits"]["two arms"]["off"]["0.5"] = -0.3
    next(r for r in broken["two"] if r["shrunk"] == 0.5)["slope"] *= 1.3
    broken["losses"]["returned"][0]["loss"] = 0.2
    next(r for r in broken["losses"]["history"] if r["fault"] == "reuse")["loss"] = "0.05"
    assert CLAIMS[name].measure(exact_result(broken)).holds is False
    assert CLAIMS[name].measure([]) is None


def test_exponents_are_those_of_the_curve(figures):
    row = figures["two"][0]
    slope = np.polyfit(row["budgets"], -np.log(row["errors"]), 1)[0]
    assert row["slope"] == pytest.approx(slope)
    assert max(row["errors"]) <= exact.WINDOW[1]
    assert exact.WINDOW[0] * 0.9 < min(row["errors"]) < exact.WINDOW[0] * 1.5
    law = exact.fit([{"slope": 1 / (2 + 3 / e), "epsilon": e} for e in (0.1, 1.0, 10.0)])
    assert (law["a"], law["b"]) == pytest.approx((2, 3))


@pytest.fixture(scope="module")
def small():
    """A cell of each kind, few replications and epsilons; the first is played twice."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "EPSILONS", (0.1, names.LARGE))
        patch.setattr(names, "RESCALED_EPSILONS", (0.1,))
        for cell in arms.cells("quick"):
            sizes = {"trials": 60, "sets": 3, "runs": 200}
            task = {k: sizes.get(k, v) for k, v in cell.task.items()}
            played = cell.part == names.PARTS["rescaled"] or task.get("budget") in (201, 300, 1000, 1001)
            if played or (cell.part == names.PARTS["audit"] and task["epsilon"] == 1.0):
                cell = Cell(cell.part, cell.arm, task, cell.seed)
                value = dp_bai.run(cell, RunDir(Path("unused")), {})
                assert found or value == dp_bai.run(cell, RunDir(Path("unused")), {})
                found.append(Result(cell, json.loads(json.dumps(value, allow_nan=False)), {}, Path()))
    return found


def test_a_miniature_run_plays_every_method_and_says_which_is_private(small):
    rows = [r for result in small if result.cell.part == names.PARTS["error"] for r in result.value["rows"]]
    assert {r["method"] for r in rows} == set(names.METHODS)
    for row in rows:
        assert row["private"] == (row["epsilon"] != "inf" and row["method"] != names.POOLED)


def test_random_sets_meet_the_rewards_of_the_whole(small):
    value = next(r.value for r in small if r.value.get("sets"))
    rows = {(r["method"], r["epsilon"]): r for r in value["rows"]}
    for row in value["sets"]:
        gap = rows[names.RANDOM, row["epsilon"]]["wrong"] - rows[names.OURS, row["epsilon"]]["wrong"]
        assert sum(row["gaps"]) * 20 == pytest.approx(gap)


def test_figures_and_sentence_come_from_the_results(small, figures):
    shown = show.show([*small, *exact_result(figures)])
    assert len(shown.panels) > 8
    for panel in shown.panels:
        for line in panel.lines:
            assert all(low <= mid <= high for low, mid, high in zip(line.low, line.mean, line.high, strict=True))
    assert {d.a for d in shown.differences} >= {names.ON_FEATURES, names.ON_ARMS}
    assert "%" in show.sentence(small)
    assert show.show([]).panels == ()
    assert show.sentence([]) == "Nothing has been run yet."


def test_other_units_are_the_same_instance():
    one, other = instance("I1"), instance("I1", rescaled=True)
    assert other.features[:, 0] == pytest.approx(one.features[:, 0] / 10)
    assert np.array_equal(one.means, other.means)
    assert one.means[:3] == pytest.approx([0.5, 0.45, 0.45])


def test_means_are_linear_and_one_arm_is_best():
    for place in names.INSTANCES:
        found = instance(place)
        theta = np.linalg.lstsq(found.features, found.means, rcond=None)[0]
        assert found.features @ theta == pytest.approx(found.means)
        best, second = np.sort(found.means)[::-1][:2]
        assert best > second
    with pytest.raises(UserError):
        instance("I6")


def test_remembered_sums_are_the_plain_ones():
    from steersman.decide.dp_bai import DPBAI, LinearArms

    arms_ = instance("I1")
    plain = LinearArms(arms_.features, arms_.means, "uniform")
    for epsilon in (0.1, 1.0):
        for options in (DPBAI(epsilon, 101), DPBAI(epsilon, 301, design="all", sizes=(30, 4, 1))):
            assert np.array_equal(simulate(options, arms_, 50).arm, simulate(options, plain, 50).arm)


def test_cells_of_each_mode():
    quick, more = arms.cells("quick"), arms.cells("quick", 1)
    assert all(c in more for c in quick)
    assert {c.part for c in quick} == set(names.PARTS.values())
    assert {c.seed for c in arms.cells("full")} & {c.seed for c in quick} == {0}  # other replications
    with pytest.raises(UserError, match="no gpu mode"):
        dp_bai.mode("gpu")
