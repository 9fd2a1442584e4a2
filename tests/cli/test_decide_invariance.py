"""`steersman decide invariance` as a user sees it: with a graph, without one, predictions, and what is refused."""

import csv
import json

import numpy as np
import pytest

WHO = ("--outcome", "Y", "--mutable", "M", "--environment", "E")
EDGES = ("--edges", "Y->M, M->X1, Y->X1")


def write(path, columns):
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return path


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """The counterexample in four environments, in which M copies Y more or less."""
    rng = np.random.default_rng(0)
    y = (rng.uniform(size=1600) < 0.1).astype(int)
    turn = np.repeat([0.1, 0.2, 0.3, 0.45], 400)
    m = np.where(rng.uniform(size=1600) < turn, 1 - y, y)
    x1 = (rng.uniform(size=1600) < np.where(m == 1, 0.5, np.where(y == 1, 1.0, 0.3))).astype(int)
    where = tmp_path_factory.mktemp("rows")
    return write(where / "rows.csv", {"E": np.repeat(list("abcd"), 400), "Y": y, "M": m, "X1": x1, "id": range(1600)})


def test_with_a_graph(cli, hospitals, tmp_path):
    new = write(tmp_path / "new.csv", {"M": [0, 1], "X1": [1, 1]})
    words = ("--regressor", "linear", "--folds", "2", "--predict", new, "--out", tmp_path / "o", "--json")
    done = cli("decide", "invariance", hospitals, *WHO, *EDGES, *words)
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["chosen"] == []
    assert (said["classes"], said["subsets"]) == (2, 2)
    assert said["worst_case_risk"] == pytest.approx(0.09, abs=0.02)
    assert {"ERM", "ICP", "GroupDRO", "IRM", "anchor", "constant", "surgery"} <= set(said["baselines"])
    assert said["baselines"]["ERM"]["risk"] > said["worst_case_risk"]
    assert "Not in the graph, so not used: id." in said["notes"]
    assert said["roles"] == {"Y": "outcome", "M": "mutable", "X1": "left out"}
    assert [set(r) for r in said["worst_case"]["policy"]["M"]] == [{"Y", "M"}] * 2
    written = json.loads((tmp_path / "o" / "invariance.json").read_text())
    assert written["ranking"] == said["ranking"]
    assert len((tmp_path / "o" / "predictions.csv").read_text().split()) == 3
    page = (tmp_path / "o" / "report.html").read_text()
    for part in ("Causes above their effects", "Worst-case risk", "The worst environment", "Y -&gt; X1 leads from Y"):
        assert part in page


def test_as_a_person_reads_it(cli, hospitals, tmp_path):
    edges = tmp_path / "graph.txt"
    edges.write_text("Y -> M  # the machine\nM -> X1\nY -> X1\n")
    words = ("--edges", edges, "--no-baselines", "--folds", "2", "--out", tmp_path / "o")
    done = cli("decide", "invariance", hospitals, *WHO, *words)
    assert done.code == 0, done.err
    assert done.out.startswith("Carry no stable variable and the mutable M into new environments")
    for said in ("Y -> X1 leads from Y", "left out", "chosen", "2 of 2 subsets", "The worst environment found", "page"):
        assert said in done.out
    assert all(len(line) <= 100 for line in done.out.splitlines())


def test_without_a_graph_one_is_learnt_and_said_to_be_a_guess(cli, tmp_path):
    rng = np.random.default_rng(1)
    e = rng.standard_normal((4, 1200))
    env, s = np.repeat(list("abcd"), 300), np.repeat([1.5, -0.5, 1.0, 2.0], 300)
    x1 = e[0]
    y = x1 + e[1]
    m = np.repeat([0.0, 2.0, -2.0, 4.0], 300) + s * y + e[2]
    rows = write(tmp_path / "rows.csv", {"E": env, "X1": x1, "Y": y, "M": m, "X2": m + e[3], "flat": np.ones(1200)})
    words = ("--regressor", "linear", "--folds", "2", "--no-baselines", "--out", tmp_path / "o", "--json")
    done = cli("decide", "invariance", rows, *WHO, *words)
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert not said["graph_given"]
    assert set(said["edges"]) == {"Y->M", "M->X2"}
    assert said["undirected"] == ["X1--Y"]  # nothing tells its direction, and nothing hangs on it
    assert said["graphs_that_fit"] == 1
    assert any("it is a guess" in n for n in said["notes"])
    assert "Constant, left out: flat." in said["notes"]
    assert said["whole_set_optimal"]


def test_several_graphs_that_fit(cli, hospitals, tmp_path):
    rng = np.random.default_rng(2)
    y = rng.standard_normal(400)
    m, n = y + rng.standard_normal(400), y + rng.standard_normal(400)
    rows = write(tmp_path / "rows.csv", {"E": np.repeat(["a", "b"], 200), "Y": y, "M": m, "N": n})
    words = ("--edges", "Y->M, Y->N, M--N", "--regressor", "linear", "--folds", "2", "--no-baselines")
    done = cli("decide", "invariance", rows, "--outcome", "Y", "--mutable", "M,N", "--environment", "E", *words,
               "--out", tmp_path / "o")  # fmt: skip
    assert done.code == 0, done.err
    assert "2 graphs fit the edges; the choice is the safest over all of them." in done.out
    assert "Graphs that fit" in (tmp_path / "o" / "report.html").read_text()


@pytest.mark.parametrize(
    "words, said",
    [
        (("--outcome", "Y", "--mutable", "M"), "neither a graph nor environments"),
        (("--outcome", "Q", "--mutable", "M"), "no column 'Q'"),
        (("--outcome", "Y", "--mutable", "Y"), "is mutable"),
        (("--outcome", "Y", "--mutable", "E", "--environment", "E"), "is the environment and a variable"),
        ((*WHO, "--edges", "Y->M, M->Y"), "cycle"),
        ((*WHO, "--edges", "E->M, Y->M"), "stands in the graph"),
        ((*WHO, "--edges", "Y->M, Y->Q"), "['Q'] are no columns"),
        ((*WHO, "--edges", "nowhere.txt"), "neither edges nor a file"),
        ((*WHO, *EDGES, "--mutable-range", "wide"), "is no range"),
        ((*WHO, *EDGES, "--mutable-range", "M=1"), "NAME=LOW:HIGH"),
        ((*WHO, *EDGES, "--mutable-range", "M=5:6"), "no level lies between"),
        ((*WHO, *EDGES, "--regressor", "forest"), "no regressor"),
        ((*WHO, *EDGES, "--search", "all"), "no search"),
        ((*WHO, *EDGES, "--max-classes", "1"), "more than 1 classes"),
        ((*WHO, "--test", "magic"), "no test"),
        (("--outcome", "Y", "--mutable", "M", "--environment", "id", *EDGES), "too few rows"),
    ],
)
def test_refusals(cli, hospitals, tmp_path, words, said):
    done = cli("decide", "invariance", hospitals, *words, "--no-baselines", "--out", tmp_path / "o")
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_one_environment_cannot_teach_a_graph(cli, tmp_path):
    rows = write(tmp_path / "rows.csv", {"E": ["a"] * 20, "Y": range(20), "M": range(20)})
    done = cli("decide", "invariance", rows, *WHO, "--out", tmp_path / "o")
    assert done.code == 2
    assert "1 environment: no graph can be learnt" in done.err
    assert "--edges" in done.err
