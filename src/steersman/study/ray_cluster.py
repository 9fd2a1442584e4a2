"""Reaching a Ray cluster, or starting a small one on this machine.

One that we start listens on the loopback only, behind a token, and is gone with us. Telemetry is switched off. Leaves
out: what is done there (`study.pool_ray`), starting a cluster of several machines (``ray start``), and Ray Client
(``ray://``), whose machine does not see the folder of the runs.
"""

import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from steersman.core.errors import UserError

REACH_SECONDS = 5.0
"""How long an address may take to answer."""
OBJECTS_BYTES = 80 * 2**20
"""Shared memory of a Ray started by us; nothing but short texts goes through it."""
LOCAL = {
    # Read when ray is first imported. Despite its name it makes Ray listen on the loopback, not on every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_enable_metrics_collection": "false",
}


def all_of(ray: ModuleType, address: str, kind: str) -> int:
    """How many CPUs or GPUs a cluster has.

    Raises:
        UserError: it has none.
    """
    found = int(ray.cluster_resources().get(kind, 0))
    if found < 1:
        cure = "Say with --workers how many to wait for, if the cluster grows when it is asked to."
        raise UserError(f"has no {kind}", where=f"Ray cluster {address}", cure=cure)
    return found


@contextmanager
def connected(address: str, cores: int) -> Iterator[ModuleType]:
    """Ray, connected to a cluster, or started here; one that was started is ended afterwards and leaves no files.

    Args:
        address: as `study.pool_ray.ray_pool`.
        cores: CPUs of a Ray that is started here.

    Raises:
        UserError: ray is not installed, or nothing can be reached at the address.
    """
    check_address(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    common: dict[str, Any] = {"address": address, "logging_level": "error", "log_to_driver": False}
    with ExitStack() as stack:
        if address == "local":
            stack.enter_context(environment({**LOCAL, "RAY_AUTH_TOKEN": token()}))
            place = tempfile.mkdtemp(
                prefix="ray-", dir="/tmp" if os.access("/tmp", os.W_OK) else None
            )  # sockets: short
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            common |= {"num_cpus": cores, "include_dashboard": False, "_temp_dir": place}
            common |= {"object_store_memory": OBJECTS_BYTES}
        else:
            stack.enter_context(environment({"RAY_gcs_server_port_wait_time_s": "1"}))  # try once
        ray = _imported()
        stack.callback(ray.shutdown)
        try:
            ray.init(**common)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise _unreachable(address, str(error).strip().split("\n")[0]) from None
        yield ray


@cache
def token() -> str:
    """What a Ray started by us asks of whoever connects: one a process (Ray reads it once), and never on disk."""
    return os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)


def _imported() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError("needs the package ray", where="--pool ray", cure="pip install ray") from None
    return ray


def check_address(address: str) -> None:
    """Refuse an address that nothing answers at, where Ray would try for minutes."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", host) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"{address!r} is no address of a Ray cluster",
            where="--ray-address",
            allowed="HOST:PORT of the cluster's head, auto, local",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, why: str) -> UserError:
    cure = "Is it running, and is this machine part of it (ray start --address=...)? See: ray status"
    return UserError(f"the Ray cluster cannot be reached ({why})", where=f"--ray-address {address}", cure=cure)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that Ray's processes read, put back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
