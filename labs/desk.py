"""One lab as a student has it before them, whatever shows it: check, hint, reset, solution, with progress kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from checkers.results import Report
from checkers.runner import Listener
from checkers.spec import LabSpec
from cluster.errors import KailabError
from cluster.workspace import Workspace
from labs import lifecycle
from labs.catalog import LabFolder, facts, fill_in
from labs.lifecycle import Course
from labs.progress import LabProgress, Progress, hints_left, next_hint


@dataclass(frozen=True)
class Desk:
    """Every method opens the cluster for itself and raises KailabError with the command that mends it."""

    workspace: Workspace
    lab: LabFolder

    @property
    def entry(self) -> LabProgress:
        return Progress(self.workspace).lab(self.lab.number)

    @property
    def folder(self) -> Path:
        """Where the student's own files for this lab are."""
        return self.workspace.work / self.lab.namespace

    @property
    def spec(self) -> LabSpec:
        return self.lab.spec

    def state(self) -> dict[str, Any]:
        """What a panel shows beside results: passed or not, hints taken, hints left."""
        entry = self.entry
        return {"passed": entry.passed, "shown": entry.shown, "left": hints_left(self.spec, entry)}

    def start(self) -> bool:
        """Start the lab unless it is started; True when that was news."""
        with Course.opened(self.workspace) as course:
            return lifecycle.start(course, self.lab)

    def check(self, task: str = "", listen: Listener = lambda *_: None) -> Report:
        """Grade the live state and note the outcome; starts the lab where it isn't."""
        lifecycle.require_task(self.lab, task)
        with Course.opened(self.workspace) as course:
            if not lifecycle.is_started(course, self.lab.namespace):
                lifecycle.start(course, self.lab)
            report = lifecycle.check(course, self.lab, given=self.entry.given, task=task, listen=listen).report
        self.note(report, task)
        return report

    def note(self, report: Report, task: str = "") -> None:
        """Keep a run's outcome; of a run of one task, no points."""
        with Progress.changed(self.workspace) as progress:
            progress.record(report, datetime.now().astimezone().isoformat(timespec="seconds"), task)

    def hint(self, task: str) -> str | None:
        """The next hint of a task in Markdown, noted as taken; None after the last."""
        with Progress.changed(self.workspace) as progress:
            entry = progress.lab(self.lab.number)
            hint = next_hint(next(known for known in self.lab.spec.tasks if known.id == task), entry)
            if hint is not None:
                entry.shown.setdefault(task, []).append(hint.text)
        return hint.text if hint else None

    def hints_left(self) -> dict[str, int]:
        return hints_left(self.lab.spec, self.entry)

    def reset(self) -> Path | None:
        """The lab as it was at first; where the student's files were moved to."""
        with Course.opened(self.workspace) as course:
            return lifecycle.reset(course, self.lab)

    def solution(self, *, give_up: bool = False) -> list[tuple[str, str]]:
        """(file name, text) of one right solution. Raises KailabError before a pass."""
        if not give_up and not self.entry.passed:
            raise KailabError(
                f"The solution of lab {self.lab.number} opens with full marks.",
                mend=f"kailab hint {self.lab.number}, or kailab solution {self.lab.number} --give-up",
            )
        known = facts(self.lab.namespace)
        files = sorted((self.lab.path / "solution").glob("*.yaml"))
        return [(file.name, fill_in(file.read_text(), known)) for file in files]
