"""The kubelet's own record of what it allocated, for what podresources leave out: init containers.

podresources list containers and sidecars only, though a pod keeps the devices of its init containers until it ends
(pkg/kubelet/apis/podresources/server_v1.go and cm/devicemanager/manager.go). The record is a file beside the plugins'
sockets. It names pods by UID, and forgets those that have ended only when something is allocated again: whether a pod
has ended is for others to say.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.gpu.node.podresources import Holder

FILE = "kubelet_internal_checkpoint"


@dataclass(frozen=True)
class Entry:
    """A container of the pod with this UID, and the device IDs that it was given of a resource."""

    pod: str
    container: str
    resource: str
    ids: tuple[str, ...]


def read(folder: Path, prefix: str) -> tuple[Entry, ...]:
    """All allocations of resources whose name starts with `prefix`; none where there is no record.

    Raises ValueError when the record is not what it should be, OSError when it can't be read.
    """
    path = folder / FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        return ()
    try:
        return tuple(
            Entry(one["PodUID"], one["ContainerName"], one["ResourceName"],
                  tuple(sorted(id_ for ids in one["DeviceIDs"].values() for id_ in ids)))
            for one in json.loads(text)["Data"]["PodDeviceEntries"] or ()
            if one["ResourceName"].startswith(prefix)
        )  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError) as wrong:
        raise ValueError(f"the kubelet's {path} is not as expected: {type(wrong).__name__}: {wrong}") from None


def alive(entries: Sequence[Entry], pods: Collection[str] | None) -> list[Entry]:
    """Those of pods that have not ended; all of them while nobody knows."""
    return [one for one in entries if pods is None or one.pod in pods]


def unlisted(entries: Sequence[Entry], names: Mapping[str, tuple[str, str]], listed: Collection[str]) -> list[Holder]:
    """Holders of the device IDs that podresources don't list; `names` are pods' namespace and name by UID.

    Of an init container whose devices the pod's containers have now nothing is left to tell.
    """
    found, told = [], set(listed)
    for one in entries:
        ids = tuple(id_ for id_ in one.ids if id_ not in told)
        told |= set(ids)
        if ids:
            found.append(Holder(*names.get(one.pod, ("", "")), one.container, ids, one.resource))
    return found
