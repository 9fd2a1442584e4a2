"""From the tables of an rl recipe to the parts that the loop takes: terms, stages, how responses are drawn, lengths.

Leaves out: models, tokenizers and files (`recipes.rl_job`), what cannot work together (`recipes.rl_checks`).
"""

from typing import Any

from steersman.core.component import OWN_PASSES, Stage
from steersman.core.errors import UserError
from steersman.objective.components_credit import ContrastiveCredit
from steersman.objective.components_policy import KLLoss
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_tasks import ModelReward, OwnTask
from steersman.recipes.teachers import Distill
from steersman.reward.verifiable import Verifiable
from steersman.train.engine.work import Drawing
from steersman.train.evaluate import Evaluation
from steersman.train.passes import own_passes
from steersman.train.rl import GAP_LIMIT, Auxiliary, Phase, Settings
from steersman.train.terms import Term, kl_term, policy_term, value_term
from steersman.train.terms_distill import distill_term


def terms_of(recipe: RLRecipe) -> tuple[Term, ...]:
    """The objective: the policy's loss, its KL penalty, the critic's loss."""
    loss = recipe.loss
    if isinstance(loss, Distill):
        terms = [distill_term(loss.against, recipe.aggregate, ratio_cap=loss.ratio_cap)]
    else:
        terms = [policy_term(loss, recipe.aggregate)]
    if recipe.kl is not None:
        terms.append(kl_term(recipe.kl, recipe.aggregate))
    if recipe.critic is not None:
        terms.append(value_term(recipe.critic.loss, recipe.critic.weight))
    return tuple(terms)


def stages_of(recipe: RLRecipe) -> tuple[Stage, ...]:
    """Fresh copies of the stages, since some remember things between steps."""
    return tuple(stage.model_copy() for stage in recipe.stages)


def gives(recipe: RLRecipe) -> tuple[str, ...]:
    """Optional fields of the rollouts that grading will fill, as the task's world says when it is made."""
    if isinstance(recipe.task, OwnTask):
        return ("correct", "answer")
    if isinstance(recipe.reward, ModelReward | None):
        return ()
    return ("correct", "feedback", *(("answer",) if isinstance(recipe.reward, Verifiable) else ()))


def needs_reference(recipe: RLRecipe) -> bool:
    """Whether a term or a stage asks what the reference says."""
    wanted = {n for s in recipe.stages for n in s.needs}
    asked: list[str] = [p.by for s in recipe.stages for p in s.passes()]
    asked += [t.against.by for t in terms_of(recipe) if t.against is not None]
    return isinstance(recipe.kl, KLLoss) or "logp_ref" in wanted or "reference" in asked


def copied_every(recipe: RLRecipe) -> int | None:
    """Optimiser steps after which the copy of the policy is taken anew that stages ask; None = no stage asks one.

    Raises:
        UserError: two stages differ; a teacher of the loss stands in the copy's place.
    """
    found = {s.sync: i for i, s in enumerate(recipe.stages) if isinstance(s, ContrastiveCredit) and s.sync}
    if not found:
        return None
    where = f"stages[{next(iter(found.values()))}].teacher"
    if len(found) > 1:
        raise UserError(
            f"copies are taken every {' and '.join(map(str, found))} steps", where=where, allowed="one sync"
        )
    if recipe.teacher is not None:
        what = "is a copy of the policy, and the loss has a teacher: a run has one of the two"
        raise UserError(what, where=where, cure='Set the stage\'s teacher = "policy" or "reference".')
    return next(iter(found))


def needs_critic(stage: Stage) -> bool:
    """Whether a stage reads values."""
    own = any(OWN_PASSES[n].by == "critic" for n in stage.needs if n in OWN_PASSES)
    return own or any(p.by == "critic" for p in stage.passes())


def total_steps(recipe: RLRecipe, prompts: int | None) -> int:
    """Optimiser steps of the run.

    Args:
        recipe: with `budget.steps`, or `budget.epochs` passes over the prompts, each batch serving several steps.
        prompts: number of training prompts; None = they never run out.

    Raises:
        UserError: nothing says how long the run lasts.
    """
    budget = recipe.budget
    if budget.steps is not None:
        return budget.steps
    if prompts is None:
        cure = "Example: --steps 100"
        raise UserError("is missing, and the prompts of this task never run out", where="budget.steps", cure=cure)
    return budget.total(prompts) * recipe.rollout.updates


def gap_limit(recipe: RLRecipe) -> float | None:
    """Nats by which sampler and trainer may differ; no limit where they differ by design."""
    exact = recipe.model.precision == "float32" and recipe.rollout.sampling.trainable
    return recipe.rollout.gap_limit if recipe.rollout.gap_limit is not None else GAP_LIMIT if exact else None


def drawing_of(recipe: RLRecipe, stop_ids: tuple[int, ...], tokenizer: Any, batch_tokens: int) -> Drawing:
    """How responses are drawn."""
    rollout = recipe.rollout
    return Drawing(
        samples=rollout.samples,
        max_new_tokens=rollout.max_new_tokens,
        stop_ids=stop_ids,
        sampling=rollout.sampling,
        stop_strings=rollout.stop_strings,
        tokenizer=tokenizer,
        batch_tokens=batch_tokens,
    )


def settings_of(recipe: RLRecipe, drawing: Drawing, auxiliary: Auxiliary | None) -> Settings:
    """What defines a step."""
    rollout, own = recipe.rollout, recipe.evaluation
    heat = rollout.temperature if own.temperature is None else own.temperature
    far = own_passes(terms_of(recipe)).get("divergence")
    # What only training prompts may be told says nothing of the policy on held-out ones.
    passes = (far,) if far is not None and far.before is None else ()
    return Settings(
        prompts=recipe.budget.batch,
        drawing=drawing,
        minibatches=rollout.minibatches,
        epochs=rollout.epochs,
        old=rollout.old,
        gap_limit=gap_limit(recipe),
        phases=tuple(Phase(p.steps, frozenset(p.trains)) for p in recipe.budget.phases),
        auxiliary=auxiliary,
        evaluation=Evaluation(own.prompts, own.samples, heat, passes),
    )
