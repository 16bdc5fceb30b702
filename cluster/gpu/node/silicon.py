"""The simulated silicon: memory that runs out, kernels that take their time, instruments, and faults.

Nothing is computed here. A kernel is a duration: how long it takes alone on the whole GPU at full clocks. What is
simulated is what others feel of it: processes on one GPU take turns (time-slicing: n busy processes each go at 1/n of
the speed), memory is one pot without walls between them, a MIG slice has its own share of both. Everything follows
from the clock, exactly and without chance, so that tests can stop the time.

What the instruments show follows NVML's definitions (utilisation: the share of the last second in which a kernel
ran); power and temperature are a plain model, linear in load and first order in time.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cluster.gpu import faults
from cluster.gpu.devices import Gpu, MigDevice, uuid_of
from cluster.gpu.models import COMPUTE_SLICES
from cluster.gpu.node.readings import Fault, GpuFault, Process, Reading

WINDOW = 1.0  # seconds over which NVML averages utilisation
HOT_SPEED = 0.5  # of full clocks, under thermal slowdown
AMBIENT = 30.0  # degrees Celsius of an idle board
LOADED = 68.0  # and of one that works all the time
LAG = 20.0  # seconds in which temperature closes 63 % of the distance
MOST_KERNEL_SECONDS = 3600.0
DOUBLE_BIT = 48


class DeviceFailed(Exception):
    """The GPU is not usable for this session; `xid` says why."""

    def __init__(self, xid: int, text: str) -> None:
        super().__init__(text)
        self.xid = xid


class OutOfMemory(Exception):
    """An allocation that doesn't fit. All in MiB: asked for, free and total on the device, held by this process."""

    def __init__(self, requested: int, free: int, total: int, own: int) -> None:
        super().__init__(f"{requested} MiB asked for, {free} MiB of {total} MiB free")
        self.requested, self.free, self.total, self.own = requested, free, total, own


@dataclass(eq=False)
class Kernel:
    """Work on a device: `rest` seconds of it at full speed. `intensity` is the share of memory bandwidth in use."""

    session: Session
    device: str
    rest: float
    intensity: float
    done: Callable[[DeviceFailed | None], None]


@dataclass(eq=False)
class Session:
    """One process on the devices that its container holds."""

    pid: int
    name: str
    devices: tuple[str, ...]
    blocks: dict[int, tuple[str, int]] = field(default_factory=dict)  # id -> device, MiB
    failed: dict[str, DeviceFailed] = field(default_factory=dict)  # by GPU


@dataclass(eq=False)
class _Engine:
    """What runs kernels: a whole GPU, or one slice of it. Queues are one per session: kernels of a process follow
    each other, those of several processes share the time."""

    gpu: str
    share: float
    queues: dict[Session, deque[Kernel]] = field(default_factory=dict)
    busy: deque[tuple[float, float, float]] = field(default_factory=deque)  # start, end, intensity

    def running(self) -> list[Kernel]:
        return [queue[0] for queue in self.queues.values() if queue]


@dataclass(eq=False)
class _Board:
    """A GPU's slow quantities, true at `at`."""

    at: float
    temperature: float
    energy: float = 0.0  # J
    xid: int = 0
    fault: GpuFault | None = None
    ecc: int = 0


class Silicon:
    """All GPUs of one node. Thread-safe. `done` callbacks run without the lock, in the thread that calls `advance`."""

    def __init__(self, gpus: Sequence[Gpu], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._now = clock()
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._devices: dict[str, Gpu | MigDevice] = {one.uuid: one for gpu in gpus for one in gpu.devices}
        self._engines = {
            one.uuid: _Engine(gpu.uuid, one.profile.compute / COMPUTE_SLICES if isinstance(one, MigDevice) else 1.0)
            for gpu in gpus
            for one in gpu.devices
        }
        self._boards = {gpu.uuid: _Board(self._now, AMBIENT) for gpu in gpus}
        self._sessions: list[Session] = []
        self._next_block = 1
        self._finished: list[tuple[Kernel, DeviceFailed | None]] = []

    # Sessions and memory

    def open(self, device_ids: Sequence[str], pid: int, name: str) -> Session:
        """A process appears. Replica IDs stand for their GPU. Raises KeyError for a device that isn't here."""
        found = tuple(dict.fromkeys(uuid_of(one) for one in device_ids))
        with self._lock:
            for one in found:
                if (broken := self._broken(self._engines[one].gpu)) is not None:
                    raise broken
            session = Session(pid, name, found)
            self._sessions.append(session)
            return session

    def describe(self, device: str) -> dict[str, object]:
        """What a program may know of its device: uuid, name, memory in MiB, compute capability."""
        one, gpu = self._devices[device], self._gpus[self._engines[device].gpu]
        name = f"{gpu.model.product} MIG {one.profile.name}" if isinstance(one, MigDevice) else gpu.model.product
        return {"uuid": device, "name": name, "memory": one.memory, "compute": list(gpu.model.compute)}

    def close(self, session: Session) -> None:
        """The process is gone: its memory is free, its kernels end."""
        with self._lock:
            self._advance()
            for engine in self._engines.values():
                engine.queues.pop(session, None)
            if session in self._sessions:
                self._sessions.remove(session)
        self._report()

    def allocate(self, session: Session, device: str, mib: int) -> int:
        """Take memory; returns the block's number. Raises OutOfMemory, DeviceFailed."""
        with self._lock:
            self._check(session, device)
            total, used = self._devices[device].memory, self._used(device)
            if mib > total - used:
                own = sum(size for where, size in session.blocks.values() if where == device)
                raise OutOfMemory(mib, total - used, total, own)
            block, self._next_block = self._next_block, self._next_block + 1
            session.blocks[block] = (device, mib)
            return block

    def free(self, session: Session, block: int) -> None:
        """Give a block back. Raises KeyError when the session has no such block."""
        with self._lock:
            del session.blocks[block]

    def memory(self, session: Session, device: str) -> tuple[int, int]:
        """Free and total MiB. Raises DeviceFailed."""
        with self._lock:
            self._check(session, device)
            total = self._devices[device].memory
            return total - self._used(device), total

    def _used(self, device: str) -> int:
        return sum(size for one in self._sessions for where, size in one.blocks.values() if where == device)

    def _check(self, session: Session, device: str) -> None:
        if device not in session.devices:
            raise KeyError(device)
        gpu = self._engines[device].gpu
        if gpu in session.failed:
            raise session.failed[gpu]

    # Kernels

    def submit(
        self, session: Session, device: str, seconds: float, intensity: float,
        done: Callable[[DeviceFailed | None], None],
    ) -> Kernel:  # fmt: skip
        """Queue a kernel; `done` is called with None when it has finished, or with what went wrong.

        `seconds` alone on the whole GPU, more than 0 and at most an hour; `intensity` from 0 to 1.
        """
        with self._lock:
            self._check(session, device)
            self._advance()
            kernel = Kernel(session, device, seconds, intensity, done)
            self._engines[device].queues.setdefault(session, deque()).append(kernel)
        self._report()
        return kernel

    def advance(self) -> None:
        """Let the time pass until now, and tell those whose kernels have ended."""
        with self._lock:
            self._advance()
        self._report()

    def next_event(self) -> float | None:
        """Seconds until the next kernel ends; None when nothing runs."""
        with self._lock:
            self._advance()
            ends = [kernel.rest / rate for engine in self._engines.values() for kernel, rate in self._rates(engine)]
        self._report()
        return min(ends, default=None)

    def _report(self) -> None:
        with self._lock:
            finished, self._finished = self._finished, []
        for kernel, failed in finished:
            kernel.done(failed)

    def _rates(self, engine: _Engine) -> list[tuple[Kernel, float]]:
        """What runs now, and how many of its seconds pass in one second."""
        running = engine.running()
        fault = self._boards[engine.gpu].fault
        speed = engine.share * (HOT_SPEED if fault is not None and fault.kind is Fault.HOT else 1.0)
        return [(kernel, speed / len(running)) for kernel in running]

    def _advance(self) -> None:
        now = self._clock()
        while self._now < now:
            rates = [(engine, *pair) for engine in self._engines.values() for pair in self._rates(engine)]
            step = min([now - self._now, *(kernel.rest / rate for _, kernel, rate in rates)])
            self._pass(step, rates)

    def _pass(self, step: float, rates: list[tuple[_Engine, Kernel, float]]) -> None:
        end = self._now + step
        for uuid, board in self._boards.items():
            self._heat(uuid, board, step)
        for engine in {id(engine): engine for engine, _, _ in rates}.values():
            running = engine.running()
            engine.busy.append((self._now, end, sum(kernel.intensity for kernel in running) / len(running)))
        for engine in self._engines.values():
            while engine.busy and engine.busy[0][1] < end - WINDOW:
                engine.busy.popleft()
        for engine, kernel, rate in rates:
            kernel.rest -= step * rate
            if kernel.rest <= 1e-9:
                queue = engine.queues[kernel.session]
                queue.popleft()
                if not queue:
                    del engine.queues[kernel.session]
                self._finished.append((kernel, None))
        self._now = end

    # Instruments

    def _load(self, gpu: str) -> float:
        """How much of the GPU works at this moment, from 0 to 1."""
        working = [one.share for one in self._engines.values() if one.gpu == gpu and one.running()]
        return min(sum(working), 1.0)

    def _is_hot(self, board: _Board) -> bool:
        return board.fault is not None and board.fault.kind is Fault.HOT

    def _heat(self, uuid: str, board: _Board, step: float) -> None:
        model = self._gpus[uuid].model
        target = float(model.slowdown) if self._is_hot(board) else AMBIENT + (LOADED - AMBIENT) * self._load(uuid)
        board.temperature = target + (board.temperature - target) * math.exp(-step / LAG)
        board.energy += step * self._power(uuid, self._load(uuid))

    def _power(self, uuid: str, load: float) -> float:
        model = self._gpus[uuid].model
        return model.power_idle + (0.85 * model.power_limit - model.power_idle) * load

    def _busy(self, engine: _Engine) -> tuple[float, float]:
        """Shares of the last second: with a kernel running, and of the memory's bandwidth."""
        since = self._now - WINDOW
        parts = [(min(end, self._now) - max(start, since), intensity) for start, end, intensity in engine.busy]
        used = sum(max(part, 0.0) for part, _ in parts)
        return min(used / WINDOW, 1.0), min(sum(max(part, 0.0) * much for part, much in parts) / WINDOW, 1.0)

    def reading(self, device: str) -> Reading:
        """What the instruments of a GPU or slice show now. Raises KeyError for a device that isn't here."""
        with self._lock:
            self._advance()
            one, engine = self._devices[device], self._engines[device]
            gpu, board = self._gpus[engine.gpu], self._boards[engine.gpu]
            family = [device, *(cut.uuid for cut in gpu.mig)] if one is gpu else [device]
            use, bandwidth = self._whole_use(gpu) if one is gpu and gpu.mig else self._busy(engine)
            load = self._whole_use(gpu)[0] if gpu.mig else self._busy(self._engines[gpu.uuid])[0]
            processes = tuple(
                Process(session.pid, session.name, held, where)
                for session in self._sessions
                for where in family
                if (held := sum(size for place, size in session.blocks.values() if place == where))
            )
            made = Reading(
                device, sum(one.memory for one in processes), one.memory, round(100 * use), round(100 * bandwidth),
                round(board.temperature), self._power(gpu.uuid, load), round(board.energy * 1000),
                self._clock_of(gpu, board, load), gpu.model.memory_clock if load else gpu.model.memory_clock_idle,
                board.xid, 0, board.ecc, board.fault, self._is_hot(board), processes,
            )  # fmt: skip
        self._report()
        return made

    def _whole_use(self, gpu: Gpu) -> tuple[float, float]:
        """A GPU in slices works as much as its slices do, each by its share."""
        parts = [(self._engines[cut.uuid].share, *self._busy(self._engines[cut.uuid])) for cut in gpu.mig]
        return min(sum(s * u for s, u, _ in parts), 1.0), min(sum(s * b for s, _, b in parts), 1.0)

    def _clock_of(self, gpu: Gpu, board: _Board, load: float) -> int:
        if not load:
            return gpu.model.sm_clock_idle
        return round(gpu.model.sm_clock * (HOT_SPEED if self._is_hot(board) else 1.0))

    # Faults

    def fail(self, gpu: str, fault: GpuFault) -> None:
        """Something goes wrong with a GPU: all but heat ends what runs on it and its slices."""
        with self._lock:
            self._advance()
            board = self._boards[gpu]
            momentary = faults.is_momentary(fault)
            board.fault = board.fault if momentary else fault
            if fault.kind is not Fault.HOT:
                board.xid = fault.logged
                board.ecc += board.xid == DOUBLE_BIT
                self._end_all(gpu, self._failure(gpu, fault))
        self._report()

    def _end_all(self, gpu: str, failed: DeviceFailed) -> None:
        for uuid, engine in self._engines.items():
            if engine.gpu == gpu:
                ended = [kernel for queue in engine.queues.values() for kernel in queue]
                self._finished += [(kernel, failed) for kernel in ended]
                engine.queues.clear()
                for session in self._sessions:
                    if uuid in session.devices:
                        session.failed[gpu] = failed
                        session.blocks = {key: one for key, one in session.blocks.items() if one[0] != uuid}

    def heal(self, gpu: str) -> None:
        """Good again for new sessions; the last Xid stays on record, as DCGM's does."""
        with self._lock:
            self._advance()
            self._boards[gpu].fault = None
        self._report()

    def is_healthy(self, gpu: str) -> bool:
        """What NVIDIA's device plugin would tell the kubelet; a GPU that throttles for heat is not fit either."""
        with self._lock:
            return self._boards[gpu].fault is None

    def _broken(self, gpu: str) -> DeviceFailed | None:
        fault = self._boards[gpu].fault
        if fault is None or fault.kind is Fault.HOT:
            return None
        return self._failure(gpu, fault)

    def _failure(self, gpu: str, fault: GpuFault) -> DeviceFailed:
        return DeviceFailed(fault.logged, f"GPU {self._gpus[gpu].index} failed: {faults.describe(fault)}")
