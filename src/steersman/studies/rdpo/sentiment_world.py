"""What Part B builds once and shares: gold scorer, tokenizer and base policy, continuations with their scores.

Each is an artefact cached by content: the same settings and the same film reviews give the same folder.
Leaves out: training arms and judging them (`sentiment`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steersman.core.types import Pairs, Rollouts
from steersman.language.build import SmallModel, build_model, train_tokenizer
from steersman.language.decode import generate
from steersman.language.encode import Truncation, encode_completions
from steersman.language.load import load_model, load_tokenizer, save_model, stop_ids
from steersman.language.pack import micro_batches
from steersman.language.records import Completion
from steersman.language.score import response_logp
from steersman.store.checkpoint import load_checkpoint, save_checkpoint
from steersman.store.run import RunDir
from steersman.study.declare import Artefact
from steersman.task.sentiment import Gold, fit_gold, lexicon_scores, load_reviews, reviews_file, sentences, split
from steersman.train.fit import fit
from steersman.train.loop import Budget, Habits
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.sft import SftLearner

Array = np.ndarray[Any, np.dtype[Any]]
MICRO_TOKENS = 8192
PROMPT_TOKENS, NEW_TOKENS, EACH = 5, 24, 4
TRAIN_PROMPTS, VALIDATION_PROMPTS, TEST_PROMPTS = 3000, 300, 500
HELD_OUT = TRAIN_PROMPTS + VALIDATION_PROMPTS + TEST_PROMPTS
_CUT = Truncation(kind="right_completion")
BASE = {
    "vocabulary": 1024,
    "model": {"width": 64, "layers": 2, "heads": 4, "mlp": 176, "context": 64},
    "steps": 450,
    "batch": 96,
    "lr": 3e-3,
}


def artefacts() -> tuple[Artefact, ...]:
    """Gold scorer, base policy, continuations; in the order they are built."""
    reads = (reviews_file(),)
    counts = {"prompt": PROMPT_TOKENS, "new": NEW_TOKENS, "each": EACH, "prompts": HELD_OUT}
    return (
        Artefact("gold", {"min_count": 5}, build_gold, reads=reads),
        Artefact("base", BASE, build_base, reads=reads),
        Artefact("world", counts, build_world, needs=("gold", "base"), reads=reads),
    )


def build_gold(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    """The gold scorer, from 20,000 IMDb reviews."""
    teach, rest = split(load_reviews())
    gold = fit_gold(teach, [r for r in rest if r.source == "imdb"][:2000], settings["min_count"])
    gold.save(folder)
    return f"accuracy {gold.accuracy:.3f} on 2,000 held-out IMDb reviews, {len(gold.terms):,} terms"


def review_sentences() -> list[str]:
    """Sentences that policies may learn from or be prompted with, in a fixed order."""
    return sentences(split(load_reviews())[1])


def build_base(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    """Tokenizer and base policy, trained on sentences whose beginnings are never used as prompts."""
    texts = review_sentences()[HELD_OUT:]
    size = SmallModel(**settings["model"])
    tokenizer = train_tokenizer(texts, settings["vocabulary"], context=size.context)
    model = build_model(size, len(tokenizer), seed=0)
    rows = [Completion(i, "", text) for i, text in enumerate(texts)]
    data = encode_completions(rows, tokenizer, context=size.context, where="sentences", truncation=_CUT).data
    held = data.index(slice(0, 500))
    optim = AdamW(lr=settings["lr"], schedule="cosine", warmup=0.05, beta2=0.95, weight_decay=0.1)
    budget = Budget(steps=settings["steps"], batch=settings["batch"])
    optimiser = Optimiser(model.named_parameters(), optim, settings["steps"])
    learner = SftLearner(model, data.index(slice(500, None)), optimiser, MICRO_TOKENS, held_out=held)
    fitted = fit(learner, budget, RunDir(folder / "training"), Habits(checkpoint_every=200, keep=1))
    save_model(model, tokenizer, folder / "model")
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"{parameters / 1e6:.2f} M parameters, {len(texts):,} sentences, held-out "
        f"{fitted.evaluation['loss']:.3f} nats a token"
    )


def build_world(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    """Four continuations of every training and validation prompt, with gold, lexicon and reference scores."""
    model, tokenizer = load_model(inputs["base"] / "model"), load_tokenizer(inputs["base"] / "model")
    gold = Gold.load(inputs["gold"])
    begin = tokenizer.eos_token_id
    heads = tokenizer(review_sentences()[:HELD_OUT], add_special_tokens=False, verbose=False)["input_ids"]
    prompts = [[begin, *ids[:PROMPT_TOKENS]] for ids in heads]
    first, second = TRAIN_PROMPTS, TRAIN_PROMPTS + VALIDATION_PROMPTS
    state: dict[str, Any] = {"test_prompts": torch.tensor(prompts[second:])}
    for name, chosen, each in (
        ("train", prompts[:first], EACH),
        ("validation", prompts[first:second], EACH),
        ("test", prompts[second:], 1),
    ):
        state[name] = _scored(model, tokenizer, gold, chosen, each, name)
    save_checkpoint(folder, 0, state)
    pairs = len(state["train"]["pairs"])
    return f"{first:,} prompts, {pairs:,} pairs; base policy's gold score {float(state['test']['gold'].mean()):+.3f}"


def _scored(
    model: Any, tokenizer: Any, gold: Gold, prompts: list[list[int]], each: int, name: str
) -> dict[str, Tensor]:
    seed = {"train": 1, "validation": 2, "test": 3}[name]
    known: Any = {"max_new_tokens": NEW_TOKENS, "stop_ids": stop_ids(model, tokenizer), "samples_per_prompt": each}
    drawn = generate(model, prompts, seed=seed, **known)
    rows = [r[:n] for r, n in zip(drawn.ids.tolist(), drawn.length.tolist(), strict=True)]
    texts = list(tokenizer.batch_decode(rows, skip_special_tokens=True))
    group = drawn.group.tolist()
    pairs = [
        (i, j)
        for start in range(0, len(rows), each)
        for i in range(start, start + each)
        for j in range(i + 1, start + each)
        if group[i] == group[j] and texts[i] != texts[j]
    ]
    return {
        "ids": drawn.ids,
        "length": drawn.length,
        "prompt_length": drawn.prompt_length,
        "group": drawn.group,
        "logp_ref": token_logp(model, drawn),
        "gold": torch.from_numpy(gold.score(texts)),
        "lexicon": torch.from_numpy(lexicon_scores(texts)),
        "pairs": torch.tensor(pairs).reshape(-1, 2),
    }


def token_logp(model: Any, rollouts: Rollouts) -> Tensor:
    """Token log-probs without gradients, float32 ``[N, L]``."""
    out = torch.zeros(rollouts.ids.shape)
    with torch.no_grad():
        for rows in micro_batches(rollouts.length, MICRO_TOKENS):
            part = rollouts.index(rows).trim()
            out[rows, : part.ids.shape[1]] = response_logp(model, part, entropy=False)[0]
    return out


@dataclass(frozen=True, slots=True)
class World:
    """The artefact "world" as arms read it; `state` is what `build_world` stored."""

    state: Mapping[str, Any]

    @property
    def test_prompts(self) -> list[list[int]]:
        """Unseen prompts, token ids."""
        prompts: list[list[int]] = self.state["test_prompts"].tolist()
        return prompts

    @property
    def base_scores(self) -> Array:
        """Gold score of the base policy's continuation of each test prompt."""
        scores: Array = self.state["test"]["gold"].numpy()
        return scores

    def rollouts(self, name: str) -> Rollouts:
        """All continuations of a part, with the reference's token log-probs."""
        part = self.state[name]
        known = Rollouts.of(part["ids"], part["length"], part["prompt_length"], group=part["group"])
        return known.with_streams(logp_ref=part["logp_ref"])

    def sides(self, name: str) -> tuple[Tensor, Tensor]:
        """Row numbers of both sides of every pair."""
        return self.state[name]["pairs"][:, 0], self.state[name]["pairs"][:, 1]

    def pairs(self, name: str, first_wins: Array) -> Pairs:
        """All pairs, labelled with certainty."""
        rollouts, (first, second) = self.rollouts(name), self.sides(name)
        return Pairs(rollouts.index(first), rollouts.index(second), torch.from_numpy(first_wins).float())

    def reference(self, name: str) -> tuple[Tensor, Tensor]:
        """Reference log-probs of both sides of every pair."""
        total, (first, second) = self.state[name]["logp_ref"].sum(1), self.sides(name)
        return total[first], total[second]

    def scores(self, name: str, scorer: str) -> tuple[Array, Array]:
        """Scores ("gold" or "lexicon") of both sides of every pair."""
        values, (first, second) = self.state[name][scorer].numpy(), self.sides(name)
        return values[first.numpy()], values[second.numpy()]


def load_world(folder: Path) -> World:
    """Read the artefact."""
    return World(load_checkpoint(folder / "step-00000000")[1])
