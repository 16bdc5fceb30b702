"""`kailab check N --watch`: the lab's checks looked at again whenever the cluster changes."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from checkers.lab import Sources
from checkers.report.terminal import details, forgive, line
from checkers.results import Outcome, Report
from checkers.runner import Run, Setting
from cluster.workspace import Workspace
from labs.catalog import LabFolder
from labs.lifecycle import Course, observed, require_started
from labs.progress import Progress

SETTLE_SECONDS = 0.2  # a rollout changes many objects at once; one look for all of them
PROBE_SECONDS = 2.0  # answers of the workload may change although no object does


def watch_lab(workspace: Workspace, lab: LabFolder, task: str, console: Console) -> int:
    """Follow a started lab until its checks pass or Ctrl-C; the exit status of the last look.

    Triggered checks are left to `kailab check`: they disturb what the student is working on.
    """
    report = None
    forgive(console)
    with Course.opened(workspace) as course, observed(course, lab, lab.namespace) as sources:
        given = Progress(workspace).lab(lab.number).given
        setting = Setting(lab.namespace, workspace.state, course.cluster, given, task, quick=True)
        sources.observation.follow()
        view = _Window(console) if console.is_terminal else _Lines(console)
        with view:
            try:
                while True:
                    count = sources.observation.count
                    require_started(sources.observation, lab, lab.namespace)
                    report = Run(lab.spec, lab.checks, setting, sources).report()
                    view.show(report)
                    if _is_done(report):
                        break
                    _wait(sources, count)
            except KeyboardInterrupt:
                pass
    if report is None:
        return 1
    if _is_done(report):
        console.print(f"All of this holds. Now the checks that disturb it on purpose: kailab check {lab.number}")
        return 0
    return report.exit_code


def _wait(sources: Sources, count: int) -> None:
    sources.observation.wait(count, PROBE_SECONDS)
    time.sleep(SETTLE_SECONDS)


def _is_done(report: Report) -> bool:
    looked_at = [check for check in report.checks if check.outcome is not Outcome.SKIPPED]
    return bool(looked_at) and all(check.outcome is Outcome.PASS for check in looked_at)


class _Window:
    """One picture in the terminal, redrawn only when something on it has changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._shown = ""

    def __enter__(self) -> _Window:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, report: Report) -> None:
        picture = _picture(report, self._console)
        with self._console.capture() as capture:
            self._console.print(picture)
        if capture.get() != self._shown:
            self._shown = capture.get()
            self._live.update(picture, refresh=True)


class _Lines:
    """Where there is no terminal: a line for each check whose outcome changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._known: dict[str, Outcome] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, report: Report) -> None:
        for check in report.checks:
            if self._known.get(check.id) is not check.outcome and check.outcome is not Outcome.SKIPPED:
                self._console.print(line(check, self._console), soft_wrap=True)
            self._known[check.id] = check.outcome


def _picture(report: Report, console: Console) -> RenderableType:
    parts: list[RenderableType] = [Text(f"Lab {report.lab}: {report.title}   (Ctrl-C ends watching)", style="bold")]
    parts += [line(check, console) for check in report.checks]
    failed = next((check for check in report.checks if check.outcome is Outcome.FAIL), None)
    if failed is not None:
        parts += [Text(""), Group(*details(failed, console))]
    return Group(*parts)
