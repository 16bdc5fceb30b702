"""`nvidia-smi -q`: the sections that the simulation has something to say about."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.gpu.devices import CUDA_VERSION, DRIVER_VERSION, Gpu
from cluster.gpu.node.smi.table import performance_state_of
from cluster.gpu.node.smi.view import View

# Where the real tool puts its colons.
COLON = 51
Section = tuple[str, str, Mapping[str, object]]  # what -d calls it, its title, its lines


def text(view: View, display: str) -> str:
    """The report of all visible GPUs; `display` chooses sections by their names, separated by commas."""
    wanted = {name.strip().upper() for name in display.split(",") if name.strip()}
    lines = ["", "==============NVSMI LOG==============", ""]
    lines.append(_line(0, "Timestamp", view.time.strftime("%a %b %e %H:%M:%S %Y")))
    lines.append(_line(0, "Driver Version", DRIVER_VERSION))
    lines.append(_line(0, "CUDA Version", CUDA_VERSION))
    lines += ["", _line(0, "Attached GPUs", len(view.boards))]
    for _, gpu in view.boards:
        lines.append(f"GPU {gpu.pci}")
        if not wanted:
            lines += [_line(1, name, value) for name, value in _identity(view, gpu).items()]
        for name, title, entries in _sections(view, gpu):
            if not wanted or name in wanted:
                lines.append(f"    {title}")
                lines += [_line(2, key, value) for key, value in entries.items()]
        if not wanted:
            lines += _processes(view, gpu)
        lines.append("")
    return "\n".join(lines) + "\n"


def _line(depth: int, name: str, value: object) -> str:
    return f"{'    ' * depth}{name}".ljust(COLON - 1) + f": {value}"


def _identity(view: View, gpu: Gpu) -> dict[str, object]:
    model = gpu.model
    return {
        "Product Name": model.product,
        "Product Brand": model.brand,
        "Product Architecture": model.architecture.title().replace("-", " "),
        "Display Active": "Disabled",
        "Persistence Mode": "Enabled",
        "Serial Number": gpu.serial,
        "GPU UUID": gpu.uuid,
        "Minor Number": gpu.index,  # the number in /dev/nvidia3: the node's, also inside a container
        "Performance State": performance_state_of(view, gpu),
    }


def _sections(view: View, gpu: Gpu) -> list[Section]:
    reading, model = view.reading(gpu), gpu.model
    slowdown = "Active" if reading.is_thermal_slowdown else "Not Active"
    mig = "Enabled" if gpu.mig else "Disabled" if model.mig else "N/A"
    return [
        ("MIG", "MIG Mode", {"Current": mig, "Pending": mig}),
        ("PERFORMANCE", "Clocks Event Reasons", {"HW Thermal Slowdown": slowdown}),
        ("MEMORY", "FB Memory Usage", {"Total": f"{reading.total} MiB", "Reserved": "0 MiB",
                                       "Used": f"{reading.used} MiB", "Free": f"{reading.free} MiB"}),
        ("UTILIZATION", "Utilization", {"GPU": "N/A" if gpu.mig else f"{reading.gpu_util} %",
                                        "Memory": "N/A" if gpu.mig else f"{reading.memory_util} %"}),
        ("ECC", "ECC Mode", {"Current": "Enabled", "Pending": "Enabled"}),
        ("ECC", "ECC Errors, Volatile", {"DRAM Correctable": reading.ecc_corrected,
                                         "DRAM Uncorrectable": reading.ecc_uncorrected}),
        ("TEMPERATURE", "Temperature", {"GPU Current Temp": f"{reading.temperature} C",
                                        "GPU Shutdown Temp": f"{model.shutdown} C",
                                        "GPU Slowdown Temp": f"{model.slowdown} C"}),
        ("POWER", "GPU Power Readings", {"Average Power Draw": f"{reading.power:.2f} W",
                                         "Current Power Limit": f"{model.power_limit:.2f} W",
                                         "Min Power Limit": f"{model.power_minimum:.2f} W",
                                         "Max Power Limit": f"{model.power_limit:.2f} W"}),
        ("CLOCK", "Clocks", {"Graphics": f"{reading.sm_clock} MHz", "SM": f"{reading.sm_clock} MHz",
                             "Memory": f"{reading.memory_clock} MHz"}),
        ("CLOCK", "Max Clocks", {"Graphics": f"{model.sm_clock} MHz", "SM": f"{model.sm_clock} MHz",
                                 "Memory": f"{model.memory_clock} MHz"}),
    ]  # fmt: skip


def _processes(view: View, gpu: Gpu) -> list[str]:
    found = view.processes(gpu)
    if not found:
        return [_line(1, "Processes", "None")]
    lines = ["    Processes"]
    for process in found:
        lines += [
            _line(2, "Process ID", process.pid),
            _line(3, "Type", "C"),
            _line(3, "Name", process.name),
            _line(3, "Used GPU Memory", f"{process.memory} MiB"),
        ]
    return lines
