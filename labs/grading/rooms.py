"""A namespace per submission: opened with its walls, filled with the student's objects, removed whatever is in it."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from http import HTTPStatus
from typing import TypeVar

from cluster.api import Api, ApiError, Busy, Object, patiently
from cluster.kinds import KINDS, NoPath
from labs import lifecycle
from labs.catalog import Borrowed, LabFolder, read_manifests
from labs.grading.walls import (
    EVERYDAY,
    GRADING_LABEL,
    NAME,
    POD_SECURITY,
    harden,
    limit_range,
    moved,
    refusal,
    user,
    walls,
)
from labs.lifecycle import Course

T = TypeVar("T")
ROOM_PREFIX = "grade-"  # of the names of all rooms
RIGHTS_SECONDS = 10.0
_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds, between tries of what the API server can't do at this moment
# The API server's words for too many at once who count against one quota.
_QUOTA_BUSY = f'cannot be fulfilled on resourcequotas "{NAME}'


@cache
def kinds_for(lab: LabFolder) -> frozenset[str]:
    """Namespaced kinds that a submission may hold: the everyday ones and those of the lab's own right answers."""
    right = [*lab.manifests("solution"), *(item for path in lab.alternatives for item in read_manifests(path))]
    own = {item["kind"] for item in right}
    return EVERYDAY | {kind for kind in own if kind in KINDS and KINDS[kind].namespaced}


def new_name(lab: LabFolder) -> str:
    """A namespace that no other student could guess."""
    return f"{ROOM_PREFIX}{lab.number:02d}-{secrets.token_hex(5)}"


def open_room(course: Course, lab: LabFolder, namespace: str) -> dict[str, str]:
    """Make a fresh namespace with its walls; the UIDs of the lab's given objects in it. Raises Busy."""
    return _patiently(lambda: lifecycle.open_namespace(
        course, lab, namespace, labels={GRADING_LABEL: str(lab.number), **POD_SECURITY},
        walls=walls(namespace, kinds_for(lab), lab.file.quota), change=harden,
    ))  # fmt: skip


def hand_in(course: Course, lab: LabFolder, namespace: str, objects: Sequence[Object]) -> list[str]:
    """Apply a submission with no other rights than its own; what was refused, in the API server's words.

    What the lab lets students change outside of their namespace is changed here, and nothing else of it. Raises Busy
    when the API server refuses for reasons of its own, and goes on doing so.
    """
    _patiently(lambda: course.api.apply(limit_range(objects), namespace))
    with contextlib.closing(course.api.acting_as(user(namespace))) as api:
        _wait_for_rights(api, namespace)
        items = [harden(moved(item, lab.namespace, namespace)) for item in objects]
        said = [_hand_in_one(course.api, api, lab, namespace, item) for item in items]
    return [problem for problem in said if problem]


def _hand_in_one(graders: Api, students: Api, lab: LabFolder, namespace: str, item: Object) -> str:
    """What was refused about an object, or nothing."""
    title = f"{item['kind']} {item['metadata'].get('name', '')}"
    lent = _lent(lab, item)
    try:
        if lent is not None:
            version = KINDS[lent.kind].api_version
            if item["apiVersion"] != version:
                return f"{title}: what this lab lends has apiVersion {version}, not {item['apiVersion']}"
            _patiently(lambda: _lend(graders, lent, item))
        elif wrong := refusal(item, namespace, kinds_for(lab)):
            return wrong
        else:
            _patiently(lambda: students.apply(item, namespace, manager="kubectl"), item)
    except (ApiError, NoPath) as refused:
        return f"{title}: {refused.what}"
    except (TypeError, ValueError) as broken:  # what YAML can say and JSON can't
        return f"{title}: it can't be sent to the API server: {broken}"
    return ""


def _patiently(ask: Callable[[], T], item: Object | None = None) -> T:
    """The answer, asked for again while the API server refuses for reasons of its own. Raises Busy when that lasts.

    `item` is the object that may be to blame for a refusal, if it is a student's.
    """
    passes = partial(_passes, item=item or {})
    try:
        return patiently(ask, passes, _PAUSES, time.sleep)
    except ApiError as refused:
        if not passes(refused):
            raise
        raise Busy(
            f"The API server can't do its work at this moment: {refused.what}",
            mend="kailab status, then the same command again",
        ) from None


def _passes(refused: ApiError, item: Object) -> bool:
    """Whether a refusal says nothing of the object: the same may be taken a moment later."""
    if refused.status == HTTPStatus.CONFLICT:
        insists = {"uid", "resourceVersion"} & item.get("metadata", {}).keys()
        return _QUOTA_BUSY in refused.what or (refused.reason == "Conflict" and not insists)
    return refused.is_servers_own


def _wait_for_rights(api: Api, namespace: str) -> None:
    """A role that was just made takes the API server a moment to see."""
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": namespace, "verb": "patch", "resource": "configmaps"}},
    }  # fmt: skip
    deadline = time.monotonic() + RIGHTS_SECONDS
    while time.monotonic() < deadline:
        answer = _patiently(lambda: api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review))
        if answer["status"].get("allowed"):
            return
        time.sleep(0.05)
    raise Busy("The API server has not granted the submission its own namespace.", mend="kailab status")


def _lent(lab: LabFolder, item: Object) -> Borrowed | None:
    """What of the lab's loans an object is, by its kind, name and namespace."""
    meta = item["metadata"]
    named = item["kind"], meta.get("name"), meta.get("namespace", "")
    return next((one for one in lab.file.borrows if named == (one.kind, one.name, one.namespace)), None)


def _lend(api: Api, one: Borrowed, item: Object) -> None:
    """Change what the lab lends, as far as it is lent. The grader's own rights do it, and they reach everything: where
    to is said by the lab alone, and of the object no more is taken than what it is about.
    """
    if one.label:
        labels = item["metadata"].get("labels")
        value = labels.get(one.label) if isinstance(labels, dict) else None
        api.patch(one.kind, one.name, "", {"metadata": {"labels": {one.label: value}}})
        return
    plain = {"name": one.name, "namespace": one.namespace}
    lent: Object = {"apiVersion": KINDS[one.kind].api_version, "kind": one.kind, "metadata": plain}
    api.apply(lent | {field: item[field] for field in ("data", "spec") if field in item})


@contextmanager
def borrowed(course: Course, lab: LabFolder) -> Iterator[None]:
    """Around a submission: what the lab lends is there for it as for the first student."""
    try:
        yield
    finally:
        if lab.file.borrows:
            lifecycle.give_back(course.api, lab)


def demolish(course: Course, namespace: str) -> None:
    """Remove a room with all that is in it, also what refuses to go. Raises KailabError when it stays."""
    lifecycle.close_namespace(course, namespace, insist=True)


def leftovers(course: Course) -> list[str]:
    """Rooms of a run that was killed."""
    found, _ = course.api.list("Namespace", labelSelector=GRADING_LABEL)
    return [item["metadata"]["name"] for item in found]
