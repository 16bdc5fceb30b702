"""The way from a container to the silicon: one Unix socket per allocation, JSON lines both ways.

Whoever can open the socket holds its devices; one connection is one process, and its memory is free when it ends.
A request is {"id": n, "op": ..., ...} and is answered by {"id": n, ...}, not always in order, since a kernel takes
its time. Operations:

    hello {name}                                 -> {devices: [{uuid, name, memory, compute}]}
    allocate {device, mib}                       -> {block}          device is the index in that list
    free {block}                                 -> {}
    memory {device}                              -> {free, total}    MiB
    run {device, seconds, intensity}             -> {seconds}        when the kernel has ended
    utilization {device}                         -> {gpu, memory}    percent
    smi {argv}                                   -> {exit, stdout}

What fails is answered by {"id": n, "error": kind, "message": ...}: kind is `memory` (with requested, free, total,
own in MiB), `device` (with xid) or `request`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.gpu import faults
from cluster.gpu.devices import uuid_of
from cluster.gpu.node.readings import Fault, GpuFault
from cluster.gpu.node.silicon import MOST_KERNEL_SECONDS, DeviceFailed, OutOfMemory, Session, Silicon

log = logging.getLogger(__name__)

LONGEST_LINE = 65536
MOST_CONNECTIONS = 256  # on one socket
MOST_AT_ONCE = 64  # requests of one connection
MOST_MIB = 2**24
Smi = Callable[[list[str], Sequence[str]], tuple[int, str]]
Answer = dict[str, Any]


class BadRequest(Exception):
    """A request that makes no sense; the text is for whoever wrote it."""


class SessionServer:
    """All sockets of a node, served by one event loop in a thread of its own. Methods are thread-safe."""

    def __init__(self, silicon: Silicon, smi: Smi) -> None:
        self._silicon, self._smi = silicon, smi
        self._loop = asyncio.new_event_loop()
        self._servers: dict[str, _Listener] = {}
        self._connections: dict[str, set[asyncio.Task[None]]] = {}
        self._thread = threading.Thread(target=self._run, name="sessions", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._work = asyncio.Event()
        pump = self._loop.create_task(self._pump())
        self._loop.run_forever()
        pump.cancel()
        self._loop.run_until_complete(asyncio.gather(pump, return_exceptions=True))
        self._loop.close()

    async def _pump(self) -> None:
        """Wake the silicon whenever a kernel ends."""
        while True:
            wait = self._silicon.next_event()
            self._work.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._work.wait()
            self._silicon.advance()

    def listen(self, path: Path, device_ids: Sequence[str], key: str) -> None:
        """Serve the holder of these devices at `path`; a socket that is served already stays."""
        asyncio.run_coroutine_threadsafe(self._listen(path, tuple(device_ids), key), self._loop).result(timeout=10)

    async def _listen(self, path: Path, ids: tuple[str, ...], key: str) -> None:
        known = self._servers.get(key)
        if known is not None and known.path == path and known.is_in_place():
            return
        await self._forget(key)
        path.unlink(missing_ok=True)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            group = self._connections.setdefault(key, set())
            group.add(task)
            try:
                await _Connection(self._silicon, self._smi, self._work, ids, reader, writer).serve(len(group))
            finally:
                group.discard(task)

        server = await asyncio.start_unix_server(connected, path, limit=LONGEST_LINE)
        path.chmod(0o666)  # pods run as any user; who sees the socket at all is what counts
        self._servers[key] = _Listener(path, server, path.stat().st_ino)

    def forget(self, key: str) -> None:
        """Close an allocation's socket and end its sessions."""
        asyncio.run_coroutine_threadsafe(self._forget(key), self._loop).result(timeout=10)

    async def _forget(self, key: str) -> None:
        known = self._servers.pop(key, None)
        if known is not None:
            if known.is_in_place():
                known.path.unlink(missing_ok=True)
            known.server.close()
        for task in list(self._connections.pop(key, ())):
            task.cancel()

    def close(self) -> None:
        """End everything. Sockets vanish, so that clients know to wait for the next agent."""
        for key in list(self._servers):
            self.forget(key)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)


@dataclass(frozen=True)
class _Listener:
    """One socket; `inode` is what stands at `path` while that is still ours."""

    path: Path
    server: asyncio.AbstractServer
    inode: int

    def is_in_place(self) -> bool:
        """False when it was removed, or when the next agent, who may come before we have gone, put its own there."""
        with contextlib.suppress(FileNotFoundError):
            return self.path.stat().st_ino == self.inode
        return False


class _Connection:
    def __init__(
        self, silicon: Silicon, smi: Smi, work: asyncio.Event, ids: tuple[str, ...],
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        self._silicon, self._smi, self._work, self._ids = silicon, smi, work, ids
        self._devices = list(dict.fromkeys(uuid_of(one) for one in ids))
        self._reader, self._writer = reader, writer
        self._pid, self._name = _peer(writer)
        self._session: Session | None = None

    async def serve(self, neighbours: int) -> None:
        """Answer requests until the other side goes."""
        tasks: set[asyncio.Task[None]] = set()
        try:
            if neighbours > MOST_CONNECTIONS:
                self._send(_refusal(None, f"more than {MOST_CONNECTIONS} processes on these devices"))
                return
            while line := await self._read():
                if len(tasks) >= MOST_AT_ONCE:
                    self._send(_refusal(None, f"more than {MOST_AT_ONCE} requests at once"))
                    return
                # Kernels are queued here, in the order of their requests, before anything is awaited.
                task = asyncio.ensure_future(self._handle(line))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(0)
                await self._writer.drain()
        except ConnectionError:
            pass
        finally:
            for task in tasks:
                task.cancel()
            if self._session is not None:
                self._silicon.close(self._session)
                self._work.set()
            self._writer.close()

    async def _read(self) -> bytes:
        try:
            return await self._reader.readline()
        except ValueError:
            self._send(_refusal(None, f"a request is longer than {LONGEST_LINE} bytes"))
            return b""

    async def _handle(self, line: bytes) -> None:
        number: Any = None
        try:
            try:
                request = json.loads(line)
            except ValueError:
                raise BadRequest("not JSON") from None
            if not isinstance(request, dict):
                raise BadRequest("a request is a JSON object")
            number = request.get("id")
            operation = _OPERATIONS.get(str(request.get("op")))
            if operation is None:
                raise BadRequest(f"no operation {request.get('op')!r}; there are {', '.join(_OPERATIONS)}")
            answer = await operation(self, request)
        except BadRequest as wrong:
            answer = _refusal(number, str(wrong))
        except OutOfMemory as full:
            answer = {"error": "memory", "message": str(full), "requested": full.requested, "free": full.free,
                      "total": full.total, "own": full.own}  # fmt: skip
        except DeviceFailed as failed:
            answer = {"error": "device", "message": str(failed), "xid": failed.xid}
        except Exception as unforeseen:  # whoever asked waits for an answer, without an end if need be
            log.exception("a request failed")
            answer = _refusal(number, f"the simulated driver failed: {type(unforeseen).__name__}: {unforeseen}")
        self._send({**answer, "id": number})

    def _send(self, answer: Answer) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(answer).encode() + b"\n")

    def _own(self) -> Session:
        if self._session is None:
            with _present():
                self._session = self._silicon.open(self._ids, self._pid, self._name)
        return self._session

    def _device(self, request: Answer) -> str:
        index = request.get("device", 0)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(self._devices):
            raise BadRequest(f"no device {index!r}; this container has 0 to {len(self._devices) - 1}")
        return self._devices[index]

    async def _hello(self, request: Answer) -> Answer:
        name = request.get("name")
        if isinstance(name, str) and not self._name:
            self._name = name[:64]
        self._own()
        return {"devices": [self._silicon.describe(one) for one in self._devices]}

    async def _allocate(self, request: Answer) -> Answer:
        mib = request.get("mib")
        if isinstance(mib, bool) or not isinstance(mib, int) or not 1 <= mib <= MOST_MIB:
            raise BadRequest(f"mib is {mib!r}; it should be a whole number from 1 to {MOST_MIB}")
        return {"block": self._silicon.allocate(self._own(), self._device(request), mib)}

    async def _free(self, request: Answer) -> Answer:
        try:
            self._silicon.free(self._own(), request["block"])
        except (KeyError, TypeError):
            raise BadRequest(f"this process holds no block {request.get('block')!r}") from None
        return {}

    async def _memory(self, request: Answer) -> Answer:
        free, total = self._silicon.memory(self._own(), self._device(request))
        return {"free": free, "total": total}

    async def _run(self, request: Answer) -> Answer:
        seconds = _number(request, "seconds", MOST_KERNEL_SECONDS)
        intensity = _number(request, "intensity", 1.0) if "intensity" in request else 0.5
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[DeviceFailed | None] = loop.create_future()

        def tell(failed: DeviceFailed | None) -> None:
            loop.call_soon_threadsafe(lambda: None if ended.done() else ended.set_result(failed))

        started = time.monotonic()
        self._silicon.submit(self._own(), self._device(request), seconds, intensity, tell)
        self._work.set()
        failed = await ended
        if failed is not None:
            raise failed
        return {"seconds": time.monotonic() - started}

    async def _utilization(self, request: Answer) -> Answer:
        with _present():
            reading = self._silicon.reading(self._device(request))
        return {"gpu": reading.gpu_util, "memory": reading.memory_util}

    async def _nvidia_smi(self, request: Answer) -> Answer:
        argv = request.get("argv")
        if not isinstance(argv, list) or not all(isinstance(one, str) for one in argv):
            raise BadRequest("argv should be a list of strings")
        status, text = self._smi(argv, self._ids)
        return {"exit": status, "stdout": text}


_OPERATIONS = {
    "hello": _Connection._hello, "allocate": _Connection._allocate, "free": _Connection._free,
    "memory": _Connection._memory, "run": _Connection._run, "utilization": _Connection._utilization,
    "smi": _Connection._nvidia_smi,
}  # fmt: skip


@contextlib.contextmanager
def _present() -> Iterator[None]:
    """A device that isn't on the node any more, since its fleet has changed, is lost to those who hold it."""
    try:
        yield
    except KeyError as gone:
        lost = GpuFault(Fault.LOST)
        raise DeviceFailed(lost.logged, f"{gone.args[0]} failed: {faults.describe(lost)}") from None


def _number(request: Answer, name: str, most: float) -> float:
    value = request.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        if name == "intensity" and value == 0:
            return 0.0
        raise BadRequest(f"{name} is {value!r}; it should be a number above 0 and at most {most:g}")
    return float(value)


def _refusal(number: Any, text: str) -> Answer:
    return {"id": number, "error": "request", "message": text}


def _peer(writer: asyncio.StreamWriter) -> tuple[int, str]:
    """The process at the other end: its ID as the kernel knows it, and its name where /proc shows it."""
    raw: socket.socket = writer.get_extra_info("socket")
    pid, _, _ = struct.unpack("3i", raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        return pid, command[:64]
    return pid, ""
