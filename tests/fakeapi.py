"""A cluster's API in memory, for what rests on its promises about names and resourceVersions."""

from __future__ import annotations

import copy
import threading
from typing import Any

from cluster.api import ApiError, Object
from cluster.kinds import Kind


class FakeApi:
    """What leases and the queue rest on: names are unique, and a patch may name the resourceVersion it is for."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self._lock, self._count = threading.Lock(), 0
        self.fails: set[str] = set()  # verbs that are answered with 500

    def _stored(self, item: Object) -> Object:
        self._count += 1
        item["metadata"]["resourceVersion"] = str(self._count)
        self.objects[item["kind"], item["metadata"]["name"]] = item
        return copy.deepcopy(item)

    def get(self, kind: str | Kind, name: str, namespace: str = "") -> Object | None:
        with self._lock:
            return copy.deepcopy(self.objects.get((str(kind), name)))

    def list(self, kind: str | Kind, namespace: str = "", **selectors: str) -> tuple[list[Object], str]:
        key, _, value = selectors.get("labelSelector", "").partition("=")
        with self._lock:
            found = [item for (of, _), item in self.objects.items() if of == kind]
            labels = [item["metadata"].get("labels", {}) for item in found]
            return copy.deepcopy([item for item, own in zip(found, labels, strict=True)
                                  if not key or own.get(key) == value]), ""  # fmt: skip

    def create(self, item: Object, namespace: str = "") -> Object:
        with self._lock:
            if (item["kind"], item["metadata"]["name"]) in self.objects:
                raise _refusal(409, "AlreadyExists")
            new = copy.deepcopy(item)
            new["metadata"]["namespace"] = namespace
            return self._stored(new)

    def patch(self, kind: str | Kind, name: str, namespace: str, patch: Any) -> Object:
        with self._lock:
            if "patch" in self.fails:
                raise _refusal(500, "InternalError")
            present = self.objects.get((str(kind), name))
            if present is None:
                raise _refusal(404, "NotFound")
            wanted = patch.get("metadata", {}).get("resourceVersion")
            if wanted not in (None, present["metadata"]["resourceVersion"]):
                raise _refusal(409, "Conflict")
            return self._stored(_merged(present, patch))

    def delete(self, kind: str | Kind, name: str, namespace: str = "") -> bool:
        with self._lock:
            return self.objects.pop((str(kind), name), None) is not None

    def names(self, kind: str) -> set[str]:
        return {name for of, name in self.objects if of == kind}


def _refusal(status: int, reason: str) -> ApiError:
    return ApiError(status, reason, reason)


def _merged(present: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(present) if isinstance(present, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result
