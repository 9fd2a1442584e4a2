"""The student of the planted-quadrant task that studies of distillation start from.

A small GPT-2 imitates the corrupted generator (`task.planted.examples`), each example seen once, so that what it gets
wrong, and how sure it is of it, is known token by token. Its positions are learnt: where a digit's summands stand is a
matter of absolute places, which a Llama of this size, whose attention sees distances, had not found after 1,500 steps.
`artefact` declares it for a study; the folder's ``model`` is an ordinary transformers folder. Leaves out: distillation
(`train.terms_distill`), the teacher (`task.planted`).
Source: the testbed is ours; 1,500 steps of 64 examples as in its pilot.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersman.core.noise import normal_
from steersman.language.closed import closed_tokenizer
from steersman.language.decode import generate
from steersman.language.save import save_model
from steersman.store.files import read_json, write_json
from steersman.store.run import RunDir
from steersman.study.declare import Artefact
from steersman.task import planted
from steersman.task.planted import Kind, Planted
from steersman.train.fit import fit
from steersman.train.loop import Budget, Habits
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.sft import SftLearner

SETTINGS: dict[str, Any] = {
    "model": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "optim": {"lr": 3e-3, "schedule": "cosine", "warmup": 0.05, "beta2": 0.95},
    "steps": 1500,
    "batch": 64,
    "seed": 0,
    "judged": 2000,
}
"""Of the model and its training, and the unseen prompts that it answers at the end."""
INIT_STD = 0.02
MICRO_TOKENS = 8192
SPARE = 4
"""Tokens that a response may have beyond a right one."""
_JUDGE_SEED = 1
_JUDGED = "judged.json"


def artefact(task: Planted, *, name: str = "student", **changes: Any) -> Artefact:
    """The student as something a study needs.

    Args:
        task: the knobs.
        name: what cells call it in `needs`.
        changes: keys of `SETTINGS` with other values.
    """
    return Artefact(name, {"task": task.model_dump(mode="json"), **SETTINGS, **changes}, build_student)


def new_student(size: Mapping[str, int], seed: int) -> Any:
    """A randomly initialised GPT-2 in evaluation mode without dropout; equal arguments give equal parameters.

    Every matrix is N(0, 0.02^2), those that write into the residual stream N(0, 0.02^2 / (2 layers)); biases are 0 and
    norms 1, as `transformers` has it, whose global generator is not moved.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    off = {f"{where}_pdrop": 0.0 for where in ("resid", "embd", "attn")}
    ids = {"bos_token_id": None, "eos_token_id": planted.EOS, "pad_token_id": planted.PAD}
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are overwritten below
        model = GPT2LMHeadModel(GPT2Config(vocab_size=planted.VOCABULARY, **size, **off, **ids))
    matrices = [(name, p) for name, p in model.named_parameters() if p.ndim > 1]
    inner = [x for x in matrices if x[0].endswith("c_proj.weight")]
    normal_([x for x in matrices if not x[0].endswith("c_proj.weight")], INIT_STD, seed, "init")
    normal_(inner, INIT_STD / (2 * size["n_layer"]) ** 0.5, seed, "init")
    return model.eval()


def model_folder(artefact_folder: Path) -> Path:
    """Where the built artefact keeps the model."""
    return artefact_folder / "model"


def build_student(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    """Train on the corrupted generator, and save; the line says how often the student answers rightly."""
    task, size = Planted.model_validate(settings["task"]), settings["model"]
    steps, batch, seed = (int(settings[k]) for k in ("steps", "batch", "seed"))
    model = new_student(size, seed)
    optimiser = Optimiser(model.named_parameters(), AdamW(**settings["optim"]), steps)
    learner = SftLearner(model, planted.examples(task, steps * batch, seed), optimiser, MICRO_TOKENS)
    fit(learner, Budget(steps=steps, batch=batch, seed=seed), RunDir(folder / "training"), Habits(log_every=50))
    tokenizer = closed_tokenizer(planted.TOKENS, planted.EOS, planted.PAD, size["n_positions"])
    save_model(model, tokenizer, model_folder(folder))
    found = judge(model, task, int(settings["judged"]))
    write_json(folder / _JUDGED, found)
    parameters, shares = sum(p.numel() for p in model.parameters()), {k: r / max(n, 1) for k, (r, n) in found.items()}
    return (
        f"{parameters:,} parameters; sampled, {shares['exact']:.3f} of its responses are right, as are "
        f"{shares['carry']:.3f} of digits with a carry, {shares['times']:.3f} under x, {shares['plain']:.3f} of others"
    )


def judged(artefact_folder: Path) -> dict[str, list[int]]:
    """What `judge` found when the student was built."""
    return dict(read_json(artefact_folder / _JUDGED))


def judge(model: Any, task: Planted, n: int) -> dict[str, list[int]]:
    """Right and all of `n` unseen prompts, one response each at temperature 1: whole responses, and digits by kind.

    Prompts and noise are the same for every model, and neither is that of training.

    Args:
        model: a causal language model on the task's tokens.
        task: the knobs.
        n: number of prompts, >= 1.

    Returns:
        ``exact`` (responses), ``carry``, ``times`` and ``plain`` (digits): [right, all].
    """
    asked = planted.prompts(task, n, seed=_JUDGE_SEED, purpose="judged")
    drawn = generate(model, asked, max_new_tokens=planted.RESPONSE + SPARE, stop_ids=planted.EOS, seed=_JUDGE_SEED)
    right, carry, times = planted.truth(task, drawn.ids)
    good = planted.written_digits(drawn) == right
    kinds = {Kind.CARRY: carry, Kind.TIMES: times[:, None].expand(carry.shape)}
    kinds[Kind.PLAIN] = ~carry & ~times[:, None]
    digits = {k.name.lower(): [int((good & mask).sum()), int(mask.sum())] for k, mask in kinds.items()}
    return {"exact": [int(planted.grade(task, drawn).parts["correct"].sum()), n], **digits}
