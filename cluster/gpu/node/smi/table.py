"""The table that everybody knows, and the short list."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.gpu.devices import CUDA_VERSION, DRIVER_VERSION, Gpu, MigDevice
from cluster.gpu.node.smi.view import View

WIDTH = 91
_RULE = "+-----------------------------------------+------------------------+----------------------+"
_LINE = "+" + "-" * (WIDTH - 2) + "+"
_HEAD = (
    "| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |",
    "| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |",
    "|                                         |                        |               MIG M. |",
    "|=========================================+========================+======================|",
)
_SLICES = (
    "| MIG devices:                                                                            |",
    "+------------------+----------------------------------+-----------+-----------------------+",
    "| GPU  GI  CI  MIG |              Shared Memory-Usage |        Vol|        Shared         |",
    "|      ID  ID  Dev |                Shared BAR1-Usage | SM     Unc| CE ENC  DEC  OFA  JPG |",
    "|                  |                                  |        ECC|                       |",
    "|==================+==================================+===========+=======================|",
)
_SLICE_RULE = "+------------------+----------------------------------+-----------+-----------------------+"
_PROCESSES = (
    "| Processes:                                                                              |",
    "|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |",
    "|        ID   ID                                                               Usage      |",
    "|=========================================================================================|",
)
# Streaming multiprocessors of a slice: 14 for each compute slice of an A100, 16 of an H100, with exceptions.
_SMS = {"ampere": 14, "hopper": 16}
_ODD_SMS = {("hopper", "1g.20gb"): 26, ("hopper", "3g.40gb"): 60, ("hopper", "7g.80gb"): 132}


def listing(view: View) -> str:
    """`nvidia-smi -L`."""
    lines = []
    for number, gpu in view.boards:
        lines.append(f"GPU {number}: {gpu.model.product} (UUID: {gpu.uuid})")
        for index, cut in enumerate(view.slices.get(gpu.uuid, ())):
            lines.append(f"  MIG {cut.profile.name:<11} Device {index:>2}: (UUID: {cut.uuid})")
    return "\n".join(lines) + "\n"


def text(view: View) -> str:
    """`nvidia-smi` without arguments."""
    return "\n".join(_lines(view)) + "\n"


def _lines(view: View) -> Iterator[str]:
    yield view.time.strftime("%a %b %e %H:%M:%S %Y       ")
    yield _LINE
    version = f"NVIDIA-SMI {DRIVER_VERSION:<22} Driver Version: {DRIVER_VERSION:<14} CUDA Version: {CUDA_VERSION:<8}"
    yield f"| {version} |"
    yield _RULE
    yield from _HEAD
    for number, gpu in view.boards:
        yield from _board(view, number, gpu)
        yield _RULE
    yield ""
    if any(view.slices.values()):
        yield _LINE
        yield from _SLICES
        for number, gpu in view.boards:
            for index, cut in enumerate(view.slices.get(gpu.uuid, ())):
                yield from _slice(view, number, index, gpu, cut)
                yield _SLICE_RULE
        yield ""
    yield _LINE
    yield from _PROCESSES
    yield from _processes(view)
    yield _LINE


def _board(view: View, number: int, gpu: Gpu) -> Iterator[str]:
    reading, model = view.reading(gpu), gpu.model
    name = model.product if len(model.product) <= 24 else model.product[:21] + "..."
    is_cut = bool(gpu.mig)
    ecc = "On" if is_cut else str(reading.ecc_uncorrected)
    memory = f"{'N/A   ':>24}" if is_cut else f"{reading.used:>8}MiB / {reading.total:>6}MiB "
    use = "N/A" if is_cut else f"{reading.gpu_util}%"
    mig = "Enabled" if is_cut else "Disabled" if model.mig else "N/A"
    state = performance_state_of(view, gpu)
    yield f"|{number:>4}  {name:<24}       On  |   {gpu.pci} Off | {ecc:>20} |"
    yield (
        f"| N/A{reading.temperature:>5}C{state:>6}{reading.power:>15.0f}W / {model.power_limit:>4}W "
        f"|{memory}|{use:>8}      Default |"
    )
    yield f"|                                         |                        | {mig:>20} |"


def performance_state_of(view: View, gpu: Gpu) -> str:
    """P0 at work, P8 idle; boards whose memory never clocks down idle in P0."""
    is_idle = not view.reading(gpu).gpu_util and gpu.model.memory_clock_idle < gpu.model.memory_clock
    return "P8" if is_idle else "P0"


def _slice(view: View, number: int, index: int, gpu: Gpu, cut: MigDevice) -> Iterator[str]:
    reading, family = view.reading(cut), gpu.model.architecture
    sms = _ODD_SMS.get((family, cut.profile.name), _SMS.get(family, 0) * cut.profile.compute)
    yield (
        f"| {number:>2}  {cut.instance:>3}   0  {index:>2}  |{_of(reading.used, reading.total)}"
        f"| {sms:>3}  {reading.ecc_uncorrected:>4} |{cut.profile.compute:>3}   0    0    0    0 |"
    )
    yield f"|                  |{_of(0, 0)}|           |                       |"


def _of(used: int, total: int) -> str:
    return f"{used:>15}MiB / {total:>5}MiB  ".ljust(34)


def _processes(view: View) -> Iterator[str]:
    found = [(number, gpu, process) for number, gpu in view.boards for process in view.processes(gpu)]
    for number, gpu, process in found:
        instances = {cut.uuid: str(cut.instance) for cut in view.slices.get(gpu.uuid, ())}
        name = process.name if len(process.name) <= 38 else "..." + process.name[-35:]
        gi, ci = (instances[process.device], "0") if process.device in instances else ("N/A", "N/A")
        size = f"{process.memory}MiB"
        yield f"|{number:>5}   {gi:>3}  {ci:>3}{process.pid:>16}{'C':>7}   {name:<38}{size:>8} |"
    if not found:
        yield "|  No running processes found                                                             |"
