"""Simulated nodes' GPUs in use: by zone and fleet, whole or in slices; and what `kailab gpu status` makes of it."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from cluster.gpu import scale
from cluster.gpu.fleet import Fleet
from cluster.gpu.use import Group, grouped
from labs import gpu_screens

RENTED = {"name": "rented", "model": "H100-80GB", "count": 8, "simulated": {"nodes": 2, "zones": 1}}
SPOT = {"name": "spot", "model": "L4", "count": 4, "simulated": {"nodes": 1, "zones": 1}}


def nodes(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    return scale.nodes(Fleet.model_validate({"nodes": entries}))


def pod(resource: str, count: int, phase: str = "Running") -> dict[str, Any]:
    limits = {resource: str(count), "memory": "1Gi"}
    return {"spec": {"containers": [{"resources": {"limits": limits}}, {}]}, "status": {"phase": phase}}


def drawn(groups: list[Group]) -> list[str]:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(gpu_screens.fleet(groups))
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


def test_fleets_in_one_zone_are_told_apart() -> None:
    on = {
        "rented-eu-west-0001": [pod("nvidia.com/gpu", 8), pod("nvidia.com/gpu", 1, "Succeeded")],
        "spot-eu-west-0001": [pod("nvidia.com/gpu", 1), pod("nvidia.com/gpu", 1)],
    }
    found = grouped(nodes(RENTED, SPOT), on)
    assert [(one.zone, one.fleet, one.nodes) for one in found] == [
        ("eu-west-a", "rented", ((8, 8), (0, 8))),
        ("eu-west-a", "spot", ((2, 4),)),
    ]
    assert drawn(found)[1:] == [
        "eu-west-a rented NVIDIA-H100-80GB-HBM3 2 nodes 8/16 GPUs in use █·",
        "spot NVIDIA-L4 1 node 2/4 GPUs in use ▄",
    ]
    page = gpu_screens.as_html([], found)
    assert page.index("rented") < page.index("8/16 GPUs in use") < page.index("spot") < page.index("2/4 GPUs in use")


def test_slices_and_turns_count_as_what_pods_ask_for() -> None:
    sharing = {
        "version": "v1", "sharing": {"timeSlicing": {"resources": [{"name": "nvidia.com/gpu", "replicas": 4}]}}
    }  # fmt: skip
    cut = {**RENTED, "count": 2, "mig": {0: ["3g.40gb", "3g.40gb"]}, "sharing": sharing}
    pods = [pod("nvidia.com/mig-3g.40gb", 1), pod("nvidia.com/gpu", 3)]
    found = grouped(nodes(cut), {"rented-eu-west-0001": pods})
    assert found[0].nodes == ((4, 6), (0, 6))
    assert found[0].resources == {"gpu": (3, 8), "mig-3g.40gb": (1, 4)}
    assert "3/8 GPUs in use, 1/4 mig-3g.40gb in use" in drawn(found)[1]


def device(*holders: dict[str, str], **more: Any) -> dict[str, Any]:
    """As an agent tells of a GPU or a slice."""
    return {"uuid": "X", "memory_used": 0, "memory_total": 10, "utilization": 0, "held_by": list(holders), **more}


def holder(pod: str, **through: str) -> dict[str, str]:
    return {"namespace": "n", "pod": pod, "container": "c", "id": "X", **(through or {"resource": "nvidia.com/gpu"})}


def status(*gpus: dict[str, Any]) -> dict[str, Any]:
    fixed = {"model": "NVIDIA A100", "temperature": 30, "power": 60.0, "power_limit": 400}
    return {"node": "gpu-a", "replicas": 1, "problems": [], "gpus": [{**fixed, **gpu} for gpu in gpus]}


def cut(*holders: dict[str, str], replicas: int = 1) -> dict[str, Any]:
    return device(*holders, profile="1g.10gb", replicas=replicas)


def marks(found: dict[str, Any]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(gpu_screens.picture([found]))
    return console.export_text().splitlines()[0].split("  ")[1]


def test_each_slice_has_its_own_mark() -> None:
    """One of a claim beside one of the device plugin, one shared by two of three, a free one."""
    slices = [cut(holder("a", claim="n/c")), cut(holder("b")), cut(holder("c"), holder("d"), replicas=3), cut()]
    assert marks(status(device(index=0, fault="", mig=slices))) == "◆■■■··"


def test_a_gpus_fault_is_that_of_all_its_slices() -> None:
    found = status(device(index=0, fault="Xid 79", mig=[cut(holder("a")), cut()]))
    assert marks(found) == "✗✗"
    page = gpu_screens.as_html([found])
    assert page.count("Xid 79") == 4  # each in words and in its title


def test_a_notebook_sees_one_box_for_each_slice() -> None:
    page = gpu_screens.as_html([status(device(index=0, fault="", mig=[cut(holder("a")), cut()]))])
    assert page.count('class="gpu"') == 2
    assert "NVIDIA A100 MIG 1g.10gb" in page
    assert "n/a" in page
