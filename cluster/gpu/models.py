"""GPU models that can be simulated, with their makers' published figures.

Sources: NVIDIA's data sheets (memory size, power, NVLink), the "CUDA GPU Compute Capability" page (compute), the
Multi-Instance GPU user guide (profiles and their memory), and what `nvidia-smi -q` prints on such a board (name,
usable memory, highest clocks, temperatures). `source` names the data sheet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

COMPUTE_SLICES, MEMORY_SLICES = 7, 8  # of a GPU that MIG can cut


@dataclass(frozen=True)
class MigProfile:
    """One way to cut a piece: `compute` of the GPU's 7 slices, `memory_slices` of 8, `memory` in MiB, at most
    `limit` of them on one GPU."""

    name: str
    compute: int
    memory_slices: int
    memory: int
    limit: int


@dataclass(frozen=True)
class Model:
    """What a board is and can do. Memory in MiB, power in W, clocks in MHz, temperatures in degrees Celsius."""

    key: str
    product: str
    brand: str
    architecture: str
    compute: tuple[int, int]
    memory: int
    power_limit: int
    power_minimum: int
    power_idle: int
    sm_clock: int
    sm_clock_idle: int
    memory_clock: int
    memory_clock_idle: int
    slowdown: int
    shutdown: int
    source: str
    nvlinks: int = 0
    mig: Mapping[str, MigProfile] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The product as a label's value: what GPU feature discovery writes."""
        return self.product.replace(" ", "-")


def _profiles(*profiles: MigProfile) -> dict[str, MigProfile]:
    return {profile.name: profile for profile in profiles}


MODELS: Mapping[str, Model] = {
    model.key: model
    for model in (
        Model(
            "A100-80GB", "NVIDIA A100-SXM4-80GB", "NVIDIA", "ampere", (8, 0), 81920, 400, 100, 62,
            1410, 210, 1593, 1593, 92, 95, "NVIDIA A100 80GB data sheet", 12,
            _profiles(
                MigProfile("1g.10gb", 1, 1, 9728, 7), MigProfile("1g.20gb", 1, 2, 19968, 4),
                MigProfile("2g.20gb", 2, 2, 19968, 3), MigProfile("3g.40gb", 3, 4, 40448, 2),
                MigProfile("4g.40gb", 4, 4, 40448, 1), MigProfile("7g.80gb", 7, 8, 81152, 1),
            ),
        ),
        Model(
            "H100-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA", "hopper", (9, 0), 81559, 700, 200, 70,
            1980, 345, 2619, 2619, 91, 94, "NVIDIA H100 Tensor Core GPU data sheet (SXM5)", 18,
            _profiles(
                MigProfile("1g.10gb", 1, 1, 9984, 7), MigProfile("1g.20gb", 1, 2, 20096, 4),
                MigProfile("2g.20gb", 2, 2, 20096, 3), MigProfile("3g.40gb", 3, 4, 40448, 2),
                MigProfile("4g.40gb", 4, 4, 40448, 1), MigProfile("7g.80gb", 7, 8, 81053, 1),
            ),
        ),
        Model(
            "T4", "Tesla T4", "Tesla", "turing", (7, 5), 15360, 70, 60, 9,
            1590, 300, 5001, 405, 93, 96, "NVIDIA T4 data sheet",
        ),
        Model(
            "L4", "NVIDIA L4", "NVIDIA", "ada-lovelace", (8, 9), 23034, 72, 40, 12,
            2040, 210, 6251, 405, 97, 100, "NVIDIA L4 data sheet",
        ),
    )
}  # fmt: skip
