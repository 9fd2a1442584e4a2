"""The supervised policy of TinyCode that studies of reinforcement learning start from.

A small Llama imitates the shortest programs of the functions of one purpose until it answers about half of new
prompts of these functions rightly. A model of this size learns the functions that it is shown; of other functions it
gets few right. So training by reward asks for the taught functions with new examples, and unseen functions are judged
beside them. `artefact` declares it for a study. Leaves out: training by reward (`recipes.rl_job`), the task
(`task.tiny_code`).
Sources: the testbed is ours; programs of 3 and 4 nodes over ints, 1,300 steps of 64 examples (two passes) at 4e-3 were
chosen for CPU time (about 65 seconds) and so that room is left to learn, after six trials of which only the share of
right answers was looked at (0.61 with 1,500 steps).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.language.build import SmallModel, build_model
from steersman.language.closed import closed_tokenizer
from steersman.language.decode import generate
from steersman.language.save import save_model
from steersman.stats import wilson
from steersman.store.files import read_json, write_json
from steersman.store.run import RunDir
from steersman.study.declare import Artefact
from steersman.task.tiny_code import TinyCode, examples, grade, prompts
from steersman.task.tiny_code_functions import Purpose
from steersman.task.tiny_code_language import EOS, PAD, TOKENS, VOCABULARY
from steersman.train.fit import fit
from steersman.train.loop import Budget, Habits
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.sft import SftLearner

TASK = TinyCode(inputs="int", size=(3, 4))
TAUGHT: Purpose = "sft"
UNSEEN: Purpose = "test"
SETTINGS: dict[str, Any] = {
    "model": {"width": 64, "layers": 2, "heads": 4, "mlp": 176, "context": 80},
    "optim": {"lr": 4e-3, "schedule": "cosine", "warmup": 0.05, "beta2": 0.95},
    "steps": 1300,
    "batch": 64,
    "passes": 2,
    "seed": 0,
    "judged": 2000,
}
"""Of the model and its training, and the prompts of each kind that it answers at the end."""
ROOM = 20
"""Most tokens of a response; programs of 3 and 4 nodes over ints have up to 11 with the end."""
MICRO_TOKENS = 8192
JUDGE_SEED = 1
JUDGE_STEP = 2**30
"""Seed and step of the judged prompts, which no run and no evaluation reaches."""
_JUDGED = "judged.json"


def artefact(task: TinyCode | None = None, *, name: str = "policy", **changes: Any) -> Artefact:
    """The policy as something a study needs.

    Args:
        task: the knobs; None = `TASK`.
        name: what cells call it in `needs`.
        changes: keys of `SETTINGS` with other values; a table that names some keys keeps the others.

    Raises:
        UserError: an unknown key; a task whose longest row exceeds the model's context.
    """
    task = TASK if task is None else task
    settings = dict(SETTINGS)
    for key, value in changes.items():
        if key not in settings:
            raise UserError(f"unknown key {key!r}", where="tiny_code_policy.artefact", allowed=", ".join(SETTINGS))
        settings[key] = {**settings[key], **value} if isinstance(settings[key], dict) else value
    most, context = task.max_prompt + task.max_response, settings["model"]["context"]
    if most > context:
        what = f"rows of up to {most} tokens exceed the model's context of {context}"
        raise UserError(what, where="tiny_code_policy.artefact", cure='Give model={"context": ...}.')
    return Artefact(name, {"task": task.model_dump(mode="json"), **settings}, build_policy)


def model_folder(artefact_folder: Path) -> Path:
    """Where the built artefact keeps the model."""
    return artefact_folder / "model"


def build_policy(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    """Train on examples of the taught functions, and save; the line says how often the policy answers rightly."""
    task, size = TinyCode.model_validate(settings["task"]), SmallModel(**settings["model"])
    steps, batch, seed = (int(settings[k]) for k in ("steps", "batch", "seed"))
    model = build_model(size, VOCABULARY, seed, eos_id=EOS, pad_id=PAD)
    data = examples(task, -(-steps * batch // int(settings["passes"])), seed)
    optimiser = Optimiser(model.named_parameters(), AdamW(**settings["optim"]), steps)
    learner = SftLearner(model, data, optimiser, MICRO_TOKENS)
    fit(learner, Budget(steps=steps, batch=batch, seed=seed), RunDir(folder / "training"), Habits(log_every=50))
    save_model(model, build_tokenizer(size.context), model_folder(folder))
    n = int(settings["judged"])
    right = {purpose: count_right(model, task, n, purpose) for purpose in (TAUGHT, UNSEEN)}
    write_json(folder / _JUDGED, {"right": right, "judged": n})
    parameters = sum(p.numel() for p in model.parameters())
    found = {k: wilson(v, n) for k, v in right.items()}
    told = {k: f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" for k, i in found.items()}
    return (
        f"{parameters:,} parameters; sampled, it answers {told[TAUGHT]} of {n:,} new prompts of the functions it was "
        f"taught rightly, and {told[UNSEEN]} of those of functions it never saw"
    )


def judged(artefact_folder: Path, purpose: Purpose = TAUGHT) -> tuple[int, int]:
    """What `count_right` found when the policy was built, and of how many prompts."""
    found = read_json(artefact_folder / _JUDGED)
    return int(found["right"][purpose]), int(found["judged"])


def count_right(model: Any, task: TinyCode, n: int, purpose: Purpose = TAUGHT, room: int = ROOM) -> int:
    """How many of `n` new prompts of a purpose `model` answers rightly, one response each at temperature 1.

    Prompts and noise are the same for every model, and neither is that of training or of a loop's own evaluation.

    Args:
        model: a causal language model on the task's tokens.
        task: the knobs.
        n: number of prompts, >= 1.
        purpose: whose functions are asked for.
        room: most tokens of a response.
    """
    return sum(right for right, _ in right_by_size(model, task, n, purpose, room).values())


def right_by_size(
    model: Any, task: TinyCode, n: int, purpose: Purpose = TAUGHT, room: int = ROOM
) -> dict[int, tuple[int, int]]:
    """The same by nodes of the shortest program: right answers, and prompts."""
    asked = prompts(task, n, JUDGE_SEED, JUDGE_STEP, purpose=purpose)
    drawn = generate(model, asked.prompts, max_new_tokens=room, stop_ids=EOS, seed=JUDGE_SEED)
    correct, sizes = grade(drawn, asked.rows).scores.parts["correct"].tolist(), [row["size"] for row in asked.rows]
    return {
        size: (sum(c for c, s in zip(correct, sizes, strict=True) if s == size), sizes.count(size))
        for size in sorted(set(sizes))
    }


def build_tokenizer(context: int | None = None) -> Any:
    """A tokenizer of the language's tokens with their ids, the longest first.

    Args:
        context: recorded as its `model_max_length`.
    """
    return closed_tokenizer(TOKENS, EOS, PAD, context)
