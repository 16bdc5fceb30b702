"""What the course's nodes must carry is missed when it is gone and put back; what others gave them stays."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any, cast

import pytest

from cluster import addons, bringup, nodeobjects
from cluster.api import Api, ApiError, Object
from cluster.gpu import addon as gpu
from cluster.topology import NODES, Node, taint
from tests.fakeapi import FakeApi

GPU = next(node for node in NODES if node.name == "gpu-a")
ROLE = "kailab.dev/role"
FOREIGN = {"key": "example.com/mine", "value": "x", "effect": "NoSchedule"}
CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def whole(node: Node) -> Object:
    """As the API server shows it: a taint with an empty value has none."""
    labels, taints = dict(node.all_labels), [taint(node.taint)] if node.taint else []
    if node.is_control_plane:
        labels[nodeobjects.CONTROL_PLANE_ROLE] = ""
        taints = [taint(f"{nodeobjects.CONTROL_PLANE_ROLE}=:NoSchedule")]
    return {
        "kind": "Node", "apiVersion": "v1", "metadata": {"name": node.name, "labels": {**labels, "mine": "x"}},
        "spec": {"taints": [{key: value for key, value in one.items() if value} for one in [*taints, FOREIGN, CORDON]],
                 "unschedulable": True},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip


@pytest.fixture
def fake() -> FakeApi:
    fake = FakeApi()
    for node in NODES:
        fake.create(whole(node))
    return fake


def found(fake: FakeApi, node: Node = GPU) -> Object:
    item = fake.get("Node", node.name)
    assert item is not None
    return item


def put_back(fake: Any, node: Node = GPU) -> list[str]:
    return nodeobjects.put_back(cast("Api", fake), node)


def waiting(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for module in (addons, gpu):
        monkeypatch.setattr(module, "READY", ())
    monkeypatch.setattr(bringup, "_is_ready", lambda kind, item: True)
    return bringup.unready(cast("Api", fake))


@pytest.mark.parametrize(
    ("namespace", "available", "said"),
    [("kube-system", 2, []), ("kube-system", 1, ["Deployment coredns"]), ("default", 2, ["Deployment coredns"])],
)
def test_a_deployment_is_waited_for_where_it_belongs(
    fake: FakeApi, namespace: str, available: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (addons, gpu):
        monkeypatch.setattr(module, "READY", ())
    fake.create({
        "kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "coredns"},
        "spec": {"replicas": 2}, "status": {"availableReplicas": available},
    }, namespace)  # fmt: skip
    assert bringup.unready(cast("Api", fake)) == said


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_a_whole_node_is_left_alone(fake: FakeApi, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = found(fake, node)
    assert put_back(fake, node) == []
    assert found(fake, node) == before
    assert waiting(fake, monkeypatch) == []


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
@pytest.mark.parametrize("changed", [None, "other"])
def test_all_that_is_gone_or_changed_is_missed_and_put_back_beside_what_others_gave(
    fake: FakeApi, node: Node, changed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: dict[str, str | None] = dict.fromkeys(node.all_labels, changed)
    fake.patch("Node", node.name, "", {"metadata": {"labels": labels}, "spec": {"taints": [FOREIGN, CORDON]}})
    missing = waiting(fake, monkeypatch)
    assert len(missing) == len(node.all_labels) + bool(node.taint or node.is_control_plane)
    assert put_back(fake, node) == missing
    assert waiting(fake, monkeypatch) == []
    after, wanted = found(fake, node), whole(node)
    assert after["metadata"]["labels"] == wanted["metadata"]["labels"]
    assert {one["key"] for one in after["spec"]["taints"]} == {one["key"] for one in wanted["spec"]["taints"]}
    assert FOREIGN in after["spec"]["taints"]
    assert after["spec"]["unschedulable"]


def ran(since: str, node: str = "gpu-a", phase: str = "Running", **metadata: str) -> Object:
    """A pod with a container that runs `since`, and with one that has yet to start."""
    statuses = [{"name": "main", "state": {"running": {"startedAt": since}}},
                {"name": "other", "state": {"waiting": {"reason": "ContainerCreating"}}}]  # fmt: skip
    return {"metadata": {"name": "some", **metadata}, "spec": {"nodeName": node},
            "status": {"phase": phase, "containerStatuses": statuses}}  # fmt: skip


BEFORE, AFTER = "2026-11-27T10:00:04Z", "2026-11-27T10:00:05Z"


@pytest.mark.parametrize(
    ("pods", "waits"),
    [
        ([ran(AFTER), ran(BEFORE)], True),
        ([ran(AFTER)], False),
        ([ran(BEFORE, node="gpu-b")], False),
        ([ran(BEFORE, phase="Failed")], False),
        ([ran(BEFORE, deletionTimestamp=AFTER)], False),
        ([{"metadata": {}, "spec": {"nodeName": "gpu-a"}, "status": {"phase": "Running"}}], False),
    ],
)
def test_a_node_that_was_restarted_is_not_believed_by_what_was_known_of_it_before(
    pods: list[Object], waits: bool
) -> None:
    class Listing:
        def list(self, kind: str, namespace: str = "", **options: str) -> tuple[list[Object], str]:
            assert kind == "Pod"
            return [pod for pod in pods if f"spec.nodeName={pod['spec']['nodeName']}" == options["fieldSelector"]], ""

    started = {"gpu-a": datetime.fromisoformat("2026-11-27T10:00:05.999999Z")}
    assert bool(nodeobjects.outdated(cast("Api", Listing()), started)) == waits


def test_a_role_taken_from_a_gpu_node_is_not_called_ready(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.patch("Node", GPU.name, "", {"metadata": {"labels": {ROLE: None}}})
    assert waiting(fake, monkeypatch) == [f"label {ROLE} of node gpu-a"]


def test_a_taint_with_another_value_is_ours_again_and_not_there_twice(fake: FakeApi) -> None:
    other = {**taint(GPU.taint), "value": "other"}
    fake.patch("Node", GPU.name, "", {"spec": {"taints": [other, FOREIGN]}})
    put_back(fake)
    assert found(fake)["spec"]["taints"] == [FOREIGN, taint(GPU.taint)]


def test_a_deleted_node_is_not_made_by_putting_labels_on_it(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.delete("Node", GPU.name)
    assert put_back(fake) == []
    assert GPU.name not in nodeobjects.present(cast("Api", fake))
    assert waiting(fake, monkeypatch) == ["node gpu-a"]


class Changing(FakeApi):
    """Somebody changes each node between our look and our writing, so often."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times

    def patch(self, kind: Any, name: str, namespace: str, patch: Any) -> Object:
        if self._times and "resourceVersion" in patch.get("metadata", {}):
            self._times -= 1
            present = copy.deepcopy(found(self))
            super().patch(kind, name, "", {"spec": {"taints": [*present["spec"]["taints"], FOREIGN]}})
        return super().patch(kind, name, namespace, patch)


def test_a_taint_that_somebody_adds_meanwhile_stays() -> None:
    fake = Changing(times=1)
    item = whole(GPU)
    item["spec"]["taints"] = []
    fake.create(item)
    assert put_back(fake) == ["taint nvidia.com/gpu of node gpu-a"]
    assert found(fake)["spec"]["taints"] == [FOREIGN, taint(GPU.taint)]


def test_a_node_that_never_holds_still_is_an_error() -> None:
    fake = Changing(times=100)
    item = whole(GPU)
    item["spec"]["taints"] = []
    fake.create(item)
    with pytest.raises(ApiError):
        put_back(fake)
