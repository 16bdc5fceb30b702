"""Why a node takes a pod or doesn't: the scheduler's filters, with the numbers that it doesn't print.

Topology spread has a module of its own; affinity between pods and devices are left to the scheduler's own message.
Semantics follow kube-scheduler v1.37's NodeUnschedulable, TaintToleration, NodeAffinity and NodeResourcesFit plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from checkers import quantity
from checkers.selectors import holds, in_words
from checkers.workloads import has_ended
from cluster import cordons
from cluster.api import Object

Amounts = dict[str, Decimal]
_KEEPS_OUT = ("NoSchedule", "NoExecute")


def refusals(pod: Object, node: Object, pods_there: Iterable[Object]) -> list[str]:
    """Every reason for which `node` can't take `pod`, in words with numbers; empty when nothing speaks against it."""
    spec = node.get("spec", {})
    found = []
    if spec.get("unschedulable") and not is_tolerated(cordons.CLOSED, pod):
        found.append("it is cordoned (closed for new pods)")
    found += [f"taint {_taint(taint)} is not tolerated" for taint in spec.get("taints") or []
              if taint["effect"] in _KEEPS_OUT and not is_tolerated(taint, pod)
              and taint["key"] != cordons.TAINT]  # fmt: skip
    if not _is_ready(node):
        found.append("the node is not Ready")
    found += labels_against(pod, node)
    found += _room(pod, node, [other for other in pods_there if not has_ended(other)])
    return found


def requests(pod: Object) -> Amounts:
    """What a pod reserves: containers together, or the largest init container if that is more, plus overhead."""
    spec = pod["spec"]
    running: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or []:
        own = _asked(container)
        if container.get("restartPolicy") == "Always":  # a native sidecar keeps running
            running = _sum(running, own)
            peak = _max(peak, running)
        else:
            peak = _max(peak, _sum(running, own))
    for container in spec.get("containers") or []:
        running = _sum(running, _asked(container))
    total = _max(running, peak)
    total.update(_amounts((spec.get("resources") or {}).get("requests")))
    return _sum(total, _amounts(spec.get("overhead")))


def _asked(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    return {**_amounts(resources.get("limits")), **_amounts(resources.get("requests"))}


def _amounts(found: Mapping[str, Any] | None) -> Amounts:
    return {name: quantity.parse(value) for name, value in (found or {}).items()}


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return {name: one.get(name, Decimal(0)) + other.get(name, Decimal(0)) for name in {**one, **other}}


def _max(one: Amounts, other: Amounts) -> Amounts:
    return {name: max(one.get(name, Decimal(0)), other.get(name, Decimal(0))) for name in {**one, **other}}


def _room(pod: Object, node: Object, there: list[Object]) -> list[str]:
    allocatable = _amounts(node.get("status", {}).get("allocatable"))
    taken: Amounts = {}
    for other in there:
        taken = _sum(taken, requests(other))
    found = []
    if len(there) >= allocatable.get("pods", Decimal(0)):
        found.append(f"it is full: {len(there)} of {allocatable.get('pods', 0)} pods")
    for name, asked in sorted(requests(pod).items()):
        total = allocatable.get(name)
        if not asked:
            continue
        if total is None:
            found.append(f"it has no {name}")
        elif asked > total - taken.get(name, Decimal(0)):
            free = max(total - taken.get(name, Decimal(0)), Decimal(0))
            found.append(f"{name}: asks {_show(name, asked)}, free {_show(name, free)} of {_show(name, total)}")
    return found


def _show(name: str, amount: Decimal) -> str:
    if name == "memory" or "storage" in name or name.startswith("hugepages"):
        return f"{amount / 2**20:.0f}Mi"
    return f"{amount * 1000:.0f}m" if name == "cpu" and amount % 1 else f"{amount.normalize():f}"


def labels_against(pod: Object, node: Object) -> list[str]:
    """What of the node's labels the pod's selector and required node affinity don't take."""
    labels = node["metadata"].get("labels") or {}
    found = [f"label {key}={value} is missing ({_has(key, labels)})"
             for key, value in (pod["spec"].get("nodeSelector") or {}).items() if labels.get(key) != value]  # fmt: skip
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or []
    if terms and not any(_fits(term, node) for term in terms):
        wanted = " or ".join(" and ".join(in_words(rule) for rule in _rules(term)) for term in terms)
        keys = dict.fromkeys(rule["key"] for term in terms for rule in term.get("matchExpressions") or [])
        there = ", ".join(_has(key, labels) for key in keys)
        found.append(f"node affinity asks for {wanted}" + (f" ({there})" if there else ""))
    return found


def _has(key: str, labels: Mapping[str, str]) -> str:
    return f"it has {key}={labels[key]}" if key in labels else f"it has no {key}"


def _rules(term: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*(term.get("matchExpressions") or []), *(term.get("matchFields") or [])]


def _fits(term: Mapping[str, Any], node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    return bool(_rules(term)) and all(holds(rule, labels) for rule in term.get("matchExpressions") or []) and all(
        holds(rule, fields) for rule in term.get("matchFields") or []
    )  # fmt: skip


def is_tolerated(taint: Mapping[str, Any], pod: Object) -> bool:
    """Whether one of the pod's tolerations takes the taint."""
    return any(_tolerates(toleration, taint) for toleration in pod["spec"].get("tolerations") or [])


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return bool(toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", ""))


def _taint(taint: Mapping[str, Any]) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def _is_ready(node: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node.get("status", {}).get("conditions", []))
