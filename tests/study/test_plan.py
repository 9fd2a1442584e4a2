"""Identities, states and what a plan can decide."""

import dataclasses
from pathlib import Path

import pytest
import toy_study

from steersman.core.errors import UserError
from steersman.stats import smallest_p
from steersman.study.declare import Arm, Artefact, Claim, Mode
from steersman.study.plan import best_p, make_plan, undecidable

EXACT = 1e-12


def ids(study, mode="quick", extra=0):
    return [run.id for run in make_plan(study, mode, extra).runs]


def with_artefact(**changes):
    base = dataclasses.replace(toy_study.ARTEFACTS[0], **changes)
    artefacts = (base, toy_study.ARTEFACTS[1])
    return dataclasses.replace(
        toy_study.STUDY, mode=lambda n, e: dataclasses.replace(toy_study.mode(n, e), artefacts=artefacts)
    )


def test_same_declaration_same_ids():
    assert ids(toy_study.STUDY) == ids(toy_study.STUDY)
    assert len(set(ids(toy_study.STUDY))) == 4


def test_the_content_of_a_file_counts_and_its_place_does_not(tmp_path: Path):
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(text)
    a, b, c = (ids(with_artefact(reads=(tmp_path / n / f"{n}.txt",))) for n in "abc")
    assert a == b
    assert not set(a) & set(c)


@pytest.mark.parametrize("change", [{"settings": {"start": 5}}, {"version": 2}, {"needs": ()}])
def test_what_an_artefact_is_made_of_enters_the_runs_identity(change):
    assert not set(ids(with_artefact(**change))) & set(ids(toy_study.STUDY))


def test_an_artefact_below_counts_too():
    ground = dataclasses.replace(toy_study.ARTEFACTS[1], version=7)
    artefacts = (toy_study.ARTEFACTS[0], ground)
    study = dataclasses.replace(
        toy_study.STUDY, mode=lambda n, e: dataclasses.replace(toy_study.mode(n, e), artefacts=artefacts)
    )
    assert not set(ids(study)) & set(ids(toy_study.STUDY))


def test_version_mode_and_settings_count_and_the_meaning_of_an_arm_does_not():
    assert not set(ids(dataclasses.replace(toy_study.STUDY, version=2))) & set(ids(toy_study.STUDY))
    assert not set(ids(toy_study.STUDY, "full")) & set(ids(toy_study.STUDY))
    cell = toy_study.mode("quick", 0).cells[0]

    def one(arm: Arm):
        mode = Mode("quick", (dataclasses.replace(cell, arm=arm),), toy_study.ARTEFACTS, 1.0)
        return ids(dataclasses.replace(toy_study.STUDY, mode=lambda n, e: mode))

    assert one(Arm("still", {"drift": 0.0}, "other words")) == one(toy_study.STILL)
    assert one(Arm("still", {"drift": 0.5})) != one(toy_study.STILL)


def test_seeds_only_add():
    assert set(ids(toy_study.STUDY)) < set(ids(toy_study.STUDY, extra=2))


def test_artefacts_come_in_an_order_in_which_they_can_be_built():
    assert [a.artefact.name for a in make_plan(toy_study.STUDY, "quick").artefacts] == ["ground", "base"]


@pytest.mark.parametrize("needs, said", [(("base",), "needs itself"), (("nothing",), "not declared")])
def test_impossible_needs_are_refused_by_name(needs, said):
    with pytest.raises(UserError, match=said):
        ids(with_artefact(needs=needs))


def test_a_cell_that_needs_what_nobody_declares_is_refused():
    mode = dataclasses.replace(toy_study.mode("quick", 0), artefacts=())
    with pytest.raises(UserError, match="needs 'base'"):
        ids(dataclasses.replace(toy_study.STUDY, mode=lambda n, e: mode))


def test_the_same_run_twice_is_refused():
    mode = toy_study.mode("quick", 0)
    twice = dataclasses.replace(mode, cells=(*mode.cells, mode.cells[0]))
    with pytest.raises(UserError, match="the same run 2 times"):
        ids(dataclasses.replace(toy_study.STUDY, mode=lambda n, e: twice))


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"gone\.txt"):
        ids(with_artefact(reads=(tmp_path / "gone.txt",)))


def claim(name, pairs, sided="two-sided"):
    return Claim(name, name, "", lambda r: None, ("walk",), pairs, sided)


def test_smallest_p_after_holm_with_every_test_at_its_clearest():
    claims = [claim("A", {"quick": 5}), claim("B", {"quick": 12}), claim("C", {"quick": 5}, "greater"), claim("D", {})]
    found = best_p(claims, "quick")
    # smallest: A 2/32, B 2/4096, C 1/32; in order B x 3, C x 2, A x 1, each at least the one before it
    assert found["B"] == pytest.approx(3 * 2 / 4096, abs=EXACT)
    assert found["C"] == pytest.approx(2 / 32, abs=EXACT)
    assert found["A"] == pytest.approx(max(2 / 32, 2 / 32), abs=EXACT)
    assert found["D"] is None
    assert undecidable(claims, "quick") == ("A", "C")
    assert undecidable(claims, "quick", extra_seeds=3) == ()
    assert undecidable(claims, "full") == ()


def test_five_pairs_of_one_claim_are_the_planners_example():
    assert best_p([claim("A", {"quick": 5})], "quick")["A"] == smallest_p(5, 1) == 0.0625


def test_declared_artefact_names_may_be_any_text():
    odd = Artefact("../ground floor", {}, toy_study.build)
    mode = dataclasses.replace(toy_study.mode("quick", 0), artefacts=(odd,), cells=())
    plan = make_plan(dataclasses.replace(toy_study.STUDY, mode=lambda n, e: mode), "quick")
    assert "/" not in plan.artefacts[0].id
    assert not plan.artefacts[0].id.startswith(".")
