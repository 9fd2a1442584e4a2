"""The reward model of the PF-PPO study: Bradley-Terry on pairs of the policy's own responses.

As in the paper each prompt gives one pair, the two of its five responses that are farthest apart by edit distance, and
the one that passes the tests is the better; where both pass or both fail there is no label and no pair. Its prompts are
new ones of the functions that the policy was taught. It stays imperfect, which is the point.
Leaves out: scoring and saving (`reward.model`), training (`train.reward_model`).
Source: arXiv 2409.06957, section 5 (pairs); sizes and rate are ours, chosen by the share of held-out pairs ranked
rightly: 0.62 and 0.68 with up to 8,000 prompts, 0.705 with 24,000 (four epochs), 0.835 with 40,000 (six), which costs
200 CPU seconds.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from steersman.core.errors import UserError
from steersman.core.types import Pairs, Rollouts
from steersman.language.decode import generate
from steersman.language.load import load_model, load_tokenizer
from steersman.objective.components import BradleyTerry
from steersman.reward.model import build_reward_model, quality_report, save_reward_model, score_rows
from steersman.store.run import RunDir
from steersman.studies.pf_ppo.names import POLICY, REWARD
from steersman.studies.tiny_code_policy import ROOM, TASK, TAUGHT, model_folder
from steersman.study.declare import Artefact
from steersman.task.tiny_code import TinyCode, grade, prompts
from steersman.task.tiny_code_language import EOS
from steersman.train.fit import fit
from steersman.train.loop import Budget, Habits
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.reward_model import RewardLearner

SETTINGS: dict[str, Any] = {
    "prompts": 40000,
    "samples": 5,
    "epochs": 6,
    "batch": 64,
    "optim": {"lr": 2e-3, "schedule": "cosine", "warmup": 0.05},
    "held_out": 0.15,
    "seed": 2,
}
STEP = 2**29
"""Step of its prompts, which no run reaches."""
MICRO_TOKENS = 8192


def artefact(**changes: Any) -> Artefact:
    """The reward model as something the study needs; `changes` are keys of `SETTINGS` with other values."""
    settings = {**SETTINGS, **changes, "task": TASK.model_dump(mode="json")}
    return Artefact(REWARD, settings, build, (POLICY,))


def build(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    """Sample, pair, train, save; the line says how often it ranks a held-out pair rightly."""
    policy, seed = model_folder(inputs[POLICY]), int(settings["seed"])
    drawn, correct = sampled(policy, TinyCode.model_validate(settings["task"]), settings)
    pairs = farthest_pairs(drawn, correct, int(settings["samples"]))
    cut = int(len(pairs) * float(settings["held_out"]))
    held_out, train = pairs.index(slice(0, cut)), pairs.index(slice(cut, len(pairs)))
    model, batch = build_reward_model(policy, seed), min(int(settings["batch"]), len(train))
    budget = Budget(steps=max(int(settings["epochs"]) * len(train) // batch, 1), batch=batch, seed=seed)
    optimiser = Optimiser(model.named_parameters(), AdamW(**settings["optim"]), budget.steps)
    learner = RewardLearner(model, train, BradleyTerry(), optimiser, MICRO_TOKENS)
    fit(learner, budget, RunDir(folder / "training"), Habits(log_every=20))
    first, second = (score_rows(model, side, MICRO_TOKENS) for side in (held_out.first, held_out.second))
    report = quality_report(first, second, held_out.label, held_out.first.length, held_out.second.length)
    raw = score_rows(model, drawn, MICRO_TOKENS).double()
    report |= {"mean": float(raw.mean()), "std": float(raw.std(correction=0))}
    save_reward_model(model, load_tokenizer(policy), folder / "model", report)
    found = report["accuracy"]
    told = "nothing of them" if found is None else "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found)
    return f"{len(train):,} pairs; of {len(held_out):,} held-out pairs it ranks {told} rightly"


def sampled(policy: Path, task: TinyCode, settings: Mapping[str, Any]) -> tuple[Rollouts, torch.Tensor]:
    """Responses of the policy to new prompts, all of a prompt together, and which of them pass."""
    asked = prompts(task, int(settings["prompts"]), int(settings["seed"]), STEP, purpose=TAUGHT)
    n = int(settings["samples"])
    drawn = generate(load_model(policy), asked.prompts, samples_per_prompt=n, max_new_tokens=ROOM, stop_ids=EOS,
                     seed=int(settings["seed"]), step=STEP)  # fmt: skip
    rows = [row for row in asked.rows for _ in range(n)]
    return drawn, grade(drawn, rows).scores.parts["correct"]


def farthest_pairs(drawn: Rollouts, correct: torch.Tensor, samples: int) -> Pairs:
    """The two responses of each prompt with the largest edit distance, the first such pair, where one passes."""
    ids = [row[a:b] for row, a, b in zip(drawn.ids.tolist(), drawn.prompt_length.tolist(), drawn.length.tolist(),
                                         strict=True)]  # fmt: skip
    better, worse = [], []
    for begin in range(0, len(ids), samples):
        i, j = max(combinations(range(begin, begin + samples), 2), key=lambda p: distance(ids[p[0]], ids[p[1]]))
        if bool(correct[i]) != bool(correct[j]):
            better.append(i if correct[i] else j)
            worse.append(j if correct[i] else i)
    if not better:
        raise UserError("no prompt has a right and a wrong response, so there is no pair", where="pf-ppo, reward model")
    return Pairs(drawn.index(torch.tensor(better)), drawn.index(torch.tensor(worse)), torch.ones(len(better)))


def distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Edit distance: insertions, deletions and replacements (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
