"""Why a workload lacks pods is told from its conditions, and from its events where its controller sets none."""

from __future__ import annotations

from typing import Any

import pytest

from checkers.explain import Reason
from checkers.explain_workloads import workload_reasons


def text(reason: Reason) -> str:
    return "\n".join([reason.what, *reason.details, reason.mend, reason.look_with])


def workload(kind: str = "Deployment", failure: str = "", **spec: Any) -> dict[str, Any]:
    told = [{"type": "ReplicaFailure", "status": "True", "message": failure}] if failure else []
    meta = {"name": "api", "namespace": "lab"}
    return {"kind": kind, "metadata": meta, "spec": {"replicas": 2, **spec}, "status": {"conditions": told}}


def test_a_quota_that_is_used_up_is_told_with_numbers() -> None:
    said = 'pods "api-1" is forbidden: exceeded quota: small, requested: cpu=2, used: cpu=3, limited: cpu=4'
    used = {"hard": {"cpu": "4", "pods": "10"}, "used": {"cpu": "3"}}
    quota = {"metadata": {"name": "small"}, "status": used}
    (reason,) = workload_reasons(workload(), [workload("ReplicaSet", said), workload("ReplicaSet", said)], [quota])
    assert "ResourceQuota" in reason.what
    assert reason.details == (said, "quota small: cpu used 3 of 4", "quota small: pods used 0 of 10")
    assert reason.look_with == "kubectl -n lab describe resourcequota"


@pytest.mark.parametrize(
    ("item", "owned", "said"),
    [
        (workload(failure="must not be privileged"), [], "refuses"),
        (workload(), [workload("ReplicaSet", "must not be privileged")], "refuses"),
        (workload(replicas=0), [], "replicas is 0"),
        (workload(paused=True), [], "paused"),
        (workload("Job", suspend=True), [], "paused"),
        (workload(), [], "don't say why"),
    ],
)
def test_a_workload_without_pods_tells_what_its_controller_was_told(item: Any, owned: list[Any], said: str) -> None:
    (reason,) = workload_reasons(item, owned, [])
    assert said in reason.what
    assert reason.look_with == f"kubectl -n lab describe {item['kind'].lower()} api"
    assert ("must not be privileged" in text(reason)) is (said == "refuses")


REFUSED = 'Error creating: pods "api-x7k2p" is forbidden: exceeded quota: small, requested: cpu=2, used: cpu=4'
EARLY, THEN, LATE = "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z", "2026-01-01T00:03:00Z"


def refusal(when: str = THEN, message: str = REFUSED, reason: str = "FailedCreate") -> dict[str, Any]:
    return {"reason": reason, "type": "Warning", "message": message, "lastTimestamp": when, "metadata": {}}


def made(when: str = EARLY) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "api-1", "namespace": "lab", "creationTimestamp": when}}


def with_status(item: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {**item, "status": {**item["status"], **status}}


LACKING = [
    with_status(workload("StatefulSet", replicas=3), replicas=1),
    with_status(workload("DaemonSet"), desiredNumberScheduled=3, currentNumberScheduled=1),
    with_status(workload("Job", parallelism=3), active=1),
    with_status(workload("Job", parallelism=3, completions=5), active=1, succeeded=2),
]


@pytest.mark.parametrize("item", LACKING)
@pytest.mark.parametrize("pods", [[], [made()]])
def test_controllers_that_tell_it_in_events_only_are_heard(item: Any, pods: list[Any]) -> None:
    events = [refusal(message="an older one", when=EARLY), refusal(), refusal(LATE, "of something else", "Other")]
    (reason,) = workload_reasons(item, [], [], events, pods)
    assert "ResourceQuota" in reason.what
    assert reason.details == (REFUSED,)
    (other,) = workload_reasons(item, [], [], [refusal(message="must not be privileged")], pods)
    assert "refuses" in other.what


@pytest.mark.parametrize("item", LACKING)
def test_a_refusal_older_than_the_newest_pod_is_over(item: Any) -> None:
    over = workload_reasons(item, [], [], [refusal(THEN)], [made(EARLY), made(LATE)])
    assert not any("ResourceQuota" in text(reason) for reason in over)
    assert "ResourceQuota" in text(workload_reasons(item, [], [], [refusal(THEN)], [made(EARLY), made(THEN)])[0])


@pytest.mark.parametrize("item", [
    with_status(workload("StatefulSet", replicas=1), replicas=1),
    with_status(workload("DaemonSet"), desiredNumberScheduled=1, currentNumberScheduled=1),
    with_status(workload("Job", parallelism=3, completions=3), active=1, succeeded=2),
    with_status(workload("Job", parallelism=3), conditions=[{"type": "Complete", "status": "True"}]),
    with_status(workload(), replicas=2),
])  # fmt: skip
def test_a_workload_that_has_all_its_pods_has_nothing_to_explain_whatever_was_refused_before(item: Any) -> None:
    assert workload_reasons(item, [], [], [refusal()], [made()]) == []


def test_a_job_that_waits_before_it_replaces_a_pod_leaves_the_word_to_that_pod() -> None:
    assert workload_reasons(with_status(workload("Job", parallelism=1), active=0), [], [], [], [made()]) == []


def test_a_deployment_with_some_pods_tells_the_quota_that_stops_the_others_and_a_rollout() -> None:
    item = with_status(workload(replicas=6), replicas=2)
    (reason,) = workload_reasons(item, [workload("ReplicaSet", REFUSED)], [], [], [made()])
    assert reason.what == "A ResourceQuota of the namespace allows no more: it has 2 of 6 pods."
    rolling = with_status(workload(failure=REFUSED), replicas=2)
    assert "ResourceQuota" in workload_reasons(rolling, [], [], [], [made()])[0].what


def test_missing_pods_that_nobody_refused_are_told_with_numbers() -> None:
    (reason,) = workload_reasons(with_status(workload(replicas=6), replicas=2), [], [], [], [made()])
    assert reason.what == "It has 2 of 6 pods so far."


@pytest.mark.parametrize(("kind", "said"), [("Failed", "The job has failed"), ("Complete", "It has done its work")])
def test_a_job_that_is_over_and_whose_pods_are_gone_tells_how_it_ended(kind: str, said: str) -> None:
    over = {"type": kind, "status": "True", "reason": "DeadlineExceeded", "message": "it was active too long"}
    (reason,) = workload_reasons(with_status(workload("Job"), conditions=[over]), [], [], [refusal()], [])
    assert said in reason.what
    assert ("it was active too long" in reason.details) is (kind == "Failed")
