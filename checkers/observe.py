"""What the cluster holds: one concurrent listing for all checks, kept current by watches from then on."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

from cluster.api import Api, ApiError, Object, Stop, Unreachable
from cluster.kinds import kind_named

View = Mapping[str, tuple[Object, ...]]
# A connection more costs a TLS handshake, which keeps this machine as busy as several listings do. One would let all
# wait for a listing that is long (a thousand nodes).
LISTED_AT_ONCE = 2


class Observation:
    """The objects of the wanted kinds. Thread-safe; `close` ends the watches.

    Kinds are named as in `reads`: "Pod" in the lab's namespace, "Pod@kube-system" in another one. Objects are
    plain dicts without managedFields and must not be changed.
    """

    def __init__(self, api: Api, namespace: str, kinds: Iterable[str]) -> None:
        self._api, self._namespace = api, namespace
        self._kinds = sorted(set(kinds))
        self._objects: dict[str, dict[str, Object]] = {}
        self._versions: dict[str, str] = {}
        self._changed = threading.Condition()
        self._count = 0
        self._stop = Stop()
        self._watches: list[threading.Thread] = []
        self._lost = ""

    def refresh(self) -> None:
        """List every kind anew, concurrently. Raises Unreachable or ApiError."""
        with ThreadPoolExecutor(LISTED_AT_ONCE) as pool:
            list(pool.map(self._list, self._kinds))

    def _list(self, key: str) -> None:
        kind, _, namespace = key.partition("@")
        found = kind_named(kind)
        where = (namespace or self._namespace) if found.namespaced else ""
        items, version = self._api.list(found, where)
        with self._changed:
            if int(version or 0) < int(self._versions.get(key) or 0):
                return  # the watch is further on, and won't tell again what happened since this listing
            self._objects[key] = {item["metadata"]["uid"]: _lean(item) for item in items}
            self._versions[key] = version
            self._count += 1
            self._changed.notify_all()

    def view(self) -> View:
        """The present state of all kinds, frozen."""
        with self._changed:
            if self._lost:
                raise Unreachable(self._lost, mend="kailab status, then check again")
            return MappingProxyType({key: tuple(items.values()) for key, items in self._objects.items()})

    @property
    def count(self) -> int:
        """Grows with every change."""
        return self._count

    def wait(self, count: int, seconds: float) -> None:
        """Return when something has changed since `count`, or after `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._count != count, max(seconds, 0.0))

    def follow(self) -> None:
        """Keep the objects current by watching from the last listing on; once is enough."""
        with self._changed:
            if self._watches or self._stop.is_set():
                return
            self._watches = [threading.Thread(target=self._watch, args=(key,), daemon=True) for key in self._kinds]
        for thread in self._watches:
            thread.start()

    def _watch(self, key: str) -> None:
        kind, _, namespace = key.partition("@")
        found = kind_named(kind)
        where = (namespace or self._namespace) if found.namespaced else ""
        silence = 0
        while not self._stop.is_set():
            try:
                for event in self._api.watch(found, where, self._versions[key], self._stop):
                    self._take(key, event)
                    silence = 0
            except ApiError as refused:
                if refused.status != 410:
                    silence += 1
                self._relist(key)
            except Unreachable as lost:
                silence += 1
                if silence > 5:
                    self._give_up(lost.what)
                    return
                self._stop.wait(0.3 * silence)
                self._relist(key)

    def _relist(self, key: str) -> None:
        try:
            self._list(key)
        except (ApiError, Unreachable):
            self._stop.wait(0.3)

    def _give_up(self, why: str) -> None:
        with self._changed:
            self._lost = why
            self._count += 1
            self._changed.notify_all()

    def _take(self, key: str, event: Object) -> None:
        item = event["object"]
        with self._changed:
            if int(item["metadata"]["resourceVersion"]) < int(self._versions[key] or 0):
                return  # older than a listing that was made meanwhile
            self._versions[key] = item["metadata"]["resourceVersion"]
            if event["type"] == "BOOKMARK":
                return
            uid = item["metadata"]["uid"]
            if event["type"] == "DELETED":
                self._objects[key].pop(uid, None)
            else:
                self._objects[key][uid] = _lean(item)
            self._count += 1
            self._changed.notify_all()

    def close(self) -> None:
        self._stop.set()
        for thread in self._watches:
            thread.join(timeout=2)


def _lean(item: Object) -> Object:
    item["metadata"].pop("managedFields", None)
    return item
