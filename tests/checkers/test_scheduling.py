"""Why a node refuses a pod, with the numbers; the rules are the scheduler's own."""

from __future__ import annotations

from typing import Any

import pytest

from checkers import quantity
from checkers.scheduling import refusals, requests

READY = [{"type": "Ready", "status": "True"}]


def pod(*containers: dict[str, Any], phase: str = "Pending", **spec: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": list(containers), **spec},
        "status": {"phase": phase},
    }


def asking(**amounts: Any) -> dict[str, Any]:
    """A container with these requests; two underscores stand for a slash."""
    return {"name": "c", "resources": {"requests": {key.replace("__", "/"): value for key, value in amounts.items()}}}


def node(*, labels: dict[str, str] | None = None, allocatable: dict[str, str] | None = None, **spec: Any) -> Any:
    room = {"cpu": "2", "memory": "800Mi", "pods": "3", **(allocatable or {})}
    return {
        "metadata": {"name": "worker", "labels": labels or {}},
        "spec": spec,
        "status": {"conditions": READY, "allocatable": room},
    }


def tainted(effect: str = "NoSchedule", key: str = "gpu", value: str = "a100") -> Any:
    return node(taints=[{"key": key, "effect": effect, **({"value": value} if value else {})}])


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    return {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}},
    }


def rules(*found: tuple[str, str, list[str]], fields: bool = False) -> dict[str, Any]:
    word = "matchFields" if fields else "matchExpressions"
    return {word: [{"key": key, "operator": operator, "values": values} for key, operator, values in found]}


def amounts(**wanted: str) -> dict[str, Any]:
    return {key: quantity.parse(value) for key, value in wanted.items()}


def test_nothing_speaks_against_a_node_with_room() -> None:
    assert refusals(pod(asking(cpu="2", memory="800Mi")), node(), []) == []
    assert refusals(pod({"name": "c"}), node(), []) == []


def test_a_cordoned_node_takes_nobody_but_who_tolerates_that() -> None:
    closed = node(unschedulable=True, taints=[{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}])
    (said,) = refusals(pod(), closed, [])
    assert "cordoned" in said
    tolerant = pod(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
    assert refusals(tolerant, closed, []) == []


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_node_that_is_not_ready_takes_nobody(status: str) -> None:
    broken = node()
    broken["status"]["conditions"] = [{"type": "Ready", "status": status}, {"type": "DiskPressure", "status": "True"}]
    assert refusals(pod(), broken, []) == ["the node is not Ready"]


@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
def test_a_taint_keeps_pods_out_and_is_named(effect: str) -> None:
    assert refusals(pod(), tainted(effect), []) == [f"taint gpu=a100:{effect} is not tolerated"]
    assert refusals(pod(), tainted(effect, value=""), []) == [f"taint gpu:{effect} is not tolerated"]


def test_a_taint_that_only_prefers_keeps_nobody_out() -> None:
    assert refusals(pod(), tainted("PreferNoSchedule"), []) == []


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "gpu", "operator": "Equal", "value": "a100", "effect": "NoSchedule"},
        {"key": "gpu", "value": "a100", "effect": "NoSchedule"},  # Equal is the default
        {"key": "gpu", "value": "a100"},  # no effect: all effects
        {"key": "gpu", "operator": "Exists"},
        {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"operator": "Exists"},  # no key: all taints
        {"key": "", "operator": "Exists", "effect": "NoSchedule"},
    ],
)
def test_a_toleration_lets_a_pod_in(toleration: dict[str, str]) -> None:
    assert refusals(pod(tolerations=[toleration]), tainted(), []) == []


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "gpu", "value": "h100", "effect": "NoSchedule"},
        {"key": "gpu", "effect": "NoSchedule"},  # an empty value is not any value
        {"key": "cpu", "operator": "Exists"},
        {"key": "gpu", "operator": "Exists", "effect": "NoExecute"},
        {"operator": "Exists", "effect": "NoExecute"},
        {"value": "a100"},  # no key does not mean all taints unless it is Exists
    ],
)
def test_a_toleration_of_something_else_does_not(toleration: dict[str, str]) -> None:
    assert refusals(pod(tolerations=[toleration]), tainted(), []) == ["taint gpu=a100:NoSchedule is not tolerated"]


def test_every_taint_needs_a_toleration_of_its_own() -> None:
    two = node(taints=[{"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoExecute"}])
    assert refusals(pod(tolerations=[{"key": "a", "operator": "Exists"}]), two, []) == [
        "taint b:NoExecute is not tolerated"
    ]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"disk": "ssd", "zone": "a"}, []),
        ({"disk": "hdd", "zone": "a"}, ["label disk=ssd is missing (it has disk=hdd)"]),
        ({"disk": "ssd"}, ["label zone=a is missing (it has no zone)"]),
    ],
)
def test_a_node_selector_asks_for_all_its_labels(labels: dict[str, str], said: list[str]) -> None:
    assert refusals(pod(nodeSelector={"disk": "ssd", "zone": "a"}), node(labels=labels), []) == said


@pytest.mark.parametrize(
    ("terms", "fits"),
    [
        ([rules(("zone", "In", ["a", "b"]))], True),
        ([rules(("zone", "In", ["c"]))], False),
        ([rules(("zone", "In", ["c"])), rules(("disk", "Exists", []))], True),  # terms are ORed
        ([rules(("zone", "In", ["a"]), ("disk", "In", ["hdd"]))], False),  # rules are ANDed
        ([rules(("zone", "In", ["a"]), ("disk", "NotIn", ["hdd"]))], True),
        ([rules(("gpus", "Gt", ["3"]))], True),
        ([rules(("gpus", "Lt", ["4"]))], False),
        ([rules(("metadata.name", "In", ["worker"]), fields=True)], True),
        ([rules(("metadata.name", "In", ["other"]), fields=True)], False),
        ([rules(("metadata.name", "In", ["worker"]))], False),  # a name is a field, no label
        ([{**rules(("zone", "In", ["a"])), **rules(("metadata.name", "In", ["other"]), fields=True)}], False),
        ([{}], False),  # an empty term takes no node at all
        ([{}, rules(("zone", "In", ["a"]))], True),
        ([rules(("zone", "Gt", ["1"]))], False),  # a label that is no number
    ],
)
def test_node_affinity_is_read_as_the_scheduler_reads_it(terms: list[dict[str, Any]], fits: bool) -> None:
    here = node(labels={"zone": "a", "disk": "ssd", "gpus": "4"})
    assert (refusals(pod(affinity=required(*terms)), here, []) == []) is fits


def test_a_refused_affinity_is_told_with_what_the_node_has() -> None:
    wish = required(rules(("zone", "In", ["a", "b"]), ("gpus", "Gt", ["3"])), rules(("disk", "Exists", [])))
    (said,) = refusals(pod(affinity=wish), node(labels={"zone": "c"}), [])
    assert "zone in (a, b) and gpus > 3 or a label disk" in said
    assert "it has zone=c" in said
    assert "it has no gpus" in said


def test_a_preference_keeps_nobody_away() -> None:
    wish = {"weight": 1, "preference": rules(("zone", "In", ["z"]))}
    asked = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
    assert refusals(pod(affinity=asked), node(), []) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (asking(cpu="1500m"), []),
        (asking(cpu="1501m"), ["cpu: asks 1501m, free 1500m of 2"]),
        (asking(memory="501Mi"), ["memory: asks 501Mi, free 500Mi of 800Mi"]),
        (asking(memory="500Mi"), []),
        (asking(nvidia__com="1"), ["it has no nvidia/com"]),
        (asking(example__gpu="2"), ["example/gpu: asks 2, free 1 of 2"]),
        (asking(example__gpu="1"), []),
        (asking(missing__gpu="0"), []),
        (asking(cpu="3", memory="600Mi"), ["cpu: asks 3, free 1500m of 2", "memory: asks 600Mi, free 500Mi of 800Mi"]),
    ],
)
def test_room_is_what_the_pods_there_have_not_asked_for(asked: dict[str, Any], said: list[str]) -> None:
    there = [pod(asking(cpu="500m", memory="300Mi", example__gpu="1"), phase="Running")]
    assert refusals(pod(asked), node(allocatable={"example/gpu": "2"}), there) == said


@pytest.mark.parametrize(
    ("used", "said"),
    [
        ("1000m", "cpu: asks 4, free 3 of 4"),
        ("4000m", "cpu: asks 4, free 0 of 4"),
        ("9", "cpu: asks 4, free 0 of 4"),
    ],
)
def test_whole_cores_are_shown_as_whole_numbers(used: str, said: str) -> None:
    there = [pod(asking(cpu=used), phase="Running")]
    assert refusals(pod(asking(cpu="4")), node(allocatable={"cpu": "4"}), there) == [said]


def test_a_node_is_full_when_it_has_as_many_pods_as_it_may() -> None:
    assert refusals(pod(), node(), [pod(phase="Running")] * 2) == []
    assert refusals(pod(), node(), [pod(phase="Running")] * 3) == ["it is full: 3 of 3 pods"]


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_ended_pods_free_their_room_and_their_place(phase: str) -> None:
    ended = [pod(asking(cpu="2", memory="800Mi"), phase=phase)] * 3
    assert refusals(pod(asking(cpu="2", memory="800Mi")), node(), ended) == []


def test_all_reasons_are_told_together() -> None:
    said = refusals(pod(asking(cpu="3"), nodeSelector={"disk": "ssd"}), tainted(), [])
    assert [text.split(":")[0].split(" ")[0] for text in said] == ["taint", "label", "cpu"]


def init(cpu: str, *, sidecar: bool = False) -> dict[str, Any]:
    return {**asking(cpu=cpu), **({"restartPolicy": "Always"} if sidecar else {})}


@pytest.mark.parametrize(
    ("inits", "mains", "cpu"),
    [
        ([], [asking(cpu="1"), asking(cpu="500m")], "1500m"),
        ([init("3")], [asking(cpu="1")], "3"),  # init containers run before, not beside
        ([init("500m")], [asking(cpu="1")], "1"),
        ([init("2"), init("3")], [asking(cpu="1")], "3"),  # one after the other
        ([init("500m", sidecar=True)], [asking(cpu="1")], "1500m"),  # a sidecar stays
        ([init("1", sidecar=True), init("3")], [asking(cpu="1")], "4"),  # and is there while later ones run
        ([init("3"), init("1", sidecar=True)], [asking(cpu="1")], "3"),  # but not while earlier ones do
        ([init("1", sidecar=True), init("2", sidecar=True), init("1")], [asking(cpu="500m")], "4"),
    ],
)
def test_a_pod_asks_for_the_most_that_runs_at_one_time(inits: list[Any], mains: list[Any], cpu: str) -> None:
    assert requests(pod(*mains, initContainers=inits)) == amounts(cpu=cpu)


def test_overhead_comes_on_top_and_pod_wide_requests_win() -> None:
    assert requests(pod(asking(cpu="1"), overhead={"cpu": "250m"})) == amounts(cpu="1250m")
    whole = pod(asking(cpu="1", memory="64Mi"), resources={"requests": {"cpu": "2"}}, overhead={"cpu": "250m"})
    assert requests(whole) == amounts(cpu="2250m", memory="64Mi")


def test_a_limit_without_a_request_is_the_request() -> None:
    limited = {"name": "c", "resources": {"limits": {"cpu": "2", "memory": "64Mi"}, "requests": {"cpu": "1"}}}
    assert requests(pod(limited)) == amounts(cpu="1", memory="64Mi")


def test_a_pod_that_asks_for_nothing_asks_for_nothing() -> None:
    assert requests(pod({"name": "c"}, {"name": "d", "resources": {}}, initContainers=None)) == {}
