"""The device plugin: one gRPC server per resource, as the kubelet's device manager expects (v1beta1).

Source of the protocol: kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from cluster.gpu.devices import Gpu, uuid_of
from cluster.gpu.node import protos, serving
from cluster.gpu.node.allocations import Edits
from cluster.gpu.node.board import Board
from cluster.gpu.node.sharing import refuse

log = logging.getLogger(__name__)

VERSION = "v1beta1"
KUBELET_SOCKET = "kubelet.sock"
HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"
# ListAndWatch keeps a thread for as long as the kubelet listens, and a kubelet that restarts leaves the old call
# behind for a moment: fewer threads and Allocate would wait for ever.
THREADS = 16
REGISTER_SECONDS = 5

Prepare = Callable[[Sequence[str]], Edits]


class Plugin:
    """The gRPC service of one resource. `prepare` makes what a container with some device IDs gets."""

    def __init__(self, resource: str, board: Board, prepare: Prepare) -> None:
        self.resource = resource
        self._board = board
        self._prepare = prepare
        self._messages, _ = protos.load("deviceplugin")
        self._closing = threading.Event()

    def close(self) -> None:
        """End all ListAndWatch streams."""
        self._closing.set()
        self._board.health_changed()

    # The names below are the protocol's.
    def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._messages.DevicePluginOptions(get_preferred_allocation_available=True)

    def ListAndWatch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """The whole list at once and after each change, until either side ends it."""
        version, last = -1, None
        context.add_callback(self._board.health_changed)  # wakes the wait below when the kubelet is gone
        while context.is_active() and not self._closing.is_set():
            version = self._board.wait_after(version, timeout=30)
            offer = self._board.offers().get(self.resource)
            listed = [] if offer is None else [(one, one not in offer.unhealthy) for one in offer.ids]
            if listed != last:
                last = listed
                yield self._messages.ListAndWatchResponse(
                    devices=[
                        self._messages.Device(ID=one, health=HEALTHY if good else UNHEALTHY) for one, good in listed
                    ]
                )

    def GetPreferredAllocation(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = self._messages.PreferredAllocationResponse()
        for wanted in request.container_requests:
            chosen = prefer(
                self._board.gpus, self._board.held_replicas(), list(wanted.available_deviceIDs),
                list(wanted.must_include_deviceIDs), wanted.allocation_size,
            )  # fmt: skip
            answer.container_responses.add(deviceIDs=chosen)
        return answer

    def Allocate(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = self._messages.AllocateResponse()
        offer = self._board.offers().get(self.resource)
        for wanted in request.container_requests:
            ids = list(wanted.devices_ids)
            if why := self._refusal(ids, offer.ids if offer else (), offer.unhealthy if offer else frozenset()):
                # Go's plain errors arrive as UNKNOWN, and students will search the web for the message.
                context.abort(grpc.StatusCode.UNKNOWN, f'invalid allocation request for "{self.resource}": {why}')
            edits = self._prepare(ids)
            self._board.allocated(ids)
            response = answer.container_responses.add(envs=dict(edits.envs))
            for target, source in edits.mounts.items():
                response.mounts.add(container_path=target, host_path=source, read_only=True)
            log.info("%s: allocated %s", self.resource, ", ".join(ids))
        return answer

    def _refusal(self, ids: Sequence[str], known: Sequence[str], unhealthy: frozenset[str]) -> str:
        if unknown := sorted(set(ids) - set(known)):
            return f"unknown device: {unknown[0]}"
        if why := refuse(ids, self._board.sharing):
            return why
        if bad := sorted(set(ids) & unhealthy):
            return f"device is unhealthy or held by a ResourceClaim: {bad[0]}"
        return ""

    def PreStartContainer(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._messages.PreStartContainerResponse()


def prefer(
    gpus: Sequence[Gpu], held: set[str], available: Sequence[str], required: Sequence[str], size: int
) -> list[str]:
    """Which `size` of the available IDs to take, `required` among them.

    Whole GPUs: those with most NVLink connections between them. Replicas: spread, the GPU with the fewest
    replicas in use first. Ties go to the highest index: the scheduler gives claims the first device that fits, and
    hears only a moment later which ones are taken here, so the two had better begin at different ends.
    """
    index = {device.uuid: gpu.index for gpu in gpus for device in gpu.devices}
    order = {one: (-index.get(uuid_of(one), -1), one) for one in (*available, *required)}
    free = sorted(set(available) - set(required), key=order.__getitem__)
    missing = size - len(required)
    if missing <= 0 or missing > len(free):
        return list(required)[:size] if missing <= 0 else [*required, *free]
    if any("::" in one for one in free):
        return [*required, *_spread(free, [*held, *required], missing)]
    peers = {gpu.uuid: {gpus[peer].uuid for peer in gpu.peers if peer < len(gpus)} for gpu in gpus}
    if not any(peers.get(one) for one in free):  # slices have no links, and there may be too many to try all groups
        return [*required, *free[:missing]]

    def links(group: tuple[str, ...]) -> int:
        everyone = [*required, *group]
        return sum(b in peers.get(a, ()) for a, b in itertools.combinations(everyone, 2))

    best = max(itertools.combinations(free, missing), key=links)  # max keeps the first of equals
    return [*required, *best]


def _spread(free: Sequence[str], used: Sequence[str], size: int) -> list[str]:
    load: dict[str, int] = {}
    for one in used:
        load[uuid_of(one)] = load.get(uuid_of(one), 0) + 1
    chosen: list[str] = []
    rest = list(free)
    for _ in range(size):
        best = min(rest, key=lambda one: load.get(uuid_of(one), 0))
        rest.remove(best)
        chosen.append(best)
        load[uuid_of(best)] = load.get(uuid_of(best), 0) + 1
    return chosen


class PluginServer:
    """A plugin on its socket, registered with the kubelet, and again whenever the kubelet was restarted.

    Each time the socket has a name of its own. The kubelet (pkg/kubelet/cm/devicemanager, v1.37) knows plugins by
    their socket's path: a second one at the path of one that it still listens to, as when an agent comes before the
    last one has ended, is refused with "device plugin already connected", and so is each later one.
    """

    def __init__(self, plugin: Plugin, folder: Path) -> None:
        self._plugin = plugin
        self._folder = folder
        self._stem = "kailab-" + plugin.resource.replace("/", "-")
        self._endpoint = f"{self._stem}.sock"
        self._server: grpc.Server | None = None
        self._kubelet: tuple[int, int] | None = None

    @property
    def socket(self) -> Path:
        return self._folder / self._endpoint

    def ensure(self) -> bool:
        """Serve and register where that is not so (any more); True when it had to. Call it every second or so.

        A restarted kubelet deletes every socket in its folder and makes its own anew: both are signs.
        """
        kubelet = self._kubelet_identity()
        if kubelet is None:
            return False
        if self._server is not None and self._kubelet == kubelet and self.socket.exists():
            return False
        self._serve()
        self._register()
        self._kubelet = kubelet
        return True

    def _kubelet_identity(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            found = (self._folder / KUBELET_SOCKET).stat()
            return found.st_ino, found.st_ctime_ns
        return None

    def _serve(self) -> None:
        self.close()
        self._remove_dead_sockets()
        self._endpoint = f"{self._stem}-{secrets.token_hex(3)}.sock"
        _, services = protos.load("deviceplugin")
        self._server = serving.serve(self.socket, services.add_DevicePluginServicer_to_server, self._plugin, THREADS)

    def _remove_dead_sockets(self) -> None:
        """Those that killed agents left behind. Where another agent still serves, it is its own to remove."""
        for path in self._folder.glob(f"{glob.escape(self._stem)}-*.sock"):
            with socket.socket(socket.AF_UNIX) as raw, contextlib.suppress(OSError):
                try:
                    raw.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()

    def _register(self) -> None:
        """The kubelet calls back while this call runs: the server must serve already."""
        messages, services = protos.load("deviceplugin")
        with grpc.insecure_channel(f"unix://{self._folder / KUBELET_SOCKET}") as channel:
            services.RegistrationStub(channel).Register(
                messages.RegisterRequest(
                    version=VERSION, endpoint=self._endpoint, resource_name=self._plugin.resource,
                    options=messages.DevicePluginOptions(get_preferred_allocation_available=True),
                ),
                timeout=REGISTER_SECONDS,
            )  # fmt: skip
        log.info("%s: registered with the kubelet", self._plugin.resource)

    def close(self) -> None:
        if self._server is not None:
            serving.stop(self._server)
            self._server = None

    def end(self) -> None:
        """Close for good, and end the streams that still run."""
        self._plugin.close()
        self.close()
        self.socket.unlink(missing_ok=True)
