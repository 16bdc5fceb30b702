"""Spread constraints told with their counts; the rules are the scheduler's own."""

from __future__ import annotations

from typing import Any

import pytest

from checkers.spreading import refusals

KEY = "region"
WEB = {"app": "web"}


def rule(**more: Any) -> dict[str, Any]:
    return {"topologyKey": KEY, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": WEB}, **more}  # fmt: skip


def pod(*rules: dict[str, Any], node: str = "", labels: dict[str, str] = WEB, **more: Any) -> dict[str, Any]:
    spec = {"topologySpreadConstraints": list(rules), **({"nodeName": node} if node else {}), **more.pop("spec", {})}
    return {"metadata": {"name": "p", "namespace": "n", "labels": labels, **more}, "spec": spec, "status": {}}


def node(name: str, region: str | None, *taints: dict[str, str]) -> dict[str, Any]:
    labels = {KEY: region} if region else {}
    return {"metadata": {"name": name, "labels": labels}, "spec": {"taints": list(taints)}}


CLOSED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
EAST, WEST, SHUT = node("e", "east"), node("w", "west"), node("s", "south", CLOSED)


def kept_away(wanted: dict[str, Any], nodes: list[dict[str, Any]], *placed: dict[str, Any]) -> set[str]:
    return {name for name, why in refusals(wanted, nodes, placed).items() if why}


def test_the_fuller_place_is_closed_until_the_other_has_as_many() -> None:
    assert kept_away(pod(rule()), [EAST, WEST], pod(node="e")) == {"e"}
    assert kept_away(pod(rule()), [EAST, WEST], pod(node="e"), pod(node="w")) == set()
    assert kept_away(pod(rule(maxSkew=2)), [EAST, WEST], pod(node="e")) == set()


def test_closed_nodes_count_unless_taints_are_honoured() -> None:
    there = [pod(node="e"), pod(node="w")]
    said = refusals(pod(rule()), [EAST, WEST, SHUT], there)["e"]
    text = "region east has 1 of these pods, south has 0, where all nodes are closed to it but count"
    assert said == [f"{text}: one more would be over maxSkew 1"]
    assert kept_away(pod(rule(nodeTaintsPolicy="Honor")), [EAST, WEST, SHUT], *there) == set()
    assert kept_away(pod(rule(nodeTaintsPolicy="Honor"), spec={"tolerations": [{"operator": "Exists"}]}),
                     [EAST, WEST, SHUT], *there) == {"e", "w"}  # fmt: skip


@pytest.mark.parametrize("other", [
    pod(node="e", labels={"app": "other"}), pod(node="e", namespace="elsewhere"),
    pod(node="e", deletionTimestamp="2026-01-01T00:00:00Z"), {**pod(node="e"), "status": {"phase": "Succeeded"}}, pod(),
])  # fmt: skip
def test_only_live_pods_like_it_in_its_namespace_count(other: dict[str, Any]) -> None:
    assert kept_away(pod(rule()), [EAST, WEST], other) == set()


def test_with_match_label_keys_only_pods_of_the_same_template_count() -> None:
    new, old = {**WEB, "hash": "2"}, {**WEB, "hash": "1"}
    wanted = pod(rule(matchLabelKeys=["hash"]), labels=new)
    assert kept_away(wanted, [EAST, WEST], pod(node="e", labels=old)) == set()
    assert kept_away(wanted, [EAST, WEST], pod(node="e", labels=new)) == {"e"}


def test_nodes_that_the_pod_does_not_select_are_not_counted() -> None:
    chosen = pod(rule(), spec={"nodeSelector": {KEY: "east"}})
    assert kept_away(chosen, [EAST, WEST], pod(node="e")) == set()
    ignoring = pod(rule(nodeAffinityPolicy="Ignore"), spec={"nodeSelector": {KEY: "east"}})
    assert kept_away(ignoring, [EAST, WEST], pod(node="e")) == {"e"}


def test_too_few_places_count_as_none() -> None:
    assert kept_away(pod(rule(minDomains=3)), [EAST, WEST], pod(node="e"), pod(node="w")) == {"e", "w"}


def test_a_node_without_the_label_is_no_place_and_a_wish_keeps_nobody_away() -> None:
    bare = node("b", None)
    assert refusals(pod(rule()), [bare, EAST], [])["b"] == ["it has no label region to spread over"]
    assert kept_away(pod(rule(whenUnsatisfiable="ScheduleAnyway")), [bare, EAST, WEST], pod(node="e")) == set()
    assert kept_away(pod(), [bare, EAST]) == set()


def without_selector() -> dict[str, Any]:
    return {key: value for key, value in rule().items() if key != "labelSelector"}


@pytest.mark.parametrize("blind", [
    without_selector(), rule(labelSelector=None), rule(labelSelector={}),
    rule(labelSelector={"matchLabels": {}, "matchExpressions": []}), rule(labelSelector={}, matchLabelKeys=["hash"]),
    {**without_selector(), "minDomains": 3}, rule(labelSelector={}, minDomains=3),
    {**without_selector(), "matchLabelKeys": ["app"]},
])  # fmt: skip
def test_a_rule_that_names_no_pods_counts_none_and_keeps_the_pod_only_from_nodes_without_the_label(blind: Any) -> None:
    there = [pod(node="e"), pod(node="e"), pod(node="e", labels={})]
    assert refusals(pod(blind), [EAST, WEST], there) == {"e": [], "w": []}
    assert kept_away(pod(blind), [node("b", None), EAST], *there) == {"b"}


def test_match_label_keys_that_the_pod_has_make_an_empty_selector_count() -> None:
    wanted = pod(rule(labelSelector={}, matchLabelKeys=["app"]))
    assert kept_away(wanted, [EAST, WEST], pod(node="e"), pod(node="w", labels={"app": "other"})) == {"e"}


def test_a_match_label_key_adds_to_the_selector_and_takes_nothing_from_it() -> None:
    other = pod(rule(matchLabelKeys=["app"]), labels={"app": "other"})
    assert kept_away(other, [EAST, WEST], pod(node="e"), pod(node="e", labels={"app": "other"})) == set()
