"""Taking turns on the nodes: several runs may share a cluster, and a check that cordons a node concerns them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOOK_EVERY = 0.5


class Turns:
    """A lock file in the cluster's state folder, and a mark of when it was held last."""

    def __init__(self, state: Path) -> None:
        self._lock, self._mark = state / "nodes.lock", state / "nodes.turn"

    @contextmanager
    def alone(self, waiting: Callable[[float], None]) -> Iterator[None]:
        """Be the only one that changes nodes. `waiting` is told the seconds of each vain look; it may raise."""
        lock = FileLock(self._lock)
        while True:
            try:
                lock.acquire(timeout=LOOK_EVERY)
                break
            except Timeout:
                waiting(LOOK_EVERY)
        try:
            self._mark.touch()
            yield
        finally:
            self._mark.touch()
            lock.release()

    def was_another(self, since: float) -> bool:
        """Whether anybody has been alone with the nodes at any moment since then (seconds since the epoch)."""
        if self._mark.exists() and self._mark.stat().st_mtime >= since:
            return True
        lock = FileLock(self._lock)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        lock.release()
        return False
