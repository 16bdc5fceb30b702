"""What `kailab gpu` does from outside: look at every node's GPUs, break one, heal it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cluster.api import Api, ApiError, Object
from cluster.errors import KailabError
from cluster.gpu import FLEET_CONFIG_MAP, METRICS_PORT, NAMESPACE, SIMULATED, SPEC, devices, faults
from cluster.gpu.node import sharing
from cluster.gpu.node.readings import GpuFault

TRIES = 8
# The agent hears of an annotation at once, the kubelet of the device at once too, and writes its node's status
# with the next look (`nodeStatusUpdateFrequency`, 4 s in our clusters).
EFFECT_SECONDS = 20.0
SHARING_SECONDS = 20.0  # the same, and before it the agent's new registration with the kubelet


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


def spec_of(api: Api, node: Object) -> devices.NodeGpus | None:
    """What a node has in its slots, by its own word or the fleet's; None without GPUs.

    Labels don't tell: `nvidia.com/gpu.count` leaves out GPUs that are cut into slices.
    """
    metadata = node["metadata"]
    if SIMULATED in (metadata.get("labels") or {}):
        text = (metadata.get("annotations") or {}).get(SPEC)
    else:
        text = ((api.get("ConfigMap", FLEET_CONFIG_MAP, NAMESPACE) or {}).get("data") or {}).get(metadata["name"])
    return devices.NodeGpus.from_json(json.loads(text)) if text else None


def fault(api: Api, where: Slot, what: GpuFault) -> None:
    """Break a GPU. Raises KailabError when there is no such GPU or it is broken already."""

    def change(node: Object) -> dict[str, str | None]:
        _require(api, where, node)
        present = faults.wanted(node["metadata"].get("annotations") or {}).get(where.index)
        if present is not None and not faults.is_momentary(present):
            raise KailabError(
                f"GPU {where} has a fault already: {faults.describe(present)}.",
                mend=f"kailab gpu heal {where}, then break it another way",
            )
        if faults.is_momentary(what) and SIMULATED in (node["metadata"].get("labels") or {}):
            return {}  # nothing runs there that could die, and no agent that would take the annotation away again
        return {f"{faults.ANNOTATION}{where.index}": faults.to_text(what)}

    _annotate(api, where, change)


def heal(api: Api, where: Slot) -> bool:
    """Take a fault away; False when there was none. Raises KailabError when there is no such GPU."""
    had = False

    def change(node: Object) -> dict[str, str | None]:
        nonlocal had
        name = f"{faults.ANNOTATION}{where.index}"
        had = name in (node["metadata"].get("annotations") or {})
        if not had:
            _require(api, where, node)
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
        if node is None:
            raise _no_gpu(where, f"Node {where.node} does not exist; nodes with GPUs: {_names(api)}.")
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


def _require(api: Api, where: Slot, node: Object) -> None:
    spec = spec_of(api, node)
    if spec is None:
        raise _no_gpu(where, f"Node {where.node} has no GPU; nodes with GPUs: {_names(api)}.")
    if where.index >= spec.count:
        raise _no_gpu(where, f"{where.node} has GPUs 0 to {spec.count - 1}.")


def _no_gpu(where: Slot, why: str) -> KailabError:
    return KailabError(f"There is no GPU {where}.", why=why, mend="kailab gpu status   (shows them all)")


def _names(api: Api) -> str:
    names = [one["metadata"]["name"] for one in gpu_nodes(api)]
    return (", ".join(names[:6]) + (" ..." if len(names) > 6 else "")) or "none"


def _play_status(api: Api, node: Object) -> None:
    """A simulated node has no agent and no kubelet: its status is written here as they would."""
    metadata, status, spec = node["metadata"], node["status"], spec_of(api, node)
    assert spec is not None
    broken = {
        index: what
        for index, what in faults.wanted(metadata.get("annotations") or {}).items()
        if not faults.is_momentary(what)
    }
    well = [gpu for gpu in devices.gpus(metadata["name"], spec) if gpu.index not in broken]
    offered = sharing.device_ids(well, sharing.from_document(spec.sharing))
    free = {name: str(len(offered.get(name, ()))) for name in status["capacity"] if name.startswith("nvidia.com/")}
    troubles = [f"GPU {index}: {faults.describe(what)}" for index, what in sorted(broken.items())]
    condition = {
        **faults.condition(troubles, "no fault"),
        "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    conditions = [one for one in status.get("conditions", []) if one["type"] != faults.CONDITION]
    body = {"status": {"allocatable": free, "conditions": [*conditions, condition]}}
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


def wait_as_described(api: Api, seconds: float = SHARING_SECONDS) -> bool:
    """Whether within this time every real node offers what its fleet gives it, and nothing else.

    A node whose sharing was changed, or whose GPU was healed, needs some seconds. Until then pods are sent there that
    it refuses, or others are not that would fit.
    """
    end = time.monotonic() + seconds
    while True:
        if all(_is_as_described(api, node) for node in gpu_nodes(api)):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


def _is_as_described(api: Api, node: Object) -> bool:
    metadata = node["metadata"]
    if SIMULATED in (metadata.get("labels") or {}):
        return True  # nothing changes what a simulated node offers
    spec = spec_of(api, node)
    if spec is None:
        return True
    offered = sharing.device_ids(devices.gpus(metadata["name"], spec), sharing.from_document(spec.sharing))
    # A GPU that somebody has broken is still there, but not allocatable.
    counts = node["status"]["capacity" if faults.wanted(metadata.get("annotations") or {}) else "allocatable"]
    counted = {name: int(count) for name, count in counts.items() if name.startswith("nvidia.com/") and count != "0"}
    return counted == {name: len(ids) for name, ids in offered.items()}


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
