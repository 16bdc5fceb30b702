"""Why a pod that wants GPUs doesn't get them: what `explain` knows beyond the scheduler's filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from checkers import workloads
from cluster.api import Object
from cluster.gpu.faults import CONDITION
from cluster.gpu.node.slices import HELD_TAINT, UNHEALTHY_TAINT

DEVICE_TAINTS = {HELD_TAINT: "held by pods as nvidia.com/gpu", UNHEALTHY_TAINT: "faulty"}

REFUSED = "UnexpectedAdmissionError"  # the kubelet's reason where its count of devices, or their plugin, said no

Entry = tuple[str, tuple[str, ...], str]  # what, details, what to do


def faulty(node: Object) -> str:
    """What the node says about broken GPUs; empty when all are well."""
    conditions = node.get("status", {}).get("conditions") or []
    return next((one["message"] for one in conditions if one["type"] == CONDITION and one["status"] == "False"), "")


def refused_at_admission(pod: Object) -> Iterator[Entry]:
    """The kubelet turned the pod away after the scheduler had chosen its node."""
    status = pod.get("status", {})
    if status.get("reason") != REFUSED:
        return
    message = status.get("message", "")
    who = "its device plugin refused"
    mend = "Delete the pod; its owner, if it has one, makes another."
    if "devices unavailable" in message:  # devicesToAllocate in pkg/kubelet/cm/devicemanager
        who = "its kubelet had no device free: it, or its device plugin, had just restarted, or a GPU just broke"
    if "maximum request size for shared resources" in message:
        mend = (
            "A shared GPU is a turn on a GPU, and two turns are not two GPUs: ask for 1, or for GPUs that aren't "
            "shared. Then delete this pod; it doesn't come back by itself."
        )
    yield f"Node {pod['spec'].get('nodeName')} took it, but {who}.", (message,), mend


def claims(pod: Object, found: Sequence[Object], slices: Sequence[Object]) -> Iterator[Entry]:
    """ResourceClaims of the pod that have no device yet; `found` are those of its namespace."""
    by_name = {claim["metadata"]["name"]: claim for claim in found}
    names = workloads.claim_names(pod)
    for wanted in pod["spec"].get("resourceClaims") or []:
        name = names[wanted["name"]]
        claim = by_name.get(name)
        if claim is None:
            template = wanted.get("resourceClaimTemplateName")
            if template and not name:
                yield (f"Its claim {wanted['name']} has not been made from the template {template}.",
                       ("The template may not exist.",), f"kubectl get resourceclaimtemplate {template}")  # fmt: skip
            else:
                there = ", ".join(sorted(by_name)) or "none"
                yield f"It waits for the ResourceClaim {name}, which does not exist.", (f"Claims here: {there}.",), (
                    "Create the claim, or mend its name in the pod."
                )  # fmt: skip
        elif not (claim.get("status") or {}).get("allocation"):
            yield _unallocated(claim, slices)


def _unallocated(claim: Object, slices: Sequence[Object]) -> Entry:
    lines = []
    for request in ((claim["spec"].get("devices") or {}).get("requests")) or []:
        exact = request.get("exactly") or request
        asked = f"request {request['name']}: {exact.get('count', 1)} of class {exact.get('deviceClassName', '?')}"
        rules = [one.get("cel", {}).get("expression", "") for one in exact.get("selectors") or []]
        lines.append(asked + (f" where {' and '.join(rules)}" if rules else ""))
    lines += list(_devices(slices))
    return (
        f"Its claim {claim['metadata']['name']} has no device.", tuple(lines),
        "Compare the claim's selectors with the devices: an attribute, an amount of memory, or nothing free.",
    )  # fmt: skip


def _devices(slices: Sequence[Object]) -> Iterator[str]:
    """Each node's devices in a line: model, memory, how many, and how many of them can't be had and why."""
    for item in sorted(slices, key=lambda one: str(one["metadata"]["name"])):
        kinds: Counter[str] = Counter(map(_kind, item["spec"].get("devices") or []))
        taken: Counter[str] = Counter(
            DEVICE_TAINTS.get(taint["key"], taint["key"])
            for device in item["spec"].get("devices") or []
            for taint in device.get("taints") or []
        )
        text = ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "no device"
        text += "".join(f"; {count} {why}" for why, count in taken.items())
        yield f"{item['spec'].get('nodeName', item['metadata']['name'])}: {text}"


def _kind(device: Mapping[str, Any]) -> str:
    name = (device.get("attributes", {}).get("productName") or {}).get("string", device["name"])
    memory = (device.get("capacity", {}).get("memory") or {}).get("value", "")
    return f"{name} with {memory}" if memory else str(name)


def together(lines: Sequence[tuple[str, str]], most: int = 8) -> list[str]:
    """(node, why) as lines; with many nodes those with the same reason share one."""
    if len(lines) <= most:
        return [f"{node}: {why}" for node, why in lines]
    groups: dict[str, list[str]] = {}
    for node, why in lines:
        groups.setdefault(why, []).append(node)
    return [
        f"{', '.join(nodes[:2])}{f' and {len(nodes) - 2} more' if len(nodes) > 2 else ''}: {why}"
        for why, nodes in groups.items()
    ]
