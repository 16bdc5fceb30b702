"""`kailab explain POD`: gathers the facts about a pod, or about the workload that should have one, and prints why."""

from __future__ import annotations

import contextlib
import difflib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from checkers.explain import Facts, Reason, explain, past_ends
from checkers.explain_workloads import workload_reasons
from checkers.report.terminal import plain
from checkers.workloads import container_statuses, is_leaving, is_owned, is_ready
from cluster.api import Api, ApiError, Object
from cluster.errors import KailabError
from cluster.workspace import Workspace
from labs.catalog import lab_numbered
from labs.lifecycle import Course
from labs.progress import Progress

_WORKLOADS = {
    "deployment": "Deployment", "deploy": "Deployment", "replicaset": "ReplicaSet", "rs": "ReplicaSet",
    "statefulset": "StatefulSet", "sts": "StatefulSet", "job": "Job", "daemonset": "DaemonSet", "ds": "DaemonSet",
}  # fmt: skip


def explain_pod_named(workspace: Workspace, name: str, namespace: str, console: Console) -> None:
    """Print every reason that is seen. `name` is a pod, pod/NAME, or KIND/NAME of what should have pods.

    Raises KailabError when there is nothing of that name.
    """
    where = namespace or _current(workspace)
    with Course.opened(workspace) as course:
        target = _find(course.api, name, where)
        told = [_about_pod(course.api, target)] if target["kind"] == "Pod" else _about_workload(course.api, target)
    for index, item in enumerate(told):
        if index:
            console.print()
        _show(item, console)


@dataclass(frozen=True)
class _Told:
    """What is said about a pod or a workload: `well` stands where no reasons are, `past` is no trouble any more."""

    title: str
    phase: str = ""
    reasons: list[Reason] = field(default_factory=list)
    well: str = ""
    past: list[Reason] = field(default_factory=list)


def _about_pod(api: Api, pod: Object) -> _Told:
    facts = _facts(api, pod)
    reasons, phase, past = explain(facts), pod.get("status", {}).get("phase", ""), []
    well = ""
    if is_ready(pod):
        well = "Nothing is wrong with it: it runs and is ready."
        past = [] if reasons else past_ends(facts)
    elif phase == "Succeeded":
        well = "Nothing is wrong with it: it has done its work."
    elif not reasons:
        look = f"kubectl -n {pod['metadata']['namespace']} describe pod {pod['metadata']['name']}"
        reasons = [Reason("Nothing shows what it waits for. Look again in a moment.", look_with=look)]
    return _Told(f"Pod {pod['metadata']['name']}", phase, reasons, well, past)


def _about_workload(api: Api, workload: Object) -> list[_Told]:
    """What keeps pods from being made, and what is wrong with the worst of those that are there."""
    namespace, uid = workload["metadata"]["namespace"], workload["metadata"]["uid"]
    owned = [item for item in api.list("ReplicaSet", namespace)[0] if is_owned(item, {uid})]
    makers = {item["metadata"]["uid"] for item in owned} if workload["kind"] == "Deployment" else {uid}
    pods = [pod for pod in api.list("Pod", namespace)[0] if is_owned(pod, makers)]
    quotas, _ = api.list("ResourceQuota", namespace)
    events, _ = api.list("Event", namespace, fieldSelector=f"involvedObject.uid={uid}")
    reasons = workload_reasons(workload, owned, quotas, events, pods)
    told = [_Told(f"{workload['kind']} {workload['metadata']['name']}", reasons=reasons)] if reasons else []
    if pods:
        worst = _about_pod(api, _worst(pods))
        if worst.reasons or not told:
            told.append(worst)
    return told


def _current(workspace: Workspace) -> str:
    number = Progress(workspace).current
    if not number:
        raise KailabError("No lab was started yet, so say in which namespace to look.",
                          mend="kailab explain POD --namespace NAMESPACE")  # fmt: skip
    return lab_numbered(number).namespace


def _find(api: Api, name: str, namespace: str) -> Object:
    prefix, _, rest = name.rpartition("/")
    pods, _ = api.list("Pod", namespace)
    if prefix.lower() in ("", "pod", "pods", "po"):
        found = next((pod for pod in pods if pod["metadata"]["name"] == rest), None)
    else:
        kind = _WORKLOADS.get(prefix.lower().removesuffix("s"), _WORKLOADS.get(prefix.lower(), ""))
        if not kind:
            raise KailabError(f"{prefix} is nothing that has pods.", mend="kailab explain pod/NAME or deployment/NAME")
        found = api.get(kind, rest, namespace)
    if found is None and not prefix:
        found = api.get("Deployment", rest, namespace)
    if found is None:
        names = [pod["metadata"]["name"] for pod in pods]
        close = difflib.get_close_matches(rest, names, 3, 0.4) or names[:5]
        raise KailabError(
            f"There is no {prefix or 'pod'} {rest} in namespace {namespace}.",
            why=f"Pods there: {', '.join(close)}" if close else "There are no pods in that namespace.",
            mend=f"kubectl -n {namespace} get pods",
        )
    return {**found, "kind": found.get("kind", "Pod")}


def _worst(pods: list[Object]) -> Object:
    """The newest one that isn't well, else one that is on its way out, else any."""

    def rank(pod: Object) -> tuple[int, str]:
        well = is_ready(pod) or pod.get("status", {}).get("phase") == "Succeeded"
        return 0 if well else 1 if is_leaving(pod) else 2, pod["metadata"]["creationTimestamp"]

    return max(pods, key=rank)


def _facts(api: Api, pod: Object) -> Facts:
    namespace, uid = pod["metadata"]["namespace"], pod["metadata"]["uid"]
    pod = {**pod, "kind": "Pod"}

    def listed(kind: str, where: str = "", **selectors: str) -> tuple[Object, ...]:
        return tuple(api.list(kind, where, **selectors)[0])

    with ThreadPoolExecutor(8) as pool:
        events = pool.submit(listed, "Event", namespace, fieldSelector=f"involvedObject.uid={uid}")
        nodes, pods = pool.submit(listed, "Node"), pool.submit(listed, "Pod")
        claims = pool.submit(listed, "PersistentVolumeClaim", namespace)
        about_claims = "involvedObject.kind=PersistentVolumeClaim"
        claim_events = pool.submit(listed, "Event", namespace, fieldSelector=about_claims)
        classes = pool.submit(listed, "StorageClass")
        resource_claims = pool.submit(listed, "ResourceClaim", namespace)
        slices = pool.submit(listed, "ResourceSlice")
        logs = _logs(api, pod)
    return Facts(
        pod, events.result(), nodes.result(), pods.result(), claims.result(), claim_events.result(), classes.result(),
        resource_claims.result(), slices.result(), logs,
    )  # fmt: skip


def _logs(api: Api, pod: Object) -> dict[str, str]:
    """The end of the log of every container that has ended, by name."""
    found = {}
    for entry in container_statuses(pod):
        ended_now = "terminated" in entry.get("state", {})
        if ended_now or entry.get("restartCount"):
            with contextlib.suppress(ApiError):  # a log that is gone takes nothing from the rest
                found[entry["name"]] = api.logs(
                    pod["metadata"]["name"], pod["metadata"]["namespace"], container=entry["name"],
                    previous=not ended_now,
                )  # fmt: skip
    return found


def _show(told: _Told, console: Console) -> None:
    console.print(Text.assemble((told.title, "bold"), f"  {told.phase}" if told.phase else ""))
    if not told.reasons:
        console.print(Text(told.well, style="green"))
    for reason in told.reasons:
        _show_reason(reason, "bold red", console)
    for reason in told.past:
        _show_reason(reason, "", console)


def _show_reason(reason: Reason, style: str, console: Console) -> None:
    console.print()
    console.print(Text(plain(reason.what), style=style))
    for line in reason.details:
        console.print(Padding(Text(plain(line)), (0, 0, 0, 2)))
    if reason.mend:
        console.print(Padding(Text(reason.mend), (0, 0, 0, 2)))
    if reason.look_with:
        console.print(Text("  look with  ", style="dim") + Text(plain(reason.look_with), style="cyan"), soft_wrap=True)
