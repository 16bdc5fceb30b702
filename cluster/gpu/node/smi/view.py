"""What one container may see, at one moment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cluster.gpu.devices import Gpu, MigDevice
from cluster.gpu.node.readings import Process, Reading


@dataclass(frozen=True)
class View:
    """`boards` are visible GPUs with the index they have inside the container; `slices` the visible MIG devices of
    each, by its UUID (a container that holds slices sees their GPU, but can't use it); readings by UUID."""

    boards: tuple[tuple[int, Gpu], ...]
    slices: Mapping[str, tuple[MigDevice, ...]]
    readings: Mapping[str, Reading]
    time: datetime

    @classmethod
    def of(
        cls, gpus: Sequence[Gpu], held: Sequence[Gpu | MigDevice], readings: Mapping[str, Reading], time: datetime
    ) -> View:
        """The view of a container that holds `held` of a node's `gpus`."""
        by_uuid = {gpu.uuid: gpu for gpu in gpus}
        boards = dict.fromkeys(one.gpu if isinstance(one, MigDevice) else one.uuid for one in held)
        slices: dict[str, tuple[MigDevice, ...]] = {}
        for one in held:
            if isinstance(one, MigDevice):
                slices[one.gpu] = (*slices.get(one.gpu, ()), one)
        return cls(tuple(enumerate(by_uuid[uuid] for uuid in boards)), slices, readings, time)

    def reading(self, device: Gpu | MigDevice) -> Reading:
        return self.readings[device.uuid]

    def processes(self, gpu: Gpu) -> list[Process]:
        """Those on the GPU, or on the slices of it that the container holds."""
        visible = {gpu.uuid, *(cut.uuid for cut in self.slices.get(gpu.uuid, ()))}
        return [process for process in self.reading(gpu).processes if process.device in visible]

    def only(self, names: str) -> View:
        """The GPUs named by index, UUID or bus ID, separated by commas."""
        wanted = {name.strip().lower() for name in names.split(",")}

        def is_meant(number: int, gpu: Gpu) -> bool:
            bus = {gpu.pci.lower(), gpu.pci[4:].lower()}
            return bool(wanted & {str(number), gpu.uuid.lower(), *bus})

        return dataclasses.replace(self, boards=tuple(one for one in self.boards if is_meant(*one)))

    def without_lost(self) -> View:
        return dataclasses.replace(self, boards=tuple(one for one in self.boards if not self.reading(one[1]).is_lost))
