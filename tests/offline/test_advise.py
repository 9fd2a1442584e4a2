"""Advice: the paper's own kinds of data, consistency over the plane, silence without both measures."""

import numpy as np
import pytest

from steersman.offline.advise import FAMILIES, MEANS, NEAR, SCHEMES, advise, as_json, expected, family_mean, strata_of

EXACT = 1e-12


@pytest.mark.parametrize(
    ("scheme", "family"),
    [
        ("random", "constrained methods"),
        ("mixed", "constrained methods"),
        ("replay", "off-policy Q-learning"),
        ("noisy", "off-policy Q-learning"),
        ("expert", "imitation"),
    ],
)
def test_the_papers_kinds_of_data(scheme: str, family: str) -> None:
    found = advise(*SCHEMES[scheme], True)
    assert found.family == family
    assert f"Begin with {family}" in found.sentence
    (judged,) = (j for j in found.judged if j.family == family)
    assert judged.verdict == "works"
    assert max(j.expected for j in found.judged) - judged.expected <= NEAR


def test_means_are_those_of_the_table() -> None:
    assert family_mean("off-policy Q-learning", "SACo > 0.8") == pytest.approx((0.90 + 0.90 + 0.87) / 3, abs=EXACT)
    assert {m for ms in FAMILIES.values() for m in ms} == MEANS["all"][1].keys()
    assert all(means.keys() == MEANS["all"][1].keys() for _, means in MEANS.values())
    assert strata_of(0.61, 0.44) == ("TQ > 0.6", "SACo < 0.45")
    assert strata_of(0.6, 0.45) == ("all", "all")
    assert strata_of(0.0, 0.81) == ("all", "SACo > 0.8")


def test_each_family_follows_its_measure() -> None:
    assert expected("imitation", 0.3, 0.9)[0] == pytest.approx(0.3, abs=EXACT)
    assert expected("imitation", 0.7, 0.1)[0] == pytest.approx(0.79, abs=EXACT)  # more than TQ in the paper
    assert expected("imitation", 1.4, 0.1)[0] == 1.0
    for tq in (0.0, 0.9):
        assert expected("off-policy Q-learning", tq, 0.2)[1] == "SACo < 0.45"
    assert expected("constrained methods", 0.9, 0.2)[1] == "TQ > 0.6"
    assert expected("constrained methods", 0.2, 0.2)[1] == "SACo < 0.45"
    assert expected("constrained methods", 0.2, 0.9)[1] == "SACo > 0.8"


@pytest.mark.parametrize("tq", np.linspace(-1, 2, 13))
@pytest.mark.parametrize("saco", np.linspace(0, 2, 9))
def test_every_place_has_an_advice(tq: float, saco: float) -> None:
    found = advise(float(tq), float(saco), False)
    assert found.family in FAMILIES
    assert [j.expected for j in found.judged] == sorted((j.expected for j in found.judged), reverse=True)
    assert ("extrapolates" in " ".join(found.limits)) == (not (-0.2 <= tq <= 1.2 and saco <= 1.5))
    assert "continuous" in " ".join(found.limits)
    assert as_json(found)["family"] == found.family


@pytest.mark.parametrize(("tq", "saco", "missing"), [(None, 0.5, "low and high"), (0.5, None, "a reference"),
                                                     (None, None, "a reference, for coverage and low")])  # fmt: skip
def test_nothing_is_recommended_without_both(tq: float | None, saco: float | None, missing: str) -> None:
    found = advise(tq, saco, True)
    assert (found.family, found.judged) == (None, ())
    assert missing in found.sentence


def test_poor_and_narrow_data_are_called_so() -> None:
    assert "better or wider data" in advise(0.05, 0.2, True).sentence
    assert "better or wider data" not in advise(0.5, 0.2, True).sentence


def test_a_near_threshold_is_told() -> None:
    near = advise(0.4, 0.82, True)
    assert near.family == "off-policy Q-learning"
    assert (
        near.limits[0] == "A threshold is near: 0.05 more or less in TQ or SACo, and it would be constrained methods."
    )
    assert "threshold is near" not in " ".join(advise(0.4, 0.9, True).limits)
