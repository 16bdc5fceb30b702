"""kind's configuration for the course cluster: the same for both image sources but for the images' names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.topology import NODES, Node, taint

SHARED_MOUNT = "/kailab/shared"
# Requests per second that the controller manager and the scheduler may send. With their defaults of 20 and 50,
# thousands of simulated pods take minutes; much more than this starves the kubelets on a machine with two cores.
_CLIENT_LIMITS = (("kube-api-qps", 100), ("kube-api-burst", 150))


@dataclass(frozen=True)
class Machine:
    """What the engine's machine has: cores and memory in Mi, as every node sees them."""

    cores: int
    memory: int


@dataclass(frozen=True)
class Images:
    """Node images; empty means kind's own pinned kindest/node."""

    control_plane: str = ""
    worker: str = ""


def config(name: str, images: Images, shared: Path, machine: Machine, nodes: Sequence[Node] = NODES) -> dict[str, Any]:
    """The document for `kind create cluster --config -`."""
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": name,
        "nodes": [_node(node, images, shared, machine) for node in nodes],
    }


def _node(node: Node, images: Images, shared: Path, machine: Machine) -> dict[str, Any]:
    image = images.control_plane if node.is_control_plane else images.worker
    return {
        "role": "control-plane" if node.is_control_plane else "worker",
        **({"image": image} if image else {}),
        "labels": node.all_labels,
        "extraMounts": [{"hostPath": str(shared), "containerPath": SHARED_MOUNT}],
        "kubeadmConfigPatches": [_text(patch) for patch in _patches(node)],
        "kubeadmConfigPatchesJSON6902": _list_patches(node, machine),
    }


def _text(document: dict[str, Any]) -> str:
    import json  # JSON is YAML, and kind wants each patch as a string

    return json.dumps(document)


def _patches(node: Node) -> list[dict[str, Any]]:
    registration: dict[str, Any] = {"name": node.name}
    if node.taint:
        registration["taints"] = [taint(node.taint)]
    kind = "InitConfiguration" if node.is_control_plane else "JoinConfiguration"
    # kind gives the scheduler no arguments of its own, so there is no list to append to, as below.
    limits = [{"name": name, "value": str(value)} for name, value in _CLIENT_LIMITS]
    return [
        *([{"kind": "ClusterConfiguration", "scheduler": {"extraArgs": limits}}] if node.is_control_plane else []),
        {"kind": kind, "nodeRegistration": registration},
        {
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            # Nodes start together and pull nothing: look often while the cluster comes up, it costs little.
            "nodeStatusUpdateFrequency": "4s",
            # Nodes share one machine's process numbers: a pod that forks without end must stop at itself.
            "podPidsLimit": 512,
        },
        # An unprivileged engine may not touch the host's connection tracking.
        {
            "kind": "KubeProxyConfiguration",
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        },
    ]


def _list_patches(node: Node, machine: Machine) -> list[dict[str, str]]:
    patches = []
    if node.is_control_plane:
        operations = [
            _append(f"/{component}/extraArgs/-", name, str(value))
            for component in ("controllerManager",)
            for name, value in _CLIENT_LIMITS
        ]
        patches.append(_kubeadm_patch("ClusterConfiguration", operations))
    if node.allocatable is not None:
        cores, memory = node.allocatable
        reserved = f"cpu={max(machine.cores - cores, 0)},memory={max(machine.memory - memory, 0)}Mi"
        operations = [_append("/nodeRegistration/kubeletExtraArgs/-", "system-reserved", reserved)]
        patches.append(_kubeadm_patch("JoinConfiguration", operations))
    return patches


def _append(path: str, name: str, value: str) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": {"name": name, "value": value}}


def _kubeadm_patch(kind: str, operations: list[dict[str, Any]]) -> dict[str, str]:
    return {"group": "kubeadm.k8s.io", "version": "v1beta4", "kind": kind, "patch": _text_list(operations)}


def _text_list(operations: list[dict[str, Any]]) -> str:
    import json

    return json.dumps(operations)
