"""What the node may hand out at this moment: devices, their health, and which way each is held.

One GPU can be given out in two ways, by the device plugin (`nvidia.com/gpu`) and by a ResourceClaim. The board is
where the two meet: what one holds, the other must not give.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cluster.gpu.devices import Gpu, relatives, uuid_of
from cluster.gpu.node.sharing import Sharing, device_ids

# The kubelet lists a pod's devices once it has admitted the pod, some tenths of a second after Allocate.
FRESH_SECONDS = 5.0


@dataclass(frozen=True)
class Offer:
    """One resource: device IDs, and those of them that can't be had now."""

    resource: str
    ids: tuple[str, ...]
    unhealthy: frozenset[str]


class Board:
    """Thread-safe. Everyone who waits for changes (`wait_after`) is woken by each."""

    def __init__(
        self, gpus: Sequence[Gpu], sharing: Sharing, is_healthy: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.gpus = tuple(gpus)
        self._changed = threading.Condition()
        self._version = 0
        self._sharing = sharing
        self._is_healthy = is_healthy
        self._gpu_of = {device.uuid: gpu for gpu in gpus for device in gpu.devices}
        self._claims: dict[str, str] = {}  # GPU's or slice's UUID -> claim
        self._clock = clock
        self._fresh: dict[str, float] = {}  # what was given out lately, and when
        self._plugin: set[str] = set()  # device IDs that pods hold through the plugin
        self._seen: set[str] = set()  # resources that were ever offered: the kubelet never forgets one

    @property
    def sharing(self) -> Sharing:
        return self._sharing

    def offers(self) -> dict[str, Offer]:
        """By resource name. A resource that is no longer offered stays with no devices."""
        with self._changed:
            found = device_ids(self.gpus, self._sharing)
            self._seen |= set(found)
            taken = {uuid for claimed in self._claims for uuid in relatives(self._gpu_of[claimed], claimed)}
            offers = {}
            for resource in sorted(self._seen):
                ids = tuple(found.get(resource, ()))
                bad = frozenset(
                    one for one in ids if uuid_of(one) in taken or not self._is_healthy(self._gpu_of[uuid_of(one)].uuid)
                )
                offers[resource] = Offer(resource, ids, bad)
            return offers

    def share(self, sharing: Sharing) -> None:
        """Cut the GPUs another way. Pods that run keep what they have, as with NVIDIA's plugin."""
        with self._changed:
            if sharing != self._sharing:
                self._sharing = sharing
                self._tell()

    def health_changed(self) -> None:
        with self._changed:
            self._tell()

    def set_claims(self, claims: Mapping[str, str]) -> None:
        """Devices (UUIDs) that ResourceClaims have, with the claim's namespace/name."""
        with self._changed:
            if dict(claims) != self._claims:
                self._claims = dict(claims)
                self._tell()

    def set_held_by_plugin(self, ids: set[str]) -> None:
        """Device IDs that running pods hold, as the kubelet's podresources say."""
        with self._changed:
            now = self._clock()
            self._fresh = {one: since for one, since in self._fresh.items() if now - since < FRESH_SECONDS}
            held = ids | set(self._fresh)
            if held != self._plugin:
                self._plugin = held
                self._tell()

    def allocated(self, ids: Sequence[str]) -> None:
        """The plugin has just given these out; podresources show it a little later."""
        with self._changed:
            self._fresh |= dict.fromkeys(ids, self._clock())
            if not set(ids) <= self._plugin:
                self._plugin |= set(ids)
                self._tell()

    def held_by_plugin(self) -> set[str]:
        """UUIDs (of GPUs or slices) that pods hold through the plugin, whole or as a replica."""
        with self._changed:
            return {uuid_of(one) for one in self._plugin}

    def held_replicas(self) -> set[str]:
        """Device IDs as the kubelet has them."""
        with self._changed:
            return set(self._plugin)

    def wait_after(self, version: int, timeout: float) -> int:
        """The board's version, as soon as it differs from `version` or after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, timeout)
            return self._version

    def _tell(self) -> None:
        self._version += 1
        self._changed.notify_all()
