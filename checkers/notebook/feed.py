"""One look at the whole cluster for all that a notebook shows of it: a single set of watches, there while anybody
wants it, and made anew when the API server has been away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from checkers.observe import Observation, View
from cluster.api import Api, Unreachable
from cluster.errors import KailabError
from cluster.gpu import control
from cluster.yamls import load

KINDS = ("Node", "Pod", "Deployment", "StatefulSet", "Job")
SHORTEST = 0.25  # seconds between two moments: a rollout changes dozens of objects at once
LONGEST = 1.0
GPU_SECONDS = 2.0
RETRY_SECONDS = 2.0
Status = Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """`objects` of all namespaces by kind; `gpus` as the nodes' agents tell, None before they were asked. With a
    `problem`, the cluster could not be read, and there is nothing else."""

    objects: View | None = None
    gpus: Sequence[Status] | None = None
    problem: KailabError | None = None


Take = Callable[[Moment], None]


class Feed:
    """Tells everyone in it of every moment, between once and four times a second. Thread-safe.

    `opened` gives a connection to the cluster and raises KailabError where there is none. Nothing is watched and no
    thread runs while nobody is in the feed.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[Api]]) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._takers: dict[object, Take] = {}
        self._thread: threading.Thread | None = None
        self._left = threading.Event()

    def add(self, who: object, take: Take) -> None:
        """From now on `take` hears of every moment, from a thread of the feed's own; the same `who` is there once."""
        with self._lock:
            self._takers[who] = take
            self._left.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kailab-feed", daemon=True)
                self._thread.start()

    def drop(self, who: object) -> None:
        """After the last one has left, all watches end."""
        with self._lock:
            self._takers.pop(who, None)
            if not self._takers:
                self._left.set()

    def close(self) -> None:
        """Everyone leaves."""
        with self._lock:
            self._takers.clear()
            self._left.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    @property
    def is_running(self) -> bool:
        return self._thread is not None

    def _run(self) -> None:
        while self._is_wanted():
            try:
                self._follow()
            except KailabError as failed:
                self._tell(Moment(problem=failed))
            except Exception as broken:  # noqa: BLE001 - a student must never see a traceback, nor a silent standstill
                text = f"kailab itself broke (feed): {type(broken).__name__}: {broken}"
                self._tell(Moment(problem=KailabError(text, mend="Kernel > Restart, and again")))
            self._left.wait(RETRY_SECONDS)

    def _is_wanted(self) -> bool:
        """Decides and notes the end in one step: who is added a moment later starts a new thread."""
        with self._lock:
            if not self._takers:
                self._thread = None
            return bool(self._takers)

    def _follow(self) -> None:
        """Moments until nobody wants them any more. Raises KailabError when the cluster is lost."""
        with self._opened() as api, closing(Observation(api, "", KINDS)) as seen, closing(_Gpus(api)) as gpus:
            seen.refresh()
            seen.follow()
            while not self._left.is_set():
                if gpus.lost is not None:
                    raise gpus.lost
                count = seen.count
                self._tell(Moment(seen.view(), gpus.found))
                self._left.wait(SHORTEST)
                seen.wait(count, LONGEST - SHORTEST)

    def _tell(self, moment: Moment) -> None:
        with self._lock:
            takers = list(self._takers.values())
        for take in takers:
            take(moment)


class _Gpus:
    """What the agents say, asked again and again in a thread of its own: one that hangs must not stop the watches.

    It is also who notices first that the API server is gone: a watch hears nothing, and that is nothing unusual.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._stop = threading.Event()
        self.found: Sequence[Status] | None = None
        self.lost: Unreachable | None = None
        threading.Thread(target=self._ask, name="kailab-feed-gpus", daemon=True).start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self.found = control.statuses(self._api)
            except Unreachable as lost:
                self.lost = lost
            except KailabError:
                pass  # refused for the moment: what was known stays
            self._stop.wait(GPU_SECONDS)

    def close(self) -> None:
        self._stop.set()


class KubectlNamespace:
    """The namespace in which `kubectl` works, as its kubeconfig says now: that of the lab that was started last."""

    def __init__(self, kubeconfig: Path) -> None:
        self._path = kubeconfig
        self._read_at = 0
        self._name = "default"

    def __call__(self) -> str:
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._read_at:
                self._name = _namespace(load(self._path.read_text()))
                self._read_at = changed
        except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration):
            pass  # being written, or gone with its cluster: the last one known
        return self._name


def _namespace(kubeconfig: Any) -> str:
    current = kubeconfig["current-context"]
    entry = next(one["context"] for one in kubeconfig["contexts"] if one["name"] == current)
    return str(entry.get("namespace") or "default")


def clock() -> str:
    """The time of day for a reader."""
    return time.strftime("%H:%M:%S")
