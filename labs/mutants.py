"""Submissions that the author gate tries: the starter, right solutions, and mutants, each with what it must get."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonpatch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from checkers.spec import LabSpec
from cluster.api import Object
from cluster.errors import KailabError
from cluster.yamls import load
from labs.catalog import LabFolder, read_manifests


class _MutantFile(BaseModel):
    """mutants/NAME.yaml: one realistic mistake, as changes to the solution.

    `patches` are RFC 6902 operations by "Kind/name"; `remove` takes objects away; `add` gives more. `fails` are
    the ids of exactly the checks that must fail; what needs one of those is then skipped. `points`, where given,
    is what partial work must earn.
    """

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=10)
    fails: list[str] = Field(min_length=1)
    patches: dict[str, list[dict[str, Any]]] = {}
    remove: list[str] = []
    add: list[dict[str, Any]] = []
    points: float | None = None


@dataclass(frozen=True)
class Submission:
    """Manifests to apply in a namespace of their own; `fails` empty means full marks."""

    name: str
    reason: str
    objects: tuple[Object, ...]
    fails: frozenset[str] = frozenset()
    points: float | None = None


def submissions(lab: LabFolder) -> list[Submission]:
    """Every alternative and every mutant. Raises KailabError for a mutant that makes no sense.

    The solution is not among them: it is checked in the lab's own namespace.
    """
    solution = lab.manifests("solution")
    right = "another right answer scores full marks"
    found = [Submission(f"alternative {it.name}", right, tuple(read_manifests(it))) for it in lab.alternatives]
    known = {check.id for check in lab.spec.checks}
    for file in lab.mutants:
        mutant = _read(file)
        unknown = set(mutant.fails) - known
        if unknown:
            raise KailabError(f"{file}: no check is called {', '.join(sorted(unknown))}")
        found.append(Submission(f"mutant {file.stem}", mutant.reason, tuple(_changed(solution, mutant, file)),
                                frozenset(mutant.fails), mutant.points))  # fmt: skip
    return found


def _read(file: Path) -> _MutantFile:
    try:
        return _MutantFile.model_validate(load(file.read_text()))
    except (ValidationError, yaml.YAMLError) as wrong:
        raise KailabError(f"{file} is not a valid mutant.", why=str(wrong)) from None


def _changed(solution: list[Object], mutant: _MutantFile, file: Path) -> list[Object]:
    objects = {f"{item['kind']}/{item['metadata']['name']}": copy.deepcopy(item) for item in solution}
    for name in (*mutant.patches, *mutant.remove):
        if name not in objects:
            raise KailabError(f"{file}: the solution has no {name}", why=f"It has: {', '.join(objects)}")
    for name, operations in mutant.patches.items():
        try:
            objects[name] = jsonpatch.apply_patch(objects[name], operations)
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as wrong:
            raise KailabError(f"{file}: the patch of {name} does not apply: {wrong}") from None
    return [item for name, item in objects.items() if name not in mutant.remove] + mutant.add


def expected_skips(lab: LabFolder, fails: frozenset[str]) -> frozenset[str]:
    """The checks that need, directly or not, one that fails."""
    needs: Mapping[str, tuple[str, ...]] = {check.id: check.needs for check in lab.checks}
    skipped: set[str] = set()
    grown = True
    while grown:
        more = {name for name, needed in needs.items() if name not in fails and (fails | skipped) & set(needed)}
        grown = not more <= skipped
        skipped |= more
    return frozenset(skipped)


def expected_points(spec: LabSpec, lost: frozenset[str]) -> float:
    return sum(check.points for check in spec.checks if check.id not in lost)
