"""A lab's panel: tasks with their state, check buttons with live progress, hints, reset, and in the end a solution.

What the page shows is `state`, one JSON document that is sent whole whenever it changes (a few KB). The page sends
back {"do": "check" | "hint" | "reset" | "solution", "task": ...}. The page puts everything in as text but two things:
hints, which are the course's own, and checks, which the report's template has escaped as on every page.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import anywidget
import traitlets

from checkers.report.html import check_style, open_part, part
from checkers.report.terminal import plain
from checkers.results import CheckResult, Outcome, Report
from checkers.runner import Listener
from checkers.spec import LabSpec
from cluster.errors import KailabError

HERE = Path(__file__).parent


class Work(Protocol):
    """What a panel works on: one lab of one student. All methods raise KailabError saying what mends it."""

    @property
    def spec(self) -> LabSpec: ...
    def state(self) -> Mapping[str, Any]:
        """{"passed": bool, "shown": {task: [hint texts]}, "left": {task: hints left}} as noted so far."""

    def check(self, task: str, listen: Listener) -> Report: ...
    def hint(self, task: str) -> str | None: ...
    def reset(self) -> Path | None: ...
    def solution(self) -> Sequence[tuple[str, str]]: ...


class Panel(anywidget.AnyWidget):
    """Shows one lab. `report` is the last check's, None before the first."""

    _esm = (HERE / "keys.js").read_text() + (HERE / "panel.js").read_text()
    _css = check_style() + (HERE / "panel.css").read_text()
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work, self._lock = work, threading.RLock()
        self._busy: threading.Thread | None = None
        self.report: Report | None = None
        self._results: dict[str, CheckResult] = {}
        self._running: dict[str, str] = {}
        self._started = 0.0
        self._wanted = ""
        self._message: dict[str, str] = {}
        self._solution: list[dict[str, str]] = []
        self._known = work.state()
        self._show()
        self.on_msg(self._take)

    def check(self, task: str = "") -> threading.Thread:
        """Begin to check all or one task; the thread that does it, or the one that is at it already."""
        return self._begin("check", lambda: self._check(task), task)

    def _take(self, _: Any, message: Any, __: Any) -> None:
        """A click. Whatever a page may send, only what is known here happens."""
        wanted = message if isinstance(message, dict) else {}
        act, task = str(wanted.get("do")), str(wanted.get("task") or "")
        if task and task not in {known.id for known in self._work.spec.tasks}:
            return
        does: dict[str, Callable[[], None]] = {
            "hint": lambda: self._hint(task), "reset": self._reset, "solution": self._solve,
        }  # fmt: skip
        if act == "check":
            self.check(task)
        elif act in does and (task or act != "hint"):
            self._begin(act, does[act], task)

    def _begin(self, what: str, act: Callable[[], None], task: str) -> threading.Thread:
        with self._lock:
            if self._busy is not None and self._busy.is_alive():
                return self._busy
            self._message = {}
            self._started, self._wanted = time.monotonic(), task if what == "check" else ""
            self._busy = threading.Thread(target=self._guarded, args=(what, act), name=f"kailab-{what}", daemon=True)
            self._busy.start()
            return self._busy

    def _guarded(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except KailabError as failed:
            self._message = {"text": failed.what, "why": failed.why, "mend": failed.mend}
        except Exception as broken:  # noqa: BLE001 - a student must never see a traceback
            text = f"kailab itself broke ({what}): {type(broken).__name__}: {broken}"
            self._message = {"text": text, "why": "Your work is as it was.", "mend": "Kernel > Restart, and again"}
        with self._lock:
            self._running.clear()
            self._started = 0.0
            self._known = self._work.state()  # a file: read after each click, not at each event of a check
        self._show()

    def _check(self, task: str) -> None:
        with self._lock:
            for spec in self._work.spec.checks:
                if task in ("", spec.task):
                    self._results.pop(spec.id, None)
            self._running = {"": "looking at the cluster"}
        self._show()
        self.report = self._work.check(task, self._listen)

    def _listen(self, what: str, about: Any) -> None:
        with self._lock:
            self._running.pop("", None)
            if what == "started":
                self._running[about] = ""
            elif what == "say":
                self._running[about[0]] = about[1]
            else:
                self._running.pop(about.id, None)
                # A single task's run skips all others; what was known of them stays.
                if about.outcome is not Outcome.SKIPPED or self._wanted in ("", about.task):
                    self._results[about.id] = about
        self._show()

    def _hint(self, task: str) -> None:
        if self._work.hint(task) is None:
            self._message = {"text": "That was the last hint for this task.", "why": "", "mend": ""}

    def _reset(self) -> None:
        with self._lock:
            self._running = {"": "removing what is there and starting anew"}
        self._show()
        kept = self._work.reset()
        self._results, self._solution, self.report = {}, [], None
        self._message = {"text": "The lab is as at the start.", "why": f"Your files are in {kept}" if kept else "",
                         "mend": ""}  # fmt: skip

    def _solve(self) -> None:
        self._solution = [{"name": name, "text": text} for name, text in self._work.solution()]

    def _show(self) -> None:
        with self._lock:
            known, spec = self._known, self._work.spec
            tasks = [
                {
                    "id": task.id, "title": task.title, "hints": list(map(_html, known["shown"].get(task.id, []))),
                    "hints_left": known["left"].get(task.id, 0),
                    "checks": [_shown(self._results.get(check.id), check.id, check.title, check.points, self._running)
                               for check in task.checks],
                }
                for task in spec.tasks
            ]  # fmt: skip
            done = [check for task in tasks for check in task["checks"] if check["outcome"]]
            self.state = {
                "lab": spec.number, "title": spec.title, "namespace": spec.namespace, "tasks": tasks,
                "points": sum(check["points"] for check in done),
                "max_points": sum(check.points for check in spec.checks),
                "passed": known["passed"], "busy": self._started > 0, "wanted": self._wanted,
                "seconds": round(time.monotonic() - self._started, 1) if self._started else 0,
                "doing": next((text for text in self._running.values() if text), ""),
                "message": {key: plain(text) for key, text in self._message.items()},
                "solution": self._solution,
            }  # fmt: skip


def _shown(
    result: CheckResult | None, check: str, title: str, points: float, running: Mapping[str, str]
) -> dict[str, Any]:
    if result is None:
        return {"id": check, "outcome": "", "points": 0, "html": open_part(title, points, running.get(check))}
    return {"id": check, "outcome": result.outcome.value, "points": result.points, "html": part(result)}


@cache
def _html(markdown: str) -> str:
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark", {"html": False}).render(markdown))
