"""Told prompts in the rl loop: which rows are scored and counted, exact log-probs, kept ids, resume, and bad input."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import rl_toys as toys
import torch

from steersman.core.component import Pass, Stage
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import Rollouts
from steersman.language.build import train_tokenizer
from steersman.language.score import response_logp
from steersman.objective.components_advantage import GRPO
from steersman.objective.components_credit import ContrastiveCredit
from steersman.objective.components_policy import Clipped
from steersman.objective.credit.hints import Hint
from steersman.reward.verifiable import Graded
from steersman.task.prompts import Question, QuestionFile
from steersman.task.worlds import TextWorld
from steersman.train.passes import Passes, under

FLOAT32 = 1e-5  # log-probs of size 3 by two ways through the model
SHOWN = Hint(text="?{answer}=")


class Answering(toys.ToyWorld):
    """The toy world with answers: the first digit of a response; `change` says what a prompt's row becomes."""

    def __init__(self, change: Any = lambda row: row) -> None:
        super().__init__()
        self.change = change

    def draw(self, n: int, seed: int, step: int, round: int = 0) -> Any:
        made = super().draw(n, seed, step, round)
        return replace(made, rows=tuple(self.change(dict(row)) for row in made.rows))

    def grade(self, rollouts: Rollouts, rows: Sequence[Any]) -> Graded:
        told = super().grade(rollouts, rows)
        spans = zip(rollouts.ids.tolist(), rollouts.prompt_length.tolist(), rollouts.length.tolist(), strict=True)
        digits = [[t for t in ids[a:b] if t < 10] for ids, a, b in spans]
        return Graded(told.scores, tuple(str(d[0]) if d else None for d in digits))


def made(credit: ContrastiveCredit, world: Any = None, **more: Any) -> Any:
    how = {"stages": [GRPO(), credit], "loss": Clipped(), **more.pop("how", {})}
    return toys.learner(how, world=world or Answering(), **more)


def watched(learner: Any) -> list[tuple[str, Rollouts]]:
    """Who scored which rows, from now on."""
    found: list[tuple[str, Rollouts]] = []
    plain = learner.engine.score

    def score(rollouts: Rollouts, by: str, quantities: Any, temperature: float = 1.0) -> Any:
        found.append((by, rollouts))
        return plain(rollouts, by, quantities, temperature)

    learner.engine.score = score
    return found


def batch_of(learner: Any) -> Rollouts:
    """The first batch, with every stream its stages saw."""
    learner.needs = learner.needs | {"logp_teacher", "logp_teacher_wrong", "advantage_row"}
    learner.settings = replace(learner.settings, minibatches=2)  # so that the batch is still there
    learner.step(0)
    return learner.batch


def test_only_rows_with_an_advantage_are_scored_and_counted():
    learner = made(ContrastiveCredit(hint=SHOWN))
    calls = watched(learner)
    drawn = toys.record(learner.engine)
    told = learner.step(0)
    score = Answering().grade(drawn[0, 0], [{}] * 12).scores.value
    row = GRPO()(replace(drawn[0, 0], reward=score))[0].streams["advantage_row"]
    assert 0 < int((row != 0).sum()) < 12
    assert [by for by, _ in calls] == ["policy", "policy"]
    assert [len(rows) for _, rows in calls] == [int((row != 0).sum())] * 2
    assert told["tokens_scored"] == sum(int(rows.length.sum()) for _, rows in calls)
    extra = told["tokens_scored"] - 2 * int(drawn[0, 0].length[row != 0].sum())
    assert extra <= 2 * 3 * told["contrastive_credit/rows"]  # "?", the answer and "=" before each


def test_without_a_signal_there_is_no_pass_at_all():
    class Silent(Answering):
        def grade(self, rollouts: Rollouts, rows: Sequence[Any]) -> Graded:
            found = super().grade(rollouts, rows)
            return replace(found, scores=replace(found.scores, value=torch.ones(len(rollouts))))

    learner = made(ContrastiveCredit(hint=SHOWN), Silent())
    calls = watched(learner)
    assert learner.step(0)["tokens_scored"] == 0
    assert all(len(rows) == 0 for _, rows in calls)


def test_the_log_probs_are_those_of_the_told_policy_and_the_ids_are_kept():
    learner = made(ContrastiveCredit(hint=SHOWN))
    calls = watched(learner)
    model = toys.policy()
    batch = batch_of(learner)
    there = batch.streams["advantage_row"] != 0
    part = batch.index(there)
    for name, (_, shown) in zip(("logp_teacher", "logp_teacher_wrong"), calls, strict=True):
        wanted, _ = response_logp(model, shown, temperature=0.8)
        for i in range(len(part)):
            own, new = (slice(int(x.prompt_length[i]), int(x.length[i])) for x in (part, shown))
            assert torch.equal(part.ids[i, own], shown.ids[i, new])
            assert float((part.streams[name][i, own] - wanted[i, new]).detach().abs().max()) <= FLOAT32
            said = shown.ids[i, : int(shown.prompt_length[i])].tolist()
            assert said[: int(part.prompt_length[i])] == part.ids[i, : int(part.prompt_length[i])].tolist()
            assert (said[-3], said[-1]) == (16, 14) or name == "logp_teacher_wrong"
    assert not batch.streams["logp_teacher"][~there].any()


def test_rlsd_is_cepo_where_no_group_has_a_wrong_answer():
    class NoAnswers(Answering):
        def grade(self, rollouts: Rollouts, rows: Sequence[Any]) -> Graded:
            return Graded(super().grade(rollouts, rows).scores, (None,) * len(rollouts))

    cepo, rlsd = (made(ContrastiveCredit(hint=SHOWN, negative=n), NoAnswers()) for n in ("lowest", "none"))
    a, b = batch_of(cepo), batch_of(rlsd)
    assert torch.equal(a.streams["advantage"], b.streams["advantage"])
    plain = made(ContrastiveCredit(hint=SHOWN, fallback="uniform"), NoAnswers())
    told = plain.step(0)
    assert told["contrastive_credit/rows"] == 0
    assert told["contrastive_credit/lost_rows"] == told["contrastive_credit/no_negative_rows"] > 0


def test_a_told_prompt_that_does_not_fit_is_left_out_and_counted():
    long = Hint(text="?" * 14 + "{answer}=")  # 24 tokens of context, prompts of 3 to 5, responses of up to 8
    learner = made(ContrastiveCredit(hint=long))
    calls = watched(learner)
    told = learner.step(0)
    assert told["contrastive_credit/lost_rows"] > 0
    assert all(int(rows.length.max()) <= 24 for _, rows in calls if len(rows))


@pytest.mark.parametrize("updates", [{}, {"epochs": 2}])
@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_run_resumed_in_the_middle_of_the_decay_is_the_same_run(cut, updates):
    credit = ContrastiveCredit(hint=SHOWN, decay=4, lam=1.0, eps_w=0.9)
    whole = made(credit, how=updates)
    wanted = [whole.step(i) for i in range(6)]
    assert len({t["contrastive_credit/lam"] for t in wanted if "contrastive_credit/lam" in t}) > 2
    first, second = made(credit, how=updates), made(credit, how=updates)
    for i in range(cut):
        first.step(i)
    second.load_state_dict(first.state_dict())
    found = [second.step(i) for i in range(cut, 6)]
    assert torch.equal(toys.parameters(second), toys.parameters(whole))
    assert [t.get("contrastive_credit/lam") for t in found] == [t.get("contrastive_credit/lam") for t in wanted[cut:]]
    plain = made(ContrastiveCredit(hint=SHOWN, lam=0.0), how=updates)
    for i in range(6):
        plain.step(i)
    assert not torch.equal(toys.parameters(plain), toys.parameters(whole))


def test_after_the_decay_nothing_more_is_scored():
    learner = made(ContrastiveCredit(hint=SHOWN, decay=2))
    assert [learner.step(i)["tokens_scored"] > 0 for i in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("answer", "what"), [(None, "missing"), ("", "empty"), ("  ", "empty"), ([1], "a list"), ("7x", "no text of")]
)
def test_a_bad_reference_is_told_by_row_and_nothing_moves(answer, what):
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"answer": answer} if row["id"].endswith("prompt 1") else row

    learner = made(ContrastiveCredit(hint=SHOWN), Answering(change))
    before, state = toys.parameters(learner), repr(learner.engine.optimisers["policy"].state_dict())
    with pytest.raises(UserError, match=r"prompt 1|context, row") as error:
        learner.step(0)
    assert what in str(error.value)
    assert torch.equal(toys.parameters(learner), before)
    assert repr(learner.engine.optimisers["policy"].state_dict()) == state


def test_nan_of_a_model_names_the_row_and_nothing_moves():
    learner = made(ContrastiveCredit(hint=SHOWN))
    plain, before = learner.engine.score, toys.parameters(learner)

    def score(rollouts: Rollouts, *given: Any) -> Any:
        told = plain(rollouts, *given)
        told["logp"][1] = torch.nan
        return told

    learner.engine.score = score
    with pytest.raises(RunStopped, match=r"row \d+: the policy gives NaN as logp"):
        learner.step(0)
    assert torch.equal(toys.parameters(learner), before)


def test_a_world_without_answers_is_refused_before_any_compute():
    class Silent(Answering):
        gives = ("correct",)

    with pytest.raises(UserError, match="ContrastiveCredit reads 'answer', which this task's grader does not give"):
        made(ContrastiveCredit(hint=SHOWN), Silent())
    made(ContrastiveCredit(hint=SHOWN, negative="none"), Silent()).step(0)


TEXT = train_tokenizer(["one plus one is two " * 9], 300)


def test_a_response_is_never_tokenised_again():
    """Responses of single letters, which the tokenizer would put into fewer tokens."""
    questions = QuestionFile(None, (Question("q", "one plus", {"id": "q", "answer": "two"}),))
    world = TextWorld(questions, TEXT, None)
    prompt = world.draw(1, 0, 0)
    letters = [i for c in "one two" for i in TEXT(c, add_special_tokens=False)["input_ids"]]
    assert TEXT(TEXT.decode(letters), add_special_tokens=False)["input_ids"] != letters
    ids = torch.tensor([[*prompt.ids[0], *letters]])
    rows = Rollouts.of(ids, torch.tensor([ids.shape[1]]), torch.tensor([len(prompt.ids[0])]))
    (told,) = world.encode(Hint(text=" is {answer}").tell(rows, prompt.rows, ["two"]))
    shown = under(rows, [told])
    assert shown.ids[0, int(shown.prompt_length[0]) :].tolist() == letters
    assert TEXT.decode(told) == "one plus is two"
    turn = Hint(place="in_user_turn", text="{prompt} (is {answer})").tell(rows, prompt.rows, ["two"])
    assert TEXT.decode(world.encode(turn)[0]) == "one plus (is two)"


class Declines(Stage):
    """Asks for a pass that has nothing to stand before the second row."""

    optional: bool = False

    def passes(self) -> tuple[Pass, ...]:
        return (Pass("logp_teacher", before=lambda rollouts, rows: [[1], None, [2, 3]], optional=self.optional),)


class Ones:
    context = None

    def score(self, rollouts: Rollouts, by: str, quantities: Any, temperature: float = 1.0) -> Any:
        return {q: rollouts.action.float() for q in quantities}


def test_rows_that_are_declined_have_no_value_and_are_an_error_where_they_must_not_be():
    rows = Rollouts.of(torch.ones(3, 5, dtype=torch.int64), torch.full((3,), 5), torch.full((3,), 2))
    found = Passes(Ones(), list, 1.0, None).before(Declines(optional=True), rows, lambda r: [{}] * len(r))
    x = found.streams["logp_teacher"]
    assert torch.isnan(x).all(1).tolist() == [False, True, False]
    assert x[0].tolist() == [0, 0, 1, 1, 1]
    with pytest.raises(UserError, match="context of row 1: there is nothing"):
        Passes(Ones(), list, 1.0, None).before(Declines(), rows, lambda r: [{}] * len(r))
