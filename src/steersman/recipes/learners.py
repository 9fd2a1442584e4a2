"""From a recipe and its data to a learner at its starting point: reference log-probs, flip rates, optimiser.

Leaves out: loading models and files, training, export (`recipes.jobs`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from steersman.core.errors import CorruptFile
from steersman.core.types import Pairs, Rollouts
from steersman.language.load import context_length, load_model
from steersman.language.precision import set_precision
from steersman.objective.components import KTO
from steersman.recipes.checks import flip_rates
from steersman.recipes.data import Data
from steersman.recipes.flips import settle_flip_rate
from steersman.recipes.training import PreferenceRecipe, Recipe, RewardRecipe, Runtime, SftRecipe
from steersman.store.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from steersman.store.run import RunDir
from steersman.train.fit import Learner
from steersman.train.loop import Budget
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.preference import PreferenceLearner, summed_logp
from steersman.train.reward_model import RewardLearner
from steersman.train.sft import SftLearner
from steersman.train.unpaired import UnpairedLearner, mismatched

Say = Callable[[str], None]
"""Called with one line about what is being done."""


class Bench:
    """The pieces of one job on the table: model, data, and where things are kept; builds the learner from them."""

    def __init__(
        self,
        recipe: Recipe,
        runtime: Runtime,
        run: RunDir,
        model: Any,
        tokenizer: Any,
        data: Data,
        device: torch.device,
        say: Say,
    ) -> None:
        self.recipe, self.runtime, self.run = recipe, runtime, run
        self.model, self.tokenizer, self.data, self.device, self.say = model, tokenizer, data, device, say
        self.flips: dict[str, Any] | None = None

    def _optimiser(self, optim: AdamW, budget: Budget) -> Optimiser:
        return Optimiser(self.model.named_parameters(), optim, budget.total(len(self.data.train.data)))

    def learner(self) -> Learner:
        """The learner of the recipe's verb, at its starting point."""
        recipe, data, micro = self.recipe, self.data, self.runtime.micro_tokens
        train = data.train.data.to(self.device)
        held_out = data.held_out.data.to(self.device) if data.held_out else None
        if isinstance(recipe, SftRecipe):
            if recipe.loss.prompt:
                train = _learn_prompt(train)
            optimiser = self._optimiser(recipe.optim, recipe.budget)
            return SftLearner(self.model, train, optimiser, micro, reduce=recipe.loss.reduce, held_out=held_out)
        if isinstance(recipe, RewardRecipe):
            margin = data.train.column("margin", 0.0).to(self.device)
            rates = self._flip_rates()
            optimiser = self._optimiser(recipe.optim, recipe.budget)
            return RewardLearner(self.model, train, recipe.loss, optimiser, micro, held_out, margin, rates)
        if isinstance(recipe.loss, KTO):
            return self._unpaired(recipe, recipe.loss, train, held_out)
        return self._preference(recipe, train, held_out)

    def _flip_rates(self) -> Tensor | None:
        """The flip rates that the training pairs carry, if they do."""
        rates = flip_rates(self.data.train, self.recipe.data.train)
        if rates is None:
            return None
        self.say(f"flip rates: one for each pair, mean {float(rates.mean()):.3f}")
        return rates.to(self.device)

    def _preference(self, recipe: PreferenceRecipe, train: Pairs, held_out: Pairs | None) -> PreferenceLearner:
        reference = self._reference({"first": train.first, "second": train.second}, "train", recipe.logp)
        sides = {"first": held_out.first, "second": held_out.second} if held_out else {}
        held_reference = self._reference(sides, "held_out", recipe.logp) if held_out else None
        flip_rate = self._flip_rates()
        known: Any = {"logp": recipe.logp, "held_out": held_out, "flip_rate": flip_rate}
        known["held_out_reference"] = (held_reference["first"], held_reference["second"]) if held_reference else None

        def build(loss: Any) -> PreferenceLearner:
            optimiser = self._optimiser(recipe.optim, recipe.budget)
            both = reference["first"], reference["second"]
            return PreferenceLearner(self.model, train, both, loss, optimiser, self.runtime.micro_tokens, **known)

        loss: Any = recipe.loss
        if getattr(loss, "flip_rate", None) == "auto" and flip_rate is not None:
            loss = loss.with_flip_rate(float(flip_rate.mean()))  # for held-out pairs, which carry none
        elif getattr(loss, "flip_rate", None) == "auto":
            loss, self.flips = settle_flip_rate(self.model, loss, build, recipe.budget, self.run, self.say)
        return build(loss)

    def _unpaired(self, recipe: PreferenceRecipe, loss: KTO, train: Any, held_out: Any) -> UnpairedLearner:
        liked = self.data.train.column("desirable").bool().to(self.device)
        other = mismatched(self.data.train.data, context_length(self.model.config)).to(self.device)
        reference = self._reference({"rows": train, "other": other}, "train", "sum")
        watched = None
        if held_out is not None and self.data.held_out is not None:
            judged = self.data.held_out.column("desirable").bool().to(self.device)
            watched = held_out, judged, self._reference({"rows": held_out}, "held_out", "sum")["rows"]
        optimiser = self._optimiser(recipe.optim, recipe.budget)
        micro = self.runtime.micro_tokens
        scored = reference["rows"], other, reference["other"]
        return UnpairedLearner(self.model, train, liked, *scored, loss, optimiser, micro, watched)

    def _reference(self, sides: Mapping[str, Any], name: str, logp: Any) -> dict[str, Tensor]:
        """Reference log-probs of `sides`, computed once and kept with the run."""
        root = self.run.path / "reference" / name
        if (known := latest_checkpoint(root)) is not None:
            try:
                return {k: x.to(self.device) for k, x in load_checkpoint(known)[1].items()}
            except CorruptFile as error:
                self.say(f"{error.where}: {error.what}; computed again")
        self.say(f"reference log-probs of {sum(len(s) for s in sides.values())} responses")
        spec = self.recipe.model
        reference = self.model
        if spec.reference is not None:
            reference = load_model(spec.reference, device=self.device)
            set_precision(reference, spec.precision)
        found = {k: summed_logp(reference, s, self.runtime.micro_tokens, logp) for k, s in sides.items()}
        save_checkpoint(root, 0, found)
        return found


def _learn_prompt(data: Rollouts) -> Rollouts:
    """Every token but a row's first becomes an action; the first has nothing that predicts it."""
    position = torch.arange(data.ids.shape[1], device=data.ids.device)
    action = (position >= 1) & (position < data.length[:, None])
    return replace(data, prompt_length=torch.ones_like(data.prompt_length), action=action)
