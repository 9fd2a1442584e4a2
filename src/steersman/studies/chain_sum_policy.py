"""The supervised policy of the running-sum task that studies of reinforcement learning start from.

A small Llama imitates the noisy demonstrator (`task.chain_sum.examples`, half of them with a hint) until it answers as
often rightly as the demonstrator does, so what is left to learn is not to err. `artefact` declares it for a study; the
same settings give the same cached folder, whatever study asks. The folder's ``model`` is an ordinary transformers
folder whose tokenizer knows the task's tokens. Leaves out: training by reward (`recipes.rl_job`), what is true of a
response (`task.chain_sum_truth`).
Sources: the testbed is ours; 1,200 steps of 64 examples at 4e-3 were chosen for CPU time (about 50 seconds; at 8e-3
training fails).
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
from steersman.task import chain_sum
from steersman.task.chain_sum import ChainSum
from steersman.task.chain_sum_truth import success
from steersman.train.fit import fit
from steersman.train.loop import Budget, Habits
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.sft import SftLearner

SETTINGS: dict[str, Any] = {
    "model": {"width": 64, "layers": 2, "heads": 4, "mlp": 176, "context": 64},
    "optim": {"lr": 4e-3, "schedule": "cosine", "warmup": 0.05, "beta2": 0.95},
    "steps": 1200,
    "batch": 64,
    "seed": 0,
    "judged": 4000,
    "spare": 6,
}
"""Of the model and its training; the unseen prompts that it answers at the end, and the tokens that a response may then
have beyond the demonstrator's longest, since trained policies may write more without being wrong."""
MICRO_TOKENS = 8192
_JUDGE_SEED = 1
_JUDGED = "judged.json"


def artefact(task: ChainSum | None = None, *, name: str = "policy", **changes: Any) -> Artefact:
    """The policy as something a study needs.

    Args:
        task: the knobs; None = k 5, error 0.12, half of the examples with a hint.
        name: what cells call it in `needs`.
        changes: keys of `SETTINGS` with other values; a table that names some keys keeps the others.

    Raises:
        UserError: an unknown key; a task whose longest row exceeds the model's context.
    """
    task = ChainSum() if task is None else task
    settings = dict(SETTINGS)
    for key, value in changes.items():
        if key not in settings:
            raise UserError(f"unknown key {key!r}", where="chain_sum_policy.artefact", allowed=", ".join(SETTINGS))
        settings[key] = {**settings[key], **value} if isinstance(settings[key], dict) else value
    context = settings["model"]["context"]
    if task.max_length > context:
        what = f"rows of up to {task.max_length} tokens exceed the model's context of {context}"
        raise UserError(what, where="chain_sum_policy.artefact", cure='Give model={"context": ...}.')
    knobs = task.model_dump(mode="json", exclude=None if task.modes else {"error_long"})
    return Artefact(name, {"task": knobs, **settings}, build_policy)


def model_folder(artefact_folder: Path) -> Path:
    """Where the built artefact keeps the model."""
    return artefact_folder / "model"


def build_policy(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    """Train on fresh examples, each seen once, and save; the line says how often the policy answers rightly."""
    task, size = ChainSum.model_validate(settings["task"]), SmallModel(**settings["model"])
    steps, batch, seed = (int(settings[k]) for k in ("steps", "batch", "seed"))
    model = build_model(size, chain_sum.VOCABULARY, seed, eos_id=chain_sum.EOS, pad_id=chain_sum.PAD)
    data = chain_sum.examples(task, steps * batch, seed)
    optimiser = Optimiser(model.named_parameters(), AdamW(**settings["optim"]), steps)
    learner = SftLearner(model, data, optimiser, MICRO_TOKENS)
    fit(learner, Budget(steps=steps, batch=batch, seed=seed), RunDir(folder / "training"), Habits(log_every=50))
    save_model(model, build_tokenizer(size.context), model_folder(folder))
    judged = int(settings["judged"])
    right = count_right(model, task, judged, task.max_response + int(settings["spare"]))
    write_json(folder / _JUDGED, {"right": right, "judged": judged})
    found, parameters = wilson(right, judged), sum(p.numel() for p in model.parameters())
    return (
        f"{parameters:,} parameters; sampled, it answers {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] of "
        f"{judged:,} unseen prompts rightly, its demonstrator {success(task):.3f}"
    )


def judged(artefact_folder: Path) -> tuple[int, int]:
    """What `count_right` found when the policy was built, and of how many prompts."""
    found = read_json(artefact_folder / _JUDGED)
    return int(found["right"]), int(found["judged"])


def count_right(model: Any, task: ChainSum, n: int, room: int) -> int:
    """How many of `n` unseen prompts without a hint `model` answers rightly, one response each at temperature 1.

    Prompts and noise are the same for every model, and neither is that of training or of a loop's own evaluation.

    Args:
        model: a causal language model on the task's tokens.
        task: the knobs.
        n: number of prompts, >= 1.
        room: most tokens of a response.
    """
    given = chain_sum.prompts(task, n, seed=_JUDGE_SEED, purpose="judged")
    drawn = generate(model, given, max_new_tokens=room, stop_ids=chain_sum.EOS, seed=_JUDGE_SEED)
    return int(chain_sum.grade(drawn).parts["correct"].sum())


def count_right_told(model: Any, task: ChainSum, n: int, room: int) -> int:
    """`count_right` of the same prompts with the right answer told in a hint, as examples show it."""
    given = chain_sum.prompts(task, n, seed=_JUDGE_SEED, purpose="judged")
    rows = zip(given.ids.tolist(), given.length.tolist(), chain_sum.target(given).tolist(), strict=True)
    told = [[*ids[:size], chain_sum.HINT, right, chain_sum.EQUALS] for ids, size, right in rows]
    drawn = generate(model, told, max_new_tokens=room, stop_ids=chain_sum.EOS, seed=_JUDGE_SEED)
    return int(chain_sum.grade(drawn).parts["correct"].sum())


def build_tokenizer(context: int | None = None) -> Any:
    """A tokenizer of the task's tokens with their ids: one token a character, besides the end and the padding.

    Args:
        context: recorded as its `model_max_length`.
    """
    return closed_tokenizer(chain_sum.TOKENS, chain_sum.EOS, chain_sum.PAD, context)
