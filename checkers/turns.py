"""Taking turns on the nodes: several runs may share a cluster, and a check that cordons a node concerns them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from cluster import leases
from cluster.api import Object

LOOK_EVERY = 0.5
CLOCKS_APART = 5.0  # seconds that the clocks of a cluster's nodes may differ
NODES = "nodes"  # the Lease's name


class Turns(Protocol):
    """Who may change nodes, among runs on one machine or in one cluster."""

    def alone(self, waiting: Callable[[float], None]) -> AbstractContextManager[None]:
        """Be the only one that changes nodes. `waiting` is told the seconds of each vain look; it may raise."""

    def is_taken(self) -> bool:
        """Whether another is alone with the nodes now, so that we would have to wait."""

    def was_another(self, since: float) -> bool:
        """Whether anybody has been alone with the nodes at any moment since then (seconds since the epoch)."""


class FileTurns:
    """For runs on one machine: a lock file in the cluster's state folder, and a mark of when it was held last."""

    def __init__(self, state: Path) -> None:
        self._lock, self._mark = state / "nodes.lock", state / "nodes.turn"

    @contextmanager
    def alone(self, waiting: Callable[[float], None]) -> Iterator[None]:
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
        return (self._mark.exists() and self._mark.stat().st_mtime >= since) or self.is_taken()

    def is_taken(self) -> bool:
        lock = FileLock(self._lock)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        lock.release()
        return False


class LeaseTurns:
    """For runs in pods on several nodes: a Lease, whose renewTime tells when it was held last.

    `mend` is called by whoever gets the turn of a run that was lost in the middle of its own: nobody else will put
    back what that run had done to the nodes. `lost` is called when our own turn has passed to another.
    """

    def __init__(self, api: leases.Store, namespace: str, name: str, *, mend: Callable[[], None],
                 lost: Callable[[], None]) -> None:  # fmt: skip
        self._api, self._namespace, self._name = api, namespace, name
        self._mend, self._lost = mend, lost
        self._silence = leases.Silence()

    @contextmanager
    def alone(self, waiting: Callable[[float], None]) -> Iterator[None]:
        while (taken := self._take()) is None:
            time.sleep(LOOK_EVERY)
            waiting(LOOK_EVERY)
        mine, before = taken
        with leases.Held(self._api, mine, self._lost):
            if before:
                self._mend()
            yield

    def _take(self) -> tuple[Object, str] | None:
        """The Lease as ours, and who had it without giving it up; None while another holds it."""
        found = leases.ensure(self._api, NODES, self._namespace)
        if not self._silence.is_free(found):
            return None
        mine = leases.take(self._api, found, self._name)
        return (mine, leases.holder(found)) if mine else None

    def is_taken(self) -> bool:
        return not self._silence.is_free(leases.ensure(self._api, NODES, self._namespace))

    def was_another(self, since: float) -> bool:
        found = leases.ensure(self._api, NODES, self._namespace)
        renewed = (found.get("spec") or {}).get("renewTime")
        held = leases.holder(found) not in ("", self._name)
        return held or (renewed is not None and datetime.fromisoformat(renewed).timestamp() >= since - CLOCKS_APART)
