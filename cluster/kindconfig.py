"""kind's configuration for the course cluster: the same for both image sources but for the images' names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.topology import NODES, Node, taint

SHARED_MOUNT = "/kailab/shared"
POD_SUBNET = "10.244.0.0/16"  # kind's own default, from which each node gets a /24
SCHEDULER = Path(__file__).with_name("scheduler.yaml")
PATCHES, _PATCHES_IN_NODE = Path(__file__).with_name("kubeadm"), "/kailab/kubeadm"
_SCHEDULER_IN_NODE, _SCHEDULER_IN_POD = "/kailab/scheduler.yaml", "/etc/kubernetes/kailab-scheduler.yaml"
# What kind 0.33.0 takes by itself (pkg/apis/config/defaults/image.go); another kind would bring another Kubernetes.
KINDEST_NODE = "docker.io/kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
# There is but one scheduler and one controller manager, and they start before they may take the lease that would make
# them leaders: they ask again up to 4 s later.
_NO_ELECTION = {"name": "leader-elect", "value": "false"}
_CONTROLLER_MANAGER = (
    # Requests per second, for the same reason as in scheduler.yaml.
    {"name": "kube-api-qps", "value": "100"},
    {"name": "kube-api-burst", "value": "150"},
    _NO_ELECTION,
)


@dataclass(frozen=True)
class Machine:
    """What the engine's machine has: cores and memory in Mi, as every node sees them."""

    cores: int
    memory: int


@dataclass(frozen=True)
class Images:
    """Node images; without names, the one that kind pulls."""

    control_plane: str = KINDEST_NODE
    worker: str = KINDEST_NODE


def config(name: str, images: Images, shared: Path, machine: Machine, nodes: Sequence[Node] = NODES) -> dict[str, Any]:
    """The document for `kind create cluster --config -`."""
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": name,
        "nodes": [_node(node, images, shared, machine) for node in nodes],
    }


def _node(node: Node, images: Images, shared: Path, machine: Machine) -> dict[str, Any]:
    return {
        "role": "control-plane" if node.is_control_plane else "worker",
        "image": images.control_plane if node.is_control_plane else images.worker,
        "labels": node.all_labels,
        "extraMounts": [
            {"hostPath": str(shared), "containerPath": SHARED_MOUNT},
            *(
                [_read_only(SCHEDULER, _SCHEDULER_IN_NODE), _read_only(PATCHES, _PATCHES_IN_NODE)]
                if node.is_control_plane
                else []
            ),
        ],
        "kubeadmConfigPatches": [_text(patch) for patch in _patches(node)],
        "kubeadmConfigPatchesJSON6902": _list_patches(node, machine),
    }


def _read_only(ours: Path, in_node: str) -> dict[str, Any]:
    return {"hostPath": str(ours), "containerPath": in_node, "readOnly": True}


def _text(document: dict[str, Any]) -> str:
    import json  # JSON is YAML, and kind wants each patch as a string

    return json.dumps(document)


def _patches(node: Node) -> list[dict[str, Any]]:
    registration: dict[str, Any] = {"name": node.name}
    patches = {"patches": {"directory": _PATCHES_IN_NODE}} if node.is_control_plane else {}
    if node.taint:
        registration["taints"] = [taint(node.taint)]
    kind = "InitConfiguration" if node.is_control_plane else "JoinConfiguration"
    return [
        *([_CONTROL_PLANE] if node.is_control_plane else []),
        {"kind": kind, "nodeRegistration": registration, **patches},
        {
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            # Nodes start together and pull nothing: look often while the cluster comes up, it costs little.
            "nodeStatusUpdateFrequency": "4s",
            # What it finds unchanged need not be told: the Lease says that the node lives. (Else as often as it looks.)
            "nodeStatusReportFrequency": "5m",
            # Nodes share one machine's process numbers: a pod that forks without end must stop at itself.
            "podPidsLimit": 512,
        },
        # An unprivileged engine may not touch the host's connection tracking.
        {
            "kind": "KubeProxyConfiguration",
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        },
    ]


# kind gives the scheduler and etcd no arguments of their own, so there is no list to append to, as below.
_CONTROL_PLANE = {
    "kind": "ClusterConfiguration",
    "scheduler": {
        # kubeadm's own argument counts more than what the file says of it.
        "extraArgs": [{"name": "config", "value": _SCHEDULER_IN_POD}, _NO_ELECTION],
        "extraVolumes": [{"name": "scheduler", "hostPath": _SCHEDULER_IN_NODE, "mountPath": _SCHEDULER_IN_POD,
                          "readOnly": True, "pathType": "File"}],
    },
    # A pod that writes a log without end keeps the disk busy, and with it whoever waits for each of its writes to
    # reach it. Only the machine's power failing can cost what is in its memory, and then `kailab up` makes anew.
    "etcd": {"local": {"extraArgs": [{"name": "unsafe-no-fsync", "value": "true"}]}},
}  # fmt: skip


def _list_patches(node: Node, machine: Machine) -> list[dict[str, str]]:
    patches = []
    if node.is_control_plane:
        operations = [_append("/controllerManager/extraArgs/-", argument) for argument in _CONTROLLER_MANAGER]
        patches.append(_kubeadm_patch("ClusterConfiguration", operations))
    if node.allocatable is not None:
        cores, memory = node.allocatable
        reserved = f"cpu={max(machine.cores - cores, 0)},memory={max(machine.memory - memory, 0)}Mi"
        argument = {"name": "system-reserved", "value": reserved}
        operations = [_append("/nodeRegistration/kubeletExtraArgs/-", argument)]
        patches.append(_kubeadm_patch("JoinConfiguration", operations))
    return patches


def _append(path: str, argument: dict[str, str]) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": argument}


def _kubeadm_patch(kind: str, operations: list[dict[str, Any]]) -> dict[str, str]:
    return {"group": "kubeadm.k8s.io", "version": "v1beta4", "kind": kind, "patch": _text_list(operations)}


def _text_list(operations: list[dict[str, Any]]) -> str:
    import json

    return json.dumps(operations)
