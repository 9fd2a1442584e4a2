"""The loss `distill` of a recipe: which teacher, and which divergence from it.

Leaves out: loading one (`recipes.teachers_load`), the loss (`train.terms_distill`), which tokens (stages).
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from steersman.core.component import Before, Component, Form
from steersman.objective.credit.demonstrate import ToldFeedback, ToldRight, ToldSibling
from steersman.objective.credit.hints import FeedbackHint
from steersman.train.terms import Against

RATE = 0.05
"""Of a teacher that follows the policy or is mixed with it, as SDPO has it."""


class ModelTeacher(Component):
    """Another model that reads the policy's tokens; it is never trained."""

    kind: Literal["model"] = "model"
    path: str = Field(description="folder of a language model, of a run, or of a checkpoint of a run")


class OwnTeacher(Component):
    """An analytic policy of the user's own: an object with `vocabulary` and `log_probs(ids, length)`, or its class."""

    kind: Literal["function"] = "function"
    object: str = Field(pattern=r"^[\w.]+:\w+$", description="package.module:name; needs --allow-import")


class TaskTeacher(Component):
    """The task's own teacher, where it has one that is known in closed form (planted)."""

    kind: Literal["task"] = "task"


class SelfTeacher(Component):
    """The policy itself, told something: self-distillation (OPSD, SDPO)."""

    kind: Literal["self"] = "self"
    version: Literal["start", "live", "average", "mixture"] = Field(
        "start",
        description="as it was before training, as it is, a moving average of its weights, or start and live mixed",
    )
    rate: float = Field(RATE, gt=0, le=1, description="of an average its step to the policy, of a mixture its part")
    every: int = Field(1, ge=1, description="optimiser steps between two moves of an average")
    tell: Literal["nothing", "answer", "sibling", "sibling_answer"] = Field(
        "answer", description="what it is told first: an answer, a correct response to the same prompt, or its answer"
    )
    reference: str = Field("answer", min_length=1, description="column of the prompt with the answer that is told")
    feedback: Literal["never", "otherwise", "always"] = Field(
        "never", description="what the grader said of a wrong response, told to it where nothing else is, or always"
    )
    hint: FeedbackHint = Field(FeedbackHint(), description="where and in which words it is told")
    behind: str = Field("", description="of a sibling only the text behind the last of these, e.g. an end of thinking")

    @model_validator(mode="after")
    def _differs(self) -> "SelfTeacher":
        if self.tell == "nothing" and self.feedback == "never" and self.version == "live":
            raise ValueError("version is live and tell is nothing: the policy is compared with itself")
        if self.version == "mixture" and self.rate == 1:
            raise ValueError('a mixture of which the policy is all is version = "live"; take a rate below 1')
        if self.every > 1 and self.version != "average":
            raise ValueError(f'every is read only where version is "average", and it is {self.version!r}')
        if self.feedback == "otherwise" and self.tell not in ("sibling", "sibling_answer"):
            what = "told always" if self.tell == "nothing" else "never told, since the answer is always there"
            raise ValueError(f'feedback = "otherwise" is {what} where tell is {self.tell!r}; say so')
        if self.behind and self.tell != "sibling":
            raise ValueError(f'behind is read only where tell is "sibling", and it is {self.tell!r}')
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a prompt that are shown."""
        return (self.reference,) if self.tell == "answer" else ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of graded responses that are read."""
        told = {"sibling": ("correct",), "sibling_answer": ("correct", "answer")}.get(self.tell, ())
        return told if self.feedback == "never" else (*told, "feedback")

    @property
    def before(self) -> Before | None:
        """What stands before each response; siblings and feedback are not there for every one."""
        told: ToldRight | ToldSibling | None = None
        if self.tell == "answer":
            told = ToldRight(self.hint, self.reference)
        elif self.tell != "nothing":
            told = ToldSibling(self.hint, "response" if self.tell == "sibling" else "answer", self.behind)
        return told if self.feedback == "never" else ToldFeedback(self.hint, told, self.feedback == "always")


AnyTeacher = Annotated[ModelTeacher | OwnTeacher | TaskTeacher | SelfTeacher, Field(discriminator="kind")]
"""Every teacher that a recipe can name by ``kind``."""


class Distill(Component):
    """The divergence of the policy from a teacher, at every token in the loss."""

    kind: Literal["distill"] = "distill"
    teacher: AnyTeacher = Field(description="whom the policy learns from")
    divergence: Literal["reverse_kl", "forward_kl", "jsd", "sampled"] = Field(
        "reverse_kl",
        description="KL(policy || teacher), KL(teacher || policy), Jensen-Shannon, or the first by drawn tokens",
    )
    beta: float = Field(0.5, gt=0, lt=1, description="weight of the teacher in jsd")
    top_k: int | None = Field(None, ge=1, description="the likeliest k tokens and all others as one; absent = all")
    top_of: Literal["policy", "teacher"] = Field("policy", description="whose likeliest")
    tail: bool = Field(True, description="whether the others count; without them the k alone, renormalised")
    impossible: Literal["refuse", "leave_out"] = Field(
        "refuse", description="tokens to which the teacher gives no chance at all: an error, or out of both"
    )
    ratio_cap: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="bound of a weight for tokens of an older policy; absent = none"
    )

    @model_validator(mode="after")
    def _cuts(self) -> "Distill":
        if self.top_k is None and (self.top_of, self.tail) != ("policy", True):
            raise ValueError("top_of and tail say how top_k cuts the vocabulary, and there is no top_k")
        if self.top_k is not None and self.divergence == "sampled":
            raise ValueError("sampled reads the token that was drawn and no other; leave top_k out")
        return self

    @property
    def against(self) -> Against:
        """The other side of the loss."""
        cut = self.impossible, self.top_of, self.tail
        form, teacher = Form(self.divergence, self.beta, self.top_k, *cut), self.teacher
        if not isinstance(teacher, SelfTeacher):
            return Against("teacher", None, form)
        by: Literal["reference", "policy", "teacher"]
        by = "reference" if teacher.version == "start" else "policy" if teacher.version == "live" else "teacher"
        return Against(by, teacher.before, form, optional=bool(teacher.fields))
