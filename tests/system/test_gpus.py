"""Simulated GPUs on the real cluster: one identity everywhere, sharing, claims, faults and restarts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster import tools
from cluster.api import Api, Object
from cluster.engine import Engine
from cluster.errors import KailabError
from cluster.gpu import control, devices, faults, fleet
from cluster.gpu.addon import NAMESPACE
from cluster.gpu.node.readings import Fault, GpuFault
from cluster.run import run
from cluster.topology import NODES, container_name
from cluster.workspace import Workspace
from labs.apps import GPU_APP
from tests.system.conftest import eventually

pytestmark = pytest.mark.cluster
GPUS = {entry.name: devices.gpus(entry.name, entry.gpus()) for entry in fleet.read().nodes}
BUSYBOX = "docker.io/library/busybox:1.36"
CONFIG = """
version: v1
sharing:
  timeSlicing:
    failRequestsGreaterThanOne: true
    resources: [{name: nvidia.com/gpu, replicas: 4}]
"""


@pytest.fixture(autouse=True)
def healthy(api: Api) -> Iterator[None]:
    """Every test begins and ends with GPUs that nothing is wrong with and nobody shares."""
    control.heal_all(api)
    yield
    control.heal_all(api)
    api.patch("Node", "gpu-b", "", {"metadata": {"labels": {"nvidia.com/device-plugin.config": None}}})
    eventually(lambda: [allocatable(api, node) for node in ("gpu-a", "gpu-b")] == [4, 2])


def gpu_pod(name: str, *, node: str = "", gpus: int = 1, image: str = "", claim: str = "", **env: str) -> Object:
    """A training loop (or a shell that sleeps) with GPUs, by the device plugin or by a claim."""
    container: dict[str, Any] = {
        "name": "main", "image": image or GPU_APP.name, "imagePullPolicy": "IfNotPresent",
        "env": [{"name": key, "value": value} for key, value in env.items()],
    }  # fmt: skip
    if image:
        container["command"] = ["sleep", "3600"]
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": 1, "restartPolicy": "Never", "containers": [container],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    }  # fmt: skip
    if claim:
        container["resources"] = {"claims": [{"name": "gpu"}]}
        spec["resourceClaims"] = [{"name": "gpu", "resourceClaimName": claim}]
    elif gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def gpu_claim(name: str, expression: str) -> Object:
    request = {"deviceClassName": "gpu.nvidia.com", "selectors": [{"cel": {"expression": expression}}]}
    return {
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": request}]}},
    }  # fmt: skip


def running(api: Api, namespace: str, name: str, seconds: float = 60) -> Object:
    def look() -> Object:
        found = api.get("Pod", name, namespace) or {}
        assert found.get("status", {}).get("phase") == "Running", found.get("status")
        return found

    return eventually(look, seconds)


def allocatable(api: Api, node: str, resource: str = "nvidia.com/gpu") -> int:
    return int((api.get("Node", node) or {})["status"]["allocatable"].get(resource, 0))


def kubelet_is_back(api: Api, namespace: str, node: str) -> None:
    """Wait for a node whose kubelet was restarted.

    What the node says of itself is still from before. And a pod that is bound to it before the kubelet has heard of
    all its pods may be refused: until then the kubelet takes devices of deleted pods for held
    (UpdateAllocatedDevices in pkg/kubelet/cm/devicemanager, v1.37). A pod that runs shows that it has.
    """
    api.create(gpu_pod("witness", node=node, gpus=0, image=BUSYBOX), namespace)
    running(api, namespace, "witness", seconds=120)
    eventually(lambda: allocatable(api, node) == len(GPUS[node]))


def inside(workspace: Workspace, namespace: str, pod: str, *command: str, container: str = "main") -> str:
    kubectl: list[str | Path] = [tools.find_kubectl(workspace) or "kubectl", "--kubeconfig", workspace.kubeconfig]
    return run([*kubectl, "-n", namespace, "exec", pod, "-c", container, "--", *command], check=False).stdout


def agent(api: Api, node: str) -> str:
    def look() -> str:
        names = [pod["metadata"]["name"] for pod in control.agents(api) if pod["spec"]["nodeName"] == node]
        return names[0] if len(names) == 1 else ""

    return eventually(look)


def status(api: Api, node: str) -> list[dict[str, Any]]:
    return [gpu for found in control.statuses(api) if found["node"] == node for gpu in found["gpus"]]


def samples(api: Api, node: str, metric: str) -> list[tuple[dict[str, str], float]]:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{agent(api, node)}:9400/proxy/metrics"
    text = api.request("GET", path).data.decode()
    families = text_string_to_metric_families(text)
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == metric]


def test_one_identity_from_the_kubelet_to_the_fault(api: Api, namespace: str, workspace: Workspace) -> None:
    api.create(gpu_pod("trainer", node="gpu-a", GPU_MEMORY="4000", STEP_SECONDS="0.2"), namespace)
    running(api, namespace, "trainer")
    visible = re.findall(r"NVIDIA_VISIBLE_DEVICES=(\S+)", inside(workspace, namespace, "trainer", "env"))
    smi = re.findall(r"UUID: (\S+)\)", inside(workspace, namespace, "trainer", "nvidia-smi", "-L"))

    def held() -> list[dict[str, Any]]:  # as the kubelet's podresources tell the agent
        return [gpu for gpu in status(api, "gpu-a") if any(one["pod"] == "trainer" for one in gpu["held_by"])]

    mine = eventually(held)
    busy = eventually(
        lambda: [
            labels
            for labels, value in samples(api, "gpu-a", "DCGM_FI_DEV_GPU_UTIL")
            if labels["pod"] == "trainer" and labels["namespace"] == namespace and value > 80
        ]
    )
    assert visible == smi == [mine[0]["uuid"]] == [busy[0]["UUID"]]
    assert mine[0]["uuid"] in {gpu.uuid for gpu in GPUS["gpu-a"]}
    slices, _ = api.list("ResourceSlice", fieldSelector="spec.nodeName=gpu-a")
    published = {one["attributes"]["uuid"]["string"]: one for item in slices for one in item["spec"]["devices"]}
    assert published.keys() == {gpu.uuid for gpu in GPUS["gpu-a"]}
    control.fault(api, control.Slot("gpu-a", mine[0]["index"]), GpuFault(Fault.LOST))
    failed = eventually(lambda: [g["uuid"] for g in status(api, "gpu-a") if g["fault"]])
    assert failed == visible


def test_only_the_holder_sees_a_gpu(api: Api, namespace: str, workspace: Workspace) -> None:
    for name, gpus in (("one", 1), ("two", 1), ("none", 0)):
        api.create(gpu_pod(name, node="gpu-b", gpus=gpus, image=BUSYBOX), namespace)
    seen = {}
    for name in ("one", "two", "none"):
        running(api, namespace, name)
        seen[name] = re.findall(r"UUID: (\S+)\)", inside(workspace, namespace, name, "nvidia-smi", "-L"))
    assert seen["none"] == []
    assert sorted(seen["one"] + seen["two"]) == sorted(gpu.uuid for gpu in GPUS["gpu-b"])
    assert "NVIDIA" not in inside(workspace, namespace, "none", "env")


def test_shared_gpus_slow_each_other_down_and_one_pod_takes_one(api: Api, namespace: str) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"four": CONFIG},
              "metadata": {"name": "device-plugin-configs", "namespace": NAMESPACE}}  # fmt: skip
    api.apply(config)
    api.patch("Node", "gpu-b", "", {"metadata": {"labels": {"nvidia.com/device-plugin.config": "four"}}})
    eventually(lambda: allocatable(api, "gpu-b") == 8)
    eventually(
        lambda: (api.get("Node", "gpu-b") or {})["metadata"]["labels"]["nvidia.com/gpu.product"] == "Tesla-T4-SHARED"
    )
    for number in range(4):
        api.create(gpu_pod(f"tenant-{number}", node="gpu-b", GPU_MEMORY="1000", STEP_SECONDS="0.2"), namespace)
    for number in range(4):
        running(api, namespace, f"tenant-{number}")

    def step() -> float:
        answer = api.proxy("GET", "tenant-0", namespace, 8000, "status")
        return float(answer["last_step_seconds"])

    # Spread over two GPUs: two pods each, and so half the speed.
    eventually(lambda: [len(gpu["held_by"]) for gpu in status(api, "gpu-b")] == [2, 2])
    assert eventually(lambda: step() > 0.3 and step()) == pytest.approx(0.4, abs=0.1)
    replicas = {(labels["pod"], labels["vgpu"]) for labels, _ in samples(api, "gpu-b", "DCGM_FI_DEV_FB_USED")}
    assert len(replicas) == 4
    api.create(gpu_pod("greedy", node="gpu-b", gpus=2), namespace)
    refused = eventually(
        lambda: (
            (api.get("Pod", "greedy", namespace) or {})["status"].get("phase") == "Failed"
            and (api.get("Pod", "greedy", namespace) or {})["status"]
        )
    )
    assert refused["reason"] == "UnexpectedAdmissionError"
    assert "maximum request size for shared resources is 1; found 2" in refused["message"]
    api.delete("ConfigMap", "device-plugin-configs", NAMESPACE)


def test_a_claim_gets_the_same_kind_of_gpu_and_the_plugin_leaves_it_alone(
    api: Api, namespace: str, workspace: Workspace
) -> None:
    large = 'device.capacity["gpu.nvidia.com"].memory.compareTo(quantity("40Gi")) >= 0'
    api.create(gpu_claim("large", large), namespace)
    api.create(gpu_pod("claimer", claim="large", image=BUSYBOX), namespace)
    assert running(api, namespace, "claimer")["spec"]["nodeName"] == "gpu-a"
    smi = re.findall(r"GPU 0: (.*) \(UUID: (\S+)\)", inside(workspace, namespace, "claimer", "nvidia-smi", "-L"))
    assert smi[0][0] == "NVIDIA A100-SXM4-80GB"
    eventually(lambda: allocatable(api, "gpu-a") == 3)
    found = api.get("ResourceClaim", "large", namespace) or {}
    device = found["status"]["allocation"]["devices"]["results"][0]["device"]
    assert smi[0][1] == GPUS["gpu-a"][int(device.removeprefix("gpu-"))].uuid
    api.create(gpu_pod("plain", node="gpu-a", gpus=3, image=BUSYBOX), namespace)
    running(api, namespace, "plain")
    assert smi[0][1] not in inside(workspace, namespace, "plain", "nvidia-smi", "-L")

    def taints() -> list[bool]:
        slices, _ = api.list("ResourceSlice", fieldSelector="spec.nodeName=gpu-a")
        return [bool(one.get("taints")) for one in slices[0]["spec"]["devices"]]

    eventually(lambda: sum(taints()) == 3)
    api.delete("Pod", "plain", namespace)
    eventually(lambda: not any(taints()))
    api.delete("Pod", "claimer", namespace)
    eventually(lambda: allocatable(api, "gpu-a") == 4)


def test_containers_see_what_their_requests_of_a_claim_got(api: Api, namespace: str, workspace: Workspace) -> None:
    claim = gpu_claim("both", 'device.attributes["gpu.nvidia.com"].productName == "NVIDIA A100-SXM4-80GB"')
    (first,) = claim["spec"]["devices"]["requests"]
    first["exactly"]["count"] = 2
    second = {"name": "other", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
    claim["spec"]["devices"] |= {
        "requests": [first, second],
        "constraints": [{"requests": ["gpu", "other"], "matchAttribute": "gpu.nvidia.com/productName"}],
    }
    api.create(claim, namespace)
    pod = gpu_pod("sharers", claim="both", image=BUSYBOX)
    (main,) = pod["spec"]["containers"]
    asked: dict[str, list[Object]] = {
        "gpu": [{"name": "gpu", "request": "gpu"}], "other": [{"name": "gpu", "request": "other"}],
        "all": [{"name": "gpu"}], "none": [],
    }  # fmt: skip
    pod["spec"]["containers"] = [main | {"name": name, "resources": {"claims": one}} for name, one in asked.items()]
    api.create(pod, namespace)
    running(api, namespace, "sharers")

    def seen(container: str) -> set[str]:
        said = inside(workspace, namespace, "sharers", "sh", "-c", "nvidia-smi -L; echo said", container=container)
        assert said.endswith("said\n")
        return set(re.findall(r"A100.*UUID: (\S+)\)", said))

    parts = {name: seen(name) for name in asked}
    assert [len(parts[name]) for name in ("gpu", "other", "none")] == [2, 1, 0]
    assert not parts["gpu"] & parts["other"]
    assert parts["all"] == parts["gpu"] | parts["other"]
    api.delete("Pod", "sharers", namespace)
    eventually(lambda: allocatable(api, "gpu-a") == 4)


def test_a_claim_that_no_device_satisfies_waits_and_harms_nobody(api: Api, namespace: str) -> None:
    api.create(gpu_claim("huge", 'device.attributes["gpu.nvidia.com"].productName == "NVIDIA B200"'), namespace)
    api.create(gpu_pod("dreamer", claim="huge", image=BUSYBOX), namespace)

    def waits() -> bool:
        conditions = (api.get("Pod", "dreamer", namespace) or {})["status"].get("conditions", [])
        return any("cannot allocate all claims" in condition.get("message", "") for condition in conditions)

    eventually(waits)


@pytest.mark.parametrize("fault", [GpuFault(Fault.XID, 79), GpuFault(Fault.ECC), GpuFault(Fault.HOT)])
def test_a_fault_shows_everywhere_and_heals(api: Api, namespace: str, fault: GpuFault) -> None:
    api.create(gpu_pod("victim", node="gpu-b", gpus=2, GPU_MEMORY="500", STEP_SECONDS="0.1"), namespace)
    running(api, namespace, "victim")
    place = control.Slot("gpu-b", 1)
    control.fault(api, place, fault)
    node = control.wait_effect(api, place, broken=True)
    assert node is not None
    eventually(lambda: allocatable(api, "gpu-b") == 1)
    condition = next(
        c for c in (api.get("Node", "gpu-b") or {})["status"]["conditions"] if c["type"] == faults.CONDITION
    )
    assert (condition["status"], condition["reason"]) == ("False", "GpuFault")
    if fault.kind is Fault.HOT:
        eventually(lambda: api.proxy("GET", "victim", namespace, 8000, "status")["last_step_seconds"] > 0.18)
    else:
        eventually(lambda: (api.get("Pod", "victim", namespace) or {})["status"]["phase"] == "Failed")
        assert "failed: Xid" in api.logs("victim", namespace)
        xids = {labels["gpu"]: value for labels, value in samples(api, "gpu-b", "DCGM_FI_DEV_XID_ERRORS")}
        assert xids["1"] == (48 if fault.kind is Fault.ECC else 79)
    assert control.heal(api, place)
    assert control.wait_effect(api, place, broken=False) is not None
    eventually(lambda: allocatable(api, "gpu-b") == 2)


def test_an_applications_error_kills_the_pod_and_not_the_gpu(api: Api, namespace: str) -> None:
    api.create(gpu_pod("victim", node="gpu-b", gpus=2), namespace)
    running(api, namespace, "victim")
    eventually(lambda: api.proxy("GET", "victim", namespace, 8000, "status")["steps"])  # it must be at work to err
    control.fault(api, control.Slot("gpu-b", 0), GpuFault(Fault.XID, 31))
    eventually(lambda: (api.get("Pod", "victim", namespace) or {})["status"]["phase"] == "Failed")
    assert allocatable(api, "gpu-b") == 2
    annotations = (api.get("Node", "gpu-b") or {})["metadata"].get("annotations", {})
    assert not any(name.startswith(faults.ANNOTATION) for name in annotations)


def test_a_gpu_that_is_not_there_cannot_fail(api: Api) -> None:
    for text in ("gpu-a/9", "cpu/0", "nowhere/0"):
        with pytest.raises(KailabError, match="There is no GPU"):
            control.fault(api, control.slot(text), GpuFault(Fault.LOST))


def test_pods_keep_their_gpus_while_the_agent_is_replaced(api: Api, namespace: str, workspace: Workspace) -> None:
    api.create(gpu_pod("steady", node="gpu-b", GPU_MEMORY="2500", STEP_SECONDS="0.2"), namespace)
    running(api, namespace, "steady")
    before = inside(workspace, namespace, "steady", "nvidia-smi", "-L")
    old = agent(api, "gpu-b")
    api.delete("Pod", old, NAMESPACE, grace=0)
    eventually(lambda: agent(api, "gpu-b") != old)
    eventually(lambda: allocatable(api, "gpu-b") == 2)

    def holds() -> bool:
        return [gpu["memory_used"] for gpu in status(api, "gpu-b") if gpu["held_by"]] == [2500]

    eventually(holds)
    assert inside(workspace, namespace, "steady", "nvidia-smi", "-L") == before
    pod = api.get("Pod", "steady", namespace) or {}
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    steps = api.proxy("GET", "steady", namespace, 8000, "status")["steps"]
    eventually(lambda: api.proxy("GET", "steady", namespace, 8000, "status")["steps"] > steps)
    api.create(gpu_pod("second", node="gpu-b", image=BUSYBOX), namespace)
    running(api, namespace, "second")
    assert [found["problems"] for found in control.statuses(api) if found["node"] == "gpu-b"] == [[]]


def test_a_restarted_kubelet_gets_its_plugin_back(
    api: Api, namespace: str, engine: Engine, workspace: Workspace
) -> None:
    api.create(gpu_pod("steady", node="gpu-b", image=BUSYBOX), namespace)
    running(api, namespace, "steady")
    before = inside(workspace, namespace, "steady", "nvidia-smi", "-L")
    node = next(node for node in NODES if node.name == "gpu-b")
    container = container_name(workspace.cluster_name, node)
    engine.run("exec", container, "systemctl", "restart", "kubelet")
    kubelet_is_back(api, namespace, "gpu-b")
    api.create(gpu_pod("second", node="gpu-b", image=BUSYBOX), namespace)
    running(api, namespace, "second")
    after = inside(workspace, namespace, "second", "nvidia-smi", "-L")
    assert before
    assert after
    assert before != after
    assert eventually(lambda: inside(workspace, namespace, "steady", "nvidia-smi", "-L")) == before


def test_a_stopped_node_comes_back_with_its_gpus(
    api: Api, namespace: str, engine: Engine, workspace: Workspace
) -> None:
    node = next(node for node in NODES if node.name == "gpu-b")
    container = container_name(workspace.cluster_name, node)
    engine.run("restart", "--time", "1", container)
    kubelet_is_back(api, namespace, "gpu-b")
    api.create(gpu_pod("after", node="gpu-b", gpus=2, image=BUSYBOX), namespace)

    def sees() -> list[str]:
        return re.findall(r"UUID: (\S+)\)", inside(workspace, namespace, "after", "nvidia-smi", "-L"))

    found = eventually(lambda: len(sees()) == 2 and sees(), seconds=120)
    assert sorted(found) == sorted(gpu.uuid for gpu in GPUS["gpu-b"])


def test_a_mistaken_sharing_config_is_said_and_changes_nothing(api: Api) -> None:
    api.patch("Node", "gpu-b", "", {"metadata": {"labels": {"nvidia.com/device-plugin.config": "missing"}}})

    def told() -> bool:
        return any("missing" in text for found in control.statuses(api) for text in found["problems"])

    eventually(told)
    assert allocatable(api, "gpu-b") == 2
