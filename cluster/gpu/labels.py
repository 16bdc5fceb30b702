"""Node labels as GPU feature discovery writes them (docs.nvidia.com, "GPU Feature Discovery", list of labels)."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.gpu.devices import CUDA_VERSION, DRIVER_VERSION, Gpu
from cluster.gpu.node.sharing import GPU_RESOURCE, Sharing

PREFIX = "nvidia.com/"
MACHINE = "kailab-simulated"


def of(found: Sequence[Gpu], sharing: Sharing) -> dict[str, str]:
    """All labels of a node with these GPUs; without GPUs only `nvidia.com/gpu.present: "false"`."""
    if not found:
        return {f"{PREFIX}gpu.present": "false"}
    model = found[0].model
    driver, cuda = DRIVER_VERSION.split("."), CUDA_VERSION.split(".")
    labels = {
        "gpu.present": "true",
        "gpu.machine": MACHINE,
        "gpu.family": model.architecture,
        "gpu.compute.major": str(model.compute[0]),
        "gpu.compute.minor": str(model.compute[1]),
        "gpu.mode": "compute",
        "cuda.driver-version.full": DRIVER_VERSION,
        "cuda.driver-version.major": driver[0],
        "cuda.driver-version.minor": driver[1],
        "cuda.driver-version.revision": driver[2],
        "cuda.runtime-version.full": CUDA_VERSION,
        "cuda.runtime-version.major": cuda[0],
        "cuda.runtime-version.minor": cuda[1],
        "mig.capable": "true" if model.mig else "false",
        "mps.capable": "false",
        **_resource("gpu", model.label, sum(not gpu.mig for gpu in found), found[0].memory, GPU_RESOURCE, sharing),
    }
    if model.mig:
        labels["mig.strategy"] = "mixed"
    for name, group in _slices(found).items():
        product = f"{model.label}-MIG-{name}"
        labels |= _resource(f"mig-{name}", product, len(group), group[0], f"{PREFIX}mig-{name}", sharing)
    return {PREFIX + key: value for key, value in labels.items()}


def _resource(prefix: str, product: str, count: int, memory: int, resource: str, sharing: Sharing) -> dict[str, str]:
    replicas = sharing.replicas.get(resource, 1)
    is_shared = replicas > 1
    return {
        f"{prefix}.product": f"{product}-SHARED" if is_shared and not sharing.rename else product,
        f"{prefix}.count": str(count),
        f"{prefix}.memory": str(memory),
        f"{prefix}.replicas": str(replicas),
        f"{prefix}.sharing-strategy": "time-slicing" if is_shared else "none",
    }


def _slices(found: Sequence[Gpu]) -> dict[str, list[int]]:
    """Memory of each slice by profile."""
    groups: dict[str, list[int]] = {}
    for gpu in found:
        for cut in gpu.mig:
            groups.setdefault(cut.profile.name, []).append(cut.memory)
    return groups
