"""Draw a policy's responses, grade them, read every layer, and say where a baseline could be read: `diagnose probe`.

Nothing is trained but ridge regressions. What can be refused is refused before anything is sampled. Leaves out: the
figures (`assure.diagnose.probe`), the command line (`cli.diagnose`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.assure.diagnose.probe import ProbeSweep, as_json, sweep
from steersman.core.component import Moment
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.layers import count_layers
from steersman.language.load import check_folder, load_model, load_tokenizer, stop_ids
from steersman.language.sampler import Sampling
from steersman.objective.advantage.internal import PromptEnd, ReasoningEnd, moments
from steersman.recipes.evaluate_sample import MOST_NEW, device_of, smallest_context
from steersman.recipes.evaluate_task import make_world, read_task
from steersman.task.chain_sum import HASH, ChainSum
from steersman.train.collect import grade
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import MOST_SAMPLES, Averaged, Drawing
from steersman.train.optimise import AdamW, Optimiser


@dataclass(frozen=True, slots=True)
class ProbeQuestion:
    """What is looked at.

    Args:
        model: folder of the policy.
        task: as of `steersman evaluate`; its responses must be graded.
        limit: first so many prompts; None = all of a file, 200 of others.
        samples: responses of each, at least two.
        max_new_tokens: most tokens of a response; None = 512, or what the task knows.
        temperature: > 0, divides the logits.
        pool: last tokens of a segment that are averaged.
        reasoning_end: text that ends the reasoning; None = there is none (of chain_sum its "#").
        extract, compare, reward, allow_import: what grades, as of `steersman evaluate`.
        seed, chat, device, dtype, micro_tokens: as of `steersman diagnose tokens`.
    """

    model: Path
    task: str
    limit: int | None = None
    samples: int = 4
    max_new_tokens: int | None = None
    temperature: float = 1.0
    pool: int = 10
    reasoning_end: str | None = None
    extract: str | None = None
    compare: str | None = None
    reward: str | None = None
    allow_import: tuple[str, ...] = ()
    seed: int = 0
    chat: bool = False
    device: str = "auto"
    dtype: str = "float32"
    micro_tokens: int = 4096


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The figures as JSON values, and the sweep itself."""

    summary: dict[str, Any]
    found: ProbeSweep


def diagnose_probe(asked: ProbeQuestion, say: Callable[[str], None] = lambda line: None) -> ProbeAnswer:
    """Draw, grade, read, fit.

    Raises:
        UserError: a folder, a task or a number that cannot be used, before anything is sampled; too few prompts, or
            rewards that are all equal.
    """
    device = device_of(asked.device)
    check_folder(asked.model)
    if not 2 <= asked.samples <= MOST_SAMPLES:
        raise UserError(f"is {asked.samples}", where="--samples", allowed=f"2 to {MOST_SAMPLES}")
    if not asked.temperature > 0:
        raise UserError(f"is {asked.temperature}", where="--temperature", allowed="above 0")
    given = read_task(
        asked.task, extract=asked.extract, compare=asked.compare, reward=asked.reward, limit=asked.limit,
        chat=asked.chat, allow_import=asked.allow_import,
    )  # fmt: skip
    if not given.graded:
        cure = "Give answers in the file, or --reward."
        raise UserError("its rows have no answers, so nothing says what a response is worth", where="--task", cure=cure)
    tokenizer = load_tokenizer(asked.model)
    ends = _ends(asked, tokenizer, isinstance(given.task, ChainSum))
    known = given.task.max_response if isinstance(given.task, ChainSum) else MOST_NEW
    most = asked.max_new_tokens or known
    world = make_world(given, tokenizer, smallest_context([asked.model]), most)
    try:
        prompts = world.held_out(given.size)
        assert prompts is not None
        say(f"loading {asked.model}")
        policy = load_model(asked.model, dtype=asked.dtype, device=device)
        optimiser = Optimiser(policy.named_parameters(), AdamW(), 1)
        engine = LocalEngine(policy, optimiser, micro_tokens=asked.micro_tokens)
        say(f"drawing {len(prompts) * asked.samples:,} responses of at most {most:,} tokens")
        heat = Sampling(temperature=asked.temperature)
        drawing = Drawing(asked.samples, most, stop_ids(policy, tokenizer), heat, tokenizer=tokenizer)
        drawn = engine.sample(prompts, drawing, Moment(seed=asked.seed), asked.seed)
        drawn, _ = grade(engine, world, drawn, [prompts.rows[i // asked.samples] for i in range(len(drawn))])
        say(f"reading {count_layers(policy.config)} layers at {len(drawn):,} responses")
        found = _swept(engine, drawn, asked, ends)
        about = {"model": str(asked.model), "task": asked.task, "prompts": len(prompts), "responses": len(drawn)}
        about |= {"layers": count_layers(policy.config), "reasoning_end": list(ends), "seed": asked.seed}
        assert drawn.reward is not None
        about["reward"] = float(drawn.reward[drawn.valid].double().mean())
        return ProbeAnswer(about | as_json(found), found)
    finally:
        world.close()


def _ends(asked: ProbeQuestion, tokenizer: Any, sums: bool) -> tuple[int, ...]:
    """Token ids that end the reasoning."""
    if asked.reasoning_end is None:
        return (HASH,) if sums else ()
    ids: Sequence[int] = tokenizer.encode(asked.reasoning_end, add_special_tokens=False)
    if not ids:
        raise UserError(f"{asked.reasoning_end!r} has no token", where="--reasoning-end")
    return tuple(ids)


def _swept(engine: LocalEngine, drawn: Rollouts, asked: ProbeQuestion, ends: tuple[int, ...]) -> ProbeSweep:
    """All layers out of one forward of each row."""
    layers = range(count_layers(engine.policy.config) + 1)
    prompt = {n: Averaged("hidden", n, PromptEnd(asked.pool)) for n in layers}
    reasoning = {n: Averaged("hidden", n, ReasoningEnd(asked.pool, ends)) for n in layers}
    quantities: list[Any] = ["entropy", *prompt.values(), *reasoning.values()]
    told = engine.score(drawn, "policy", quantities, asked.temperature)
    before, behind = ({n: told[q].cpu() for n, q in of.items()} for of in (prompt, reasoning))
    return sweep(drawn, before, behind, moments(told["entropy"], drawn.action).cpu())
