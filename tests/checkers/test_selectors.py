"""Label selectors take the objects that Kubernetes would take."""

from __future__ import annotations

from typing import Any

import pytest

from checkers.selectors import holds, in_words, selects

LABELS = {"app": "api", "tier": "web", "gpus": "4"}


def rule(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


@pytest.mark.parametrize(
    "selector",
    [
        {},
        {"matchLabels": None, "matchExpressions": None},
        {"matchLabels": {"app": "api"}},
        {"matchLabels": {"app": "api", "tier": "web"}},
        {"matchExpressions": [rule("app", "In", "x", "api")]},
        {"matchLabels": {"app": "api"}, "matchExpressions": [rule("tier", "NotIn", "db"), rule("gpus", "Exists")]},
    ],
)
def test_a_selector_takes_what_fits_all_its_rules(selector: dict[str, Any]) -> None:
    assert selects(selector, LABELS)


@pytest.mark.parametrize(
    "selector",
    [
        {"matchLabels": {"app": "API"}},
        {"matchLabels": {"app": "api", "tier": "db"}},
        {"matchLabels": {"missing": ""}},
        {"matchLabels": {"app": "api"}, "matchExpressions": [rule("tier", "In", "db")]},
        {"matchExpressions": [rule("app", "In", "api"), rule("tier", "DoesNotExist")]},
    ],
)
def test_one_rule_that_does_not_fit_is_enough_to_be_left_out(selector: dict[str, Any]) -> None:
    assert not selects(selector, LABELS)


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        (rule("app", "In", "api"), True),
        (rule("app", "In", "web", "db"), False),
        (rule("none", "In", "api"), False),
        (rule("app", "NotIn", "api"), False),
        (rule("app", "NotIn", "web"), True),
        (rule("none", "NotIn", "web"), True),
        (rule("app", "Exists"), True),
        (rule("none", "Exists"), False),
        (rule("app", "DoesNotExist"), False),
        (rule("none", "DoesNotExist"), True),
        (rule("gpus", "Gt", "3"), True),
        (rule("gpus", "Gt", "4"), False),
        (rule("gpus", "Gt", "10"), False),  # as numbers, not as text
        (rule("none", "Gt", "0"), False),
        (rule("gpus", "Lt", "10"), True),
        (rule("gpus", "Lt", "4"), False),
        (rule("none", "Lt", "9"), False),
    ],
)
def test_each_operator_means_what_it_means_in_kubernetes(requirement: dict[str, Any], expected: bool) -> None:
    assert holds(requirement, LABELS) is expected


@pytest.mark.parametrize("operator", ["Gt", "Lt"])
def test_a_label_that_is_no_number_is_neither_more_nor_less(operator: str) -> None:
    assert holds(rule("app", operator, "1"), LABELS) is False


def test_an_empty_label_value_is_a_value() -> None:
    assert holds(rule("control-plane", "Exists"), {"control-plane": ""})
    assert selects({"matchLabels": {"control-plane": ""}}, {"control-plane": ""})


def test_an_operator_that_kubernetes_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="Near"):
        holds(rule("app", "Near", "api"), LABELS)


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        (rule("zone", "In", "a"), "zone=a"),
        (rule("zone", "In", "a", "b"), "zone in (a, b)"),
        (rule("zone", "NotIn", "a"), "zone not in (a)"),
        (rule("zone", "Exists"), "a label zone"),
        (rule("zone", "DoesNotExist"), "no label zone"),
        (rule("gpus", "Gt", "3"), "gpus > 3"),
        (rule("gpus", "Lt", "3"), "gpus < 3"),
    ],
)
def test_requirements_are_told_in_words(requirement: dict[str, Any], words: str) -> None:
    assert in_words(requirement) == words
