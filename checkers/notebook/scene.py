"""A moment of the cluster as a picture shows it: nodes with their pods and GPUs, in words. Nothing here asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from checkers import workloads
from checkers.enrich import container_words
from checkers.notebook.feed import Moment, Status
from checkers.report.terminal import plain
from cluster.api import Object
from cluster.gpu import SIMULATED, use

SHOWN_PODS = 24  # of one node; a picture of more is none
LONGEST_WHY = 120
ZONE, REGION = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
WORST_FIRST = ("failing", "waiting", "starting", "leaving", "ready")
CORDONED = "cordoned: takes no new pods"
Scene = dict[str, Any]


def scene(moment: Moment, namespace: str) -> Scene:
    """What the page shows of a moment; pods of the namespace one by one, those of all others as a number."""
    assert moment.objects is not None
    nodes, pods = moment.objects["Node"], moment.objects["Pod"]
    real = [node for node in nodes if SIMULATED not in _labels(node)]
    on: dict[str, list[Object]] = {}
    for pod in pods:
        on.setdefault(pod["spec"].get("nodeName", ""), []).append(pod)
    agents = None if moment.gpus is None else {str(status["node"]): status for status in moment.gpus}
    return {
        "namespace": namespace,
        "nodes": [_node(node, on.get(_name(node), ()), namespace, agents) for node in sorted(real, key=_rank)],
        "waiting": _pods([pod for pod in on.get("", ()) if _of(pod, namespace)]),
        "zones": zones([node for node in nodes if SIMULATED in _labels(node)], on, namespace),
    }


def _labels(item: Object) -> Mapping[str, str]:
    return item["metadata"].get("labels") or {}


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])


def _of(pod: Object, namespace: str) -> bool:
    return bool(pod["metadata"]["namespace"] == namespace)


def _rank(node: Object) -> tuple[bool, str]:
    return "node-role.kubernetes.io/control-plane" not in _labels(node), _name(node)


def _node(node: Object, pods: Sequence[Object], namespace: str, agents: Mapping[str, Status] | None) -> dict[str, Any]:
    labels, own = _labels(node), [pod for pod in pods if _of(pod, namespace)]
    words = node_words(node)
    health = "well" if words == ["Ready"] else "closed" if words == ["Ready", CORDONED] else "ill"
    return {
        "name": _name(node), "role": labels.get("kailab.dev/role", ""), "region": labels.get(REGION, ""),
        "zone": labels.get(ZONE, ""), "state": words, "health": health, **_pods(own),
        "others": sum(not _of(pod, namespace) and not workloads.has_ended(pod) for pod in pods),
        **_gpus(node, namespace, agents),
    }  # fmt: skip


def node_words(node: Object) -> list[str]:
    """A node's state as `kubectl get nodes` has it, and what makes it worse."""
    ready = workloads.condition(node, "Ready").get("status")
    words = [{"True": "Ready", "False": "NotReady"}.get(str(ready), "NotReady (no news from its kubelet)")]
    if node["spec"].get("unschedulable"):
        words.append(CORDONED)
    if workloads.is_leaving(node):
        words.append("leaving")
    return words + [
        f"{kind}: {plain(str(one.get('message', '')))}"
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")
        if (one := workloads.condition(node, kind)).get("status") == "True"
    ]


# Pods


def pod_state(pod: Object) -> tuple[str, str, str]:
    """(state, its word, why): one of ready, starting, waiting (for a node), failing, leaving, finished."""
    phase = pod["status"].get("phase")
    if workloads.is_leaving(pod):
        return "leaving", "leaving", ""
    if phase == "Succeeded":
        return "finished", "finished", ""
    if phase == "Failed" or workloads.is_stuck(pod) or _has_broken(pod):
        return "failing", "failing", str(pod["status"].get("reason") or "") or _why(pod)
    if workloads.is_ready(pod):
        return "ready", "Ready", ""
    if not pod["spec"].get("nodeName"):
        message = str(workloads.condition(pod, "PodScheduled").get("message", ""))
        return "waiting", "no node yet", message.split(" preemption: ")[0]
    if _is_up(pod):
        return "starting", "not Ready", _restarts(pod)
    return "starting", "starting", _why(pod)


def _has_broken(pod: Object) -> bool:
    """A container has ended badly and isn't up again yet."""
    ends = [one.get("state", {}).get("terminated") for one in workloads.container_statuses(pod)]
    return any(end and end.get("exitCode") for end in ends)


def _is_up(pod: Object) -> bool:
    states = pod["status"].get("containerStatuses") or []
    return bool(states) and all("running" in one.get("state", {}) for one in states)


def _restarts(pod: Object) -> str:
    count = sum(one.get("restartCount", 0) for one in workloads.container_statuses(pod))
    return f"{count} restarts" if count > 1 else "1 restart" if count else ""


def _why(pod: Object) -> str:
    """A container's own words, of the first that is neither ready nor over as it should be."""
    statuses = workloads.container_statuses(pod)
    open_ones = [one for one in statuses if one.get("state", {}).get("terminated", {}).get("exitCode") != 0]
    return next((text for one in open_ones if not one.get("ready") for text in container_words(one)), "")


def _short(text: str) -> str:
    """Enough to know what it is about; `kailab explain` has all of it."""
    return text if len(text) <= LONGEST_WHY else f"{text[: LONGEST_WHY - 1].rstrip()}…"


def version(pod: Object) -> str:
    """The image of the first container, as people name it."""
    image = str((workloads.containers(pod) or [{}])[0].get("image", ""))
    return plain(image.split("@", 1)[0].rsplit("/", 1)[-1])


def _pods(pods: Iterable[Object]) -> dict[str, Any]:
    """Those that are not over, the worst first, and how many more there are."""
    lines = []
    finished = 0
    for pod in pods:
        state, word, why = pod_state(pod)
        finished += state == "finished"
        if state != "finished":
            lines.append({"name": plain(_name(pod)), "state": state, "word": word, "why": _short(plain(why)),
                          "version": version(pod)})  # fmt: skip
    lines.sort(key=lambda line: (WORST_FIRST.index(line["state"]), line["name"]))
    rest = Counter(line["word"] for line in lines[SHOWN_PODS:])
    return {"pods": sorted(lines[:SHOWN_PODS], key=lambda line: line["name"]), "finished": finished,
            "rest": ", ".join(f"{count} {word}" for word, count in rest.items())}  # fmt: skip


# GPUs


def _gpus(node: Object, namespace: str, agents: Mapping[str, Status] | None) -> dict[str, Any]:
    if _labels(node).get("nvidia.com/gpu.present") != "true":
        return {"gpus": [], "models": "", "gpu_notes": []}
    if agents is None:
        return {"gpus": [], "models": "", "gpu_notes": ["asking its GPUs"]}
    status = agents.get(_name(node))
    if status is None:
        return {"gpus": [], "models": "", "gpu_notes": ["its GPU agent does not run, so nothing is known of its GPUs"]}
    slots = [slot for gpu in status["gpus"] for slot in _slots(gpu, int(status["replicas"]), namespace)]
    models = ", ".join(dict.fromkeys(plain(gpu["model"]) for gpu in status["gpus"]))
    return {"gpus": slots, "models": models, "gpu_notes": [plain(text) for text in status["problems"]]}


def _slots(gpu: Status, replicas: int, namespace: str) -> list[dict[str, Any]]:
    """One slot for a GPU, or one for each of its slices."""
    name, fault = f"GPU {gpu['index']}", gpu["fault"]
    if gpu["mig"]:  # its trouble is that of all its slices
        return [_slot(f"{name} slice {number} ({cut['profile']})", cut, fault, int(cut["replicas"]), namespace)
                for number, cut in enumerate(gpu["mig"], start=1)]  # fmt: skip
    return [_slot(name, gpu, fault, replicas, namespace)]


def _slot(name: str, device: Status, fault: str, replicas: int, namespace: str) -> dict[str, Any]:
    holders = device["held_by"]
    who = list(dict.fromkeys(_holder(one, namespace) for one in holders))
    if fault:
        state, word = "faulty", f"faulty: {fault}"
    elif not holders:
        state, word = "free", "free"
    elif any("claim" in one for one in holders):
        state, word = "claimed", "claimed by"
    else:
        state, word = "held", "held by"
    turns = f"{min(len(holders), replicas)} of {replicas} turns taken" if replicas > 1 and not fault else ""
    return {
        "name": name, "state": state, "word": plain(word), "who": who, "turns": turns,
        "use": int(device["utilization"]), "memory": f"{device['memory_used']} of {device['memory_total']} MiB",
    }  # fmt: skip


def _holder(one: Mapping[str, str], namespace: str) -> str:
    pod = one["pod"] if one["namespace"] == namespace else f"{one['namespace']}/{one['pod']}"
    return plain(pod)


# Simulated nodes


def zones(nodes: Iterable[Object], on: Mapping[str, Sequence[Object]], namespace: str) -> list[dict[str, Any]]:
    """Simulated nodes by zone and fleet: how many, how many of them take no pods, their GPUs in use and in all."""
    return [
        {
            "zone": group.zone, "fleet": group.fleet, "model": group.model, "nodes": len(group.objects),
            "closed": sum(node_words(node) != ["Ready"] for node in group.objects),
            "gpus": [{"name": name, "used": used, "total": total}
                     for name, (used, total) in group.resources.items()],
            "pods": sum(_of(pod, namespace) and not workloads.has_ended(pod)
                        for node in group.objects for pod in on.get(_name(node), ())),
        }
        for group in use.grouped(nodes, on)
    ]  # fmt: skip
