"""The node's GPUs as Dynamic Resource Allocation sees them: ResourceSlices of resource.k8s.io/v1.

Driver, attributes and capacity are named as NVIDIA's DRA driver names them (github.com/NVIDIA/k8s-dra-driver-gpu), so
that claims and CEL expressions written for real GPUs find simulated ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from cluster.gpu.devices import CUDA_VERSION, DRIVER_VERSION, Gpu, MigDevice, relatives

DRIVER = "gpu.nvidia.com"
API_VERSION = "resource.k8s.io/v1"
# Device taints make a slice "advanced": resource/v1's ResourceSliceMaxDevicesWithAdvancedFeatures.
MOST_DEVICES = 64
HELD_TAINT = "kailab.dev/held-by-device-plugin"
UNHEALTHY_TAINT = "gpu.kailab.dev/unhealthy"
_UNITS = {unit: 2 ** (10 * power) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1)}


def device_names(gpus: Sequence[Gpu]) -> dict[str, str]:
    """The names under which devices are published, by UUID. A GPU in slices isn't offered whole."""
    names: dict[str, str] = {}
    for gpu in gpus:
        if not gpu.mig:
            names[gpu.uuid] = f"gpu-{gpu.index}"
        for cut in gpu.mig:
            profile = cut.profile.name.replace(".", "-")
            names[cut.uuid] = f"gpu-{gpu.index}-mig-{profile}-{cut.instance}"
    return names


def devices(gpus: Sequence[Gpu], held: Collection[str], unhealthy: Mapping[str, str]) -> list[dict[str, Any]]:
    """All devices; `held` are UUIDs that pods have through the device plugin, `unhealthy` reasons by GPU UUID.

    Both become taints of effect NoSchedule: pods that run on a failed GPU see its errors and stay, as they do with
    the device plugin; moving them is for whoever runs the cluster.
    """
    names = device_names(gpus)
    return [
        _device(names[one.uuid], gpu, one, held, unhealthy) for gpu in gpus for one in gpu.devices if one.uuid in names
    ]


def _device(
    name: str, gpu: Gpu, one: Gpu | MigDevice, held: Collection[str], unhealthy: Mapping[str, str]
) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "type": {"string": "mig" if isinstance(one, MigDevice) else "gpu"},
        "uuid": {"string": one.uuid},
        "index": {"int": gpu.index},
        "productName": {"string": gpu.model.product},
        "brand": {"string": gpu.model.brand},
        "architecture": {"string": gpu.model.architecture.title().replace("-", " ")},
        "cudaComputeCapability": {"version": f"{gpu.model.compute[0]}.{gpu.model.compute[1]}.0"},
        "driverVersion": {"version": _semantic(DRIVER_VERSION)},
        "cudaDriverVersion": {"version": f"{CUDA_VERSION}.0"},
        "resource.kubernetes.io/pcieRoot": {"string": f"pci{gpu.pci[4:9]}:00"},
    }
    if isinstance(one, MigDevice):
        attributes |= {"profile": {"string": one.profile.name}, "parentUUID": {"string": gpu.uuid}}
    taints = []
    if relatives(gpu, one.uuid) & set(held):
        taints.append({"key": HELD_TAINT, "effect": "NoSchedule"})
    if gpu.uuid in unhealthy:
        taints.append({"key": UNHEALTHY_TAINT, "effect": "NoSchedule"})
    device = {"name": name, "attributes": attributes, "capacity": {"memory": {"value": _quantity(one.memory)}}}
    return device | ({"taints": taints} if taints else {})


def _quantity(mib: int) -> str:
    """MiB as the API server writes them: in the largest unit that makes a whole number."""
    for unit in ("Ti", "Gi"):
        count, rest = divmod(mib * _UNITS["Mi"], _UNITS[unit])
        if not rest:
            return f"{count}{unit}"
    return f"{mib}Mi"


def _value(quantity: str) -> int | str:
    """What a quantity amounts to, however it is written; one in a notation that isn't ours stays as it is."""
    number, unit = (quantity[:-2], quantity[-2:]) if quantity[-2:] in _UNITS else (quantity, "")
    return int(number) * _UNITS.get(unit, 1) if number.isdecimal() else quantity


def meaning(device: Mapping[str, Any]) -> dict[str, Any]:
    """What a device says, without what the API server does to it: quantities rewritten, taints with their time."""
    capacity = {
        name: {**one, "value": _value(str(one["value"]))} for name, one in (device.get("capacity") or {}).items()
    }
    taints = [{key: value for key, value in one.items() if key != "timeAdded"} for one in device.get("taints") or []]
    return {**device, "capacity": capacity, "taints": taints}


def with_times(found: Iterable[dict[str, Any]], present: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`found` devices, whose taints keep the time since which the same ones are there already (`present`)."""
    since = {
        (device["name"], one["key"], one["effect"]): one["timeAdded"]
        for device in present
        for one in device.get("taints") or []
        if "timeAdded" in one
    }

    def dated(name: str, taint: Mapping[str, str]) -> dict[str, str]:
        known = since.get((name, taint["key"], taint["effect"]))
        return {**taint, **({"timeAdded": known} if known else {})}

    return [
        {**device, "taints": [dated(device["name"], one) for one in device["taints"]]} if "taints" in device else device
        for device in found
    ]


def _semantic(version: str) -> str:
    """Semantic versions have no leading zeros (semver.org, rule 2)."""
    return ".".join(str(int(part)) for part in version.split("."))


def resource_slices(node: str, found: Sequence[dict[str, Any]], generation: int) -> list[dict[str, Any]]:
    """The slices of the node's pool, which has the node's name."""
    groups = [found[start : start + MOST_DEVICES] for start in range(0, len(found), MOST_DEVICES)]
    return [
        {
            "apiVersion": API_VERSION,
            "kind": "ResourceSlice",
            "metadata": {"name": f"{node}-{DRIVER}-{number}"},
            "spec": {
                "driver": DRIVER,
                "nodeName": node,
                "pool": {"name": node, "generation": generation, "resourceSliceCount": len(groups)},
                "devices": list(group),
            },
        }
        for number, group in enumerate(groups)
    ]


def results(claim: Mapping[str, Any], node: str) -> list[dict[str, Any]]:
    """What a ResourceClaim was given of this node's pool."""
    allocation = ((claim.get("status") or {}).get("allocation") or {}).get("devices") or {}
    return [one for one in allocation.get("results") or [] if one["driver"] == DRIVER and one["pool"] == node]


def allocated_claims(claims: Iterable[Mapping[str, Any]], node: str, gpus: Sequence[Gpu]) -> dict[str, str]:
    """Devices (UUIDs) that claims have, with the claim's namespace/name."""
    uuids = {name: uuid for uuid, name in device_names(gpus).items()}
    return {
        uuids[one["device"]]: f"{claim['metadata']['namespace']}/{claim['metadata']['name']}"
        for claim in claims
        for one in results(claim, node)
        if one["device"] in uuids
    }
