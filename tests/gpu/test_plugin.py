"""The device plugin against a kubelet that only speaks the protocol: registration, health, allocation, restarts."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster.gpu.devices import Gpu, NodeGpus, gpus
from cluster.gpu.node import protos
from cluster.gpu.node.allocations import Allocations, Edits, key_of
from cluster.gpu.node.board import Board
from cluster.gpu.node.plugin import Plugin, PluginServer, prefer
from cluster.gpu.node.sharing import Sharing

MESSAGES, SERVICES = protos.load("deviceplugin")
FOUR = gpus("gpu-a", NodeGpus("A100-80GB", 4, nvlink=((0, 1), (2, 3))))


class Kubelet:
    """The Registration service on kubelet.sock, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: queue.Queue[Any] = queue.Queue()
        self.called_back = threading.Event()
        self.connected: set[str] = set()
        self.start()

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(2))
        SERVICES.add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix://{self.folder}/kubelet.sock")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=0).wait()

    def restart(self) -> None:
        """As the real one: all sockets in the folder vanish, then its own appears."""
        self.stop()
        for path in self.folder.glob("*.sock"):
            path.unlink()
        self.connected.clear()
        self.start()

    def Register(self, request: Any, context: Any) -> Any:
        if request.endpoint in self.connected:
            context.abort(grpc.StatusCode.UNKNOWN, f"device plugin already connected: {request.endpoint}")
        with grpc.insecure_channel(f"unix://{self.folder}/{request.endpoint}") as channel:
            options = SERVICES.DevicePluginStub(channel).GetDevicePluginOptions(MESSAGES.Empty(), timeout=2)
            assert options.get_preferred_allocation_available
        self.connected.add(request.endpoint)
        self.requests.put(request)
        return MESSAGES.Empty()


class Bench:
    """A plugin server under test with everything around it."""

    def __init__(self, folder: Path, found: tuple[Gpu, ...] = FOUR, sharing: Sharing | None = None) -> None:
        self.sick: set[str] = set()
        self.kubelet = Kubelet(folder)
        self.board = Board(found, sharing or Sharing(), lambda uuid: uuid not in self.sick)
        self.prepared: list[list[str]] = []
        self.plugin = Plugin("nvidia.com/gpu", self.board, self._prepare)
        self.server = PluginServer(self.plugin, folder)
        self.channel: grpc.Channel | None = None

    def _prepare(self, ids: Any) -> Edits:
        self.prepared.append(list(ids))
        return Edits({"NVIDIA_VISIBLE_DEVICES": ",".join(ids)}, {"/run/kailab-gpu": "/node/folder"})

    def stub(self) -> Any:
        self.channel = grpc.insecure_channel(f"unix://{self.server.socket}")
        return SERVICES.DevicePluginStub(self.channel)

    def allocate(self, *ids: str) -> Any:
        request = MESSAGES.AllocateRequest(container_requests=[MESSAGES.ContainerAllocateRequest(devices_ids=ids)])
        return self.stub().Allocate(request, timeout=5)

    def close(self) -> None:
        if self.channel is not None:
            self.channel.close()
        self.server.end()
        self.kubelet.stop()


@pytest.fixture
def bench(folder: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(folder, **options))
        made[-1].server.ensure()
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_it_serves_before_it_registers(bench: Callable[..., Bench]) -> None:
    request = bench().kubelet.requests.get(timeout=5)  # Register called back, or it would have raised
    assert (request.version, request.resource_name) == ("v1beta1", "nvidia.com/gpu")
    assert request.endpoint.endswith(".sock")


def test_a_restarted_kubelet_is_registered_with_again(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.kubelet.requests.get(timeout=5)
    assert not made.server.ensure()
    made.kubelet.restart()
    assert made.server.ensure()
    made.kubelet.requests.get(timeout=5)
    assert made.server.socket.exists()


def test_a_removed_socket_is_served_again(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.kubelet.requests.get(timeout=5)
    made.server.socket.unlink()
    assert made.server.ensure()
    assert made.allocate(FOUR[0].uuid)


def test_a_second_one_registers_while_the_kubelet_still_listens_to_the_first(
    bench: Callable[..., Bench], folder: Path
) -> None:
    first = bench()
    earlier = first.kubelet.requests.get(timeout=5).endpoint
    given: list[list[str]] = []
    plugin = Plugin(
        "nvidia.com/gpu", Board(FOUR, Sharing(), lambda _: True), lambda ids: (given.append([*ids]), Edits())[1]
    )
    second = PluginServer(plugin, folder)
    assert second.ensure()
    assert first.kubelet.requests.get(timeout=5).endpoint == second.socket.name != earlier
    assert not first.server.ensure()
    assert not second.ensure()
    with grpc.insecure_channel(f"unix://{second.socket}") as channel:  # as the kubelet asks who came last
        request = MESSAGES.AllocateRequest(
            container_requests=[MESSAGES.ContainerAllocateRequest(devices_ids=[FOUR[2].uuid])]
        )
        SERVICES.DevicePluginStub(channel).Allocate(request, timeout=5)
    assert given == [[FOUR[2].uuid]]
    assert first.prepared == []
    first.server.end()
    assert not first.server.socket.exists()
    assert second.socket.exists()
    second.end()


def test_the_socket_of_an_agent_that_was_killed_is_removed(folder: Path) -> None:
    left, other = folder / "kailab-nvidia.com-gpu-abc123.sock", folder / "kailab-nvidia.com-gpu.shared-abc123.sock"
    for path in (left, other):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.bind(str(path))
    made = Bench(folder)
    made.server.ensure()
    assert not left.exists()
    assert other.exists()
    assert made.server.socket.exists()
    made.close()


def test_without_a_kubelet_nothing_happens(folder: Path) -> None:
    plugin = Plugin("nvidia.com/gpu", Board(FOUR, Sharing(), lambda _: True), lambda _: Edits())
    assert not PluginServer(plugin, folder).ensure()


def test_the_whole_list_is_sent_at_once_and_after_each_change(bench: Callable[..., Bench]) -> None:
    made = bench()
    stream = made.stub().ListAndWatch(MESSAGES.Empty(), timeout=10)
    assert [device.health for device in next(stream).devices] == ["Healthy"] * 4
    made.sick.add(FOUR[1].uuid)
    made.board.health_changed()
    assert [device.health for device in next(stream).devices] == ["Healthy", "Unhealthy", "Healthy", "Healthy"]
    made.board.set_claims({FOUR[2].uuid: "team/claim"})
    assert [device.health for device in next(stream).devices] == ["Healthy", "Unhealthy", "Unhealthy", "Healthy"]
    made.sick.clear()
    made.board.set_claims({})
    assert [device.health for device in next(stream).devices][3] == "Healthy"
    stream.cancel()


def test_a_list_is_followed_while_others_allocate(bench: Callable[..., Bench]) -> None:
    made = bench()
    streams = [made.stub().ListAndWatch(MESSAGES.Empty(), timeout=10) for _ in range(3)]
    for stream in streams:
        next(stream)
    assert made.allocate(FOUR[0].uuid).container_responses[0].mounts[0].read_only
    for stream in streams:
        stream.cancel()


def test_a_resource_that_is_no_longer_offered_stays_empty(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.board.offers()
    made.board.share(Sharing({"nvidia.com/gpu": 2}, rename=True))
    assert made.board.offers()["nvidia.com/gpu"].ids == ()
    assert len(made.board.offers()["nvidia.com/gpu.shared"].ids) == 8


@pytest.mark.parametrize(
    ("ids", "sharing", "words"),
    [
        (["GPU-nobody"], Sharing(), 'invalid allocation request for "nvidia.com/gpu": unknown device: GPU-nobody'),
        (
            [f"{FOUR[0].uuid}::0", f"{FOUR[0].uuid}::1"],
            Sharing({"nvidia.com/gpu": 2}, single=True),
            "maximum request size for shared resources is 1; found 2",
        ),
    ],
)
def test_allocate_refuses_in_the_plugins_words(
    bench: Callable[..., Bench], ids: list[str], sharing: Sharing, words: str
) -> None:
    made = bench(sharing=sharing)
    with pytest.raises(grpc.RpcError) as refused:
        made.allocate(*ids)
    assert refused.value.code() is grpc.StatusCode.UNKNOWN
    assert words in refused.value.details()
    assert made.prepared == []


def test_allocate_refuses_what_a_claim_holds(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.board.set_claims({FOUR[0].uuid: "team/claim"})
    with pytest.raises(grpc.RpcError, match="held by a ResourceClaim"):
        made.allocate(FOUR[0].uuid)


@pytest.mark.parametrize(
    ("available", "required", "size", "wanted"),
    [
        ([0, 1, 2, 3], [], 2, {2, 3}),
        ([0, 2, 3], [], 2, {2, 3}),
        ([0, 1, 2], [1], 2, {0, 1}),
        ([1, 3], [], 1, {3}),
        ([0, 1, 2, 3], [], 4, {0, 1, 2, 3}),
    ],
)
def test_gpus_that_nvlink_joins_are_preferred(
    available: list[int], required: list[int], size: int, wanted: set[int]
) -> None:
    ids = [gpu.uuid for gpu in FOUR]
    chosen = prefer(FOUR, set(), [ids[i] for i in available], [ids[i] for i in required], size)
    assert {ids.index(one) for one in chosen} == wanted


def test_many_slices_at_once_are_chosen_without_trying_all_groups() -> None:
    cut = gpus("gpu-a", NodeGpus("A100-80GB", 4, mig=dict.fromkeys(range(4), ("1g.10gb",) * 7)))
    ids = [one.uuid for gpu in cut for one in gpu.mig]
    begun = time.process_time()
    chosen = prefer(cut, set(), ids, [], 9)
    assert time.process_time() - begun < 1  # of 28 over 9 groups there are seven million
    assert len(set(chosen)) == 9
    assert {one.uuid for one in cut[3].mig} < set(chosen)


def test_what_was_given_out_counts_before_the_kubelet_says_so() -> None:
    now = [0.0]
    board = Board(FOUR, Sharing(), lambda _: True, lambda: now[0])
    board.allocated([FOUR[0].uuid])
    board.set_held_by_plugin(set())
    assert board.held_by_plugin() == {FOUR[0].uuid}
    now[0] = 10.0
    board.set_held_by_plugin({FOUR[1].uuid})
    assert board.held_by_plugin() == {FOUR[1].uuid}


def test_replicas_are_spread_over_the_gpus() -> None:
    ids = [f"{gpu.uuid}::{number}" for gpu in FOUR[:2] for number in range(3)]
    held = {ids[0], ids[1]}
    chosen = prefer(FOUR, held, [one for one in ids if one not in held], [], 2)
    assert Counter(one.partition("::")[0] for one in chosen) == {FOUR[1].uuid: 2}


def test_folders_are_named_by_what_they_hold_and_go_with_it(folder: Path) -> None:
    now, listening = [0.0], {}
    allocations = Allocations(
        folder, "/node", "/node/bin/nvidia-smi", lambda path, ids, key: listening.update({key: (path, list(ids))}),
        lambda key: listening.pop(key), lambda: now[0],
    )  # fmt: skip
    edits = allocations.prepare(["GPU-b::1", "GPU-a"])
    key = key_of(["GPU-a", "GPU-b::1"])
    assert edits.envs == {"NVIDIA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    assert edits.mounts["/run/kailab-gpu"] == f"/node/{key}"
    again = Allocations(folder, "", "", lambda path, ids, key: listening.update({key: (path, ids)}),
                        lambda _: None, lambda: now[0])  # fmt: skip
    listening.clear()
    again.restore()
    assert listening[key] == (folder / key / "gpu.sock", ["GPU-a", "GPU-b::1"])
    allocations.keep(set())
    assert key in listening  # the kubelet may not know it yet
    now[0] = 1000.0
    allocations.keep({key})
    assert key in listening
    now[0] = 2000.0
    allocations.keep(set())
    assert key not in listening
    assert not (folder / key).exists()


def an_allocations(folder: Path, clock: Callable[[], float] = lambda: 0.0) -> tuple[Allocations, dict[str, list[str]]]:
    listening: dict[str, list[str]] = {}
    made = Allocations(folder, "/node", "/smi", lambda path, ids, key: listening.update({key: list(ids)}),
                       lambda key: listening.pop(key, None), clock)  # fmt: skip
    return made, listening


@pytest.mark.parametrize("text", ["", "[", "4", "[1]", "[[]]", "\udcff"])
def test_a_list_that_cannot_be_read_is_dropped_and_made_again(folder: Path, text: str) -> None:
    now = [0.0]
    an_allocations(folder)[0].prepare(["GPU-a"])
    an_allocations(folder)[0].prepare(["GPU-b"])
    path = folder / key_of(["GPU-a"]) / "devices.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    made, listening = an_allocations(folder, lambda: now[0])
    made.restore()
    assert list(listening.values()) == [["GPU-b"]]
    assert not path.exists()
    made.prepare(["GPU-a"])
    assert key_of(["GPU-a"]) in listening
    assert path.read_text() == '["GPU-a"]'


def test_what_is_left_of_a_lost_list_goes_when_nobody_holds_it(folder: Path) -> None:
    now = [0.0]
    (folder / "torn").mkdir()
    (folder / "torn" / "devices.json").touch()
    made, _ = an_allocations(folder, lambda: now[0])
    made.restore()
    now[0] = 1000.0
    made.keep(set())
    assert not (folder / "torn").exists()


def test_a_full_disk_spoils_no_list_that_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    made, _ = an_allocations(folder, lambda: now[0])
    made.prepare(["GPU-a"])

    def full(path: Path, text: str) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_text", full)
        for ids in (["GPU-a"], ["GPU-b"]):
            with pytest.raises(OSError, match="No space left"):
                made.prepare(ids)
    again, heard = an_allocations(folder)
    again.restore()
    assert heard == {key_of(["GPU-a"]): ["GPU-a"]}
    now[0] = 1000.0
    made.keep({key_of(["GPU-a"])})
    assert [one.name for one in folder.iterdir()] == [key_of(["GPU-a"])]
