"""The rl loop: what it refuses before any compute, what it does at the edges, and that its alarm rings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rl_toys as toys
import torch
from torch import Tensor

from steersman.core.component import Stage
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts, Scores
from steersman.language.sampler import Sampling
from steersman.objective.components import Aggregation
from steersman.objective.components_advantage import GAE, GRPO, UniformCredit
from steersman.objective.components_policy import Clipped, Reinforce
from steersman.objective.select.groups import DynamicSampling
from steersman.reward.verifiable import Graded
from steersman.store.rollouts import load_rollouts
from steersman.store.run import RunDir
from steersman.train.loop import Budget, Habits
from steersman.train.rl import GAP_LIMIT, Auxiliary, Phase, RLLearner, rl
from steersman.train.terms import policy_term, sft_term

GRADIENT = 2e-6  # float32 gradients of size 1e-2 against a float64 sum over rows
GAP_OF_FLOAT32 = 5e-6


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steersman.store.files.os.fsync", lambda _: None)


def gradient(made: Any) -> dict[str, Tensor]:
    """The gradient of the first step, caught before the optimiser."""
    caught: dict[str, Tensor] = {}

    def apply(step: int, trains: frozenset[str]) -> dict[str, float]:
        caught.update({n: p.grad.clone() for n, p in made.engine.policy.named_parameters() if p.grad is not None})
        made.engine.forget()
        return {}

    made.engine.apply = apply
    made.step(0)
    return caught


def by_the_book(drawn: Rollouts, reward: Tensor, temperature: float) -> dict[str, Tensor]:
    """Gradient of the GRPO loss with token mean from plain logits, row by row, in float64."""
    model = toys.policy().double()
    total, tokens = torch.zeros((), dtype=torch.float64), int(drawn.action.sum())
    for i in range(len(drawn)):
        mine = reward[drawn.group == drawn.group[i]].double()
        spread = mine.std()
        advantage = 0.0 if spread == 0 else float((reward[i].double() - mine.mean()) / (spread + 1e-6))
        ids = drawn.ids[i : i + 1, : drawn.length[i]]
        logp = (model(ids).logits[0] / temperature).log_softmax(-1)
        start = int(drawn.prompt_length[i])
        chosen = logp[start - 1 : -1].gather(1, ids[0, start:, None])
        total = total - advantage * chosen.sum() / tokens
    total.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_the_first_step_has_the_gradient_of_the_book():
    made = toys.learner("grpo")
    drawn = toys.record(made.engine)
    found = gradient(made)
    rollouts = drawn[0, 0]
    reward = toys.ToyWorld().grade(rollouts, [{}] * len(rollouts)).scores.value
    wanted = by_the_book(rollouts, reward, 0.8)
    assert found.keys() == wanted.keys()
    for name, x in found.items():
        assert float((x - wanted[name]).abs().max()) <= GRADIENT, name
    assert max(float(x.abs().max()) for x in found.values()) > 1000 * GRADIENT


def test_the_sampler_agrees_with_the_trainer():
    told = toys.learner("grpo").step(0)
    assert 0 < float(told["gap_max"]) <= GAP_OF_FLOAT32


@contextmanager
def broken(what: str, made: Any) -> Iterator[None]:
    """One thing the two passes must agree on, spoilt in the trainer."""
    from steersman.language import trunk
    from steersman.train.engine import local

    trunk.capability(made.engine.policy)  # its probe would notice, and take another way through the model
    with pytest.MonkeyPatch.context() as patch:
        if what == "temperature":
            plain = local.response_logp
            patch.setattr(local, "response_logp", lambda *a, **k: plain(*a, **{**k, "temperature": 1.0}))
        elif what == "positions":
            flat = trunk.flatten
            patch.setattr(trunk, "flatten", lambda *a: replace(s := flat(*a), position=s.position // 2))
        else:
            flat = trunk.flatten

            def one_short(ids: Tensor, length: Tensor, shared: Tensor | None = None) -> Any:
                return flat(torch.where(torch.arange(ids.shape[1]) == 1, 0, ids), length, shared)

            patch.setattr(trunk, "flatten", one_short)
        yield


@pytest.mark.parametrize("what", ["temperature", "positions", "masks"])
@pytest.mark.parametrize("method, old", [("grpo", "recompute"), ("dapo", "recompute"), ("dapo", "sampler")])
def test_the_alarm_rings(what, method, old, tmp_path):
    run = RunDir(tmp_path)
    said: list[str] = []
    made = toys.learner(method, run=run, say=said.append, old=old)
    before = toys.parameters(made)
    with broken(what, made), pytest.raises(RunStopped, match="sampler and trainer disagree") as caught:
        rl(made, Budget(steps=6, seed=7), run)
    assert "temperature" in str(caught.value)
    assert torch.equal(before, toys.parameters(made))
    assert len(load_rollouts(next((tmp_path / "rollouts").glob("step-*")))[1]) >= 12
    assert "rollouts" in said[-1]
    assert GAP_LIMIT == 1e-4


def test_no_gap_limit_only_reports():
    made = toys.learner("grpo", gap_limit=None)
    with broken("temperature", made):
        assert float(made.step(0)["gap_max"]) > GAP_LIMIT


class NeedsTeacher(Stage):
    needs = ("logp_teacher",)


@pytest.mark.parametrize(
    "stages, loss, what",
    [
        ([GRPO()], Clipped(), "the policy loss needs 'advantage', which no stage gives"),
        ([UniformCredit(), GRPO()], Clipped(), "UniformCredit needs 'advantage_row'"),
        ([GAE()], Clipped(), "GAE needs 'value'"),
        ([NeedsTeacher(), GRPO(), UniformCredit()], Reinforce(), "NeedsTeacher needs 'logp_teacher'"),
    ],
)
def test_nonsense_is_refused_before_any_compute(stages, loss, what):
    with pytest.raises(UserError, match=what) as caught:
        toys.learner({"stages": stages, "loss": loss})
    assert caught.value.cure


def test_a_filter_by_accuracy_needs_a_grader_that_knows_it():
    world = toys.ToyWorld()
    world.gives = ()  # type: ignore[misc]
    with pytest.raises(UserError, match="reads 'correct', which this task's grader does not give"):
        toys.learner("dapo", world=world)


def test_a_grader_that_says_nothing_of_correctness_after_all_is_named(tmp_path):
    made = toys.learner("dapo", run=RunDir(tmp_path))
    plain = made.world.grade

    def grade(rollouts: Rollouts, rows: Any) -> Graded:
        found = plain(rollouts, rows)
        return replace(found, scores=replace(found.scores, parts={}))

    made.world.grade = grade  # type: ignore[method-assign]
    with pytest.raises(UserError, match="DynamicSampling reads 'correct', and the grader said nothing of it"):
        made.step(0)
    assert list((tmp_path / "rollouts").glob("step-*"))


def test_a_reference_that_is_not_there_is_refused():
    made = toys.learner("rloo with kl")
    made.engine.models.pop("reference")
    with pytest.raises(UserError, match="the kl loss needs 'logp_ref', which no stage gives"):
        RLLearner(made.engine, made.world, made.stages, made.terms, made.settings, 7, 6)


def test_phases_move_only_what_they_say():
    made = toys.learner(
        {**toys.METHODS["ppo"], "minibatches": 1, "epochs": 1, "phases": (Phase(2, frozenset({"critic"})),)}
    )
    policy, critic = ({n: p.clone() for n, p in m.named_parameters()} for m in (made.engine.policy, made.engine.critic))
    for i in range(2):
        told = made.step(i)
        assert "loss/policy" not in told
        assert float(told["critic_grad_norm"]) > 0
    assert all(torch.equal(p, policy[n]) for n, p in made.engine.policy.named_parameters())
    assert any(not torch.equal(p, critic[n]) for n, p in made.engine.critic.named_parameters())
    made.step(2)
    assert any(not torch.equal(p, policy[n]) for n, p in made.engine.policy.named_parameters())


def test_every_token_is_accounted_for():
    made = toys.learner("grpo", world=toys.ToyWorld(lambda r: r.group == 2))
    drawn = toys.record(made.engine)
    told = made.step(0)
    rows = drawn[0, 0]
    kept = rows.action.sum(1)
    assert told["rows_generated"] == 12
    assert told["tokens_generated"] == told["tokens"] == float(kept.sum())
    assert told["invalid_share"] == 3 / 12
    assert told["tokens_trained"] == float(kept[rows.group != 2].sum())
    assert told["truncated_share"] == float((rows.stop == STOP_LENGTH).double().mean())
    assert told["response_length"] == pytest.approx(float(kept.double().mean()))
    good = rows.index(rows.group != 2)
    share = ((good.ids < 10) & good.action).sum(1) / good.action.sum(1)
    assert told["reward_mean"] == pytest.approx(float(share.mean()))
    assert told["accuracy"] == pytest.approx(float((share > 0.5).double().mean()))


def test_refill_rounds_bring_other_prompts_and_are_counted():
    made = toys.learner("dapo")
    drawn = toys.record(made.engine)
    told = made.step(0)
    rounds = len(drawn)
    assert told["rounds"] == rounds
    assert told["rows_generated"] == 12 * rounds
    assert told["rows_kept"] % 3 == 0
    assert told["rows_kept"] <= 12
    assert rounds in (2, 3)  # this seed leaves a group without both kinds in the first round
    first, second = drawn[0, 0], drawn[0, 1]
    assert not set(first.group.tolist()) & set(second.group.tolist())
    kept = made.batch.group.unique()
    assert torch.equal(kept, kept.sort().values)
    assert len(kept) == told["rows_kept"] / 3


def test_a_filter_that_is_short_stops_if_it_was_told_to():
    made = toys.learner({"stages": [DynamicSampling(rounds=2, short="stop"), *toys.CREDIT], "loss": Clipped()})
    made.world.grade = lambda r, rows: all_alike(r)  # type: ignore[method-assign]
    with pytest.raises(RunStopped, match="0 of 4"):
        made.step(0)


def all_alike(rollouts: Rollouts) -> Graded:
    n = len(rollouts)
    right = torch.ones(n, dtype=torch.bool)
    return Graded(Scores(torch.ones(n), right, {"correct": right}), (None,) * n)


def test_nothing_left_to_train_on_is_a_skipped_step_not_nan():
    said: list[str] = []
    made = toys.learner({"stages": [DynamicSampling(rounds=2), *toys.CREDIT], "loss": Clipped()}, say=said.append)
    made.world.grade = lambda r, rows: all_alike(r)  # type: ignore[method-assign]
    before = toys.parameters(made)
    for i in range(2):
        told = made.step(i)
        assert told["skipped"] == 1
        assert told["rows_kept"] == told["tokens_trained"] == 0
    assert torch.equal(before, toys.parameters(made))
    assert len(said) == 2  # once each: an empty batch, a skipped step


def test_groups_of_one_have_no_signal_and_are_said_once():
    said: list[str] = []
    made = toys.learner("grpo", drawing=toys.drawing(samples=1), say=said.append)
    for i in range(2):
        told = made.step(i)
        assert float(told["loss/policy"]) == 0
        assert float(told["grad_norm"]) == 0
    assert [line for line in said if "single valid response" in line] == said


def test_rows_that_were_all_cut_still_train():
    made = toys.learner("grpo", drawing=replace(toys.drawing(), stop_ids=(999,), max_new_tokens=2))
    told = made.step(0)
    assert told["truncated_share"] == 1
    assert float(told["grad_norm"]) > 0


@pytest.mark.parametrize(
    "reward, error, what",
    [
        (float("inf"), UserError, "the reward is inf"),
        (float("nan"), UserError, "the reward is nan"),
        (None, UserError, "11 rewards for 12 responses"),
    ],
)
def test_a_bad_reward_stops_the_run_with_the_rollouts_on_disk(reward, error, what, tmp_path):
    made = toys.learner("grpo", run=RunDir(tmp_path))

    def grade(rollouts: Rollouts, rows: Any) -> Graded:
        value = torch.ones(len(rollouts))
        if reward is None:
            return Graded(Scores(value[1:], torch.ones(11, dtype=torch.bool)), (None,) * 11)
        value[4] = reward
        return Graded(Scores(value, torch.ones(len(rollouts), dtype=torch.bool)), (None,) * len(rollouts))

    made.world.grade = grade  # type: ignore[method-assign]
    drawn = toys.record(made.engine)
    with pytest.raises(error, match=what):
        made.step(0)
    step, kept = load_rollouts(tmp_path / "rollouts" / "step-00000000")
    assert step == 0
    assert torch.equal(kept.length, drawn[0, 0].length)
    assert torch.equal(kept.logp_behaviour, drawn[0, 0].logp_behaviour)


def test_a_grader_that_fails_on_everything_stops_the_run():
    made = toys.learner("grpo", world=toys.ToyWorld(lambda r: r.group >= 0))
    with pytest.raises(RunStopped, match="no response could be graded; the first reason: asked for by the test"):
        made.step(0)


def test_the_sampler_s_log_probs_can_stand_for_the_old_ones():
    made = toys.learner("grpo twice in halves", old="sampler")
    assert made.step(0)["tokens_scored"] == 0
    assert torch.equal(made.batch.streams["logp_old"], made.batch.logp_behaviour)
    scored = toys.learner("grpo twice in halves")
    assert scored.step(0)["tokens_scored"] > 0
    assert float((made.batch.streams["logp_old"] - scored.batch.streams["logp_old"]).abs().max()) <= GAP_OF_FLOAT32


def test_filters_draw_what_the_trainer_does_not_score():
    sampling = Sampling(temperature=0.8, top_k=3)
    made = toys.learner("grpo", drawing=replace(toys.drawing(), sampling=sampling))
    with pytest.raises(RunStopped, match="disagree"):
        made.step(0)


def test_a_second_stream_of_data_adds_its_own_loss():
    data = toys.drawing()
    plain = toys.learner("grpo")
    rows = toys.record(plain.engine)
    plain.step(0)
    extra = Auxiliary(replace(rows[0, 0], logp_behaviour=None), sft_term(0.5), rows=3)
    made = toys.learner("grpo", auxiliary=extra)
    told = made.step(0)
    assert float(told["loss/sft"]) > 0
    assert float(told["tokens_trained"]) > float(plain.step(1)["tokens_generated"]) * 0.5
    assert data.samples == 3


def test_evaluation_is_the_same_each_time_and_changes_nothing():
    made = toys.learner("grpo")
    made.step(0)
    before = toys.parameters(made)
    first, second = made.evaluate(), made.evaluate()
    assert first == second
    assert torch.equal(before, toys.parameters(made))
    assert 0 <= first["accuracy_low"] <= first["accuracy"] <= first["accuracy_high"] <= 1


def test_a_grader_that_fails_in_the_evaluation_leaves_its_answers_on_disk(tmp_path):
    said: list[str] = []
    made = toys.learner("grpo", run=RunDir(tmp_path), say=said.append)

    def grade(rollouts: Rollouts, rows: Any) -> Graded:
        raise RunStopped("the grader failed")

    made.world.grade = grade  # type: ignore[method-assign]
    with pytest.raises(RunStopped, match="the grader failed"):
        made.evaluate()
    assert len(load_rollouts(tmp_path / "rollouts" / "evaluation" / "step-00000000")[1]) == 6
    assert said[-1].startswith("the rollouts of this evaluation are in")


def test_another_budget_seed_is_refused(tmp_path):
    with pytest.raises(UserError, match="is 3, the learner's is 7"):
        rl(toys.learner("grpo"), Budget(steps=1, seed=3), RunDir(tmp_path))


def test_early_stop_by_a_held_out_metric(tmp_path):
    made = toys.learner("grpo", run=RunDir(tmp_path))
    budget = Budget(steps=6, seed=7, best="reward", best_is="min", patience=1)
    ended = rl(made, budget, RunDir(tmp_path), Habits(evaluate_every=1))
    assert ended.reason.startswith("no better reward") or ended.steps == 6
    assert ended.best_step is not None


def test_rows_of_stopped_responses_have_their_end(tmp_path: Path):
    made = toys.learner("grpo")
    drawn = toys.record(made.engine)
    made.step(0)
    rows = drawn[0, 0].check()
    last = rows.ids.gather(1, rows.length[:, None] - 1)[:, 0]
    assert torch.equal(last == 17, rows.stop == STOP_EOS)
    assert policy_term(Clipped(), Aggregation()).name == "policy"
