"""What processes of one run tell each other: nested values as bytes, tensors as safetensors and the rest as JSON.

No pickle, so a message can hold nothing that runs. Leaves out: sending (`processes`).
"""

import json
from typing import Any

from safetensors.torch import load, save

from steersman.core.errors import CorruptFile, RunStopped, UserError
from steersman.core.types import Scores
from steersman.reward.verifiable import Graded
from steersman.store.checkpoint import flatten, restore
from steersman.store.files import tag, untag

_HEAD = 8
_GRADED = "$graded"
_FIELDS = ("what", "where", "allowed", "cure")


def pack(value: Any) -> bytes:
    """A value of dicts, lists, tensors, JSON values and `Graded` as bytes; tuples become lists, keys become texts.

    Raises:
        TypeError: something else is in it.
    """
    tensors, tree = flatten(_plain(value))
    text = json.dumps(tag(tree), allow_nan=False).encode()
    return len(text).to_bytes(_HEAD, "big") + text + save({k: x.clone() for k, x in tensors.items()})


def unpack(data: bytes) -> Any:
    """Undo `pack`."""
    end = _HEAD + int.from_bytes(data[:_HEAD], "big")
    return _rich(restore(load(data[end:]), untag(json.loads(data[_HEAD:end]))))


def _plain(value: Any) -> Any:
    if isinstance(value, Graded):
        scores = value.scores
        errors, reasons = ([[k, x] for k, x in d.items()] for d in (scores.errors, value.reasons))
        told = {"value": scores.value, "valid": scores.valid, "parts": scores.parts, "errors": errors}
        return {_GRADED: told | {"answer": list(value.answer), "reasons": reasons, "statuses": list(value.statuses)}}
    if isinstance(value, dict):
        return {k: _plain(x) for k, x in value.items()}
    return [_plain(x) for x in value] if isinstance(value, list | tuple) else value


def _rich(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_GRADED}:
            told = value[_GRADED]
            scores = Scores(told["value"], told["valid"], told["parts"], dict(told["errors"]))
            return Graded(scores, tuple(told["answer"]), dict(told["reasons"]), tuple(told["statuses"]))
        return {k: _rich(x) for k, x in value.items()}
    return [_rich(x) for x in value] if isinstance(value, list) else value


def describe(error: BaseException) -> dict[str, str]:
    """An error as JSON values."""
    told = {"kind": type(error).__name__, "text": str(error)}
    return told | ({k: getattr(error, k) for k in _FIELDS} if isinstance(error, UserError) else {})


def revive(told: dict[str, str], rank: int) -> Exception:
    """The error that process `rank` told of; one that is a bug stays visible as such."""
    if "what" in told:
        kind = CorruptFile if told["kind"] == "CorruptFile" else UserError
        return kind(told["what"], where=told["where"], allowed=told["allowed"], cure=told["cure"])
    if told["kind"] == "RunStopped":
        return RunStopped(told["text"])
    return RunStopped(f"process {rank} failed: {told['kind']}: {told['text']}")
