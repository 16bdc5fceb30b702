"""The course in a notebook: `%load_ext course`, then `lab(6)` for a lab's panel, `quiz(6)` for its questions and
`%%manifest` for YAML cells."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from checkers.notebook import Panel
    from course.questions import Quiz
    from labs.desk import Desk

__all__ = ["check", "lab", "quiz", "start"]


def start(number: int) -> None:
    """Start a lab, and say where it is; from then on `kubectl` and `%%manifest` work in its namespace."""
    from cluster.errors import KailabError

    desk = _desk(number)
    try:
        news = desk.start()
    except KailabError as failed:
        print(failed)  # noqa: T201 - the cell's output
        return
    print(f"Lab {number} {'is started' if news else 'was started already'}: namespace {desk.lab.namespace}")  # noqa: T201
    print(f"Its files: {desk.folder}")  # noqa: T201


def lab(number: int) -> Panel:
    """The panel of a lab: its tasks, check buttons, hints. Raises KailabError for a lab that there is not."""
    from checkers.notebook import Panel

    return Panel(_desk(number))


def check(number: int, task: str = "") -> float:
    """Check a lab, or one task of it, show the report, and return the points that were earned.

    The points are those of the checks that were looked at; a check that could not be judged earns nothing here.
    """
    from IPython.display import HTML, display

    from checkers.report.html import parts

    if os.environ.get("NBGRADER_EXECUTION") == "autograde":
        # nbgrader without the course's configuration: what it runs here would look at the instructor's own lab. Only
        # when the kernel goes does it give no points, neither none nor all.
        os._exit(1)
    report = _desk(number).check(task)
    display(HTML(parts(report, task)))  # type: ignore[no-untyped-call]
    wanted = [found for found in report.checks if task in ("", found.task)]
    return min(float(sum(found.points for found in wanted)), float(sum(found.max_points for found in wanted)))


def quiz(number: int) -> Quiz:
    """The questions of a chapter, answered by the cluster. Raises KailabError for a chapter that has none."""
    from course.questions import Quiz

    return Quiz(number)


def _desk(number: int) -> Desk:
    """Imported when needed: a kernel loads this package before its first cell."""
    from cluster.workspace import Workspace
    from labs.catalog import lab_numbered
    from labs.desk import Desk

    return Desk(Workspace.here(), lab_numbered(number))


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext course` does: the `%%manifest` magic, and `start`, `lab` and `check` at hand."""
    from course.manifest import manifest

    shell.register_magic_function(manifest, "cell", "manifest")
    shell.push({"lab": lab, "check": check, "quiz": quiz, "start": start}, interactive=False)
