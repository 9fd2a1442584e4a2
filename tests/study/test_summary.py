"""From results to report.json, and what changed between two of them."""

import copy
import math

import pytest
import toy_study
from harness import TOYS

from steersman.core.errors import UserError
from steersman.stats import Interval
from steersman.store.run import RunDir
from steersman.study import summary
from steersman.study.declare import Finding, Result
from steersman.study.diff import compare, compare_files, find_report
from steersman.study.plan import make_plan
from steersman.study.summary import claim_row, cost_table, is_current, read_report, write_report
from steersman.study.verdict import Judged

SPEC = "toy_study:STUDY"


def finished(root, values=lambda cell: cell.seed + 2.0 * (cell.arm.name == "drift"), skip=0):
    plan = make_plan(toy_study.STUDY, "full")
    for run in plan.runs[skip:]:
        directory = RunDir(root / "toy" / run.id)
        directory.start({**run.identity, "made_by": {}})
        directory.finish({"x": values(run.cell)}, {"cpu_seconds": 1.0, "tokens": 10, "peak_rss_mib": 5.0})
    return plan


def test_a_report_is_not_current_once_its_runs_are_stale(tmp_path, monkeypatch):
    plan = finished(tmp_path)
    said = write_report(plan, tmp_path, SPEC, "")
    assert said["stale"] is True  # `finished` signs with no code at all
    monkeypatch.setattr(summary, "is_stale", lambda *_: False)
    assert not is_current(plan, tmp_path, SPEC)


def test_a_report_says_what_the_runs_say(tmp_path):
    plan = finished(tmp_path)
    assert not is_current(plan, tmp_path, SPEC)
    said = write_report(plan, tmp_path, SPEC, "steersman study run toy")
    assert read_report(tmp_path / "toy/report/report.json") == said
    claims = {c["id"]: c for c in said["claims"]}
    assert {k: c["verdict"] for k, c in claims.items()} == {
        "T1": "supported",
        "T2": "supported",
        "T3": "not testable here",
    }
    assert claims["T1"]["estimate"]["value"] == 2.0
    assert claims["T1"]["p_value"] == 1 / 64
    assert said["counts"] == {"supported": 2, "not testable here": 1}
    assert said["sentence"] == "Drift over 12 walks: supported."
    page = (tmp_path / "toy/report/index.html").read_text()
    assert "Drift over 12 walks: supported." in page
    assert "steersman study run toy" in page
    assert is_current(plan, tmp_path, SPEC)


def test_a_report_is_no_longer_current_when_a_result_changed(tmp_path):
    plan = finished(tmp_path)
    write_report(plan, tmp_path, SPEC, "")
    RunDir(tmp_path / "toy" / plan.runs[0].id).finish({"x": 9.0}, {})
    assert not is_current(plan, tmp_path, SPEC)


def test_missing_runs_are_said_and_not_measured(tmp_path):
    said = write_report(finished(tmp_path, skip=1), tmp_path, SPEC, "")
    assert said["claims"][0]["verdict"] == "inconclusive"
    assert said["claims"][0]["reason"] == "1 of its 12 runs failed or are not finished"
    assert said["claims"][0]["estimate"] is None


def test_no_run_no_report(tmp_path):
    with pytest.raises(UserError, match="no finished run of the full mode"):
        write_report(make_plan(toy_study.STUDY, "full"), tmp_path, SPEC, "")


def test_a_contradicted_claim_is_shown_as_one(tmp_path):
    plan = finished(tmp_path, lambda cell: cell.seed - 2.0 * (cell.arm.name == "drift"))
    assert write_report(plan, tmp_path, SPEC, "")["claims"][0]["verdict"] == "contradicted"


CELLS = toy_study.mode("quick", 0).cells


def test_cost_sums_over_an_arm_and_refuses_a_partial_sum():
    timings = [
        {"cpu_seconds": 1.0, "tokens": 5, "peak_rss_mib": 10.0},
        {"cpu_seconds": 2.0, "tokens": 5, "peak_rss_mib": 30.0},
        {"cpu_seconds": 4.0, "tokens": 7, "peak_rss_mib": 20.0, "partial": True},
        {"cpu_seconds": 8.0, "peak_rss_mib": 20.0},
    ]
    still, drift = cost_table([Result(c, {}, t, TOYS) for c, t in zip(CELLS, timings, strict=True)])
    assert (still.arm, still.runs, still.cpu_seconds, still.tokens, still.peak_mib) == ("still", 2, 5.0, 12, 20.0)
    assert "1 resumed" in still.note
    assert (drift.cpu_seconds, drift.tokens, drift.note) == (10.0, None, "")


def test_an_interval_without_ends_bounds_nothing():
    finding = Finding(Interval(1.0, math.nan, math.nan, 0.95), 1, detail="Only one.", test="none")
    plan = make_plan(toy_study.STUDY, "quick")
    row = claim_row(Judged(toy_study.STUDY.claims[0], finding, "inconclusive", "r"), plan)
    assert (row.estimate.low, row.estimate.high) == (-math.inf, math.inf)
    assert row.test == "none. Only one"
    assert row.equal == "steps"


def test_diff_of_a_report_with_itself_is_empty(tmp_path):
    said = write_report(finished(tmp_path), tmp_path, SPEC, "")
    found = compare_files(tmp_path / "toy", tmp_path / "toy/report/report.json")
    assert not found.changed
    assert found.runs_same == 12
    assert found == compare(said, said)


def test_diff_finds_each_kind_of_change(tmp_path):
    a = write_report(finished(tmp_path), tmp_path, SPEC, "")
    b = copy.deepcopy(a)
    b["claims"][0]["estimate"].update(value=2.0 + 1e-9)
    b["claims"][1].update(verdict="contradicted")
    b["claims"][2].update(id="T9")
    first, *others = b["runs"]
    b["runs"][first] = "changed"
    del b["runs"][others[0]]
    found = compare(a, b)
    assert {c.id: c.how for c in found.claims} == {
        "T1": "estimate",
        "T2": "verdict",
        "T3": "gone",
        "T9": "added",
    }
    assert found.runs_changed == (first,)
    assert found.runs_only == (1, 0)
    assert found.changed


@pytest.mark.parametrize("value, how", [(1.4, "estimate"), (1.6, "estimate beyond its interval")])
def test_diff_knows_the_size_of_a_change(tmp_path, value, how):
    a = write_report(finished(tmp_path), tmp_path, SPEC, "")
    a["claims"][0]["estimate"] = {"value": 1.0, "low": 0.5, "high": 1.5, "unit": "", "level": 0.95}
    b = copy.deepcopy(a)
    b["claims"][0]["estimate"].update(value=value, low=value - 0.3, high=value + 0.3)
    assert compare(a, b).claims[0].how == how


def test_diff_of_what_is_no_report(tmp_path):
    with pytest.raises(UserError, match="holds no report"):
        find_report(tmp_path)
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(UserError, match="is not a report"):
        read_report(tmp_path / "report.json")
    (tmp_path / "report.json").write_text('{"format": 99, "claims": []}')
    with pytest.raises(UserError, match="Upgrade"):
        read_report(tmp_path / "report.json")
