"""`steersman decide` as a user sees it: going on from a journal, asking, and audits."""

import json

import pytest

ARMS = "arm,x,y\nplain,1,0\nbold,0,1\nboth,0.5,0.6\n"
MEANS = {"plain": 0, "bold": 1, "both": 1}


@pytest.fixture
def arms(tmp_path):
    path = tmp_path / "arms.csv"
    path.write_text(ARMS)
    return path


def log(path, todo):
    with path.open("a") as out:
        if not path.stat().st_size:
            out.write("arm,reward\n")
        for name, count in todo.items():
            out.write(f"{name},{MEANS[name]}\n" * count)


def test_an_experiment_goes_on_until_it_recommends(cli, arms, tmp_path):
    words = ("decide", "arm", arms, "--epsilon", "5", "--budget", "120", "--rewards", tmp_path / "log.csv", "--json")
    steps = []
    for _ in range(5):
        done = cli(*words)
        assert done.code == 0, done.err
        said = json.loads(done.out)
        if "arm" in said:
            break
        steps.append((said["phase"], said["to_try"]))
        log(tmp_path / "log.csv", said["to_try"])
    assert said["arm"] in ("bold", "both")
    assert [phase for phase, _ in steps] == [1, 2]
    assert said["pulls"] == sum(sum(todo.values()) for _, todo in steps) <= 120
    assert said["certificate"]["certified"] is True
    assert json.loads(cli(*words).out) == said  # nothing is drawn anew
    assert sorted(p.name for p in (tmp_path / "arms-journal").iterdir()) == ["0001.json", "0002.json", "about.json"]
    text = cli(*words[:-1]).out
    assert "recommended: " + said["arm"] in text
    assert "privacy: epsilon 5 for a change of one reward, certified" in text


def test_other_options_on_the_same_journal_and_bad_input_are_refused(cli, arms, tmp_path):
    first = cli("decide", "arm", arms, "--epsilon", "1", "--budget", "60", "--rewards", tmp_path / "log.csv")
    assert first.code == 0
    assert "phase 1 of 2; still to be tried:" in first.out
    other = cli("decide", "arm", arms, "--epsilon", "2", "--budget", "60", "--rewards", tmp_path / "log.csv")
    assert other.code == 2
    assert "another experiment" in other.err
    small = cli("decide", "arm", arms, "--epsilon", "1", "--budget", "3")
    assert (small.code, "allowed: at least" in small.err) == (2, True)
    (tmp_path / "log.csv").write_text("arm,reward\n" + "plain,7\nbold,7\nboth,7\n" * 20)
    outside = cli("decide", "arm", arms, "--epsilon", "1", "--budget", "60", "--rewards", tmp_path / "log.csv")
    assert outside.code == 2
    assert "log.csv, line 2: a reward of 7" in outside.err
    assert "from 0 to 1" in outside.err
    for words, said in (
        (("--epsilon", "inf", "--budget", "60"), "promises nothing"),
        (("--epsilon", "1", "--budget", "60", "--noise", "gauss"), "allowed: discrete, opendp, float"),
        (("--epsilon", "1", "--budget", "60", "--low", "2"), "the lower first"),
        (("--epsilon", "1", "--budget", "60", "--journal", arms), "is a file, no folder"),
    ):
        done = cli("decide", "arm", arms, *words)
        assert (done.code, said in done.err) == (2, True), done.err


def test_features_of_a_lower_rank_and_uncertified_noise_are_said(cli, tmp_path):
    flat = tmp_path / "flat.csv"
    flat.write_text("arm,x,y\na,1,2\nb,2,4\nc,3,6\n")
    words = ("decide", "arm", flat, "--epsilon", "1", "--budget", "30", "--noise", "float", "--rewards", tmp_path / "l")
    assert "The 2 features span only 1 of as many dimensions." in cli(*words).out
    (tmp_path / "l").write_text("arm,reward\n" + "c,1\n" * 30)
    assert "NOT certified; Laplace in floating point" in cli(*words).out


def test_without_a_file_it_asks(cli, arms, tmp_path, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("nonsense\n5\n" + "1\n" * 30))
    done = cli("decide", "arm", arms, "--epsilon", "1", "--budget", "24", "--journal", tmp_path / "j")
    assert done.code == 0, done.err
    assert "not a number" in done.err
    assert "reward 1 of those told is 5" in done.err
    assert "recommended: " in done.out


def test_an_audit_finds_faults_and_not_the_method(cli):
    done = cli("decide", "audit", "--epsilon", "1", "--runs", "8000", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert [a["broken"] for a in said["audits"]] == [False, True, True, True]
    assert max(said["exact_two_arms"].values()) <= 1.0
    text = cli("decide", "audit", "--runs", "4000").out
    assert "the method" in text
    assert "not refuted" in text
    for epsilon in ("0", "1e-9", "1000", "inf"):
        assert cli("decide", "audit", "--epsilon", epsilon).code == 2
    assert cli("decide", "audit", "--law", "normal").code == 2
