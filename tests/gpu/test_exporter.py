"""Metrics, status and node condition: one moment told three ways, always the same story."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.gpu import faults
from cluster.gpu.devices import Gpu, NodeGpus, gpus
from cluster.gpu.node.exporter import render
from cluster.gpu.node.nodeobject import condition
from cluster.gpu.node.podresources import Holder
from cluster.gpu.node.readings import Fault, GpuFault, Reading
from cluster.gpu.node.view import Moment, status, with_uuids

TWO = gpus("gpu-b", NodeGpus("T4", 2))
LOST = GpuFault(Fault.LOST)


def reading(device: str, total: int, fault: GpuFault | None = None) -> Reading:
    return Reading(device, 1000, total, 40, 10, 55, 33.25, 123456, 1590, 5001, 79 if fault else 0, fault=fault)


def moment(found: tuple[Gpu, ...] = TWO, *holders: Holder, replicas: int = 1, lost: str = "") -> Moment:
    readings = {
        device.uuid: reading(device.uuid, device.memory, LOST if device.uuid == lost else None)
        for gpu in found
        for device in gpu.devices
    }
    health = {lost: faults.describe(LOST)} if lost else {}
    return Moment("gpu-b", found, readings, holders, health, {"nvidia.com/gpu": replicas})


def samples(made: Moment, name: str) -> list[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(render(made).decode())
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name]


def test_a_series_names_the_gpu_and_the_pod_that_holds_it() -> None:
    holder = Holder("team-a", "trainer", "main", (TWO[1].uuid,), "nvidia.com/gpu")
    found = {labels["gpu"]: (labels, value) for labels, value in samples(moment(TWO, holder), "DCGM_FI_DEV_GPU_UTIL")}
    labels, value = found["1"]
    assert value == 40
    assert labels == {
        "gpu": "1", "UUID": TWO[1].uuid, "pci_bus_id": TWO[1].pci, "device": "nvidia1", "modelName": "Tesla T4",
        "Hostname": "gpu-b", "DCGM_FI_DRIVER_VERSION": labels["DCGM_FI_DRIVER_VERSION"],
        "container": "main", "namespace": "team-a", "pod": "trainer",
    }  # fmt: skip
    assert (found["0"][0]["pod"], found["0"][0]["namespace"]) == ("", "")


def test_a_shared_gpu_has_a_series_for_each_of_its_pods() -> None:
    holders = [Holder("n", f"pod-{i}", "main", (f"{TWO[0].uuid}::{i}",), "nvidia.com/gpu") for i in range(3)]
    found = [labels for labels, _ in samples(moment(TWO, *holders, replicas=4), "DCGM_FI_DEV_FB_USED")]
    shared = {labels["vgpu"]: labels["pod"] for labels in found if labels["gpu"] == "0"}
    assert shared == {"0": "pod-0", "1": "pod-1", "2": "pod-2"}


def test_slices_have_their_own_series_without_a_utilisation() -> None:
    cut = gpus("gpu-a", NodeGpus("A100-80GB", 1, mig={0: ("3g.40gb", "1g.10gb")}))
    made = moment(cut)
    assert samples(made, "DCGM_FI_DEV_GPU_UTIL") == []
    found = samples(made, "DCGM_FI_PROF_GR_ENGINE_ACTIVE")
    assert [(labels["GPU_I_PROFILE"], labels["GPU_I_ID"], value) for labels, value in found] == [
        ("3g.40gb", "1", 0.4),
        ("1g.10gb", "2", 0.4),
    ]


def test_a_lost_gpu_is_known_by_its_last_xid_alone() -> None:
    made = moment(lost=TWO[0].uuid)
    assert {labels["gpu"]: value for labels, value in samples(made, "DCGM_FI_DEV_XID_ERRORS")} == {"0": 79, "1": 0}
    assert [labels["gpu"] for labels, _ in samples(made, "DCGM_FI_DEV_GPU_TEMP")] == ["1"]


def test_energy_is_a_counter_under_its_own_name() -> None:
    text = render(moment()).decode()
    assert "# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter" in text
    assert text.count("\nDCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{") == 2


def test_status_says_who_holds_what_and_what_is_wrong() -> None:
    holder = Holder("team-a", "trainer", "main", (TWO[1].uuid,), claim="team-a/one-gpu", driver="gpu.nvidia.com")
    found = status(moment(TWO, holder, lost=TWO[0].uuid))
    assert [gpu["uuid"] for gpu in found["gpus"]] == [gpu.uuid for gpu in TWO]
    assert found["gpus"][1]["held_by"] == [
        {"namespace": "team-a", "pod": "trainer", "container": "main", "id": TWO[1].uuid, "claim": "team-a/one-gpu"}
    ]
    assert found["gpus"][0]["fault"] == "Xid 79 (GPU has fallen off the bus)"


def test_devices_of_other_drivers_are_not_ours() -> None:
    ours = Holder("n", "a", "c", ("gpu-0",), claim="n/x", driver="gpu.nvidia.com")
    other = Holder("n", "b", "c", ("nic-0",), claim="n/y", driver="nic.example.com")
    assert with_uuids([ours, other], {"gpu-0": TWO[0].uuid}) == (
        Holder("n", "a", "c", (TWO[0].uuid,), claim="n/x", driver="gpu.nvidia.com"),
    )


def test_the_condition_names_the_gpu_and_its_trouble() -> None:
    bad = condition(TWO, {TWO[1].uuid: faults.describe(GpuFault(Fault.XID, 48))})
    assert (bad["status"], bad["reason"]) == ("False", "GpuFault")
    assert bad["message"] == f"GPU 1 ({TWO[1].uuid}): Xid 48 (double-bit ECC error)"
    assert condition(TWO, {})["status"] == "True"


@pytest.mark.parametrize("fault", [GpuFault(Fault.XID, 79), GpuFault(Fault.ECC), LOST, GpuFault(Fault.HOT)])
def test_a_fault_survives_being_an_annotation(fault: GpuFault) -> None:
    assert faults.wanted({f"{faults.ANNOTATION}3": faults.to_text(fault), "other": "x"}) == {3: fault}


@pytest.mark.parametrize("text", ["", "xid", "xid=0", "xid=99999", "xid=-1", "lost=3", "fire", "xid=a"])
def test_annotations_that_mean_nothing_break_nothing(text: str) -> None:
    assert faults.wanted({f"{faults.ANNOTATION}0": text, f"{faults.ANNOTATION}x": "lost"}) == {}
