"""`--query-gpu` and `--query-compute-apps`: values separated by commas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.gpu.devices import DRIVER_VERSION, Gpu
from cluster.gpu.node.readings import Process, Reading
from cluster.gpu.node.smi.table import performance_state_of
from cluster.gpu.node.smi.view import View


class UnknownField(Exception):
    """A field that isn't there; the text is its name."""


@dataclass(frozen=True)
class Row:
    """What the fields of one GPU are taken from."""

    view: View
    number: int
    gpu: Gpu

    @property
    def reading(self) -> Reading:
        return self.view.reading(self.gpu)


Field = tuple[str, Callable[[Row], object]]  # unit and value


def _whole(row: Row, value: object) -> object:
    """What a GPU in slices does not tell as a whole."""
    return "[N/A]" if row.gpu.mig else value


_FIELDS: Mapping[str, Field] = {
    "timestamp": ("", lambda r: r.view.time.strftime("%Y/%m/%d %H:%M:%S.") + f"{r.view.time.microsecond // 1000:03}"),
    "driver_version": ("", lambda _: DRIVER_VERSION),
    "count": ("", lambda r: len(r.view.boards)),
    "name": ("", lambda r: r.gpu.model.product),
    "serial": ("", lambda r: r.gpu.serial),
    "uuid": ("", lambda r: r.gpu.uuid),
    "pci.bus_id": ("", lambda r: r.gpu.pci),
    "index": ("", lambda r: r.number),
    "compute_cap": ("", lambda r: ".".join(map(str, r.gpu.model.compute))),
    "pstate": ("", lambda r: performance_state_of(r.view, r.gpu)),
    "display_active": ("", lambda _: "Disabled"),
    "persistence_mode": ("", lambda _: "Enabled"),
    "compute_mode": ("", lambda _: "Default"),
    "mig.mode.current": ("", lambda r: "Enabled" if r.gpu.mig else "Disabled" if r.gpu.model.mig else "[N/A]"),
    "fan.speed": ("%", lambda _: "[N/A]"),
    "memory.total": ("MiB", lambda r: r.reading.total),
    "memory.reserved": ("MiB", lambda _: 0),
    "memory.used": ("MiB", lambda r: r.reading.used),
    "memory.free": ("MiB", lambda r: r.reading.free),
    "utilization.gpu": ("%", lambda r: _whole(r, r.reading.gpu_util)),
    "utilization.memory": ("%", lambda r: _whole(r, r.reading.memory_util)),
    "temperature.gpu": ("", lambda r: r.reading.temperature),
    "power.draw": ("W", lambda r: f"{r.reading.power:.2f}"),
    "power.limit": ("W", lambda r: f"{r.gpu.model.power_limit:.2f}"),
    "power.default_limit": ("W", lambda r: f"{r.gpu.model.power_limit:.2f}"),
    "power.min_limit": ("W", lambda r: f"{r.gpu.model.power_minimum:.2f}"),
    "power.max_limit": ("W", lambda r: f"{r.gpu.model.power_limit:.2f}"),
    "clocks.current.graphics": ("MHz", lambda r: r.reading.sm_clock),
    "clocks.current.sm": ("MHz", lambda r: r.reading.sm_clock),
    "clocks.current.memory": ("MHz", lambda r: r.reading.memory_clock),
    "clocks.max.graphics": ("MHz", lambda r: r.gpu.model.sm_clock),
    "clocks.max.sm": ("MHz", lambda r: r.gpu.model.sm_clock),
    "clocks.max.memory": ("MHz", lambda r: r.gpu.model.memory_clock),
    "ecc.mode.current": ("", lambda _: "Enabled"),
    "ecc.errors.corrected.volatile.total": ("", lambda r: r.reading.ecc_corrected),
    "ecc.errors.uncorrected.volatile.total": ("", lambda r: r.reading.ecc_uncorrected),
    "clocks_event_reasons.hw_thermal_slowdown": (
        "",
        lambda r: "Active" if r.reading.is_thermal_slowdown else "Not Active",
    ),
}
# Other spellings that the real tool takes; its header repeats the one that was asked for.
_OTHER_NAMES = {
    "gpu_name": "name", "gpu_serial": "serial", "gpu_uuid": "uuid", "gpu_bus_id": "pci.bus_id",
    "clocks.sm": "clocks.current.sm", "clocks.gr": "clocks.current.graphics", "clocks.mem": "clocks.current.memory",
    "clocks.max.gr": "clocks.max.graphics", "clocks.max.mem": "clocks.max.memory",
    "clocks_throttle_reasons.hw_thermal_slowdown": "clocks_event_reasons.hw_thermal_slowdown",
}  # fmt: skip
_OF_PROCESS: Mapping[str, tuple[str, Callable[[Process], object]]] = {
    "pid": ("", lambda p: p.pid),
    "process_name": ("", lambda p: p.name),
    "name": ("", lambda p: p.name),
    "used_memory": ("MiB", lambda p: p.memory),
    "used_gpu_memory": ("MiB", lambda p: p.memory),
}
_OF_ITS_GPU = ("timestamp", "gpu_name", "gpu_bus_id", "gpu_serial", "gpu_uuid")


def fields() -> str:
    """`--help-query-gpu`."""
    names = [*_FIELDS, *_OTHER_NAMES]
    return "Fields of --query-gpu that kailab's simulated nvidia-smi knows:\n\n" + "".join(
        f'"{one}"\n' for one in names
    )


def csv(options: Mapping[str, str], view: View) -> str:
    """Raises UnknownField."""
    style = options["--format"].split(",")
    if "--query-gpu" in options:
        names = _names(options["--query-gpu"])
        chosen = [_field(name) for name in names]
        rows = [[(unit, value(Row(view, *board))) for unit, value in chosen] for board in view.boards]
    else:
        names = _names(options["--query-compute-apps"])
        apps = [_app_field(name) for name in names]
        chosen = [(unit, str) for unit, _ in apps]
        rows = [
            [(unit, value(Row(view, *board), process)) for unit, value in apps]
            for board in view.boards
            for process in view.processes(board[1])
        ]
    lines = [] if "noheader" in style else [", ".join(map(_title, names, (unit for unit, _ in chosen)))]
    lines += [", ".join(_value(unit, value, style) for unit, value in row) for row in rows]
    return "\n".join(lines) + "\n" if lines else ""


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _field(name: str) -> Field:
    found = _FIELDS.get(_OTHER_NAMES.get(name, name))
    if found is None:
        raise UnknownField(name)
    return found


def _title(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit else name


def _value(unit: str, value: object, style: list[str]) -> str:
    plain = "nounits" in style or not unit or value == "[N/A]"
    return str(value) if plain else f"{value} {unit}"


def _app_field(name: str) -> tuple[str, Callable[[Row, Process], object]]:
    if name in _OF_PROCESS:
        unit, own = _OF_PROCESS[name]
        return unit, lambda _, process: own(process)
    if name not in _OF_ITS_GPU:
        raise UnknownField(name)
    unit, value = _field(name)
    return unit, lambda row, _: value(row)
