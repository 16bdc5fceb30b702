"""The GPU as a program in a pod sees it. Standard library only; put this file beside yours.

    import kailab_gpu as gpu

    with gpu.allocate(4096):          # MiB on the first GPU
        took = gpu.run(0.25)          # a kernel that takes 0.25 s on an idle GPU

The silicon is simulated: a kernel is a duration, no arithmetic happens on it. What is real is what a program feels
of a GPU: memory that runs out, neighbours that slow it down, a device that fails under its hands.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

SOCKET = os.environ.get("KAILAB_GPU_SOCKET", "/run/kailab-gpu/gpu.sock")
# Seconds to wait for an agent that is being replaced, on a busy machine too: a driver does not go with its plugin.
PATIENCE = 60.0


class GpuError(RuntimeError):
    """Whatever goes wrong here."""


class NoDeviceError(GpuError):
    """No GPU belongs to this container."""


class OutOfMemoryError(GpuError):
    """The device's memory does not suffice."""


class DeviceError(GpuError):
    """The device has failed; `xid` is the driver's number for it. Start anew, on another device if need be."""

    def __init__(self, message: str, xid: int) -> None:
        super().__init__(message)
        self.xid = xid


@dataclass(frozen=True)
class Device:
    """One visible device; `memory` in MiB, `compute` the compute capability."""

    index: int
    uuid: str
    name: str
    memory: int
    compute: tuple[int, int]


class Block:
    """Memory on a device, in MiB; a context manager that frees it."""

    def __init__(self, link: _Link, mib: int, device: int) -> None:
        self._link, self.mib, self.device = link, mib, device
        self.number: int | None = None

    def free(self) -> None:
        """Give it back; a second call does nothing."""
        self._link.free(self)

    def __enter__(self) -> Block:
        return self

    def __exit__(self, *error: object) -> None:
        self.free()


class _Lost(Exception):
    """The connection broke off."""


class _Link:
    """The connection to the node's agent: requests of all threads on one socket, answers by their number.

    A new agent knows nothing of us: after a break the memory that this process holds is taken again.
    """

    def __init__(self) -> None:
        self._connecting = threading.RLock()
        self._lock = threading.RLock()  # never held while an answer is awaited: the listener needs it
        self._socket: socket.socket | None = None
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._number = 0
        self._blocks: list[Block] = []
        self.devices: list[Device] = []

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """One request and its answer, over a new connection if the old one has gone."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._connect(deadline)
                return self._exchange(op, fields)
            except _Lost:
                if time.monotonic() > deadline:
                    raise GpuError(f"the GPU's driver does not answer at {SOCKET}") from None

    def allocate(self, mib: int, device: int) -> Block:
        block = Block(self, mib, device)
        block.number = self.ask("allocate", device=device, mib=mib)["block"]
        with self._lock:
            self._blocks.append(block)
        return block

    def free(self, block: Block) -> None:
        with self._lock:
            if block not in self._blocks:
                return
            self._blocks.remove(block)
        with contextlib.suppress(GpuError):
            self.ask("free", block=block.number)

    def _connect(self, deadline: float) -> None:
        with self._connecting:
            if self._socket is not None:
                return
            if os.environ.get("NVIDIA_VISIBLE_DEVICES", "void") in ("", "void", "none"):
                raise NoDeviceError("no GPU here: the pod's container asks for none (resources.limits, nvidia.com/gpu)")
            while True:
                fresh = socket.socket(socket.AF_UNIX)
                try:
                    fresh.connect(SOCKET)
                    break
                except OSError as failed:
                    fresh.close()
                    if time.monotonic() > deadline:
                        raise GpuError(f"the GPU's driver does not answer at {SOCKET}: {failed}") from None
                    time.sleep(0.1)
            self._socket = fresh
            threading.Thread(target=self._listen, args=(fresh,), daemon=True).start()
            answer = self._exchange("hello", {"name": sys.argv[0].rpartition("/")[2] or "python"})
            self.devices = [
                Device(index, one["uuid"], one["name"], one["memory"], tuple(one["compute"]))
                for index, one in enumerate(answer["devices"])
            ]
            for block in self._blocks:
                block.number = self._exchange("allocate", {"device": block.device, "mib": block.mib})["block"]

    def _exchange(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        answer: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._socket is None:
                raise _Lost
            self._number += 1
            number, line = self._number, {**fields, "op": op, "id": self._number}
            self._waiting[number] = answer
            try:
                self._socket.sendall(json.dumps(line).encode() + b"\n")
            except OSError:
                self._drop(self._socket)
                raise _Lost from None
        return _checked(answer.result(), fields)

    def _listen(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines, contextlib.suppress(OSError):
            for line in lines:
                answer = json.loads(line)
                with self._lock:
                    waiting = self._waiting.pop(answer.get("id"), None)
                if waiting is not None:
                    waiting.set_result(answer)
        self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        with self._lock:
            if self._socket is not connection:
                return
            self._socket = None
            connection.close()
            waiting, self._waiting = list(self._waiting.values()), {}
        for one in waiting:
            one.set_exception(_Lost())


def _checked(answer: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    kind = answer.get("error")
    if kind == "memory":
        gib = {name: answer[name] / 1024 for name in ("requested", "free", "total", "own")}
        raise OutOfMemoryError(
            f"CUDA out of memory: tried to allocate {gib['requested']:.2f} GiB on GPU {asked.get('device', 0)}, which "
            f"has {gib['free']:.2f} GiB free of {gib['total']:.2f} GiB; this process holds {gib['own']:.2f} GiB"
        )
    if kind == "device":
        raise DeviceError(answer["message"], answer["xid"])
    if kind:
        raise GpuError(answer["message"])
    return answer


_link = _Link()


def devices() -> list[Device]:
    """The GPUs or slices that this container holds. Raises NoDeviceError, or DeviceError when the first is broken."""
    _link.ask("memory", device=0)
    return list(_link.devices)


def device_count() -> int:
    """How many of them; 0 without any."""
    try:
        return len(devices())
    except NoDeviceError:
        return 0


def allocate(mib: int, device: int = 0) -> Block:
    """Take memory. Raises OutOfMemoryError when the device has less."""
    return _link.allocate(mib, device)


def run(seconds: float, device: int = 0, memory_intensity: float = 0.5) -> float:
    """Run a kernel that takes `seconds` on an idle device, and wait for it; returns how long it took.

    Other processes on a shared GPU make it slower. Raises DeviceError when the device fails meanwhile.
    """
    started = time.monotonic()
    _link.ask("run", device=device, seconds=seconds, intensity=memory_intensity)
    return time.monotonic() - started


def memory_info(device: int = 0) -> tuple[int, int]:
    """Free and total memory in MiB."""
    answer = _link.ask("memory", device=device)
    return answer["free"], answer["total"]


def utilization(device: int = 0) -> int:
    """Percent of the last second in which the device worked, for whomever."""
    return int(_link.ask("utilization", device=device)["gpu"])
