"""`steersman decide profile` as a user sees it: alone, against an opponent, and what is refused."""

import csv
import json
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
        (("--level", "95"), "out of range"),
    ],
)
def test_refusals(cli, survey, tmp_path, words, said):
    done = cli("decide", "profile", survey, *COLUMNS, *words, "--out", tmp_path / "o")
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
