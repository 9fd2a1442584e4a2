"""The planted-quadrant task: truth, the corrupted generator's errors, the teacher, kinds, grades, the world."""

import math
from dataclasses import replace

import pytest
import torch

from steersman.core.component import Hinted
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.divergence import divergence, entropy
from steersman.task import planted
from steersman.task.planted import (
    EOS,
    FORMAT,
    PAD,
    PLACES,
    PROMPT,
    RESPONSE,
    SYNONYM,
    SYNONYMS,
    TOKENS,
    VOCABULARY,
    Kind,
    Planted,
    PlantedTeacher,
    truth,
)
from steersman.task.planted_world import PlantedWorld

TASK = Planted()
SHARE = 0.02  # of 20,000 draws; five standard deviations of a half are 0.018
NATS = 1e-5  # float32
PILOT = 0.05  # how far the planted entropies may be from those of the pilot, of log V
N = 4000


def tokens(text):
    return [TOKENS.index(c) for c in text]


def row(text, end=True):
    ids = torch.tensor([tokens(text) + [EOS] * end])
    n = torch.tensor([ids.shape[1]])
    return Rollouts.of(ids, n, torch.tensor([PROMPT]))


@pytest.mark.parametrize(
    ("prompt", "digits", "carry"),
    [
        ("012+044=", [1, 1, 1, 0], [False, True, True, False]),
        ("444+001=", [0, 0, 0, 1], [False, True, True, True]),
        ("123+210=", [3, 3, 3, 0], [False] * 4),
        ("012x430=", [2, 2, 4, 0], [False] * 4),
    ],
)
def test_truth_by_hand(prompt, digits, carry):
    right, carries, times = truth(TASK, torch.tensor([tokens(prompt)]))
    assert (right.tolist(), carries.tolist(), times.tolist()) == ([digits], [carry], ["x" in prompt])


@pytest.mark.parametrize("base", [2, 5, 10])
def test_sums_are_those_of_numbers(base):
    task = Planted(base=base, times=0.5)
    ids = planted.prompts(task, 300, seed=1).ids
    right, _, times = truth(task, ids)
    for line, digits, x in zip(ids.tolist(), right.tolist(), times.tolist(), strict=True):
        a, b = line[:3], line[4:7]
        as_number = lambda d: sum(base**i * v for i, v in enumerate(reversed(d)))  # noqa: E731
        if x:
            assert digits == [*[abs(p - q) for p, q in zip(a, b, strict=True)][::-1], 0]
        else:
            assert as_number(digits[::-1]) == as_number(a) + as_number(b)


def test_the_generator_errs_as_it_is_told():
    made = planted.examples(TASK, N, seed=0)
    right, carry, times = truth(TASK, made.ids)
    wrong = planted.written_digits(made) != right
    plain = ~carry & ~times[:, None]
    assert float(times.double().mean()) == pytest.approx(0.2, abs=SHARE)
    assert float(wrong[carry].double().mean()) == pytest.approx(0.9, abs=SHARE)
    assert float(wrong[times].double().mean()) == pytest.approx(0.6 * 0.8, abs=2 * SHARE)  # 800 prompts
    assert not wrong[plain].any()
    assert planted.formatted(made).all()
    synonyms = made.ids[:, PROMPT + 1 : PROMPT + RESPONSE - 1 : 3].flatten()
    shares = torch.bincount(synonyms, minlength=VOCABULARY)[SYNONYM : SYNONYM + SYNONYMS] / synonyms.numel()
    assert shares.tolist() == pytest.approx([1 / 8] * 8, abs=SHARE)
    assert planted.examples(Planted(carried=1.0, guessed=0.0), N, seed=0).check()
    good = planted.examples(Planted(carried=1.0, guessed=0.0), N, seed=0)
    assert planted.grade(TASK, good).value.all()


def test_a_forgotten_carry_is_that_of_the_digits_alone():
    made = planted.examples(Planted(carried=0.0, times=0.0), 500, seed=2)
    a, b = made.ids[:, :3].flip(1), made.ids[:, 4:7].flip(1)
    assert torch.equal(planted.written_digits(made)[:, :3], (a + b) % 5)
    assert not planted.written_digits(made)[:, 3].any()


def test_kinds_have_the_shares_of_the_pilot():
    made = planted.examples(TASK, N, seed=0)
    kinds = planted.kinds(TASK, made)[:, PROMPT:]
    shares = {k: float((kinds == k).double().mean()) for k in Kind}
    assert shares[Kind.OTHER] == 0
    assert shares[Kind.CARRY] == pytest.approx(0.8 * (0.4 + 0.48 + 0.496) / RESPONSE, abs=SHARE)
    assert shares[Kind.TIMES] == pytest.approx(0.2 * PLACES / RESPONSE, abs=SHARE)
    assert shares[Kind.SYNONYM] == pytest.approx(PLACES / RESPONSE)


def test_kinds_of_a_row_that_is_short_or_long():
    short, long = row("444+001=.a0:b", end=False), row("444+001=.a0:b0;c0,d1.a")
    assert planted.kinds(TASK, short)[0, PROMPT:].tolist() == [1, 4, 1, 1, 4]
    assert planted.kinds(TASK, long)[0, PROMPT:].tolist() == [1, 4, 1, 1, 4, 2, 1, 4, 2, 1, 4, 2, 1, 0, 0]
    assert planted.written_digits(short).tolist() == [[0, PAD, PAD, PAD]]


def generator_logits(task, ids, length):
    """The student that imitates perfectly: log-probabilities of the corrupted generator, by definition."""
    right, carry, times = truth(task, ids)
    place, out = length - PROMPT, torch.full((len(ids), VOCABULARY), 1e-6, dtype=torch.float64)
    for i, t in enumerate(place.tolist()):
        j, what = divmod(t, 3)
        if t >= RESPONSE - 1:
            out[i, EOS] += 1
        elif what == 0:
            out[i, FORMAT + j] += 1
        elif what == 1:
            out[i, SYNONYM : SYNONYM + SYNONYMS] += 1 / 8
        elif times[i]:
            out[i, : task.base] += task.guessed / task.base
            out[i, right[i, j]] += 1 - task.guessed
        elif carry[i, j]:
            out[i, (right[i, j] - 1) % task.base] += 1 - task.carried
            out[i, right[i, j]] += task.carried
        else:
            out[i, right[i, j]] += 1
    return out.log()


def test_every_kind_lies_in_its_quadrant():
    """Entropy and divergence of a perfect imitator: the planted types measure as intended (pilot figures)."""
    made = planted.examples(TASK, 300, seed=4)
    kinds = planted.kinds(TASK, made)
    teacher, told = PlantedTeacher(TASK), {k: [] for k in Kind}
    for column in range(PROMPT, PROMPT + RESPONSE):
        length = torch.full((300,), column)
        z, q = generator_logits(TASK, made.ids, length), teacher.log_probs(made.ids, length).double()
        for k in Kind:
            here = kinds[:, column] == k
            h, d = entropy(z, normalize=True)[here], divergence(z, q)[here]
            told[k].append(torch.stack([h, d], 1))
    mean = {k: torch.cat(x).mean(0).tolist() for k, x in told.items() if torch.cat(x).numel()}
    assert mean[Kind.CARRY][0] == pytest.approx(0.086, abs=PILOT)
    assert mean[Kind.TIMES][0] == pytest.approx(0.45, abs=PILOT)
    assert mean[Kind.SYNONYM][0] == pytest.approx(0.64, abs=PILOT)
    assert mean[Kind.PLAIN][0] < 0.03
    assert mean[Kind.CARRY][1] > mean[Kind.TIMES][1] > 3
    assert max(mean[Kind.SYNONYM][1], mean[Kind.PLAIN][1]) < 0.15


def test_the_teacher_is_a_distribution_and_ignores_what_was_written():
    teacher = PlantedTeacher(TASK)
    right, wrong = row("444+001=.a0:b0;c0,d1"), row("444+001=..::..ee9=+1")
    for extra in range(RESPONSE):
        length = torch.tensor([PROMPT + extra])
        log_p = teacher.log_probs(right.ids, length)
        assert torch.equal(log_p, teacher.log_probs(wrong.ids, length))
        assert log_p.exp().sum().item() == pytest.approx(1, abs=NATS)
        assert log_p.min().item() == pytest.approx(math.log(TASK.floor / VOCABULARY), abs=NATS)
        if extra % 3 != 1:
            assert log_p.argmax().item() == right.ids[0, PROMPT + extra]
    best, least = teacher.log_probs(right.ids, torch.tensor([PROMPT + 1]))[0, [SYNONYM + 7, SYNONYM]]
    assert float(best - least) == pytest.approx(TASK.tilt, abs=0.01)  # the floor takes a little of it
    assert teacher.log_probs(torch.tensor([tokens("444+001=")]), torch.tensor([PROMPT])).argmax() == FORMAT
    assert teacher.log_probs(right.ids, torch.tensor([PROMPT + RESPONSE + 3])).argmax() == EOS
    with pytest.raises(UserError, match="inside the prompt"):
        teacher.log_probs(right.ids, torch.tensor([3]))


@pytest.mark.parametrize(
    ("response", "end", "value", "status", "answer"),
    [
        (".a0:b0;c0,d1", True, 1.0, "correct", "1000"),
        (".h0:h0;h0,h1", True, 1.0, "correct", "1000"),
        (".a0:b4;c4,d0", True, 0.0, "wrong", "0440"),
        (".a0:b0;c0,d1", False, 0.0, "unparsable", None),
        (".a0:b0;c0,d1.", True, 0.0, "unparsable", None),
        (".a0:b0,c0;d1", True, 0.0, "unparsable", None),
        (".a0:b0;c0,1d", True, 0.0, "unparsable", None),
        ("..0:b0;c0,d1", True, 0.0, "unparsable", None),
    ],
)
def test_grades(response, end, value, status, answer):
    world, one = PlantedWorld(TASK), row("444+001=" + response, end)
    graded = world.grade(one, [{}])
    assert graded.scores.value.tolist() == [value]
    assert planted.STATUSES[int(graded.scores.parts["status"])] == status
    assert graded.answer == (answer,)
    failed = world.grade(replace(one, valid=torch.tensor([False])), [{}]).scores
    assert (failed.valid.tolist(), bool(failed.value.isnan())) == ([False], True)


def test_prompts_are_functions_of_seed_step_and_round():
    world = PlantedWorld(TASK, 6)
    first = world.draw(8, seed=1, step=2)
    assert world.draw(4, seed=1, step=2).ids == first.ids[:4]
    for other in (world.draw(8, 2, 2), world.draw(8, 1, 3), world.draw(8, 1, 2, 1)):
        assert other.ids != first.ids
    assert world.held_out().ids == world.held_out(99).ids
    assert world.held_out(4).ids == world.held_out().ids[:4]
    assert PlantedWorld(TASK).held_out() is None
    ids = torch.tensor(first.ids)
    right, _, _ = truth(TASK, ids)
    assert [r["answer"] for r in first.rows] == ["".join(map(str, d)) for d in right.flip(1).tolist()]
    good = planted.examples(Planted(carried=1.0, guessed=0.0), 5, seed=0)
    assert world.texts(good)[0] == (planted.text(good.ids[0, :PROMPT]), planted.text(good.ids[0, PROMPT:]))
    assert "".join(world.pieces(good)[2]) == planted.text(good.ids[2])
    assert world.encode(["012+044=", (1, 2)]) == [tokens("012+044="), [1, 2]]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: planted.prompts(TASK, 0, 0), "0 prompts"),
        (lambda: planted.prompts(TASK, 1, 0, round=-1), "round -1"),
        (lambda: truth(TASK, torch.tensor([tokens("012+04")])), "rows have 6 tokens"),
        (lambda: truth(TASK, torch.tensor([tokens("912+044=")])), "'912.044=' is no prompt"),
        (lambda: truth(TASK, torch.tensor([tokens("012=044=")])), "row 0"),
        (lambda: PlantedWorld(TASK, -1), "held_out_size: is -1"),
        (lambda: PlantedWorld(TASK).encode(["why?"]), "no text of planted"),
        (lambda: PlantedWorld(TASK).encode([Hinted((1,), {}, "after_prompt", "{answer}", "1")]), "hint"),
        (lambda: PlantedWorld(TASK).grade(row("444+001=.a0"), []), "0 rows for 1"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
