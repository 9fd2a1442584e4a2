"""`steersman decide profile` as a user sees it: alone, against an opponent, and what is refused."""

import csv
import json
import math
import random

import pytest

COLUMNS = ("--factors", "experience,tax", "--outcome", "chosen", "--pair", "task", "--cluster", "respondent")
GAME = ("--opponent", "party", "--lam", "0.2")
LEVELS = {"experience": ("None", "8 years"), "tax": ("cut", "raise")}


@pytest.fixture
def survey(tmp_path):
    """Choices by worth; 8 years are worth more, each side likes its own party and its own tax."""
    draw, rows = random.Random(0), []
    for who in range(120):
        side = draw.choice("DR")
        for task in range(8):
            pair = [(draw.choice("DR"), *(draw.choice(x) for x in LEVELS.values())) for _ in "ab"]
            worth = [(p == side) + 0.8 * (e == "8 years") + 0.6 * ((t == "cut") == (side == "R")) for p, e, t in pair]
            first = draw.random() < 1 / (1 + 2.718 ** (worth[1] - worth[0]))
            rows += [
                (who, f"{who}-{task}", int(c), p[0], side, *p[1:])
                for p, c in zip(pair, (first, not first), strict=True)
            ]
    path = tmp_path / "survey.csv"
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([("respondent", "task", "chosen", "party", "lean", *LEVELS), *rows])
    return path


def test_alone(cli, survey, tmp_path):
    done = cli(
        "decide", "profile", survey, *COLUMNS, "--lam", "0.2", "--bootstrap", "5", "--out", tmp_path / "o", "--json"
    )
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["policy"]["experience"]["8 years"] > 0.6 > 0.4 > said["policy"]["experience"]["None"]
    assert said["status"] == "interior optimum"
    assert {"design", "held out, doubly robust", "optimum, bootstrap"} <= set(said["values"])
    assert said["values"]["design"]["value"] == 0.5
    markup = (tmp_path / "o" / "report.html").read_text()
    assert "Optimal distribution" in markup
    assert json.loads((tmp_path / "o" / "profile.json").read_text())["lam"] == 0.2


def test_tables_linear_link_auto_and_rows(cli, survey, tmp_path):
    words = (
        "--link",
        "linear",
        "--interactions",
        "none",
        "--lam",
        "auto",
        "--where",
        "lean=D",
        "--out",
        tmp_path / "o",
    )
    done = cli("decide", "profile", survey, *COLUMNS, *words)
    assert done.code == 0, done.err
    assert "8 years" in done.out
    assert "held out, weighted" in done.out
    assert "report.html" in done.out


@pytest.mark.parametrize("side", [("--group", "lean"), ("--infer-group",)])
@pytest.mark.parametrize("stage", ["--primaries", "--no-primaries"])
def test_against_an_opponent(cli, survey, tmp_path, side, stage):
    words = (*GAME, *side, stage, "--range", "0.4,0.5", "--out", tmp_path / "o", "--json")
    done = cli("decide", "profile", survey, *COLUMNS, *words)
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["parties"] == ["D", "R"]
    assert said["exploitability"] < 1e-3
    assert said["values"]["average case"]["value"] > said["values"]["equilibrium"]["value"]
    assert set(said["parties_apart"]) == set(LEVELS)
    if side == ("--infer-group",):
        assert sum(said["inferred"]["respondents"].values()) == 120
        assert any("inferred" in n for n in said["notes"])


def test_bootstrap_of_the_game_prints_a_difference(cli, survey, tmp_path):
    words = (*GAME, "--group", "lean", "--no-primaries", "--bootstrap", "3", "--out", tmp_path / "o")
    done = cli("decide", "profile", survey, *COLUMNS, *words)
    assert done.code == 0, done.err
    assert "difference" in done.out
    assert "equilibrium, bootstrap" in done.out


def test_pooled_stages_and_another_solver(cli, survey, tmp_path):
    words = (*GAME, "--group", "lean", "--models", "two", "--solver", "ogda", "--out", tmp_path / "o", "--json")
    done = cli("decide", "profile", survey, *COLUMNS, *words)
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["models"] == "two"
    assert said["exploitability"] < 1e-3
    most = said["profiles_apart"][0]
    assert set(most["profile"]) == set(LEVELS)
    assert most["divergence"] == pytest.approx(abs(math.log((most["D"] + 1e-6) / (most["R"] + 1e-6))), rel=1e-6)
    assert "Average case and equilibrium" in (tmp_path / "o" / "report.html").read_text()


def test_rules_of_thumb_restrictions_and_a_design(cli, survey, tmp_path):
    """Profiles with both levels are taken out, so that the design never shows them together."""
    rows = list(csv.reader(survey.open()))
    kept = [rows[0]]
    for i in range(1, len(rows), 2):
        if not any(r[-2:] == ["8 years", "raise"] for r in rows[i : i + 2]):
            kept += rows[i : i + 2]
    with survey.open("w", newline="") as out:
        csv.writer(out).writerows(kept)
    design = tmp_path / "design.json"
    even = {name: dict.fromkeys(levels, 0.5) for name, levels in LEVELS.items()}
    design.write_text(json.dumps(even))
    words = ("--lam", "0.2", "--interactions", "screened", "--design", design, "--out", tmp_path / "o", "--json")
    done = cli("decide", "profile", survey, *COLUMNS, *words)
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["design"] == even
    assert set(said["rules"]) == {"best levels by AMCE", "best profile shown", "marginal means"}
    assert any("Never shown together: experience=8 years with tax=raise" in n for n in said["notes"])
    done = cli("decide", "profile", survey, *COLUMNS, *words, "--forbid", "experience=8 years,tax=raise")
    said = json.loads(done.out)
    assert not any("Never shown" in n for n in said["notes"])
    x = said["policy"]
    assert said["forbidden"] == pytest.approx(x["experience"]["8 years"] * x["tax"]["raise"])
    assert any("forbidden profile" in n for n in said["notes"])
    for text, word in (
        ("[]", "is no design"),
        ("{", "cannot be read"),
        (json.dumps({"tax": even["tax"]}), "every level"),
    ):
        design.write_text(text)
        done = cli("decide", "profile", survey, *COLUMNS, *words)
        assert done.code == 2
        assert word in done.err


BROKEN = {
    "both": (lambda rows: [rows[0], [*rows[1][:2], "0", *rows[1][3:]], [*rows[2][:2], "0", *rows[2][3:]], *rows[3:]],
             "not exactly one chosen profile"),
    "two": (lambda rows: [rows[0], *([*r[:2], "1", *r[3:]] for r in rows[1:3]), *rows[3:]],
            "not exactly one chosen profile"),
    "single": (lambda rows: rows[:-1], "other than two rows"),
    "missing": (lambda rows: [rows[0], [*rows[1][:5], "", rows[1][6]], *rows[2:]], "values are missing"),
    "one respondent": (lambda rows: rows[:17], "one cluster"),
    "few": (lambda rows: [*rows[:3], *rows[17:19]], "too many for 2 rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_surveys_are_refused(cli, survey, tmp_path, name):
    change, word = BROKEN[name]
    rows = change(list(csv.reader(survey.open())))
    with survey.open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    done = cli("decide", "profile", survey, *COLUMNS, "--out", tmp_path / "o")
    assert done.code == 2
    assert word in done.err
    assert "Traceback" not in done.err


def test_a_factor_may_be_named_outcome_and_none_is_a_level(cli, survey, tmp_path):
    text = survey.read_text().replace("experience", "outcome", 1)
    survey.write_text(text)
    words = ("--factors", "outcome,tax", *COLUMNS[2:], "--out", tmp_path / "o", "--json")
    done = cli("decide", "profile", survey, *words)
    assert done.code == 0, done.err
    assert set(json.loads(done.out)["policy"]["outcome"]) == {"None", "8 years"}
    done = cli("decide", "profile", survey, "--factors", "chosen,tax", *COLUMNS[2:], "--out", tmp_path / "o")
    assert done.code == 2
    assert "'chosen' is the outcome and cannot be a factor" in done.err


@pytest.mark.parametrize(
    "words,said",
    [
        (("--opponent", "party"), "--group COLUMN or --infer-group"),
        (("--group", "lean"), "only against an opponent"),
        ((*GAME[:2], "--group", "lean", "--lam", "auto"), "lam cannot be chosen"),
        ((*GAME, "--group", "lean", "--link", "linear"), "models are logits"),
        (("--opponent", "respondent", "--infer-group"), "parties"),
        (("--where", "lean"), "no equals sign"),
        (("--where", "lean=X"), "no row has lean=X"),
        (("--where", "sex=X"), "no column 'sex'"),
        (("--range", "0.5"), "is no range"),
        (("--range", "0.5,0.4"), "is no range"),
        (("--lam", "much"), "is no number"),
        (("--link", "probit"), "is no link"),
        (("--penalty", "l7"), "is no penalty"),
        ((*GAME, "--group", "lean", "--penalty", "l1"), "has kinks"),
        ((*GAME, "--group", "lean", "--solver", "magic"), "is no solver"),
        ((*GAME, "--group", "lean", "--models", "six"), "is no choice"),
        ((*GAME, "--group", "lean", "--models", "two", "--no-primaries"), "pools the general election"),
        (("--models", "two"), "of a game"),
        (("--forbid", "experience"), "no equals sign"),
        (("--forbid", "experience=None,tax=cut"), "is forbidden, and"),
        (("--forbid", "experience=9 years"), "no level '9 years'"),
        (("--interactions", "some"), "is no choice"),
        (("--level", "95"), "out of range"),
    ],
)
def test_refusals(cli, survey, tmp_path, words, said):
    done = cli("decide", "profile", survey, *COLUMNS, *words, "--out", tmp_path / "o")
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
