"""Rows of samples.jsonl: small, complete, and readable as samples of a page."""

import json
from dataclasses import replace

import pytest
import rl_toys as toys
import torch

from steersman.core.types import Rollouts
from steersman.store.run import RunDir
from steersman.task.chain_sum import PAD
from steersman.train import samples
from steersman.train.loop import Budget, Habits
from steersman.train.rl import rl
from steersman.train.samples import run_samples, sample_rows

DIGITS = 1e-4  # relative error of five digits


@pytest.fixture
def few() -> Rollouts:
    """Two prompts with a response each, of four and two tokens; the second is not graded."""
    ids = torch.tensor([[2, 7, 14, 10, 2, 2, 17], [3, 14, 11, 17, PAD, PAD, PAD]])
    action = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0, 0]]).bool()
    numbers = torch.arange(14.0).view(2, 7) / 7
    return Rollouts.of(
        ids,
        torch.tensor([7, 4]),
        torch.tensor([3, 2]),
        logp_behaviour=-numbers,
        reward=torch.tensor([0.5, torch.nan]),
        valid=torch.tensor([True, False]),
        correct=torch.tensor([True, False]),
        answer=("2", None),
        streams={"advantage": 2.0 * action, "token_weight": (action & (ids != 2)).float(), "entropy": numbers},
    )


def test_a_row_holds_text_tokens_and_streams(few):
    one, two = json.loads(json.dumps(sample_rows(few, toys.ToyWorld(), 5)))
    assert (one["step"], one["prompt"], one["response"]) == (5, "27=", "a22<eos>")
    assert (one["ids"], one["pieces"]) == ([10, 2, 2, 17], ["a", "2", "2", "<eos>"])
    assert (one["reward"], one["correct"], one["answer"], one["tokens"], one["advantage"]) == (0.5, True, "2", 4, 2.0)
    assert one["kept"] == [1, 0, 0, 1]
    assert one["streams"]["advantage"] == 2.0  # the same at all tokens, so it is written once
    assert one["streams"]["token_weight"] == [1, 0, 0, 1]
    assert one["streams"]["entropy"] == pytest.approx([3 / 7, 4 / 7, 5 / 7, 6 / 7], rel=DIGITS)
    assert one["streams"]["logp_behaviour"] == pytest.approx([-3 / 7, -4 / 7, -5 / 7, -6 / 7], rel=DIGITS)
    assert two["reward"] is None
    assert two["kept"] == 0
    assert two["streams"]["entropy"] == pytest.approx([9 / 7, 10 / 7], rel=DIGITS)


def test_a_token_that_was_placed_has_no_values(few):
    forced = torch.zeros_like(few.action)
    forced[0, 4] = True
    row = sample_rows(replace(few, forced=forced, action=few.action & ~forced), toys.ToyWorld(), 1)[0]
    assert row["streams"]["advantage"] == [2.0, None, 2.0, 2.0]


def test_long_responses_are_cut(few, monkeypatch):
    monkeypatch.setattr(samples, "MOST_TOKENS", 2)
    row = sample_rows(few, toys.ToyWorld(), 1)[0]
    assert row["pieces"] == ["a", "2"]
    assert (row["response"], row["tokens"]) == ("a22<eos>", 4)
    assert len(row["streams"]["entropy"]) == 2
    shown, _ = run_samples([row])
    assert shown[0].caption.startswith("2 more tokens")


def test_rows_become_samples_of_a_page(few):
    rows = sample_rows(few, toys.ToyWorld(), 5) + sample_rows(few, toys.ToyWorld(), 9)
    shown, streams = run_samples(json.loads(json.dumps(rows)))
    assert [s.title for s in shown] == [f"step {s}, response {i}" for s in (9, 5) for i in (1, 2)]
    first, second = shown[:2]
    assert (first.tokens, first.prompt_tokens) == (("27=", "a", "2", "2", "<eos>"), 1)
    view = first.views[0]
    assert view.dropped == (False, False, True, True, False)
    assert view.streams["advantage"] == (None, 2.0, 2.0, 2.0, 2.0)
    assert view.streams["weight"] == (None, 1.0, None, None, 1.0)
    assert view.streams["|A|·H"][1] == pytest.approx(6 / 7, rel=DIGITS)
    assert view.streams["logp"][4] == pytest.approx(-6 / 7, rel=DIGITS)
    assert first.notes == (("reward", "0.5"), ("correct", "yes"), ("answer", "2"))
    assert second.notes[0] == ("reward", "not graded")
    assert "reward" not in second.views[0].streams
    assert [s.name for s in streams] == ["advantage", "|A|·H", "weight", "entropy", "logp", "reward"]
    assert run_samples([{"step": 1, "prompt": "a", "response": "b"}]) == ((), ())


def test_a_run_writes_the_rows_of_its_steps(tmp_path):
    run = RunDir(tmp_path / "run")
    made = toys.learner("grpo", total=2, run=run)
    rl(made, Budget(steps=2, seed=7), run, Habits(log_every=1))
    rows = run.read("samples")
    assert [r["step"] for r in rows] == [1] * 4 + [2] * 4
    assert all(len(r["ids"]) == len(r["pieces"]) == r["tokens"] for r in rows)
    assert all("".join(r["pieces"]) == r["response"] for r in rows)
    assert {"advantage", "logp_behaviour"} <= rows[0]["streams"].keys()
    assert len(run_samples(rows)[0]) == 8
