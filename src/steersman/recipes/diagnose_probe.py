"""Draw a policy's responses, grade them, read every layer, and say where a baseline could be read: `diagnose probe`.

Nothing is trained but ridge regressions. What can be refused is refused before anything is sampled. Leaves out: the
figures (`assure.diagnose.probe`), the command line (`cli.diagnose`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steersman.assure.diagnose.probe import ProbeSweep, as_json, sweep
from steersman.core.component import Moment
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.layers import count_layers
from steersman.objective.advantage.internal import PromptEnd, ReasoningEnd, moments
from steersman.recipes.diagnose_policy import GradedQuestion, Say, check_policy, graded_task, opened
from steersman.task.chain_sum import HASH, ChainSum
from steersman.train.collect import grade
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Averaged


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeQuestion(GradedQuestion):
    """What is looked at; at least two responses of each prompt.

    Args:
        pool: last tokens of a segment that are averaged.
        reasoning_end: text that ends the reasoning; None = there is none (of chain_sum its "#").
    """

    pool: int = 10
    reasoning_end: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The figures as JSON values, and the sweep itself."""

    summary: dict[str, Any]
    found: ProbeSweep


def diagnose_probe(asked: ProbeQuestion, say: Say = lambda line: None) -> ProbeAnswer:
    """Draw, grade, read, fit.

    Raises:
        UserError: a folder, a task or a number that cannot be used, before anything is sampled; too few prompts, or
            rewards that are all equal.
    """
    check_policy(asked, least=2)
    given = graded_task(asked)
    with opened(asked, given, say) as at:
        engine, samples = at.engine, asked.samples
        ends = _ends(asked, at.drawing.tokenizer, isinstance(given.task, ChainSum))
        prompts = at.world.held_out(given.size)
        assert prompts is not None
        say(f"drawing {len(prompts) * samples:,} responses of at most {at.drawing.max_new_tokens:,} tokens")
        drawn = engine.sample(prompts, at.drawing, Moment(seed=asked.seed), asked.seed)
        drawn, _ = grade(engine, at.world, drawn, [prompts.rows[i // samples] for i in range(len(drawn))])
        layers = count_layers(engine.policy.config)
        say(f"reading {layers} layers at {len(drawn):,} responses")
        found = _swept(engine, drawn, asked, ends)
        about = {"model": str(asked.model), "task": asked.task, "prompts": len(prompts), "responses": len(drawn)}
        about |= {"layers": layers, "reasoning_end": list(ends), "seed": asked.seed}
        assert drawn.reward is not None
        about["reward"] = float(drawn.reward[drawn.valid].double().mean())
        return ProbeAnswer(about | as_json(found), found)


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
