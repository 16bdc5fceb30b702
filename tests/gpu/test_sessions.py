"""The socket between a container and the silicon, with the library that pods use on the other end."""

from __future__ import annotations

import importlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.gpu.devices import NodeGpus, gpus
from cluster.gpu.node.readings import Fault, GpuFault
from cluster.gpu.node.sessions import SessionServer
from cluster.gpu.node.silicon import Silicon

T4S = gpus("gpu-b", NodeGpus("T4", 2))
A, B = (gpu.uuid for gpu in T4S)
WORKLOAD = Path(__file__).parents[2] / "cluster" / "gpu" / "workload"


class Node:
    """A server on a socket, and the library as a program in the container imports it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, ids: tuple[str, ...] = (A,)) -> None:
        self.path, self.ids = folder / "gpu.sock", ids
        self.opened: list[socket.socket] = []
        self.silicon = Silicon(T4S)
        self.start()
        monkeypatch.setenv("KAILAB_GPU_SOCKET", str(self.path))
        monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", ",".join(ids))
        monkeypatch.syspath_prepend(str(WORKLOAD))
        sys.modules.pop("kailab_gpu", None)
        self.gpu: Any = importlib.import_module("kailab_gpu")

    def start(self) -> None:
        self.server = SessionServer(self.silicon, smi=lambda argv, ids: (6, f"{' '.join(argv)} {len(ids)}"))
        self.server.listen(self.path, self.ids, "key")

    def connect(self) -> socket.socket:
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(5)
        raw.connect(str(self.path))
        self.opened.append(raw)
        return raw

    def close(self) -> None:
        for raw in self.opened:
            raw.close()
        self.server.close()


@pytest.fixture
def node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(*ids: str) -> Node:
        made.append(Node(folder, monkeypatch, ids or (A,)))
        return made[-1]

    yield make
    for one in made:
        one.close()
        sys.modules.pop("kailab_gpu", None)


def ask(raw: socket.socket, line: bytes) -> dict[str, Any]:
    raw.sendall(line + b"\n")
    with raw.makefile("rb") as lines:
        return dict(json.loads(lines.readline()))


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_program_finds_the_devices_it_holds(node: Callable[..., Node]) -> None:
    gpu = node(f"{B}::1").gpu
    assert gpu.device_count() == 1
    found = gpu.devices()[0]
    assert (found.uuid, found.name, found.memory, found.compute) == (B, "Tesla T4", 15360, (7, 5))


def test_memory_is_held_until_freed_and_shown(node: Callable[..., Node]) -> None:
    made = node()
    with made.gpu.allocate(4000) as block:
        assert made.gpu.memory_info() == (11360, 15360)
        assert made.silicon.reading(A).used == 4000
    assert made.gpu.memory_info() == (15360, 15360)
    block.free()


def test_too_much_memory_fails_as_it_does_in_real_life(node: Callable[..., Node]) -> None:
    gpu = node().gpu
    gpu.allocate(5120)
    with pytest.raises(gpu.OutOfMemoryError) as full:
        gpu.allocate(20480)
    assert "CUDA out of memory" in str(full.value)
    assert "20.00 GiB" in str(full.value)
    assert "10.00 GiB free of 15.00 GiB" in str(full.value)


def test_a_kernel_takes_at_least_its_time(node: Callable[..., Node]) -> None:
    assert 0.05 <= node().gpu.run(0.05) < 1


def test_threads_share_a_connection_without_waiting_for_each_other(node: Callable[..., Node]) -> None:
    made = node(A, B)
    took: dict[int, float] = {}
    threads = [
        threading.Thread(target=lambda device=device: took.update({device: made.gpu.run(0.6, device)}))
        for device in (0, 1)
    ]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(took) == [0, 1]
    assert time.monotonic() - started < 1.1  # one after the other: 1.2


def test_a_failing_gpu_ends_the_kernel_with_its_xid(node: Callable[..., Node]) -> None:
    made = node()
    made.gpu.devices()
    threading.Timer(0.05, lambda: made.silicon.fail(A, GpuFault(Fault.LOST))).start()
    with pytest.raises(made.gpu.DeviceError) as failed:
        made.gpu.run(30)
    assert failed.value.xid == 79
    with pytest.raises(made.gpu.DeviceError):
        made.gpu.memory_info()


def test_a_new_agent_is_waited_for_and_told_what_is_held(node: Callable[..., Node]) -> None:
    made = node()
    made.gpu.allocate(3000)
    made.server.close()
    assert not made.path.exists()
    made.silicon = Silicon(T4S)
    threading.Timer(0.2, made.start).start()
    assert made.gpu.run(0.01) > 0
    assert made.silicon.reading(A).used == 3000


def test_an_agent_that_goes_late_leaves_the_socket_of_the_next_one(node: Callable[..., Node]) -> None:
    made = node()
    made.gpu.allocate(3000)
    old = made.server
    made.silicon = Silicon(T4S)
    made.start()  # as after `kubectl delete pod --force`: the new one is there before the old one has ended
    old.close()
    assert made.gpu.run(0.01) > 0
    assert made.silicon.reading(A).used == 3000


def test_a_gpu_that_left_the_fleet_is_lost_to_its_holder(node: Callable[..., Node]) -> None:
    made = node(A, B)
    made.gpu.devices()
    made.server.close()
    made.silicon = Silicon(T4S[:1])
    made.start()
    for use in (lambda: made.gpu.run(0.01, 1), lambda: made.gpu.allocate(10), made.gpu.devices):
        with pytest.raises(made.gpu.DeviceError, match="has fallen off the bus") as failed:
            use()
        assert failed.value.xid == 79
    answer = ask(made.connect(), b'{"op": "utilization", "device": 1, "id": 3}')
    assert (answer["error"], answer["xid"], answer["id"]) == ("device", 79, 3)


def test_an_error_nobody_thought_of_is_answered_too(node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> None:
    made = node()
    monkeypatch.setattr(made.silicon, "memory", lambda *_: 1 / 0)
    answer = ask(made.connect(), b'{"op": "memory", "id": 3}')
    assert (answer["error"], answer["id"]) == ("request", 3)
    assert "the simulated driver failed: ZeroDivisionError" in answer["message"]
    assert ask(made.connect(), b'{"op": "utilization", "id": 4}')["gpu"] == 0


def test_without_a_gpu_it_says_so(node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = node().gpu
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "void")
    assert gpu.device_count() == 0
    with pytest.raises(gpu.NoDeviceError, match=r"nvidia\.com/gpu"):
        gpu.run(1)


def test_a_process_that_dies_leaves_nothing(node: Callable[..., Node]) -> None:
    made = node()
    raw = made.connect()
    assert ask(raw, b'{"op": "allocate", "mib": 500, "id": 1}')["block"] > 0
    raw.sendall(b'{"op": "run", "seconds": 1000, "id": 2}\n')
    eventually(lambda: made.silicon.next_event() is not None)
    raw.close()
    eventually(lambda: made.silicon.reading(A).used == 0 and made.silicon.next_event() is None)


def test_nvidia_smi_answers_even_when_the_gpu_is_lost(node: Callable[..., Node]) -> None:
    made = node(f"{A}::0", f"{A}::1")
    made.silicon.fail(A, GpuFault(Fault.LOST))
    assert ask(made.connect(), b'{"op": "smi", "argv": ["-L"], "id": 7}') == {"exit": 6, "stdout": "-L 2", "id": 7}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not JSON"),
        (b"[1]", "a JSON object"),
        (b'{"op": "fly"}', "no operation 'fly'"),
        (b"{}", "no operation None"),
        (b'{"op": "allocate", "mib": -1}', "whole number"),
        (b'{"op": "allocate", "mib": 1e9}', "whole number"),
        (b'{"op": "allocate", "mib": true}', "whole number"),
        (b'{"op": "allocate", "mib": 1, "device": 5}', "no device 5"),
        (b'{"op": "allocate", "mib": 1, "device": "0"}', "no device '0'"),
        (b'{"op": "run", "seconds": 0}', "above 0"),
        (b'{"op": "run", "seconds": 1e300}', "at most 3600"),
        (b'{"op": "run", "seconds": NaN}', "above 0"),
        (b'{"op": "run", "seconds": 1, "intensity": 2}', "at most 1"),
        (b'{"op": "free", "block": 99}', "holds no block 99"),
        (b'{"op": "free", "block": []}', "holds no block []"),
        (b'{"op": "smi", "argv": "-L"}', "list of strings"),
        (b"x" * 100000, "longer than 65536"),
    ],
)
def test_nonsense_is_refused_and_the_server_lives(node: Callable[..., Node], line: bytes, words: str) -> None:
    made = node()
    answer = ask(made.connect(), line)
    assert answer["error"] == "request"
    assert words in answer["message"]
    assert made.gpu.device_count() == 1
