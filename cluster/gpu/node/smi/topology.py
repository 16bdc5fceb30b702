"""`nvidia-smi topo -m`."""

from __future__ import annotations

from cluster.gpu.devices import Gpu
from cluster.gpu.node.smi.view import View

_LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def matrix(view: View) -> str:
    """Columns are separated by tabs and the header is underlined, as the real tool does even into a pipe."""
    titles = [f"GPU{number}" for number, _ in view.boards]
    header = "\t\x1b[4m" + "\t".join([*titles, "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"]) + "\x1b[0m"
    rows = [
        "\t".join([f"GPU{number}", *(_link(one, other) for _, other in view.boards), "0", "0", "\tN/A"])
        for number, one in view.boards
    ]
    return "\n".join([header, *rows]) + "\n" + _LEGEND


def _link(one: Gpu, other: Gpu) -> str:
    if one.uuid == other.uuid:
        return " X "
    return f"NV{one.model.nvlinks}" if other.index in one.peers else "PHB"
