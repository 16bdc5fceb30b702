"""What a student has done so far: one plain JSON file, kept across clusters and readable by people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from checkers.results import Outcome, Report
from checkers.spec import Hint, LabSpec, TaskSpec
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
            self.set_aside = self._path.with_suffix(".broken.json")
            self._path.replace(self.set_aside)

    def lab(self, number: int) -> LabProgress:
        return self._labs.setdefault(number, LabProgress())

    def save(self) -> None:
        document = {"current": self.current, "labs": {str(n): asdict(lab) for n, lab in sorted(self._labs.items())}}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".new")
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        unfinished.replace(self._path)

    def record(self, report: Report, when: str) -> None:
        """Note a whole run's outcome; errors change no score."""
        lab = self.lab(report.lab)
        lab.checked_at, lab.max_points = when, report.max_points
        lab.failing = []
        lab.saw = {}
        for check in report.checks:
            if check.outcome is Outcome.FAIL:
                lab.saw.setdefault(check.task, []).append(check.hint)
            if check.outcome is not Outcome.PASS and check.task not in lab.failing:
                lab.failing.append(check.task)
        if not report.errors:
            lab.last = report.points
            lab.best = max(lab.best, report.points)
            lab.passed = lab.passed or report.points == report.max_points


def next_hint(task: TaskSpec, lab: LabProgress) -> Hint | None:
    """The rung that fits what the last failed check saw, else the next general one; None after the last."""
    shown = set(lab.shown.get(task.id, []))
    keys = {key for key in lab.saw.get(task.id, []) if key}
    fitting = [hint for hint in task.hints if hint.when in keys and hint.when]
    general = [hint for hint in task.hints if not hint.when]
    return next((hint for hint in [*fitting, *general] if hint.text not in shown), None)


def hints_left(lab: LabSpec, entry: LabProgress) -> dict[str, int]:
    """How many hints each task still has."""
    return {task.id: len(task.hints) - len(entry.shown.get(task.id, [])) for task in lab.tasks}
