"""What a student has done so far: one plain JSON file, kept across clusters and readable by people."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from checkers.results import Outcome, Report
from checkers.spec import Hint, LabSpec, TaskSpec
from cluster.files import replace
from cluster.workspace import Workspace


@dataclass
class LabProgress:
    """`best` and `last` are points; `given` are UIDs of given objects; `shown` are texts of hints taken per
    task; `saw` the hint keys of the last failed checks per task."""

    started: bool = False
    best: float = 0.0
    last: float = 0.0
    max_points: float = 0.0
    passed: bool = False
    checked_at: str = ""
    given: dict[str, str] = field(default_factory=dict)
    shown: dict[str, list[str]] = field(default_factory=dict)
    saw: dict[str, list[str]] = field(default_factory=dict)
    failing: list[str] = field(default_factory=list)


class Progress:
    """The file .kailab/progress.json. A broken file is set aside, never overwritten."""

    def __init__(self, workspace: Workspace) -> None:
        self._path = workspace.state / "progress.json"
        self.current = 0
        self.set_aside: Path | None = None
        self._labs: dict[int, LabProgress] = {}
        try:
            document = json.loads(self._path.read_text())
            self.current = int(document["current"])
            self._labs = {int(number): LabProgress(**entry) for number, entry in document["labs"].items()}
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            self.set_aside = _unused(self._path.with_suffix(".broken.json"))
            self._path.replace(self.set_aside)

    @classmethod
    @contextmanager
    def changed(cls, workspace: Workspace) -> Iterator[Progress]:
        """The file as it is at this moment, saved at the end of the block; whoever else changes it waits so long."""
        from filelock import FileLock  # whoever only reads need not wait for this import

        workspace.state.mkdir(parents=True, exist_ok=True)
        with FileLock(workspace.state / "progress.lock"):
            progress = cls(workspace)
            yield progress
            progress.save()

    def lab(self, number: int) -> LabProgress:
        return self._labs.setdefault(number, LabProgress())

    def save(self) -> None:
        document = {"current": self.current, "labs": {str(n): asdict(lab) for n, lab in sorted(self._labs.items())}}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace(self._path, json.dumps(document, indent=1) + "\n")

    def record(self, report: Report, when: str, task: str = "") -> None:
        """Note a run's outcome: what failed in the tasks it looked at, and, of a whole run without errors, points."""
        lab = self.lab(report.lab)
        lab.checked_at, lab.max_points = when, report.max_points
        looked_at = {check.task for check in report.checks if task in ("", check.task)}
        lab.failing = [name for name in lab.failing if name not in looked_at]
        lab.saw = {name: keys for name, keys in lab.saw.items() if name not in looked_at}
        for check in (found for found in report.checks if found.task in looked_at):
            if check.outcome is Outcome.FAIL:
                lab.saw.setdefault(check.task, []).append(check.hint)
            if check.outcome is not Outcome.PASS and check.task not in lab.failing:
                lab.failing.append(check.task)
        if not report.errors and not task:
            lab.last = report.points
            lab.best = max(lab.best, report.points)
            lab.passed = lab.passed or report.points == report.max_points


def _unused(path: Path) -> Path:
    """The path itself, or with a number that no file has yet."""
    numbered = (path.with_suffix(f".{number}.json") for number in itertools.count(2))
    return path if not path.exists() else next(other for other in numbered if not other.exists())


def next_hint(task: TaskSpec, lab: LabProgress) -> Hint | None:
    """The rung that fits what the last failed check saw, else the next general one; None after the last."""
    return next(iter(_ladder(task, lab)), None)


def _ladder(task: TaskSpec, lab: LabProgress) -> list[Hint]:
    """The rungs not taken yet, without those for failures that weren't seen."""
    shown, keys = set(lab.shown.get(task.id, [])), set(lab.saw.get(task.id, [])) - {""}
    fitting = [hint for hint in task.hints if hint.when in keys]
    general = [hint for hint in task.hints if not hint.when]
    return [hint for hint in (*fitting, *general) if hint.text not in shown]


def hints_left(lab: LabSpec, entry: LabProgress) -> dict[str, int]:
    """How many hints each task can still give."""
    return {task.id: len(_ladder(task, entry)) for task in lab.tasks}
