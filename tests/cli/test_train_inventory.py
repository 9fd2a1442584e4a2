"""`steersman train inventory` as a user sees it: results, plans, resuming, mistakes."""

import json

import pytest

NETWORK = """
[network]
stores = [{ name = "shop", holding = 1, shortage = 4 }]
edges = [["supplier", "shop", 2]]

[demand]
kind = "poisson"

[policy]
kind = "base_stock"

[data]
scenarios = 16
periods = 8
dev_scenarios = 8
dev_periods = 8
test_scenarios = 20
test_periods = 20

[budget]
steps = 4
batch = 8

[runtime]
evaluate_every = 2
"""


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.toml"
    path.write_text(NETWORK)
    return path


def test_a_table_and_the_paths_of_what_was_written(cli, network, tmp_path) -> None:
    done = cli("train", "inventory", network, "--out", tmp_path / "o", "--set", "data.curve=[4]")
    assert done.code == 0, done.err
    for word in ("learnt policy, test", "from 4 scenarios", "optimum: dynamic programme", "gap", "4 steps (finished)"):
        assert word in done.out
    assert str(tmp_path / "o" / "report.html") in done.out
    assert "step 4/4" in done.err
    again = cli("train", "inventory", network, "--out", tmp_path / "o", "--set", "data.curve=[4]")
    assert "already finished" in again.out


def test_json_steps_and_resume(cli, network, tmp_path) -> None:
    done = cli("train", "inventory", network, "--out", tmp_path / "o", "--steps", 2, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 2
    resumed = cli("train", "inventory", "--resume", tmp_path / "o", "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["test"] == json.loads(done.out)["test"]


def test_a_dry_run_says_what_is_known(cli, network) -> None:
    done = cli("train", "inventory", network, "--dry-run")
    assert done.code == 0, done.err
    assert "known optimum: 4.395 (dynamic programme)" in done.out
    plan = json.loads(cli("train", "inventory", network, "--dry-run", "--json").out)
    assert plan["edges"] == 1


@pytest.mark.parametrize(
    "words, said",
    [
        ((), "there is no network"),
        (("none.toml",), "cannot be read"),
        (("FILE", "--set", "network.edges=[]"), "the store 'shop' has no supplier"),
        (("FILE", "--set", 'network.edges=[["supplier", "shop", 0]]'), "lead time 0"),
        (("FILE", "--set", "policy.kind=echelon"), "'echelon' is not known"),
        (("FILE", "--set", "polcy.kind=graph"), "Did you mean policy?"),
        (("FILE", "--set", "runtime.device=gpu"), "device (the command line): 'gpu' is not known"),
        (("--resume", "."), "is neither a run"),
    ],
)
def test_mistakes_are_one_message(cli, network, words, said) -> None:
    done = cli("train", "inventory", *(network if w == "FILE" else w for w in words))
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_another_verbs_run_is_not_resumed(cli, tmp_path) -> None:
    (tmp_path / "recipe.json").write_text('{"verb": "sft"}')
    done = cli("train", "inventory", "--resume", tmp_path)
    assert "steersman train sft --resume" in done.err


def test_the_example_is_shown_and_checked(cli, tmp_path) -> None:
    shown = cli("config", "show", "inventory")
    assert shown.code == 0, shown.err
    (tmp_path / "n.toml").write_text(shown.out + '\n[runtime]\ndevice = "cpu"\n')
    assert cli("config", "check", tmp_path / "n.toml").out == shown.out
