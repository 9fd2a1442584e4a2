"""The page of a training run: made of the run's files alone, also while it trains, and honest about what is missing."""

import json
import math
import re

import pytest

from steersman.core.errors import CorruptFile
from steersman.store.run import RunDir
from steersman.study.report_run import HELD_OUT, MOST_POINTS, TRAINING, panels, run_card, run_folders, run_page

HOSTILE = "</script><script>alert(1)</script>"
RECIPE = {"verb": "rl", "budget": {"steps": 40}, "stages": [{"kind": "grpo"}], "model": {"path": HOSTILE}}
RESULT = {
    "verb": "rl", "steps": 40, "reason": "finished", "before": {"accuracy": 0.25, "length": 3.0},
    "evaluation": {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "length": 4.0},
}  # fmt: skip


def sample(step, kept=1):
    streams = {"advantage": 0.5, "entropy": [0.1, 0.2, None]}
    return {
        "step": step, "group": 0, "prompt": f"2{HOSTILE}", "response": "ab<eos>", "reward": 1.0, "correct": True,
        "answer": None, "advantage": 0.5, "tokens": 3, "ids": [1, 2, 3], "pieces": ["a", HOSTILE, "<eos>"],
        "kept": kept, "streams": streams,
    }  # fmt: skip


def metrics(step, **more):
    row = {"step": step, "train/reward_mean": step / 40, "train/entropy": 1.0, "train/rows_kept": 4.0}
    return row | {f"train/{k}": v for k, v in more.items()}


@pytest.fixture
def folder(tmp_path):
    run = RunDir(tmp_path / "runs" / "rl-1")
    run.path.mkdir(parents=True)
    run.start({**RECIPE, "made_by": {"steersman": "0.1.0", "source": "mine"}})
    (run.path / "recipe.json").write_text(json.dumps(RECIPE))
    run.append("metrics", [metrics(s) for s in (10, 20, 30)])
    run.append("metrics", [{"step": 30, "eval/accuracy": 0.5, "eval/accuracy_low": 0.4, "eval/accuracy_high": 0.6}])
    run.append("samples", [sample(1), sample(21, kept=[1, 0, 1])])
    return run.path


def test_an_unfinished_run_says_how_far_it_is(folder):
    page = run_page(folder)
    assert "Not finished; the last step that was logged is 30 of 40." in page
    assert page.count('class="plot"') == 4  # accuracy, reward, entropy, rows
    assert re.findall(r"<h2>([^<]+)</h2>", page) == ["Curves", "Samples", "Settings"]
    assert "<script>alert" not in page
    assert "budget.steps = 40" in page
    assert "made_by" not in page


def test_a_run_that_an_error_ended_says_why(folder):
    RunDir(folder).stopped("loss became nan in steps 31 to 32\n       The last checkpoint is still good.")
    told = "Stopped, the last step that was logged is 30 of 40: loss became nan in steps 31 to 32 The last checkpoint"
    assert told in run_page(folder)
    RunDir(folder).goes_on()
    assert "Stopped" not in run_page(folder)


def test_a_finished_run_says_what_came_out(folder):
    RunDir(folder).finish(RESULT, {"seconds": 75.4})
    page = run_page(folder)
    assert "Finished after 40 steps: held-out accuracy 0.5 [0.4, 0.6] (before: 0.25)." in page
    assert "75 s" in page
    card = run_card(folder, "rl-1/index.html", "mine")
    assert (card.name, card.paper, card.stale, card.href) == ("rl-1", "training run, rl", False, "rl-1/index.html")
    assert run_card(folder, "", "other").stale


def test_samples_are_the_newest_first_with_what_was_kept(folder):
    data = json.loads(re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', run_page(folder), re.S)[-1])
    assert [s["title"] for s in data["samples"]] == ["step 21, response 1", "step 1, response 1"]
    assert data["samples"][0]["views"][0]["dropped"] == [2]
    assert [s["name"] for s in data["streams"]] == ["advantage", "|A|·H", "weight", "entropy", "reward", "kept"]


def test_a_run_of_nothing(tmp_path):
    run = RunDir(tmp_path / "sft-1")
    run.path.mkdir()
    run.start({"verb": "sft"})
    (run.path / "recipe.json").write_text("{}")
    page = run_page(run.path)
    assert "Not finished; no step was logged." in page
    assert "No step was logged yet." in page
    assert 'id="samples"' not in page


def test_lines_are_named_by_what_they_measure_and_long_runs_are_thinned():
    rows = [metrics(s, accuracy=0.5) for s in range(1, 3 * MOST_POINTS)] + [{"step": 9, "eval/accuracy": math.nan}]
    found = {p.title: p for p in panels(rows)}
    assert [line.arm for line in found["Accuracy"].lines] == [TRAINING, HELD_OUT]
    line = found["Reward"].lines[0]
    assert len(line.x) <= MOST_POINTS
    assert line.x[-1] == 3 * MOST_POINTS - 1
    assert line.mean == tuple(x / 40 for x in line.x)
    assert "Gradient" not in found


def test_only_folders_of_training_runs_are_found(folder):
    root = folder.parent
    (root / "other").mkdir()
    (root / "other" / "run.json").write_text("{}")
    assert run_folders(root) == {"rl-1": folder}


def test_a_broken_file_is_named(folder):
    (folder / "metrics.jsonl").write_text("{\n{}\n")
    with pytest.raises(CorruptFile, match=r"metrics\.jsonl:1"):
        run_page(folder)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(open_page, folder, width):
    path = folder / "page.html"
    path.write_text(run_page(folder), "utf-8")
    view, trouble = open_page(path.as_uri(), width, "dark")
    assert view.locator(".title").inner_text() == "step 21, response 1"
    assert view.locator(".view .t").count() == 4
    assert view.locator(".view .t.drop").count() == 1
    assert view.locator("svg.plot .mean").count() == 4
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not trouble
    view.close()
