"""Contrastive credit as a stage: what it asks for and when, what it writes, its controls and what it counts."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from steersman.core.component import START, Moment, check_pipeline
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components_advantage import GRPO, UniformCredit
from steersman.objective.components_credit import ContrastiveCredit
from steersman.objective.credit.cepo import evidence
from steersman.objective.credit.hints import Hint

N, L, PROMPT = 6, 7, 2
GROUP = torch.tensor([3, 3, 3, 8, 8, 8])
RIGHT = torch.tensor([True, False, False, True, True, True])  # group 8 has no signal
LENGTH = torch.tensor([7, 6, 7, 5, 7, 4])
ANSWER = ("9", "4", "5", "9", "9", "9")
ROWS = [{"id": f"p{g}", "answer": "9"} for g in GROUP.tolist()]


def numbers(seed: int) -> torch.Tensor:
    return -torch.rand(N, L, generator=torch.Generator().manual_seed(seed)) * 3


def batch(**streams: torch.Tensor) -> Rollouts:
    ids = torch.arange(N * L).view(N, L)
    known = {"group": GROUP, "correct": RIGHT, "reward": RIGHT.float(), "answer": ANSWER}
    rows = Rollouts.of(ids, LENGTH, torch.full((N,), PROMPT), **known)
    told = {"logp_teacher": numbers(1), "logp_teacher_wrong": numbers(2)}
    return GRPO()(rows)[0].with_streams(**(told | streams))


def contexts(stage: ContrastiveCredit, rows: Rollouts, at: Moment = START) -> list[list]:
    return [p.before(rows, ROWS) for p in stage.passes_now(at)]


def test_every_token_gets_the_function_s_advantage():
    rows = batch()
    out, told = ContrastiveCredit(lam=0.8, eps_w=0.4)(rows)
    x = rows.streams
    wanted = evidence(x["advantage_row"], x["logp_teacher"], x["logp_teacher_wrong"], rows.action, 0.8, 0.4)
    assert torch.equal(out.streams["advantage"], wanted)
    assert torch.equal(out.streams["advantage_row"], x["advantage_row"])
    assert (told["lam"], told["rows"], told["lost_rows"], told["no_negative_rows"]) == (0.8, 3, 0, 0)
    up = rows.action[0]
    delta = (x["logp_teacher"] - x["logp_teacher_wrong"])[0][up].double()
    assert told["delta_mean_up"] == pytest.approx(float(delta.mean()))
    assert told["delta_sd_up"] == pytest.approx(float(delta.std(correction=0)))
    assert told["wrong_direction_up"] == pytest.approx(float((delta < 0).double().mean()))
    ratio = wanted[:3] / x["advantage_row"][:3, None]
    assert told["size"] == pytest.approx(float(ratio[rows.action[:3]].mean()))
    weight = (x["advantage_row"].sign()[:, None] * (x["logp_teacher"] - x["logp_teacher_wrong"])).exp()[:3]
    beyond = (weight < 0.6) | (weight > 1.4)
    assert told["clipped"] == pytest.approx(float(beyond[rows.action[:3]].double().mean()))


def test_advantages_of_tokens_are_shared_out_likewise():
    rows = UniformCredit()(batch())[0]
    late = ContrastiveCredit(stream="advantage")(rows)[0].streams["advantage"]
    assert torch.equal(late, ContrastiveCredit()(rows)[0].streams["advantage"])
    assert ContrastiveCredit(stream="advantage").needs == ("advantage",)


def test_only_rows_with_an_advantage_are_asked_for():
    rows = batch()
    for p in ContrastiveCredit().passes():
        assert p.rows(rows).tolist() == [True] * 3 + [False] * 3
        assert p.optional
    (right, wrong) = contexts(ContrastiveCredit(hint=Hint(text="?{answer}=")), rows)
    assert {h.answer for h in right} == {"9"}
    assert len({h.answer for h in wrong[:3]}) == 1
    assert wrong[0].answer in {"4", "5"}
    assert {(h.place, h.text) for h in right + wrong[:3]} == {("after_prompt", "?{answer}=")}
    assert [h.prompt for h in right] == [(L * i, L * i + 1) for i in range(N)]


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({"show": "response"}, ((9, 10, 11, 12), (16, 17, 18, 19))),
        ({"show": "prefix", "show_tokens": 2}, ((9, 10), (16, 17))),
        ({"show": "suffix", "show_tokens": 2}, ((11, 12), (18, 19))),
        ({"show": "suffix", "show_tokens": 99}, ((9, 10, 11, 12), (16, 17, 18, 19))),  # shorter than that: all of it
    ],
)
def test_whole_responses_or_an_end_of_them_can_be_told(settings, ends):
    """Rows 1 and 2 were rejected; neither is told itself, and nothing but the tokens drawn before the end."""
    rows = batch()
    rows = replace(rows, reward=torch.tensor([1.0, 0.0, -1.0, 1.0, 1.0, 1.0]), stop=torch.tensor([0, 1, 0, 0, 0, 0]))
    stage = ContrastiveCredit(**settings)
    wrong = contexts(stage, rows)[1]
    assert stage.fields == ("correct",)
    assert [h.answer for h in wrong[:3]] == [ends[1], ends[1], ends[0]]
    assert wrong[3:] == [(L * i, L * i + 1) for i in range(3, N)]
    assert [h.answer for h in contexts(stage, rows)[0]] == ["9"] * N
    lonely = replace(rows, correct=torch.tensor([True, False, True, True, True, True]))
    assert stage(lonely)[1]["no_negative_rows"] == 1  # the only wrong one has nobody else's to be told
    empty = replace(rows, length=torch.tensor([7, 6, 3, 5, 7, 4]))  # its end alone was drawn
    assert contexts(ContrastiveCredit(**settings, fallback="uniform"), empty)[1][0] is None


def test_a_copy_of_the_policy_is_told_by_the_teacher_s_name():
    stage = ContrastiveCredit(teacher="copy", sync=10)
    assert [p.by for p in stage.passes()] == ["teacher", "teacher"]
    assert [p.by for p in ContrastiveCredit(teacher="copy", sync=3, negative="none").passes()] == ["teacher", "policy"]


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"show": "response", "negative": "modal"}, 'negative = "lowest"'),
        ({"show": "response", "negative": "none"}, 'negative = "lowest"'),
        ({"show": "prefix"}, "show_tokens is the length"),
        ({"show_tokens": 3}, "show_tokens is the length"),
        ({"teacher": "copy"}, "sync says when a copy is taken"),
        ({"sync": 5}, "sync says when a copy is taken"),
        ({"teacher": "copy", "sync": 0}, "sync"),
    ],
)
def test_settings_that_belong_together(bad, match):
    with pytest.raises(ValidationError, match=match):
        ContrastiveCredit(**bad)


def test_a_group_without_a_wrong_answer_falls_back():
    rows = batch(advantage_row=torch.ones(N))
    told = ContrastiveCredit()(rows)[1]
    assert told["no_negative_rows"] == 3
    bare = contexts(ContrastiveCredit(), rows)[1][3:]
    assert bare == [(L * i, L * i + 1) for i in range(3, N)]  # the policy told nothing, which is RLSD
    assert contexts(ContrastiveCredit(negative="none"), rows)[1][3:] == bare
    assert contexts(ContrastiveCredit(fallback="uniform"), rows)[1][3:] == [None] * 3


def test_rows_that_could_not_be_told_keep_their_advantage_and_are_counted():
    lost = numbers(1)
    lost[1] = torch.nan
    rows = batch(logp_teacher=lost)
    out, told = ContrastiveCredit()(rows)
    plain = rows.streams["advantage_row"]
    assert torch.equal(out.streams["advantage"][1], torch.where(rows.action[1], plain[1], 0.0))
    assert (told["rows"], told["lost_rows"]) == (2, 1)
    whole = ContrastiveCredit()(batch())[0].streams["advantage"]
    assert torch.equal(out.streams["advantage"][[0, 2]], whole[[0, 2]])
    told = ContrastiveCredit()(batch(logp_teacher=torch.full((N, L), torch.nan)))[1]
    assert (told["rows"], told["lost_rows"], "size" in told) == (0, 3, False)


def test_every_rule_is_listed_where_one_is_misspelt():
    with pytest.raises(ValidationError) as error:
        ContrastiveCredit(negative="lowst")
    (found,) = error.value.errors()
    assert found["ctx"]["expected"] == "'lowest', 'modal', 'own' or 'none'"


def test_the_schedule_ends_and_takes_the_passes_with_it():
    stage = ContrastiveCredit(lam=0.5, decay=4)
    at = [Moment(step=s, total=9) for s in range(7)]
    assert [stage.share(m) for m in at] == pytest.approx([0.5, 0.375, 0.25, 0.125, 0, 0, 0])
    assert [len(stage.passes_now(m)) for m in at] == [2, 2, 2, 2, 0, 0, 0]
    bare = batch()
    bare = replace(bare, streams={"advantage_row": bare.streams["advantage_row"]})
    out, told = stage(bare, at[5])
    assert told == {"lam": 0.0}
    assert torch.equal(out.streams["advantage"], UniformCredit()(bare)[0].streams["advantage"])
    assert ContrastiveCredit(decay=0).share(Moment(step=10**6)) == 0.5


def test_ties_among_wrong_answers_follow_the_moment():
    rows = batch()
    chosen = {contexts(ContrastiveCredit(), rows, Moment(seed=s))[1][0].answer for s in range(20)}
    assert chosen == {"4", "5"}
    one, two = (contexts(ContrastiveCredit(), rows, Moment(seed=3)) for _ in range(2))
    assert one == two
    assert ContrastiveCredit().passes() == ContrastiveCredit().passes()


def test_the_shuffled_control_moves_the_same_evidence_within_its_row():
    rows = batch()
    stage = ContrastiveCredit(shuffle=True)
    plain, out = ContrastiveCredit()(rows)[0].streams["advantage"], stage(rows)[0].streams["advantage"]
    assert not torch.equal(out, plain)
    for i in range(3):
        assert sorted(out[i][rows.action[i]].tolist()) == pytest.approx(sorted(plain[i][rows.action[i]].tolist()))
    assert torch.equal(stage(rows)[0].streams["advantage"], out)
    assert not torch.equal(stage(rows, Moment(seed=5))[0].streams["advantage"], out)


def test_rows_that_were_not_graded_get_nothing():
    rows = batch()
    rows = replace(rows, valid=torch.tensor([True, True, False, True, True, True]))
    out = ContrastiveCredit()(rows)[0].streams["advantage"]
    assert not out[2].any()
    assert out[0].any()


def test_no_row_at_all():
    rows = batch().index(slice(0, 0))
    out, told = ContrastiveCredit()(rows)
    assert out.streams["advantage"].shape == (0, L)
    assert told["rows"] == 0


def test_what_it_reads_is_checked_before_any_compute():
    assert ContrastiveCredit().fields == ("correct", "answer")
    assert ContrastiveCredit(negative="none").fields == ()
    assert ContrastiveCredit(reference="solution").columns == ("solution",)
    with pytest.raises(UserError, match="ContrastiveCredit needs 'advantage_row'"):
        check_pipeline([ContrastiveCredit()], [])
    check_pipeline([GRPO(), ContrastiveCredit()], [])
    for bad in ({"lam": 1.5}, {"eps_w": 0.0}, {"decay": -1}, {"negative": "worst"}, {"hint": {"text": "no place"}}):
        with pytest.raises(ValidationError):
            ContrastiveCredit.model_validate(bad)
