"""The nodes as a run found them: what a lost worker has cordoned or broken is put back by whoever comes next."""

from __future__ import annotations

import json

from cluster import leases
from cluster.api import Api, Object
from cluster.cordons import set_unschedulable
from cluster.gpu import faults
from labs.grading.remote import NAMESPACE

_NAME = "nodes-before"


def note(api: Api) -> None:
    """Remember which nodes are closed and which simulated GPUs are broken, unless this run has done so already."""
    nodes = api.list("Node")[0]
    known = {"closed": _closed(nodes), "broken": {_name(node): _faults(node) for node in nodes if _faults(node)}}
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": _NAME}, "data": {"nodes": json.dumps(known)}}
    leases.create(api, item, NAMESPACE)


def put_back(api: Api) -> None:
    """Open and heal what is closed and broken now and was not before; for whoever is alone with the nodes."""
    found = api.get("ConfigMap", _NAME, NAMESPACE)
    if found is None:
        return
    known = json.loads(found["data"]["nodes"])
    nodes = api.list("Node")[0]
    set_unschedulable(api, [name for name in _closed(nodes) if name not in known["closed"]], None)
    for node in nodes:
        if new := [fault for fault in _faults(node) if fault not in known["broken"].get(_name(node), [])]:
            api.patch("Node", _name(node), "", {"metadata": {"annotations": dict.fromkeys(new)}})


def readiness(api: Api) -> dict[str, tuple[str, str]]:
    """Of each node, whether it is Ready and since when: equal at two moments, no node was lost in between."""
    return {
        _name(node): (condition["status"], condition["lastTransitionTime"])
        for node in api.list("Node")[0]
        for condition in node["status"].get("conditions", [])
        if condition["type"] == "Ready"
    }


def _name(node: Object) -> str:
    return str(node["metadata"]["name"])


def _closed(nodes: list[Object]) -> list[str]:
    return [_name(node) for node in nodes if node["spec"].get("unschedulable")]


def _faults(node: Object) -> list[str]:
    return [name for name in node["metadata"].get("annotations") or {} if name.startswith(faults.ANNOTATION)]
