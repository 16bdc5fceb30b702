"""Fleets of simulated nodes: their plan, and joining and leaving an API server that keeps what it is given."""

from __future__ import annotations

import json
import threading
from typing import Any, cast

import jsonpatch
import pytest
from pydantic import ValidationError

from cluster.api import Api, ApiError
from cluster.errors import KailabError
from cluster.gpu import scale
from cluster.gpu.scale import plan

NOT_READY = "node.kubernetes.io/not-ready"


def make(count: int = 90, **options: Any) -> list[dict[str, Any]]:
    given = {"model": "H100-80GB", "gpus": 8, "regions": 3, "zones": 3, **options}
    return scale.nodes(scale.fleet(count, **given))


def test_nodes_are_spread_evenly_over_regions_and_zones() -> None:
    counts = scale.spread(make(90))
    assert len(counts) == 9
    assert set(counts.values()) == {10}
    uneven = scale.spread(make(100))
    assert max(uneven.values()) - min(uneven.values()) == 1


def test_names_are_unique_and_stable() -> None:
    names = [node["metadata"]["name"] for node in make(1000)]
    assert len(set(names)) == 1000
    assert names == [node["metadata"]["name"] for node in make(1000)]
    assert names[0] == "sim-eu-west-0001"


def test_a_node_offers_its_gpus_and_keeps_real_pods_away() -> None:
    node = make(1)[0]
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert {taint["key"] for taint in node["spec"]["taints"]} == {"kwok.x-k8s.io/node", "nvidia.com/gpu"}
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert "kubernetes.io/os" not in node["metadata"]["labels"]  # or kube-proxy's DaemonSet would come along


@pytest.mark.parametrize(
    "options",
    [{"count": 0}, {"count": 10**6}, {"model": "H200"}, {"gpus": 0}, {"gpus": 10**6}, {"regions": 1, "zones": 99}],
)
def test_a_fleet_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**{"count": 1, **options})


class FakeApi:
    """Nodes, pods and leases by name; lists in pages, as metadata or as a table."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.pods: dict[tuple[str, str], str] = {}
        self.leases = ["gpu-a", "sim-eu-west-0001"]
        self.deleted: list[tuple[str, str]] = []
        self.kwok = True
        self._lock = threading.Lock()

    def call(self, method: str, path: str, **options: Any) -> Any:
        accept = options["headers"]["Accept"]
        if path.startswith("/api/v1/pods"):
            rows = [
                {"cells": [name, "1/1", "Running", 0, "1s", "", node], "object": {"metadata": _at(*key)}}
                for key, node in self.pods.items()
                for name in [key[1]]
            ]
            return {"rows": rows, "metadata": {}}
        if "/leases" in path:
            return {"items": [{"metadata": {"name": name}} for name in self.leases], "metadata": {}}
        ours = [node for node in self.nodes.values() if plan.SIMULATED in node["metadata"]["labels"]]
        if group := path.partition(f"labelSelector={plan.GROUP}=")[2]:
            ours = [node for node in ours if node["metadata"]["labels"][plan.GROUP] == group]
        else:
            assert "labelSelector=kailab.dev/simulated=true" in path
        if "Table" in accept:
            return {"rows": [{"cells": [node["metadata"]["name"], "Ready"]} for node in ours], "metadata": {}}
        return {"items": ours, "metadata": {}}

    def get(self, kind: str, name: str, namespace: str = "") -> Any:
        if kind == "Deployment":
            return {"status": {"availableReplicas": 1}} if self.kwok else None
        return self.nodes.get(name)

    def create(self, node: dict[str, Any]) -> None:
        with self._lock:
            if node["metadata"]["name"] in self.nodes:
                raise ApiError(409, "AlreadyExists", "there is one")
            made = json.loads(json.dumps(node))
            made["spec"]["taints"].append({"key": NOT_READY, "effect": "NoSchedule"})  # as admission does
            self.nodes[node["metadata"]["name"]] = made

    def patch(self, kind: str, name: str, namespace: str, patch: list[dict[str, Any]]) -> None:
        with self._lock:
            self.nodes[name] = jsonpatch.apply_patch(self.nodes[name], patch)

    def delete(self, kind: str, name: str, namespace: str = "", *, grace: int | None = None) -> bool:
        with self._lock:
            self.deleted.append((kind, name))
            if kind == "Node":
                self.nodes.pop(name)
            elif kind == "Pod":
                self.pods.pop((namespace, name))
        return True


def _at(namespace: str, name: str) -> dict[str, str]:
    return {"namespace": namespace, "name": name}


def fake() -> tuple[FakeApi, Api]:
    made = FakeApi()
    made.nodes["gpu-a"] = {"metadata": {"name": "gpu-a", "labels": {}}}
    return made, cast("Api", made)


def test_joining_again_adds_only_what_is_missing() -> None:
    made, api = fake()
    heard: list[int] = []
    assert scale.join(api, make(40)[:25]) == 25
    assert scale.join(api, make(40), heard.append) == 15
    assert (heard[0], heard[-1]) == (25, 40)
    scale.wait_ready(api, 40)
    assert len(made.nodes) == 41


def test_who_has_joined_takes_pods_at_once() -> None:
    made, api = fake()
    scale.join(api, make(2))
    joined = [node for name, node in made.nodes.items() if name.startswith("sim-")]
    assert joined
    assert not [taint for node in joined for taint in node["spec"]["taints"] if taint["key"] == NOT_READY]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "T4", "gpus": 2}, "has 8 x H100-80GB in eu-west, zone eu-west-a, fleet sim; wanted is 2 x T4"),
        ({"zones": 1}, "zone eu-west-b, fleet sim; wanted is 8 x H100-80GB in eu-west, zone eu-west-a"),
        ({"gpus": 4}, "wanted is 4 x H100-80GB"),
    ],
)
def test_nodes_that_are_there_otherwise_are_refused_not_taken_for_the_wanted(
    change: dict[str, Any], words: str
) -> None:
    made, api = fake()
    scale.join(api, make(12))
    before = json.dumps(made.nodes)
    with pytest.raises(KailabError, match="not as they should be now") as refused:
        scale.join(api, make(20, **change))
    assert words in refused.value.why
    assert "kailab gpu fleet down" in refused.value.mend
    assert json.dumps(made.nodes) == before


@pytest.mark.parametrize("text", [None, "{", "4", "[]", "{}"])
def test_a_node_whose_gpus_nobody_can_read_is_not_the_wanted_one(text: str | None) -> None:
    made, api = fake()
    scale.join(api, make(1))
    made.nodes["sim-eu-west-0001"]["metadata"]["annotations"] = {plan.SPEC: text} if text else None
    with pytest.raises(KailabError, match="not as they should be now") as refused:
        scale.join(api, make(1))
    assert "has unknown GPUs in eu-west" in refused.value.why


def test_labels_and_cordons_of_others_are_no_reason_to_refuse() -> None:
    made, api = fake()
    scale.join(api, make(3))
    for node in made.nodes.values():
        node["metadata"]["labels"]["team"] = "blue"
        node["metadata"].setdefault("annotations", {})["fault.gpu.kailab.dev/0"] = "lost"
    assert scale.join(api, make(3)) == 0


def test_a_fleet_that_is_not_ready_is_not_hidden_by_another() -> None:
    _, api = fake()
    scale.join(api, make(5, name="lab"))
    wanted = make(5)
    scale.join(api, wanted[:2])
    assert scale.groups(wanted) == {"sim": 5}
    scale.wait_ready(api, 2, group="sim")
    with pytest.raises(KailabError, match="2 of 5 simulated nodes are Ready"):
        scale.wait_ready(api, 5, deadline=0, group="sim")


def test_a_real_nodes_name_is_not_taken() -> None:
    made, api = fake()
    made.nodes["sim-eu-west-0001"] = {"metadata": {"name": "sim-eu-west-0001", "labels": {}}}
    with pytest.raises(KailabError, match="is not a simulated one"):
        scale.join(api, make(5))


def test_without_kwok_nothing_joins() -> None:
    made, api = fake()
    made.kwok = False
    with pytest.raises(KailabError, match="not running"):
        scale.join(api, make(5))
    assert len(made.nodes) == 1


def test_leaving_takes_the_pods_first_and_leaves_the_rest_alone() -> None:
    made, api = fake()
    scale.join(api, make(3))
    made.pods = {("team", "a"): "sim-eu-west-0001", ("team", "b"): "gpu-a"}
    assert scale.leave(api) == 3
    assert list(made.nodes) == ["gpu-a"]
    assert made.pods == {("team", "b"): "gpu-a"}
    assert next(one for one in made.deleted if one[0] != "Lease") == ("Pod", "a")
    assert ("Lease", "sim-eu-west-0001") in made.deleted
    assert ("Lease", "gpu-a") not in made.deleted
    assert scale.leave(api) == 0
