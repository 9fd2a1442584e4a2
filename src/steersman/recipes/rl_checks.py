"""What in an rl recipe cannot work together, found from the recipe alone, before any file is read.

What would do nothing or something else than meant is refused; what works but is seldom meant gives a warning line.
Leaves out: folders and files (`recipes.rl_job`), prompts that are too long (`task.worlds`), steps (`train.rl` checks
the same streams once more).
"""

from collections.abc import Sequence
from typing import Any

from steersman.core.component import Stage
from steersman.core.errors import UserError
from steersman.language.layers import count_layers, layer_index
from steersman.objective.advantage.poise import InternalValue
from steersman.objective.components_advantage import (
    GAE,
    GRPO,
    OPO,
    RLOO,
    Baseline,
    PassK,
    ReinforcePP,
    ReinforcePPBaseline,
)
from steersman.objective.components_d3s import PODS
from steersman.objective.components_filtration import PFPPO
from steersman.objective.components_policy import GSPO, ImportanceCorrection, Reinforce
from steersman.objective.components_reward import KLReward, Overlong, ShapeReward
from steersman.objective.components_tip import SelectTokens
from steersman.objective.components_weight import RewardWeight
from steersman.objective.select.groups import DynamicSampling
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_parts import copied_every, gives, needs_critic, terms_of
from steersman.recipes.rl_tasks import ChainSumPrompts, ModelReward, OwnTask, PlantedPrompts, TinyCodePrompts
from steersman.recipes.teachers import Distill, SelfTeacher
from steersman.train.passes import check_parts

_COMPARES = (GRPO, RLOO, OPO, PassK, ReinforcePPBaseline)
"""Advantages that compare the responses of a group."""
_ALONE = "compares the responses of a prompt, and there is one: every advantage is 0"
_ADD = (ShapeReward, Overlong, KLReward)
"""Stages that write ``token_reward`` onto what the one before wrote."""
_READ_REWARD = (*_ADD, *_COMPARES, Baseline, GAE, ReinforcePP, InternalValue, RewardWeight)
"""Stages that take ``token_reward`` where a stage before them gave it, and the raw reward where none did."""
_BY_OUTCOME = (DynamicSampling, PODS, PFPPO)
"""Stages that drop responses by what they and their siblings earned."""


def check_method(recipe: RLRecipe) -> list[str]:
    """Refuse a recipe whose parts cannot work together; gives lines about what is odd.

    Raises:
        UserError: names the stage, term or key, the stream or field it lacks, who gives it, and the cure.
    """
    if isinstance(recipe.task, ChainSumPrompts | PlantedPrompts) and recipe.reward is not None:
        raise UserError(f"{recipe.task.kind} grades itself", where="reward", cure="Leave the table out.")
    if isinstance(recipe.task, TinyCodePrompts) and not isinstance(recipe.reward, ModelReward | None):
        cure = "Leave the table out, or let a reward model pay; for where programs run, see task.sandbox."
        raise UserError("tiny_code grades itself by its tests", where="reward", cure=cure)
    _check_critic(recipe)
    _check_graded(recipe)
    if not isinstance(recipe.loss, Distill):
        _check_advantage(recipe)
    critic, copied = recipe.critic is not None, copied_every(recipe) is not None
    teacher = copied or recipe.teacher is not None
    check_parts(recipe.stages, terms_of(recipe), gives(recipe), critic, teacher=teacher)
    _check_siblings(recipe)
    _check_asked(recipe)
    ignored = _check_ignored(recipe)
    _check_sampler(recipe)
    _check_losses(recipe)
    _check_sizes(recipe)
    return ignored + _warnings(recipe)


def check_phases(recipe: RLRecipe, total: int) -> None:
    """Refuse phases that train what is not there, or that leave no step for what comes after them.

    Raises:
        UserError: says which.
    """
    for i, phase in enumerate(recipe.budget.phases):
        if "critic" in phase.trains and recipe.critic is None:
            cure = "Add the table [critic], or leave the phase out."
            raise UserError("trains a critic, and there is none", where=f"budget.phases.{i}", cure=cure)
    first = sum(p.steps for p in recipe.budget.phases)
    if recipe.budget.phases and first >= total:
        what = f"last {first} steps of {total}, so that nothing is left in which everything is trained"
        raise UserError(what, where="budget.phases", cure="Raise --steps, or shorten them.")


def check_layers(recipe: RLRecipe, config: Any) -> None:
    """Refuse a pass over a hidden layer that the policy does not have.

    Raises:
        UserError: names the stage and the layers there are.
    """
    for i, stage in enumerate(recipe.stages):
        for layer in (p.layer for p in stage.passes() if p.layer is not None):
            try:
                layer_index(layer, count_layers(config))
            except UserError as error:
                raise UserError(error.what, where=f"stages[{i}].layer", allowed=error.allowed) from None


def _check_critic(recipe: RLRecipe) -> None:
    readers = [i for i, s in enumerate(recipe.stages) if needs_critic(s)]
    if readers and recipe.critic is None:
        name = _name(recipe.stages[readers[0]])
        cure = "Add the table [critic], or take an advantage without one, e.g. grpo, rloo, reinforce_pp."
        what = f"{name} needs 'value', which only a critic gives, and there is none"
        raise UserError(what, where=f"stages[{readers[0]}]", cure=cure)
    if recipe.critic is not None and not any("returns" in s.gives for s in recipe.stages):
        cure = 'Use the stage "gae", or leave the table [critic] out.'
        raise UserError("is fitted to 'returns', which no stage gives", where="critic", cure=cure)


def _check_graded(recipe: RLRecipe) -> None:
    if recipe.reward is not None or isinstance(recipe.task, OwnTask):
        return
    for i, stage in enumerate(recipe.stages):
        if isinstance(stage, (*_READ_REWARD, DynamicSampling)):
            what = f"{_name(stage)} reads the reward, and nothing grades the responses"
            raise UserError(what, where=f"stages[{i}]", cure="Add the table [reward].")


def _check_siblings(recipe: RLRecipe) -> None:
    fields = recipe.teacher.fields if isinstance(recipe.teacher, SelfTeacher) else ()
    if not fields:
        return
    where = "loss.teacher.tell"
    if missing := [f for f in fields if f not in gives(recipe)]:
        said = missing[0] == "feedback"
        what = f"tells {'what the grader said' if said else 'correct responses'}, and nothing gives {missing[0]!r}"
        where = "loss.teacher.feedback" if said else where
        raise UserError(what, where=where, cure="Add the table [reward] with a grader that does.")
    if recipe.rollout.samples == 1 and "correct" in fields:
        raise UserError("tells another response to the prompt, and there is one", where=where,
                        cure="Raise rollout.samples.")  # fmt: skip


def _check_asked(recipe: RLRecipe) -> None:
    """A stage that asks the loss's teacher itself means another model: the policy's own versions are told things."""
    if not isinstance(recipe.teacher, SelfTeacher):
        return
    for i, stage in enumerate(recipe.stages):
        asked = [p.stream for p in stage.passes() if p.by == "teacher"]
        if asked:
            what = f"{_name(stage)} reads {asked[0]!r}, which it asks of a teacher that is another model or a function"
            raise UserError(what, where=f"stages[{i}]", cure="Set gamma = 0, or give such a teacher.")


def _check_advantage(recipe: RLRecipe) -> None:
    given = {n for s in recipe.stages for n in s.gives}
    if "advantage" in given:
        return
    if "advantage_row" in given:
        what = f"the policy loss {_name(recipe.loss)} needs 'advantage', one a token; the stages give one a response"
        cure = 'Add "uniform" behind them: every token gets its response\'s.'
    else:
        what = f"the policy loss {_name(recipe.loss)} needs 'advantage', which no stage gives"
        cure = 'Add an advantage stage, e.g. stages = ["grpo", "uniform"] or ["reinforce_pp"].'
    raise UserError(what, where="stages", cure=cure)


def _check_ignored(recipe: RLRecipe) -> list[str]:
    """Refuse a stage of which nothing behind it, stage or loss, reads what it gives.

    Read backwards: a stream is wanted if a loss reads it or a later stage does, up to the stage that writes it anew.
    Stages that give nothing drop rows, and stages that need what they give change it, so both pass. What a user's own
    stage reads beside its `needs` is not known, so where one is concerned this is a warning line, which is given back.
    """
    wanted = {n for t in terms_of(recipe) for n in t.needs} | {"token_weight"}
    lines: list[str] = []
    for i in reversed(range(len(recipe.stages))):
        stage, later = recipe.stages[i], recipe.stages[i + 1 :]
        given = set(stage.gives)
        if given and not given & wanted:
            what = f"{_name(stage)} gives {_quoted(stage.gives)}, which {_why_ignored(given, later)}"
            if not any(":" in _name(s) for s in (stage, *later)):
                raise UserError(what, where=f"stages[{i}]", cure=_cure(stage, later))
            lines.append(f"warning: stages[{i}]: {what}")
        wanted -= given - _added(stage)
        wanted |= {*stage.needs} | (
            {"token_reward"} if isinstance(stage, _READ_REWARD) or ":" in _name(stage) else set()
        )
    return lines


def _added(stage: Stage) -> set[str]:
    """Streams that a stage adds to, so that what was there before still counts."""
    return {"token_weight"} | ({"token_reward"} if isinstance(stage, _ADD) else set())


def _why_ignored(given: set[str], later: Sequence[Stage]) -> str:
    again = next((s for s in later if given & set(s.gives)), None)
    return f"{_name(again)} behind it replaces without reading it" if again is not None else "nothing behind it reads"


def _cure(stage: Stage, later: Sequence[Stage]) -> str:
    if isinstance(stage, _ADD):
        return "Put it before the stage that gives the advantage."
    return "Keep one of the two." if any(set(stage.gives) & set(s.gives) for s in later) else "Leave it out."


def _quoted(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))


def _check_sampler(recipe: RLRecipe) -> None:
    rollout = recipe.rollout
    if rollout.temperature == 0:
        what = "is 0: every response of a prompt would be the same, and there is nothing to learn from"
        raise UserError(
            what,
            where="rollout.temperature",
            allowed="above 0",
            cure="For greedy evaluation set evaluation.temperature = 0.",
        )
    if rollout.sampling.trainable or any(isinstance(s, ImportanceCorrection) for s in recipe.stages):
        return
    name = next(k for k in ("top_k", "top_p", "min_p") if getattr(rollout, k) is not None)
    what = "removes tokens, so that responses are not drawn from the policy that is trained"
    cure = 'Leave it out, or add the stage "importance", which corrects for the sampler.'
    raise UserError(what, where=f"rollout.{name}", cure=cure)


def _check_losses(recipe: RLRecipe) -> None:
    if recipe.kl is not None and any(isinstance(s, KLReward) for s in recipe.stages):
        what = "puts a KL penalty in the loss, and the stage kl_reward puts one in the reward"
        raise UserError(what, where="kl", cure="Keep one of them.")
    drawn = any(isinstance(s, SelectTokens) and s.unbiased for s in recipe.stages)
    if drawn and recipe.aggregate.mode != "token_mean":
        what = f"is {recipe.aggregate.mode}; unbiased draws estimate the mean over the tokens of a step"
        raise UserError(what, where="aggregate.mode", cure='Set aggregate.mode = "token_mean", or unbiased = false.')
    if isinstance(recipe.loss, GSPO) and recipe.aggregate.mode != "seq_mean_token_mean":
        what = f"is {recipe.aggregate.mode}; gspo's ratio is that of a whole response, so its mean comes first"
        cure = 'Set aggregate.mode = "seq_mean_token_mean".'
        raise UserError(what, where="aggregate.mode", cure=cure)


def _check_sizes(recipe: RLRecipe) -> None:
    rollout = recipe.rollout
    rows = recipe.budget.batch * rollout.samples
    if rollout.minibatches > rows:
        what = f"is {rollout.minibatches}, but a batch has {recipe.budget.batch} x {rollout.samples} = {rows} responses"
        raise UserError(what, where="rollout.minibatches", allowed=f"up to {rows}")
    for i, stage in enumerate(recipe.stages):
        if isinstance(stage, DynamicSampling) and rollout.samples == 1:
            what = "keeps groups with right and wrong answers, and a group of one response has only one of them"
            raise UserError(what, where=f"stages[{i}]", cure="Raise rollout.samples.")
        if isinstance(stage, _COMPARES) and rollout.samples == 1 and not _own_behind(recipe, i):
            what = f"{_name(stage)} {_ALONE}"
            cure = "Raise rollout.samples, or take an advantage without a group: baseline, reinforce_pp, or gae."
            raise UserError(what, where=f"stages[{i}]", cure=cure)
        if isinstance(stage, InternalValue) and rollout.samples == 1 and not stage.prompt_only:
            what = "pairs the responses of a prompt, and there is one"
            cure = 'Set rollout.samples = 2, or read the prompt alone: features = ["prompt"].'
            raise UserError(what, where=f"stages[{i}]", cure=cure)
        if isinstance(stage, Overlong) and stage.limit - stage.cache >= rollout.max_new_tokens:
            begins = stage.limit - stage.cache
            what = f"begins to punish at {begins} tokens, and responses have at most {rollout.max_new_tokens}"
            raise UserError(what, where=f"stages[{i}]", cure="Leave limit and cache out; they then follow it.")


def _own_behind(recipe: RLRecipe, place: int) -> bool:
    """Whether a user's own stage stands behind, which may make an advantage of anything."""
    return any(":" in _name(s) for s in recipe.stages[place + 1 :])


def _warnings(recipe: RLRecipe) -> list[str]:
    rollout, lines = recipe.rollout, []
    compares = [s for s in recipe.stages if isinstance(s, _COMPARES)]
    if rollout.samples == 1 and compares:  # only with a stage of the user's own behind it
        lines.append(f"{_name(compares[0])} {_ALONE}")
    if isinstance(recipe.loss, Reinforce) and rollout.updates > 1:
        lines.append(
            f"reinforce has no ratio: {rollout.updates - 1} of the {rollout.updates} updates of a batch are "
            "off-policy and not corrected"
        )
    if recipe.budget.steps is not None and recipe.budget.steps < rollout.updates:
        lines.append(
            f"budget.steps counts updates, and a batch of responses serves {rollout.updates}: {recipe.budget.steps} "
            "of them end within the first batch"
        )
    for i, stage in enumerate(recipe.stages):
        filters = [s for s in recipe.stages[:i] if isinstance(s, _BY_OUTCOME)]
        if isinstance(stage, InternalValue) and filters:
            lines.append(
                f"{_name(filters[0])} drops responses by outcome before internal_value, which then learns from a "
                "selection, and its baselines are no longer independent of the responses they are for"
            )
        if isinstance(stage, Overlong) and stage.limit != rollout.max_new_tokens:
            lines.append(f"overlong punishes up to {stage.limit} tokens, but responses end at {rollout.max_new_tokens}")
    return [f"warning: {line}" for line in lines]


def _name(component: Any) -> str:
    return str(getattr(component, "kind", type(component).__name__))
