"""The course in a notebook: `%load_ext course`, then `lab(6)` for a lab's panel, `quiz(6)` for its questions,
`cluster()` and `timeline()` to see what happens, and `%%manifest` for YAML cells."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from checkers.notebook import Panel, View
    from checkers.notebook.feed import Feed, KubectlNamespace
    from cluster.api import Api
    from course.questions import Quiz
    from course.recording import Timeline
    from labs.desk import Desk

__all__ = ["check", "cluster", "lab", "progress", "quiz", "start", "timeline"]


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


def cluster() -> View:
    """The cluster as it is now and goes on to be: nodes, the pods of the lab that was started last, GPUs.

    It is one view per notebook, in as many cells as you like, and follows the cluster while one of them is on screen.
    """
    return _view()


def timeline(seconds: float = 60) -> Timeline:
    """Record pods, replicas and GPU load, and draw them.

    `with timeline():` records what a block of commands does. As the last line of a cell it records the coming
    `seconds` in the background.
    """
    from course.recording import Timeline

    feed, namespace = _feed()
    return Timeline(feed, namespace, seconds)


def progress() -> None:
    """Show the table of contents with your points, and where you left off."""
    from IPython.display import HTML, display

    from cluster.workspace import Workspace
    from course.startpage import table

    display(HTML(table(Workspace.here())))  # type: ignore[no-untyped-call]


@cache
def _view() -> View:
    from checkers.notebook import View

    return View(*_feed())


@cache
def _feed() -> tuple[Feed, KubectlNamespace]:
    """One set of watches for the whole kernel, on demand, and the namespace to look at."""
    import atexit

    from checkers.notebook.feed import Feed, KubectlNamespace
    from cluster.workspace import Workspace
    from labs.lifecycle import Course

    workspace = Workspace.here()

    @contextlib.contextmanager
    def opened() -> Iterator[Api]:
        with Course.opened(workspace) as course:
            yield course.api

    feed = Feed(opened)
    atexit.register(feed.close)
    return feed, KubectlNamespace(workspace.kubeconfig)


def _desk(number: int) -> Desk:
    """Imported when needed: a kernel loads this package before its first cell."""
    from cluster.workspace import Workspace
    from labs.catalog import lab_numbered
    from labs.desk import Desk

    return Desk(Workspace.here(), lab_numbered(number))


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext course` does: the `%%manifest` magic, and the functions above at hand."""
    from course.manifest import manifest

    shell.register_magic_function(manifest, "cell", "manifest")
    known = (check, cluster, lab, progress, quiz, start, timeline)
    shell.push({function.__name__: function for function in known}, interactive=False)
