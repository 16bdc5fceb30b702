"""Faults as annotations of the node: `kailab gpu fault` writes them, the node's agent makes the silicon obey.

An annotation survives a restarted agent, shows in `kubectl describe node`, and is there for nodes with and without a
machine behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.gpu.node.readings import Fault, GpuFault

ANNOTATION = "fault.gpu.kailab.dev/"
CONDITION = "GpusHealthy"
# What NVIDIA's device plugin takes for the application's own error and not the GPU's (its health check's list).
APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
HIGHEST_XID = 172
_MEANING = {
    13: "graphics engine exception",
    31: "memory page fault",
    43: "GPU stopped processing",
    45: "preemptive cleanup, due to previous errors",
    48: "double-bit ECC error",
    63: "row remapping recorded",
    64: "row remapping failed",
    68: "video processor exception",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    94: "contained memory error",
    95: "uncontained memory error",
    109: "context switch timeout",
    119: "GSP RPC timeout",
}


def to_text(fault: GpuFault) -> str:
    """The annotation's value: `xid=79`, `ecc`, `lost`, `hot`."""
    return f"{fault.kind.value}={fault.xid}" if fault.kind is Fault.XID else fault.kind.value


def from_text(text: str) -> GpuFault:
    """Raises ValueError for anything `to_text` does not write."""
    kind, _, number = text.partition("=")
    fault = Fault(kind)
    if (fault is Fault.XID) != bool(number):
        raise ValueError(text)
    xid = int(number) if number else 0
    if fault is Fault.XID and not 1 <= xid <= HIGHEST_XID:
        raise ValueError(text)
    return GpuFault(fault, xid)


def wanted(annotations: Mapping[str, str]) -> dict[int, GpuFault]:
    """By GPU index; what can't be read is left out."""
    found = {}
    for name, value in annotations.items():
        index = name.removeprefix(ANNOTATION)
        if index != name and index.isdigit():
            try:
                found[int(index)] = from_text(value)
            except ValueError:
                continue
    return found


def is_momentary(fault: GpuFault) -> bool:
    """An application's error kills what runs and is over; the GPU is as good as before."""
    return fault.kind is Fault.XID and fault.xid in APPLICATION_XIDS


def describe(fault: GpuFault) -> str:
    """A reason for people: `Xid 79 (GPU has fallen off the bus)`."""
    if fault.kind is Fault.HOT:
        return "too hot: slowed down to protect itself"
    meaning = _MEANING.get(fault.logged)
    return f"Xid {fault.logged}" + (f" ({meaning})" if meaning else "")


def condition(troubles: Sequence[str], well: str) -> dict[str, str]:
    """The node condition without its times: every broken GPU's trouble, or what is said when there is none."""
    if troubles:
        return {"type": CONDITION, "status": "False", "reason": "GpuFault", "message": "; ".join(troubles)}
    return {"type": CONDITION, "status": "True", "reason": "NoFaults", "message": well}
