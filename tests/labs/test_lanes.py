"""Mutants share the solution's pods only where nothing that runs differs."""

from __future__ import annotations

from typing import Any

import pytest

from checkers.declare import Checks
from labs.lanes import blind, lanes, made_anew
from labs.mutants import Submission


def thing(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, **fields}


POD = thing("Pod", "web", spec={"envFrom": [{"configMapRef": {"name": "settings"}}]})
SOLUTION = [POD, thing("ConfigMap", "answers", data={"a": "1"}), thing("ConfigMap", "settings", data={"b": "1"})]
GIVEN = [thing("Service", "front")]


def submission(*objects: dict[str, Any], fails: str = "x") -> Submission:
    return Submission("mutant", "a reason", tuple(objects), frozenset({fails}))


ANSWER = submission(POD, thing("ConfigMap", "answers", data={"a": "2"}), SOLUTION[2])


@pytest.mark.parametrize(
    ("item", "shared"),
    [
        pytest.param(ANSWER, True, id="an answer"),
        pytest.param(submission(POD, SOLUTION[2]), True, id="no answers at all"),
        pytest.param(
            submission(POD, SOLUTION[1], thing("ConfigMap", "settings", data={})), False, id="what a pod uses"
        ),
        pytest.param(submission(thing("Pod", "web", spec={}), *SOLUTION[1:]), False, id="another pod"),
        pytest.param(submission(*SOLUTION, thing("Job", "more")), False, id="one more workload"),
        pytest.param(submission(*SOLUTION, thing("Service", "front", spec={})), False, id="what was given"),
    ],
)
def test_only_what_neither_runs_nor_is_used_nor_was_given_may_differ(item: Submission, shared: bool) -> None:
    found = lanes(SOLUTION, GIVEN, [item])
    assert [(lane.shared, lane.submissions) for lane in found] == [(shared, (item,))]


def test_every_submission_is_in_exactly_one_lane() -> None:
    wanted = [ANSWER, submission(*SOLUTION, thing("Job", "more")), submission(POD, SOLUTION[2])]
    found = [item for lane in lanes(SOLUTION, GIVEN, wanted) for item in lane.submissions]
    assert sorted(map(id, found)) == sorted(map(id, wanted))


FOUR = [*SOLUTION, thing("Deployment", "api", spec={"replicas": 1}), thing("Job", "train"), thing("Job", "report")]


@pytest.mark.parametrize(
    ("item", "shared"),
    [
        pytest.param(submission(*FOUR[:3], thing("Deployment", "api", spec={}), *FOUR[4:]), True, id="one of four"),
        pytest.param(submission(*FOUR[:-1]), True, id="one is not there"),
        pytest.param(submission(*FOUR[:2], thing("ConfigMap", "settings"), *FOUR[3:]), True, id="what one uses"),
        pytest.param(submission(*FOUR[:3]), False, id="three of four"),
        pytest.param(submission(*FOUR, thing("Service", "front", spec={})), False, id="what was given"),
    ],
)
def test_one_by_one_most_workloads_must_stay(item: Submission, shared: bool) -> None:
    assert [lane.shared for lane in lanes(FOUR, GIVEN, [item], one_by_one=True)] == [shared]
    assert not lanes(FOUR, GIVEN, [item])[0].shared


def test_what_changes_and_all_that_uses_it_is_made_anew() -> None:
    settings = thing("ConfigMap", "settings", data={"b": "2"})
    assert made_anew(SOLUTION, [*SOLUTION[:2], settings]) == {"Pod/web", "ConfigMap/settings"}
    assert made_anew(SOLUTION, [POD, SOLUTION[2]]) == set()
    assert made_anew(SOLUTION, SOLUTION[1:]) == {"Pod/web"}
    assert made_anew(SOLUTION[1:], SOLUTION) == set()
    assert made_anew([], SOLUTION) == set()


def test_what_changes_the_same_is_tried_together() -> None:
    reports, trains = submission(*FOUR[:-1]), submission(*FOUR[:4], FOUR[5])
    more = submission(*FOUR[:-1], thing("Job", "report", spec={}))
    (lane,) = lanes(FOUR, GIVEN, [reports, trains, more], one_by_one=True)
    assert list(map(id, lane.submissions)) == list(map(id, (reports, more, trains)))


def test_a_trigger_that_sees_pods_tries_what_other_pods_are_beside() -> None:
    checks = Checks()
    checks.trigger("sees-pods", reads=("Job", "Pod"))(lambda lab: None)
    checks.trigger("blind", reads=("Service",))(lambda lab: None)
    assert blind(checks, submission(*FOUR[:3], *FOUR[4:]), FOUR) == {"blind"}


def test_triggers_are_left_out_only_if_they_can_not_see_the_difference() -> None:
    checks = Checks()
    checks.once("reads-it", reads=("ConfigMap",))(lambda lab: None)
    checks.trigger("sees-it", reads=("Pod", "ConfigMap"))(lambda lab: None)
    checks.trigger("changes-it", reads=("Pod",), disturbs=("ConfigMap",))(lambda lab: None)
    checks.trigger("blind", reads=("Pod",))(lambda lab: None)
    assert blind(checks, ANSWER, SOLUTION) == {"blind"}
    assert blind(checks, submission(POD, SOLUTION[2], fails="blind"), SOLUTION) == frozenset()
