"""What labs' checks ask of workloads that train with `gpu-app`: GPUs, steps, and whether a node would take them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from checkers import quantity, workloads
from checkers.declare import Fail
from checkers.lab import Lab
from checkers.scheduling import refusals
from cluster.api import Object


def asked(workload: Object, resource: str) -> Decimal:
    """How much of an extended resource the containers of one pod ask for together, by their limits."""
    limits = [(one.get("resources") or {}).get("limits") or {} for one in workloads.containers(workload)]
    return sum((quantity.parse(one.get(resource, 0)) for one in limits), start=quantity.parse(0))


def holder(pod: Object, resource: str = "") -> str:
    """The name of the pod's container with a limit for the resource, or of the one that uses a claim where no resource
    is named; the first one where there is none."""
    found = workloads.containers(pod)
    for container in found:
        resources = container.get("resources") or {}
        if resource in (resources.get("limits") or {}) if resource else resources.get("claims"):
            return str(container["name"])
    return str(found[0]["name"])


def status(lab: Lab, pod: Object) -> dict[str, Any]:
    """What the training loop in the pod says of itself: see State in labs/apps/gpu_app/worker.py. Raises Fail."""
    answer = lab.http(f"http://{pod['status'].get('podIP', '')}:{lab.names['port']}/status")
    if answer.status != 200:
        raise Fail(f"the training loop of {pod['metadata']['name']} does not answer: {answer}", about=pod)
    found = answer.json()
    wanted = {"steps", "gpus", "last_step_seconds", "alone_seconds", "memory"}
    if not isinstance(found, dict) or not wanted <= found.keys():
        raise Fail("what answers there is no training loop of the task's image", about=pod, settled=True)
    return found


def ready_pods(lab: Lab, owner: Object) -> list[Object]:
    """Those that are ready and not on their way out."""
    return [pod for pod in lab.pods_of(owner) if workloads.is_ready(pod) and not workloads.is_leaving(pod)]


def emptied(node: Object) -> Object:
    """The node as if nothing ran there and nothing were broken: only rules count."""
    return {**node, "status": {**node["status"], "allocatable": node["status"]["capacity"]}}


def fits_nowhere(lab: Lab, pod: Object) -> bool:
    """Whether no node could take it, were there nothing else in the cluster: then waiting doesn't help."""
    nodes = lab.objects("Node")
    return not pod["spec"].get("nodeName") and all(refusals(pod, emptied(node), ()) for node in nodes)
