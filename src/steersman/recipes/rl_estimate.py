"""What an rl job will cost before it is started: tokens, arithmetic, time and memory (``--dry-run``).

Every response is taken to be as long as it may be, and every filter to keep everything in its first round, so tokens
are an upper bound that refill rounds alone can exceed. Operations a token with P parameters: 2 P to draw it and for
each pass that scores it, 6 P for each time it is learnt from. Leaves out: doing it (`recipes.rl_job`).
"""

from collections.abc import Sequence
from typing import Any

import torch

from steersman.core.config import to_toml
from steersman.recipes.estimate import check_lora, duration, lora_parameters, matmul_rate, memory_of, shape
from steersman.recipes.jobs import output_folder, pick_device
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_job import make_ready
from steersman.recipes.rl_parts import copied_every, needs_reference
from steersman.recipes.teachers import SelfTeacher
from steersman.recipes.teachers_load import TeacherReady
from steersman.recipes.training import Runtime

_PROMPTS = 64  # of which the mean length is taken


def measures(recipe: RLRecipe, runtime: Runtime, allow_import: Sequence[str] = ()) -> dict[str, Any]:
    """Steps, tokens, parameters, seconds, bytes of memory, output folder and notes, as JSON values.

    Raises:
        UserError: whatever would stop the job before its first step.
    """
    ready = make_ready(recipe, runtime, allow_import)
    try:
        asked = ready.world.draw(min(recipe.budget.batch, _PROMPTS), recipe.budget.seed, 0)
    finally:
        ready.world.close()
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    rollout, device, model = recipe.rollout, pick_device(runtime), shape(ready.config)
    prompt = sum(map(len, asked.ids)) / len(asked)
    check_lora(model, recipe)
    batches = -(-ready.total // rollout.updates)
    rows = batches * recipe.budget.batch * rollout.samples
    drawn, seen = rows * rollout.max_new_tokens, rows * (prompt + rollout.max_new_tokens)
    parameters = sum(p.numel() for p in model.parameters())
    trained = lora_parameters(model, recipe) if recipe.model.lora else parameters
    reference = needs_reference(recipe) and (recipe.model.lora is None or recipe.model.reference is not None)
    told = {(p.by, p.before, p.rows) for s in recipe.stages for p in s.passes() if p.before is not None}
    passes = (rollout.updates > 1 and rollout.old == "recompute") + needs_reference(recipe) + len(told)
    work = parameters * (2 * drawn + (2 * passes + 6 * rollout.epochs) * seen)
    memory = memory_of(ready.config, parameters, trained, runtime.micro_tokens, recipe) + 4 * parameters * reference
    teacher, copied = _teacher(recipe, ready.teacher, parameters)
    streams = [n for s in recipe.stages for n in (*s.needs, *(p.stream for p in s.passes()))]
    compares = any("divergence" in n for n in streams)
    work += 2 * seen * (teacher * rollout.epochs + compares * (parameters + teacher))
    memory += 4 * copied
    if recipe.critic is not None:
        work += parameters * (2 + 6 * rollout.epochs) * seen
        memory += 16 * parameters
    rate = matmul_rate(device, getattr(ready.config, "hidden_size", 512))
    return {
        "steps": ready.total,
        "batches": batches,
        "responses": rows,
        "tokens": round(drawn),
        "parameters": parameters,
        "trained": trained,
        "seconds": work / rate,
        "memory_bytes": round(memory),
        "device": device.type,
        "gflops": rate / 1e9,
        "folder": str(output_folder(recipe, runtime)),
        "notes": list(ready.notes),
    }


def _teacher(recipe: RLRecipe, ready: TeacherReady, parameters: int) -> tuple[int, int]:
    """Parameters of the teacher, and those of them that are not the policy's or the reference's own."""
    if copied_every(recipe) is not None:  # its passes are those of the stage
        return 0, parameters
    if isinstance(recipe.teacher, SelfTeacher):
        mixed = recipe.teacher.version == "mixture"
        return parameters * (1 + mixed), parameters * (mixed or recipe.teacher.version == "average")
    if ready.found is None:
        return 0, 0
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(ready.found.folder, local_files_only=True)
    own = sum(p.numel() for p in shape(config).parameters())
    return own, own


def described(recipe: RLRecipe, runtime: Runtime, allow_import: Sequence[str] = ()) -> str:
    """What the job would do, for people, with the resolved recipe behind it."""
    found = measures(recipe, runtime, allow_import)
    batches = f"{found['batches']:,} batches of {recipe.budget.batch} x {recipe.rollout.samples} responses"
    lines = [
        *found["notes"],
        f"steps        {found['steps']:,}: {batches}, up to {found['tokens']:,} tokens drawn",
        f"parameters   {found['parameters']:,}, {found['trained']:,} of them trained",
        f"time         {duration(found['seconds'])} if all responses are as long as they may be, within a factor "
        f"of 3 ({found['device']}, {found['gflops']:.0f} GFLOP/s)",
        f"memory       about {found['memory_bytes'] / 2**30:.2f} GiB",
        f"would write  {found['folder']}",
        "",
        to_toml(recipe),
    ]
    return "\n".join(lines).rstrip()
