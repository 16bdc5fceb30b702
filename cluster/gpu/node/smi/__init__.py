"""nvidia-smi for simulated GPUs: what the real one of the 580 driver series would print about what a pod holds.

Layouts follow real outputs column by column, so that scripts and eyes find what they know. Exit statuses are those of
its manual page: 2 a wrong argument, 6 nothing found, 15 a GPU that has fallen off the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.gpu.devices import CUDA_VERSION, DRIVER_VERSION
from cluster.gpu.node.smi import query, report, table, topology
from cluster.gpu.node.smi.view import View

__all__ = ["View", "render"]

WRONG_ARGUMENT, NOT_FOUND, LOST = 2, 6, 15
_HELP = """NVIDIA System Management Interface -- v{driver}
The GPUs are simulated by kailab; this program knows a part of the real one.

    nvidia-smi                          the table
    nvidia-smi -L                       list the GPUs and MIG devices
    nvidia-smi -q [-d MEMORY,...]       everything about each GPU
    nvidia-smi --query-gpu=FIELD,... --format=csv[,noheader][,nounits]
    nvidia-smi --query-compute-apps=FIELD,... --format=csv[,noheader][,nounits]
    nvidia-smi --help-query-gpu         the fields of --query-gpu
    nvidia-smi topo -m                  how the GPUs are connected
    nvidia-smi --version

    -i, --id=GPU      only this GPU: index, UUID or bus ID
    -l, --loop=SEC    again and again, until Ctrl-C

Not simulated: settings (-pm, -pl, -mig ...), resets, dmon, pmon, XML.
"""
_FLAGS = {"-L": "-L", "--list-gpus": "-L", "-q": "-q", "--query": "-q", "-h": "-h", "--help": "-h",
          "--version": "--version", "--help-query-gpu": "--help-query-gpu"}  # fmt: skip
_VALUES = {"-i": "-i", "--id": "-i", "-d": "-d", "--display": "-d", "--format": "--format",
           "--query-gpu": "--query-gpu", "--query-compute-apps": "--query-compute-apps"}  # fmt: skip


class Wrong(Exception):
    """An argument that the real tool would refuse too, or that isn't simulated."""


def render(argv: Sequence[str], view: View) -> tuple[int, str]:
    """Exit status and output for these arguments (without the program's name)."""
    try:
        options = _parse(list(argv))
    except Wrong as wrong:
        return WRONG_ARGUMENT, f"{wrong}\n"
    for flag, printer in _ALONE.items():
        if flag in options:
            return 0, printer()
    if not view.boards:
        return NOT_FOUND, "No devices were found\n"
    if "-i" in options:
        view = view.only(options["-i"])
        if not view.boards:
            return NOT_FOUND, "No devices were found\n"
    lost = "".join(
        f"Unable to determine the device handle for GPU{number}: {gpu.pci[4:]}: "
        "GPU is lost.  Reboot the system to recover this GPU\n"
        for number, gpu in view.boards
        if view.reading(gpu).is_lost
    )
    if lost:
        view = view.without_lost()
    status, text = _print(options, view) if view.boards else (0, "")
    return (LOST if lost else status), text + lost


def _print(options: dict[str, str], view: View) -> tuple[int, str]:
    if "--query-gpu" in options or "--query-compute-apps" in options:
        if "csv" not in options.get("--format", "").split(","):
            return WRONG_ARGUMENT, '"--format=" switch is missing.  Select the format with --format=csv\n'
        try:
            return 0, query.csv(options, view)
        except query.UnknownField as unknown:
            return WRONG_ARGUMENT, f'Field "{unknown}" is not a valid field to query.\n\n'
    printers: dict[str, Callable[[View], str]] = {"-L": table.listing, "topo": topology.matrix}
    for flag, printer in printers.items():
        if flag in options:
            return 0, printer(view)
    if "-q" in options:
        return 0, report.text(view, options.get("-d", ""))
    return 0, table.text(view)


def _parse(argv: list[str]) -> dict[str, str]:
    if argv and argv[0] == "topo":
        if argv[1:] not in (["-m"], ["--matrix"]):
            raise Wrong("kailab's simulated nvidia-smi knows `topo -m` only.")
        return {"topo": ""}
    options: dict[str, str] = {}
    rest = list(argv)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name in _FLAGS and not equals:
            options[_FLAGS[name]] = ""
        elif name in _VALUES:
            if not equals and not rest:
                raise Wrong(f"Option {name} is missing its value.")
            options[_VALUES[name]] = value if equals else rest.pop(0)
        else:
            raise Wrong(
                f"Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n"
                f"(kailab's simulated nvidia-smi does not know {name!r}.)"
            )
    return options


def _version() -> str:
    return (
        f"NVIDIA-SMI version  : {DRIVER_VERSION}\n"
        f"NVML version        : {DRIVER_VERSION.rpartition('.')[0]}\n"
        f"DRIVER version      : {DRIVER_VERSION}\n"
        f"CUDA Version        : {CUDA_VERSION}\n"
        "(GPUs simulated by kailab)\n"
    )


_ALONE: dict[str, Callable[[], str]] = {
    "-h": lambda: _HELP.format(driver=DRIVER_VERSION),
    "--version": _version,
    "--help-query-gpu": query.fields,
}
