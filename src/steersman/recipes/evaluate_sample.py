"""A policy's responses to the prompts of an evaluation, graded; and what other models say of their tokens.

Responses are drawn with noise that is a function of the seed, the prompt's place and the sample's number, and of the
side of a comparison, so that two policies are independent. Leaves out: what is measured (`evaluate`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, Rollouts
from steersman.language.decode import generate
from steersman.language.load import context_length, load_model, load_tokenizer, stop_ids
from steersman.language.pack import micro_batches
from steersman.language.sampler import Sampling
from steersman.language.score import response_logp
from steersman.recipes.evaluate_task import Asked, given, make_world
from steersman.reward.answer import STATUSES
from steersman.reward.verifiable import Graded
from steersman.task.chain_sum import ChainSum
from steersman.task.world import Prompts, World

MOST_NEW = 512
"""Most new tokens of a response where nothing is said; fewer where the context has no room for them."""
MOST_SAMPLES = 2**20
"""The noise of sample j of prompt i is number i * MOST_SAMPLES + j, so that asking for more keeps the first ones."""
MICRO_TOKENS = 4096
PLAIN = Sampling()
Watch = Callable[[str, int, int], None]
"""Told (what is being done, how many more of it are done, how many there are; 0 = unknown)."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """How responses are drawn.

    Args:
        samples: responses of each prompt.
        max_new_tokens: most tokens of a response; None = `MOST_NEW` or what fits, of chain_sum its longest answer.
        sampling: temperature and filters.
        stop: texts that end a response.
        seed: of the noise.
        device: auto, cpu or cuda.
        dtype: type of the policies' parameters.
    """

    samples: int = 1
    max_new_tokens: int | None = None
    sampling: Sampling = PLAIN
    stop: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Side:
    """A policy that is ready to be asked; its weights are not loaded yet."""

    folder: Path
    tokenizer: Any
    world: World
    prompts: Prompts

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompts.ids))


@dataclass(frozen=True, slots=True)
class Said:
    """What one policy said: the samples of a prompt one behind the other.

    Args:
        rollouts: prompts and responses.
        prompts: of each row as given, text or turns: what judges see.
        decoded: the same as text, without special tokens: what graders and ranking functions see.
        texts: the responses.
        rows: what the grader needs of each.
        graded: its verdicts; None = nothing is graded.
        logp: nats of each token ``[N, L]``; None = not asked for.
    """

    rollouts: Rollouts
    prompts: list[Any]
    decoded: list[str]
    texts: list[str]
    rows: list[Any]
    graded: Graded | None = None
    logp: Tensor | None = None


def smallest_context(folders: Sequence[Path]) -> int | None:
    """Most tokens that all of the models accept, from their configurations; None = no limit."""
    from transformers import AutoConfig

    configs = [AutoConfig.from_pretrained(str(f), local_files_only=True, trust_remote_code=False) for f in folders]
    return min((n for n in map(context_length, configs) if n is not None), default=None)


def prepare(folder: Path, asked: Asked, drawn: Drawn, context: int | None) -> Side:
    """Encode and check the prompts for one policy."""
    tokenizer = load_tokenizer(folder)
    world = make_world(asked, tokenizer, context, drawn.max_new_tokens)
    prompts = world.held_out(asked.size)
    assert prompts is not None
    return Side(folder, tokenizer, world, prompts)


def room(sides: Sequence[Side], asked: Asked, drawn: Drawn, context: int | None) -> int:
    """Most new tokens of a response, the same for all sides."""
    if drawn.max_new_tokens is not None:
        return drawn.max_new_tokens
    if isinstance(asked.task, ChainSum):
        return asked.task.max_response
    return MOST_NEW if context is None else min(MOST_NEW, context - max(side.longest for side in sides))


def device_of(name: str) -> torch.device:
    """The device of a name; auto takes a GPU where there is one."""
    there = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda") or (name == "cuda" and not there):
        raise UserError(f"{name!r} is not available here", where="--device", allowed="auto, cpu, cuda")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def ask(side: Side, asked: Asked, drawn: Drawn, most: int, watch: Watch, number: int = 0, logp: bool = False) -> Said:
    """Load a policy and sample its responses; they are not graded yet.

    Args:
        side: the policy.
        asked: the task.
        drawn: how.
        most: most new tokens of a response.
        watch: told of progress.
        number: which side of a comparison; each has noise of its own.
        logp: whether the policy's log-probs are wanted too.
    """
    model = load_model(side.folder, dtype=drawn.dtype, device=device_of(drawn.device))
    rollouts = _sample(model, side, drawn, most, number, watch)
    found = token_logp(model, rollouts, "scoring", watch) if logp else None
    shown = side.world.texts(rollouts)
    decoded, texts = [prompt for prompt, _ in shown], [response for _, response in shown]
    rows = [row for row in side.prompts.rows for _ in range(drawn.samples)]
    return Said(rollouts, given(asked, decoded), decoded, texts, rows, None, found)


def grade(side: Side, said: Said, watch: Watch) -> Said:
    """The same with the task's verdicts."""
    watch("grading", 0, 0)
    return replace(said, graded=side.world.grade(said.rollouts, said.rows))


def _sample(model: Any, side: Side, drawn: Drawn, most: int, number: int, watch: Watch) -> Rollouts:
    place = np.arange(len(side.prompts))[:, None] * MOST_SAMPLES + np.arange(drawn.samples)
    total, options, what = place.size, drawn.sampling, f"sampling {side.folder.name}"
    watch(what, 0, total)
    return generate(
        model,
        side.prompts.ids,
        max_new_tokens=most,
        stop_ids=stop_ids(model, side.tokenizer),
        seed=drawn.seed,
        samples_per_prompt=drawn.samples,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        stop_strings=drawn.stop,
        tokenizer=side.tokenizer,
        sample_ids=place.ravel().tolist(),
        step=number,
        watch=lambda rows, tokens: watch(what, rows, total),
    )


def token_logp(model: nn.Module, rollouts: Rollouts, what: str, watch: Watch) -> Tensor:
    """Log-probs of the tokens drawn under `model`, ``[N, L]`` float32, in micro-batches."""
    device = next(model.parameters()).device
    out = torch.zeros(rollouts.ids.shape)
    watch(what, 0, len(rollouts))
    with torch.no_grad():
        for rows in micro_batches(rollouts.length, MICRO_TOKENS):
            part = rollouts.index(rows).trim()
            found = response_logp(model, part.to(device), entropy=False)[0].float().cpu()
            out[rows, : found.shape[1]] = found
            watch(what, len(rows), len(rollouts))
    return out


def rows_of(said: Said, drawn: Drawn) -> list[dict[str, Any]]:
    """One JSON object a response."""
    lengths = (said.rollouts.length - said.rollouts.prompt_length).tolist()
    ended = (said.rollouts.stop == STOP_EOS).tolist()
    out = []
    for i, text in enumerate(said.texts):
        row: dict[str, Any] = {"id": said.rows[i].get("id"), "prompt": said.prompts[i], "completion": text}
        if said.graded is not None:
            row |= _grades(said.graded, i)
        row |= {"length": lengths[i], "stop": "eos" if ended[i] else "length"}
        out.append(row | {"sample": i % drawn.samples, "seed": drawn.seed})
    return out


def _grades(graded: Graded, i: int) -> dict[str, Any]:
    scores = graded.scores
    valid = bool(scores.valid[i])
    found: dict[str, Any] = {"answer": graded.answer[i], "score": float(scores.value[i]) if valid else None}
    if "status" in scores.parts:
        found["status"] = STATUSES[int(scores.parts["status"][i])] if valid else "invalid"
    elif not valid:
        found["status"] = "invalid"
    if "correct" in scores.parts:
        found["correct"] = bool(scores.parts["correct"][i]) if valid else None
    if i in graded.reasons:
        found["reason"] = graded.reasons[i]
    if i in scores.errors:
        found["error"] = scores.errors[i]
    return found
