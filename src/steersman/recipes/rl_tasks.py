"""What `steersman train rl` can be asked to learn: where prompts come from and what grades the responses.

Leaves out: reading, encoding and grading (`task`, `reward`), the recipe around them (`recipes.rl`).
"""

from typing import Annotated, Literal

from pydantic import Field

from steersman.core.component import Component
from steersman.reward.code import CodeReward
from steersman.reward.verifiable import RewardFunction, Verifiable
from steersman.task.chain_sum import ChainSum
from steersman.task.planted import Planted
from steersman.task.prompts import ReasoningGymTask
from steersman.task.tiny_code import TinyCode
from steersman.task.tiny_code_functions import Purpose

HELD_OUT = 256
"""Held-out prompts of tasks that make their own."""


class QuestionFiles(Component):
    """Prompts of the user's own."""

    kind: Literal["questions"] = "questions"
    train: str = Field(description="JSONL file of prompt and answer")
    evaluation: str | None = Field(None, description="JSONL file of held-out prompts")
    chat: bool = Field(False, description="a text prompt is a user's turn for the chat template")


class GymQuestions(ReasoningGymTask):
    """A generator of reasoning-gym, graded by its own scorer unless a reward says otherwise."""

    chat: bool = Field(False, description="a prompt is a user's turn for the chat template")
    evaluation: int = Field(HELD_OUT, ge=0, description="number of held-out prompts")
    evaluation_seed: int | None = Field(None, ge=0, le=400, description="their seed; absent = seed + 1")

    def held_out(self) -> ReasoningGymTask:
        """The same generator with the seed and size of evaluation."""
        after = self.seed + 1 if self.seed < 400 else self.seed - 1
        seed = after if self.evaluation_seed is None else self.evaluation_seed
        return ReasoningGymTask(name=self.name, config=self.config, size=self.evaluation, seed=seed)


class ChainSumPrompts(ChainSum):
    """The running-sum testbed; its grader is its own, and the policy's tokens are its token table."""

    evaluation: int = Field(HELD_OUT, ge=0, description="number of held-out prompts")


class TinyCodePrompts(TinyCode):
    """Programs from examples of what they do; the policy's tokens are the language's, and tests grade them."""

    purpose: Purpose = Field("rl", description="whose functions training asks for")
    evaluation: int = Field(HELD_OUT, ge=0, description="number of held-out prompts")
    evaluation_purpose: Purpose = Field("validation", description="whose functions they ask for")
    sandbox: Literal["none", "monty", "subprocess"] = Field(
        "none", description="where programs run; none = the language's own evaluator, with the same grades"
    )


class PlantedPrompts(Planted):
    """The planted-quadrant testbed of distillation; its grader is its own, and the policy's tokens are its table."""

    evaluation: int = Field(HELD_OUT, ge=0, description="number of held-out prompts")


OwnTask = ChainSumPrompts | TinyCodePrompts | PlantedPrompts
"""Tasks that make and grade their prompts themselves."""
Task = Annotated[
    QuestionFiles | GymQuestions | ChainSumPrompts | TinyCodePrompts | PlantedPrompts, Field(discriminator="kind")
]
"""Every source of prompts that a recipe can name by ``kind``."""


class ModelReward(Component):
    """A reward model as the grader; it reads the policy's token ids."""

    kind: Literal["model"] = "model"
    path: str = Field(description="folder of a reward model with the policy's vocabulary")
    normalise: bool = Field(True, description="subtract the mean and divide by the spread stored with it")


AnyReward = Annotated[Verifiable | RewardFunction | CodeReward | ModelReward, Field(discriminator="kind")]
"""Every grader that a recipe can name by ``kind``."""
