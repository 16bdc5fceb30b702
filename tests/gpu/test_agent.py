"""The agent as a whole, on a node that lacks something."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.api import Api, ApiError, Stop, Unreachable
from cluster.gpu.devices import NodeGpus, gpus
from cluster.gpu.node.agent import Agent, Folders, wait_for
from cluster.gpu.node.allocations import key_of
from cluster.gpu.node.podresources import Holder, PodResources
from cluster.gpu.node.readings import Fault, GpuFault

TWO = NodeGpus("T4", 2)


class DeadApi:
    """An API server that refuses everything."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*args: Any, **options: Any) -> Any:
            raise ApiError(503, "ServiceUnavailable", "not now")

        return refuse


class NewNode:
    """An API server that pods reach after a while, or never."""

    becomes_ready = Api.becomes_ready

    def __init__(self, refusals: float) -> None:
        self.refusals = refusals

    def request(self, method: str, path: str, **options: Any) -> Any:
        assert (method, path) == ("GET", "/readyz")
        self.refusals -= 1
        if self.refusals >= 0:
            raise Unreachable("no route")
        return SimpleNamespace(status=200)


def agent(folder: Path, node: str = "gpu-b", spec: NodeGpus = TWO) -> Agent:
    folders = Folders(folder / "kubelet", folder / "state", "/node", folder / "cdi")
    return Agent(cast("Api", DeadApi()), node, spec, folders)


def test_a_missing_device_directory_is_said_and_waited_for(folder: Path) -> None:
    made = agent(folder)
    made._turn()
    assert any("device-plugins is missing; waiting for it" in text for text in made.moment().problems)
    (folder / "kubelet" / "device-plugins").mkdir(parents=True)
    made._turn()
    assert not any("is missing" in text for text in made.moment().problems)


def test_the_api_server_is_waited_for() -> None:
    api = NewNode(refusals=2)
    wait_for(cast("Api", api), Stop())
    assert api.refusals == -1


def test_waiting_for_the_api_server_ends_at_once_when_the_pod_is_to_end() -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(SystemExit) as ended:
        wait_for(cast("Api", NewNode(refusals=math.inf)), stop)
    assert not ended.value.code


def test_an_api_server_that_stays_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.gpu.node.agent.START_SECONDS", 0.3)
    with pytest.raises(SystemExit, match="does not answer pods on this node"):
        wait_for(cast("Api", NewNode(refusals=math.inf)), Stop())


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


class Books:
    """The kubelet's: a record with init containers, and podresources without."""

    def __init__(self, made: Agent, folder: Path) -> None:
        self.path = folder / "kubelet" / "device-plugins" / "kubelet_internal_checkpoint"
        self.path.parent.mkdir(parents=True)
        self.listed: list[Holder] = []
        made._pod_resources = cast("PodResources", self)

    def holders(self, prefix: str) -> list[Holder]:
        return self.listed

    def write(self, *entries: tuple[str, str, list[str]]) -> None:
        found = [
            {"PodUID": pod, "ContainerName": container, "ResourceName": "nvidia.com/gpu", "DeviceIDs": {"-1": ids}}
            for pod, container, ids in entries
        ]
        self.path.write_text(json.dumps({"Data": {"PodDeviceEntries": found or None}, "Checksum": 1}))


def pod(uid: str, phase: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "namespace": "team", "name": uid}, "status": {"phase": phase}}


@pytest.fixture
def with_books(folder: Path) -> Iterator[tuple[Agent, Books]]:
    made = agent(folder)
    yield made, Books(made, folder)
    made._dra.close()
    made._sessions.close()


def test_what_an_init_container_got_is_held_until_its_pod_ends(with_books: tuple[Agent, Books], folder: Path) -> None:
    made, books = with_books
    first = gpus("gpu-b", TWO)[0].uuid
    made._allocations.prepare([first])
    books.write(("p", "setup", [first]))
    now = [time.monotonic()]
    made._allocations._clock = lambda: now[0]
    for phase, is_held in (("Pending", True), ("Running", True), ("Succeeded", False)):
        made._pods_changed([pod("p", phase)])
        now[0] += 1000
        made._read_checkpoint()
        made._look_who_holds()
        assert made._board.held_by_plugin() == ({first} if is_held else set())
        assert (folder / "state" / "allocations" / key_of([first]) / "gpu.sock").exists() == is_held
        holders = [(one.namespace, one.pod, one.container) for one in made.moment().holders]
        assert holders == ([("team", "p", "setup")] if is_held else [])


def test_an_init_container_keeps_its_socket_beside_a_container_with_more(
    with_books: tuple[Agent, Books], folder: Path
) -> None:
    made, books = with_books
    both = [gpu.uuid for gpu in gpus("gpu-b", TWO)]
    for ids in (both[:1], both):
        made._allocations.prepare(ids)
    books.write(("p", "setup", both[:1]), ("p", "main", both))
    books.listed = [Holder("team", "p", "main", tuple(both), "nvidia.com/gpu")]
    made._pods_changed([pod("p", "Pending")])
    made._allocations._clock = lambda: time.monotonic() + 1000
    made._read_checkpoint()
    made._look_who_holds()
    assert len(list((folder / "state" / "allocations").glob("*/gpu.sock"))) == 2
    assert made.moment().holders == tuple(books.listed)  # each GPU once


def test_before_the_pods_are_known_all_that_was_allocated_is_held(with_books: tuple[Agent, Books]) -> None:
    made, books = with_books
    first = gpus("gpu-b", TWO)[0].uuid
    books.write(("p", "setup", [first]))
    made._read_checkpoint()
    made._look_who_holds()
    assert made._board.held_by_plugin() == {first}
    made._pods_changed([])
    made._look_who_holds()
    assert made._board.held_by_plugin() == set()


@pytest.mark.parametrize("text", ["", "[]", '{"Data": {"PodDeviceEntries": [{}]}}', '{"Data": 4}', "null"])
def test_a_record_that_is_not_as_expected_is_said_and_the_last_one_counts(
    with_books: tuple[Agent, Books], text: str
) -> None:
    made, books = with_books
    books.write()
    made._turn()
    first = gpus("gpu-b", TWO)[0].uuid
    books.write(("p", "setup", [first]))
    made._turn()
    assert made._board.held_by_plugin() == {first}
    books.path.write_text(text)
    made._turn()
    assert made._board.held_by_plugin() == {first}
    assert any("is not as expected" in problem for problem in made.moment().problems)


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(5)
        raw.connect(str(path))
        raw.sendall(json.dumps(request).encode() + b"\n")
        with raw.makefile("rb") as lines:
            return dict(json.loads(lines.readline()))
