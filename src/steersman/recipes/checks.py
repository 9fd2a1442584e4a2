"""What would stop a job before its first step, found before anything is computed or written.

Leaves out: formats of files (`language.records`), folders of models (`language.load`), training (`recipes.jobs`).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steersman.core.errors import UserError
from steersman.language.encode import Encoded
from steersman.language.load import check_folder, check_same_vocabulary, load_tokenizer
from steersman.objective.components import KTO
from steersman.recipes.data import Data
from steersman.recipes.training import PreferenceRecipe, Recipe, RewardRecipe
from steersman.reward.model import check_reward_folder

_FEWEST_FOR_AUTO = 10  # a fifth of them must give two margins


def check_trained_folder(recipe: Recipe) -> None:
    """Refuse a folder that does not hold a complete model of the kind that is to be trained."""
    path = Path(recipe.model.path)
    if isinstance(recipe, RewardRecipe):
        check_reward_folder(path)
    else:
        check_folder(path)


def check_model(recipe: Recipe, tokenizer: Any) -> None:
    """Refuse a reference model that is not used, not there, or of another vocabulary, and adapters that are not kept.

    Raises:
        UserError: says which.
    """
    reference, lora = recipe.model.reference, recipe.model.lora
    if isinstance(recipe, RewardRecipe) and lora is not None and not lora.merge:
        raise UserError("a reward model is always written merged", where="model.lora.merge", allowed="true")
    if reference is None:
        return
    if not isinstance(recipe, PreferenceRecipe):
        raise UserError(f"a reference is not used by {recipe.verb}", where="model.reference", cure="Leave it out.")
    check_folder(reference)
    check_same_vocabulary(tokenizer, load_tokenizer(reference), where=f"model.reference ({reference})")


def check_data(recipe: Recipe, data: Data) -> None:
    """Refuse settings that do not go with the rows.

    Raises:
        UserError: KTO with one prompt only; flip rates that are missing in some rows, unused by the loss, or to be
            estimated where they cannot be.
    """
    if isinstance(recipe, PreferenceRecipe) and isinstance(recipe.loss, KTO):
        rows = data.train.rows
        if all(row.prompt == rows[0].prompt for row in rows):
            raise UserError("KTO needs at least two different prompts", where=recipe.data.train)
        return
    if not isinstance(recipe, PreferenceRecipe | RewardRecipe):
        return
    rates = flip_rates(data.train, recipe.data.train)
    own = getattr(recipe.loss, "flip_rate", None)
    if isinstance(recipe, RewardRecipe) and own == "auto":
        raise UserError(
            '"auto" estimates from a preference policy\'s margins',
            where="loss.flip_rate",
            allowed="a number in [0, 0.5)",
            cure="Estimate it with: steersman train preference --loss rdpo --flip-rate auto",
        )
    if rates is not None and own is None:
        what = f"{recipe.loss.kind} takes no flip rate, but the pairs carry one each"
        cure = "Choose a loss that does (rdpo, cdpo ...; for rewards loss.correction), or remove the column flip_rate."
        raise UserError(what, where=recipe.data.train, cure=cure)
    if rates is None and own == "auto" and len(data.train.rows) < _FEWEST_FOR_AUTO:
        what = f"{len(data.train.rows)} pairs are too few to estimate a flip rate"
        raise UserError(what, where="loss.flip_rate", allowed=f"at least {_FEWEST_FOR_AUTO} pairs, or a number")


def flip_rates(train: Encoded[Any, Any], where: str) -> Tensor | None:
    """The column ``flip_rate`` as float32 ``[N]``; None where no row has one.

    Raises:
        UserError: some rows have one and others not; names the first without.
    """
    rates = train.column("flip_rate")
    missing = torch.isnan(rates)
    if bool(missing.all()):
        return None
    if bool(missing.any()):
        line = train.rows[int(missing.nonzero()[0, 0])].line
        raise UserError("flip_rate is missing while other rows have one", where=f"{where}, line {line}")
    return rates
