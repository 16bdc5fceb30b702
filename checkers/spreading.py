"""Why topologySpreadConstraints keep a pod from a node, with the counts that the scheduler doesn't print.

Semantics follow kube-scheduler v1.37's PodTopologySpread filter: whose nodes count, which pods count, and what is
compared with maxSkew ("Pod Topology Spread Constraints" in kubernetes.io/docs). Constraints that are only wishes
(ScheduleAnyway) keep no pod away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from checkers.scheduling import is_tolerated, labels_against
from checkers.selectors import selects
from checkers.workloads import has_ended
from cluster.api import Object


def refusals(pod: Object, nodes: Sequence[Object], pods: Iterable[Object]) -> dict[str, list[str]]:
    """For each node by name, the constraints that keep `pod` away from it; `pods` are those of the whole cluster."""
    rules = [rule for rule in pod["spec"].get("topologySpreadConstraints") or []
             if rule.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule"]  # fmt: skip
    found: dict[str, list[str]] = {node["metadata"]["name"]: [] for node in nodes}
    placed = [other for other in pods if other["spec"].get("nodeName") and _counts_here(other, pod)]
    keys = {rule["topologyKey"] for rule in rules}
    for rule in rules:
        counts, closed = _counts(rule, pod, nodes, placed, keys)
        fewest = 0 if len(counts) < rule.get("minDomains", 1) else min(counts.values(), default=0)
        selector = _selector(rule, pod)
        own = selector is not None and selects(selector, _labels(pod))
        for node in nodes:
            value = _labels(node).get(rule["topologyKey"])
            if value is None:
                found[node["metadata"]["name"]].append(f"it has no label {rule['topologyKey']} to spread over")
            elif counts.get(value, 0) + own - fewest > rule["maxSkew"]:
                found[node["metadata"]["name"]].append(_said(rule, value, counts, fewest, closed))
    return found


def _counts(
    rule: Mapping[str, Any], pod: Object, nodes: Sequence[Object], placed: Sequence[Object], keys: set[str]
) -> tuple[dict[str, int], set[str]]:
    """Matching pods for each value of the label, and the values all of whose nodes are closed to the pod."""
    key, selector = rule["topologyKey"], _selector(rule, pod)
    matching: list[Object] = []  # a selector of nothing and one of everything alike count no pods
    if selector and any(selector.values()):
        matching = [other for other in placed if selects(selector, _labels(other))]
    domain: dict[str, str] = {}
    counts: dict[str, int] = {}
    open_values = set()
    for node in nodes:
        labels = _labels(node)
        if not keys <= labels.keys():
            continue
        if rule.get("nodeAffinityPolicy", "Honor") == "Honor" and labels_against(pod, node):
            continue
        is_open = _is_open(node, pod)
        if rule.get("nodeTaintsPolicy", "Ignore") == "Honor" and not is_open:
            continue
        domain[node["metadata"]["name"]] = labels[key]
        counts.setdefault(labels[key], 0)
        if is_open:
            open_values.add(labels[key])
    for other in matching:
        value = domain.get(other["spec"]["nodeName"])
        if value is not None:
            counts[value] += 1
    return counts, counts.keys() - open_values


def _said(rule: Mapping[str, Any], value: str, counts: Mapping[str, int], fewest: int, closed: set[str]) -> str:
    least = next((name for name in sorted(counts, key=lambda name: (name not in closed, name))
                  if counts[name] == fewest), "")  # fmt: skip
    compared = f"{least} has {fewest}" if least else f"there are fewer than minDomains {rule['minDomains']}"
    shut = ", where all nodes are closed to it but count" if least in closed else ""
    return (f"{rule['topologyKey']} {value} has {counts.get(value, 0)} of these pods, {compared}{shut}: "
            f"one more would be over maxSkew {rule['maxSkew']}")  # fmt: skip


def _selector(rule: Mapping[str, Any], pod: Object) -> dict[str, Any] | None:
    """What the rule selects, with matchLabelKeys; None for no labelSelector, which takes no pod, not even its own.

    An empty one takes its own pod, but the scheduler counts no others for it (countPodsMatchSelector).
    """
    selector = rule.get("labelSelector")
    if selector is None:
        return None
    own = _labels(pod)
    same = [{"key": key, "operator": "In", "values": [own[key]]} for key in rule.get("matchLabelKeys") or []
            if key in own]  # fmt: skip
    return {"matchLabels": selector.get("matchLabels"),
            "matchExpressions": [*(selector.get("matchExpressions") or []), *same]}  # fmt: skip


def _counts_here(other: Object, pod: Object) -> bool:
    """Pods of the same namespace count while they last."""
    meta = other["metadata"]
    over = meta.get("deletionTimestamp") or has_ended(other)
    return meta.get("namespace") == pod["metadata"].get("namespace") and not over


def _is_open(node: Object, pod: Object) -> bool:
    taints = [taint for taint in node.get("spec", {}).get("taints") or [] if taint["effect"] != "PreferNoSchedule"]
    return all(is_tolerated(taint, pod) for taint in taints)


def _labels(item: Object) -> dict[str, str]:
    return item["metadata"].get("labels") or {}
