"""The DRA driver: ResourceSlices for the scheduler, and a kubelet plugin that prepares claims.

Protocol: kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation, and the kubelet's plugin
registration (a socket in plugins_registry that tells where the driver's own is).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import grpc

from cluster.api import Api, ApiError, Unreachable
from cluster.gpu.devices import Gpu, relatives
from cluster.gpu.node import cdi, protos, serving
from cluster.gpu.node.allocations import Edits
from cluster.gpu.node.slices import (
    DRIVER,
    allocated_claims,
    device_names,
    devices,
    meaning,
    resource_slices,
    results,
    with_times,
)

__all__ = ["DRIVER", "DraPlugin", "Holdings", "allocated_claims"]

log = logging.getLogger(__name__)

SUPPORTED = ("v1.DRAPlugin",)
THREADS = 4
# The kubelet removes a driver's slices when it seems to be gone for long; look whether ours are still there.
RECHECK_SECONDS = 10.0
MANAGER = "kailab-gpu"
# No request of a claim can have this name (it is no DNS label), so no container names it.
NO_REQUEST = "*"


class Holdings(Protocol):
    """Who has what through the device plugin."""

    def held_by_plugin(self) -> set[str]:
        """UUIDs of GPUs or slices."""
        ...


class Refused(Exception):
    """A claim that can't be prepared; the text goes into the pod's events."""


class DraPlugin:
    """Serves two sockets below `plugins` and `registry` (the kubelet's folders) and keeps CDI files in `specs`.

    `prepare` makes what containers get, by an allocation's key and device UUIDs. The CDI files are the record of what
    is prepared: they survive a restart of this process.
    """

    def __init__(
        self, node: str, gpus: Sequence[Gpu], api: Api, holdings: Holdings, plugins: Path, registry: Path, specs: Path,
        prepare: Callable[[str, Sequence[str]], Edits],
    ) -> None:  # fmt: skip
        self._node, self._gpus, self._api, self._holdings = node, tuple(gpus), api, holdings
        self._socket = plugins / DRIVER / "dra.sock"
        self._registration = registry / f"{DRIVER}-reg.sock"
        self._specs, self._prepare = specs, prepare
        self._uuids = {name: uuid for uuid, name in device_names(gpus).items()}
        self._gpu_of = {one.uuid: gpu for gpu in gpus for one in gpu.devices}
        self._unhealthy: Mapping[str, str] = {}
        self._servers: list[grpc.Server] = []
        self._published: list[dict[str, Any]] | None = None
        self._checked = 0.0

    # Serving

    def ensure_serving(self) -> None:
        """Serve, and again when a socket has vanished. Call it every second or so."""
        if self._servers and self._socket.exists() and self._registration.exists():
            return
        self.close()
        self._socket.parent.mkdir(parents=True, exist_ok=True)
        _, dra = protos.load("dra")
        _, registration = protos.load("pluginregistration")
        for path, add in (
            (self._socket, dra.add_DRAPluginServicer_to_server),
            (self._registration, registration.add_RegistrationServicer_to_server),
        ):
            self._servers.append(serving.serve(path, add, self, THREADS))

    def close(self) -> None:
        for server in self._servers:
            serving.stop(server)
        self._servers = []
        self._registration.unlink(missing_ok=True)

    # The names below are the protocols'.
    def GetInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        messages, _ = protos.load("pluginregistration")
        return messages.PluginInfo(
            type="DRAPlugin", name=DRIVER, endpoint=str(self._socket), supported_versions=SUPPORTED
        )

    def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.plugin_registered:
            log.info("%s: registered with the kubelet", DRIVER)
        else:
            log.error("%s: the kubelet refuses the driver: %s", DRIVER, request.error)
        messages, _ = protos.load("pluginregistration")
        return messages.RegistrationStatusResponse()

    def NodePrepareResources(self, request: Any, context: Any) -> Any:  # noqa: N802
        messages, _ = protos.load("dra")
        answer = messages.NodePrepareResourcesResponse()
        for claim in request.claims:
            try:
                prepared = self._prepare_claim(claim.namespace, claim.name, claim.uid)
            except (Refused, ApiError, Unreachable, OSError, ValueError) as failed:
                log.warning("claim %s/%s: %s", claim.namespace, claim.name, failed)
                answer.claims[claim.uid].error = str(failed)
                continue
            for device in prepared:
                answer.claims[claim.uid].devices.add(
                    request_names=device["requests"], pool_name=self._node, device_name=device["name"],
                    cdi_device_ids=[device.get("cdi", cdi.device_id(claim.uid))],
                )  # fmt: skip
        return answer

    def NodeUnprepareResources(self, request: Any, context: Any) -> Any:  # noqa: N802
        messages, _ = protos.load("dra")
        answer = messages.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            answer.claims[claim.uid].SetInParent()
            try:
                cdi.remove(self._specs, claim.uid)
                log.info("claim %s/%s: unprepared", claim.namespace, claim.name)
            except (OSError, ValueError) as failed:
                answer.claims[claim.uid].error = str(failed)
        return answer

    # Claims

    def _prepare_claim(self, namespace: str, name: str, uid: str) -> list[dict[str, Any]]:
        known = cdi.read(self._specs).get(uid)
        if known is not None:
            return cast("list[dict[str, Any]]", known["devices"])
        claim = self._api.get("ResourceClaim", name, namespace)
        if claim is None or claim["metadata"]["uid"] != uid:
            raise Refused(f"ResourceClaim {namespace}/{name} (UID {uid}) is gone")
        found = results(claim, self._node)
        if not found:
            raise Refused(f"ResourceClaim {namespace}/{name} has no device of node {self._node}")
        for one in found:
            self._require_free(one["device"])
        # A request's subrequest is `main/sub`; the pod's containers name the main one.
        chosen = [{"name": one["device"], "requests": [one["request"].partition("/")[0]]} for one in found]
        told, parts = _told(uid, chosen), _parts(uid, chosen)
        edits = {
            request: self._prepare(key, [self._uuids[name] for name in names])
            for request, (key, names) in parts.items()
        }
        note = {"claim": f"{namespace}/{name}", "devices": told, "keys": [key for key, _ in parts.values()]}
        cdi.write(self._specs, uid, edits, note)
        log.info("claim %s/%s: prepared %s", namespace, name, ", ".join(one["name"] for one in chosen))
        return told

    def _require_free(self, device: str) -> None:
        uuid = self._uuids.get(device)
        if uuid is None:
            raise Refused(f"node {self._node} has no device {device}")
        gpu = self._gpu_of[uuid]
        if gpu.uuid in self._unhealthy:
            raise Refused(f"device {device} is unhealthy: {self._unhealthy[gpu.uuid]}")
        if relatives(gpu, uuid) & self._holdings.held_by_plugin():
            raise Refused(f"device {device} is held by a pod that has it as nvidia.com/gpu")

    def keys(self) -> set[str]:
        """The allocations that prepared claims use."""
        notes = cdi.read(self._specs).items()
        return {key for uid, note in notes for key in cast("list[str]", note.get("keys", [_key(uid)]))}

    # Slices

    def publish(self, unhealthy: Mapping[str, str]) -> None:
        """Make the node's ResourceSlices true; writes only when something has changed. Raises ApiError, Unreachable."""
        self._unhealthy = dict(unhealthy)
        wanted = devices(self._gpus, self._holdings.held_by_plugin(), unhealthy)
        now = time.monotonic()
        if wanted == self._published and now - self._checked < RECHECK_SECONDS:
            return
        present, _ = self._api.list("ResourceSlice", fieldSelector=f"spec.nodeName={self._node},spec.driver={DRIVER}")
        generation = max((one["spec"]["pool"]["generation"] for one in present), default=0)
        listed = sorted(present, key=lambda one: str(one["metadata"]["name"]))
        known = [device for one in listed for device in one["spec"].get("devices") or []]
        if [meaning(device) for device in known] != [meaning(device) for device in wanted]:
            generation += 1
            fresh = resource_slices(self._node, with_times(wanted, known), generation)
            owner = self._owner()
            for item in fresh:
                item["metadata"]["ownerReferences"] = [owner]
                self._api.apply(item, manager=MANAGER)
            names = {item["metadata"]["name"] for item in fresh}
            for one in present:
                if one["metadata"]["name"] not in names:
                    self._api.delete("ResourceSlice", one["metadata"]["name"])
        self._published, self._checked = wanted, now

    def _owner(self) -> dict[str, Any]:
        node = self._api.get("Node", self._node)
        if node is None:
            raise ApiError(404, "NotFound", f"there is no node {self._node}")
        return {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"],
                "controller": True}  # fmt: skip


def _key(claim_uid: str) -> str:
    return f"claim-{claim_uid}"


def _parts(uid: str, chosen: Sequence[dict[str, Any]]) -> dict[str, tuple[str, list[str]]]:
    """An allocation's key and device names for the whole claim (under an empty name) and, of several, each request.

    Keys have a number instead of the request's name: a socket's path may have no more than 107 characters.
    """
    parts = {"": (_key(uid), [one["name"] for one in chosen])}
    requests = list(dict.fromkeys(one["requests"][0] for one in chosen))
    for number, request in enumerate(requests if len(requests) > 1 else ()):
        parts[request] = (f"{_key(uid)}-{number}", [one["name"] for one in chosen if request in one["requests"]])
    return parts


def _told(uid: str, chosen: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the kubelet hears of a claim's devices: which requests they are of, and the CDI device that brings them.

    A container that names a request gets the CDI devices of that request; one that names none gets all of them, in
    this order. Of several the last one counts, so there is one more at the end, with everything in it, and under a
    request that nobody can name (cdiDevicesAsList in the kubelet's pkg/kubelet/cm/dra/claiminfo.go).
    """
    if len({one["requests"][0] for one in chosen}) < 2:
        return [{**one, "cdi": cdi.device_id(uid)} for one in chosen]
    told = [{**one, "cdi": cdi.device_id(uid, one["requests"][0])} for one in chosen]
    return [*told, {"name": chosen[-1]["name"], "requests": [NO_REQUEST], "cdi": cdi.device_id(uid)}]
