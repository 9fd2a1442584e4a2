"""Causal language models and tokenizers from local Hugging Face folders.

Only safetensors weights and only local files are read, and code that comes with a model is never run. Dropout is set to
0 when a model is loaded: log-probs of the same tokens must agree between two passes of the same weights, and the small
regularising effect is not worth a reference that disagrees with itself. Leaves out: writing (`save`; `save_model` is
importable from here too), making models (`build`), forward passes (`head`, `decode`).
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steersman.core.errors import CorruptFile, UserError
from steersman.language.save import no_bars
from steersman.language.save import save_model as save_model

WEIGHTS = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


def check_folder(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Refuse a folder that does not hold a complete local causal language model, without loading its weights.

    Returns:
        The folder's ``config.json`` as a dictionary.

    Raises:
        UserError: no such folder, no configuration, no tokenizer, no safetensors weights, an encoder or an
            encoder-decoder, quantised weights, a model that needs code of its own, a LoRA adapter.
        CorruptFile: a configuration that is not JSON.
    """
    path = Path(folder)
    if not path.is_dir():
        what = "is a file, not a model folder" if path.exists() else "does not exist"
        raise UserError(
            what, where=str(path), cure="Give a local folder in Hugging Face format; nothing is downloaded."
        )
    config = _read_config(path)
    _check_architecture(path, config)
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        cure = "Save one there with tokenizer.save_pretrained(folder)."
        raise UserError(f"has no tokenizer ({', '.join(TOKENIZER_FILES[:3])} ...)", where=str(path), cure=cure)
    _check_weights(path)
    return config


def _read_config(path: Path) -> dict[str, Any]:
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            cure = f'Load the base model with load_model(base, adapter="{path}").'
            raise UserError("holds a LoRA adapter, not a whole model", where=str(path), cure=cure)
        if (path / "recipe.json").is_file():
            what = "is a run that has not finished, and has no config.json"
            raise UserError(what, where=str(path), cure=_unfinished(path))
        raise UserError("has no config.json", where=str(path), cure="Give a folder written by save_pretrained.")
    try:
        config = json.loads((path / "config.json").read_text("utf-8"))
    except ValueError as error:
        raise CorruptFile(f"is not valid JSON ({error})", where=str(path / "config.json")) from None
    if not isinstance(config, dict):
        raise CorruptFile("is not a JSON object", where=str(path / "config.json"))
    return config


def _unfinished(run: Path) -> str:
    """What to do about a run that was stopped before it wrote its model."""
    saved = sorted(p.parent for p in run.glob("*/*/manifest.json"))
    other = f", or where a teacher is asked for name a checkpoint of it, e.g. {saved[-1]}" if saved else ""
    return f"Go on with it until it is finished (--resume {run}){other}."


def _check_architecture(path: Path, config: dict[str, Any]) -> None:
    """Refuse everything that is not a plain, unquantised causal language model known to transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    where, kind = str(path / "config.json"), config.get("model_type")
    if config.get("is_encoder_decoder"):
        raise UserError(f"{kind!r} is an encoder-decoder", where=where, allowed="causal (decoder-only) language models")
    if kind not in CAUSAL:
        own = " and brings code of its own, which is never run" if "auto_map" in config else ""
        allowed = "causal language models that transformers itself defines"
        raise UserError(f"model_type {kind!r} is not a causal language model{own}", where=where, allowed=allowed)
    known = {n for names in CAUSAL.values() for n in ([names] if isinstance(names, str) else names)}
    architectures = config.get("architectures") or []
    if architectures and not known & set(architectures):
        raise UserError(f"{architectures[0]} is not a causal language model", where=where, allowed="...ForCausalLM")
    if config.get("quantization_config"):
        cure = "Save a dequantised copy: model.dequantize(), then save_pretrained."
        raise UserError("the weights are quantised and cannot be trained", where=where, cure=cure)


def _check_weights(path: Path) -> None:
    """Refuse a folder whose safetensors weights are missing or incomplete."""
    index = path / f"{WEIGHTS}.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise CorruptFile("is not an index of weights", where=str(index)) from None
        missing = [name for name in shards if not (path / name).is_file()]
        if missing:
            raise UserError(f"weights are incomplete: {missing[0]} is missing", where=str(path))
    elif not (path / WEIGHTS).is_file():
        pickled = sorted(p.name for pattern in _PICKLED for p in path.glob(pattern))
        if not pickled:
            raise UserError(f"has no weights ({WEIGHTS})", where=str(path))
        convert = (
            'If you trust the file, convert it once: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{path}').save_pretrained('{path}')\""
        )
        what = f"has pickled weights only ({pickled[0]}), which can run code when read"
        raise UserError(what, where=str(path), allowed="safetensors", cure=convert)


def load_model(
    folder: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
    adapter: str | os.PathLike[str] | None = None,
) -> Any:
    """Load a causal language model for training or scoring, with dropout 0 and in evaluation mode.

    Args:
        folder: local folder with ``config.json``, safetensors weights and a tokenizer.
        dtype: type of the parameters: float32, bfloat16 or float16.
        device: where the parameters live.
        attention: transformers' name of an attention implementation ("sdpa", "eager", "flash_attention_2" ...).
        adapter: a LoRA adapter folder to merge into the weights after loading (needs `peft`).

    Raises:
        UserError: everything `check_folder` and `check_tokenizer_fits` refuse; weights that leave parameters of the
            model without a value; no end-of-sequence token; a device or dtype that does not exist here.
        CorruptFile: weights that cannot be read.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = torch_dtype(dtype)
    check_folder(folder)
    path = str(folder)
    tokenizer = load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        check_tokenizer_fits(tokenizer, config, where=path)
        zero_dropout(config)
        with no_bars():
            model, info = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=kind,
                attn_implementation=attention,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except UserError:
        raise
    except SafetensorError as error:
        raise CorruptFile(f"weights cannot be read ({error})", where=path) from None
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"the model cannot be loaded: {str(error).strip().splitlines()[0]}", where=path) from error
    lacking = sorted(info["missing_keys"]) + sorted(str(k) for k in info["mismatched_keys"])
    if lacking:
        what = f"the weights give no value to {len(lacking)} parameters of the model, first {lacking[0]}"
        raise UserError(
            what, where=path, cure="Give the folder of a causal language model, not of its trunk or a part."
        )
    if adapter is not None:
        model = _with_adapter(model, Path(adapter)).merge_and_unload()
    zero_dropout(model.config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    _set_special_ids(model, tokenizer)
    train_every_row(model)
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}", where="device") from None


def torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch type of a name, or the type itself; anything but float32, bfloat16 and float16 is refused."""
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise UserError(f"unknown dtype {dtype!r}", where="dtype", allowed=", ".join(DTYPES))
        return DTYPES[dtype]
    if dtype not in DTYPES.values():
        raise UserError(f"dtype {dtype} cannot be trained", where="dtype", allowed=", ".join(DTYPES))
    return dtype


def zero_dropout(config: Any) -> None:
    """Set every dropout probability that a transformers configuration names to 0, in place."""
    for name, value in config.to_dict().items():
        if ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, float | int) and value != 0:
            setattr(config, name, False if isinstance(value, bool) else 0.0)


def train_every_row(model: Any) -> None:
    """Let the embedding of the pad token have gradients like any other, in place.

    transformers gives it none: harmless for a pure pad token, wrong where the end-of-sequence token pads too, because
    its embedding would never be trained as an input. Here padding is told from lengths, so nothing leaks.
    """
    model.get_input_embeddings().padding_idx = None


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """Load a tokenizer from a local folder; where it has no pad token, its end-of-sequence token is used for padding.

    That is safe here because masks come from lengths and never from ``ids != pad``.

    Raises:
        UserError: no such folder, no tokenizer, no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    path = Path(folder)
    if not path.is_dir():
        raise UserError("does not exist", where=str(path), cure="Give a local folder; nothing is downloaded.")
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"has no tokenizer ({', '.join(TOKENIZER_FILES[:3])} ...)", where=str(path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception for a broken file
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the tokenizer cannot be loaded: {first}", where=str(path)) from error
    if tokenizer.eos_token_id is None:
        cure = "Name one: tokenizer.eos_token = '...'; tokenizer.save_pretrained(folder). Without it nothing can stop."
        raise UserError("the tokenizer has no end-of-sequence token", where=str(path), cure=cure)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def vocabulary(tokenizer: Any) -> int:
    """One more than the largest id a tokenizer can give."""
    return 1 + max(tokenizer.get_vocab().values())


def check_tokenizer_fits(tokenizer: Any, config: Any, *, where: str) -> None:
    """Refuse a tokenizer that can give ids for which the model has no embedding; spare rows are harmless."""
    size, rows = vocabulary(tokenizer), config.get_text_config().vocab_size
    if size > rows:
        cure = "Use the tokenizer the model was made with, or first model.resize_token_embeddings(len(tokenizer))."
        raise UserError(f"the tokenizer has {size} tokens but the embedding only {rows} rows", where=where, cure=cure)


def check_same_vocabulary(policy: Any, reference: Any, *, where: str = "reference", other: str = "reference") -> None:
    """Refuse a reference whose tokens do not mean what the policy's tokens mean.

    Args:
        policy: a tokenizer, or a model or configuration (then only the number of embedding rows is compared).
        reference: the same kind of thing as `policy`.
        where: the place to name in the message.
        other: what the message calls it.

    Raises:
        UserError: says how the vocabularies differ.
    """
    if hasattr(policy, "get_vocab"):
        first, second = policy.get_vocab(), reference.get_vocab()
        if first != second:
            differ = sorted(t for t in first.keys() | second.keys() if first.get(t) != second.get(t))
            example = f"{differ[0]!r} is {first.get(differ[0])} in one and {second.get(differ[0])} in the other"
            what = f"policy and {other} have different vocabularies: {len(differ)} tokens differ ({example})"
            raise UserError(
                what, where=where, cure="Both must use the same tokenizer; log-ratios have no meaning otherwise."
            )
        return
    a, b = (getattr(x, "config", x).get_text_config().vocab_size for x in (policy, reference))
    if a != b:
        raise UserError(f"the policy's vocabulary has {a} rows, the {other}'s {b}", where=where)


def context_length(config: Any) -> int | None:
    """The largest number of tokens a model accepts, from its configuration; None where it names no limit."""
    text = getattr(config, "config", config).get_text_config()
    found = [getattr(text, name, None) for name in _CONTEXT_NAMES]
    return next((int(n) for n in found if isinstance(n, int) and n > 0), None)


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a response: the tokenizer's end-of-sequence token first, then those the model names."""
    named = [tokenizer.eos_token_id]
    for config in (getattr(model, "generation_config", None), model.config):
        eos = getattr(config, "eos_token_id", None)
        named += eos if isinstance(eos, list | tuple) else [eos]
    return tuple(dict.fromkeys(int(i) for i in named if i is not None))


def _set_special_ids(model: Any, tokenizer: Any) -> None:
    """Give the model the ids its tokenizer uses where its configuration names none, so that a saved copy can stop."""
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is None:
            continue
        for name in ("eos_token_id", "pad_token_id"):
            if getattr(config, name, None) is None:
                setattr(config, name, getattr(tokenizer, name))


def _with_adapter(model: Any, adapter: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError("LoRA needs the package peft", cure="pip install peft") from None
    if not (adapter / "adapter_config.json").is_file() or not (adapter / "adapter_model.safetensors").is_file():
        raise UserError("holds no LoRA adapter (adapter_config.json, adapter_model.safetensors)", where=str(adapter))
    return PeftModel.from_pretrained(model, str(adapter))
