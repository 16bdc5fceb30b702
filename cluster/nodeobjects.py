"""The nodes as objects of the API: what the course needs each to carry, and putting back what somebody took away.

What labs or students add to a node, and whether it is cordoned, stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

from cluster.api import Api, ApiError, Object
from cluster.topology import NODES, Node, taint

# kubeadm's own, written once when the control plane is made (kubeadm-init, phase mark-control-plane).
CONTROL_PLANE_ROLE = "node-role.kubernetes.io/control-plane"
_TRIES = 5


def present(api: Api) -> dict[str, Object]:
    """The course's nodes that have an object, by name."""
    ours = {node.name for node in NODES}
    return {name: found for found in api.list("Node")[0] if (name := found["metadata"]["name"]) in ours}


def lacking(node: Node, found: Object) -> list[str]:
    """The labels and taints that a node should carry and does not, in words."""
    labels = [f"label {key} of node {node.name}" for key in _labels_lacking(node, found)]
    return labels + [f"taint {one['key']} of node {node.name}" for one in _taints_lacking(node, found)]


def outdated(api: Api, started: Mapping[str, datetime]) -> list[str]:
    """The nodes of which the API still tells what was before their container started, in words.

    For 40 s it says of a node that stopped, and of its pods, that they are Ready; that a kubelet starts corrects it.
    """
    return [f"news of node {name}" for name, since in started.items() if _tells_of_before(api, name, since)]


def _tells_of_before(api: Api, node: str, since: datetime) -> bool:
    pods, _ = api.list("Pod", fieldSelector=f"spec.nodeName={node}")
    running = [
        container["state"]["running"]["startedAt"]
        for pod in pods
        # Of a pod that has ended or goes, nobody corrects what is said of its containers.
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        for container in pod["status"].get("containerStatuses") or []
        if "running" in container["state"]
    ]
    # The API gives whole seconds.
    return any(datetime.fromisoformat(at) < since.replace(microsecond=0) for at in running)


def put_back(api: Api, node: Node) -> list[str]:
    """Give a node what it lacks; returns that in words. Raises ApiError, also when others change it all the time."""
    for attempt in range(_TRIES):
        found = api.get("Node", node.name)
        missing = lacking(node, found) if found is not None else []
        if found is None or not missing:
            return []
        try:
            api.patch("Node", node.name, "", _patch(node, found))
        except ApiError as refused:
            # The list of taints is written as a whole: it must not undo what has just been done to it.
            if refused.status != HTTPStatus.CONFLICT or attempt == _TRIES - 1:
                raise
        else:
            return missing
    raise AssertionError("unreachable")


def _patch(node: Node, found: Object) -> Object:
    patch: Object = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"],
                                  "labels": _labels_lacking(node, found)}}  # fmt: skip
    if wanted := _taints_lacking(node, found):
        # Key and effect together are what a node can have but once.
        ours = {(one["key"], one["effect"]) for one in wanted}
        others = [one for one in _taints_of(found) if (one["key"], one["effect"]) not in ours]
        patch["spec"] = {"taints": [*others, *wanted]}
    return patch


def _labels_lacking(node: Node, found: Object) -> dict[str, str]:
    wanted = {**node.all_labels, **({CONTROL_PLANE_ROLE: ""} if node.is_control_plane else {})}
    labels = found["metadata"].get("labels") or {}
    return {key: value for key, value in wanted.items() if labels.get(key) != value}


def _taints_lacking(node: Node, found: Object) -> list[dict[str, str]]:
    wanted = f"{CONTROL_PLANE_ROLE}=:NoSchedule" if node.is_control_plane else node.taint
    has = [(one["key"], one.get("value") or "", one["effect"]) for one in _taints_of(found)]
    return [one for one in [taint(wanted)] if (one["key"], one["value"], one["effect"]) not in has] if wanted else []


def _taints_of(found: Object) -> list[dict[str, Any]]:
    return found.get("spec", {}).get("taints") or []
