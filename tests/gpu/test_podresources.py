"""Who holds what, asked of a kubelet that only speaks podresources."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from cluster.gpu.node import protos
from cluster.gpu.node.podresources import Holder, PodResources

MESSAGES, SERVICES = protos.load("podresources")


class Kubelet:
    def List(self, request: Any, context: Any) -> Any:
        answer = MESSAGES.ListPodResourcesResponse()
        container = answer.pod_resources.add(name="p", namespace="team").containers.add(name="main")
        container.devices.add(resource_name="nvidia.com/gpu", device_ids=["GPU-a"])
        container.devices.add(resource_name="example.com/nic", device_ids=["nic"])
        claim = container.dynamic_resources.add(claim_name="mine", claim_namespace="team")
        for device in ("gpu-0", "gpu-1", "gpu-1"):
            claim.claim_resources.add(driver_name="gpu.nvidia.com", device_name=device)
        return answer


def test_a_device_that_the_kubelet_has_twice_in_its_books_has_one_holder(folder: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    SERVICES.add_PodResourcesListerServicer_to_server(Kubelet(), server)
    server.add_insecure_port(f"unix://{folder}/kubelet.sock")
    server.start()
    books = PodResources(folder / "kubelet.sock")
    where = ("team", "p", "main")
    assert books.holders("nvidia.com/") == [
        Holder(*where, ("GPU-a",), "nvidia.com/gpu"),
        Holder(*where, ("gpu-0",), claim="team/mine", driver="gpu.nvidia.com"),
        Holder(*where, ("gpu-1",), claim="team/mine", driver="gpu.nvidia.com"),
    ]
    books.close()
    server.stop(grace=0).wait()
