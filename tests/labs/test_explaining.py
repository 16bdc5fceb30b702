"""`kailab explain` looks at the workload and at its worst pod, and calls nothing well that isn't."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.workspace import Workspace
from labs import explaining
from labs.lifecycle import Course
from tests.fakeapi import FakeApi

READY = {"type": "Ready", "status": "True"}
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
WELL = "Nothing is wrong with it: it runs and is ready."
REFUSED = 'pods "api-x" is forbidden: exceeded quota: small, requested: cpu=2, used: cpu=4, limited: cpu=4'

Explained = Callable[..., str]


class Cluster(FakeApi):
    """Also knows whose an event is."""

    def list(self, kind: Any, namespace: str = "", **selectors: str) -> tuple[list[Any], str]:
        found, version = super().list(kind, namespace)
        _, _, value = selectors.get("fieldSelector", "").rpartition("involvedObject.uid=")
        return [item for item in found if not value or item["involvedObject"].get("uid") == value], version

    def logs(self, pod: str, namespace: str, **how: Any) -> str:
        return "out of models"


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Explained:
    def run(name: str, *items: dict[str, Any]) -> str:
        cluster = Cluster()
        for item in items:
            cluster.create(item, "lab")

        @contextlib.contextmanager
        def opened(workspace: Workspace) -> Iterator[Course]:
            yield Course(workspace, cluster, "uid")  # type: ignore[arg-type]

        monkeypatch.setattr(explaining.Course, "opened", opened)
        out = io.StringIO()
        explaining.explain_pod_named(Workspace(tmp_path, tmp_path), name, "lab", Console(file=out, width=200))
        return out.getvalue()

    return run


def thing(kind: str, name: str, owner: str = "", **more: Any) -> dict[str, Any]:
    owners = [{"uid": f"uid-{owner}"}] if owner else []
    meta = {"name": name, "uid": f"uid-{name}", "ownerReferences": owners, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"kind": kind, "metadata": meta, "spec": {}, "status": {}, **more}


def pod(name: str, owner: str = "", **status: Any) -> dict[str, Any]:
    spec = {"nodeName": "worker", "containers": [{"name": "api", "image": "ai-app:v1"}]}
    return thing("Pod", name, owner, spec=spec, status=status)


def good(name: str, owner: str = "", **more: Any) -> dict[str, Any]:
    container = {"name": "api", "ready": True, "restartCount": 0, "state": RUNNING, **more}
    return pod(name, owner, phase="Running", conditions=[READY], containerStatuses=[container])


def bad(name: str, owner: str = "") -> dict[str, Any]:
    waits = {"waiting": {"reason": "ErrImagePull", "message": "denied"}}
    return pod(name, owner, phase="Pending", containerStatuses=[{"name": "api", "image": "x:1", "state": waits}])


def deployment(replicas: int = 2, **status: Any) -> list[dict[str, Any]]:
    failure = {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": REFUSED}]}
    return [thing("Deployment", "api", spec={"replicas": replicas}, status={"replicas": 2}),
            thing("ReplicaSet", "api-1", "api", status=failure if replicas > 2 else {})]  # fmt: skip


def test_a_quota_is_told_though_the_pods_that_it_allows_are_ready(explained: Explained) -> None:
    said = explained("deployment/api", *deployment(6), good("a", "api-1"), good("b", "api-1"))
    assert said.startswith("Deployment api\n")
    assert "A ResourceQuota of the namespace allows no more: it has 2 of 6 pods." in said
    assert REFUSED in said
    assert "Nothing is wrong" not in said


def test_beside_a_quota_the_pod_that_is_not_well_is_told_too(explained: Explained) -> None:
    said = explained("deployment/api", *deployment(6), good("a", "api-1"), bad("b", "api-1"))
    assert said.index("ResourceQuota") < said.index("Pod b  Pending") < said.index("can't be had")


def test_a_workload_that_has_its_pods_is_told_by_its_worst(explained: Explained) -> None:
    assert WELL in explained("deployment/api", *deployment(), good("a", "api-1"), good("b", "api-1"))
    said = explained("deployment/api", *deployment(), good("a", "api-1"), bad("b", "api-1"))
    assert said.startswith("Pod b  Pending\n")
    assert "ReplicaSet" not in said


@pytest.mark.parametrize("pods", [[], [good("a", "db")]])
def test_what_a_stateful_set_was_told_is_found_in_its_events(explained: Explained, pods: list[Any]) -> None:
    owner = thing("StatefulSet", "db", spec={"replicas": 3}, status={"replicas": len(pods)})
    event = thing("Event", "e", reason="FailedCreate", type="Warning", message=REFUSED,
                  lastTimestamp="2026-01-01T00:01:00Z", involvedObject={"uid": "uid-db"})  # fmt: skip
    other = {**event, "metadata": {"name": "f"}, "involvedObject": {"uid": "uid-other"}, "message": "not this"}
    said = explained("sts/db", owner, event, other, *pods)
    assert "A ResourceQuota of the namespace allows no more" in said
    assert REFUSED in said
    assert "not this" not in said


def test_a_job_s_pod_that_failed_is_told_rather_than_one_that_ended_well(explained: Explained) -> None:
    failed = pod("a", "job", phase="Failed", reason="OutOfcpu", message="Node didn't have enough resource: cpu")
    done = pod("b", "job", phase="Succeeded")
    done["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    job = thing("Job", "job", spec={"completions": 2}, status={"succeeded": 1})
    assert "(OutOfcpu)" in explained("job/job", job, failed, done)


@pytest.mark.parametrize(("item", "said"), [
    (good("a"), WELL),
    (pod("a", phase="Succeeded"), "Nothing is wrong with it: it has done its work."),
    (pod("a", phase="Pending"), "Nothing shows what it waits for. Look again in a moment."),
    (pod("a", phase="Running", conditions=[{"type": "Ready", "status": "False"}]), "Nothing shows what it waits for."),
])  # fmt: skip
def test_only_a_pod_that_is_ready_is_said_to_be_so(explained: Explained, item: Any, said: str) -> None:
    out = explained("a", item)
    assert said in out
    assert (WELL in out) is (said == WELL)
    assert ("kubectl -n lab describe pod a" in out) is said.startswith("Nothing shows")


def test_how_a_ready_pod_ended_before_is_told_as_its_past(explained: Explained) -> None:
    last = {"terminated": {"exitCode": 1, "reason": "Error"}}
    out = explained("a", good("a", restartCount=4, lastState=last))
    assert out.index(WELL) < out.index("Before that, container api ended with exit code 1") < out.index("out of models")
