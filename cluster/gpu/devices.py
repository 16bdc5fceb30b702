"""What is in a node's slots: GPUs and their MIG slices, with identities that never change.

A device's UUID is a function of the node's name and the slot alone. That is what makes one identity possible from
the scheduler to the metrics: a restarted plugin, kubelet or node finds the same devices again.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.gpu.models import MODELS, MigProfile, Model

# Any fixed UUID will do as the name space of version 5 UUIDs (RFC 9562, section 5.5).
NAMESPACE = uuid.UUID("6b61696c-6162-5f67-9075-736c6f747321")
DRIVER_VERSION = "580.95.05"
CUDA_VERSION = "13.0"
MOST_GPUS = 16  # on one node: the largest machines that are sold have 16


@dataclass(frozen=True)
class NodeGpus:
    """What one node has: `count` GPUs of a model; memory in MiB (0: the model's own); groups of indices joined by
    NVLink; MIG profiles by index; the default sharing configuration in the format of NVIDIA's device plugin."""

    model: str
    count: int
    memory: int = 0
    nvlink: tuple[tuple[int, ...], ...] = ()
    mig: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    sharing: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> NodeGpus:
        return cls(
            document["model"],
            document["count"],
            document.get("memory", 0),
            tuple(tuple(group) for group in document.get("nvlink", ())),
            {int(index): tuple(names) for index, names in document.get("mig", {}).items()},
            document.get("sharing", {}),
        )


@dataclass(frozen=True)
class MigDevice:
    """One slice of a GPU; `instance` is its GPU instance ID, unique on its GPU."""

    uuid: str
    gpu: str
    profile: MigProfile
    instance: int

    @property
    def memory(self) -> int:
        """MiB."""
        return self.profile.memory

    @property
    def resource(self) -> str:
        return f"nvidia.com/mig-{self.profile.name}"


@dataclass(frozen=True)
class Gpu:
    """One board in a slot; memory in MiB; `peers` are the indices of GPUs it reaches over NVLink."""

    node: str
    index: int
    uuid: str
    model: Model
    memory: int
    pci: str
    serial: str
    peers: frozenset[int] = frozenset()
    mig: tuple[MigDevice, ...] = ()

    @property
    def devices(self) -> tuple[Gpu | MigDevice, ...]:
        """The GPU itself and its slices."""
        return (self, *self.mig)


def gpu_uuid(node: str, index: int) -> str:
    return f"GPU-{uuid.uuid5(NAMESPACE, f'{node}/{index}')}"


def gpus(node: str, spec: NodeGpus) -> tuple[Gpu, ...]:
    """The node's GPUs in order of their index. Raises KeyError for an unknown model or profile."""
    model = MODELS[spec.model]
    found = []
    for index in range(spec.count):
        identity = gpu_uuid(node, index)
        peers = {peer for group in spec.nvlink if index in group for peer in group} - {index}
        slices = tuple(
            MigDevice(_slice_uuid(node, index, instance), identity, model.mig[name], instance)
            for instance, name in enumerate(spec.mig.get(index, ()), start=1)
        )
        found.append(
            Gpu(node, index, identity, model, spec.memory or model.memory, _pci(index),
                str(uuid.UUID(identity[4:]).int % 10**13).zfill(13), frozenset(peers), slices)
        )  # fmt: skip
    return tuple(found)


def _slice_uuid(node: str, index: int, instance: int) -> str:
    return f"MIG-{uuid.uuid5(NAMESPACE, f'{node}/{index}/{instance}')}"


def _pci(index: int) -> str:
    """A bus ID as nvidia-smi prints it: one board on every fourth bus, as on common 8-GPU machines."""
    return f"00000000:{4 * index + 7:02X}:00.0"


def relatives(gpu: Gpu, uuid: str) -> set[str]:
    """What a device of this GPU can't be given out beside: itself, a slice's GPU, and a whole GPU's slices."""
    return {one.uuid for one in gpu.devices} if uuid == gpu.uuid else {uuid, gpu.uuid}


def by_id(found: Sequence[Gpu]) -> dict[str, Gpu | MigDevice]:
    """GPUs and slices by UUID. A replica's ID, `<uuid>::<n>`, is its UUID's device: see `uuid_of`."""
    return {device.uuid: device for gpu in found for device in gpu.devices}


def uuid_of(device_id: str) -> str:
    """The UUID in a device plugin's ID, which may be a replica's."""
    return device_id.partition("::")[0]
