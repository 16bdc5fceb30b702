"""What the engine needs to know of a lab: tasks, points, titles, hints, names. Parsed and validated by labs/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hint:
    """One rung. With `when`, it comes first if the failed check raised that hint key."""

    text: str
    when: str = ""


@dataclass(frozen=True)
class CheckSpec:
    """A check as the student sees it: title and points."""

    id: str
    task: str
    title: str
    points: float


@dataclass(frozen=True)
class TaskSpec:
    """A task with its checks in order and its ladder of hints."""

    id: str
    title: str
    checks: tuple[CheckSpec, ...]
    hints: tuple[Hint, ...]


@dataclass(frozen=True)
class LabSpec:
    """A lab. `names` are the names, ports and counts that text, starter and checks share; `seconds` is the
    deadline for a whole run."""

    number: int
    slug: str
    title: str
    namespace: str
    names: Mapping[str, Any]
    tasks: tuple[TaskSpec, ...]
    seconds: float = 300.0

    @property
    def checks(self) -> tuple[CheckSpec, ...]:
        return tuple(check for task in self.tasks for check in task.checks)
