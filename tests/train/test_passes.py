"""Forward passes that stages ask for: run once, on the rows that need them, under other contexts without new tokens."""

from dataclasses import replace
from typing import Any

import pytest
import rl_toys as toys
import torch
import toy_stages as stages
from torch import Tensor

from steersman.core.component import Pass, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.score import response_logp
from steersman.objective.components_advantage import GRPO, UniformCredit
from steersman.objective.components_policy import Clipped
from steersman.train.critic import end_values, token_values
from steersman.train.passes import Passes, back, check_parts, under

FLOAT32 = 1e-5  # log-probs of size 3 by two ways through the model


CREDIT = [GRPO(), UniformCredit()]
KINDS = {
    "drops rows": [GRPO(), stages.DropSilent(), UniformCredit()],
    "repeats rows": [stages.RepeatCorrect(times=3), *CREDIT],
    "writes a token stream": [*CREDIT, stages.Fade()],
    "another context": [*CREDIT, stages.Hinted()],
    "hidden states": [*CREDIT, stages.HiddenNorm()],
    "remembers": [stages.Memory(), UniformCredit()],
    "all of them": [*CREDIT, stages.RepeatCorrect(), stages.DropSilent(), stages.Hinted(), stages.HiddenNorm()],
}


@pytest.mark.parametrize("chain", KINDS.values(), ids=KINDS)
def test_every_kind_of_stage_trains(chain):
    made = toys.learner({"stages": chain, "loss": Clipped(), "epochs": 2})
    before = toys.parameters(made)
    told = [made.step(i) for i in range(4)]
    assert all(float(t["grad_norm"]) > 0 for t in told)
    assert not torch.equal(before, toys.parameters(made))
    assert all(torch.isfinite(torch.as_tensor(v)).all() for t in told for v in t.values())


def test_rows_follow_the_stages():
    plain = toys.learner("grpo")
    drawn = toys.record(plain.engine)
    plain.step(0)
    graded = toys.ToyWorld().grade(drawn[0, 0], [{}] * 12)
    right = float(graded.scores.parts["correct"].sum())
    for name, rows in (("repeats rows", 12 + 2 * right), ("writes a token stream", 12)):
        assert toys.learner({"stages": KINDS[name], "loss": Clipped()}).step(0)["rows_kept"] == rows
    told = toys.learner({"stages": KINDS["drops rows"], "loss": Clipped()}).step(0)
    assert told["rows_kept"] == told["toy_drop_silent/rows_out"] == 11  # one response is worth its group's mean


def keep(made: Any, *names: str) -> Rollouts:
    """The batch of the first step with streams that no term needs."""
    made.needs = made.needs | {*names}
    made.step(0)
    return made.batch


def test_the_same_tokens_are_scored_behind_the_hint_and_only_rows_with_a_signal():
    batch = keep(toys.learner({"stages": KINDS["another context"], "loss": Clipped(), "epochs": 2}), "logp_teacher")
    fresh, found, silent = toys.policy(), batch.streams["logp_teacher"], 0
    for i in range(len(batch)):
        prompt, end = int(batch.prompt_length[i]), int(batch.length[i])
        digits = batch.ids[i, : prompt - 1]
        hint = torch.tensor([14, 16, int(digits.sum() % 10), 14])
        ids = torch.cat([digits, hint, batch.ids[i, prompt:end]])[None]
        row = Rollouts.of(ids, torch.tensor([ids.shape[1]]), torch.tensor([prompt + 3]))
        wanted = response_logp(fresh, row, temperature=0.8)[0][0, prompt + 3 :].detach()
        if not bool(found[i].any()):
            silent += 1
            continue
        assert float((found[i, prompt:end] - wanted).abs().max()) <= FLOAT32
        assert not bool(found[i, :prompt].any() | found[i, end:].any())
    assert silent == int((batch.streams["advantage"].abs().sum(1) == 0).sum())
    assert silent < len(batch)


def test_hidden_states_predict_their_token():
    batch = keep(toys.learner({"stages": KINDS["hidden states"], "loss": Clipped(), "epochs": 2}), "hidden")
    hidden = batch.streams["hidden"]
    logits = toys.policy().get_output_embeddings()(hidden).detach() / 0.8
    logp = logits.log_softmax(-1).gather(2, batch.ids[..., None])[..., 0]
    gap = (logp - batch.streams["logp_old"]).abs()[batch.action]
    assert float(gap.max()) <= FLOAT32
    assert not bool(hidden[~batch.action].any())


class Counting:
    """An engine that counts what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, tuple[str, ...]]] = []

    def score(self, rollouts: Rollouts, by: str, quantities: Any, temperature: float) -> dict[str, Tensor]:
        self.calls.append((by, len(rollouts), tuple(quantities)))
        shape = rollouts.ids.shape
        return (
            {q: torch.ones(*shape, 4) if q == "hidden" else torch.ones(shape) for q in quantities}
            if len(rollouts)
            else {}
        )


class Two(Stage):
    needs = ("logp_old", "entropy")


class Three(Stage):
    needs = ("entropy", "hidden", "logp_ref")


def rollouts(valid: list[bool]) -> Rollouts:
    n = len(valid)
    return Rollouts.of(
        torch.ones(n, 5, dtype=torch.int64),
        torch.full((n,), 5),
        torch.full((n,), 2),
        valid=torch.tensor(valid, dtype=torch.bool),
    )


def test_a_pass_is_run_once_for_all_that_it_gives_and_not_on_invalid_rows():
    engine = Counting()
    passes = Passes(engine, lambda x: list(x), 1.0, None)
    batch = rollouts([True, False, True])
    batch = passes.before(Two(), batch, lambda r: [{}] * len(r))
    batch = passes.before(Three(), batch, lambda r: [{}] * len(r))
    assert engine.calls == [
        ("policy", 2, ("logp", "entropy")),
        ("policy", 2, ("hidden",)),
        ("reference", 2, ("logp",)),
    ]
    assert batch.streams["logp_old"].sum(1).tolist() == [5, 0, 5]
    assert batch.streams["hidden"].shape == (3, 5, 4)
    assert passes.tokens == 30


def test_no_row_at_all_needs_no_forward_and_gives_empty_streams():
    passes = Passes(Counting(), lambda x: list(x), 1.0, None)
    for valid in ([], [False, False]):
        batch = passes.before(Three(), rollouts(valid), lambda r: [{}] * len(r))
        assert batch.streams["entropy"].shape == (len(valid), 5)
        assert batch.streams["logp_ref"].shape == (len(valid), 5)


def test_under_and_back_are_inverse_on_the_response():
    torch_ids = torch.tensor([[1, 2, 3, 4, 5, 0], [7, 8, 9, 0, 0, 0]])
    forced = torch.tensor([[False] * 6, [False, True, False, False, False, False]])
    rows = Rollouts.of(torch_ids, torch.tensor([5, 3]), torch.tensor([2, 1]), forced=forced)
    shown = under(rows, [[9], [5, 5, 5]])
    assert shown.ids.tolist() == [[9, 3, 4, 5, 0], [5, 5, 5, 8, 9]] or shown.ids[0, :4].tolist() == [9, 3, 4, 5]
    assert shown.length.tolist() == [4, 5]
    assert shown.action.tolist() == [[False, True, True, True, False], [False, False, False, False, True]]
    assert shown.forced[1].tolist() == [False, False, False, True, False]
    number = torch.arange(10.0).view(2, 5)
    assert back(number, shown, rows).tolist() == [[0, 0, 1, 2, 3, 0], [0, 8, 9, 0, 0, 0]]


@pytest.mark.parametrize(
    "before, context, what",
    [([[1]], None, "1 contexts for 2 rows"), ([[1], []], None, "is empty"), ([[1], [2] * 9], 8, "exceed 8 tokens")],
)
def test_a_context_that_cannot_be_is_refused(before, context, what):
    with pytest.raises(UserError, match=what):
        under(rollouts([True, True]), before, context)


def test_critic_values_are_those_of_the_prefix():
    critic, made = toys.critic(), toys.learner("grpo")
    drawn = toys.record(made.engine)
    made.step(0)
    batch = replace(drawn[0, 0], logp_behaviour=None)
    found = token_values(critic, batch, batch.action).detach()
    ends = end_values(critic, batch).detach()
    i = int((batch.stop == 1).nonzero()[0, 0])
    n, start = int(batch.length[i]), int(batch.prompt_length[i])
    whole = critic.model(batch.ids[i : i + 1, :n]).last_hidden_state[0] @ critic.score.weight[0]
    assert float((found[i, start:n] - whole[start - 1 : n - 1]).abs().max()) <= FLOAT32
    assert float((ends[i] - whole[n - 1]).abs()) <= FLOAT32
    assert float(ends[batch.stop == 0].abs().max() if bool((batch.stop == 0).any()) else 0.0) == 0


def test_a_critic_s_stream_without_a_critic_is_refused():
    class NeedsValue(Stage):
        needs = ("value",)

    class AsksCritic(Stage):
        def passes(self) -> tuple[Pass, ...]:
            return (Pass("logp_teacher", by="critic"),)

    with pytest.raises(UserError, match="NeedsValue needs 'value'"):
        check_parts([NeedsValue()], [], (), critic=False)
    with pytest.raises(UserError, match="asks for a pass by a critic"):
        check_parts([AsksCritic()], [], (), critic=False)
    check_parts([NeedsValue()], [], (), critic=True)


class OnlyEntropy(Stage):
    needs = ("entropy",)


def test_old_log_probs_come_with_entropies_where_they_will_be_needed():
    for old, asked in ((True, ("entropy", "logp")), (False, ("entropy",))):
        engine = Counting()
        passes = Passes(engine, lambda x: list(x), 1.0, None, old)
        batch = passes.before(OnlyEntropy(), rollouts([True, True]), lambda r: [{}] * len(r))
        assert engine.calls == [("policy", 2, asked)]
        assert ("logp_old" in batch.streams) == old
