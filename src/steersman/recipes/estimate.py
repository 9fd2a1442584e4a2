"""What a job will cost before it is started: tokens, arithmetic, time and memory (``--dry-run``).

Time = 6 P tokens / rate for training (2 P for reference log-probs), P = parameters that multiply, rate = this machine's
measured matrix-product speed at the model's width, halved for everything else. An estimate, not a promise: expect a
factor of two either way. Leaves out: doing it (`recipes.jobs`).
"""

import time
from typing import Any

import torch

from steersman.core.config import to_toml
from steersman.language.load import check_tokenizer_fits, context_length, load_tokenizer
from steersman.recipes.checks import check_data, check_model, check_trained_folder
from steersman.recipes.data import Data, read_data
from steersman.recipes.jobs import output_folder, pick_device
from steersman.recipes.training import AnyRecipe, PreferenceRecipe, Recipe, Runtime
from steersman.train.lora import check_targets

_SHARE_OF_PEAK = 0.5


def estimate(recipe: Recipe, runtime: Runtime) -> str:
    """Check model, data and settings, and describe what the job would do; trains and writes nothing.

    Raises:
        UserError: whatever would stop the job before training.
    """
    found = measures(recipe, runtime)
    seconds, memory = duration(found["seconds"]), found["memory_bytes"] / 2**30
    passes, tokens = found["passes"], found["tokens"]
    lines = [
        *found["notes"],
        f"steps        {found['steps']} of {recipe.budget.batch} rows ({passes:.2g} passes, {tokens:,.0f} tokens)",
        f"parameters   {found['parameters']:,}, {found['trained']:,} of them trained",
        f"time         {seconds}, within a factor of 2 ({found['device']}, {found['gflops']:.0f} GFLOP/s)",
        f"memory       about {memory:.2f} GiB",
        f"would write  {found['folder']}",
        "",
        to_toml(recipe),
    ]
    return "\n".join(lines).rstrip()


def measures(recipe: Recipe, runtime: Runtime) -> dict[str, Any]:
    """The same as JSON values: steps, tokens, parameters, seconds, bytes of memory, output folder, notes on the data.

    Raises:
        UserError: as `estimate`.
    """
    config, data = _checked(recipe)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    device, model = pick_device(runtime), shape(config)
    report = data.train.report
    steps = recipe.budget.total(report.rows_out)
    passes = steps * recipe.budget.batch / report.rows_out
    tokens = passes * report.tokens
    parameters = sum(p.numel() for p in model.parameters())
    trained = lora_parameters(model, recipe) if recipe.model.lora else parameters
    rate = matmul_rate(device, getattr(config, "hidden_size", 512))
    work = 6 * parameters * tokens + (2 * parameters * report.tokens if isinstance(recipe, PreferenceRecipe) else 0)
    memory = memory_of(config, parameters, trained, min(runtime.micro_tokens, report.tokens), recipe)
    return {
        "steps": steps,
        "passes": passes,
        "tokens": round(tokens),
        "parameters": parameters,
        "trained": trained,
        "seconds": work / rate,
        "memory_bytes": round(memory),
        "device": device.type,
        "gflops": rate / 1e9,
        "folder": str(output_folder(recipe, runtime)),
        "notes": list(data.notes),
    }


def _checked(recipe: Recipe) -> tuple[Any, Data]:
    """Model configuration and data of a recipe that nothing would stop before its first step."""
    from transformers import AutoConfig

    path = recipe.model.path
    check_trained_folder(recipe)
    tokenizer = load_tokenizer(path)
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    check_tokenizer_fits(tokenizer, config, where=path)
    check_model(recipe, tokenizer)
    check_lora(shape(config), recipe)
    data = read_data(recipe, tokenizer, context_length(config))
    check_data(recipe, data)
    return config, data


def check_lora(model: Any, recipe: AnyRecipe) -> None:
    """Refuse adapters on layers that the model does not have."""
    if recipe.model.lora is not None:
        check_targets(model, recipe.model.lora.targets)


def shape(config: Any) -> Any:
    """A model without numbers in it."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def lora_parameters(model: Any, recipe: AnyRecipe) -> int:
    """Parameters of the recipe's adapters."""
    lora = recipe.model.lora
    assert lora is not None
    head = model.get_output_embeddings()
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    if not isinstance(lora.targets, str):
        layers = [(n, m) for n, m in layers if n.rpartition(".")[2] in lora.targets]
    return sum(lora.rank * (m.in_features + m.out_features) for _, m in layers)


def matmul_rate(device: torch.device, width: int) -> float:
    """Operations per second of float32 matrix products ``[1024, width] x [width, width]`` on this machine."""
    a, b = torch.ones(1024, width, device=device), torch.ones(width, width, device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        for _ in range(4):
            product = a @ b
        float(product[0, 0])  # waits for the device
        best = min(best, (time.perf_counter() - began) / 4)
    return _SHARE_OF_PEAK * 2 * 1024 * width * width / best


def memory_of(config: Any, parameters: int, trained: int, tokens: int, recipe: AnyRecipe) -> float:
    """Bytes: float32 weights, gradients and two moments, plus the activations kept for the backward pass."""
    width, layers = getattr(config, "hidden_size", 512), getattr(config, "num_hidden_layers", 12)
    inner = getattr(config, "intermediate_size", None) or 4 * width
    per_layer = width if recipe.model.activation_checkpointing else 10 * width + 4 * inner
    return 4 * parameters + 12 * trained + 4 * tokens * layers * per_layer + 64 * 2**20


def duration(seconds: float) -> str:
    """About how many seconds, for people."""
    if seconds < 1:
        return "under a second"
    return f"about {_rounded(seconds)}"


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
