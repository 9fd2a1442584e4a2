"""What the policy is worth on held-out prompts, and how near probes, a critic and plain means come to it.

True values are shares of right answers among `DRAWS` responses; their own noise is taken out of squared errors. A probe
reads one other response to each held-out prompt. Leaves out: training (`studies.rl_runs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steersman.core.component import Moment
from steersman.core.noise import permutation
from steersman.core.types import Rollouts
from steersman.language.load import load_model
from steersman.objective.advantage.internal import PromptEnd, ReasoningEnd, moments, segment_means, segments
from steersman.objective.advantage.pairing import leave_one_out_target
from steersman.objective.advantage.probe import added, fit
from steersman.reward.model import build_reward_model
from steersman.store.files import read_json, write_json
from steersman.store.run import RunDir
from steersman.studies.chain_sum_policy import SETTINGS, model_folder
from steersman.study.declare import Artefact, Cell
from steersman.study.progress import Progress
from steersman.task.chain_sum import EOS, HASH, ChainSum, read_digits
from steersman.task.worlds import ChainSumWorld
from steersman.train.collect import grade
from steersman.train.critic import token_values
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Averaged, Drawing
from steersman.train.optimise import AdamW, Optimiser

PROMPTS, DRAWS = 256, 64
"""Held-out prompts and responses to each that make its value."""
MICRO_TOKENS = 8192
POOL, ENDS = 10, (HASH,)
LAYERS = {"embeddings": 0, "middle": 1, "last": 2}
"""Of the policy's two layers; 53 % of the depth is the middle."""
CRITIC: dict[str, Any] = {"lr": 5e-4, "steps": 256, "batch": 64}
"""Of its training, whatever the number of examples."""
_VALUES = "values.json"
_HELD_OUT_STEP = 10**6
"""Step of the noise of held-out responses: none of a run's own."""


def values_artefact(task: ChainSum, name: str, policy: str) -> Artefact:
    """What the policy is worth on held-out prompts, as something a study needs."""
    settings = {"task": task.model_dump(mode="json", exclude_none=True), "prompts": PROMPTS, "draws": DRAWS}
    return Artefact(name, {**settings, "policy": policy}, build_values, needs=(policy,))


def build_values(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    """Draw, grade, count."""
    task = ChainSum.model_validate(settings["task"])
    world, engine = ChainSumWorld(task, settings["prompts"]), engine_of(inputs[settings["policy"]])
    drawn = _answers(engine, world, task, int(settings["draws"]), seed=1)
    assert drawn.correct is not None
    right = drawn.correct.view(int(settings["prompts"]), -1).sum(1)
    write_json(folder / _VALUES, {"right": right.tolist(), "draws": settings["draws"]})
    value = right.double() / settings["draws"]
    return f"{len(value)} held-out prompts of value {float(value.mean()):.3f}, deviation {float(value.std()):.3f}"


def engine_of(policy: Path) -> LocalEngine:
    """The policy in one process."""
    model = load_model(model_folder(policy))
    return LocalEngine(model, Optimiser(model.named_parameters(), AdamW(), 1), micro_tokens=MICRO_TOKENS)


def drawing(task: ChainSum, samples: int) -> Drawing:
    """How responses are drawn, as in training."""
    return Drawing(samples, task.max_response + SETTINGS["spare"], (EOS,))


def _answers(engine: LocalEngine, world: ChainSumWorld, task: ChainSum, samples: int, seed: int) -> Rollouts:
    """Graded responses to the held-out prompts."""
    asked = world.held_out()
    assert asked is not None
    drawn = engine.sample(asked, drawing(task, samples), Moment(seed, _HELD_OUT_STEP), seed)
    return grade(engine, world, drawn, [asked.rows[i // samples] for i in range(len(drawn))])[0]


@dataclass(frozen=True, slots=True)
class Read:
    """Rollouts with what probes read of them: rewards, states of prompt and reasoning by layer, entropies."""

    rollouts: Rollouts
    reward: Tensor
    prompt: dict[str, Tensor]
    reasoning: dict[str, Tensor]
    entropy: dict[str, Tensor]

    @classmethod
    def of(cls, engine: LocalEngine, rollouts: Rollouts) -> "Read":
        """One forward for everything."""
        assert rollouts.reward is not None
        prompt = {k: Averaged("hidden", n, PromptEnd(POOL)) for k, n in LAYERS.items()}
        reasoning = {k: Averaged("hidden", n, ReasoningEnd(POOL, ENDS)) for k, n in LAYERS.items()}
        before = Averaged("entropy", None, PromptEnd(POOL, predicted=True))
        told = engine.score(rollouts, "policy", ["entropy", *prompt.values(), *reasoning.values(), before])
        thought, answer, _ = segments(rollouts, ENDS)
        spread = {
            "moments": moments(told["entropy"], rollouts.action),
            "segments": segment_means(told["entropy"], told[before], thought, answer),
        }
        states = ({k: told[q] for k, q in of.items()} for of in (prompt, reasoning))
        return cls(rollouts, rollouts.reward, *states, {k: x.float() for k, x in spread.items()})

    def features(self, layer: str = "middle", parts: str = "pre", entropy: str = "moments") -> Tensor:
        """phi ``[N, D]``; `parts` names prompt, reasoning and entropy by their first letters."""
        of = {"p": self.prompt[layer], "r": self.reasoning[layer], "e": self.entropy[entropy]}
        return torch.cat([of[k] for k in parts], 1)


KINDS: dict[str, dict[str, Any]] = {
    "all features": {},
    "rows left out": {"alone": True},
    "alpha 0.01": {"alpha": 0.01},
    "alpha 100": {"alpha": 100.0},
    "projected": {"pca": 16},
    "prompt states": {"parts": "p"},
    "reasoning states": {"parts": "r"},
    "entropies": {"parts": "e"},
    "segment entropies": {"parts": "e", "entropy": "segments"},
    "embeddings": {"layer": "embeddings"},
    "last layer": {"layer": "last"},
    "own reward": {"own": True},
}
"""How each differs from all features, siblings' rewards as targets, and the penalty by prompts left out."""


def run(cell: Cell, run_dir: RunDir, policy: Path, values: Path) -> dict[str, Any]:
    """Fit everything to as many rollouts as the cell says.

    Returns:
        ``sizes``: examples as text -> name -> ``mae`` and ``r`` against the true value, ``mse`` without its noise, and
        ``reduction``, the share of the reward's variance that such a baseline takes away.
    """
    task = ChainSum.model_validate(cell.arm.settings["task"])
    engine, world = engine_of(policy), ChainSumWorld(task, PROMPTS)
    sizes = [int(n) for n in cell.task["examples"]]
    progress = Progress(run_dir.path, len(sizes), "fits")
    past = Read.of(engine, _examples(engine, world, task, max(sizes), cell.seed))
    held_out = Read.of(engine, _answers(engine, world, task, 1, seed=10 + cell.seed))
    known = read_json(values / _VALUES)
    truth = np.asarray(known["right"], dtype=float) / known["draws"]
    found = {}
    for n in sizes:
        guesses = {name: _probe(past, held_out, n, **how) for name, how in KINDS.items()} | _others(past, held_out, n)
        guesses["critic"] = _critic(model_folder(policy), past, held_out, n, cell.seed)
        found[str(n)] = {k: _judged(np.asarray(x, dtype=float), truth, known["draws"]) for k, x in guesses.items()}
        progress.advance(1)
    return {"sizes": found}


def _examples(engine: LocalEngine, world: ChainSumWorld, task: ChainSum, n: int, seed: int) -> Rollouts:
    """`n` graded responses, two of each prompt."""
    asked = world.draw(n // 2, seed, 0)
    drawn = engine.sample(asked, drawing(task, 2), Moment(seed, 0), seed)
    return grade(engine, world, drawn, [asked.rows[i // 2] for i in range(n)])[0]


def _probe(
    past: Read,
    held_out: Read,
    n: int,
    alpha: Any = "auto",
    pca: int = 0,
    own: bool = False,
    alone: bool = False,
    **parts: Any,
) -> Tensor:
    """Predictions of a probe that was fitted to the first `n` rollouts."""
    phi, group = past.features(**parts)[:n], past.rollouts.group[:n]
    target = past.reward[:n] if own else leave_one_out_target(past.reward[:n], group)
    width = past.prompt["middle"].shape[1]
    blocks = ((0, width, pca), (width, 2 * width, pca)) if pca else ()
    return fit(added(None, phi, target, 0, 1, None if alone else group), alpha, blocks)(
        held_out.features(**parts)
    ).clamp(0, 1)


def _others(past: Read, held_out: Read, n: int) -> dict[str, Tensor]:
    """Baselines that read no state."""
    counts = [_counts(x.rollouts) for x in (past, held_out)]
    target = leave_one_out_target(past.reward[:n], past.rollouts.group[:n])
    tokens = fit(added(None, counts[0][:n], target, 0, 1, past.rollouts.group[:n]), "auto")(counts[1]).clamp(0, 1)
    mean = past.reward[:n].mean().expand(len(held_out.reward))
    return {"running mean": mean, "sibling's reward": held_out.reward, "prompt tokens": tokens}


def _counts(rollouts: Rollouts) -> Tensor:
    """How often each digit stands in the prompt ``[N, 10]``."""
    digits, _ = read_digits(rollouts)
    return (digits[..., None] == torch.arange(10)).sum(1).float()


def _critic(folder: Path, past: Read, held_out: Read, n: int, seed: int) -> Tensor:
    """Predictions, before the first token, of a model as large as the policy that was fitted to rewards of prompts."""
    critic = build_reward_model(folder, seed)
    steps = CRITIC["steps"]
    optimiser = Optimiser(critic.named_parameters(), AdamW(lr=CRITIC["lr"], schedule="cosine", warmup=0.1), steps)
    for step in range(steps):
        epoch, part = divmod(step * CRITIC["batch"], n)
        rows = permutation(n, seed, "critic", epoch)[part : part + CRITIC["batch"]]
        (_first_value(critic, past.rollouts.index(rows)) - past.reward[rows]).square().mean().backward()
        optimiser.apply(step)
    with torch.no_grad():
        return _first_value(critic, held_out.rollouts).clamp(0, 1)


def _first_value(critic: Any, rollouts: Rollouts) -> Tensor:
    """Value after the prompt ``[N]``; the response is cut off."""
    first = torch.arange(rollouts.ids.shape[1]) == rollouts.prompt_length[:, None]
    short = Rollouts.of(rollouts.ids, rollouts.prompt_length + 1, rollouts.prompt_length).trim()
    return token_values(critic, short, first[:, : short.ids.shape[1]]).sum(1)


def _judged(guess: Any, truth: Any, draws: int) -> dict[str, float | None]:
    noise = float((truth * (1 - truth)).mean()) / (draws - 1)
    mse = float(np.square(guess - truth).mean()) - noise
    mean = float(truth.mean())
    left = noise * draws + mse  # noise * draws = mean of V (1 - V), without bias
    r = float(np.corrcoef(guess, truth)[0, 1]) if float(np.std(guess)) > 0 else None
    return {"mae": float(np.abs(guess - truth).mean()), "r": r, "mse": mse, "reduction": 1 - left / (mean * (1 - mean))}
