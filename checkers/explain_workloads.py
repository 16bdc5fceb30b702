"""Why a Deployment, ReplicaSet, StatefulSet, DaemonSet or Job lacks pods: what its controller was told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checkers.explain import Reason
from checkers.workloads import condition, seen_at
from cluster.api import Object

_ENDS = ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget")  # a Job with one of these makes no more pods


def workload_reasons(
    workload: Object, owned: Sequence[Object], quotas: Sequence[Object], events: Sequence[Object] = (),
    pods: Sequence[Object] = (),
) -> list[Reason]:  # fmt: skip
    """Why it has no pod to look at, or not as many as it asks for; empty when it has them.

    `owned` are its ReplicaSets, `events` its own, `pods` those that it has.
    """
    has, wants = _counts(workload)
    told = _conditions(workload, owned) or (_refusal(events, pods) if has < wants else ())
    if told:
        return [_refused(workload, told, quotas, f": it has {has} of {wants} pods" if pods and has < wants else "")]
    look = _describe(workload)
    if pods:
        short = has < wants and workload["kind"] != "Job"  # a Job waits before it replaces a pod: that pod tells why
        return [Reason(f"It has {has} of {wants} pods so far.", look_with=look)] if short else []
    if workload["spec"].get("replicas") == 0:
        return [Reason("It asks for no pods: spec.replicas is 0.", look_with=look)]
    if workload["spec"].get("paused") or workload["spec"].get("suspend"):
        return [Reason("It is paused.", look_with=look)]
    if (failed := condition(workload, "Failed")).get("status") == "True":
        said = tuple(text for text in (failed.get("message", ""),) if text)
        return [Reason(f"The job has failed ({failed.get('reason', '')}).", said, look_with=look)]
    if condition(workload, "Complete").get("status") == "True":
        return [Reason("It has done its work, and its pods are gone.", look_with=look)]
    return [Reason("It has no pods, and its conditions don't say why.", look_with=look)]


def _counts(workload: Object) -> tuple[int, int]:
    """How many pods it has by its own count, and how many it asks for at this time."""
    spec, status = workload["spec"], workload.get("status", {})
    if workload["kind"] == "DaemonSet":
        return status.get("currentNumberScheduled", 0), status.get("desiredNumberScheduled", 0)
    if workload["kind"] == "Job":
        if spec.get("suspend") or any(condition(workload, end).get("status") == "True" for end in _ENDS):
            return 0, 0
        at_once = spec.get("parallelism", 1)
        left = spec.get("completions", at_once) - status.get("succeeded", 0)
        return status.get("active", 0), min(at_once, max(left, 0))
    return status.get("replicas", 0), spec.get("replicas", 1)


def _conditions(workload: Object, owned: Sequence[Object]) -> tuple[str, ...]:
    """ReplicaFailure is set by the controllers of ReplicaSets and Deployments alone, and taken back when it is over."""
    said = [condition(item, "ReplicaFailure").get("message", "") for item in (workload, *owned)]
    return tuple(dict.fromkeys(text for text in said if text))


def _refusal(events: Sequence[Object], pods: Sequence[Object]) -> tuple[str, ...]:
    """What the other controllers were told last; events stay an hour, so one that a pod has followed is over."""
    newest = max((pod["metadata"]["creationTimestamp"] for pod in pods), default="")
    failed = [event for event in events if event.get("reason") == "FailedCreate" and _second(event) >= newest[:19]]
    return tuple(event.get("message", "") for event in sorted(failed, key=_second)[-1:])


def _second(event: Object) -> str:
    """A time without its fraction, which pods' times don't have."""
    return (seen_at(event) or str(event["metadata"].get("creationTimestamp", "")))[:19]


def _refused(workload: Object, told: tuple[str, ...], quotas: Sequence[Object], count: str) -> Reason:
    if any("exceeded quota" in text for text in told):
        return Reason(f"A ResourceQuota of the namespace allows no more{count}.", (*told, *_quota_lines(quotas)),
                      "Ask for less, free something, or have the quota raised.",
                      f"kubectl -n {workload['metadata']['namespace']} describe resourcequota")  # fmt: skip
    return Reason(f"The API server refuses its pods{count}.", told, look_with=_describe(workload))


def _quota_lines(quotas: Sequence[Object]) -> Iterator[str]:
    for quota in quotas:
        status = quota.get("status", {})
        used = status.get("used", {})
        for name, hard in sorted(status.get("hard", {}).items()):
            yield f"quota {quota['metadata']['name']}: {name} used {used.get(name, '0')} of {hard}"


def _describe(workload: Object) -> str:
    kind, meta = workload["kind"].lower(), workload["metadata"]
    return f"kubectl -n {meta['namespace']} describe {kind} {meta['name']}"
