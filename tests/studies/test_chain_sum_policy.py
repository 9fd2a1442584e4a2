"""The shared policy of the running-sum task: its identity, its tokenizer, a miniature build, and how it is judged."""

from pathlib import Path

import pytest
import torch

from steersman.core.errors import UserError
from steersman.language.load import load_model, load_tokenizer, stop_ids
from steersman.studies import chain_sum_policy as policy
from steersman.study.declare import Artefact
from steersman.task import chain_sum
from steersman.task.chain_sum import ChainSum

TINY = {"model": {"width": 16, "mlp": 16, "layers": 1, "heads": 2}, "steps": 3, "batch": 4, "judged": 20}


def build(artefact: Artefact, folder: Path) -> str:
    folder.mkdir()
    return artefact.build(artefact.settings, folder, {})


def test_the_default_is_the_testbed() -> None:
    found = policy.artefact()
    assert ChainSum.model_validate(found.settings["task"]) == ChainSum(k=5, error=0.12, hint=0.5)
    assert (found.name, found.settings["steps"], found.settings["model"]["width"]) == ("policy", 1200, 64)


def test_settings_can_be_changed_and_nothing_is_shared() -> None:
    found = policy.artefact(ChainSum(k=3), name="short", **TINY)
    assert found.settings["model"] == {**policy.SETTINGS["model"], **TINY["model"]}
    assert found.settings["task"]["k"] == 3
    assert policy.SETTINGS["model"]["width"] == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"stepps": 3}, "unknown key 'stepps'"), ({"task": ChainSum(k=20)}, "exceed the model's context of 64")],
)
def test_what_cannot_be_built_is_refused_when_declared(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        policy.artefact(**arguments)


def test_a_built_policy_is_an_ordinary_model_folder(tmp_path: Path) -> None:
    made = policy.artefact(**TINY)
    line = build(made, tmp_path / "a")
    assert "20 unseen prompts" in line
    assert line.endswith("its demonstrator 0.540")
    folder = policy.model_folder(tmp_path / "a")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert stop_ids(model, tokenizer) == (chain_sum.EOS,)
    assert policy.judged(tmp_path / "a") == (policy.count_right(model, ChainSum(), 20, 24), 20)
    build(made, tmp_path / "b")
    again = load_model(policy.model_folder(tmp_path / "b"))
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in model.state_dict().items())


def test_the_tokenizer_speaks_the_tasks_tokens() -> None:
    tokenizer = policy.build_tokenizer(64)
    assert tuple(tokenizer.convert_ids_to_tokens(list(range(chain_sum.VOCABULARY)))) == chain_sum.TOKENS
    rows = chain_sum.examples(ChainSum(), 8, seed=0)
    for ids, n in zip(rows.ids.tolist(), rows.length.tolist(), strict=True):
        written = chain_sum.text(torch.tensor(ids[:n]))
        assert tokenizer(written)["input_ids"] == ids[:n]
        assert tokenizer.decode(ids[:n]) == written
    with pytest.raises(Exception, match="UNK"):  # no other character is silently taken for a token
        tokenizer("2 7")


def test_judging_counts_right_answers() -> None:
    class Sums:
        """Stands in for `generate`: the demonstrator's responses, and the error rates of two demonstrators."""

        def __init__(self, error: float) -> None:
            self.error = error

        def __call__(self, model: object, given: object, **options: object) -> object:
            return chain_sum.demonstrate(ChainSum(error=self.error), given, seed=5, hint=0.0)

    counts = []
    for error in (0.0, 0.12):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(policy, "generate", Sums(error))
            counts.append(policy.count_right(None, ChainSum(), 400, 18))
    assert counts[0] == 400
    assert 150 < counts[1] < 280
