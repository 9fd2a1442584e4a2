"""A process that calls one function per request, so that a grader which hangs or crashes can be cut off.

``python -m steersman.reward.grading_worker MODULE:FUNCTION PARENT`` imports the function, answers {"ready": true}, then
reads one JSON list of arguments a line and answers one JSON object a line: {"value": ...} or {"error": "..."}. What the
function prints goes to standard error. Imports nothing heavy, so that it starts fast. This is no sandbox: the function
runs with the user's rights. Leaves out: limits and restarts (`time_limit`).
"""

import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1
MOST_BITS = 4096
"""Of a whole number; Python does not write out much longer ones."""
MOST_TOLD = 2000
"""Characters of an exception that travel to the parent."""


def plain(value: Any) -> Any:
    """A return value as JSON can carry it: scalars of NumPy and torch become numbers; the rest is described.

    Returns:
        a bool, number, text or dict of such; {"__type__": ...} for anything else, which the parent refuses.
    """
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return {"__type__": f"a number of {value.bit_length()} bits"}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(getattr(value, "item", None)) and getattr(value, "shape", None) == ():
        return plain(value.item())
    size = f" of {len(value)}" if hasattr(value, "__len__") and getattr(value, "shape", (1,)) != () else ""
    return {"__type__": f"a {type(value).__name__}{size}"}


def answer(function: Callable[..., Any], line: str) -> dict[str, Any]:
    """Call the function on one request."""
    try:
        return {"value": plain(function(*json.loads(line)))}
    except Exception as error:
        return {"error": described(error)}


def described(error: BaseException) -> str:
    """An exception as text, of which the parent shows the beginning; one that cannot even be told has its name."""
    try:
        return f"{type(error).__name__}: {error}"[:MOST_TOLD]
    except Exception:
        return type(error).__name__


def _flush() -> None:
    """Let what the function printed come before its answer; a function may have closed or replaced its streams."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def main(target: str, parent: int) -> None:
    """Serve requests until standard input closes."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        return
    with os.fdopen(os.dup(0), encoding="utf-8") as requests, os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)

        def reply(value: dict[str, Any]) -> None:
            replies.write(json.dumps(value) + "\n")
            replies.flush()

        module, _, name = target.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:
            reply({"error": f"cannot import {target!r}: {described(error)}"})
            return
        reply({"ready": True})
        for line in requests:
            found = answer(function, line)
            _flush()
            reply(found)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
