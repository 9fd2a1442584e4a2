"""The processes of one run, started by ``torchrun``: who this one is, what they tell each other, how they end together.

Gloo carries what is on CPUs and NCCL what is on GPUs. Everything listens on the loopback interface if the master is
there. Where one process fails the others end with its message: inside `Processes.together` at once; elsewhere they see
its connections close and read the message from the store (on GPUs ``torchrun`` ends them).
Leaves out: models (`shards`), steps (`distributed`).
"""

import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from steersman.core.errors import RunStopped, UserError
from steersman.store.files import canonical
from steersman.train.engine.wire import describe, pack, revive, unpack

T = TypeVar("T")

LINGER = 10.0
"""Seconds that the process which keeps the store waits for the others to read why the run ended."""
PATIENCE = 1800.0
"""Seconds after which a process that waits for the others gives up."""
_LOCAL = {"127.0.0.1", "localhost", "::1"}


def launched() -> bool:
    """Whether this process is one of several that ``torchrun`` started."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of this run, seen from one of them.

    Args:
        rank: number of this one, from 0.
        size: how many there are.
        device: where this one's models are.
        mesh: all of them in a row, for sharding.
    """

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh

    def gather(self, value: Any) -> list[Any]:
        """What every process gave, in their order; see `wire.pack` for what can be told."""
        data = torch.frombuffer(bytearray(pack(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(data)]))
        longest = max(int(s) for s in sizes)
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(parts, torch.nn.functional.pad(data, (0, longest - len(data))))
        return [unpack(p[: int(s)].numpy().tobytes()) for p, s in zip(parts, sizes, strict=True)]

    def together(self, work: Callable[[], T]) -> T:
        """`work`, in which processes do not talk to each other; if it fails in one, it fails in all.

        Raises:
            Exception: this process's own, or that of the first process that failed.
        """
        try:
            done, error = work(), None
        except Exception as caught:
            error = caught
        told = self.gather(None if error is None else describe(error))
        if error is not None:
            raise error
        for rank, fault in enumerate(told):
            if fault is not None:
                raise revive(fault, rank)
        return done

    def part(self, n: int) -> range:
        """This process's share of n things in a row."""
        return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def sum_(self, x: Tensor) -> Tensor:
        """The sum of `x` over the processes, in place."""
        dist.all_reduce(x)
        return x

    def agree(self, what: str, *tensors: Tensor) -> None:
        """Stop where the processes do not hold the same tensors: everything after would be wrong or would hang.

        Raises:
            RunStopped: names what differs.
        """
        check = 0
        for x in tensors:
            check = zlib.crc32(x.detach().cpu().contiguous().numpy().tobytes(), check)
        if len(set(self.gather(check))) > 1:
            raise RunStopped(
                f"the processes of the run hold different {what}\n"
                "       A task, a stage or a term gave another result for the same input; it must be a function of it."
            )


@contextmanager
def start(device: Literal["cpu", "cuda"] | None = None, patience: float = PATIENCE) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, for a block; afterwards all have left it.

    Args:
        device: None = GPUs if there are any.
        patience: seconds to wait for the others before giving up.

    Raises:
        UserError: this process was not started by ``torchrun``.
        RunStopped: another process failed; its message, or that it ended without one.
    """
    if not launched():
        cure = "Start it with: torchrun --standalone --nproc-per-node 2 ..."
        raise UserError("this process is none of several", where="RANK, WORLD_SIZE", cure=cure)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    if os.environ["MASTER_ADDR"] in _LOCAL:
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, loopback)
    on = device or ("cuda" if torch.cuda.is_available() else "cpu")
    limit = timedelta(seconds=patience)
    store, rank, size = next(dist.rendezvous("env://", timeout=limit))
    store.set_timeout(limit)
    if on == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "gloo" if on == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=rank, world_size=size, timeout=limit)
    own = dist.PrefixStore("steersman", store)
    try:
        here = torch.device(on, torch.cuda.current_device()) if on == "cuda" else torch.device("cpu")
        yield Processes(rank, size, here, init_device_mesh(on, (size,)))
        dist.barrier()
    except BaseException as error:
        raise _cause(own, error, rank) from (None if _is_ours(error) else error)
    finally:
        dist.destroy_process_group()
        _leave(own, rank, size)


def _cause(store: Any, error: BaseException, rank: int) -> BaseException:
    """The error to end with: the first one of all processes where this one's is only its consequence."""
    with suppress(RuntimeError):  # the store is gone with the process that kept it
        told = store.compare_set("failure", "", canonical(describe(error) | {"rank": str(rank)}))
        first = json.loads(told)
        if first["rank"] != str(rank) and not _is_ours(error) and isinstance(error, Exception):
            return revive(first, int(first["rank"]))
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower()):
        return RunStopped(f"another process of the run ended without saying why ({str(error).splitlines()[0]})")
    return error


def _is_ours(error: BaseException) -> bool:
    return isinstance(error, UserError | RunStopped)


def _leave(store: Any, rank: int, size: int) -> None:
    """Say that this process has read everything; the one that keeps the store waits for the others."""
    with suppress(RuntimeError):
        store.add("left", 1)
        end = time.monotonic() + LINGER
        while rank == 0 and store.add("left", 0) < size and time.monotonic() < end:
            time.sleep(0.02)
