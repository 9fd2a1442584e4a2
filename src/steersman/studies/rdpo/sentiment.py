"""Part B of the rDPO study: a small language model, real film reviews, preference labels with known flips.

A gold scorer that training never sees makes the clean labels; a base policy trained on review sentences gives four
continuations of each prompt, all pairs of which are compared. Every arm starts from the same base policy, sees the
same pairs in the same order with the same flips, and is judged by the gold score of what it writes on unseen prompts.
Leaves out: the exact world (Part A), claims (`sentiment_claims`), drawing (`sentiment_show`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steersman.core.component import Component
from steersman.core.noise import permutation
from steersman.core.types import Rollouts
from steersman.language.decode import generate
from steersman.language.load import load_model, load_tokenizer, stop_ids
from steersman.language.score import response_logp
from steersman.objective.components import CDPO, DPO, IPO, RDPO, RIPO, ForwardCorrectedDPO
from steersman.objective.loss.preference import forward_corrected_dpo
from steersman.store.run import RunDir
from steersman.studies.rdpo.sentiment_world import MICRO_TOKENS, NEW_TOKENS, World, load_world
from steersman.study.declare import Cell
from steersman.task.sentiment import Gold, bradley_terry_labels, flip
from steersman.train.fit import fit
from steersman.train.loop import Budget, Habits
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.preference import PreferenceLearner, summed_logp

LOSSES: dict[str, type[Component]] = {
    "dpo": DPO,
    "cdpo": CDPO,
    "rdpo": RDPO,
    "ipo": IPO,
    "ripo": RIPO,
    "forward_corrected_dpo": ForwardCorrectedDPO,
}
TEMPERATURE = 1.0  # of the Bradley-Terry labels, in units of the gold margin
SHOWN = 8  # continuations whose tokens the report colours


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """Train one arm on one draw of labels and judge it; continues from the run's own checkpoint.

    Returns:
        JSON values: the last evaluation (gold score, win rate, KL, accuracy on clean pairs, likelihood of noisy
        validation labels), its course over training ("course"), and for the first seed token streams ("strip").
    """
    task, settings = cell.task, cell.arm.settings
    model = load_model(artefacts["base"] / "model")
    tokenizer = load_tokenizer(artefacts["base"] / "model")
    gold = Gold.load(artefacts["gold"])
    world = load_world(artefacts["world"])
    labels, rate = make_labels(world, task, bool(settings.get("clean")), cell.seed)
    budget = Budget(steps=task["steps"], batch=task["batch"], seed=cell.seed, limits={"margin": 1e4})
    optimiser = Optimiser(model.named_parameters(), AdamW(**settings["optim"]), budget.steps or 0)
    train = world.pairs("train", labels["train"])
    loss = _loss(settings, rate)
    learner = PreferenceLearner(model, train, world.reference("train"), loss, optimiser, MICRO_TOKENS)
    base = load_model(artefacts["base"] / "model")
    judge = _Judge(learner, base, world, labels, gold, tokenizer, rate, cell.seed)
    habits = Habits(log_every=10, evaluate_every=task["evaluate_every"], checkpoint_every=task["evaluate_every"])
    fitted = fit(judge, budget, run_dir, habits)
    # The start is known without a run: the base policy itself.
    course = [{"step": 0, "gold": float(world.base_scores.mean()), "kl": 0.0, "win_rate": 0.5}]
    course += [
        {"step": row["step"], **{k.removeprefix("eval/"): v for k, v in row.items() if k.startswith("eval/")}}
        for row in run_dir.read("metrics")
        if any(k.startswith("eval/") for k in row)
    ]
    result = {"last": dict(fitted.evaluation), "course": course, "reason": fitted.reason, "assumed_rate": rate}
    if cell.seed == 0:
        result["strip"] = _strip(model, world.rollouts("test").index(slice(0, SHOWN)), tokenizer, world.base_scores)
    return result | {"timing": {"tokens": fitted.tokens}}


def _loss(settings: Mapping[str, Any], rate: float) -> Any:
    values = dict(settings["loss"])
    if values.get("flip_rate") == "true":
        values["flip_rate"] = rate
    return LOSSES[values["kind"]].model_validate(values)


def make_labels(
    world: World, task: Mapping[str, Any], clean: bool, seed: int
) -> tuple[dict[str, np.ndarray[Any, Any]], float]:
    """Labels of training and validation pairs as this seed draws them, and the flip rate that losses are told.

    With ``labels`` = "bradley_terry" or "sign" they come from the gold margin and are flipped at the task's rate, which
    the losses are told. With "lexicon" they come from VADER (its ties from gold); the losses are told the lower end of
    the interval of an audit: 200 validation pairs whose lexicon label is compared with the gold one. `clean` trains on
    unflipped labels, as a ceiling; validation labels stay noisy.
    """
    out: dict[str, np.ndarray[Any, Any]] = {}
    for name, salt in (("train", 0), ("validation", 1)):
        first, second = world.scores(name, "gold")
        out[f"{name}_truth"] = label = first > second
        if task["labels"] == "bradley_terry":
            label = bradley_terry_labels(first, second, TEMPERATURE, 2 * seed + salt)
        spared = clean and name == "train"
        if task["labels"] == "lexicon" and not spared:
            one, two = world.scores(name, "lexicon")
            out[name] = np.where(one == two, label, one > two)
        else:
            out[name] = flip(label, 0.0 if spared else task["flip_rate"], 2 * seed + salt)[0]
    if task["labels"] == "lexicon":
        return out, audited_rate(out["validation"], out["validation_truth"], seed)
    return out, float(task["flip_rate"])


def audited_rate(label: "np.ndarray[Any, Any]", truth: "np.ndarray[Any, Any]", seed: int, audited: int = 200) -> float:
    """The lower end of the 95 % interval of the share of wrong labels in a random audit."""
    from steersman.objective.flip_rate import audit_flip_rate

    rows = permutation(len(label), seed, "audit")[:audited].numpy()
    return audit_flip_rate(int((label[rows] != truth[rows]).sum()), len(rows)).recommended


class _Judge:
    """The preference learner with this study's evaluation: what the policy writes, scored by gold."""

    def __init__(
        self,
        inner: PreferenceLearner,
        base: Any,
        world: World,
        labels: Mapping[str, "np.ndarray[Any, Any]"],
        gold: Gold,
        tokenizer: Any,
        rate: float,
        seed: int,
    ) -> None:
        self.inner, self.base, self.world, self.labels = inner, base, world, labels
        self.gold, self.tokenizer, self.rate, self.seed = gold, tokenizer, rate, seed
        self.validation, self.sides = world.rollouts("validation"), world.sides("validation")
        self.validation_reference = self.validation.streams["logp_ref"].sum(1)
        self.step, self.state_dict, self.load_state_dict = inner.step, inner.state_dict, inner.load_state_dict

    @property
    def rows(self) -> int:
        """Number of training pairs."""
        return self.inner.rows

    def evaluate(self) -> dict[str, float]:
        """Gold score of fresh samples, win rate against the base policy on the same prompts and noise, KL to it in
        nats a response, accuracy on clean validation pairs, likelihood of noisy validation labels."""
        model, world = self.inner.model, self.world
        samples = sample(model, world.test_prompts, self.tokenizer, seed=10_000 + self.seed)
        score = self.gold.score(texts_of(samples, self.tokenizer))
        base = world.base_scores
        assert samples.logp_behaviour is not None
        drawn = torch.where(samples.action, samples.logp_behaviour, 0.0).sum(1)
        kl = drawn - summed_logp(self.base, samples, MICRO_TOKENS)
        h = self._validation_margins()
        noisy = torch.from_numpy(self.labels["validation"])
        signed = torch.where(noisy, h, -h)
        clean = torch.from_numpy(self.labels["validation_truth"])
        beta = float(getattr(self.inner.loss, "beta", 1.0))
        return {
            "gold": float(score.mean()),
            "win_rate": float(np.mean((score > base) + 0.5 * (score == base))),
            "kl": float(kl.mean()),
            "length": float(samples.action.sum(1).float().mean()),
            "accuracy_clean": float(((h > 0) == clean).float().mean()),
            "likelihood": -float(forward_corrected_dpo(signed, beta, self.rate).mean()),
            "margin": float(h.abs().mean()),
        }

    def _validation_margins(self) -> Tensor:
        """h of the validation pairs; each continuation is scored once, whatever the number of its pairs."""
        ratio = summed_logp(self.inner.model, self.validation, MICRO_TOKENS) - self.validation_reference
        return ratio[self.sides[0]] - ratio[self.sides[1]]


def sample(model: Any, prompts: Sequence[Sequence[int]], tokenizer: Any, seed: int, each: int = 1) -> Rollouts:
    """Continuations of prompts at temperature 1."""
    return generate(
        model,
        prompts,
        max_new_tokens=NEW_TOKENS,
        stop_ids=stop_ids(model, tokenizer),
        seed=seed,
        samples_per_prompt=each,
    )


def texts_of(rollouts: Rollouts, tokenizer: Any) -> list[str]:
    """Prompt and continuation as text, special tokens left out."""
    rows = [r[:n] for r, n in zip(rollouts.ids.tolist(), rollouts.length.tolist(), strict=True)]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=True))


def _strip(model: Any, shown: Rollouts, tokenizer: Any, gold: "np.ndarray[Any, Any]") -> dict[str, Any]:
    """Token streams of fixed continuations: the policy's log-ratio and entropy, the reference's log-probability."""
    out: dict[str, Any] = {"tokens": [], "prompt_tokens": [], "log_ratio": [], "entropy": [], "logp_ref": []}
    for row in range(len(shown)):
        part = shown.index(slice(row, row + 1)).trim()
        with torch.no_grad():
            logp, entropy = response_logp(model, part)
        action, reference = part.action[0], part.streams["logp_ref"]
        for name, values in (("log_ratio", logp - reference), ("entropy", entropy), ("logp_ref", reference)):
            out[name].append([round(float(v), 4) for v in values[0, action]])
        out["tokens"].append([tokenizer.decode([i]) for i in part.ids[0].tolist()])
        out["prompt_tokens"].append(int(part.prompt_length[0]))
    return out | {"gold": [round(float(g), 4) for g in gold[: len(shown)]]}
