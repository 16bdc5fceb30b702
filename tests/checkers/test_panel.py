"""A lab's panel without a browser: what it shows after each click, and that a page can't make it do anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("anywidget")

from checkers.notebook import Panel
from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from checkers.spec import CheckSpec, Hint, LabSpec, TaskSpec
from cluster.errors import KailabError

ESCAPE = "\x1b[31mred <b>"


class Student:
    """One whose cluster answers what the test says."""

    def __init__(self) -> None:
        checks = (CheckSpec("a", "one", "First", 1.0), CheckSpec("b", "two", "Second", 2.0))
        tasks = tuple(TaskSpec(check.task, check.title, (check,), (Hint("Look at `x` <b>"),)) for check in checks)
        self.spec = LabSpec(6, "slug", "Deployments", "lab-06", {}, tasks)
        self.shown: dict[str, list[str]] = {}
        self.outcomes = {"a": Outcome.PASS, "b": Outcome.FAIL}
        self.passed, self.asked = False, ""
        self.fails: Exception | None = None
        self.meanwhile: Callable[[], None] = lambda: None

    def state(self) -> dict[str, Any]:
        return {"passed": self.passed, "shown": self.shown, "left": {task.id: 1 for task in self.spec.tasks}}

    def check(self, task: str, listen: Callable[[str, Any], None]) -> Report:
        self.asked = task
        if self.fails:
            raise self.fails
        results = []
        for spec in self.spec.checks:
            wanted = task in ("", spec.task)
            outcome = self.outcomes[spec.id] if wanted else Outcome.SKIPPED
            points = spec.points if outcome is Outcome.PASS else 0.0
            result = CheckResult(spec.id, spec.task, spec.title, outcome, points, spec.points, observed=ESCAPE)
            listen("started", spec.id)
            listen("say", (spec.id, "deleting a pod"))
            self.meanwhile()
            listen("finished", result)
            results.append(result)
        return Report(6, "slug", "Deployments", "lab-06", tuple(results), 1.0, ClusterInfo("c", "v", "u"))

    def hint(self, task: str) -> str | None:
        self.shown.setdefault(task, []).append("Look at `x` <b>")
        return self.shown[task][-1]

    def reset(self) -> Path:
        return Path("/kept")

    def solution(self) -> list[tuple[str, str]]:
        if not self.passed:
            raise KailabError("opens with full marks", mend="kailab hint 6")
        return [("a.yaml", "kind: Pod")]


@pytest.fixture
def student() -> Student:
    return Student()


@pytest.fixture
def panel(student: Student) -> Iterator[Panel]:
    made = Panel(student)
    yield made
    made.close()


def _click(panel: Panel, what: str, task: str = "") -> dict[str, Any]:
    panel._take(panel, {"do": what, "task": task}, [])
    if panel._busy:
        panel._busy.join(5)
    state: dict[str, Any] = panel.state
    return state


def _outcomes(state: dict[str, Any]) -> list[str]:
    return [check["outcome"] for task in state["tasks"] for check in task["checks"]]


def test_before_the_first_click_nothing_is_judged(panel: Panel) -> None:
    assert _outcomes(panel.state) == ["", ""]
    assert (panel.state["points"], panel.state["max_points"], panel.state["busy"]) == (0, 3.0, False)


def test_a_check_shows_every_outcome_and_nothing_else_from_the_cluster(panel: Panel) -> None:
    state = _click(panel, "check")
    assert _outcomes(state) == ["pass", "fail"]
    assert (state["points"], state["busy"]) == (1.0, False)
    assert "<dd>red &lt;b&gt;</dd>" in state["tasks"][1]["checks"][0]["html"]
    assert panel.report is not None


def test_progress_is_shown_while_it_runs(panel: Panel, student: Student) -> None:
    seen: list[dict[str, Any]] = []
    student.meanwhile = lambda: seen.append(panel.state)
    _click(panel, "check")
    assert [state["busy"] for state in seen] == [True, True]
    assert seen[0]["doing"] == "deleting a pod"
    assert [_outcomes(state) for state in seen] == [["", ""], ["pass", ""]]


def test_one_task_leaves_the_other_as_it_was(panel: Panel, student: Student) -> None:
    _click(panel, "check")
    student.outcomes["b"] = Outcome.PASS
    state = _click(panel, "check", "two")
    assert student.asked == "two"
    assert _outcomes(state) == ["pass", "pass"]


def test_a_cluster_that_is_not_there_is_said_with_what_mends_it(panel: Panel, student: Student) -> None:
    student.fails = KailabError("There is no course cluster here yet.", mend="kailab up")
    state = _click(panel, "check")
    assert (state["message"]["text"], state["message"]["mend"]) == ("There is no course cluster here yet.", "kailab up")
    assert not state["busy"]
    student.fails = ZeroDivisionError("x")
    assert "kailab itself broke (check)" in _click(panel, "check")["message"]["text"]


def test_hints_come_one_by_one_and_are_no_markup_of_their_own(panel: Panel) -> None:
    state = _click(panel, "hint", "one")
    assert state["tasks"][0]["hints"] == ["<p>Look at <code>x</code> &lt;b&gt;</p>\n"]
    assert state["tasks"][1]["hints"] == []


def test_the_solution_opens_with_a_pass(panel: Panel, student: Student) -> None:
    assert _click(panel, "solution")["message"]["text"] == "opens with full marks"
    student.passed = True
    assert _click(panel, "solution")["solution"] == [{"name": "a.yaml", "text": "kind: Pod"}]


def test_a_reset_forgets_results_and_says_where_files_are(panel: Panel) -> None:
    _click(panel, "check")
    state = _click(panel, "reset")
    assert _outcomes(state) == ["", ""]
    assert "/kept" in state["message"]["why"]


@pytest.mark.parametrize("message", [None, 3, [], {}, {"do": "shell"}, {"do": "hint"}, {"do": "check", "task": "x"},
                                     {"do": {"a": 1}}])  # fmt: skip
def test_a_page_can_ask_for_nothing_else(panel: Panel, message: Any) -> None:
    panel._take(panel, message, [])
    assert panel._busy is None
