"""An object's own words for a failure: conditions, container states, the last events, the end of a log."""

from __future__ import annotations

from textwrap import shorten
from typing import Any

from checkers.lab import Lab
from checkers.workloads import container_statuses
from cluster.api import Object

LOG_LINES = 3
EVENTS = 2
MESSAGE_LETTERS = 200


def own_words(lab: Lab, item: Object) -> list[str]:
    """Up to about six lines on why an object is not what it should be; never raises."""
    try:
        if item["kind"] == "Pod":
            return pod_words(lab, item)
        lines = _conditions(item) + _events(lab, item)
        if item["kind"] in ("Deployment", "ReplicaSet", "StatefulSet", "Job", "DaemonSet"):
            worst = _worst_pod(lab, item)
            lines += pod_words(lab, worst) if worst else []
        return lines
    except Exception:  # noqa: BLE001 - garnish: whatever is odd about an object, the verdict stands without it
        return []


def pod_words(lab: Lab, pod: Object) -> list[str]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    lines = []
    for container in container_statuses(pod):
        lines += [f"pod {name}, container {container['name']}: {text}" for text in container_words(container)]
    if not lines:
        lines += [f"pod {name}: {c['reason']}: {c.get('message', '')}" for c in status.get("conditions", [])
                  if c["status"] == "False" and c.get("reason") == "Unschedulable"]  # fmt: skip
    lines += _events(lab, pod)
    failing = next((c for c in status.get("containerStatuses", []) if not c.get("ready")), None)
    if failing and (
        failing.get("restartCount") or failing["state"].get("running") or failing["state"].get("terminated")
    ):
        text = lab.logs(name, container=failing["name"], tail=LOG_LINES, previous=bool(failing["state"].get("waiting")))
        lines += [f"log of {failing['name']}: {line}" for line in text.splitlines()[-LOG_LINES:]]
    return lines


def container_words(container: dict[str, Any]) -> list[str]:
    """A container's state in words, when it isn't simply up and ready."""
    state = container.get("state", {})
    lines = []
    if waiting := state.get("waiting"):
        lines.append(f"{waiting.get('reason', 'waiting')}: {waiting.get('message', '')}".rstrip(": "))
    elif ended := state.get("terminated"):
        lines.append(f"ended with exit code {_how(ended)}")
    elif not container.get("ready"):
        lines.append("running, but not ready")
    last = container.get("lastState", {}).get("terminated")
    if last and not container.get("ready"):
        lines.append(
            f"restarts so far: {container.get('restartCount', 0)}; before the last one: exit code {_how(last)}"
        )
    return lines


def _how(ended: dict[str, Any]) -> str:
    """Its exit code and reason, with the runtime's or the program's own last words."""
    message = shorten(ended.get("message") or "", MESSAGE_LETTERS, placeholder=" …")
    return f"{ended.get('exitCode')} ({ended.get('reason', '')})" + (f": {message}" if message else "")


def _conditions(item: Object) -> list[str]:
    bad = []
    for condition in item.get("status", {}).get("conditions", []):
        healthy = "False" if condition["type"] in ("ReplicaFailure", "Failed") else "True"
        if condition["status"] != healthy:
            bad.append(f"{item['kind']} condition {condition['type']}={condition['status']}: "
                       f"{condition.get('message') or condition.get('reason', '')}")  # fmt: skip
    return bad


def _events(lab: Lab, item: Object) -> list[str]:
    warnings = [event for event in lab.events(item) if event.get("type") == "Warning"]
    return [f"event {event.get('reason')}: {event.get('message', '')}" for event in warnings[-EVENTS:]]


def _worst_pod(lab: Lab, owner: Object) -> Object | None:
    pods = [pod for pod in lab.pods_of(owner) if not pod["metadata"].get("deletionTimestamp")]
    unready = [
        pod
        for pod in pods
        if not any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))
    ]
    return max(unready, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)
