"""The fleet file: one YAML that says which node has which GPUs, for kind's nodes and KWOK's alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cluster.errors import KailabError
from cluster.gpu.devices import MOST_GPUS, NodeGpus
from cluster.gpu.models import COMPUTE_SLICES, MEMORY_SLICES, MODELS, Model
from cluster.gpu.node import documents
from cluster.gpu.node import sharing as sharing_files

PATH = Path(__file__).with_name("fleet.yaml")
MOST_NODES = 5000  # Kubernetes' own limit (kubernetes.io/docs/setup/best-practices/cluster-large)

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Simulated(_Strict):
    """A group of nodes without machines: how many, and over which regions and zones they are spread."""

    nodes: int = Field(ge=1, le=MOST_NODES)
    regions: tuple[Name, ...] = ("eu-west",)
    zones: int = Field(default=3, ge=1, le=26)


class Entry(_Strict):
    """One node, or one group of simulated nodes. `memory` in MiB; `sharing` in the format of NVIDIA's plugin."""

    name: Name
    model: str
    count: int = Field(ge=1, le=MOST_GPUS)
    memory: int | None = Field(default=None, ge=256, le=1024 * 1024)
    nvlink: tuple[tuple[int, ...], ...] = ()
    mig: dict[int, tuple[str, ...]] = {}
    sharing: dict[str, Any] = {}
    simulated: Simulated | None = None

    @field_validator("model")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in MODELS:
            raise ValueError(f"no model {name!r}; there are {', '.join(MODELS)}")
        return name

    @field_validator("sharing")
    @classmethod
    def _readable(cls, document: dict[str, Any]) -> dict[str, Any]:
        try:
            sharing_files.from_document(document)
        except KailabError as wrong:
            raise ValueError(wrong.why) from None
        return document

    @model_validator(mode="after")
    def _fits(self) -> Entry:
        model = MODELS[self.model]
        outside = {index for group in self.nvlink for index in group} | set(self.mig)
        if wrong := sorted(outside - set(range(self.count))):
            raise ValueError(f"GPU {wrong[0]} is named, but the {self.count} GPUs are 0 to {self.count - 1}")
        if self.nvlink and not model.nvlinks:
            raise ValueError(f"{self.model} has no NVLink")
        for index, names in self.mig.items():
            if problem := mig_problem(model, names):
                raise ValueError(f"GPU {index}: {problem}")
        return self

    def gpus(self) -> NodeGpus:
        return NodeGpus(self.model, self.count, self.memory or 0, self.nvlink, self.mig, self.sharing)


class Fleet(_Strict):
    """The whole file."""

    nodes: tuple[Entry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> Fleet:
        names = [entry.name for entry in self.nodes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"node {twice[0]!r} appears twice")
        return self


def mig_problem(model: Model, names: Sequence[str]) -> str:
    """Why these slices don't go on one GPU of the model; empty when they do.

    Slices fill 7 compute and 8 memory slices; the real placement rules are narrower still, see "Supported MIG
    Profiles" in NVIDIA's MIG user guide.
    """
    if not model.mig:
        return f"{model.key} can't be cut into MIG slices"
    if unknown := [name for name in names if name not in model.mig]:
        return f"no MIG profile {unknown[0]!r} on {model.key}; there are {', '.join(model.mig)}"
    profiles = [model.mig[name] for name in names]
    if over := [one for one in profiles if profiles.count(one) > one.limit]:
        return f"at most {over[0].limit} slices of {over[0].name} fit on one {model.key}"
    if sum(one.compute for one in profiles) > COMPUTE_SLICES:
        return f"{' + '.join(names)} needs more than {COMPUTE_SLICES} compute slices"
    if sum(one.memory_slices for one in profiles) > MEMORY_SLICES:
        return f"{' + '.join(names)} needs more than {MEMORY_SLICES} memory slices"
    return ""


def read(path: Path = PATH) -> Fleet:
    """Raises KailabError with the line or field at fault."""
    try:
        return Fleet.model_validate(documents.read(path.read_text()))
    except OSError as missing:
        raise KailabError(f"{path} can't be read.", why=str(missing), mend="check the path") from None
    except UnicodeDecodeError as binary:
        raise KailabError(f"{path.name} is not a text file.", why=str(binary), mend="check the path") from None
    except ValidationError as wrong:
        raise KailabError(
            f"{path.name} does not describe a fleet.", why="\n".join(map(_explain, _causes(wrong.errors()))),
            mend=f"correct {path}; nothing was changed in the cluster",
        ) from None  # fmt: skip
    except ValueError as broken:
        raise KailabError(f"{path.name} is not YAML.", why=str(broken), mend=f"correct {path}") from None


def _causes(errors: Sequence[Any]) -> list[Any]:
    """Without a list's being too short for the sole reason that pydantic leaves out the entries with errors."""
    places = [error["loc"] for error in errors]
    return [
        error
        for error in errors
        if error["type"] != "too_short"
        or not any(len(place) > len(error["loc"]) and place[: len(error["loc"])] == error["loc"] for place in places)
    ]


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "the file"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"
