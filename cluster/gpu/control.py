"""What `kailab gpu` does from outside: look at every node's GPUs, break one, heal it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cluster.api import Api, ApiError, Object
from cluster.errors import KailabError
from cluster.gpu import METRICS_PORT, NAMESPACE, SIMULATED, faults
from cluster.gpu.node.readings import GpuFault
from cluster.gpu.node.sharing import GPU_RESOURCE

COUNT_LABEL = "nvidia.com/gpu.count"
TRIES = 8
# The agent hears of an annotation at once, the kubelet of the device at once too, and writes its node's status
# with the next look (`nodeStatusUpdateFrequency`, 4 s in our clusters).
EFFECT_SECONDS = 20.0


@dataclass(frozen=True)
class Slot:
    """A GPU as people name it: `gpu-a/1`."""

    node: str
    index: int

    def __str__(self) -> str:
        return f"{self.node}/{self.index}"


def slot(text: str) -> Slot:
    """Raises KailabError unless the text is NODE/INDEX."""
    node, _, index = text.partition("/")
    if not node or not index.isdecimal():
        raise KailabError(f"{text!r} is not NODE/INDEX.", mend="for example: kailab gpu fault gpu-a/1 --xid 79")
    return Slot(node, int(index))


def gpu_nodes(api: Api) -> list[Object]:
    """All nodes with GPUs, real and simulated, by name."""
    items, _ = api.list("Node", labelSelector="nvidia.com/gpu.present=true")
    return sorted(items, key=lambda node: str(node["metadata"]["name"]))


def fault(api: Api, where: Slot, what: GpuFault) -> None:
    """Break a GPU. Raises KailabError when there is no such GPU or it is broken already."""

    def change(node: Object) -> dict[str, str | None]:
        present = faults.wanted(node["metadata"].get("annotations") or {})
        if where.index in present:
            raise KailabError(
                f"GPU {where} has a fault already: {faults.describe(present[where.index])}.",
                mend=f"kailab gpu heal {where}, then break it another way",
            )
        return {f"{faults.ANNOTATION}{where.index}": faults.to_text(what)}

    _annotate(api, where, change)


def heal(api: Api, where: Slot) -> bool:
    """Take a fault away; False when there was none. Raises KailabError when there is no such GPU."""
    had = False

    def change(node: Object) -> dict[str, str | None]:
        nonlocal had
        name = f"{faults.ANNOTATION}{where.index}"
        had = name in (node["metadata"].get("annotations") or {})
        return {name: None} if had else {}

    _annotate(api, where, change)
    return had


def heal_all(api: Api) -> list[Slot]:
    """Heal every GPU of every node; returns those that had a fault."""
    found = [
        Slot(node["metadata"]["name"], index)
        for node in gpu_nodes(api)
        for index in faults.wanted(node["metadata"].get("annotations") or {})
    ]
    return [where for where in found if heal(api, where)]


def _annotate(api: Api, where: Slot, change: Callable[[Object], dict[str, str | None]]) -> None:
    """Read, decide, write, and again from the start when someone else wrote in between."""
    for attempt in range(TRIES):
        node = api.get("Node", where.node)
        _require(api, where, node)
        assert node is not None
        annotations = change(node)
        if not annotations:
            return
        version = node["metadata"]["resourceVersion"]
        try:
            changed = api.patch(
                "Node", where.node, "", {"metadata": {"resourceVersion": version, "annotations": annotations}}
            )
        except ApiError as refused:
            if refused.status != 409 or attempt == TRIES - 1:
                raise
            time.sleep(0.05 * (attempt + 1))
            continue
        if SIMULATED in (node["metadata"].get("labels") or {}):
            _play_status(api, changed)
        return


def _require(api: Api, where: Slot, node: Object | None) -> None:
    labels = ((node or {}).get("metadata") or {}).get("labels") or {}
    count = int(labels.get(COUNT_LABEL, 0))
    if node is not None and where.index < count:
        return
    if count:
        why = f"{where.node} has GPUs 0 to {count - 1}."
    else:
        names = [one["metadata"]["name"] for one in gpu_nodes(api)]
        shown = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
        why = f"Node {where.node} {'has no GPU' if node else 'does not exist'}; nodes with GPUs: {shown or 'none'}."
    raise KailabError(f"There is no GPU {where}.", why=why, mend="kailab gpu status   (shows them all)")


def _play_status(api: Api, node: Object) -> None:
    """A simulated node has no agent and no kubelet: its status is written here as they would."""
    metadata, status = node["metadata"], node["status"]
    broken = {
        index: what
        for index, what in faults.wanted(metadata.get("annotations") or {}).items()
        if not faults.is_momentary(what)
    }
    free = int(status["capacity"].get(GPU_RESOURCE, 0)) - len(broken)
    troubles = [f"GPU {index}: {faults.describe(what)}" for index, what in sorted(broken.items())]
    condition = {
        **faults.condition(troubles, "no fault"),
        "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    conditions = [one for one in status.get("conditions", []) if one["type"] != faults.CONDITION]
    body = {"status": {"allocatable": {GPU_RESOURCE: str(max(free, 0))}, "conditions": [*conditions, condition]}}
    api.patch("Node", metadata["name"], "", body, subresource="status")


def wait_effect(api: Api, where: Slot, *, broken: bool, deadline: float = EFFECT_SECONDS) -> Object | None:
    """The node as soon as its condition tells of this GPU's fault (or no longer does); None when it takes too long."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        node = api.get("Node", where.node) or {}
        listed = node.get("status", {}).get("conditions") or []
        text = next((one["message"] for one in listed if one["type"] == faults.CONDITION), "")
        if (f"GPU {where.index} " in text or f"GPU {where.index}:" in text) == broken:
            return node
        time.sleep(0.1)
    return None


def agents(api: Api) -> list[Object]:
    """The agents' pods that run, by node."""
    items, _ = api.list("Pod", NAMESPACE, labelSelector="app.kubernetes.io/name=gpu-agent")
    running = [pod for pod in items if pod["status"].get("phase") == "Running"]
    return sorted(running, key=lambda pod: str(pod["spec"]["nodeName"]))


def statuses(api: Api) -> list[dict[str, Any]]:
    """What every agent says of its node; one that doesn't answer is there with a `problems` entry and no GPUs."""

    def ask(pod: Object) -> dict[str, Any]:
        try:
            return api.proxy("GET", pod["metadata"]["name"], NAMESPACE, METRICS_PORT, "status", timeout=5)
        except KailabError as failed:
            return {"node": pod["spec"]["nodeName"], "gpus": [], "replicas": 1, "problems": [failed.what]}

    pods = agents(api)
    if not pods:
        return []
    with ThreadPoolExecutor(len(pods)) as pool:
        return list(pool.map(ask, pods))
