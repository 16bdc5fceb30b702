"""An expected fragment is held against a live object; what differs is named by its field path."""

from __future__ import annotations

from typing import Any

import pytest

from checkers.match import Absent, AtLeast, AtMost, Matching, OneOf, Predicate, Present, closest, mismatches


def texts(expected: Any, actual: Any) -> list[str]:
    return [str(mismatch) for mismatch in mismatches(expected, actual)]


def paths(expected: Any, actual: Any) -> list[str]:
    return [mismatch.path for mismatch in mismatches(expected, actual)]


def container(**fields: Any) -> dict[str, Any]:
    return {"name": "api", "image": "ai-app:v1", **fields}


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({}, {"kind": "Pod"}),
        ({"spec": {"replicas": 3}}, {"kind": "Deployment", "spec": {"replicas": 3, "paused": False}}),
        ({"replicas": 3}, {"replicas": 3.0}),
        ({"paused": False}, {"paused": False}),
        ({"args": ["--fast"]}, {"args": ["--slow", "--fast"]}),
        ({"labels": {"app.kubernetes.io/name": "api"}}, {"labels": {"app.kubernetes.io/name": "api", "x": "y"}}),
        ({"emptyDir": {}}, {"emptyDir": {}}),
        ({"emptyDir": {}}, {"emptyDir": {"medium": "Memory"}}),
        ({"ingress": []}, {"ingress": [{"ports": []}]}),
    ],
)
def test_an_object_may_have_more_than_was_expected(expected: Any, actual: Any) -> None:
    assert texts(expected, actual) == []


@pytest.mark.parametrize(
    ("expected", "actual", "said"),
    [
        ({"spec": {"replicas": 3}}, {"spec": {"replicas": 2}}, "spec.replicas: expected 3, but it is 2"),
        ({"spec": {"replicas": 3}}, {"spec": {}}, "spec.replicas: expected 3, but it is missing"),
        ({"spec": {"replicas": 3}}, {}, "spec: expected {'replicas': 3}, but it is missing"),
        ({"port": 80}, {"port": "80"}, "port: expected 80, but it is '80' (a text; it must be a number)"),
        ({"v": "80"}, {"v": 80}, "v: expected '80', but it is 80 (a number; it must be a text)"),
        ({"v": "True"}, {"v": True}, "v: expected 'True', but it is True (a true/false value; it must be a text)"),
        ({"image": "b"}, {"image": None}, "image: expected 'b', but it is None"),
        ({"emptyDir": {}}, {}, "emptyDir: expected {}, but it is missing"),
        ({"args": []}, {"args": "--x"}, "args: expected [], but it is '--x'"),
        ({"a": {"b": 1}}, {"a": [1]}, "a: expected {'b': 1}, but it is [1]"),
        ("x", "y", "the object: expected 'x', but it is 'y'"),
        ({"args": ["--fast"]}, {"args": ["--slow"]}, "args[]: expected '--fast', but it is ['--slow']"),
    ],
)
def test_a_message_says_where_what_was_expected_and_what_is_there(expected: Any, actual: Any, said: str) -> None:
    assert texts(expected, actual) == [said]


@pytest.mark.parametrize(("expected", "actual"), [(1, True), (True, 1), (0, False), (False, None), (None, False)])
def test_true_and_false_are_no_numbers(expected: Any, actual: Any) -> None:
    assert paths({"v": expected}, {"v": actual}) == ["v"]


def test_every_difference_is_told_not_only_the_first() -> None:
    expected = {"metadata": {"name": "a"}, "spec": {"replicas": 3, "paused": True}}
    actual = {"metadata": {"name": "b"}, "spec": {"replicas": 2}}
    assert paths(expected, actual) == ["metadata.name", "spec.replicas", "spec.paused"]


def test_paths_begin_where_the_caller_says() -> None:
    assert [str(m) for m in mismatches({"image": "a"}, {"image": "b"}, "container api")] == [
        "container api.image: expected 'a', but it is 'b'"
    ]


def test_long_values_are_cut_in_messages() -> None:
    (said,) = texts({"data": "short"}, {"data": "x" * 5000})
    assert len(said) < 200
    assert said.endswith("xxx...")


@pytest.mark.parametrize(
    ("path", "one", "other"),
    [
        ("resources.requests.cpu", "0.5", "500m"),
        ("resources.requests.cpu", 1, "1000m"),
        ("resources.limits.memory", "1Gi", "1024Mi"),
        ("resources.limits.nvidia.com/gpu", 1, "1"),
        ("resources.requests.storage", "1Gi", "1024Mi"),
        ("status.allocatable.memory", "1Ki", "1024"),
        ("spec.hard.requests.cpu", "2", "2000m"),
        ("spec.overhead.cpu", "0.25", "250m"),
        ("emptyDir.sizeLimit", "0.5Gi", "512Mi"),
        ("target.averageValue", "0.5", "500m"),
        ("resourceFieldRef.divisor", "1", "1000m"),
    ],
)
def test_quantities_are_the_same_when_their_amounts_are(path: str, one: Any, other: Any) -> None:
    assert paths(nested(path, one), nested(path, other)) == []


@pytest.mark.parametrize(
    ("path", "one", "other"),
    [
        ("resources.limits.memory", "1Gi", "1G"),
        ("resources.limits.memory", "1Gi", "a lot"),
        ("resources.limits.cpu", "1", True),
        ("resources.limits.cpu", "1", None),
        ("metadata.labels.version", "1.0", "1"),
        ("metadata.annotations.limits.cpu", "1", "1000m"),
        ("metadata.labels.requests.cpu", "1", "1000m"),
        ("data.CPU", "0.5", "500m"),
        ("spec.containers", "0.5", "500m"),
        ("spec.max", "0.5", "500m"),
    ],
)
def test_other_amounts_and_other_fields_are_not(path: str, one: Any, other: Any) -> None:
    assert len(mismatches(nested(path, one), nested(path, other))) == 1


def test_an_environment_variable_is_text_even_if_it_looks_like_a_quantity() -> None:
    expected = {"containers": [container(env=[{"name": "CPU", "value": "0.5"}])]}
    actual = {"containers": [container(env=[{"name": "CPU", "value": "500m"}])]}
    assert paths(expected, actual) == ["containers[name=api].env[name=CPU].value"]


@pytest.mark.parametrize(
    "item",
    [
        {"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}},
        {"data": {"default.conf": "server {}"}},
        {"data": {"limits.conf": "* hard nofile 1024"}},
        {"spec": {"selector": {"matchLabels": {"max.example.com/kind": "big"}}}},
    ],
)
def test_any_object_contains_itself_whatever_its_fields_are_called(item: dict[str, Any]) -> None:
    assert texts(item, item) == []


def nested(path: str, value: Any) -> dict[str, Any]:
    """`value` under a path; whatever follows requests, limits ... is one key (a resource's name may hold dots)."""
    first, _, rest = path.partition(".")
    if not rest:
        return {first: value}
    whole = first in {"requests", "limits", "labels", "annotations", "hard"}
    return {first: {rest: value} if whole else nested(rest, value)}


@pytest.mark.parametrize(
    ("field", "expected", "actual", "path"),
    [
        ("containers", {"name": "api", "image": "v2"}, {"name": "api", "image": "v1"}, "[name=api].image"),
        ("initContainers", {"name": "a", "image": "v2"}, {"name": "a", "image": "v1"}, "[name=a].image"),
        ("env", {"name": "A", "value": "1"}, {"name": "A", "value": "2"}, "[name=A].value"),
        ("ports", {"containerPort": 80, "name": "b"}, {"containerPort": 80, "name": "a"}, "[containerPort=80].name"),
        ("ports", {"port": 80, "targetPort": 1}, {"port": 80, "targetPort": 2}, "[port=80].targetPort"),
        ("volumeMounts", {"mountPath": "/d.x", "name": 1}, {"mountPath": "/d.x", "name": 2}, "[mountPath=/d.x].name"),
        ("conditions", {"type": "Ready", "status": "1"}, {"type": "Ready", "status": "2"}, "[type=Ready].status"),
        ("tolerations", {"key": "gpu", "effect": "B"}, {"key": "gpu", "effect": "A"}, "[key=gpu].effect"),
        ("volumeClaimTemplates", {"metadata": {"name": "d"}, "x": 1}, {"metadata": {"name": "d"}},
         "[metadata.name=d].x"),
    ],
)  # fmt: skip
def test_things_in_a_list_are_found_by_what_names_them(field: str, expected: Any, actual: Any, path: str) -> None:
    others: list[Any] = [{}, {"name": "another"}, "no mapping at all"]
    assert paths({"spec": {field: [expected]}}, {"spec": {field: [*others, actual]}}) == [f"spec.{field}{path}"]
    assert paths({"spec": {field: [expected]}}, {"spec": {field: [*others, actual, expected]}}) == []


def test_a_container_that_was_put_first_does_not_hide_the_one_that_is_meant() -> None:
    actual = {"containers": [{"name": "proxy", "image": "nginx"}, container()]}
    assert texts({"containers": [container()]}, actual) == []
    assert texts({"containers": [{"name": "ap"}]}, actual) == [
        "containers[name=ap]: expected {'name': 'ap'}, but it is missing"
    ]


def test_of_several_things_of_one_name_the_best_counts() -> None:
    actual = {"tolerations": [{"key": "gpu", "effect": "NoExecute"}, {"key": "gpu", "effect": "NoSchedule"}]}
    assert texts({"tolerations": [{"key": "gpu", "effect": "NoSchedule"}]}, actual) == []


def test_one_thing_can_not_be_two() -> None:
    rules = [{"to": [{"podSelector": {}}]}, {"to": [{"podSelector": {}}], "ports": [{"port": 53}]}]
    assert len(mismatches({"egress": rules}, {"egress": rules[1:]})) == 1
    assert mismatches({"egress": rules}, {"egress": rules[::-1]}) == []
    assert paths({"args": ["-v", "-v"]}, {"args": ["-v", "-x"]}) == ["args[]"]


def test_a_greedy_choice_does_not_spoil_a_possible_match() -> None:
    expected = {"rules": [{"verbs": ["get"]}, {"verbs": ["get"], "groups": ["apps"]}]}
    actual = {"rules": [{"verbs": ["get"], "groups": ["apps"]}, {"verbs": ["get"]}]}
    assert texts(expected, actual) == []


@pytest.mark.parametrize(
    ("predicate", "accepted", "refused"),
    [
        (Present(), ["x", 0, False, {"a": 1}], [None, "", [], {}]),
        (Absent(), [None, "", [], {}], ["x", 0, False, {"a": 1}]),
        (AtLeast("250m"), ["0.25", 1, "1Gi", 0.25], ["249m", 0, "much", True, None, ["1"], float("nan")]),
        (AtMost("1Gi"), ["1024Mi", "1G", 0], ["1025Mi", "1Ti", "much", False, None, {}]),
        (AtLeast(2), [2, 3, "2"], [1, "1999m"]),
        (OneOf("v1", "v2", 3), ["v1", "v2", 3], ["v", "", None, "3", True]),
        (OneOf(1, 0), [1, 0], [True, False, "1"]),
        (Matching(r"ai-app:v\d+"), ["ai-app:v1", "ai-app:v22"], ["ai-app:v", "x/ai-app:v1", "ai-app:v1x", "", 1, None]),
    ],
)
def test_predicates_take_what_they_should(predicate: Predicate, accepted: list[Any], refused: list[Any]) -> None:
    assert [value for value in accepted if mismatches({"v": predicate}, {"v": value})] == []
    assert [value for value in refused if not mismatches({"v": predicate}, {"v": value})] == []


@pytest.mark.parametrize("predicate", [Present(), AtLeast(0), AtMost(9), OneOf(None, ""), Matching(".*")])
def test_a_missing_field_satisfies_no_predicate_but_absent(predicate: Predicate) -> None:
    assert paths({"v": predicate}, {}) == ["v"]
    assert paths({"v": Absent()}, {}) == []


@pytest.mark.parametrize(
    ("predicate", "said"),
    [
        (Present(), "v: expected some value, but it is missing"),
        (AtLeast("1Gi"), "v: expected at least 1Gi, but it is missing"),
        (AtMost(3), "v: expected at most 3, but it is missing"),
        (OneOf("a", 1), "v: expected one of 'a', 1, but it is missing"),
        (Matching("a+"), "v: expected something like a+, but it is missing"),
    ],
)
def test_predicates_speak_in_words(predicate: Predicate, said: str) -> None:
    assert texts({"v": predicate}, {}) == [said]
    assert texts({"v": Absent()}, {"v": "x"}) == ["v: expected no value, but it is 'x'"]


def test_predicates_know_quantities_and_work_inside_named_lists() -> None:
    actual = {"containers": [container(resources={"limits": {"cpu": "500m", "memory": "512Mi"}})]}
    limits = {"cpu": OneOf("0.5"), "memory": AtLeast("0.25Gi")}
    assert texts({"containers": [container(resources={"limits": limits})]}, actual) == []
    assert paths({"containers": [{"name": Matching("b.*")}]}, actual) == ["containers[]"]
    assert paths({"containers": [{"name": Matching("a.*")}]}, actual) == []


def test_closest_is_the_candidate_with_the_fewest_differences() -> None:
    expected = {"metadata": {"name": "api"}, "spec": {"replicas": 3}}
    near = {"metadata": {"name": "api"}, "spec": {"replicas": 2}}
    found, differences = closest(expected, [{"metadata": {"name": "x"}, "spec": {}}, near, {}])
    assert found is near
    assert [difference.path for difference in differences] == ["spec.replicas"]
    assert closest(expected, []) == (None, [])


def deep(levels: int, of: str = "mapping") -> Any:
    item: Any = "bottom"
    for _ in range(levels):
        item = {"a": item} if of == "mapping" else [item]
    return item


@pytest.mark.parametrize("of", ["mapping", "list"])
def test_what_is_nested_too_deeply_is_a_mismatch_and_never_a_crash(of: str) -> None:
    assert len(mismatches({"v": deep(20_000, of)}, {"v": deep(20_000, of)})) == 1
    assert paths({"v": "x"}, {"v": deep(20_000, of)}) == ["v"]
    assert paths({"v": Present()}, {"v": deep(20_000, of)}) == []
    assert texts({"v": deep(40, of)}, {"v": deep(40, of)}) == []


@pytest.mark.parametrize("of", ["mapping", "list"])
def test_a_message_can_be_made_of_any_depth(of: str) -> None:
    (said,) = texts({"v": "x"}, {"v": deep(20_000, of)})
    assert said.startswith("v: expected 'x', but it is ")


@pytest.mark.parametrize("hostile", [None, True, 1, "text", [], [None, 1, "x", [{}]], {"spec": None}, {"spec": [[]]}])
def test_any_junk_instead_of_an_object_is_only_a_mismatch(hostile: Any) -> None:
    expected = {"spec": {"containers": [container(resources={"limits": {"cpu": AtMost(1)}})]}}
    assert len(mismatches(expected, hostile)) == 1
    assert len(mismatches(expected, {"spec": {"containers": hostile}})) == 1
