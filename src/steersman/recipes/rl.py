"""The recipe of `steersman train rl`: task, reward, sampler, stages, loss and aggregation as tables of their own.

Shorthands are written out before anything is validated (`RLRecipe.prepare`): ``preset = "dapo"`` lies under what the
file says, a stage may be its bare name, and lengths and rates that belong together follow each other. So a resolved
recipe is complete, and equal to the one that spells everything out.
Leaves out: the presets (`recipes.presets`), what cannot work together (`recipes.rl_checks`), doing it
(`recipes.rl_job`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, WrapValidator, model_validator

from steersman.core.component import Component, Stage
from steersman.core.config import Source
from steersman.language.encode import Truncation
from steersman.language.sampler import Sampling
from steersman.objective.components import Aggregation
from steersman.objective.components_advantage import GRPO, UniformCredit
from steersman.objective.components_policy import CISPO, GSPO, SAPO, Clipped, ClippedValue, KLLoss, Reinforce
from steersman.objective.stages import AnyStage
from steersman.recipes.presets import lay_under
from steersman.recipes.rl_tasks import AnyReward, Task
from steersman.recipes.teachers import AnyTeacher, Distill
from steersman.recipes.training import AnyRecipe, KeepsDefaults, or_component
from steersman.task.chain_sum import HASH, ChainSum
from steersman.task.planted import Planted
from steersman.task.tiny_code import TinyCode
from steersman.train.engine.work import MOST_SAMPLES
from steersman.train.loop import Budget
from steersman.train.optimise import AdamW

CRITIC_RATE = 10.0
"""The critic's learning rate is this times the policy's, unless it has one of its own."""
CACHE_SHARE = 5
"""DAPO punishes the last fifth of the allowed length (4,096 of 20,480 tokens)."""
CHAIN_SUM_HINT = {"place": "after_prompt", "text": "?{answer}="}
"""How examples of chain_sum show an answer."""
_KNOW_LONGEST: dict[str, type[ChainSum] | type[TinyCode] | type[Planted]] = {
    "chain_sum": ChainSum,
    "tiny_code": TinyCode,
    "planted": Planted,
}


class Rollout(Component):
    """How responses are drawn, and how many optimiser steps a batch of them serves."""

    samples: int = Field(8, ge=1, le=MOST_SAMPLES, description="responses of each prompt: a group")
    max_new_tokens: int = Field(256, ge=1, description="most tokens of a response")
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False, description="divides the logits, in every pass")
    top_k: int | None = Field(None, ge=1, description="keep the k likeliest tokens; needs the stage importance")
    top_p: float | None = Field(None, gt=0, le=1, description="keep the likeliest tokens of this mass; likewise")
    min_p: float | None = Field(None, ge=0, le=1, description="keep tokens of this share of the likeliest; likewise")
    stop_strings: tuple[Annotated[str, Field(min_length=1)], ...] = Field((), description="texts that end a response")
    minibatches: int = Field(1, ge=1, description="parts of a batch, an optimiser step each")
    epochs: int = Field(1, ge=1, description="passes over a batch")
    old: Literal["recompute", "sampler"] = Field(
        "recompute", description="logp_old of a batch that serves several steps: the trainer's, or the sampler's own"
    )
    gap_limit: float | None = Field(
        None, gt=0, description="nats by which sampler and trainer may differ; absent = 1e-4 in float32, else no limit"
    )

    @property
    def sampling(self) -> Sampling:
        """Temperature and filters."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)

    @property
    def updates(self) -> int:
        """Optimiser steps that a batch serves."""
        return self.minibatches * self.epochs


class Critic(KeepsDefaults):
    """A value function of tokens, for GAE; a reward model's architecture, trained beside the policy."""

    path: str | None = Field(None, description="folder of a language or reward model; absent = the policy's")
    clip: float = Field(0.2, ge=0, allow_inf_nan=False, description="bound on a value's move, in rewards; 0 = off")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="of its loss")
    optim: AdamW = AdamW(lr=1e-5)

    @property
    def loss(self) -> ClippedValue:
        """The critic's loss."""
        return ClippedValue(clip=self.clip or None)


class Phase(Component):
    """The next `steps` optimiser steps, in which only some models move."""

    steps: int = Field(ge=1, description="optimiser steps")
    trains: tuple[Literal["policy", "critic"], ...] = Field(min_length=1, description="what moves in them")


class RLBudget(Budget):
    """How long a run lasts; afterwards of all phases everything is trained."""

    epochs: float = Field(1.0, gt=0, le=1e9, description="passes over the prompts; ignored where steps is given")
    batch: int = Field(32, ge=1, description="prompts of one batch of responses")
    phases: tuple[Phase, ...] = Field((), description="what is trained at first")


class Auxiliary(Component):
    """A second stream of data in every step: the negative log-likelihood of given completions."""

    data: str = Field(description="JSONL file of prompts and completions")
    weight: float = Field(0.1, gt=0, allow_inf_nan=False, description="of its loss, a mean over its tokens")
    batch: int = Field(16, ge=1, description="rows of a step")
    truncation: Truncation = Field(Truncation(), description="what happens to rows longer than the context")


class Evaluation(Component):
    """How held-out prompts are answered."""

    prompts: int | None = Field(None, ge=1, description="the first so many; absent = all")
    samples: int = Field(1, ge=1, le=MOST_SAMPLES, description="responses of each, for pass@k")
    temperature: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="absent = as in training; 0 = greedy"
    )


def _or_stage(value: Any, handler: Any) -> Any:
    """A user's own stage was validated when it was imported; everything else is one of ours."""
    if isinstance(value, Component) and not isinstance(value, Stage):
        raise ValueError(f"{type(value).__name__} is no stage; derive it from steersman.core.component.Stage")
    return value if isinstance(value, Stage) else handler(value)


NamedStage = Annotated[AnyStage, WrapValidator(_or_stage)]
"""A stage of ours, or one of the user's own (``kind = "package.module:Class"``)."""
AnyLoss = Annotated[Reinforce | Clipped | GSPO | CISPO | SAPO | Distill, Field(discriminator="kind")]
NamedLoss = Annotated[AnyLoss, WrapValidator(or_component)]
"""A loss of ours, or one of the user's own."""


class RLRecipe(AnyRecipe):
    """Reinforcement learning of a language policy; without a preset GRPO's advantage, DAPO's clip, no KL."""

    paths = (
        *AnyRecipe.paths, "task.train", "task.evaluation", "reward.path", "critic.path", "auxiliary.data",
        "loss.teacher.path",
    )  # fmt: skip
    verb: Literal["rl"] = "rl"
    task: Task = Field(description="prompts and held-out prompts")
    reward: AnyReward | None = Field(None, description="grader; absent = the task's own")
    rollout: Rollout = Rollout()
    stages: tuple[NamedStage, ...] = Field(
        (GRPO(), UniformCredit()), description="what happens to a batch, in this order"
    )
    loss: NamedLoss = Clipped()
    aggregate: Aggregation = Aggregation()
    kl: KLLoss | None = Field(None, description="penalty in the loss; absent = none")
    critic: Critic | None = Field(None, description="absent = none")
    auxiliary: Auxiliary | None = Field(None, description="a second stream of data; absent = none")
    evaluation: Evaluation = Evaluation()
    optim: AdamW = AdamW(lr=1e-6)
    budget: RLBudget = RLBudget()

    @property
    def teacher(self) -> AnyTeacher | None:
        """Whom the policy learns from; None = nobody."""
        return self.loss.teacher if isinstance(self.loss, Distill) else None

    @classmethod
    def prepare(cls, source: Source) -> Source:
        """The source with its preset, its stages and what follows from other keys written out; twice is once.

        Raises:
            UserError: a preset that does not exist.
        """
        values = lay_under(source, cls.model_fields)
        kind = _name_kinds(values)
        cls._defaults(kind, values)
        _name_reward(kind, values)
        _follow(values)
        return Source(values, source.places, source.name)

    @classmethod
    def _defaults(cls, kind: str, values: dict[str, Any]) -> None:
        """Questions are graded."""
        if kind in ("questions", "reasoning_gym"):
            values.setdefault("reward", {})

    @model_validator(mode="before")
    @classmethod
    def _prepared(cls, values: Any) -> Any:
        return cls.prepare(Source(values, {}, "the recipe")).values if isinstance(values, dict) else values


def _name_kinds(values: dict[str, Any]) -> str:
    """Bare names of stages become tables; a task without a kind is questions.

    Returns:
        The task's kind.
    """
    if isinstance(stages := values.get("stages"), list | tuple):
        values["stages"] = [{"kind": s} if isinstance(s, str) else s for s in stages]
    task = values.get("task")
    return str(task.setdefault("kind", "questions")) if isinstance(task, dict) else ""


def _name_reward(kind: str, values: dict[str, Any]) -> None:
    """A reward without a kind is verifiable; items of a generator are compared by their own scorer unless another
    comparison is named."""
    if isinstance(reward := values.get("reward"), dict):
        graded = reward.setdefault("kind", "verifiable")
        if (kind, graded) == ("reasoning_gym", "verifiable"):
            reward.setdefault("compare", {"kind": "reasoning_gym"})


def _follow(values: dict[str, Any]) -> None:
    """Fill in what depends on another key and was not said: lengths on the longest response, the critic's rate, what a
    selection's denominator is of, where an answer is told and where the reasoning ends on the task."""
    most, mode = _longest(values), _inside(values, "aggregate", "mode", None)
    for stage in values.get("stages") or ():
        if isinstance(stage, dict) and stage.get("kind") in ("d3s_rows", "d3s_tokens") and mode is not None:
            stage.setdefault("aggregate", mode)
        if isinstance(stage, dict) and stage.get("kind") == "overlong":
            limit = stage.setdefault("limit", most)
            if isinstance(limit, int):
                stage.setdefault("cache", max(limit // CACHE_SHARE, 1))
        if isinstance(stage, dict) and stage.get("kind") == "contrastive_credit":
            stage.setdefault("hint", _hint(values.get("task")))
        if isinstance(stage, dict) and stage.get("kind") == "internal_value" and _kind(values) == "chain_sum":
            stage.setdefault("reasoning_end", [HASH])
    loss = values.get("loss")
    teacher = loss.get("teacher") if isinstance(loss, dict) else None
    if isinstance(teacher, dict) and teacher.setdefault("kind", "model") == "self":
        teacher.setdefault("hint", _hint(values.get("task")))
    aggregate = values.get("aggregate")
    if isinstance(aggregate, dict) and aggregate.get("mode") == "seq_sum_const":
        aggregate.setdefault("constant", most)
    critic = values.get("critic")
    if isinstance(critic, dict) and isinstance(critic.setdefault("optim", {}), dict):
        rate = _inside(values, "optim", "lr", RLRecipe.model_fields["optim"].default.lr)
        if isinstance(rate, int | float):
            critic["optim"].setdefault("lr", float(f"{CRITIC_RATE * rate:.12g}"))  # 1e-5, not 9.999999999999999e-06


def _kind(values: Mapping[str, Any]) -> Any:
    return _inside(values, "task", "kind", "")


def _hint(task: Any) -> dict[str, str]:
    """Where an answer is told: as the task's own examples do, in the user's turn of a chat, or behind the prompt."""
    known = task if isinstance(task, Mapping) else {}
    if known.get("kind") == "chain_sum":
        return dict(CHAIN_SUM_HINT)
    return {"place": "in_user_turn" if known.get("chat") is True else "after_prompt"}


def _longest(values: dict[str, Any]) -> Any:
    """`rollout.max_new_tokens`; where a task knows its longest response, that one is written down."""
    task = values.get("task")
    own = _KNOW_LONGEST.get(str(task.get("kind"))) if isinstance(task, dict) else None
    if own is not None and isinstance(task, dict) and isinstance(values.setdefault("rollout", {}), dict):
        try:
            known = {k: v for k, v in task.items() if k in own.model_fields}
            values["rollout"].setdefault("max_new_tokens", own.model_validate(known).max_response)
        except ValidationError:
            pass  # told when the task itself is validated
    return _inside(values, "rollout", "max_new_tokens", Rollout.model_fields["max_new_tokens"].default)


def _inside(values: Mapping[str, Any], table: str, key: str, default: Any) -> Any:
    inside = values.get(table)
    if isinstance(inside, Mapping):
        return inside.get(key, default)
    return default if inside is None else getattr(inside, key, default)
