"""What a worker may do: rules made from the lab itself, and an admission policy for what RBAC has no words for.

RBAC can't say "only namespaces whose names begin with grade-", so the role names kinds and verbs, and the policy
refuses every change outside of rooms. Reading has no such second wall: with the role the worker can read the listed
kinds, Secrets among them, in every namespace.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from cluster import gpu
from cluster.api import Object
from cluster.kinds import KINDS, kind_named
from labs.catalog import LabFolder
from labs.grading import walls
from labs.grading.remote import NAMESPACE, WORKER
from labs.grading.rooms import ROOM_PREFIX, kinds_for
from labs.lifecycle import kinds_of

_LOOK = ("get", "list", "watch")
_CHANGE = ("create", "patch", "delete", "deletecollection")
_WALLS = ("ResourceQuota", "LimitRange", "Role", "RoleBinding")
_ALWAYS_READ = ("Event", "EndpointSlice")
USER = f"system:serviceaccount:{NAMESPACE}:worker"
Rule = dict[str, Any]


def objects(lab: LabFolder, rooms: Iterable[str]) -> list[Object]:
    """The worker's roles, bindings and policy, for a run whose submissions are judged in these rooms."""
    found = [_cluster_role(lab, rooms), _binding("ClusterRole", WORKER, "")]
    for namespace, rules in sorted(_elsewhere(lab).items()):
        found += [_role(namespace, rules), _binding("Role", WORKER, namespace)]
    return [*found, *_policy(lab)]


def names(lab: LabFolder) -> list[tuple[str, str, str]]:
    """(kind, name, namespace) of all of these, as far as they don't go with the run's namespace."""
    return [
        (item["kind"], item["metadata"]["name"], item["metadata"].get("namespace", ""))
        for item in objects(lab, ())
        if item["metadata"].get("namespace") != NAMESPACE
    ]


def _cluster_role(lab: LabFolder, rooms: Iterable[str]) -> Object:
    read = {name for name in kinds_of(lab) if "@" not in name} | set(_ALWAYS_READ)
    disturbed = {name for check in lab.checks for name in check.disturbs if "@" not in name}
    inside = kinds_for(lab) | set(_WALLS) | disturbed
    inside |= {name for name in read if KINDS[name].namespaced}
    outside = {name for name in read if not KINDS[name].namespaced} - {"Namespace", "Node"}
    rules = [
        *_rules(inside, (*_LOOK, *_CHANGE)),
        *_rules(outside, _LOOK),
        _rule("", ["namespaces"], (*_LOOK, "create", "patch", "delete")),
        # Checks drain nodes and break simulated GPUs; both are put back.
        _rule("", ["nodes"], (*_LOOK, "patch")),
        # An exec by WebSocket is a GET that the API server also asks "create" for.
        _rule("", ["pods/exec"], ("get", "create")),
        _rule("", ["pods/log"], ("get",)),
        _rule("", ["pods/eviction"], ("create",)),
    ]
    if users := sorted(map(walls.user, rooms)):
        rules.append({**_rule("", ["users"], ("impersonate",)), "resourceNames": users})
    return _object("ClusterRole", WORKER, "", {"rules": rules})


def _elsewhere(lab: LabFolder) -> dict[str, list[Rule]]:
    """Rules by namespace: the queue, the prober, and where the lab's checks look or its students borrow."""
    rules: dict[str, list[Rule]] = defaultdict(list)
    rules[NAMESPACE] += [
        _rule("", ["configmaps"], ("get", "create", "patch")),
        _rule("coordination.k8s.io", ["leases"], ("get", "list", "create", "patch", "delete")),
    ]
    rules["kailab-system"] += [
        _rule("", ["pods"], ("get", "list")),
        _rule("", ["pods/proxy"], ("get", "create", "delete")),
    ]
    for name in kinds_of(lab):
        kind, _, namespace = name.partition("@")
        if namespace:
            rules[namespace] += _rules([kind], _LOOK)
            if kind == "Pod":
                rules[namespace] += [_rule("", ["pods/exec", "pods/proxy"], ("get", "create"))]
    for one in lab.file.borrows:
        if one.namespace:
            rules[one.namespace] += [{**rule, "resourceNames": [one.name]}
                                     for rule in _rules([one.kind], ("get", "patch", "delete"))]  # fmt: skip
            rules[one.namespace] += _rules([one.kind], ("create",))
    if "ResourceSlice" in kinds_of(lab) or lab.file.borrows:
        rules[gpu.NAMESPACE] += [_rule("", ["pods"], ("get", "list")), _rule("", ["pods/proxy"], ("get",))]
    return rules


def _policy(lab: LabFolder) -> list[Object]:
    """Every change by a worker, or by a submission on whose behalf it acts, happens in a room. Nodes and what the
    lab lends are the exceptions, and reviews of one's own rights, which change nothing."""
    in_room = f"request.namespace.startsWith('{ROOM_PREFIX}')"
    room_itself = f"request.resource.resource == 'namespaces' && request.name.startsWith('{ROOM_PREFIX}')"
    own = [
        f"request.namespace == '{NAMESPACE}' && request.resource.resource in ['configmaps', 'leases']",
        "request.resource.resource == 'nodes' && request.operation == 'UPDATE'",
        "request.resource.group == 'authorization.k8s.io'",
        *(f"request.namespace == '{namespace}' && request.operation == 'CONNECT'" for namespace in _elsewhere(lab)),
        *(f"request.namespace == '{one.namespace}' && request.name == '{one.name}'"
          for one in lab.file.borrows if one.namespace),
    ]  # fmt: skip
    submission = "request.userInfo.username.startsWith('kailab:submission:')"
    allowed = " || ".join(f"({one})" for one in (in_room, room_itself, *own))
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{
            "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"],
            "operations": ["CREATE", "UPDATE", "DELETE", "CONNECT"],
        }]},
        "matchConditions": [{
            "name": "by-a-worker", "expression": f"request.userInfo.username == '{USER}' || {submission}",
        }],
        "validations": [{"expression": allowed, "message": "graders change nothing outside of their rooms"}],
    }  # fmt: skip
    group = "admissionregistration.k8s.io/v1"
    binding = {"policyName": WORKER, "validationActions": ["Deny"]}
    return [
        _object("ValidatingAdmissionPolicy", WORKER, "", {"spec": spec}, group),
        _object("ValidatingAdmissionPolicyBinding", WORKER, "", {"spec": binding}, group),
    ]


def _rules(kinds: Iterable[str], verbs: Iterable[str]) -> list[Rule]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(kinds)):
        kind = kind_named(name)
        groups[kind.api_version.rpartition("/")[0]].append(kind.plural)
    return [_rule(group, plurals, verbs) for group, plurals in sorted(groups.items())]


def _rule(group: str, resources: list[str], verbs: Iterable[str]) -> Rule:
    return {"apiGroups": [group], "resources": resources, "verbs": list(verbs)}


def _role(namespace: str, rules: list[Rule]) -> Object:
    return _object("Role", WORKER, namespace, {"rules": rules})


def _binding(role: str, name: str, namespace: str) -> Object:
    return _object(f"{role}Binding", name, namespace, {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "worker", "namespace": NAMESPACE}],
    })  # fmt: skip


def _object(kind: str, name: str, namespace: str, rest: dict[str, Any],
            version: str = "rbac.authorization.k8s.io/v1") -> Object:  # fmt: skip
    where = {"namespace": namespace} if namespace else {}
    meta = {"name": name, "labels": {"app.kubernetes.io/part-of": "kailab"}, **where}
    return {"apiVersion": version, "kind": kind, "metadata": meta, **rest}
