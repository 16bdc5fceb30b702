"""The course cluster's nodes: names, labels, taints and sizes, one place for kind, checks and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GPU_TAINT = "nvidia.com/gpu=present:NoSchedule"
# Soft on purpose: ordinary pods stay away from the small node as long as `cpu` takes them, but a drained `cpu`
# has somewhere to go. A hard taint would leave the cluster with one node for everything that needs no GPU.
EDGE_TAINT = "node-role/edge=:PreferNoSchedule"


@dataclass(frozen=True)
class Node:
    """One node. `container` is what kind appends to the cluster's name for its container.

    `allocatable` limits what pods may ask for (cores and Mi); None leaves all that the machine has.
    """

    name: str
    container: str
    region: str
    zone: str
    role: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taint: str = ""
    allocatable: tuple[int, int] | None = None

    @property
    def is_control_plane(self) -> bool:
        return self.role == "control-plane"

    @property
    def all_labels(self) -> dict[str, str]:
        own = {
            "kailab.dev/role": self.role,
            "topology.kubernetes.io/region": self.region,
            "topology.kubernetes.io/zone": f"{self.region}-{self.zone}",
        }
        return {**own, **self.labels}


NODES = (
    Node("control-plane", "control-plane", "eu-west", "a", "control-plane"),
    Node("gpu-a", "worker", "eu-west", "a", "gpu", taint=GPU_TAINT),
    Node("gpu-b", "worker2", "us-east", "a", "gpu", taint=GPU_TAINT),
    Node("cpu", "worker3", "eu-west", "b", "cpu"),
    Node("edge", "worker4", "eu-north", "a", "edge", {"node-role/edge": ""}, EDGE_TAINT, allocatable=(1, 2048)),
)
CONTROL_PLANE = NODES[0]


def taint(text: str) -> dict[str, str]:
    """`key=value:effect` as the API has it."""
    key_value, effect = text.rsplit(":", 1)
    key, value = key_value.split("=", 1)
    return {"key": key, "value": value, "effect": effect}


def container_name(cluster: str, node: Node) -> str:
    """The node's container, as kind names it."""
    return f"{cluster}-{node.container}"
