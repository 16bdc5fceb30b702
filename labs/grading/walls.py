"""What keeps one submission from everything else: its rights, its limits, and what its pods may do.

The API server enforces all of it (RBAC, Pod Security, ResourceQuota, LimitRange); nothing here rests on reading
the submission. What a student leaves open about security is filled in, so that right work that never thought of it
runs under the strictest Pod Security level; what a student asks for explicitly stays and is judged by it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from checkers import quantity
from cluster.api import Object
from cluster.kinds import KINDS

GRADING_LABEL = "kailab.dev/grading"
NAME = "grading"
# "Pod Security Standards" in kubernetes.io/docs: admission refuses pods that ask for more.
POD_SECURITY = {"pod-security.kubernetes.io/enforce": "restricted"}
# What any student may hand in; a lab's own solutions may add to it.
EVERYDAY = frozenset({
    "ConfigMap", "Secret", "Service", "ServiceAccount", "Pod", "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet",
    "Job", "CronJob", "PersistentVolumeClaim", "PodDisruptionBudget", "HorizontalPodAutoscaler", "Ingress",
    "NetworkPolicy",
})  # fmt: skip
_MOST_PODS = 40
_QUOTA = {
    "pods": str(_MOST_PODS), "requests.cpu": "4", "requests.memory": "6Gi", "limits.memory": "12Gi",
    "requests.storage": "10Gi", "requests.ephemeral-storage": "10Gi", "persistentvolumeclaims": "10", "services": "20",
    "services.loadbalancers": "2", "services.nodeports": "6", "configmaps": "100", "secrets": "100",
    "count/deployments.apps": "30", "count/replicasets.apps": "200", "count/statefulsets.apps": "20",
    "count/jobs.batch": "30", "count/cronjobs.batch": "10",
}  # fmt: skip
_LIMITS = {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "1Gi"}
_REQUESTS = {"cpu": "10m", "memory": "32Mi", "ephemeral-storage": "10Mi"}
_POD_FIELDS = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER_FIELDS = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def user(namespace: str) -> str:
    """Whom the API server takes the submission's manifests from. A user, so that no pod can have its token."""
    return f"kailab:submission:{namespace}"


def walls(namespace: str, kinds: Iterable[str], quota: Mapping[str, str] = MappingProxyType({})) -> list[Object]:
    """The objects that make a namespace one submission's own, for manifests of these namespaced kinds.

    `quota` is what a lab needs more than is usual.
    """
    core = "system-node-critical", "system-cluster-critical"
    return [
        _object("v1", "ResourceQuota", NAME, {"spec": {"hard": {**_QUOTA, **quota}}}),
        # Pods of these classes would push the cluster's own off their nodes.
        _object("v1", "ResourceQuota", f"{NAME}-no-system-pods", {"spec": {
            "hard": {"pods": "0"},
            "scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": "In", "values": list(core)},
            ]},
        }}),
        limit_range(),
        _object("rbac.authorization.k8s.io/v1", "Role", NAME, {"rules": _rules(kinds)}),
        _object("rbac.authorization.k8s.io/v1", "RoleBinding", NAME, {
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user(namespace)}],
        }),
    ]  # fmt: skip


def limit_range(objects: Iterable[Object] = ()) -> Object:
    """What the API server gives to containers that state no requests or limits; their manifests stay as they are, so
    that a check can tell. Limits are as high as the highest request in these objects: above its limit it is refused.
    """
    limits = dict(_LIMITS)
    for container in (container for item in objects for container in _containers(_pod_spec(item))):
        resources = container.get("resources")
        stated = resources.get("requests") if isinstance(resources, dict) else None
        requests: dict[str, Any] = stated if isinstance(stated, dict) else {}
        for name in limits.keys() & requests.keys():
            with suppress(ValueError):  # an amount that the API server will refuse by itself
                if quantity.parse(requests[name]) > quantity.parse(limits[name]):
                    limits[name] = requests[name]
    rule = {"type": "Container", "default": limits, "defaultRequest": _REQUESTS}
    return _object("v1", "LimitRange", NAME, {"spec": {"limits": [rule]}})


def _object(version: str, kind: str, name: str, rest: dict[str, Any]) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **rest}


def _rules(kinds: Iterable[str]) -> list[dict[str, Any]]:
    groups: dict[str, list[str]] = {}
    for name in sorted(kinds):
        kind = KINDS[name]
        group = kind.api_version.rpartition("/")[0]
        groups.setdefault(group, []).append(kind.plural)
    return [{"apiGroups": [group], "resources": plurals, "verbs": ["get", "create", "patch"]}
            for group, plurals in groups.items()]  # fmt: skip


def harden(item: Object) -> Object:
    """The object with what it leaves open about its pods' security filled in."""
    item = copy.deepcopy(item)
    pod = _pod_spec(item)
    if pod is None:
        return item
    _fill(pod, _POD_FIELDS)
    for container in _containers(pod):
        _fill(container, _CONTAINER_FIELDS)
        _leave_open_what_contradicts(container["securityContext"])
    return item


def _containers(pod: dict[str, Any] | None) -> list[dict[str, Any]]:
    lists = [(pod or {}).get(field) for field in ("containers", "initContainers")]
    return [one for found in lists if isinstance(found, list) for one in found if isinstance(one, dict)]


def _leave_open_what_contradicts(context: Any) -> None:
    """The API server refuses allowPrivilegeEscalation: false beside these before Pod Security says what is wrong."""
    if isinstance(context, dict):
        capabilities = context.get("capabilities")
        added = capabilities.get("add") if isinstance(capabilities, dict) else None
        mighty = isinstance(added, list) and not {"SYS_ADMIN", "CAP_SYS_ADMIN"}.isdisjoint(map(str, added))
        if context.get("privileged") or mighty:
            context.pop("allowPrivilegeEscalation", None)


def _pod_spec(item: Object) -> dict[str, Any] | None:
    path = {"Pod": ("spec",), "CronJob": ("spec", "jobTemplate", "spec", "template", "spec")}
    found: Any = item
    for step in path.get(item["kind"], ("spec", "template", "spec")):
        found = found.get(step) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _fill(owner: dict[str, Any], fields: dict[str, Any]) -> None:
    """Null is what YAML makes of a field with nothing after it: as open as one that isn't there."""
    if owner.get("securityContext") is None:
        owner["securityContext"] = {}
    context = owner["securityContext"]
    if isinstance(context, dict):
        context |= {name: copy.deepcopy(value) for name, value in fields.items() if context.get(name) is None}


def moved(item: Object, home: str, namespace: str) -> Object:
    """The object as it would be had the lab's namespace `home` been this one: also in addresses of Services."""
    word = re.compile(rf"(?<![\w-]){re.escape(home)}(?![\w-])")

    def move(value: Any) -> Any:
        if isinstance(value, str):
            return word.sub(namespace, value)
        if isinstance(value, dict):
            return {key: move(entry) for key, entry in value.items()}
        return [move(entry) for entry in value] if isinstance(value, list) else value

    changed: Object = move(item)
    return changed


def refusal(item: Object, namespace: str, kinds: Iterable[str]) -> str:
    """Why an object isn't even tried, or nothing. The API server would refuse most of these as well."""
    kind, meta = item["kind"], item["metadata"]
    title = f"{kind} {meta.get('name') or meta.get('generateName')}"
    if not meta.get("name"):
        return f"{title} has no name of its own (generateName): what is graded must be the same each time"
    if kind not in kinds:
        known = KINDS.get(kind)
        outside = known is not None and not known.namespaced
        return f"{title} is of a kind that this lab does not need" + (", outside of your namespace" if outside else "")
    if meta.get("namespace", namespace) != namespace:
        return f"{title} goes to namespace {meta['namespace']}, which is not yours"
    if kind in ("ResourceQuota", "LimitRange", "Role", "RoleBinding") and meta["name"].startswith(NAME):
        return f"{title} has the name of one of the grader's own"
    spec = item.get("spec")
    if kind == "Service" and isinstance(spec, dict) and spec.get("externalIPs"):
        return f"{title} asks for externalIPs, which would take other people's traffic"
    return ""
