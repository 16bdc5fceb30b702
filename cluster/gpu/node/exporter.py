"""Metrics in the format of NVIDIA's DCGM exporter, so that its dashboards and queries work unchanged.

Names, labels and units follow github.com/NVIDIA/dcgm-exporter (etc/default-counters.csv and its README). Shared GPUs
are shown as it does with KUBERNETES_VIRTUAL_GPUS: one series per holder, with the replica's number as `vgpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cluster.gpu.devices import DRIVER_VERSION, Gpu, MigDevice
from cluster.gpu.node.readings import Reading
from cluster.gpu.node.view import Moment, replica_number

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABELS = (
    "gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION",
    "container", "namespace", "pod", "vgpu", "GPU_I_PROFILE", "GPU_I_ID",
)  # fmt: skip
Value = Callable[[Reading], float]
_GAUGES: tuple[tuple[str, str, Value], ...] = (
    ("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", lambda r: r.sm_clock),
    ("DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz).", lambda r: r.memory_clock),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", lambda r: r.temperature),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", lambda r: round(r.power, 3)),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilization (in %).", lambda r: r.memory_util),
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", lambda r: r.free),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", lambda r: r.used),
    ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "Single-bit volatile ECC errors.", lambda r: r.ecc_corrected),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "Double-bit volatile ECC errors.", lambda r: r.ecc_uncorrected),
)
_XID = ("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered.")
_ENERGY = ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Total energy consumption since boot (in mJ).")
_GPU_UTIL = ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).")
# NVML knows no utilisation of a MIG slice; profiling's share of busy engines takes its place.
_ACTIVE = ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "Ratio of time the graphics engine is active.")


def render(moment: Moment) -> bytes:
    """The page, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Page(moment))
    # The library would have every counter end in _total; DCGM's doesn't.
    return generate_latest(registry).replace(f"{_ENERGY[0]}_total ".encode(), f"{_ENERGY[0]} ".encode())


class _Page(Collector):
    def __init__(self, moment: Moment) -> None:
        self._series = list(_series(moment))

    def collect(self) -> Iterator[Metric]:
        # A GPU that fell off the bus answers nothing but its last Xid.
        alive = [(labels, reading, is_slice) for labels, reading, is_slice in self._series if not reading.is_lost]
        for name, text, value in _GAUGES:
            yield _family("gauge", name, text, [(labels, value(reading)) for labels, reading, _ in alive])
        whole = [(labels, reading.gpu_util) for labels, reading, is_slice in alive if not is_slice]
        yield _family("gauge", *_GPU_UTIL, whole)
        yield _family("gauge", *_ACTIVE, [(labels, reading.gpu_util / 100) for labels, reading, _ in alive])
        yield _family("gauge", *_XID, [(labels, reading.xid) for labels, reading, _ in self._series])
        yield _family("counter", *_ENERGY, [(labels, reading.energy) for labels, reading, _ in alive])


def _family(kind: str, name: str, text: str, rows: Sequence[tuple[tuple[str, ...], float]]) -> Metric:
    family = Metric(name, text, kind)
    for labels, value in rows:
        # Prometheus takes an empty label for an absent one; the exporter leaves out those that don't apply.
        pairs = zip(_LABELS, labels, strict=True)
        family.add_sample(name, {key: text for key, text in pairs if text or key in _ALWAYS}, value)
    return family


_ALWAYS = {"container", "namespace", "pod"}


def _series(moment: Moment) -> Iterator[tuple[tuple[str, ...], Reading, bool]]:
    for gpu in moment.gpus:
        for device in gpu.mig or (gpu,):
            held = moment.held(device.uuid)
            owners = [(one.container, one.namespace, one.pod, replica_number(id_)) for one, id_ in held]
            for owner in owners or [("", "", "", "")]:
                labels = (*_hardware(moment.node, gpu), *owner, *_slice(device))
                yield labels, moment.readings[device.uuid], isinstance(device, MigDevice)


def _hardware(node: str, gpu: Gpu) -> tuple[str, ...]:
    return str(gpu.index), gpu.uuid, gpu.pci, f"nvidia{gpu.index}", gpu.model.product, node, DRIVER_VERSION


def _slice(device: Gpu | MigDevice) -> tuple[str, str]:
    return (device.profile.name, str(device.instance)) if isinstance(device, MigDevice) else ("", "")
