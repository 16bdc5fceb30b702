"""`kailab grade` as its user sees it: who is at work, who is done, and where the results are."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from checkers.report.document import to_document
from checkers.report.terminal import forgive, number, plain
from cluster.workspace import Workspace
from labs.catalog import LabFolder
from labs.grading.reading import students
from labs.grading.records import GRADED, NOT_GRADED, Record, Records
from labs.grading.remote.roll import Roll
from labs.grading.remote.run import RemoteRun, clear_away, require_same
from labs.grading.remote.where import Place
from labs.grading.run import ClassRun
from labs.lifecycle import Course


def grade_class(
    workspace: Workspace, lab: LabFolder, paths: list[Path], *, jobs: int, out: Path, again: bool, as_json: bool,
    console: Console, place: Place | None = None,
) -> int:  # fmt: skip
    """Grade and tell; the exit status: 0 when every submission has its points, 2 when some could not be judged.

    With a place the workers are in that cluster, not here.
    """
    forgive(console)
    named = students(paths, lab.namespace)
    records = Records(out.absolute(), lab)
    with _Screen(console, len(named)) as screen:
        if place is None:
            with Course.opened(workspace) as course:
                found = ClassRun(course, lab, records, jobs, again, screen.listen).grade(named)
        else:
            with place.opened(workspace) as course, _going_on(console):
                found = RemoteRun(course, lab, records, place, jobs, again, screen.listen).grade(named)
    left = [record for record in found if not record.is_graded]
    if as_json:
        print(json.dumps(_document(lab, found), indent=2))  # noqa: T201 - the document is the result
    console.print(Text(f"{len(found) - len(left)} of {len(found)} graded: {out}, feedback in {records.folder}"),
                  soft_wrap=True)  # fmt: skip
    for record in left:
        console.print(Text(f"  not graded: {plain(record.student)}: {_reason(record)}"), soft_wrap=True)
    for record in found:
        if record.note:
            console.print(Text(f"  {plain(record.student)}: {plain(record.note)}"), soft_wrap=True)
    if left:
        console.print("The same command grades those again, and leaves the others as they are. How the cluster is: "
                      "kailab status", soft_wrap=True)  # fmt: skip
    return 2 if left else 0


@contextmanager
def _going_on(console: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.print("The workers in the cluster go on. The same command fetches what they find; with --stop it ends "
                      "and removes them.", soft_wrap=True)  # fmt: skip
        raise


def end_run(workspace: Workspace, lab: LabFolder, out: Path, place: Place, console: Console) -> int:
    """End a run in the cluster whose command has gone, and remove all of it.

    Raises KailabError when it is another class's.
    """
    with place.opened(workspace) as course, place.alone(course):
        Roll(course.api, Records(out.absolute(), lab)).require_named()
        require_same(course, lab)
        clear_away(course, lab)
    console.print("The workers are gone, with all that they had made. What was fetched stays.")
    return 0


def _reason(record: Record) -> str:
    if record.report is None:
        return plain(record.why)
    return plain(record.report.errors[0].observed if record.report.errors else record.why)


def _document(lab: LabFolder, found: list[Record]) -> dict[str, Any]:
    return {
        "lab": lab.number,
        "submissions": [{
            "student": record.student, "submission": record.submission, "problems": list(record.problems),
            "status": GRADED if record.is_graded else NOT_GRADED, "why": record.why,
            "note": record.note,
            "report": to_document(record.report) if record.report else None,
        } for record in found],
    }  # fmt: skip


class _Screen:
    """A bar for the class, and a line for each submission that is done. Thread-safe."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._lock = console, threading.Lock()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("grading", total=total)
        self._running: list[str] = []

    def __enter__(self) -> _Screen:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def listen(self, what: str, about: Any) -> None:
        with self._lock:
            if what == "silent":
                self._console.print(f"  The cluster does not answer; waiting for it, {about:.0f} s at most.")
                return
            if what in ("started", "again"):
                self._running.append(about)
            else:
                if about.student in self._running:
                    self._running.remove(about.student)
                self._console.print(_line(what, about), soft_wrap=True)
                self._bar.advance(self._task)
            if what == "again":
                self._console.print(Text(f"  {plain(about)}: a busy machine may be to blame; once more, alone"))
            shown = ", ".join(self._running[:4]) + (" ..." if len(self._running) > 4 else "")
            self._bar.update(self._task, description=plain(shown) or "grading")


def _line(what: str, record: Record) -> Text:
    if not record.is_graded or record.report is None:
        return Text(f"! {plain(record.student)}  not graded: {_reason(record)}", style="yellow")
    report = record.report
    full = report.points == report.max_points
    text = f"{plain(record.student)}  {number(report.points)}/{number(report.max_points)}"
    rest = "  as before" if what == "kept" else f"  {record.seconds:.0f} s"
    many = len(record.problems)
    notes = f"  {many} problem{'s' if many > 1 else ''} in the files" if many else ""
    return Text.assemble(("✓ " if full else "· ", "green" if full else ""), text, (rest, "dim"), (notes, "yellow"))
