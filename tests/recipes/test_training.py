"""What recipes accept: round trips, defaults, the default loss, users' own losses, refusals."""

import pytest
from pydantic import ValidationError

from steersman.core.component import Component
from steersman.core.config import Source, dump, read, to_toml, validate
from steersman.core.errors import UserError
from steersman.objective.components import DPO, RDPO
from steersman.recipes.training import RECIPES, PreferenceRecipe, Runtime, SftRecipe

BASE = {"model": {"path": "m"}, "data": {"train": "t.jsonl"}}


class Own(Component):
    """A user's loss."""

    kind: str = "own:Own"


@pytest.mark.parametrize("verb", RECIPES)
def test_every_recipe_survives_toml_and_json(verb: str, tmp_path) -> None:
    recipe = RECIPES[verb].model_validate(BASE | {"model": {"path": "m", "lora": {"rank": 4}}})
    file = tmp_path / "r.toml"
    file.write_text(to_toml(recipe))
    assert validate(RECIPES[verb], read(file)) == recipe
    assert RECIPES[verb].model_validate(dump(recipe)) == recipe
    assert dump(recipe)["format"] == 1


def test_a_loss_without_a_kind_is_the_default_loss() -> None:
    assert PreferenceRecipe.model_validate(BASE).loss == RDPO()
    assert PreferenceRecipe.model_validate(BASE | {"loss": {"flip_rate": 0.2}}).loss == RDPO(flip_rate=0.2)
    assert PreferenceRecipe.model_validate(BASE | {"loss": {"kind": "dpo"}}).loss == DPO()
    assert PreferenceRecipe.model_validate(BASE | {"loss": Own()}).loss == Own()


@pytest.mark.parametrize("rate", [-0.1, 0.5, float("nan"), "nan", "much"])
def test_an_impossible_flip_rate_is_named_by_its_path(rate: object) -> None:
    for loss in ({"flip_rate": rate}, {"kind": "cdpo", "flip_rate": rate}):
        source = Source(BASE | {"loss": loss}, {"loss.flip_rate": "here"}, "command line")
        with pytest.raises(UserError, match=r"^loss\.flip_rate \(here\): "):
            validate(PreferenceRecipe, source)


def test_a_newer_format_and_kto_with_means_are_refused() -> None:
    with pytest.raises(ValidationError, match="format"):
        PreferenceRecipe.model_validate(BASE | {"format": 2})
    with pytest.raises(ValidationError, match="not defined for kto"):
        PreferenceRecipe.model_validate(BASE | {"loss": {"kind": "kto"}, "logp": "mean"})


def test_a_misspelt_key_of_the_default_loss_gets_its_nearest_spelling() -> None:
    with pytest.raises(UserError, match=r"(?s)^loss\.flip_rat \(f:3\): unknown key.*Did you mean loss\.flip_rate\?"):
        validate(PreferenceRecipe, Source(BASE | {"loss": {"flip_rat": 0.1}}, {"loss.flip_rat": "f:3"}, "f"))


def test_runtime_is_no_part_of_a_recipe() -> None:
    assert not set(Runtime.model_fields) & set(PreferenceRecipe.model_fields)


def test_naming_one_key_of_a_table_keeps_the_recipes_other_defaults() -> None:
    base = {"model": {"path": "m"}, "data": {"train": "t"}}
    whole = PreferenceRecipe.model_validate(base)
    part = PreferenceRecipe.model_validate(
        base | {"optim": {"clip": 0.5}, "budget": {"steps": 5}, "loss": {"beta": 0.2}}
    )
    assert part.optim == whole.optim.model_copy(update={"clip": 0.5})
    assert (part.optim.lr, part.optim.schedule, part.optim.warmup) == (1e-6, "linear", 0.1)
    assert part.budget == whole.budget.model_copy(update={"steps": 5})
    assert part.budget.limits == {"margin": 1e4}
    assert (part.loss.kind, part.loss.beta) == ("rdpo", 0.2)
    other = PreferenceRecipe.model_validate(base | {"loss": {"kind": "ipo"}})
    assert other.loss.kind == "ipo"
    sft = SftRecipe.model_validate(base | {"optim": {"lr": 1e-3}})
    assert (sft.optim.lr, sft.optim.schedule) == (1e-3, "cosine")
