"""The live view of the cluster: nodes, the lab's pods, GPU slots, as the watches tell of them.

What the page shows is `state`, one JSON document, sent whole when something on it has changed, at most four times a
second. A page that shows it says {"do": "here", "page": ID} every few seconds, and {"do": "gone", "page": ID} when it
stops. Without such a word for a while the cluster is no longer watched: a browser that was closed says nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from checkers.notebook.changes import sentences, summary
from checkers.notebook.feed import Feed, Moment, clock
from checkers.notebook.scene import Scene, scene
from checkers.report.terminal import plain
from cluster.errors import KailabError

HERE = Path(__file__).parent
# A kernel hears no page while a cell runs, and some cells run for minutes.
SILENCE_SECONDS = 300.0
UNSEEN = ""  # the page that is to come: as soon as a cell displays this, before any page can say a word
PULSE_SECONDS = 5.0
KEPT_SENTENCES = 6
MOST_PAGES = 50


class View(anywidget.AnyWidget):
    """Shows the cluster as long as a page shows this. It may be on several pages; the watches are there once."""

    _esm = (HERE / "keys.js").read_text() + (HERE / "view.js").read_text()
    _css = HERE / "view.css"
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, feed: Feed, namespace: Callable[[], str]) -> None:
        super().__init__()
        self._feed, self._namespace = feed, namespace
        self._lock = threading.Lock()
        self._pages: dict[str, float] = {}
        self._scene: Scene | None = None
        self._said: list[dict[str, Any]] = []
        self._numbers = count(1)
        self._pulsed = 0.0
        self.state = {"phase": "starting", "problem": {}, "scene": {}, "said": [], "at": ""}
        self.on_msg(self._hear)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        self._arrive(UNSEEN)
        return super()._repr_mimebundle_(**kwargs)

    @property
    def is_watching(self) -> bool:
        """Whether any page shows this now, or is about to."""
        return bool(self._pages)

    def close(self) -> None:
        """Show nothing from now on."""
        with self._lock:
            self._pages.clear()
            self._feed.drop(self)
        super().close()

    def _hear(self, _: Any, message: Any, __: Any) -> None:
        """What a page says. Whatever that may be, only these two things happen."""
        said = message if isinstance(message, dict) else {}
        page = str(said.get("page"))[:64]
        if said.get("do") == "here":
            self._arrive(page)
        elif said.get("do") == "gone":
            self._leave({page})

    def _arrive(self, page: str) -> None:
        with self._lock:
            self._pages.pop(UNSEEN, None)
            if page in self._pages or len(self._pages) < MOST_PAGES:
                self._pages[page] = time.monotonic()
            self._feed.add(self, self._take)

    def _leave(self, pages: set[str]) -> None:
        with self._lock:
            self._pages = {page: heard for page, heard in self._pages.items() if page not in pages}
            if not self._pages:
                self._feed.drop(self)

    def _take(self, moment: Moment) -> None:
        """A moment of the feed, in its thread."""
        now = time.monotonic()
        with self._lock:
            silent = {page for page, heard in self._pages.items() if now - heard > SILENCE_SECONDS}
        self._leave(silent)
        if moment.problem is not None:
            self._show_problem(moment.problem)
        else:
            self._show(scene(moment, self._namespace()))
        if now - self._pulsed >= PULSE_SECONDS:  # so that the page can tell a quiet cluster from a kernel that is gone
            self._pulsed = now
            self.send({"pulse": True})

    def _show(self, found: Scene) -> None:
        if self._scene is None:
            self._say(summary(found))
        elif self.state["phase"] == "lost":
            self._say("the cluster answers again", summary(found))
        else:
            self._say(*sentences(self._scene, found))
        if found != self._scene or self.state["phase"] != "live":
            self._scene = found
            self.state = {"phase": "live", "problem": {}, "scene": found, "said": list(self._said), "at": clock()}

    def _show_problem(self, problem: KailabError) -> None:
        if self.state["phase"] == "lost" and self.state["problem"]["text"] == plain(problem.what):
            return
        words = {"text": plain(problem.what), "why": plain(problem.why), "mend": plain(problem.mend)}
        self.state = {**self.state, "phase": "lost", "problem": words}

    def _say(self, *texts: str) -> None:
        now = clock()
        self._said += [{"number": next(self._numbers), "at": now, "text": text} for text in texts]
        self._said = self._said[-KEPT_SENTENCES:]
