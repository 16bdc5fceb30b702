"""The walls around a submission, as far as they can be seen without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from labs.catalog import all_labs
from labs.grading.rooms import kinds_for
from labs.grading.walls import EVERYDAY, harden, limit_range, moved, refusal, walls


def _deployment(pod: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
            "spec": {"template": {"spec": pod}}}  # fmt: skip


def test_what_is_left_open_is_filled_in_and_what_is_said_stays() -> None:
    given = {
        "securityContext": {"runAsNonRoot": False},
        "containers": [{"name": "a"}, {"name": "b", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}],
    }
    pod = harden(_deployment(given))["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": False, "seccompProfile": {"type": "RuntimeDefault"}}
    drop = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["containers"][0]["securityContext"] == drop
    assert pod["containers"][1]["securityContext"] == {"capabilities": {"add": ["SYS_ADMIN"]}}
    assert "securityContext" not in given["containers"][0]


def test_a_field_without_a_value_is_left_open() -> None:
    """`securityContext:` with nothing after it is null in YAML, and the API server takes it for a missing one."""
    empty = {"allowPrivilegeEscalation": None, "capabilities": None, "privileged": None}
    given = {
        "securityContext": None,
        "containers": [{"name": "a", "securityContext": None}, {"name": "b", "securityContext": empty}],
        "initContainers": [{"name": "c", "securityContext": {}}],
    }
    pod = harden(_deployment(given))["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    drop = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["containers"][0]["securityContext"] == drop
    assert pod["containers"][1]["securityContext"] == {**drop, "privileged": None}
    assert pod["initContainers"][0]["securityContext"] == drop


@pytest.mark.parametrize("item", [
    {"kind": "Deployment", "metadata": {"name": "a"}}, {"kind": "Deployment", "metadata": {}, "spec": []},
    _deployment({"containers": "none", "securityContext": 3}), _deployment({"containers": [None, {}]}),
    _deployment({"containers": 3, "initContainers": True}),
    _deployment({"containers": [{"securityContext": {"capabilities": {"add": 1.5}}}]}),
    {"kind": "CronJob", "metadata": {"name": "a"}, "spec": {"jobTemplate": None}},
])  # fmt: skip
def test_broken_objects_pass_through_for_the_api_server_to_judge(item: dict[str, Any]) -> None:
    assert harden(item)["kind"] == item["kind"]


def test_the_labs_own_namespace_becomes_the_room() -> None:
    item = {
        "kind": "ConfigMap", "metadata": {"name": "lab-06", "namespace": "lab-06"},
        "data": {"url": "http://ai-service.lab-06.svc:80", "other": "lab-061 my-lab-06", "n": 6},
    }  # fmt: skip
    changed = moved(item, "lab-06", "grade-06-x")
    assert changed["metadata"]["namespace"] == "grade-06-x"
    assert changed["data"] == {"url": "http://ai-service.grade-06-x.svc:80", "other": "lab-061 my-lab-06", "n": 6}


@pytest.mark.parametrize(("item", "said"), [
    ({"kind": "ClusterRoleBinding", "metadata": {"name": "a"}}, "outside of your namespace"),
    ({"kind": "Namespace", "metadata": {"name": "a"}}, "outside of your namespace"),
    ({"kind": "Node", "metadata": {"name": "gpu-a"}}, "outside of your namespace"),
    ({"kind": "Moon", "metadata": {"name": "a"}}, "of a kind that this lab does not need"),
    ({"kind": "ConfigMap", "metadata": {"name": "a", "namespace": "lab-06-of-bob"}}, "which is not yours"),
    ({"kind": "ConfigMap", "metadata": {"generateName": "a-"}}, "no name of its own"),
    ({"kind": "Service", "metadata": {"name": "a"}, "spec": {"externalIPs": ["10.96.0.1"]}}, "externalIPs"),
])  # fmt: skip
def test_what_is_not_even_tried(item: dict[str, Any], said: str) -> None:
    assert said in refusal(item, "grade-06-x", EVERYDAY)


def test_everyday_objects_are_tried() -> None:
    assert not refusal({"kind": "Service", "metadata": {"name": "a"}, "spec": {}}, "x", EVERYDAY)
    assert not refusal({"kind": "Service", "metadata": {"name": "a", "namespace": "x"}, "spec": None}, "x", EVERYDAY)


@pytest.mark.parametrize("lab", all_labs(), ids=lambda lab: f"lab-{lab.number}")
def test_every_labs_own_answers_are_of_kinds_that_may_be_handed_in(lab: Any) -> None:
    kinds = kinds_for(lab)
    lent = {(one.kind, one.name) for one in lab.file.borrows}
    for item in lab.manifests("solution"):
        if (item["kind"], item["metadata"]["name"]) not in lent:
            assert not refusal(item, item["metadata"].get("namespace", "x"), kinds)
    role = next(item for item in walls("x", kinds) if item["kind"] == "Role")
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "create", "patch"}
    assert not {"pods/exec", "namespaces", "nodes", "*"} & {it for rule in role["rules"] for it in rule["resources"]}


def test_what_a_manifest_says_of_resources_stays_as_it_is() -> None:
    """A check tells whether a student has set them; what runs without gets them from the API server."""
    container = {"name": "a", "resources": {"limits": {"cpu": "2"}}}
    made = harden(_deployment({"containers": [container, {"name": "b"}]}))["spec"]["template"]["spec"]["containers"]
    assert made[0]["resources"] == container["resources"]
    assert "resources" not in made[1]


@pytest.mark.parametrize(("resources", "cpu"), [
    ({}, "500m"), ({"requests": {"cpu": "100m"}}, "500m"), ({"requests": {"cpu": 4}}, 4),
    ({"requests": {"cpu": "many"}}, "500m"), ({"requests": {"cpu": None}}, "500m"), ({"requests": 3}, "500m"),
    ([], "500m"), ("all", "500m"), ({"requests": {"cpu": [1]}}, "500m"),
])  # fmt: skip
def test_a_limit_that_is_left_open_never_contradicts_the_request(resources: Any, cpu: Any) -> None:
    small = {"name": "small", "resources": {"requests": {"cpu": "1m"}}}
    items = [_deployment({"containers": [small], "initContainers": [{"name": "main", "resources": resources}]})]
    (limits,) = limit_range(items)["spec"]["limits"]
    assert limits["default"]["cpu"] == cpu
    assert limits["defaultRequest"]["cpu"] == "10m"


def test_a_lab_may_need_a_larger_room() -> None:
    quota = next(item for item in walls("x", {"Pod"}, {"pods": "300"}) if item["kind"] == "ResourceQuota")
    assert quota["spec"]["hard"]["pods"] == "300"
    assert quota["spec"]["hard"]["services"]
