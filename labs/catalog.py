"""The labs: one folder each, described by lab.yaml; finding, validating and loading them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import yaml
from msgspec import Meta

from checkers.declare import Checks
from checkers.spec import CheckSpec, Hint, LabSpec, TaskSpec
from cluster.errors import KailabError
from cluster.workspace import KUBERNETES_VERSION
from cluster.yamls import load, load_all

if TYPE_CHECKING:
    from cluster.api import Object

LABS = Path(__file__).parent
_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_Id = Annotated[str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
_Text = Annotated[str, Meta(min_length=3)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By msgspec rather than pydantic, whose import takes five times as long: nearly every command waits for it."""


class _Hint(_Strict, frozen=True):
    text: _Text
    when: str = ""


class _Check(_Strict, frozen=True):
    id: _Id
    title: _Text
    points: Annotated[float, Meta(gt=0, le=100)]


class _Task(_Strict, frozen=True):
    id: _Id
    title: _Text
    checks: Annotated[tuple[_Check, ...], Meta(min_length=1)]
    hints: Annotated[tuple[_Hint, ...], Meta(min_length=1)]


class _Starter(_Strict, frozen=True, kw_only=True):
    """What the untouched starter must lead to: kubectl's own words (empty when it applies), and a failed
    check's."""

    kubectl_says: str = ""
    says: _Text


class Borrowed(_Strict, frozen=True):
    """Something outside the lab's namespace that the lab's student may make: an object, or a label of a node.
    Before the lab there is none, and when it is finished there is none again."""

    kind: str
    name: str
    namespace: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "Node") != bool(self.label):
            raise ValueError("a Node is borrowed by one of its labels, anything else as a whole")


class FleetOfLab(_Strict, frozen=True):
    """Simulated GPU nodes that are in the cluster while the lab is started; see cluster/gpu/scale."""

    name: _Id
    nodes: Annotated[int, Meta(ge=1, le=1000)]
    model: str
    gpus: Annotated[int, Meta(ge=1)] = 8
    regions: Annotated[int, Meta(ge=1)] = 1
    zones: Annotated[int, Meta(ge=1)] = 1


class _LabFile(_Strict, frozen=True, kw_only=True):
    """lab.yaml. `names` are the names, ports and counts that text, starter, solution and checks share.
    `side_by_side`: how many submissions the cluster has room for at once, where that is fewer than usual.
    `quota`: what a submission of a class may hold, where it needs more than is usual."""

    number: Annotated[int, Meta(ge=1, le=99)]
    slug: _Id
    title: _Text
    summary: _Text
    minutes: Annotated[int, Meta(gt=0)]
    seconds: Annotated[float, Meta(gt=0)] = 300.0
    side_by_side: Annotated[int, Meta(ge=1)] = 5
    borrows: tuple[Borrowed, ...] = ()
    fleets: tuple[FleetOfLab, ...] = ()
    quota: Mapping[str, str] = {}
    names: Mapping[str, str | int]
    starter: _Starter
    tasks: Annotated[tuple[_Task, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        for what, ids in (
            ("task", [task.id for task in self.tasks]),
            ("check", [check.id for task in self.tasks for check in task.checks]),
        ):
            twice = sorted({name for name in ids if ids.count(name) > 1})
            if twice:
                raise ValueError(f"{what} ids used twice: {', '.join(twice)}")
        if (self.borrows or self.fleets) and self.side_by_side > 1:
            raise ValueError("what a lab borrows, and its fleets, are there but once: side_by_side must be 1")


@dataclass(frozen=True)
class LabFolder:
    """One lab on disk. Folders: starter/ (given to the student), given/ (applied by `start`), solution/,
    alternatives/NAME/ (other right solutions), mutants/NAME.yaml (wrong ones, see labs/mutants.py)."""

    path: Path

    @cached_property
    def file(self) -> _LabFile:
        """Raises KailabError naming the field that is wrong."""
        source = self.path / "lab.yaml"
        try:
            return msgspec.convert(load(source.read_text()), _LabFile)
        except (msgspec.ValidationError, yaml.YAMLError, OSError) as wrong:
            raise KailabError(f"{source} is not a valid lab description.", why=str(wrong)) from None

    @property
    def number(self) -> int:
        return int(self.path.name.split("_", 1)[0])

    @property
    def namespace(self) -> str:
        return f"lab-{self.number:02d}"

    @property
    def title(self) -> str:
        return self.file.title

    @cached_property
    def spec(self) -> LabSpec:
        file = self.file
        tasks = tuple(
            TaskSpec(
                task.id,
                self.fill(task.title),
                tuple(CheckSpec(check.id, task.id, self.fill(check.title), check.points) for check in task.checks),
                tuple(Hint(self.fill(hint.text), hint.when) for hint in task.hints),
            )
            for task in file.tasks
        )
        return LabSpec(file.number, file.slug, file.title, self.namespace, file.names, tasks, file.seconds)

    @cached_property
    def checks(self) -> Checks:
        """The lab's checks.py. Raises KailabError when it and lab.yaml don't name the same checks."""
        module = importlib.import_module(f"labs.{self.path.name}.checks")
        checks: Checks = module.checks
        written, declared = {check.id for check in self.spec.checks}, {check.id for check in checks}
        if written != declared:
            raise KailabError(
                f"lab {self.number}: lab.yaml and checks.py disagree about: {', '.join(sorted(written ^ declared))}"
            )
        return checks

    def fill(self, text: str) -> str:
        """Put the lab's names into {{placeholders}}. Raises KailabError for a name that lab.yaml lacks."""

        def value(found: re.Match[str]) -> str:
            try:
                return str({**self.file.names, "namespace": self.namespace}[found[1]])
            except KeyError:
                raise KailabError(f"lab {self.number}: no name {found[1]!r} in lab.yaml") from None

        return _PLACEHOLDER.sub(value, text)

    @property
    def readme(self) -> str:
        return self.fill((self.path / "README.md").read_text())

    def manifests(self, folder: str) -> list[Object]:
        """All objects of a folder's YAML files, in file order."""
        return read_manifests(self.path / folder)

    @property
    def alternatives(self) -> list[Path]:
        return sorted(path for path in (self.path / "alternatives").glob("*") if path.is_dir())

    @property
    def mutants(self) -> list[Path]:
        return sorted((self.path / "mutants").glob("*.yaml"))


def read_manifests(folder: Path) -> list[Object]:
    """Objects of our own, trusted manifests; students' files go through kubectl instead."""
    files = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
    return [item for file in files for item in load_all(file.read_text())]


def facts(namespace: str) -> dict[str, str]:
    """What right answers may depend on, for {{placeholders}} in solutions and mutants."""
    return {"namespace": namespace, "kubernetes": KUBERNETES_VERSION}


def fill_in(value: Any, known: Mapping[str, str]) -> Any:
    """Text, or every text inside of an object, with its {{placeholders}} filled; unknown ones stay."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), value)
    if isinstance(value, dict):
        return {key: fill_in(entry, known) for key, entry in value.items()}
    return [fill_in(entry, known) for entry in value] if isinstance(value, list) else value


def all_labs() -> list[LabFolder]:
    """Every lab, in order."""
    return sorted((LabFolder(path.parent) for path in LABS.glob("[0-9][0-9]_*/lab.yaml")), key=lambda lab: lab.number)


def lab_numbered(number: int) -> LabFolder:
    """Raises KailabError naming the labs that exist."""
    labs = {lab.number: lab for lab in all_labs()}
    if number not in labs:
        there = ", ".join(str(known) for known in labs)
        raise KailabError(f"There is no lab {number}.", why=f"The labs so far: {there}.", mend="kailab list")
    return labs[number]
