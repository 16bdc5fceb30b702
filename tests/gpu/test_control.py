"""Breaking and healing from outside, against an API server that keeps one node and the fleet."""

from __future__ import annotations

import copy
import json
from typing import Any, cast

import pytest

from cluster.api import Api, ApiError
from cluster.errors import KailabError
from cluster.gpu import SPEC, control, faults
from cluster.gpu.devices import NodeGpus, gpus
from cluster.gpu.node import sharing
from cluster.gpu.node.readings import Fault, GpuFault

LOST = GpuFault(Fault.LOST)
TWO = NodeGpus("A100-80GB", 2)
CUT = NodeGpus("A100-80GB", 2, mig={0: ("3g.40gb", "3g.40gb")})


class FakeApi:
    """Nodes with resourceVersions, conflicts included."""

    def __init__(self, *, simulated: bool = False, conflicts: int = 0, spec: NodeGpus = TWO) -> None:
        self.fleet = {} if simulated else {"gpu-a": json.dumps(spec.to_json())}
        labels = {"nvidia.com/gpu.present": "true"}
        labels |= {"kailab.dev/simulated": "true"} if simulated else {}
        annotations = {SPEC: json.dumps(spec.to_json())} if simulated else {}
        capacity = {name: len(ids) for name, ids in sharing.device_ids(gpus("gpu-a", spec), sharing.Sharing()).items()}
        self.node: dict[str, Any] = {
            "metadata": {"name": "gpu-a", "resourceVersion": "1", "labels": labels, "annotations": annotations},
            "status": {"capacity": {"cpu": "96", **capacity}, "conditions": [{"type": "Ready", "status": "True"}]},
        }
        self.conflicts = conflicts

    def get(self, kind: str, name: str, namespace: str = "") -> Any:
        if kind == "ConfigMap":
            return {"data": self.fleet}
        return copy.deepcopy(self.node) if name == "gpu-a" else None

    def list(self, kind: str, **selectors: str) -> Any:
        return [copy.deepcopy(self.node)], "1"

    def patch(self, kind: str, name: str, namespace: str, patch: Any, *, subresource: str = "") -> Any:
        if subresource:
            self.node["status"] |= patch["status"]
            return self.node
        if self.conflicts:
            self.conflicts -= 1
            raise ApiError(409, "Conflict", "changed")
        assert patch["metadata"]["resourceVersion"] == self.node["metadata"]["resourceVersion"]
        present = self.node["metadata"].setdefault("annotations", {})
        for key, value in patch["metadata"]["annotations"].items():
            present.pop(key, None) if value is None else present.update({key: value})
        return copy.deepcopy(self.node)


def fake(**options: Any) -> tuple[FakeApi, Api]:
    made = FakeApi(**options)
    return made, cast("Api", made)


def annotations(made: FakeApi) -> dict[int, GpuFault]:
    return faults.wanted(made.node["metadata"].get("annotations", {}))


def test_a_fault_is_an_annotation_until_healed() -> None:
    made, api = fake()
    control.fault(api, control.slot("gpu-a/1"), LOST)
    assert annotations(made) == {1: LOST}
    assert control.heal(api, control.slot("gpu-a/1"))
    assert annotations(made) == {}
    assert not control.heal(api, control.slot("gpu-a/1"))


def test_two_gpus_may_fail_at_once_but_one_only_once() -> None:
    made, api = fake()
    control.fault(api, control.slot("gpu-a/0"), LOST)
    control.fault(api, control.slot("gpu-a/1"), GpuFault(Fault.HOT))
    with pytest.raises(KailabError, match="has a fault already"):
        control.fault(api, control.slot("gpu-a/0"), GpuFault(Fault.ECC))
    assert annotations(made) == {0: LOST, 1: GpuFault(Fault.HOT)}
    assert control.heal_all(api) == [control.Slot("gpu-a", 0), control.Slot("gpu-a", 1)]


def test_somebody_elses_write_in_between_is_no_trouble() -> None:
    made, api = fake(conflicts=2)
    control.fault(api, control.slot("gpu-a/1"), LOST)
    assert annotations(made) == {1: LOST}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpu-a/2", "gpu-a has GPUs 0 to 1"),
        ("nowhere/0", "does not exist; nodes with GPUs: gpu-a"),
        ("gpu-a", "not NODE/INDEX"),
        ("gpu-a/-1", "not NODE/INDEX"),
        ("gpu-a/x", "not NODE/INDEX"),
        ("/1", "not NODE/INDEX"),
    ],
)
def test_a_gpu_that_does_not_exist_is_refused(text: str, words: str) -> None:
    made, api = fake()
    with pytest.raises(KailabError) as refused:
        control.fault(api, control.slot(text), LOST)
    assert words in str(refused.value)
    assert annotations(made) == {}


def test_a_simulated_nodes_status_follows() -> None:
    made, api = fake(simulated=True)
    control.fault(api, control.slot("gpu-a/1"), LOST)
    assert made.node["status"]["allocatable"] == {"nvidia.com/gpu": "1"}
    assert {one["type"]: one["status"] for one in made.node["status"]["conditions"]} == {
        "Ready": "True",
        "GpusHealthy": "False",
    }
    control.heal(api, control.slot("gpu-a/1"))
    assert made.node["status"]["allocatable"] == {"nvidia.com/gpu": "2"}
    assert made.node["status"]["conditions"][-1]["status"] == "True"


def test_an_applications_error_leaves_nothing_on_a_simulated_node() -> None:
    made, api = fake(simulated=True)
    application = GpuFault(Fault.XID, 31)
    for _ in range(2):
        control.fault(api, control.slot("gpu-a/1"), application)
    assert annotations(made) == {}
    with pytest.raises(KailabError, match="There is no GPU"):
        control.fault(api, control.slot("gpu-a/7"), application)
    made.node["metadata"]["annotations"][f"{faults.ANNOTATION}1"] = faults.to_text(application)  # of earlier versions
    control.fault(api, control.slot("gpu-a/1"), LOST)
    assert annotations(made) == {1: LOST}
    assert made.node["status"]["allocatable"] == {"nvidia.com/gpu": "1"}


def test_gpus_in_slices_can_fail_too() -> None:
    for simulated in (False, True):
        made, api = fake(simulated=simulated, spec=CUT)
        control.fault(api, control.slot("gpu-a/1"), LOST)  # the label nvidia.com/gpu.count says 1 here
        assert annotations(made) == {1: LOST}
        with pytest.raises(KailabError, match="has GPUs 0 to 1"):
            control.fault(api, control.slot("gpu-a/2"), LOST)


def test_a_simulated_nodes_slices_go_with_their_gpu() -> None:
    made, api = fake(simulated=True, spec=CUT)
    control.fault(api, control.slot("gpu-a/0"), LOST)
    assert made.node["status"]["allocatable"] == {"nvidia.com/gpu": "1", "nvidia.com/mig-3g.40gb": "0"}
    control.heal(api, control.slot("gpu-a/0"))
    assert made.node["status"]["allocatable"] == {"nvidia.com/gpu": "1", "nvidia.com/mig-3g.40gb": "2"}


def test_a_fault_heals_when_the_fleet_has_changed_meanwhile() -> None:
    made, api = fake()
    control.fault(api, control.slot("gpu-a/1"), LOST)
    made.fleet = {"gpu-a": json.dumps(NodeGpus("A100-80GB", 1).to_json())}
    assert control.heal_all(api) == [control.Slot("gpu-a", 1)]
    assert annotations(made) == {}


def test_a_node_whose_sharing_is_on_its_way_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world, api = fake()
    asleep = []

    def sleep(seconds: float) -> None:
        asleep.append(seconds)
        world.node["status"]["allocatable"] = {"cpu": "96", "nvidia.com/gpu": "2", "nvidia.com/gpu.shared": "0"}

    monkeypatch.setattr(control.time, "sleep", sleep)
    world.node["status"]["allocatable"] = {"cpu": "96", "nvidia.com/gpu.shared": "8"}
    assert control.wait_as_described(api)
    assert len(asleep) == 1


def test_a_broken_gpu_is_not_waited_for_and_a_node_that_stays_otherwise_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, api = fake()
    world.node["status"]["allocatable"] = {"nvidia.com/gpu": "1"}
    monkeypatch.setattr(control.time, "sleep", lambda _: None)
    assert not control.wait_as_described(api, seconds=0)
    control.fault(api, control.slot("gpu-a/1"), LOST)
    assert control.wait_as_described(api, seconds=0)
