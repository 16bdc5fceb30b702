"""Which simulated nodes a fleet has: names, places, labels, GPUs. Pure: nothing here talks to a cluster."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Any

from cluster.gpu import GROUP, SIMULATED, SPEC, devices, faults, labels
from cluster.gpu.devices import NodeGpus
from cluster.gpu.fleet import Entry, Fleet, Simulated
from cluster.gpu.node import sharing
from cluster.kindconfig import POD_SUBNET
from cluster.topology import GPU_TAINT, taint

# KWOK plays the nodes with this annotation; the taint of the same name keeps pods away that want to do real work.
FAKE = "kwok.x-k8s.io/node"
REGIONS = ("eu-west", "us-east", "ap-south", "us-west", "eu-north", "sa-east", "af-south", "me-central", "ap-east",
           "ca-central")  # fmt: skip
# The controller manager gives every node a /24 of kind's pod network, which is enough for 256, and tries again for
# ever for the others. So all simulated nodes say that they have the last one already: no packet goes there.
POD_CIDR = str([*ip_network(POD_SUBNET).subnets(new_prefix=24)][-1])
# What an 8-GPU machine of this class has beside its GPUs.
CORES, MEMORY_GIB, DISK_GIB, PODS = 96, 1024, 3500, 110


def fleet(nodes: int, model: str, gpus: int, regions: int, zones: int, name: str = "sim") -> Fleet:
    """The fleet that `kailab gpu fleet up` makes of its options. Raises pydantic.ValidationError."""
    simulated = Simulated(nodes=nodes, regions=REGIONS[:regions], zones=zones)
    return Fleet(nodes=(Entry(name=name, model=model, count=gpus, simulated=simulated),))


def nodes(wanted: Fleet) -> list[dict[str, Any]]:
    """Node objects of all simulated entries, spread evenly over regions and zones."""
    return [node for entry in wanted.nodes if entry.simulated for node in _group(entry, entry.simulated)]


def _group(entry: Entry, group: Simulated) -> Iterator[dict[str, Any]]:
    spec = entry.gpus()
    places = [
        (region, f"{region}-{zone}") for zone in string.ascii_lowercase[: group.zones] for region in group.regions
    ]
    counts = dict.fromkeys(group.regions, 0)
    for number in range(group.nodes):
        region, zone = places[number % len(places)]
        counts[region] += 1
        yield _node(f"{entry.name}-{region}-{counts[region]:04}", entry.name, region, zone, spec)


def _node(name: str, group: str, region: str, zone: str, spec: NodeGpus) -> dict[str, Any]:
    found = devices.gpus(name, spec)
    cut = sharing.from_document(spec.sharing)
    resources = {resource: str(len(ids)) for resource, ids in sharing.device_ids(found, cut).items()}
    amounts = {
        "cpu": str(CORES), "memory": f"{MEMORY_GIB}Gi", "ephemeral-storage": f"{DISK_GIB}Gi", "pods": str(PODS),
        **resources,
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {FAKE: "fake", SPEC: json.dumps(spec.to_json())},
            # Not kubernetes.io/os: that is what the DaemonSets of every real node select by, kube-proxy's first.
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/arch": "amd64",
                "kailab.dev/role": "gpu",
                SIMULATED: "true",
                GROUP: group,
                "topology.kubernetes.io/region": region,
                "topology.kubernetes.io/zone": zone,
                **labels.of(found, cut),
            },
        },
        "spec": {
            "podCIDR": POD_CIDR,
            "podCIDRs": [POD_CIDR],
            "taints": [
                {"key": FAKE, "value": "fake", "effect": "NoSchedule"},
                taint(GPU_TAINT),
            ],
        },
        "status": {
            "capacity": amounts,
            "allocatable": dict(amounts),
            "nodeInfo": _INFO,
            # As KWOK would say a moment later; a write less for every node.
            "conditions": [_condition(*one) for one in _CONDITIONS],
        },
    }  # fmt: skip


_CONDITIONS = (
    ("Ready", "True", "KubeletReady"),
    ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID"),
    (faults.CONDITION, "True", "NoFaults"),
)


def _condition(kind: str, status: str, reason: str) -> dict[str, str | None]:
    """Its times are set when the node joins."""
    return {"type": kind, "status": status, "reason": reason, "message": "simulated",
            "lastHeartbeatTime": None, "lastTransitionTime": None}  # fmt: skip


_INFO = {
    "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "kwok", "kernelVersion": "kwok",
    "kubeProxyVersion": "", "kubeletVersion": "kwok", "machineID": "", "operatingSystem": "linux",
    "osImage": "simulated by KWOK", "systemUUID": "",
}  # fmt: skip


def groups(found: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many nodes each fleet has."""
    return dict(Counter(node["metadata"]["labels"][GROUP] for node in found))


def spread(found: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many nodes each zone has."""
    counts: dict[str, int] = {}
    for node in found:
        zone = node["metadata"]["labels"]["topology.kubernetes.io/zone"]
        counts[zone] = counts.get(zone, 0) + 1
    return counts
