"""Handing in: what the API server refuses for its own reasons is nobody's fault, and no object leads elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.api import Api, ApiError, Unreachable
from cluster.workspace import Workspace
from labs.catalog import lab_numbered
from labs.grading import rooms
from labs.grading.rooms import hand_in, open_room
from labs.lifecycle import Course

ROOM = "grade-06-x"
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
SHARING = {"name": "device-plugin-configs", "namespace": "kailab-gpu"}  # what lab 4 lends
ELSEWHERE = "../../api/v1/namespaces/kube-system/services/http:some-svc:80/proxy/admin?x="


class Recorder(Api):
    """The real paths, and nobody who listens: answers come from a list of refusals, then all is taken."""

    def __init__(self, *refusals: ApiError, only: str = "") -> None:
        self.refusals, self.only = list(refusals), only
        self.asked: list[tuple[str, str, Any]] = []
        self.student = self

    def call(self, method: str, path: str, body: Any = None, **_: Any) -> dict[str, Any]:
        self.asked.append((method, path.partition("?")[0], body))
        if self.refusals and self.only in path:
            raise self.refusals.pop(0)
        return {"metadata": {"uid": "u", "resourceVersion": "1"}, "status": {"allowed": True}}

    def acting_as(self, user: str) -> Api:
        return self.student

    def close(self) -> None:
        pass

    def paths(self, end: str) -> list[str]:
        return [path for _, path, _ in self.asked if path.endswith(end)]


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms.time, "sleep", lambda _: None)


def course(api: Api, tmp_path: Path) -> Course:
    return Course(Workspace(tmp_path, tmp_path), api, "uid")


PASSING = [
    ApiError(409, "Conflict", 'Operation cannot be fulfilled on resourcequotas "grading": the object has been '
             "modified; please apply your changes to the latest version and try again"),
    ApiError(409, "Conflict", 'Operation cannot be fulfilled on deployments.apps "a": the object has been modified'),
    ApiError(429, "TooManyRequests", "too many requests, please try again later", {"retryAfterSeconds": 1}),
    ApiError(500, "", "etcdserver: request timed out"),
    ApiError(500, "InternalError", "Internal error occurred: resource quota evaluation timed out"),
    ApiError(502, "", "bad gateway"),
    ApiError(503, "ServiceUnavailable", "apiserver is shutting down"),
    ApiError(504, "Timeout", "Timeout: request did not complete within requested timeout"),
    ApiError(403, "Forbidden", 'pods "a" is forbidden: status unknown for quota: grading, resources: pods'),
    ApiError(403, "Forbidden", f'pods "a" is forbidden: error looking up service account {ROOM}/default: '
             'serviceaccount "default" not found'),
]  # fmt: skip
OWN = [
    ApiError(422, "Invalid", "spec.replicas: Invalid value: -1"),
    ApiError(400, "BadRequest", 'strict decoding error: unknown field "spec.foo"'),
    ApiError(403, "Forbidden", 'pods "a" is forbidden: exceeded quota: grading, requested: pods=1'),
    ApiError(403, "Forbidden", f'pods "a" is forbidden: error looking up service account {ROOM}/mine: '
             'serviceaccount "mine" not found'),
    # https://github.com/kubernetes/kubernetes/issues/139253
    ApiError(500, "", "failed to create typed patch object (x/a; apps/v1, Kind=Deployment): .spec.foo: field not "
             "declared in schema"),
    ApiError(500, "", "failed to convert new typed object (x/a; apps/v1, Kind=Deployment) to object: unable to convert "
             "unstructured object to apps/v1, Kind=Deployment: quantities must match the regular expression"),
    ApiError(500, "", "etcdserver: request is too large"),
    ApiError(500, "", "rpc error: code = ResourceExhausted desc = trying to send message larger than max"),
]  # fmt: skip


@pytest.mark.parametrize("refused", PASSING, ids=lambda refused: f"{refused.status} {refused.what[:30]}")
def test_what_passes_by_itself_is_asked_for_again(refused: ApiError, tmp_path: Path) -> None:
    api = Recorder(refused, refused, only="/configmaps/a")
    assert hand_in(course(api, tmp_path), lab_numbered(6), ROOM, [CONFIG]) == []
    assert len(api.paths("/configmaps/a")) == 3


@pytest.mark.parametrize("refused", PASSING, ids=lambda refused: f"{refused.status} {refused.what[:30]}")
def test_what_does_not_pass_in_time_is_no_fault_of_the_students(refused: ApiError, tmp_path: Path) -> None:
    api = Recorder(*[refused] * 100, only="/configmaps/a")
    with pytest.raises(Unreachable) as lost:
        hand_in(course(api, tmp_path), lab_numbered(6), ROOM, [CONFIG])
    assert refused.what in lost.value.what
    assert len(api.paths("/configmaps/a")) < 10


@pytest.mark.parametrize("refused", OWN, ids=lambda refused: f"{refused.status} {refused.what[:30]}")
def test_what_the_object_is_to_blame_for_is_told_at_once(refused: ApiError, tmp_path: Path) -> None:
    api = Recorder(refused, only="/configmaps/a")
    (problem,) = hand_in(course(api, tmp_path), lab_numbered(6), ROOM, [CONFIG])
    assert problem == f"ConfigMap a: {refused.what}"
    assert len(api.paths("/configmaps/a")) == 1


@pytest.mark.parametrize("field", ["uid", "resourceVersion"])
def test_an_object_that_insists_on_another_version_is_to_blame_for_the_conflict(field: str, tmp_path: Path) -> None:
    item = {**CONFIG, "metadata": {"name": "a", field: "7"}}
    api = Recorder(ApiError(409, "Conflict", "uid mismatch"), only="/configmaps/a")
    assert hand_in(course(api, tmp_path), lab_numbered(6), ROOM, [item]) == ["ConfigMap a: uid mismatch"]


@pytest.mark.parametrize("only", ["/limitranges/", "/selfsubjectaccessreviews"])
def test_the_graders_own_requests_are_as_patient(only: str, tmp_path: Path) -> None:
    api = Recorder(PASSING[3], PASSING[3], only=only)
    assert hand_in(course(api, tmp_path), lab_numbered(6), ROOM, [CONFIG]) == []
    with pytest.raises(Unreachable):
        hand_in(course(Recorder(*[PASSING[3]] * 100, only=only), tmp_path), lab_numbered(6), ROOM, [CONFIG])


@pytest.mark.parametrize("refused", PASSING[:9], ids=lambda refused: f"{refused.status} {refused.what[:30]}")
def test_a_room_is_opened_as_patiently(refused: ApiError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "get", lambda *_: {"metadata": {}})
    given = open_room(course(Recorder(refused, refused, only="/services/"), tmp_path), lab_numbered(6), ROOM)
    assert set(given.values()) == {"u"}
    with pytest.raises(Unreachable):
        open_room(course(Recorder(*[refused] * 100, only="/services/"), tmp_path), lab_numbered(6), ROOM)


def test_a_room_that_is_refused_for_good_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "get", lambda *_: {"metadata": {}})
    api = Recorder(OWN[0], only="/services/")
    with pytest.raises(ApiError, match=r"spec\.replicas"):
        open_room(course(api, tmp_path), lab_numbered(6), ROOM)


def test_what_a_lab_lends_is_changed_with_the_graders_rights_as_far_as_it_is_lent(tmp_path: Path) -> None:
    api = Recorder()
    api.student = Recorder()
    config = {**CONFIG, "metadata": {**SHARING, "labels": {"not": "lent"}}, "data": {"mine": "x"}}
    node = {"apiVersion": "v1", "kind": "Node", "spec": {"unschedulable": True}, "metadata": {
        "name": "gpu-b", "labels": {"nvidia.com/device-plugin.config": "mine", "not": "lent"}}}  # fmt: skip
    assert hand_in(course(api, tmp_path), lab_numbered(4), "grade-04-x", [config, node]) == []
    assert api.asked[1:] == [
        ("PATCH", "/api/v1/namespaces/kailab-gpu/configmaps/device-plugin-configs",
         {"apiVersion": "v1", "kind": "ConfigMap", "metadata": SHARING, "data": {"mine": "x"}}),
        ("PATCH", "/api/v1/nodes/gpu-b", {"metadata": {"labels": {"nvidia.com/device-plugin.config": "mine"}}}),
    ]  # fmt: skip


@pytest.mark.parametrize("version", [ELSEWHERE, "v2", "apps/v1", ""])
@pytest.mark.parametrize(("kind", "meta"), [("ConfigMap", SHARING), ("Node", {"name": "gpu-b"})])
def test_what_is_lent_is_lent_in_its_own_version_only(
    kind: str, meta: dict[str, str], version: str, tmp_path: Path
) -> None:
    """The grader's own rights reach everything, so no word of a student's may say where they go."""
    api = Recorder()
    item = {"apiVersion": version, "kind": kind, "metadata": meta, "data": {}}
    (problem,) = hand_in(course(api, tmp_path), lab_numbered(4), "grade-04-x", [item])
    assert problem.startswith(f"{kind} {meta['name']}: ")
    assert "apiVersion" in problem
    assert [method for method, *_ in api.asked] == ["PATCH", "POST"], "the limits, and the question for its rights"


@pytest.mark.parametrize(("version", "name"), [(ELSEWHERE, "a"), ("v1", ".."), ("v1", "a/../../b"), ("v1", "a%2Fb")])
def test_an_object_whose_words_lead_elsewhere_is_not_sent_at_all(version: str, name: str, tmp_path: Path) -> None:
    api = Recorder()
    api.student = Recorder()
    item = {"apiVersion": version, "kind": "ConfigMap", "metadata": {"name": name}}
    (problem,) = hand_in(course(api, tmp_path), lab_numbered(6), ROOM, [item])
    assert problem.startswith(f"ConfigMap {name}: ")
    assert "can't be" in problem
    assert [method for method, *_ in api.student.asked] == ["POST"], "the question for its rights"
