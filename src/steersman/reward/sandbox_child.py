"""The process in which the subprocess backend runs one program, and how values are written down in both backends.

``python -s -S -P -B -u sandbox_child.py LIMITS`` (JSON) confines itself, answers ready, reads one JSON line with the
program, then one line a call; every request has an answer, which begins with the run's nonce and its number. Imports
only the standard library, so that it starts fast and without site-packages. Nothing that is said here is believed: an
answer is a value, and what it should be is known to the parent alone. Leaves out: the verdict (`sandbox`), the clock
and the killing (`sandbox_subprocess`).

Confinement, as far as the platform allows: CPU time, address space, no core dump, no bytes into files, no further
processes (`resource`); on Linux death with the parent; on Linux x86-64 a system call filter with a list of what is
allowed (Linux manual, seccomp(2), 2024), so that sockets, processes, signals, and opening files to write are refused.
"""

import contextlib
import ctypes
import importlib.abc
import importlib.util
import json
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

PARENT_DEATH, NO_NEW_PRIVILEGES, SECCOMP = 1, 38, 22
ALLOWED = (
    *(0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20, 21, 23, 24, 25, 28),  # read ... madvise
    *(32, 35, 39, 60, 63, 72, 79, 89, 96, 97, 98, 99, 100, 102, 104, 107, 108, 110, 131),  # dup ... sigaltstack
    *(186, 201, 202, 204, 217, 228, 229, 230, 231, 262, 267, 269, 270, 271, 318, 324, 332, 334, 439),
)
"""Numbers of the system calls of x86-64 that a program may make, besides openat (257) without any right to write."""
_OPENAT, _WRITES = 257, 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000  # WRONLY RDWR CREAT TRUNC APPEND TMPFILE
_X86_64, _X32 = 0xC000003E, 0x40000000
_MESSAGE = 500


def encoder(
    type: Any = type, int: Any = int, float: Any = float, bool: Any = bool, str: Any = str, list: Any = list,
    tuple: Any = tuple, dict: Any = dict, set: Any = set, frozenset: Any = frozenset, bytes: Any = bytes,
    hex: Any = hex, dumps: Any = json.dumps,
) -> Any:  # fmt: skip
    """The function that writes a value as JSON with the types that JSON lacks; a program's own names do not reach it.

    None, bool, text, int below 2^63, float and list are themselves; {"int": hex}, {"tuple": [...]}, {"dict": [[k, v],
    ...]}, {"set": [...]}, {"frozenset": [...]}, {"bytes": hex}; anything else, also a subclass of these, is {"other":
    name of its type}. Written in the Python that the isolated interpreter knows too.
    """

    def plain(value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            return value if -(2**63) < value < 2**63 else {"int": hex(value)}
        if kind is list:
            return [plain(v) for v in value]
        if kind is tuple:
            return {"tuple": [plain(v) for v in value]}
        if kind is dict:
            return {"dict": [[plain(k), plain(v)] for k, v in value.items()]}
        if kind is set or kind is frozenset:
            return {"set" if kind is set else "frozenset": [plain(v) for v in value]}
        if kind is bytes:
            return {"bytes": value.hex()}
        return {"other": kind.__name__}

    def encode(value: Any) -> Any:
        return dumps(plain(value))

    return encode


def decode(value: Any) -> Any:
    """The value of what `encoder` wrote; only for values that are trusted, such as a call's arguments."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, body),) = value.items()
    if kind == "int":
        return int(body, 16)
    if kind == "bytes":
        return bytes.fromhex(body)
    if kind == "dict":
        return {decode(k): decode(v) for k, v in body}
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](decode(v) for v in body)


def confine(seconds: float, memory: int) -> list[str]:
    """Give up what a program does not need; returns what was achieved: limits, parent, calls."""
    import resource

    done = []
    with contextlib.suppress(OSError, ValueError):
        size = _size(resource.getpagesize()) + memory
        cpu = int(seconds) + 1
        wanted = {"CORE": 0, "FSIZE": 0, "NPROC": 0, "CPU": cpu, "AS": size, "DATA": size}
        for name, value in wanted.items():
            limit = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(limit)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))
        done.append("limits")
    if sys.platform == "linux":
        call = ctypes.CDLL(None, use_errno=True).prctl
        if call(PARENT_DEATH, signal.SIGKILL, 0, 0, 0) == 0:
            done.append("parent")
        if platform.machine() == "x86_64" and call(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and _filter(call):
            done.append("calls")
    return done


def _size(page: int) -> int:
    """Bytes of address space in use."""
    if sys.platform != "linux":
        return 2**30
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * page


def _filter(call: Any) -> bool:
    """Install the system call filter: what is not in `ALLOWED` fails with EPERM."""
    load, equal, greater, masked, ret = 0x20, 0x15, 0x35, 0x54, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    code = [(load, 0, 0, 4), (equal, 1, 0, _X86_64), (ret, 0, 0, kill), (load, 0, 0, 0)]
    code += [(greater, 0, 1, _X32), (ret, 0, 0, refuse)]
    for number in ALLOWED:
        code += [(equal, 0, 1, number), (ret, 0, 0, allow)]
    code += [(equal, 0, 4, _OPENAT), (load, 0, 0, 32), (masked, 0, 0, _WRITES), (equal, 0, 1, 0), (ret, 0, 0, allow)]
    code += [(ret, 0, 0, refuse)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    header = ctypes.create_string_buffer(struct.pack("HP", len(code), ctypes.addressof(program)))
    return bool(call(SECCOMP, 2, ctypes.byref(header), 0, 0) == 0)


class _Program(importlib.abc.InspectLoader):
    """A module whose source is given."""

    def __init__(self, source: str) -> None:
        self.source = source

    def get_source(self, fullname: str) -> str:
        return self.source


def define(source: str) -> dict[str, Any]:
    """Run a program as the module ``__main__``; its names."""
    loader = _Program(source)
    spec = importlib.util.spec_from_loader("__main__", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["__main__"] = module
    loader.exec_module(module)
    return module.__dict__


_NO_FRAME = ("error return without exception set",)
"""What CPython 3.11 raises in place of MemoryError where there is no memory for one more frame."""


def said(error: BaseException) -> dict[str, str]:
    """What became of a program that raised: memory, forbidden or error, and the message."""
    kind = "error"
    if isinstance(error, MemoryError) or (type(error) is SystemError and error.args == _NO_FRAME):
        kind = "memory"
    elif isinstance(error, OSError | ImportError):
        kind = "forbidden"
    try:
        return {"kind": kind, "message": f"{type(error).__name__}: {error}"[:_MESSAGE]}
    except BaseException:  # its __str__ is the program's
        return {"kind": kind, "message": "an exception without a message"}


def main(limits: dict[str, Any]) -> None:
    """Serve one program."""
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.setrecursionlimit(limits["depth"])
    # What the loop uses is taken before the program runs; it may rebind names of modules, but only to its own harm.
    encode, write, loads, dumps, largest = encoder(), os.write, json.loads, json.dumps, limits["result"]
    confined = confine(limits["seconds"], limits["memory"])
    first = loads(requests.readline())
    number = 0

    def reply(text: str) -> None:
        nonlocal number
        if len(text) > largest:
            text = dumps({"error": {"kind": "error", "message": "the value is too large"}})
        data = f"{first['nonce']} {number} {text}\n".encode()
        number += 1
        while data:
            data = data[write(replies, data) :]

    def attempt(act: Callable[..., Any], *arguments: Any) -> Any:
        try:
            value = act(*arguments)
            text = "null" if act is define else encode(value)
        except BaseException as error:  # also SystemExit: how a program ends says nothing of whether it is right
            value, text = {}, dumps({"error": said(error)})
        reply(text)
        return value

    reply(dumps(confined))
    requests.readline()  # the clock runs from here
    names = attempt(define, first["program"])
    for line in requests:
        name, arguments = loads(line)
        attempt(_call, names, name, decode(arguments))


def _call(names: dict[str, Any], name: str, arguments: tuple[Any, ...]) -> Any:
    if name not in names:
        raise NameError(f"name {name!r} is not defined")
    return names[name](*arguments)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
