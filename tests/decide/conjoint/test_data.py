"""Reading conjoint data: what is kept, how pairs are turned, and everything that is refused."""

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import ConjointData, Factor, read_csv

FRAME = {
    "y": ["1", "0", "0", "1", "1", "0"],
    "pair": ["p", "p", "q", "q", "r", "r"],
    "who": ["a", "a", "a", "a", "b", "b"],
    "lean": ["L", "L", "L", "L", "R", "R"],
    "party": ["D", "R", "R", "D", "D", "D"],
    "experience": ["None", "8 years", "4 years", "None", "8 years", "4 years"],
    "age": ["40", "50", "50", "40", "40", "40"],
    "country": ["US"] * 6,
}
NAMED = {"outcome": "y", "pair": "pair", "cluster": "who", "group": "lean", "party": "party"}


def read(frame=FRAME, factors=("experience", "age"), **options):
    return ConjointData.from_frame(frame, factors=list(factors), **(NAMED | options))


def test_pairs_are_read():
    data = read(factors=("experience", "age", "country"))
    assert data.factors == (Factor("experience", ("4 years", "8 years", "None")), Factor("age", ("40", "50")))
    assert data.dropped == ("country",)
    assert data.first.tolist() == [[2, 0], [0, 1], [1, 0]]
    assert data.second.tolist() == [[1, 1], [2, 0], [0, 0]]
    assert data.outcome.tolist() == [1, 0, 1]
    assert data.cluster.tolist() == [0, 0, 1]
    assert data.design[1] == pytest.approx([4 / 6, 2 / 6])


def test_levels_in_the_order_wanted():
    data = read(levels={"experience": ["None", "4 years", "8 years", "12 years"]})
    assert data.factors[0].levels[-1] == "12 years"
    assert data.design[0][-1] == 0.0
    with pytest.raises(UserError, match="has levels"):
        read(levels={"age": ["40"]})


def test_ratings_are_read():
    data = ConjointData.from_frame({"y": [1.5, 2.0], "a": ["u", "v"]}, "y", ["a"])
    assert data.second is None
    assert data.outcome.tolist() == [1.5, 2.0]


def test_pairs_between_parties_are_turned():
    data = read().between("D", "R")
    assert data.party.tolist() == [["D", "R"], ["D", "R"]]
    assert data.outcome.tolist() == [1, 1]
    assert data.first.tolist() == [[2, 0], [2, 0]]
    assert len(read().between("D", "D")) == 1
    assert len(read().judged_by("R")) == 1
    with pytest.raises(UserError, match="no pair sets"):
        read().between("D", "X")
    with pytest.raises(UserError, match="nobody"):
        read().judged_by("X")
    with pytest.raises(UserError, match="no group"):
        read(group=None).judged_by("L")
    with pytest.raises(UserError, match="no party"):
        read(party=None).between("D", "R")


def test_csv_keeps_the_word_none(tmp_path):
    path = tmp_path / "survey.csv"
    rows = zip(*FRAME.values(), strict=True)
    path.write_text("\n".join([",".join(FRAME), *(",".join(r) for r in rows)]))
    assert read_csv(path) == FRAME
    for text, word in (("a,a\n1,2\n", "two columns"), ("a\n", "no rows"), ("a,b\n1\n", "has 1 cells")):
        path.write_text(text)
        with pytest.raises(UserError, match=word):
            read_csv(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_csv(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "change,options,word",
    [
        ({}, {"factors": ("experience", "y")}, "is the outcome and cannot be a factor"),
        ({}, {"factors": ("experience", "party")}, "is the party and cannot be a factor"),
        ({}, {"factors": ("experience", "sex")}, "no column 'sex'"),
        ({}, {"factors": ("age", "age")}, "names a column twice"),
        ({}, {"factors": ("country",)}, "no factor has two levels"),
        ({}, {"pair": None}, "parties need pairs"),
        ({"pair": ["p", "p", "q", "q", "r", "s"]}, {}, "other than two rows: .'r', 's'"),
        ({"y": ["1", "1", "0", "1", "1", "0"]}, {}, "exactly one chosen profile: .'p'"),
        ({"y": ["0", "0", "0", "1", "1", "0"]}, {}, "exactly one chosen profile: .'p'"),
        ({"y": ["yes", "0", "0", "1", "1", "0"]}, {}, "row 1: 'yes' is no number"),
        ({"y": [float("nan"), 0, 0, 1, 1, 0]}, {}, "1 values are missing"),
        ({"age": ["", "50", "50", "40", "40", "40"]}, {}, "first in rows .1."),
        ({"who": ["a", "b", "a", "a", "b", "b"]}, {}, "differs within a pair"),
    ],
)
def test_refusals(change, options, word):
    with pytest.raises(UserError, match=word):
        read(FRAME | change, **options)


def test_swapping_twice_is_nothing():
    data, rows = read(), np.array([True, False, True])
    again = data.swapped(rows).swapped(rows)
    assert (again.first == data.first).all()
    assert again.outcome.tolist() == data.outcome.tolist()
