"""How much of the simulated nodes' GPUs is in use, by zone and fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.api import Api, Object
from cluster.gpu import GROUP, SIMULATED
from cluster.gpu.labels import PREFIX

ZONE, PRODUCT = "topology.kubernetes.io/zone", f"{PREFIX}gpu.product"
RESOURCES = (f"{PREFIX}gpu", f"{PREFIX}mig-")  # GPUs and turns on them, slices of GPUs
ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class Group:
    """The nodes of one fleet in one zone: the `objects`, how many GPUs each has in use and in all (slices and turns
    count as what they are handed out as), and the same of the whole group by resource, without its prefix."""

    zone: str
    fleet: str
    model: str
    objects: tuple[Object, ...]
    nodes: tuple[tuple[int, int], ...]
    resources: Mapping[str, tuple[int, int]]


def grouped(nodes: Iterable[Object], pods: Mapping[str, Sequence[Object]]) -> list[Group]:
    """Nodes by zone, then fleet, each with its `pods` by node name; pods that have ended hold nothing."""
    found: dict[tuple[str, str, str], list[Object]] = {}
    for node in sorted(nodes, key=_name):
        labels = node["metadata"].get("labels") or {}
        found.setdefault((labels.get(ZONE, ""), labels.get(GROUP, ""), labels.get(PRODUCT, "")), []).append(node)
    return [_group(*key, found[key], pods) for key in sorted(found)]


def _group(zone: str, fleet: str, model: str, nodes: Sequence[Object], pods: Mapping[str, Sequence[Object]]) -> Group:
    has = [_amounts(node["status"].get("capacity") or {}) for node in nodes]
    used = [_held(pods.get(_name(node), ())) for node in nodes]
    names = sorted(set().union(*has))
    resources = {name: (sum(one[name] for one in used), sum(one[name] for one in has)) for name in names}
    counts = zip((one.total() for one in used), (one.total() for one in has), strict=True)
    return Group(zone, fleet, model, tuple(nodes), tuple(counts), resources)


def _name(node: Object) -> str:
    return str(node["metadata"]["name"])


def _held(pods: Iterable[Object]) -> Counter[str]:
    held: Counter[str] = Counter()
    for pod in pods:
        if pod["status"].get("phase") not in ENDED:
            for container in pod["spec"]["containers"]:
                held += _amounts((container.get("resources") or {}).get("limits") or {})
    return held


def _amounts(quantities: Mapping[str, str | int]) -> Counter[str]:
    """Of GPUs alone; those are whole numbers."""
    return Counter(
        {name.removeprefix(PREFIX): int(count) for name, count in quantities.items() if name.startswith(RESOURCES)}
    )


def by_zone(api: Api) -> list[Group]:
    """The simulated nodes that are in the cluster. Empty, and cheap, without any."""
    nodes, _ = api.list("Node", labelSelector=f"{SIMULATED}=true")
    if not nodes:
        return []
    pods, _ = api.list("Pod", fieldSelector="spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed")
    on: dict[str, list[Object]] = {}
    for pod in pods:
        on.setdefault(pod["spec"]["nodeName"], []).append(pod)
    return grouped(nodes, on)
