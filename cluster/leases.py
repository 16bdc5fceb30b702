"""Leases: who holds something now, told by the API server, and free again when its holder falls silent.

As in client-go's leader election a holder counts as silent when the watcher itself has seen no change of the Lease
for its whole duration, so the clocks of two nodes need not agree. Every change names the resourceVersion that it was
read at: of two who want the same Lease, the API server lets one have it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Protocol

from cluster.api import ApiError, Object, Unreachable
from cluster.kinds import Kind

SECONDS = 30  # a holder is silent for longer only if its process, node or network is gone
_RENEWALS = 5  # in that time
_GIVE_UP = 2 / 3  # of it: who can't renew stops before anybody else may begin


class Store(Protocol):
    """What of a cluster's API this module, and the queue of a class on it, rest on."""

    def get(self, kind: str | Kind, name: str, namespace: str = "") -> Object | None: ...
    def list(self, kind: str | Kind, namespace: str = "", **selectors: str) -> tuple[list[Object], str]: ...
    def create(self, item: Object, namespace: str = "") -> Object: ...
    def patch(self, kind: str | Kind, name: str, namespace: str, patch: Any) -> Object: ...
    def delete(self, kind: str | Kind, name: str, namespace: str = "") -> bool: ...


def new(name: str, *, labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None) -> Object:
    """A Lease that nobody holds."""
    meta = {"name": name, "labels": dict(labels or {}), "annotations": dict(annotations or {})}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": {}}


def ensure(api: Store, name: str, namespace: str) -> Object:
    """The Lease of that name, made if there is none."""
    while (found := api.get("Lease", name, namespace)) is None:
        create(api, new(name), namespace)
    return found


def create(api: Store, item: Object, namespace: str) -> bool:
    """Make an object; False when there is one of that name."""
    try:
        api.create(item, namespace)
    except ApiError as refused:
        if refused.status == HTTPStatus.CONFLICT:
            return False
        raise
    return True


def holder(lease: Object) -> str:
    """Who holds it, or had it when falling silent; empty when it was given up."""
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def take(api: Store, lease: Object, name: str, seconds: int = SECONDS) -> Object | None:
    """Make `name` the holder of a Lease as it was read; None when somebody else was quicker."""
    now, spec = _now(), lease.get("spec") or {}
    return _change(api, lease, {"spec": {
        "holderIdentity": name, "leaseDurationSeconds": seconds, "acquireTime": now, "renewTime": now,
        "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1,
    }})  # fmt: skip


def _change(api: Store, lease: Object, patch: Object) -> Object | None:
    meta = lease["metadata"]
    wanted = {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": meta["resourceVersion"]}}
    try:
        return api.patch("Lease", meta["name"], meta["namespace"], wanted)
    except ApiError as refused:
        if refused.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
            return None
        raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Silence:
    """Which Leases are free, as one watcher sees it over time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}

    def is_free(self, lease: Object) -> bool:
        """Whether nobody holds it, or its holder has not been heard of for the Lease's duration."""
        if not holder(lease):
            return True
        name, version = lease["metadata"]["name"], lease["metadata"]["resourceVersion"]
        known, since = self._seen.get(name, ("", 0.0))
        if known != version:
            self._seen[name] = (version, self._clock())
            return False
        return self._clock() - since >= int(lease["spec"].get("leaseDurationSeconds") or 0)


class Held:
    """A Lease that is ours, renewed by a thread while the block runs, and given up at its end.

    `lost` is called, in that thread, once it is or may be somebody else's: what it stands for must stop at once.
    Who asks `is_mine` before each step may be patient: silence of the API server is no loss then, only another's
    name is.
    """

    def __init__(self, api: Store, lease: Object, lost: Callable[[], None], *, patient: bool = False) -> None:
        self._api, self._lease, self._lost, self._patient = api, lease, lost, patient
        self._seconds = int(lease["spec"]["leaseDurationSeconds"])
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Held:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._ended.is_set():
            self.give_up()

    def _keep(self) -> None:
        while not self._ended.wait(self._seconds / _RENEWALS):
            try:
                mine = self._patch({"spec": {"renewTime": _now()}})
            except (ApiError, Unreachable):
                mine = self._patient or time.monotonic() - self._renewed < _GIVE_UP * self._seconds
            if not mine and not self._ended.is_set():
                self._lost()
                return

    def _patch(self, patch: Object) -> bool:
        with self._lock:
            if self._ended.is_set():
                return True
            asked = time.monotonic()
            changed = _change(self._api, self._lease, patch)
            if changed is not None:
                self._lease, self._renewed = changed, asked
            return changed is not None

    def is_mine(self) -> bool:
        """Asks the API server, by renewing it."""
        return self._patch({"spec": {"renewTime": _now()}})

    def give_up(self, patch: Object | None = None) -> bool:
        """Let others have it at once, with a last change; False when it was not ours any more."""
        more = patch or {}
        spec = {"holderIdentity": None, "renewTime": _now(), **more.get("spec", {})}
        given = self._patch({**more, "spec": spec})
        self._ended.set()
        return given

    def delete(self) -> None:
        """Remove it: there is nothing to hold any more."""
        self._ended.set()
        meta = self._lease["metadata"]
        self._api.delete("Lease", meta["name"], meta["namespace"])
