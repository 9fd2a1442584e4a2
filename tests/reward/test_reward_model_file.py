"""Reward models as files and graders: pooling at the last real token, plain transformers, the quality report."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_language as tiny
import torch
from safetensors.torch import load_file, save_file

from steersman.core.errors import CorruptFile, UserError
from steersman.language.build import SmallModel, build_model, train_tokenizer
from steersman.language.load import load_tokenizer
from steersman.language.save import save_model
from steersman.objective.components import BradleyTerry
from steersman.reward.model import (
    RewardModel,
    build_reward_model,
    head_of,
    load_reward_model,
    quality_report,
    reward_of,
    save_reward_model,
    score_rows,
)

CLOSE = 1e-5  # the same trunk, rows beside other rows or alone
EXACT = 1e-9  # float64 by hand


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(["a b c"], 257)
    model = build_model(SmallModel(width=16, layers=2, heads=2, context=64), 257, 0)
    return save_model(model, tokenizer, tmp_path_factory.mktemp("base") / "model")


def test_a_reward_does_not_see_padding_or_other_rows(base: Path) -> None:
    model = build_reward_model(base, 0)
    rows = tiny.responses(tiny.FIRST, 1, extra=6)
    ids = rows.ids.clone()
    ids[2, 1] = ids[4, 2] = tiny.END  # the pad token, as an ordinary token inside a prompt
    rows = replace(rows, ids=ids)
    together = reward_of(model, rows).detach()
    ids = ids.clone()
    ids[torch.arange(ids.shape[1]) >= rows.length[:, None]] = 99
    torch.testing.assert_close(reward_of(model, replace(rows, ids=ids)).detach(), together, atol=0, rtol=0)
    alone = torch.cat([reward_of(model, rows.index(torch.tensor([i])).trim()) for i in range(8)]).detach()
    torch.testing.assert_close(alone, together, atol=CLOSE, rtol=0)
    for budget in (1, 30, 10_000):
        torch.testing.assert_close(score_rows(model, rows, budget), together, atol=CLOSE, rtol=0)
    assert float(together.std()) > 100 * CLOSE


def test_the_head_is_a_function_of_the_seed_and_of_nothing_else(base: Path) -> None:
    torch.manual_seed(1)
    one = head_of(build_reward_model(base, 5)).weight.detach().clone()
    state = torch.random.get_rng_state()
    two = head_of(build_reward_model(base, 5)).weight.detach()
    assert torch.equal(one, two)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(one, head_of(build_reward_model(base, 6)).weight)
    wide = build_model(SmallModel(width=256, layers=1, heads=2), 257, 0)
    folder = save_model(wide, load_tokenizer(base), base.parent / "wide")
    assert float(head_of(build_reward_model(folder, 0)).weight.detach().std()) == pytest.approx(257**-0.5, rel=0.15)


def test_bradley_terry_cannot_see_a_shift() -> None:
    first, second = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 0.25])
    torch.testing.assert_close(BradleyTerry()(first + 7, second + 7), BradleyTerry()(first, second))


def test_a_saved_folder_gives_the_same_scores_in_plain_transformers_and_here(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = build_reward_model(base, 1)
    report: dict[str, Any] = {"mean": 0.3, "std": 2.0, "accuracy": None}
    state = torch.random.get_rng_state()
    save_reward_model(model, load_tokenizer(base), tmp_path / "rm", report)
    assert torch.equal(state, torch.random.get_rng_state())
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm", local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in ("a b", "c", "a long one")]
    width = max(map(len, ids))
    padded = torch.tensor([x + [tokenizer.pad_token_id] * (width - len(x)) for x in ids])
    length = torch.tensor([len(x) for x in ids])
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == tiny.END
    one = torch.cat([plain(torch.tensor([x])).logits[:, 0] for x in ids]).detach()
    mask = torch.arange(width) < length[:, None]
    torch.testing.assert_close(plain(padded, attention_mask=mask.long()).logits[:, 0], one, atol=CLOSE, rtol=0)
    rows = tiny.Rollouts.of(padded, length, torch.ones_like(length))
    torch.testing.assert_close(score_rows(model, rows, 99), one, atol=CLOSE, rtol=0)
    again = load_reward_model(tmp_path / "rm")
    torch.testing.assert_close(again(rows).value, (one - 0.3) / 2.0, atol=CLOSE, rtol=0)
    stored = json.loads((tmp_path / "rm" / "reward.json").read_text())
    assert (stored["format"], stored["report"]["mean"]) == (1, 0.3)


def test_a_reward_that_is_not_finite_is_invalid_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = torch.tensor([1.0, math.nan, 3.0, math.inf])
    monkeypatch.setattr("steersman.reward.model.score_rows", lambda model, rows, micro: raw)
    found = RewardModel(torch.nn.Identity(), mean=1.0, std=2.0)(tiny.responses(tiny.FIRST, 1))
    assert found.valid.tolist() == [True, False, True, False]
    assert found.value[[0, 2]].tolist() == [0.0, 1.0]
    assert bool(found.value[[1, 3]].isnan().all())
    assert found.errors == {1: "the reward model gave nan", 3: "the reward model gave inf"}


def report(d: list[float], label: list[float], longer: list[int], **changes: Any) -> dict[str, Any]:
    first, n = torch.tensor(d), len(d)
    lengths = torch.tensor(longer) + 50, torch.full((n,), 50)
    return quality_report(first, torch.zeros(n), torch.tensor(label), *lengths)


def test_quality_report_by_hand() -> None:
    d = [2.0, -1.0, 0.5, -3.0, 1.0, 0.0]
    label = [1.0, 1.0, 0.0, 0.0, 0.5, 1.0]
    found = report(d, label, [4, -2, 1, -6, 9, 0])
    assert (found["pairs"], found["ties"], found["invalid"]) == (5, 1, 0)
    assert found["accuracy"]["value"] == pytest.approx(2 / 5)  # right: the first and the fourth; 0 is no answer
    p = [1 / (1 + math.exp(-x)) for x in (2.0, -1.0, 0.5, -3.0)]
    # four bins and their four mirror images; the pair at 0 and its mirror share a bin, half of it won: no error
    by_hand = abs(p[0] - 1) + abs(p[1] - 1) + abs(p[2] - 0) + abs(p[3] - 0)
    assert found["calibration_error"] == pytest.approx(by_hand / 5, abs=1e-6)
    rank = {-6: 1, -2: 2, 0: 3, 1: 4, 4: 5}
    ranks = np.corrcoef([5, 2, 4, 1, 3], [rank[x] for x in (4, -2, 1, -6, 0)])[0, 1]
    assert found["spearman_reward_length"] == pytest.approx(ranks, abs=EXACT)
    longer = found["accuracy_longer_wins"]
    assert (longer["n"], longer["value"]) == (4, pytest.approx(2 / 4))  # +4 first wins, -6 second wins; 0 is out
    values = np.array([*d, *[0.0] * 6])
    assert (found["mean"], found["std"]) == (pytest.approx(values.mean()), pytest.approx(values.std()))


def test_calibration_joins_what_falls_into_one_bin() -> None:
    logit = math.log(0.95 / 0.05)
    found = report([logit, logit, -logit, 0.0], [1.0, 0.0, 0.0, 1.0], [1, 2, 3, 4])
    # in both orders: two of three won at .95, one of three at .05, one of two at .5
    assert found["calibration_error"] == pytest.approx(2 * (3 / 8) * (0.95 - 2 / 3))


def test_a_confident_model_that_is_right_as_often_as_it_says_is_calibrated() -> None:
    logit = math.log(0.9 / 0.1)
    found = report([logit] * 9 + [-logit], [1.0] * 10, list(range(10)))
    assert found["calibration_error"] == pytest.approx(0.0, abs=1e-6)


def test_terciles_of_the_length_difference() -> None:
    d = [1.0, 1, -1, 1, -1, -1]
    found = report(d, [1.0] * 6, [1, -2, 10, -11, 100, -101])["accuracy_by_length_difference"]
    assert [t["accuracy"]["value"] for t in found] == [1.0, 0.5, 0.0]
    assert [t["accuracy"]["n"] for t in found] == [2, 2, 2]
    assert (found[0]["from"], found[2]["to"]) == (1.0, 101.0)


def test_degenerate_reports_say_nan_or_none_and_never_zero() -> None:
    found = report([0.0] * 4, [1.0] * 4, [0] * 4)
    assert math.isnan(found["spearman_reward_length"])
    assert found["accuracy_longer_wins"] is None
    assert found["accuracy"]["value"] == 0.0
    ties = report([1.0, 2.0], [0.5, 0.5], [1, 2])
    assert (ties["pairs"], ties["ties"], ties["accuracy"]) == (0, 2, None)
    assert math.isnan(ties["calibration_error"])


def test_pairs_with_a_reward_that_is_not_finite_are_counted_and_left_out() -> None:
    clean = report([2.0, -1.0, 0.5], [1.0, 1.0, 0.0], [1, 2, 3])
    dirty = report([2.0, -1.0, 0.5, math.nan, math.inf], [1.0, 1.0, 0.0, 1.0, 0.5], [1, 2, 3, 4, 5])
    assert dirty.pop("invalid") == 2
    assert dirty.pop("ties") == 1
    assert dirty == {k: v for k, v in clean.items() if k not in ("invalid", "ties")}


def copy_of(base: Path, to: Path) -> Path:
    to.mkdir()
    for file in base.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_a_folder_without_weights_or_with_half_of_them_is_refused(base: Path, tmp_path: Path) -> None:
    empty = copy_of(base, tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        build_reward_model(empty, 0)
    half = copy_of(base, tmp_path / "half")
    weights = load_file(half / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, half / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="no value to 1 parameters"):
        build_reward_model(half, 0)
    broken = copy_of(base, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CorruptFile, match="weights cannot be read"):
        build_reward_model(broken, 0)


def test_a_trained_head_is_kept_whatever_the_seed(base: Path, tmp_path: Path) -> None:
    save_reward_model(build_reward_model(base, 1), load_tokenizer(base), tmp_path / "rm", {"mean": 0.0, "std": 1.0})
    weights = [head_of(m).weight for m in (build_reward_model(base, 1), build_reward_model(tmp_path / "rm", 2))]
    assert torch.equal(*weights)


def test_a_folder_without_its_report_is_refused(base: Path) -> None:
    with pytest.raises(UserError, match=r"reward\.json: does not exist"):
        load_reward_model(base)
