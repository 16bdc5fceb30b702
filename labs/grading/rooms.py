"""A namespace per submission: opened with its walls, filled with the student's objects, removed whatever is in it."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from cluster.api import Api, ApiError, Object
from cluster.errors import KailabError
from cluster.kinds import KINDS
from labs import lifecycle
from labs.catalog import LabFolder, read_manifests
from labs.grading.walls import EVERYDAY, GRADING_LABEL, POD_SECURITY, harden, limit_range, moved, refusal, user, walls
from labs.lifecycle import Course

ROOM_PREFIX = "grade-"  # of the names of all rooms
RIGHTS_SECONDS = 10.0


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
    """Make a fresh namespace with its walls; the UIDs of the lab's given objects in it."""
    return lifecycle.open_namespace(
        course, lab, namespace, labels={GRADING_LABEL: str(lab.number), **POD_SECURITY},
        walls=walls(namespace, kinds_for(lab), lab.file.quota), change=harden,
    )  # fmt: skip


def hand_in(course: Course, lab: LabFolder, namespace: str, objects: Sequence[Object]) -> list[str]:
    """Apply a submission with no other rights than its own; what was refused, in the API server's words.

    What the lab lets students change outside of their namespace is changed here, and nothing else of it.
    """
    kinds = kinds_for(lab)
    problems: list[str] = []
    course.api.apply(limit_range(objects), namespace)
    with contextlib.closing(course.api.acting_as(user(namespace))) as api:
        _wait_for_rights(api, namespace)
        for item in objects:
            item = harden(moved(item, lab.namespace, namespace))
            title = f"{item['kind']} {item['metadata'].get('name', '')}"
            try:
                if _lend(course.api, lab, item):
                    continue
                if wrong := refusal(item, namespace, kinds):
                    problems.append(wrong)
                else:
                    api.apply(item, namespace, manager="kubectl")
            except ApiError as refused:
                problems.append(f"{title}: {refused.what}")
            except (TypeError, ValueError) as broken:  # what YAML can say and JSON can't
                problems.append(f"{title}: it can't be sent to the API server: {broken}")
    return problems


def _wait_for_rights(api: Api, namespace: str) -> None:
    """A role that was just made takes the API server a moment to see."""
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": namespace, "verb": "patch", "resource": "configmaps"}},
    }  # fmt: skip
    deadline = time.monotonic() + RIGHTS_SECONDS
    while time.monotonic() < deadline:
        answer = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        if answer["status"].get("allowed"):
            return
        time.sleep(0.05)
    raise KailabError("The API server has not granted the submission its own namespace.", mend="kailab status")


def _lend(api: Api, lab: LabFolder, item: Object) -> bool:
    """Whether the object is one that the lab lends; then it is changed as far as it is lent."""
    meta = item["metadata"]
    for one in lab.file.borrows:
        if (item["kind"], meta.get("name"), meta.get("namespace", "")) != (one.kind, one.name, one.namespace):
            continue
        if one.label:
            labels = meta.get("labels")
            value = labels.get(one.label) if isinstance(labels, dict) else None
            api.patch(one.kind, one.name, "", {"metadata": {"labels": {one.label: value}}})
        else:
            plain = {"name": one.name, "namespace": one.namespace}
            lent: Object = {"apiVersion": item["apiVersion"], "kind": one.kind, "metadata": plain}
            lent |= {field: item[field] for field in ("data", "spec") if field in item}
            api.apply(lent)
        return True
    return False


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
