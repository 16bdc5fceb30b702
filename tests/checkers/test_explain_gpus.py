"""`kailab explain` on pods that want GPUs: asked, free, tainted, wrong model, shared limit, claim unallocated."""

from __future__ import annotations

from typing import Any

from checkers.explain import Facts, explain
from checkers.explain_gpus import DEVICE_TAINTS, together
from cluster.gpu.devices import NodeGpus, gpus
from cluster.gpu.faults import CONDITION
from cluster.gpu.node.slices import HELD_TAINT, UNHEALTHY_TAINT, devices, resource_slices

A100S = gpus("gpu-a", NodeGpus("A100-80GB", 4))
READY = {"type": "Ready", "status": "True"}


def node(name: str, free: int, product: str, *conditions: dict[str, str], taint: bool = True) -> dict[str, Any]:
    taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}] if taint else []
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": product}},
        "spec": {"taints": taints},
        "status": {"allocatable": {"nvidia.com/gpu": str(free), "pods": "110"}, "conditions": [READY, *conditions]},
    }


def pod(gpus_: int = 1, *, tolerates: bool = True, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "resources": {"limits": {"nvidia.com/gpu": str(gpus_)}} if gpus_ else {}}
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}] if tolerates else []
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [container], "tolerations": tolerations, **spec},
        "status": {"phase": "Pending"},
    }


def told(facts: Facts) -> str:
    reasons = explain(facts)
    return "\n".join(text for reason in reasons for text in (reason.what, *reason.details, reason.mend))


def test_too_many_gpus_are_told_with_numbers() -> None:
    text = told(Facts(pod(8), nodes=(node("gpu-a", 4, "A100"),)))
    assert "It asks for: nvidia.com/gpu 8" in text
    assert "nvidia.com/gpu" in text.splitlines()[2]
    assert "4" in text.splitlines()[2]


def test_the_taint_and_the_wrong_model_are_named() -> None:
    wanted = pod(1, tolerates=False, nodeSelector={"nvidia.com/gpu.product": "H100"})
    text = told(Facts(wanted, nodes=(node("gpu-a", 4, "A100"),)))
    assert "taint nvidia.com/gpu=present:NoSchedule is not tolerated" in text
    assert "label nvidia.com/gpu.product=H100 is missing (it has nvidia.com/gpu.product=A100)" in text


def test_a_broken_gpu_is_named_where_it_takes_room() -> None:
    bad = {"type": CONDITION, "status": "False", "message": "GPU 1 (GPU-x): Xid 79 (GPU has fallen off the bus)"}
    assert "Xid 79" in told(Facts(pod(4), nodes=(node("gpu-a", 3, "A100", bad),)))
    plain = pod(0, tolerates=False)
    assert "Xid 79" not in told(Facts(plain, nodes=(node("gpu-a", 3, "A100", bad),)))


def test_the_limit_of_shared_gpus_is_explained() -> None:
    refused = pod(2, nodeName="gpu-b")
    refused["status"] = {
        "phase": "Failed", "reason": "UnexpectedAdmissionError",
        "message": "Allocate failed due to rpc error: maximum request size for shared resources is 1; found 2",
    }  # fmt: skip
    text = told(Facts(refused))
    assert "device plugin refused" in text
    assert "two turns are not two GPUs" in text


def test_a_kubelet_without_free_devices_is_not_a_plugin_that_refuses() -> None:
    refused = pod(1, nodeName="gpu-b")
    refused["status"] = {
        "phase": "Failed", "reason": "UnexpectedAdmissionError",
        "message": "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 1, "
        "Available: 0, which is unexpected",
    }  # fmt: skip
    text = told(Facts(refused))
    assert "its kubelet had no device free" in text
    assert "plugin refused" not in text
    assert "Delete the pod" in text


def test_a_claim_without_a_device_is_compared_with_what_there_is() -> None:
    wanted = pod(0, resourceClaims=[{"name": "gpu", "resourceClaimName": "big"}])
    claim = {
        "metadata": {"name": "big", "namespace": "n"},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {
            "deviceClassName": "gpu.nvidia.com", "selectors": [{"cel": {"expression": "memory >= 200Gi"}}]}}]}},
    }  # fmt: skip
    published = devices(A100S, {A100S[0].uuid}, {A100S[1].uuid: "Xid 79"})
    slices = tuple(resource_slices("gpu-a", published, 1))
    text = told(Facts(wanted, resource_claims=(claim,), slices=slices))
    assert "Its claim big has no device." in text
    assert "1 of class gpu.nvidia.com where memory >= 200Gi" in text
    assert "gpu-a: 4 x NVIDIA A100-SXM4-80GB with 80Gi; 1 held by pods as nvidia.com/gpu; 1 faulty" in text


def test_a_missing_claim_is_named() -> None:
    wanted = pod(0, resourceClaims=[{"name": "gpu", "resourceClaimName": "bigg"}])
    assert "ResourceClaim bigg, which does not exist" in told(Facts(wanted))


def test_an_allocated_claim_is_no_reason() -> None:
    wanted = pod(0, nodeName="gpu-a", resourceClaims=[{"name": "gpu", "resourceClaimName": "big"}])
    claim = {"metadata": {"name": "big"}, "spec": {}, "status": {"allocation": {"devices": {}}}}
    assert "claim" not in told(Facts(wanted, resource_claims=(claim,)))


def test_hundreds_of_nodes_share_their_reasons() -> None:
    lines = [(f"sim-{number}", "full") for number in range(500)] + [("gpu-a", "tainted")]
    assert together(lines) == ["sim-0, sim-1 and 498 more: full", "gpu-a: tainted"]
    assert together(lines[:2]) == ["sim-0: full", "sim-1: full"]


def test_the_names_of_taints_are_the_agents() -> None:
    assert set(DEVICE_TAINTS) == {HELD_TAINT, UNHEALTHY_TAINT}
