"""One moment of a node's GPUs, whole: what the exporter, the status page and nvidia-smi are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.gpu import faults
from cluster.gpu.devices import Gpu, uuid_of
from cluster.gpu.node.podresources import Holder
from cluster.gpu.node.readings import Reading
from cluster.gpu.node.sharing import GPU_RESOURCE


@dataclass(frozen=True)
class Moment:
    """`readings` and `health` (empty: healthy) by UUID; `holders` with device UUIDs or replica IDs; `replicas` by
    resource, where they are more than one; `problems` are what an administrator should mend, such as a sharing
    configuration that can't be read."""

    node: str
    gpus: tuple[Gpu, ...]
    readings: Mapping[str, Reading]
    holders: tuple[Holder, ...]
    health: Mapping[str, str]
    replicas: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def held(self, uuid: str) -> list[tuple[Holder, str]]:
        """The holders of a device, each with the ID it holds, in the order of replicas."""
        found = [(holder, one) for holder in self.holders for one in holder.ids if uuid_of(one) == uuid]
        return sorted(found, key=lambda pair: (pair[1], pair[0].namespace, pair[0].pod))


def status(moment: Moment) -> dict[str, Any]:
    """The JSON that `kailab gpu status` shows."""
    return {
        "node": moment.node,
        "replicas": moment.replicas.get(GPU_RESOURCE, 1),
        "problems": list(moment.problems),
        "gpus": [_gpu(moment, gpu) for gpu in moment.gpus],
    }


def _gpu(moment: Moment, gpu: Gpu) -> dict[str, Any]:
    reading = moment.readings[gpu.uuid]
    return {
        "index": gpu.index,
        "model": gpu.model.product,
        **_device(moment, gpu.uuid, reading),
        "temperature": reading.temperature,
        "power": round(reading.power, 1),
        "power_limit": gpu.model.power_limit,
        "xid": reading.xid,
        "fault": faults.describe(reading.fault) if reading.fault else "",
        "health": moment.health.get(gpu.uuid, ""),
        "mig": [
            {"profile": cut.profile.name, "replicas": moment.replicas.get(cut.resource, 1),
             **_device(moment, cut.uuid, moment.readings[cut.uuid])}
            for cut in gpu.mig
        ],
    }  # fmt: skip


def _device(moment: Moment, uuid: str, reading: Reading) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "memory_used": reading.used,
        "memory_total": reading.total,
        "utilization": reading.gpu_util,
        "held_by": [_holder(holder, one) for holder, one in moment.held(uuid)],
    }


def _holder(holder: Holder, device_id: str) -> dict[str, str]:
    through = {"claim": holder.claim} if holder.claim else {"resource": holder.resource}
    return {
        "namespace": holder.namespace, "pod": holder.pod, "container": holder.container, "id": device_id, **through,
    }  # fmt: skip


def replica_number(device_id: str) -> str:
    """The `n` of `<uuid>::n`, or nothing for a device that isn't shared."""
    return device_id.partition("::")[2]


def with_uuids(holders: Sequence[Holder], names: Mapping[str, str]) -> tuple[Holder, ...]:
    """Holders through claims know device names; give them UUIDs (`names`), and leave out other drivers' devices."""
    found = []
    for holder in holders:
        ids = tuple(names.get(one, "") for one in holder.ids) if holder.claim else holder.ids
        if all(ids):
            found.append(dataclasses.replace(holder, ids=ids))
    return tuple(found)
