"""The silicon under a clock that the test holds: sharing, memory, faults, instruments."""

from __future__ import annotations

import pytest

from cluster.gpu.devices import NodeGpus, gpus
from cluster.gpu.node.readings import Fault, GpuFault
from cluster.gpu.node.silicon import DeviceFailed, OutOfMemory, Session, Silicon

T4S = gpus("gpu-b", NodeGpus("T4", 2))
CUT = gpus("gpu-a", NodeGpus("A100-80GB", 1, mig={0: ("3g.40gb", "2g.20gb")}))


class Bench:
    def __init__(self, found: tuple[object, ...] = T4S) -> None:
        self.now = 100.0
        self.silicon = Silicon(found, lambda: self.now)  # type: ignore[arg-type]
        self.ended: dict[str, tuple[float, DeviceFailed | None]] = {}

    def open(self, device: str, pid: int = 1) -> Session:
        return self.silicon.open([device], pid, f"process-{pid}")

    def run(self, session: Session, device: str, seconds: float, name: str) -> None:
        self.silicon.submit(
            session, device, seconds, 0.5, lambda failed: self.ended.update({name: (self.now - 100, failed)})
        )

    def until(self, end: float) -> None:
        """Let the time pass from event to event, as the server does."""
        while self.now < 100 + end:
            event = self.silicon.next_event()
            self.now = min(100 + end, self.now + event) if event is not None else 100 + end
            self.silicon.advance()

    def times(self) -> dict[str, float]:
        return {name: round(at, 6) for name, (at, _) in self.ended.items()}


A, B = (gpu.uuid for gpu in T4S)


def test_a_kernel_takes_its_time() -> None:
    bench = Bench()
    bench.run(bench.open(A), A, 2.5, "one")
    bench.until(10)
    assert bench.times() == {"one": 2.5}


def test_kernels_of_one_process_follow_each_other() -> None:
    bench = Bench()
    session = bench.open(A)
    for name, seconds in (("first", 1.0), ("second", 2.0)):
        bench.run(session, A, seconds, name)
    bench.until(10)
    assert bench.times() == {"first": 1.0, "second": 3.0}


def test_processes_on_one_gpu_slow_each_other_down() -> None:
    bench = Bench()
    for pid, seconds in ((1, 1.0), (2, 2.0)):
        bench.run(bench.open(f"{A}::{pid}", pid), A, seconds, f"pid {pid}")
    bench.until(10)
    # Both at half speed until 2 s; then the longer one has the rest of its second second for itself.
    assert bench.times() == {"pid 1": 2.0, "pid 2": 3.0}


def test_neighbours_on_another_gpu_are_not_felt() -> None:
    bench = Bench()
    bench.run(bench.open(A), A, 1.0, "a")
    bench.run(bench.open(B, 2), B, 1.0, "b")
    bench.until(5)
    assert bench.times() == {"a": 1.0, "b": 1.0}


def test_a_slice_has_its_share_and_no_neighbours() -> None:
    bench = Bench(CUT)
    large, small = CUT[0].mig
    bench.run(bench.open(large.uuid), large.uuid, 3.0, "3g")
    bench.run(bench.open(small.uuid, 2), small.uuid, 2.0, "2g")
    bench.until(20)
    assert bench.times() == {"3g": 7.0, "2g": 7.0}


def test_memory_is_one_pot_and_runs_out() -> None:
    bench = Bench()
    first, second = bench.open(f"{A}::0", 1), bench.open(f"{A}::1", 2)
    block = bench.silicon.allocate(first, A, 10000)
    with pytest.raises(OutOfMemory) as full:
        bench.silicon.allocate(second, A, 6000)
    assert (full.value.requested, full.value.free, full.value.total, full.value.own) == (6000, 5360, 15360, 0)
    bench.silicon.free(first, block)
    assert bench.silicon.allocate(second, A, 6000)
    assert bench.silicon.memory(first, A) == (9360, 15360)


def test_a_dead_processs_memory_is_free() -> None:
    bench = Bench()
    session = bench.open(A)
    bench.silicon.allocate(session, A, 15000)
    bench.run(session, A, 5.0, "never")
    bench.silicon.close(session)
    bench.until(10)
    assert bench.silicon.reading(A).used == 0
    assert bench.ended == {}


def test_a_session_touches_only_its_own_devices() -> None:
    bench = Bench()
    with pytest.raises(KeyError):
        bench.silicon.allocate(bench.open(A), B, 1)


@pytest.mark.parametrize(
    ("fault", "xid"),
    [(GpuFault(Fault.LOST), 79), (GpuFault(Fault.ECC), 48), (GpuFault(Fault.XID, 63), 63)],
)
def test_a_fault_kills_what_runs_and_stays_until_healed(fault: GpuFault, xid: int) -> None:
    bench = Bench()
    session = bench.open(A)
    bench.silicon.allocate(session, A, 100)
    bench.run(session, A, 5.0, "victim")
    bench.until(1)
    bench.silicon.fail(A, fault)
    at, failed = bench.ended["victim"]
    assert at == 1.0
    assert failed is not None
    assert failed.xid == xid
    assert not bench.silicon.is_healthy(A)
    assert bench.silicon.is_healthy(B)
    with pytest.raises(DeviceFailed):
        bench.open(A)
    bench.silicon.heal(A)
    assert bench.silicon.is_healthy(A)
    with pytest.raises(DeviceFailed):  # what was there when it failed is lost for good
        bench.silicon.allocate(session, A, 1)
    assert bench.silicon.allocate(bench.open(A), A, 1)
    assert bench.silicon.reading(A).xid == xid


def test_an_applications_own_error_leaves_the_gpu_healthy() -> None:
    bench = Bench()
    bench.run(bench.open(A), A, 5.0, "victim")
    bench.silicon.fail(A, GpuFault(Fault.XID, 31))
    assert bench.ended["victim"][1] is not None
    assert bench.silicon.is_healthy(A)
    assert bench.open(A)


def test_heat_slows_down_but_kills_nothing() -> None:
    bench = Bench()
    session = bench.open(A)
    bench.silicon.fail(A, GpuFault(Fault.HOT))
    bench.run(session, A, 1.0, "slow")
    bench.until(120)
    assert bench.times() == {"slow": 2.0}
    reading = bench.silicon.reading(A)
    assert reading.is_thermal_slowdown
    assert reading.temperature >= 92
    assert not bench.silicon.is_healthy(A)


def test_utilisation_is_the_share_of_the_last_second() -> None:
    bench = Bench()
    session = bench.open(A)
    bench.run(session, A, 0.25, "x")
    bench.until(1)
    assert bench.silicon.reading(A).gpu_util == 25
    assert bench.silicon.reading(A).memory_util == 12
    bench.until(3)
    assert bench.silicon.reading(A).gpu_util == 0


def test_instruments_follow_the_load() -> None:
    bench = Bench()
    idle = bench.silicon.reading(A)
    bench.run(bench.open(A), A, 300.0, "x")
    bench.until(100)
    loaded = bench.silicon.reading(A)
    assert (idle.gpu_util, loaded.gpu_util) == (0, 100)
    assert idle.power == 9
    assert idle.power < loaded.power <= 70
    assert loaded.temperature > idle.temperature + 20
    assert (idle.sm_clock, loaded.sm_clock) == (300, 1590)
    assert loaded.energy == pytest.approx(1000 * 100 * loaded.power, rel=0.01)


def test_a_cut_gpu_shows_what_its_slices_do() -> None:
    bench = Bench(CUT)
    large, small = CUT[0].mig
    session = bench.open(large.uuid)
    bench.silicon.allocate(session, large.uuid, 1000)
    bench.run(session, large.uuid, 30.0, "x")
    bench.until(5)
    assert bench.silicon.reading(large.uuid).gpu_util == 100
    assert bench.silicon.reading(small.uuid).gpu_util == 0
    whole = bench.silicon.reading(CUT[0].uuid)
    assert (whole.gpu_util, whole.used) == (43, 1000)
    assert [process.device for process in whole.processes] == [large.uuid]
