"""What a container with GPUs finds inside: environment, nvidia-smi, and a socket of its own to the silicon.

Allocate learns device IDs but not whose they are. The IDs are the container's alone while it lives, so they name a
folder, and the folder's socket is the identity: whoever talks through it holds those devices. The folder is mounted,
not the socket, so that a restarted agent can put a new socket in its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.gpu.devices import uuid_of

log = logging.getLogger(__name__)

SOCKET = "gpu.sock"
IDS = "devices.json"
IN_CONTAINER = "/run/kailab-gpu"
SMI = "/usr/bin/nvidia-smi"
VISIBLE = "NVIDIA_VISIBLE_DEVICES"
# A container's folder is made at Allocate, a moment before the kubelet lists the container.
GRACE_SECONDS = 120.0

Listen = Callable[[Path, Sequence[str], str], None]


@dataclass(frozen=True)
class Edits:
    """Changes to a container: environment, and read-only mounts (path inside -> path on the node)."""

    envs: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)


def key_of(ids: Sequence[str]) -> str:
    """A folder's name for a set of device IDs; their order does not count."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


class Allocations:
    """The folders below `folder`. `on_node` is the same folder's path on the node, `smi` nvidia-smi's there.

    `order` are the node's devices (UUIDs) by bus ID: that is how the driver numbers them, and so all that a container
    sees of its own goes by it.
    """

    def __init__(
        self, folder: Path, on_node: str, smi: str, listen: Listen, forget: Callable[[str], None],
        clock: Callable[[], float], order: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._folder = folder
        self._on_node = on_node
        self._smi = smi
        self._listen = listen
        self._forget = forget
        self._clock = clock
        self._place = {uuid: place for place, uuid in enumerate(order)}
        self._lock = threading.Lock()
        self._made: dict[str, float] = {}

    def restore(self) -> None:
        """Listen again for the containers that an earlier agent left running.

        A folder whose list can't be read serves nobody; it goes when no container has its devices.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for folder in sorted(one for one in self._folder.iterdir() if one.is_dir()):
            self._made[folder.name] = self._clock()
            ids = _read(folder / IDS)
            if ids:
                self._listen(folder / SOCKET, self._ordered(ids), folder.name)

    def prepare(self, ids: Sequence[str], key: str = "") -> Edits:
        """Make the folder of a container with these devices, or find it, and say what goes into the container.

        A ResourceClaim's devices may serve several containers: its folder goes by `key`.
        """
        key = key or key_of(ids)
        with self._lock:
            folder = self._folder / key
            self._made[key] = self._clock()  # first: what is left of a failed attempt goes too
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / IDS, ids)
            self._listen(folder / SOCKET, self._ordered(ids), key)
        visible = dict.fromkeys(uuid_of(one) for one in self._ordered(ids))
        return Edits({VISIBLE: ",".join(visible)}, {IN_CONTAINER: f"{self._on_node}/{key}", SMI: self._smi})

    def _ordered(self, ids: Sequence[str]) -> list[str]:
        return sorted(ids, key=lambda one: (self._place.get(uuid_of(one), len(self._place)), one))

    def keep(self, held: Collection[str]) -> None:
        """Remove the folders whose keys are not among `held`: no container has their devices any more."""
        with self._lock:
            for key, made in list(self._made.items()):
                if key in held:
                    self._made[key] = self._clock()
                elif self._clock() - made > GRACE_SECONDS:
                    self._forget(key)
                    shutil.rmtree(self._folder / key, ignore_errors=True)
                    del self._made[key]


def _write(path: Path, ids: Sequence[str]) -> None:
    """In one step: neither a full disk nor a kill leaves half a list."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(sorted(ids)))
    fresh.rename(path)


def _read(path: Path) -> list[str]:
    """Nothing where there is no list; one that can't be read is removed."""
    try:
        ids = json.loads(path.read_text())
        if isinstance(ids, list) and all(isinstance(one, str) for one in ids):
            return ids
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as failed:
        log.warning("%s can't be read: %s", path, failed)
    with contextlib.suppress(OSError):
        path.unlink()
    return []
