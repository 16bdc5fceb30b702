"""Which failures may be owed to what ran beside a submission."""

from __future__ import annotations

import pytest

from checkers.declare import Timing
from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from labs.catalog import lab_numbered
from labs.crowd import doubtful

LAB = lab_numbered(6)


def _report(**seconds: float) -> Report:
    checks = tuple(
        CheckResult(spec.id, spec.task, spec.title, Outcome.FAIL if spec.id in seconds else Outcome.PASS, 0, 1,
                    seconds=seconds.get(spec.id, 1.0))
        for spec in LAB.spec.checks
    )  # fmt: skip
    return Report(6, "s", "t", "n", checks, 1.0, ClusterInfo("c", "v", "u"))


@pytest.mark.parametrize(("failed", "again"), [
    ({}, False), ({"shape": 0.1}, False), ({"ready": 0.1}, False), ({"update": 5.0}, True), ({"drain": 0.1}, True),
    ({"shape": 0.1, "heal": 0.1}, True),
])  # fmt: skip
def test_only_what_is_a_matter_of_time_is_tried_again(failed: dict[str, float], again: bool) -> None:
    assert doubtful(LAB.checks, _report(**failed).checks) is again


def test_a_check_that_waited_to_its_end_is_tried_again() -> None:
    assert LAB.checks["ready"].timing is Timing.CONVERGE
    assert doubtful(LAB.checks, _report(ready=LAB.checks["ready"].seconds).checks)


def test_a_check_that_could_not_tell_is_tried_again() -> None:
    first = LAB.spec.checks[0]
    could_not_tell = CheckResult(first.id, first.task, first.title, Outcome.ERROR, 0, 1)
    assert doubtful(LAB.checks, [could_not_tell])
