"""GPUs in MIG slices on the real cluster: laid by the fleet file, handed out, seen inside, measured, broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkers.notebook.feed import Moment
from checkers.notebook.scene import scene
from cluster.api import Api, Object
from cluster.gpu import FLEET_CONFIG_MAP, control, devices, fleet
from cluster.gpu.addon import NAMESPACE, manifests
from cluster.gpu.node.readings import Fault, GpuFault
from cluster.workspace import Workspace
from tests.system.conftest import eventually
from tests.system.test_gpus import BUSYBOX, allocatable, gpu_claim, gpu_pod, inside, running, samples, status

pytestmark = pytest.mark.cluster
SMALL, LARGE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb"
CUT = """
nodes:
  - {name: gpu-a, model: A100-80GB, count: 4, nvlink: [[0, 1], [2, 3]], mig: {0: [3g.40gb, 1g.10gb, 1g.10gb]}}
  - {name: gpu-b, model: T4, count: 2}
"""


def lay(api: Api, file: Path) -> None:
    """Make the cluster's GPUs those of a fleet file, as `kailab up` does."""
    items = {
        item["kind"]: item for item in manifests(file) if item["metadata"]["name"] in (FLEET_CONFIG_MAP, "gpu-agent")
    }
    fleet_map, agents = items["ConfigMap"], items["DaemonSet"]
    api.patch("ConfigMap", FLEET_CONFIG_MAP, NAMESPACE, {"data": fleet_map["data"]})
    note = agents["spec"]["template"]["metadata"]["annotations"]
    api.patch("DaemonSet", "gpu-agent", NAMESPACE, {"spec": {"template": {"metadata": {"annotations": note}}}})


@pytest.fixture
def slices(api: Api, tmp_path: Path) -> Iterator[tuple[devices.MigDevice, ...]]:
    """GPU 0 of gpu-a in three slices; whole again afterwards. The kubelet keeps the slices' resources, at 0."""
    file = tmp_path / "fleet.yaml"
    file.write_text(CUT)
    lay(api, file)
    try:
        eventually(lambda: [allocatable(api, "gpu-a", one) for one in ("nvidia.com/gpu", SMALL, LARGE)] == [3, 2, 1])
        yield devices.gpus("gpu-a", fleet.read(file).nodes[0].gpus())[0].mig
    finally:
        lay(api, fleet.PATH)
        eventually(lambda: [allocatable(api, "gpu-a", one) for one in ("nvidia.com/gpu", SMALL, LARGE)] == [4, 0, 0])


def mig_pod(name: str, resource: str, **options: Any) -> Object:
    pod = gpu_pod(name, gpus=0, **options)
    pod["spec"]["containers"][0]["resources"] = {"limits": {resource: "1"}}
    return pod


def listed(workspace: Workspace, namespace: str, pod: str) -> list[tuple[str, str]]:
    """Profile and UUID of each slice that `nvidia-smi -L` shows in a pod."""
    return re.findall(r"MIG (\S+) +Device +\d+: \(UUID: (\S+)\)", inside(workspace, namespace, pod, "nvidia-smi", "-L"))


def test_a_gpu_in_slices_is_handed_out_slice_by_slice(
    api: Api, namespace: str, workspace: Workspace, slices: tuple[devices.MigDevice, ...]
) -> None:
    large, *small = (one.uuid for one in slices)
    labels = (api.get("Node", "gpu-a") or {})["metadata"]["labels"]
    assert (labels["nvidia.com/mig.strategy"], labels[f"{SMALL}.count"], labels["nvidia.com/gpu.count"]) == (
        "mixed", "2", "3",
    )  # fmt: skip
    api.create(mig_pod("small", SMALL, GPU_MEMORY="4000", STEP_SECONDS="0.2"), namespace)
    claim = gpu_claim("large", 'device.attributes["gpu.nvidia.com"].profile == "3g.40gb"')
    claim["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] = "mig.nvidia.com"
    api.create(claim, namespace)
    api.create(gpu_pod("large", claim="large", image=BUSYBOX), namespace)
    pods = [running(api, namespace, name) for name in ("small", "large")]
    (seen,) = listed(workspace, namespace, "small")
    assert seen[0] == "1g.10gb"
    assert seen[1] in small
    assert f"NVIDIA_VISIBLE_DEVICES={seen[1]}" in inside(workspace, namespace, "small", "env").splitlines()
    assert listed(workspace, namespace, "large") == [("3g.40gb", large)]
    eventually(lambda: [allocatable(api, "gpu-a", one) for one in ("nvidia.com/gpu", SMALL, LARGE)] == [3, 2, 0])

    def measured() -> list[tuple[str, str, float]]:
        found = samples(api, "gpu-a", "DCGM_FI_DEV_FB_USED")
        return [(one["GPU_I_PROFILE"], one["gpu"], used) for one, used in found if one["pod"] == "small"]

    eventually(lambda: measured() == [("1g.10gb", "0", 4000.0)])
    moment = Moment({"Node": ((api.get("Node", "gpu-a") or {}),), "Pod": tuple(pods)}, control.statuses(api))
    drawn = {slot["name"]: (slot["word"], slot["who"]) for slot in scene(moment, namespace)["nodes"][0]["gpus"]}
    assert drawn["GPU 0 slice 1 (3g.40gb)"] == ("claimed by", ["large"])
    assert sorted(drawn[f"GPU 0 slice {number} (1g.10gb)"] for number in (2, 3)) == [
        ("free", []), ("held by", ["small"]),
    ]  # fmt: skip
    control.fault(api, control.Slot("gpu-a", 0), GpuFault(Fault.ECC))
    eventually(lambda: allocatable(api, "gpu-a", SMALL) == 0)
    eventually(lambda: (api.get("Pod", "small", namespace) or {})["status"]["phase"] == "Failed")
    assert all(gpu["fault"] == "" for gpu in status(api, "gpu-a")[1:])
    control.heal(api, control.Slot("gpu-a", 0))
    eventually(lambda: allocatable(api, "gpu-a", SMALL) == 2)
    for name in ("small", "large"):
        api.delete("Pod", name, namespace, grace=0)
    eventually(
        lambda: not any(gpu["held_by"] or any(cut["held_by"] for cut in gpu["mig"]) for gpu in status(api, "gpu-a"))
    )
