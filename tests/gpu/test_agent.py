"""The agent as a whole, on a node that lacks something."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.api import Api, ApiError
from cluster.gpu.devices import NodeGpus, gpus
from cluster.gpu.node.agent import Agent, Folders
from cluster.gpu.node.allocations import key_of
from cluster.gpu.node.readings import Fault, GpuFault

TWO = NodeGpus("T4", 2)


class DeadApi:
    """An API server that refuses everything."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*args: Any, **options: Any) -> Any:
            raise ApiError(503, "ServiceUnavailable", "not now")

        return refuse


def agent(folder: Path, node: str = "gpu-b", spec: NodeGpus = TWO) -> Agent:
    folders = Folders(folder / "kubelet", folder / "state", "/node", folder / "cdi")
    return Agent(cast("Api", DeadApi()), node, spec, folders)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets' names may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="k-") as made:
        yield Path(made)


def test_a_missing_device_directory_is_said_and_waited_for(folder: Path) -> None:
    made = agent(folder)
    made._turn()
    assert any("device-plugins is missing; waiting for it" in text for text in made.moment().problems)
    (folder / "kubelet" / "device-plugins").mkdir(parents=True)
    made._turn()
    assert not any("is missing" in text for text in made.moment().problems)


def test_without_kubelet_and_api_server_the_gpus_are_still_told(folder: Path) -> None:
    made = agent(folder)
    (folder / "kubelet" / "plugins_registry").mkdir(parents=True)
    for _ in range(2):
        made._turn()
    moment = made.moment()
    assert len(moment.readings) == 2
    assert any("not now" in text for text in moment.problems)
    assert all("Traceback" not in text for text in moment.problems)


def test_a_container_numbers_its_gpus_by_their_bus_everywhere(folder: Path) -> None:
    spec = NodeGpus("A100-80GB", 4, nvlink=((0, 1), (2, 3)))
    found = gpus("gpu-a", spec)
    uuids = [gpu.uuid for gpu in found]
    assert uuids != sorted(uuids)
    made = agent(folder, "gpu-a", spec)
    edits = made._allocations.prepare(list(reversed(uuids)))
    assert edits.envs["NVIDIA_VISIBLE_DEVICES"] == ",".join(uuids)
    path = folder / "state" / "allocations" / key_of(uuids) / "gpu.sock"
    for _ in range(2):
        made._set_faults({1: GpuFault(Fault.LOST)})
        smi = ask(path, {"op": "smi", "argv": ["topo", "-m"]})
        lost = ask(path, {"op": "smi", "argv": ["-L"]})
        assert "device handle for GPU1: 0000:0B:00.0: GPU is lost" in lost["stdout"]
        assert "device handle for GPU1" in smi["stdout"]
        made._set_faults({})
        assert [one["uuid"] for one in ask(path, {"op": "hello"})["devices"]] == uuids
        rows = ask(path, {"op": "smi", "argv": ["--query-gpu=index,pci.bus_id", "--format=csv,noheader"]})
        assert rows["stdout"].splitlines() == [f"{gpu.index}, {gpu.pci}" for gpu in found]
        matrix = ask(path, {"op": "smi", "argv": ["topo", "-m"]})["stdout"].splitlines()
        assert [line.split("\t")[1:5].index("NV12") for line in matrix[1:5]] == [1, 0, 3, 2]
        made._sessions.close()
        made = agent(folder, "gpu-a", spec)
        made._allocations.restore()
    made._sessions.close()


def test_slices_and_replicas_go_by_the_bus_too(folder: Path) -> None:
    spec = NodeGpus("A100-80GB", 4, mig={2: ("1g.10gb",) * 3})
    found = gpus("gpu-a", spec)
    ids = [f"{found[3].uuid}::1", f"{found[1].uuid}::0", *(cut.uuid for cut in found[2].mig), "GPU-unknown"]
    made = agent(folder, "gpu-a", spec)
    visible = made._allocations.prepare(ids).envs["NVIDIA_VISIBLE_DEVICES"].split(",")
    assert visible == [found[1].uuid, *(cut.uuid for cut in found[2].mig), found[3].uuid, "GPU-unknown"]
    made._sessions.close()


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(5)
        raw.connect(str(path))
        raw.sendall(json.dumps(request).encode() + b"\n")
        with raw.makefile("rb") as lines:
            return dict(json.loads(lines.readline()))
