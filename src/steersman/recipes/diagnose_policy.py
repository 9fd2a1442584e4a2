"""What every look into a policy has in common: what is asked, what is refused beforehand, the policy made ready.

Leaves out: what is looked for (`diagnose_tokens`, `diagnose_probe`, `diagnose_gradient`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.language.load import check_folder, load_model, load_tokenizer, stop_ids
from steersman.language.sampler import Sampling
from steersman.recipes.evaluate_sample import MOST_NEW, device_of, smallest_context
from steersman.recipes.evaluate_task import Asked, make_world, read_task
from steersman.task.chain_sum import ChainSum
from steersman.task.world import World
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import MOST_SAMPLES, Drawing
from steersman.train.optimise import AdamW, Optimiser

Say = Callable[[str], None]
"""Told what is being done, a line each."""


@dataclass(frozen=True, slots=True)
class PolicyQuestion:
    """Which policy, and which responses of it.

    Args:
        model: folder of the policy.
        task: as of `steersman evaluate`.
        limit: first so many prompts; None = all of a file, 200 of others.
        samples: responses of each.
        max_new_tokens: most tokens of a response; None = 512, or what the task knows.
        temperature: > 0, divides the logits.
        seed: of sampling.
        chat: whether a text prompt is a user's turn.
        device: auto, cpu or cuda.
        dtype: of the models' parameters.
        micro_tokens: tokens of one forward pass.
    """

    model: Path
    task: str
    limit: int | None = None
    samples: int = 4
    max_new_tokens: int | None = None
    temperature: float = 1.0
    seed: int = 0
    chat: bool = False
    device: str = "auto"
    dtype: str = "float32"
    micro_tokens: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedQuestion(PolicyQuestion):
    """The same where responses are graded.

    Args:
        extract, compare, reward, allow_import: what grades, as of `steersman evaluate`.
    """

    extract: str | None = None
    compare: str | None = None
    reward: str | None = None
    allow_import: tuple[str, ...] = ()


def check_policy(asked: PolicyQuestion, least: int = 1) -> None:
    """Refuse a folder, a temperature or a number of samples (below `least`) that cannot be used."""
    check_folder(asked.model)
    if not asked.temperature > 0:
        raise UserError(f"is {asked.temperature}", where="--temperature", allowed="above 0")
    if not least <= asked.samples <= MOST_SAMPLES:
        raise UserError(f"is {asked.samples}", where="--samples", allowed=f"{least} to {MOST_SAMPLES}")


def graded_task(asked: GradedQuestion) -> Asked:
    """The prompts, which must say what a response is worth.

    Raises:
        UserError: as `evaluate_task.read_task`; rows without answers.
    """
    given = read_task(
        asked.task, extract=asked.extract, compare=asked.compare, reward=asked.reward, limit=asked.limit,
        chat=asked.chat, allow_import=asked.allow_import,
    )  # fmt: skip
    if not given.graded:
        cure = "Give answers in the file, or --reward."
        raise UserError("its rows have no answers, so nothing says what a response is worth", where="--task", cure=cure)
    return given


def longest(asked: PolicyQuestion, given: Asked) -> int:
    """Most tokens of a response."""
    return asked.max_new_tokens or (given.task.max_response if isinstance(given.task, ChainSum) else MOST_NEW)


def engine_of(asked: PolicyQuestion, policy: Any, **others: Any) -> LocalEngine:
    """The policy, which nothing will move, and `others` beside it (`LocalEngine`)."""
    optimiser = Optimiser(policy.named_parameters(), AdamW(), 1)
    return LocalEngine(policy, optimiser, micro_tokens=asked.micro_tokens, **others)


def drawing_of(asked: PolicyQuestion, most: int, policy: Any, tokenizer: Any) -> Drawing:
    """How responses are drawn."""
    heat = Sampling(temperature=asked.temperature)
    return Drawing(asked.samples, most, stop_ids(policy, tokenizer), heat, tokenizer=tokenizer)


@dataclass(frozen=True, slots=True)
class Opened:
    """A policy that is ready to be looked into, its prompts with their grader, and how responses are drawn."""

    engine: LocalEngine
    world: World
    drawing: Drawing


@contextmanager
def opened(asked: GradedQuestion, given: Asked, say: Say, itself: bool = False) -> Iterator[Opened]:
    """Load the policy and its tokenizer, and end the grader's processes afterwards.

    Args:
        asked, given: the question and its prompts.
        say: told what is being done.
        itself: whether the policy is its own reference, as it is when training begins.

    Raises:
        UserError: no such device; prompts that the policy cannot take.
    """
    device, tokenizer, most = device_of(asked.device), load_tokenizer(asked.model), longest(asked, given)
    world = make_world(given, tokenizer, smallest_context([asked.model]), most)
    try:
        say(f"loading {asked.model}")
        policy = load_model(asked.model, dtype=asked.dtype, device=device)
        engine = engine_of(asked, policy, reference=policy if itself else None)
        yield Opened(engine, world, drawing_of(asked, most, policy, tokenizer))
    finally:
        world.close()
