"""What instruments on a GPU show at one moment: the silicon produces it, nvidia-smi and the exporter print it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FALLEN_OFF_THE_BUS = 79


class Fault(Enum):
    """What can be wrong with a GPU. Values are what `kailab gpu fault` and the node's annotation call it."""

    XID = "xid"
    ECC = "ecc"
    LOST = "lost"
    HOT = "hot"


@dataclass(frozen=True)
class GpuFault:
    """A fault and, for XID, its number in NVIDIA's catalogue of Xid messages."""

    kind: Fault
    xid: int = 0

    @property
    def logged(self) -> int:
        """The Xid that the driver would log; 0 for heat, which is none."""
        return {Fault.ECC: 48, Fault.LOST: FALLEN_OFF_THE_BUS}.get(self.kind, self.xid)


@dataclass(frozen=True)
class Process:
    """A process with memory on a device. `memory` in MiB; `device` is a GPU's or a MIG slice's UUID."""

    pid: int
    name: str
    memory: int
    device: str


@dataclass(frozen=True)
class Reading:
    """One device at one moment: percents over the last second, MiB, degrees Celsius, W, MHz, mJ since the start.

    `device` is a GPU's or a MIG slice's UUID; a slice has its own use and memory, and its GPU's temperature, power
    and clocks. `xid` is the last Xid seen, 0 when there was none. ECC counts are since the start ("volatile").
    """

    device: str
    used: int
    total: int
    gpu_util: int
    memory_util: int
    temperature: int
    power: float
    energy: int
    sm_clock: int
    memory_clock: int
    xid: int = 0
    ecc_corrected: int = 0
    ecc_uncorrected: int = 0
    fault: GpuFault | None = None
    is_thermal_slowdown: bool = False
    processes: tuple[Process, ...] = ()

    @property
    def free(self) -> int:
        return self.total - self.used

    @property
    def is_lost(self) -> bool:
        return self.fault is not None and self.fault.logged == FALLEN_OFF_THE_BUS
