"""The causal-minimax study: what it plans, miniature runs of every part, measures on made-up results, files."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.invariance import regressors
from steersman.store.run import RunDir
from steersman.studies import causal_minimax as study
from steersman.studies.causal_minimax import (
    arms,
    claims,
    estimated,
    exact,
    figures,
    files,
    gate,
    measures,
    names,
    search,
)
from steersman.studies.causal_minimax.worlds import GATE, environments, gate_risk, gate_rows, random_world
from steersman.study.declare import Cell, Result
from steersman.study.plan import make_plan

GATE_RISK = 1.0786427540
QUADRATURE = 1e-4
EXACT = 1e-9


def result(part: str, value: dict, seed: int = 0) -> Result:
    return Result(Cell(names.PARTS[part], arms.ALL, {}, seed), value, {}, Path())


def test_quick_and_full_are_planned(monkeypatch):
    monkeypatch.delenv(names.DATA, raising=False)
    quick, full = (make_plan(study.STUDY, size) for size in ("quick", "full"))
    assert len(quick.runs) == 1 + 5 + 2 + 2
    assert len(full.runs) == 1 + 30 + 10 + 12
    assert not quick.mode.artefacts
    assert names.DATA in full.mode.note
    assert {r.id for r in quick.runs} < {r.id for r in make_plan(study.STUDY, "quick", 1).runs}
    with pytest.raises(UserError, match="no gpu mode"):
        make_plan(study.STUDY, "gpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Files of the authors' form, with fewer and made-up rows."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    back = {v: k for k, v in files.RENAMED.items()}
    names_ = [f"X{i}" for i in range(1, 11)]
    with gzip.open(folder / names.FILES[0], "wt", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["E", "Y", *names_])
        for e in range(1, 7):
            for z in rng.standard_normal((30, 11)):
                x9 = z[0] + z[9]
                rows.writerow([e, z[0], z[0] + x9 + z[1], *z[2:9], x9, z[10]])
    dag = ["Y", *(back[v] for v in names_)]
    told = {"dag": dag} | {v: {"pa": []} for v in dag} | {"M1": {"pa": ["Y"]}, "X2": {"pa": ["Y", "M1"]}}
    (folder / names.FILES[1]).write_text(json.dumps(told))
    (folder / names.FILES[2]).write_text(json.dumps({str(i): [1, 2, 3 + i % 2] for i in range(10)}))
    with (folder / names.FILES[3]).open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["X_1", "X_2", "X_3", "X_4", "X_5", "Y", "E"])
        for e in range(14):
            for z in rng.standard_normal((40 if e == 0 else 12, 6)):
                x5 = z[5] + z[4]
                x2 = z[0] + z[2] + z[5] + x5 + z[1]
                rows.writerow([z[0], x2, z[2], x2 + z[3], x5, z[5], e])
    return folder


def test_the_files_are_part_of_the_full_size_where_the_environment_names_them(monkeypatch, small, tmp_path):
    monkeypatch.setenv(names.DATA, str(small))
    full = make_plan(study.STUDY, "full")
    assert len(full.runs) == 1 + 30 + 10 + 12 + 10 + 45
    assert [a.name for a in full.mode.artefacts] == ["data"]
    assert files.build({"files": list(names.FILES)}, tmp_path, {}) == "4 files"
    assert {p.name for p in tmp_path.iterdir()} == set(names.FILES)
    monkeypatch.setenv(names.DATA, str(tmp_path / "none"))
    with pytest.raises(UserError, match="lacks"):
        make_plan(study.STUDY, "full")


@pytest.mark.parametrize("part, size", [("mouse", 9), ("simulation", 2)])
def test_a_split_of_a_file(small, part, size, monkeypatch):
    monkeypatch.setattr(files, "GRID", 5)
    monkeypatch.setattr(files, "REGRESSOR", "linear")
    monkeypatch.setattr(files, "MODES", ("corrected", "official") if part == "mouse" else ("corrected",))
    value = files.run(small, part, 0)
    json.dumps(value, allow_nan=False)
    for mode in files.MODES:
        assert len(value["modes"][mode]) >= size
        assert sum(r["whole"] for r in value["modes"][mode]) == 1
    # scaled by itself, the mean has the error (n - 1) / n: the flaw that the control shows
    rows = 30 if part == "simulation" else 12
    assert value["baselines"]["constant"]["own"] == pytest.approx((rows - 1) / rows)
    found = [result(part, value, s) for s in range(3)]
    for c in claims.CLAIMS:
        if names.PARTS[part] in c.parts and (part == "mouse" or "sample and scaling" not in c.text):
            assert c.measure(found) is not None
    assert figures.show(found).panels


def test_splits_of_the_mice_train_on_the_wild_type_and_seven_genes(small):
    _, frame, train = files._mouse(small, 3)
    assert train[0] == "0"
    assert len(set(train)) == 1 + files.MOUSE_TRAIN
    assert set(train) < set(frame["E"])
    assert files._mouse(small, 4)[2] != train


def test_random_worlds_are_what_they_should_be():
    for seed in range(12):
        for holds in (True, False):
            world = random_world(seed, holds)
            assert bool(world.graph.whole_set_optimal()) == holds
            assert world.graph.mutable_children
            assert all(len(world.graph.parents(m)) <= 3 for m in world.graph.mutable)
    rows = environments(random_world(0, False), 400, 4, 0)
    assert len(set(rows["E"])) == 4
    assert len(rows["Y"]) == 400


def test_the_gates_exact_risk():
    assert gate_risk(lambda c: c["M"] / (1 + c["M"] ** 2) * c["X1"]) == pytest.approx(GATE_RISK, abs=QUADRATURE)
    assert gate_risk(lambda c: 0 * c["M"]) == pytest.approx(1.0, abs=QUADRATURE)
    rows = gate_rows(400, 4, 0)
    assert ((rows["M"] > 0) & (rows["M"] < 1)).all()
    assert set(GATE.nodes) < set(rows)


@pytest.fixture(scope="module")
def runs() -> list[Result]:
    """A small run of each part that needs no file."""
    return [
        result("exact", exact.run(0, 10)), result("search", search.run([4, 12], 4, 0)),
        result("estimated", estimated.run(arms.ESTIMATED_FROM, 4, [1000, names.COMPARED])),
    ]  # fmt: skip


def test_theory_holds_in_a_small_run(runs):
    for measure in (measures.condition, measures.classes_alike, measures.optimum_found, measures.counts):
        assert measure(runs).holds
    assert measures.counts(runs).detail == "The published graph has 45 classes of 256."
    for w in runs[0].value["worlds"]:
        assert w["classes"] <= w["subsets"] == 2 ** w["stable"]
        assert w["best"] <= min(w["whole"], w["none"]) + EXACT
    json.dumps([r.value for r in runs], allow_nan=True)


def test_every_method_has_a_regret(runs):
    for w in runs[2].value["worlds"]:
        assert set(w["regret"]) == set(names.METHODS)
        if w["holds"]:
            assert w["regret"]["causal minimax"] == w["regret"]["whole stable set"]
    assert {*names.RIVALS} < {*names.METHODS}
    assert measures.rivals(runs).n == 4


def test_figures_and_the_sentence(runs):
    shown = figures.show(runs)
    titles = [p.title for p in shown.panels]
    assert "Classes that are judged, against all subsets" in titles
    assert "Regret where the condition fails" in titles
    assert len(shown.differences) == 2 * (len(names.METHODS) - 1)
    assert figures.sentence(runs).startswith("In 10 of 10 random worlds")
    assert figures.sentence([]) == "Nothing has been run yet."
    assert study.STUDY.answer(runs, {}) == figures.sentence(runs)
    assert study.STUDY.show(runs) == shown


def test_a_broken_theory_would_be_seen(runs):
    value = {"worlds": [{**w, "whole": w["whole"] + 0.01, "within": 0.1, "by_class": w["best"] + 1e-6}
                        for w in runs[0].value["worlds"]]}  # fmt: skip
    broken = [result("exact", value)]
    for measure in (measures.condition, measures.classes_alike, measures.optimum_found):
        assert not measure(broken).holds
    wrong = {"counts": {"path from Y": {"4": [6]}, "path through Y": {"4": [9]}, "star": {"4": [16]}}, "published": 45}
    assert not measures.counts([result("search", wrong)]).holds


def world(ours: float, whole: float, holds: bool = False, rank: float = 1.0) -> dict:
    other = dict.fromkeys(names.METHODS, 0.5)
    return {"rows": names.COMPARED, "seed": 0, "holds": holds, "rank": rank, "spread": 0.1, "gap": 0.1,
            "regret": {**other, "causal minimax": ours, "no shortcut": ours, "whole stable set": whole}}  # fmt: skip


def test_measures_of_estimates_go_the_right_way():
    better = [result("estimated", {"worlds": [world(0.1, 0.2 + i / 100) for i in range(8)]})]
    worse = [result("estimated", {"worlds": [world(0.3 + i / 100, 0.2) for i in range(8)]})]
    assert measures.better_than_whole(better).p_for < 0.01 < measures.better_than_whole(worse).p_for
    assert measures.better_than_whole(worse).p_against < 0.01
    same = [result("estimated", {"worlds": [world(0.2 + i * 1e-5, 0.2, True) for i in range(8)]})]
    lost = [result("estimated", {"worlds": [world(0.3 + i * 1e-5, 0.2, True) for i in range(8)]})]
    assert measures.nothing_lost(same).p_for < 0.01 < measures.nothing_lost(lost).p_for
    high = [result("estimated", {"worlds": [world(0, 0, rank=0.9 + i / 100) for i in range(8)]})]
    assert measures.ranks(high).p_for < 0.01
    assert measures.rivals(better).p_for < 0.01
    assert measures.few([result("search", {"counts": {"sparse": {"12": [100, 200, 300]}}})]).p_for < 0.05
    assert measures.better_than_whole([]) is None


def test_the_gate_run_chooses_no_stable_variable(tmp_path, monkeypatch):
    monkeypatch.setattr(regressors, "TREES", 40)
    value = study.run(Cell(names.PARTS["gate"], arms.ALL, {"rows": 1200}, 0), RunDir(tmp_path), {})
    assert value["chosen"] == []
    assert value["risk"]["causal minimax"] < value["risk"]["whole stable set"]
    assert measures.gate([result("gate", value), result("gate", value, 1)]) is not None
    assert gate.GATE is GATE


def test_classes_that_cannot_be_told_apart_leave_the_rank_open():
    flat = {"modes": {"corrected": [{"risk": 1.0, "training": 1.1}] * 3}}
    found = measures.correlation([result("mouse", flat)], "mouse", "corrected", "training")
    assert found.estimate is None
    assert "in 0 of 1 splits" in found.detail
    assert measures.correlation([], "mouse", "corrected", "training") is None


def test_claims_are_named_once_and_have_parts():
    ids = [c.id for c in claims.CLAIMS]
    assert len(set(ids)) == len(ids)
    assert {p for c in claims.CLAIMS for p in c.parts} == set(names.PARTS.values())
