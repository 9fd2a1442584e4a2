"""Findings to words, on findings made up here."""

import dataclasses
import math

import pytest
import toy_study

from steersman.core.errors import UserError
from steersman.stats import Interval
from steersman.study.declare import Claim, Finding, Mode, Result
from steersman.study.verdict import decide, judge

MANY = {"quick": 16}


def claim(name="A", pairs=MANY, measure=lambda r: None, parts=("walk",)):
    return Claim(name, f"claim {name}", "", measure, parts, pairs, "greater")


def finding(p_for=None, p_against=None, holds=None, n=16, **more):
    return Finding(Interval(1.0, 0.5, 1.5, 0.95), n, p_for, p_against, holds, **more)


def words(findings, claims=None, mode="quick"):
    claims = claims or [claim(name) for name in findings]
    return {j.claim.id: j.word for j in decide(claims, findings, {}, mode)}


@pytest.mark.parametrize(
    "p_for, p_against, word",
    [(0.01, 0.99, "supported"), (0.99, 0.01, "contradicted"), (0.3, 0.7, "inconclusive"), (0.04, 0.03, "inconclusive"),
     (0.04, None, "supported"), (None, 0.04, "contradicted"), (0.05, 0.95, "inconclusive")],
)  # fmt: skip
def test_one_claim(p_for, p_against, word):
    assert words({"A": finding(p_for, p_against)}) == {"A": word}


def test_holm_makes_three_claims_dearer_than_one():
    assert words({n: finding(0.02, 0.98) for n in "ABC"}) == dict.fromkeys("ABC", "inconclusive")
    stepped = {"A": finding(0.016, 0.9), "B": finding(0.024, 0.9), "C": finding(0.049, 0.9)}
    assert words(stepped) == dict.fromkeys("ABC", "supported")


def test_exact_claims_are_decided_at_once_and_do_not_count():
    found = {"A": finding(0.04, 0.9), "B": finding(holds=True), "C": finding(holds=False)}
    assert words(found) == {"A": "supported", "B": "supported", "C": "contradicted"}


def test_a_finding_without_test_or_answer_is_inconclusive():
    assert words({"A": finding()}) == {"A": "inconclusive"}


def test_a_finding_with_a_test_and_an_exact_answer_is_refused():
    with pytest.raises(UserError, match="both a test and an exact answer"):
        words({"A": finding(0.01, holds=True)})


def test_what_the_seeds_cannot_reach_is_inconclusive_by_design():
    (judged,) = decide([claim(pairs={"quick": 4})], {"A": finding(0.0625, 0.9, n=4)}, {}, "quick")
    assert judged.word == "inconclusive"
    assert judged.reason == "by design (quick: 4 seeds cannot reach p < 0.05)"
    (judged,) = decide([claim(pairs={"quick": 5})], {"A": finding(0.2, 0.8, n=5)}, {}, "quick")
    assert judged.reason.startswith("p = 0.2")


def test_by_design_counts_what_was_really_paired():
    (judged,) = decide([claim(pairs={"quick": 16})], {"A": finding(0.5, 0.5, n=3)}, {}, "quick")
    assert "3 seeds cannot reach" in judged.reason


CELLS = toy_study.mode("quick", 0).cells
MODE = Mode("quick", CELLS, (), 1.0)
RESULTS = [Result(cell, {"x": 1.0}, {}, None) for cell in CELLS]


def judged(measure, missing=None, parts=("walk",), results=RESULTS):
    return judge([claim(measure=measure, parts=parts)], MODE, results, missing or {})[0]


def test_missing_runs_leave_a_claim_unmeasured():
    def never(results):
        raise AssertionError("measured although runs are missing")

    found = judged(never, {"walk": ["a"]})
    assert (found.word, found.reason) == ("inconclusive", "1 of its 4 runs failed or are not finished")
    assert found.finding is None


def test_runs_missing_elsewhere_do_not_matter():
    assert judged(lambda r: finding(holds=True), {"swim": ["a"]}).word == "supported"


def test_no_run_of_the_mode_or_no_measure_is_not_testable():
    assert judged(lambda r: None).word == "not testable here"
    found = judged(lambda r: finding(holds=True), parts=("swim",))
    assert (found.word, found.reason) == ("not testable here", "no run of the quick mode tests it")


def test_a_measure_that_refuses_its_numbers_is_inconclusive_and_says_why():
    def refuse(results):
        raise UserError("is NaN", where="x, row 3")

    found = judged(refuse)
    assert found.word == "inconclusive"
    assert "x, row 3: is NaN" in found.reason


def test_a_bug_in_a_measure_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        judged(lambda r: 1 / 0)


def test_a_claim_reads_its_own_parts_only():
    seen = []
    other = Result(dataclasses.replace(CELLS[0], part="swim"), {"x": 2.0}, {}, None)
    judged(lambda r: seen.extend(r) or finding(holds=True), results=[*RESULTS, other])
    assert seen == RESULTS


def test_corrected_p_goes_with_the_word():
    a, b = decide([claim("A"), claim("B")], {"A": finding(0.9, 0.01), "B": finding(0.2, 0.8)}, {}, "quick")
    assert (a.p, a.p_corrected) == (0.01, 0.02)
    assert (b.p, b.p_corrected) == (0.2, 0.4)
    assert not math.isnan(a.p_corrected)
