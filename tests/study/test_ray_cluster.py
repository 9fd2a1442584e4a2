"""A cluster that is not there, an address that is none, a ray that is not installed: one message each, without ray."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import TOYS, study

from steersman.core.errors import UserError
from steersman.study import ray_cluster


def test_without_ray_the_command_to_install_it_is_said(tmp_path: Path):
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n")
    path = os.pathsep.join([str(tmp_path), str(TOYS)])
    done = study("run", tmp_path / "runs", "--pool", "ray", PYTHONPATH=path, RAY_ADDRESS="")
    assert done.returncode == 2
    assert done.stderr == "error: --pool ray: needs the package ray\n       pip install ray\n"
    assert not list(tmp_path.glob("runs/toy/*/run.json"))


def test_an_address_where_nothing_answers_is_refused_at_once(tmp_path: Path):
    with socket.socket() as bound:  # bound and not listening: nothing can answer
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(UserError, match="cannot be reached"):
            ray_cluster.check_address(address)
        done = study("run", tmp_path, "--pool", "ray", RAY_ADDRESS=address)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --ray-address {address}: the Ray cluster cannot be reached (")
    assert "Traceback" not in done.stderr


def test_what_ray_refuses_is_one_message(monkeypatch):
    class Refusing:
        exceptions = SimpleNamespace(RayError=KeyError)
        shutdown = staticmethod(lambda: None)

        def init(self, **options):
            assert options["address"] == "auto"
            raise ConnectionError("Could not find any running Ray instance.\nmore")

    monkeypatch.setattr(ray_cluster, "_imported", Refusing)
    with pytest.raises(UserError) as refused, ray_cluster.connected("auto", 1):
        pass
    assert str(refused.value).startswith(
        "--ray-address auto: the Ray cluster cannot be reached (Could not find any running Ray instance.)\n"
    )
    assert "RAY_gcs_server_port_wait_time_s" not in os.environ


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "nowhere", "127.0.0.1:0", "127.0.0.1:x", ":6379"])
def test_what_is_no_address_is_refused(address: str):
    with pytest.raises(UserError, match="is no address of a Ray cluster"):
        ray_cluster.check_address(address)
