"""TinyCode's shared policy: its tokenizer, the artefact, what is judged, that it learns what it is shown."""

from pathlib import Path

import pytest

from steersman.core.errors import UserError
from steersman.language.load import load_model, load_tokenizer
from steersman.studies import tiny_code_policy as policy
from steersman.task.tiny_code import TinyCode, prompts
from steersman.task.tiny_code_functions import functions
from steersman.task.tiny_code_language import EOS, TOKENS, tokenize

SMALL = {"width": 16, "mlp": 16, "layers": 1, "heads": 2}
LEARNT = 0.15  # half of the prompts want one and the same program; an untaught model gets none right


def test_the_tokenizer_has_the_languages_tokens() -> None:
    tokenizer = policy.build_tokenizer(80)
    text = "f(-2)=[5,-1] f(4)=9 ; x*2 if x<=1 else sum([i*2 for i in sorted(x)])"
    assert tokenizer(text)["input_ids"] == tokenize(text)
    assert tokenizer.decode(tokenize(text)) == text
    assert tuple(tokenizer.convert_ids_to_tokens(range(len(TOKENS)))) == TOKENS
    assert (tokenizer.eos_token_id, tokenizer.model_max_length) == (EOS, 80)


def test_the_task_fits_the_model_and_its_programs_the_room() -> None:
    task, context = policy.TASK, policy.SETTINGS["model"]["context"]
    assert task.max_prompt + task.max_response <= context
    table = functions("int", "int")
    sizes = range(task.size[0], task.size[1] + 1)
    longest = max(len(tokenize(p)) for p, s in zip(table.program, table.size, strict=True) if s in sizes)
    assert longest + 1 == 11 <= policy.ROOM


def test_it_is_built_and_judged(tmp_path: Path) -> None:
    made = policy.artefact(TinyCode(inputs="int", size=(2, 3)), model=SMALL, steps=4, batch=8, judged=20)
    line = made.build(made.settings, tmp_path, {})
    assert "20 new prompts of the functions it was taught" in line
    assert load_tokenizer(policy.model_folder(tmp_path)).eos_token_id == EOS
    model = load_model(policy.model_folder(tmp_path))
    for purpose in (policy.TAUGHT, policy.UNSEEN):
        assert policy.judged(tmp_path, purpose) == (policy.count_right(model, made_task(made), 20, purpose), 20)


def made_task(made: object) -> TinyCode:
    return TinyCode.model_validate(made.settings["task"])  # type: ignore[attr-defined]


def test_it_learns_what_it_is_shown(tmp_path: Path) -> None:
    task = TinyCode(inputs="int", size=(2, 3))
    shown = [r["answer"] for r in prompts(task, 400, 0, purpose=policy.TAUGHT).rows]
    assert shown.count("-x") / len(shown) > LEARNT
    made = policy.artefact(task, steps=80, batch=16, judged=200, model=SMALL, optim={"lr": 2e-2})
    made.build(made.settings, tmp_path, {})
    right, judged = policy.judged(tmp_path)
    assert right / judged > LEARNT


def test_bad_input() -> None:
    with pytest.raises(UserError, match="unknown key 'step'"):
        policy.artefact(step=3)
    with pytest.raises(UserError, match="exceed the model's context of 80"):
        policy.artefact(TinyCode())
