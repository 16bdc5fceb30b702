"""Who holds which device, by the kubelet's own books (podresources, v1)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from cluster.gpu.node import protos

TIMEOUT_SECONDS = 5


@dataclass(frozen=True)
class Holder:
    """A container and what it holds: device IDs (a replica's has `::n`) through `resource`, or device names of
    `driver` through the claim `namespace/name`."""

    namespace: str
    pod: str
    container: str
    ids: tuple[str, ...]
    resource: str = ""
    claim: str = ""
    driver: str = ""


class PodResources:
    """The kubelet's socket at `path`. Thread-safe; `holders` raises grpc.RpcError while the kubelet is away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None

    def holders(self, prefix: str) -> list[Holder]:
        """Containers of pods that are not finished and hold a resource whose name starts with `prefix`, or a claim."""
        messages, services = protos.load("podresources")
        with self._lock:
            if self._channel is None:
                self._channel = grpc.insecure_channel(f"unix://{self._path}")
            try:
                answer = services.PodResourcesListerStub(self._channel).List(
                    messages.ListPodResourcesRequest(), timeout=TIMEOUT_SECONDS
                )
            except grpc.RpcError:
                self._channel.close()  # a restarted kubelet has a new socket, and gRPC waits long before it tries again
                self._channel = None
                raise
        found = []
        for pod in answer.pod_resources:
            for container in pod.containers:
                where = (pod.namespace, pod.name, container.name)
                found += [
                    Holder(*where, tuple(held.device_ids), held.resource_name)
                    for held in container.devices
                    if held.resource_name.startswith(prefix)
                ]
                for claim in container.dynamic_resources:
                    name = f"{claim.claim_namespace}/{claim.claim_name}"
                    # Our driver names a device twice to the kubelet where a claim has several requests (see dra.py).
                    devices = dict.fromkeys((one.device_name, one.driver_name) for one in claim.claim_resources)
                    found += [Holder(*where, (device,), claim=name, driver=driver) for device, driver in devices]
        return found

    def close(self) -> None:
        with self._lock:
            if self._channel is not None:
                self._channel.close()
                self._channel = None
