"""An evaluation of policies about which everything is known: accuracy, pass@k, KL, win rates and best of n."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from constant_policy import constant_model, save_constant, tokenizer

from steersman.core.errors import RunStopped, UserError
from steersman.language.sampler import Sampling
from steersman.recipes.evaluate import Further, evaluate
from steersman.recipes.evaluate_sample import Drawn
from steersman.recipes.evaluate_task import read_task
from steersman.stats import kl_best_of_n

FOUR_SIGMA = 4.0
FLOAT = 1e-4
"""Between a mean of float32 log-ratios and their closed form on the same samples."""
OURS = {"": 0.5, "4": 0.3, "5": 0.2}
THEIRS = {"": 0.25, "4": 0.5, "5": 0.25}
PROMPTS = 150
SAMPLES = 4
CODE = """
def longer(prompt, a, b):
    return "tie" if len(a) == len(b) else "a" if len(a) > len(b) else "b"

def biased(prompt, a, b):
    return "a"

def shorter(prompt, completion, row):
    return -len(completion)

def half(prompt, completion, row):
    return 0.5 * (completion == row["answer"])

def fails(prompt, completion, row):
    raise ValueError("no luck")
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("evaluate")
    (root / "functions_of_a_test.py").write_text(CODE)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(root)
    rows = [{"prompt": f"{i} + {4 - i} =", "answer": "4"} for i in range(PROMPTS)]
    (root / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (root / "bare.jsonl").write_text('{"prompt": "1 ="}\n{"prompt": "2 ="}\n')
    yield SimpleNamespace(
        root=root,
        file=str(root / "q.jsonl"),
        bare=str(root / "bare.jsonl"),
        ours=save_constant(root / "ours", OURS),
        theirs=save_constant(root / "theirs", THEIRS),
    )
    patch.undo()


def task(shop: SimpleNamespace, **options: Any):
    return read_task(shop.file, **({"extract": "whole", "allow_import": ["functions_of_a_test"]} | options))


def close(found: dict[str, Any], truth: float, spread: float, n: int) -> bool:
    """Within four standard errors of the truth; `spread` is the standard deviation of one of n."""
    return abs(found["value"] - truth) < FOUR_SIGMA * spread / math.sqrt(n)


def test_the_policies_are_what_they_say() -> None:
    tokens = tokenizer()
    model = constant_model(OURS, tokens)
    with torch.no_grad():
        p = model(torch.tensor([[3, 50, 9], [7, 7, 7]])).logits.softmax(-1)
    for text, want in OURS.items():
        token = tokens.eos_token_id if text == "" else tokens(text)["input_ids"][0]
        assert p[..., token].flatten().tolist() == pytest.approx([want] * 6, abs=1e-6)


def test_accuracy_and_pass_at_k(shop: SimpleNamespace) -> None:
    found = evaluate(shop.ours, task(shop), Drawn(SAMPLES))
    p = 0.3 * 0.5
    one = math.sqrt(p * (1 - p))
    assert close(found.summary["accuracy"], p, one, PROMPTS * SAMPLES)
    assert found.summary["accuracy"]["low"] < p < found.summary["accuracy"]["high"]
    for row in found.summary["pass_at_k"]:
        assert close(row, 1 - (1 - p) ** row["k"], 0.5, PROMPTS)
    assert [row["k"] for row in found.summary["pass_at_k"]] == [1, 2, 4]
    assert close({"value": found.summary["length"]["mean"]}, 2.0, math.sqrt(2.0), PROMPTS * SAMPLES)
    assert len(found.rows) == PROMPTS * SAMPLES
    for row in found.rows:
        assert row["correct"] == (row["completion"] == "4")
        assert row["status"] == ("correct" if row["correct"] else "wrong" if row["completion"] else "no_answer")
    right = sum(row["correct"] for row in found.rows)
    assert found.summary["status"]["correct"] == right
    assert found.summary["accuracy"]["value"] == pytest.approx(right / len(found.rows), abs=1e-12)


def test_more_samples_keep_the_first_ones(shop: SimpleNamespace) -> None:
    few, many = (evaluate(shop.ours, task(shop, limit=5), Drawn(n)).rows for n in (1, 3))
    assert [r["completion"] for r in few] == [r["completion"] for r in many if r["sample"] == 0]
    other = evaluate(shop.ours, task(shop, limit=5), Drawn(3, seed=1)).rows
    assert [r["completion"] for r in other] != [r["completion"] for r in many]


def test_kl_to_a_reference(shop: SimpleNamespace) -> None:
    found = evaluate(shop.ours, task(shop), Drawn(SAMPLES), Further(reference=shop.theirs))
    ratio = {text: math.log(OURS[text] / THEIRS[text]) for text in OURS}
    truth = sum(OURS[t] * ratio[t] for t in OURS)
    spread = math.sqrt(sum(OURS[t] * (ratio[t] - truth) ** 2 for t in OURS))
    kl = found.summary["kl"]
    for row in found.rows:
        want = sum(ratio[c] for c in row["completion"]) + (ratio[""] if row["stop"] == "eos" else 0)
        assert row["log_ratio"] == pytest.approx(want, abs=FLOAT)
    assert kl["tokens"] == sum(row["length"] for row in found.rows)
    assert close(kl["k1"]["per_token"], truth, spread, kl["tokens"])
    assert close(kl["k3"]["per_token"], truth, 0.2, kl["tokens"])
    assert kl["k1"]["per_response"]["value"] == pytest.approx(np.mean([r["log_ratio"] for r in found.rows]), abs=FLOAT)
    assert close(kl["k3"]["per_response"], 2 * truth, 0.5, PROMPTS * SAMPLES)
    for name in ("k1", "k3"):
        assert kl[name]["per_token"]["low"] < truth < kl[name]["per_token"]["high"]
    same = evaluate(shop.ours, task(shop, limit=4), Drawn(), Further(reference=shop.ours)).summary["kl"]
    assert (same["k1"]["per_token"]["value"], same["k3"]["per_response"]["value"]) == (0.0, 0.0)


def expected_win_rate() -> float:
    """P(ours is longer) + P(equally long) / 2; lengths are geometric."""
    ours, theirs = ([p * (1 - p) ** n for n in range(200)] for p in (OURS[""], THEIRS[""]))
    return sum(a * (sum(theirs[:n]) + theirs[n] / 2) for n, a in enumerate(ours))


def test_win_rate_against_another_policy(shop: SimpleNamespace) -> None:
    further = Further(against=shop.theirs, judge="functions_of_a_test:longer")
    found = evaluate(shop.ours, task(shop), Drawn(SAMPLES), further)
    against, n = found.summary["against"], PROMPTS * SAMPLES
    assert close(against["win_rate"], expected_win_rate(), 0.5, n)
    assert (against["flip_rate"], against["invalid"], against["wins"] + against["ties"] + against["losses"]) == (
        0,
        0,
        n,
    )
    assert against["sign_test"]["p"] < 0.01
    assert against["length_controlled"]["win_rate"]["value"] == pytest.approx(0.5, abs=0.05)
    mine, theirs = ([r for r in found.rows if r["side"] == side] for side in ("model", "against"))
    for a, b in zip(mine, theirs, strict=True):
        assert (a["id"], a["sample"]) == (b["id"], b["sample"])
        d = len(a["completion"]) - len(b["completion"])
        assert (a["outcome"], b["outcome"]) == (("win", "loss") if d > 0 else ("loss", "win") if d else ("tie", "tie"))
    assert against["characters"][0] == pytest.approx(np.mean([len(r["completion"]) for r in mine]), abs=1e-12)
    assert close(against["graded"]["accuracy"], 0.5 * 0.25, 0.4, n)


def test_a_judge_that_goes_by_position_finds_nothing(shop: SimpleNamespace) -> None:
    further = Further(against=shop.theirs, judge="functions_of_a_test:biased")
    against = evaluate(shop.ours, task(shop, limit=20), Drawn(), further).summary["against"]
    assert (against["win_rate"]["value"], against["flip_rate"], against["ties"]) == (0.5, 1.0, 20)


def test_the_task_itself_judges_and_the_sides_are_independent(shop: SimpleNamespace) -> None:
    found = evaluate(shop.ours, task(shop), Drawn(SAMPLES), Further(against=shop.ours))
    against = found.summary["against"]
    p = 0.15
    assert against["flip_rate"] is None
    n = PROMPTS * SAMPLES
    for key, share in (("wins", p * (1 - p)), ("ties", p**2 + (1 - p) ** 2)):
        assert close({"value": against[key] / n}, share, math.sqrt(share * (1 - share)), n)


def test_best_of_n(shop: SimpleNamespace) -> None:
    further = Further(best_of=4, rank="functions_of_a_test:shorter")
    found = evaluate(shop.ours, task(shop), Drawn(8), further).summary["best_of"]
    for row in found["curve"]:
        n = row["n"]
        shortest_has_one = OURS[""] ** n - (OURS[""] ** 2) ** n  # n responses of one token or more, not all longer
        assert close(row["gold"], shortest_has_one * 0.3 / 0.5, 0.3, PROMPTS), n
        assert row["kl"] == kl_best_of_n(n)
    assert [row["n"] for row in found["curve"]] == [1, 2, 4]
    assert found["gold"] == "accuracy"


def test_a_reward_function_and_prompts_without_answers(shop: SimpleNamespace) -> None:
    asked = task(shop, extract=None, reward="functions_of_a_test:half", limit=30)
    summary = evaluate(shop.ours, asked, Drawn(2)).summary
    assert "accuracy" not in summary
    assert 0 < summary["score"]["value"] < 0.5
    bare = read_task(shop.bare, allow_import=["functions_of_a_test"])
    summary = evaluate(shop.ours, bare, Drawn(), Further(reference=shop.theirs)).summary
    assert "accuracy" not in summary
    further = Further(against=shop.theirs, judge="functions_of_a_test:longer")
    assert evaluate(shop.ours, bare, Drawn(), further).summary["against"]["win_rate"]
    with pytest.raises(UserError, match="nothing can be measured"):
        evaluate(shop.ours, bare)
    with pytest.raises(UserError, match="nothing says which response is better"):
        evaluate(shop.ours, bare, Drawn(), Further(against=shop.theirs))


def test_samples_are_kept_when_the_grader_fails(shop: SimpleNamespace) -> None:
    asked = task(shop, extract=None, reward="functions_of_a_test:fails", limit=5)
    kept: list[dict[str, Any]] = []
    with pytest.raises(RunStopped, match="no luck"):
        evaluate(shop.ours, asked, Drawn(2), save=kept.extend)
    assert len(kept) == 10
    assert {"completion", "length", "sample"} <= kept[0].keys()
    assert "score" not in kept[0]


def test_both_policies_get_the_same_room(shop: SimpleNamespace, tmp_path: Path) -> None:
    endless = save_constant(tmp_path / "endless", {"4": 1.0}, context=64)
    short = save_constant(tmp_path / "short", {"4": 1.0}, context=32)
    found = evaluate(endless, task(shop, limit=9), Drawn(), Further(against=short))
    longest = max(len(tokenizer()(f"{i} + {4 - i} =")["input_ids"]) for i in range(9))
    assert found.summary["max_new_tokens"] == 32 - longest
    assert {row["length"] for row in found.rows} == {32 - longest}
    assert found.summary["length"]["ended"] == 0
    limited = evaluate(endless, task(shop, limit=2), Drawn(max_new_tokens=3))
    assert {row["length"] for row in limited.rows} == {3}


@pytest.mark.parametrize(
    "drawn, further, message",
    [
        (Drawn(device="tpu"), {}, "--device: 'tpu'"),
        (Drawn(dtype="int8"), {}, "unknown dtype 'int8'"),
        (Drawn(2, sampling=Sampling(temperature=0)), {}, "--samples: is 2"),
        (Drawn(), {"judge": "a:b"}, "--judge: needs two policies"),
        (Drawn(), {"best_of": 2}, "--rank: is missing beside --best-of"),
        (Drawn(), {"rank": "functions_of_a_test:shorter"}, "--best-of: is missing beside --rank"),
        (Drawn(2), {"best_of": 3, "rank": "functions_of_a_test:shorter"}, "--best-of: is 3"),
        (Drawn(2), {"best_of": 2, "rank": "functions_of_a_test:missing"}, "--rank: cannot import"),
        (Drawn(), {"reference": "THEIRS", "top_p": 0.9}, "--reference: is measured on samples of the model itself"),
        (Drawn(), {"reference": "OTHER"}, "--reference: policy and reference have different vocabularies"),
        (Drawn(), {"against": "NONE"}, "does not exist"),
        (Drawn(max_new_tokens=60), {}, "line 1: the prompt has .* with 60 new ones"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_sampling(
    shop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, drawn: Drawn, further: dict[str, Any], message: str
) -> None:
    from steersman.recipes import evaluate_sample

    monkeypatch.setattr(evaluate_sample, "load_model", None)
    other = shop.root / "other"
    if not other.exists():
        save_constant(other, OURS, tokenizer(size=262, text="abc"))
    folders = {"THEIRS": shop.theirs, "OTHER": other, "NONE": shop.root / "none"}
    further = {k: folders.get(v, v) for k, v in further.items()}
    if top_p := further.pop("top_p", None):
        drawn = Drawn(sampling=Sampling(top_p=top_p))
    with pytest.raises(UserError, match=message):
        evaluate(shop.ours, task(shop), drawn, Further(**further))
