"""The viewer serves reports and nothing else, to this machine only."""

import http.client
import json
import threading
from pathlib import Path

import pytest

from steersman.cli import view
from steersman.core.errors import UserError
from steersman.store.provenance import source_hash

REPORT = {
    "claims": [],
    "counts": {"supported": 1},
    "created": "2026-01-01",
    "format": 1,
    "made_by": {"source": source_hash()},
    "paper": "a paper",
    "sentence": "It works.",
    "stale": False,
    "title": "Toy <b>study</b>",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    report = tmp_path / "runs" / "toy" / "report"
    report.mkdir(parents=True)
    (report / "report.json").write_text(json.dumps(REPORT))
    (report / "index.html").write_text("<p>the report</p>")
    (report / ".hidden.html").write_text("hidden")
    (report / "notes.txt").write_text("notes")
    (report / "sub").mkdir()
    (report / "sub" / "deep.html").write_text("deep")
    (tmp_path / "secret.html").write_text("secret")
    (report / "link.html").symlink_to(tmp_path / "secret.html")
    (tmp_path / "runs" / "toy" / "result.json").write_text("{}")
    (tmp_path / "runs" / "secret.json").write_text("{}")
    return tmp_path / "runs"


@pytest.fixture
def ask(root: Path):
    with view.make_server(root, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def get(path: str, method: str = "GET", host: str | None = None):
            connection = http.client.HTTPConnection(*server.server_address, timeout=10)
            connection.putrequest(method, path, skip_host=True)
            connection.putheader("Host", host or f"127.0.0.1:{server.server_address[1]}")
            connection.endheaders()
            answer = connection.getresponse()
            found = answer.status, answer.read().decode(), dict(answer.getheaders())
            connection.close()
            return found

        yield get
        server.shutdown()


def test_bound_to_the_loopback_address_only(root: Path):
    with view.make_server(root, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_the_list_links_to_the_reports_and_escapes_their_text(ask):
    status, page, headers = ask("/")
    assert status == 200
    assert 'href="toy/index.html"' in page
    assert "It works." in page
    assert "<b>study</b>" not in page
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_reports_and_their_data_are_served(ask):
    assert ask("/toy/index.html")[:2] == (200, "<p>the report</p>")
    assert ask("/toy/report.json")[2]["Content-Type"] == "application/json"
    assert ask("/toy/index.html?x=1")[0] == 200
    assert ask("/toy/index.html", "HEAD")[:2] == (200, "")


@pytest.mark.parametrize(
    "path",
    ["/../secret.html", "/toy/../../secret.html", "/toy/..%2f..%2f..%2fsecret.html", "/toy/%2e%2e/%2e%2e/secret.html",
     "/toy/link.html", "/toy/.hidden.html", "/toy/sub/deep.html", "/toy/sub", "/toy/", "/toy", "/toy/result.json",
     "/secret.json", "//etc/passwd", "/etc/passwd", "/toy/notes.txt", "/toy/index.html/", "/./toy/index.html",
     "/toy/..\\secret.html", "/other/index.html", "/toy/index.html%00"],
)  # fmt: skip
def test_anything_else_is_refused(ask, path):
    status, text, _ = ask(path)
    assert status == 404
    assert "secret" not in text.replace(path, "")


def test_a_report_folder_that_is_a_link_out_of_the_root_is_refused(ask, root: Path):
    outside = root.parent / "outside" / "report"
    outside.mkdir(parents=True)
    (outside / "report.json").write_text(json.dumps(REPORT))
    (outside / "index.html").write_text("outside")
    (root / "linked").symlink_to(outside.parent)
    assert ask("/linked/index.html")[0] == 404


def test_other_methods_and_other_hosts_are_refused(ask):
    assert ask("/toy/index.html", "POST")[0] == 501
    assert ask("/toy/index.html", "DELETE")[0] == 501
    assert ask("/toy/index.html", host="evil.example:80")[0] == 403
    assert ask("/toy/index.html", host="127.0.0.1.evil.example")[0] == 403
    assert ask("/toy/index.html", host="localhost:8765")[0] == 200


def test_a_broken_report_does_not_hide_the_others(ask, root: Path):
    (root / "bad" / "report").mkdir(parents=True)
    (root / "bad" / "report" / "report.json").write_text("{")
    status, page, _ = ask("/")
    assert status == 200
    assert "cannot be read" in page
    assert "It works." in page


@pytest.fixture
def run(root: Path) -> Path:
    folder = root / "rl-1"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"verb": "rl", "made_by": {"source": source_hash()}}))
    (folder / "recipe.json").write_text(json.dumps({"verb": "rl"}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 3, "train/reward_mean": 0.5}) + "\n")
    return folder


def test_training_runs_are_listed_and_have_a_page_but_their_files_are_not_served(ask, run: Path):
    page = ask("/")[1]
    assert 'href="rl-1/index.html"' in page
    assert "the last step that was logged is 3" in page
    status, text, headers = ask("/rl-1/index.html")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "Reward" in text
    for path in ("/rl-1/metrics.jsonl", "/rl-1/run.json", "/rl-1/", "/rl-1", "/x/rl-1/index.html", "/rl-1/index.html/"):
        assert ask(path)[0] == 404
    assert ask("/rl-1/index.html", host="evil.example:80")[0] == 403


def test_a_run_whose_files_are_links_is_not_shown(ask, run: Path):
    (run.parent.parent / "outside.jsonl").write_text(json.dumps({"step": 1, "train/reward_mean": 1}) + "\n")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(run.parent.parent / "outside.jsonl")
    assert ask("/rl-1/index.html")[0] == 404
    assert "rl-1" not in ask("/")[1]


def test_a_broken_run_does_not_hide_the_others(ask, run: Path):
    (run / "metrics.jsonl").write_text("{\n")
    page = ask("/")[1]
    assert "cannot be read" in page
    assert "It works." in page
    assert ask("/rl-1/index.html")[0] == 500


def test_a_report_made_by_other_code_is_listed_as_stale(root: Path):
    file = root / "toy" / "report" / "report.json"
    assert view.index(root).count(">fresh<") == 1
    file.write_text(json.dumps({**REPORT, "made_by": {"source": "older"}}))
    assert ">stale<" in view.index(root)


def test_a_port_in_use_and_a_missing_folder_are_one_message(root: Path, tmp_path: Path):
    with (
        view.make_server(root, 0) as server,
        pytest.raises(UserError, match="is in use"),
    ):
        view.make_server(root, server.server_address[1])
    with pytest.raises(UserError, match="does not exist"):
        view.view(root=tmp_path / "none", port=0)
