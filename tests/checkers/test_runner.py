"""A run judges each check once, in the right order, and never blames the student for what is not their fault."""

from __future__ import annotations

import _thread
import errno
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from checkers import runner
from checkers.declare import CannotTell, Checks, Fail
from checkers.evidence import Tape, pack, unpack
from checkers.lab import Lab, Sources
from checkers.restore import Restorer
from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from checkers.runner import Run, Setting
from checkers.spec import CheckSpec, LabSpec, TaskSpec
from checkers.turns import FileTurns
from cluster.api import ApiError, Unreachable

PASS, FAIL, ERROR, SKIPPED = Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.SKIPPED
NAMESPACE = "kailab-6"


def ready(name: str, status: str = "True") -> dict[str, Any]:
    meta = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"}
    return {"kind": "Pod", "metadata": meta, "status": {"conditions": [{"type": "Ready", "status": status}]}}


class World:
    """An observation of a cluster that changes as a test wrote it down: to the next state with every wait."""

    def __init__(self, *states: Iterable[dict[str, Any]]) -> None:
        self.states = [tuple(state) for state in states] or [()]
        self.count = 0
        self.followed = self.refreshed = 0

    def view(self) -> dict[str, Any]:
        return {"Pod": self.states[0], "Node": ()}

    def wait(self, count: int, seconds: float) -> None:
        if len(self.states) > 1:
            del self.states[0]
            self.count += 1
        else:
            time.sleep(max(min(seconds, 0.02), 0))

    def follow(self) -> None:
        self.followed += 1

    def refresh(self) -> None:
        self.refreshed += 1


class FakeApi:
    """Notes what is written; answers with the events given."""

    def __init__(self, events: Callable[[], list[dict[str, Any]]] = list) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.closed: list[str] = []
        self._events = events

    def list(self, kind: str, namespace: str = "", **selectors: str) -> tuple[list[dict[str, Any]], str]:
        if (kind, selectors) == ("Node", {"fieldSelector": "spec.unschedulable=true"}):
            return [{"metadata": {"name": name}} for name in self.closed], "1"
        assert kind == "Event"
        return self._events(), "1"

    def patch(self, kind: str, name: str, namespace: str, patch: Any) -> None:
        self.done.append((kind, name, patch))

    def delete(self, kind: str, name: str, namespace: str) -> bool:
        self.done.append(("delete", kind, name))
        return True

    def logs(self, *_: Any, **__: Any) -> str:
        return ""


class FakeProber:
    def dns(self, name: str) -> dict[str, Any]:
        return {"addresses": ["10.0.0.1"] if name == "api" else []}

    def tcp(self, host: str, port: int) -> dict[str, Any]:
        raise CannotTell("the prober pod is not ready")


def lab_with(*, seconds: float = 300.0, **tasks: str) -> LabSpec:
    """A lab of these tasks with the ids of their checks, two points each."""
    found = tuple(
        TaskSpec(task, task, tuple(CheckSpec(check, task, f"title of {check}", 2.0) for check in checks.split()), ())
        for task, checks in tasks.items()
    )
    return LabSpec(6, "deployments", "Deployments", NAMESPACE, {"pod": "api"}, found, seconds)


class Bench:
    """Runs a lab's checks against a world; `run` afterwards is the last one, `told` what it told its listener."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.api = FakeApi()
        self.told: list[tuple[str, Any]] = []

    def __call__(
        self, checks: Checks, lab: LabSpec, world: World | None = None, *, tapes: dict[str, Tape] | None = None,
        **setting: Any,
    ) -> Report:  # fmt: skip
        sources: Any = None if tapes is not None else Sources(self.api, world or World(), FakeProber())  # type: ignore[arg-type]
        where = Setting(NAMESPACE, self.state, ClusterInfo("kailab", "v1.37.0", "uid"), **setting)
        self.run = Run(lab, checks, where, sources, tapes=tapes, listen=lambda *told: self.told.append(told))
        return self.run.report()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def outcomes(report: Report) -> dict[str, Outcome]:
    return {check.id: check.outcome for check in report.checks}


def result(report: Report, check_id: str = "a") -> CheckResult:
    return next(check for check in report.checks if check.id == check_id)


def passing(_: Lab) -> None:
    """All is well."""


def failing(_: Lab) -> None:
    """There are three pods."""
    raise Fail("there are two")


def raising(_: Lab) -> None:
    """There is an answer."""
    raise LookupError("secret inner workings")


def pod_is_ready(lab: Lab) -> None:
    """The pod is ready."""
    pod = lab.object("Pod", lab.names["pod"])
    status = pod["status"]["conditions"][0]["status"]
    if status != "True":
        raise Fail(f"Ready is {status}")


# one check


def test_a_check_that_returns_passes_and_earns_its_points(bench: Bench) -> None:
    checks = Checks()
    checks.once("a")(passing)
    checks.once("b")(failing)
    report = bench(checks, lab_with(one="a", two="b"))
    assert outcomes(report) == {"a": PASS, "b": FAIL}
    assert [(check.points, check.max_points) for check in report.checks] == [(2.0, 2.0), (0.0, 2.0)]
    assert (report.points, report.max_points, report.exit_code) == (2.0, 4.0, 1)
    assert report.task_titles == {"one": "one", "two": "two"}


def test_a_failure_says_what_was_expected_seen_and_what_to_look_with(bench: Bench) -> None:
    checks = Checks()
    checks.once("a")(failing)

    @checks.once("b")
    def _(_: Lab) -> None:
        raise Fail("seen", expected="wanted", evidence=["x", "x", "y"], hint="image", look_with="kubectl get pods")

    report = bench(checks, lab_with(one="a b"))
    plain, told = result(report), result(report, "b")
    assert (plain.expected, plain.observed) == ("There are three pods.", "there are two")
    assert plain.look_with == f"kubectl -n {NAMESPACE} get all"
    assert (told.expected, told.observed, told.evidence) == ("wanted", "seen", ("x", "y"))
    assert (told.hint, told.look_with) == ("image", "kubectl get pods")


def about_the_pod(lab: Lab) -> None:
    """The pod is as it should be."""
    raise Fail("it is not", about=lab.object("Pod", "api"))


def test_a_failure_about_an_object_has_the_words_of_that_object(bench: Bench) -> None:
    checks = Checks()
    checks.once("a", reads=("Pod",))(about_the_pod)
    bench.api = FakeApi(lambda: [{"type": "Warning", "reason": "Unhealthy", "message": "404"}])
    found = result(bench(checks, lab_with(one="a"), World([ready("api")])))
    assert found.evidence == ("event Unhealthy: 404",)
    assert found.look_with == f"kubectl -n {NAMESPACE} describe pod api"


@pytest.mark.parametrize("lost", [ApiError(500, "InternalError", "etcd is slow"), Unreachable("gone")])
def test_a_failure_stays_a_failure_when_the_objects_words_can_not_be_had(bench: Bench, lost: Exception) -> None:
    def refuse() -> list[dict[str, Any]]:
        raise lost

    checks = Checks()
    checks.once("a", reads=("Pod",))(about_the_pod)
    bench.api = FakeApi(refuse)
    found = result(bench(checks, lab_with(one="a"), World([ready("api")])))
    assert (found.outcome, found.observed) == (FAIL, "it is not")


def test_a_check_that_raises_is_an_error_with_a_log_and_no_traceback(bench: Bench) -> None:
    checks = Checks()
    checks.once("a")(raising)
    report = bench(checks, lab_with(one="a"))
    found = result(report)
    assert found.outcome is ERROR
    assert "LookupError" in found.observed
    assert "Traceback" not in "\n".join([found.observed, found.expected, *found.evidence])
    (log,) = [path for path in bench.state.rglob("*") if path.suffix == ".log"]
    assert str(log) in found.observed
    assert "Traceback" in log.read_text()
    assert "lab 6, check a" in log.read_text()
    assert (found.points, report.exit_code) == (0.0, 2)


@pytest.mark.parametrize(
    ("raised", "what", "why"),
    [
        (CannotTell("the prober is away"), "the prober is away", ()),
        (Unreachable("no answer", why="timeout"), "no answer", ("timeout",)),
        (ApiError(403, "Forbidden", "pods is forbidden"), "pods is forbidden", ()),
    ],
)
def test_a_cluster_that_can_not_be_asked_is_an_error(bench: Bench, raised: Exception, what: str, why: Any) -> None:
    def check(_: Lab) -> None:
        raise raised

    checks = Checks()
    checks.converge("a", seconds=60)(check)
    found = result(bench(checks, lab_with(one="a")))
    assert (found.outcome, found.observed, found.evidence) == (ERROR, what, why)


def test_reading_what_was_not_declared_is_an_error_and_no_failure(bench: Bench) -> None:
    checks = Checks()

    @checks.once("a")
    def _(lab: Lab) -> None:
        lab.objects("Secret")

    found = result(bench(checks, lab_with(one="a")))
    assert found.outcome is ERROR
    assert "Secret" in found.observed


def test_a_check_that_hangs_becomes_an_error_and_stays_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.05)
    go_on, threads = threading.Event(), []
    checks = Checks()

    @checks.once("a")
    def _(_: Lab) -> None:
        threads.append(threading.current_thread())
        go_on.wait(5)

    checks.once("b", needs=("a",))(passing)
    report = bench(checks, lab_with(one="a b"))
    go_on.set()
    threads[0].join(5)
    assert outcomes(report) == {"a": ERROR, "b": SKIPPED}
    assert "did not finish" in result(report).observed
    assert [found.outcome for word, found in bench.told if word == "finished" and found.id == "a"] == [ERROR]


# needs, tasks, order


@pytest.mark.parametrize("broken", [failing, raising])
def test_what_needs_a_check_that_did_not_pass_is_skipped_and_so_on(bench: Bench, broken: Any) -> None:
    checks = Checks()
    checks.once("c", needs=("b",))(passing)  # declared and listed before what it needs
    checks.once("b", needs=("a",))(passing)
    checks.once("a")(broken)
    checks.once("d")(passing)
    report = bench(checks, lab_with(one="c b a d"))
    assert [outcomes(report)[check] for check in "bcd"] == [SKIPPED, SKIPPED, PASS]
    assert "title of a" in result(report, "b").observed
    assert "title of b" in result(report, "c").observed
    assert report.points == 2.0


def test_what_needs_a_check_that_passed_is_tried(bench: Bench) -> None:
    order: list[str] = []
    checks = Checks()
    checks.once("b", needs=("a",))(lambda _: order.append("b"))
    checks.once("a")(lambda _: order.append("a"))
    assert set(outcomes(bench(checks, lab_with(one="b a"))).values()) == {PASS}
    assert order == ["a", "b"]


def test_asking_for_a_task_also_runs_what_it_needs(bench: Bench) -> None:
    checks = Checks()
    for check, needs in (("a", ()), ("b", ("a",)), ("c", ("b",)), ("d", ()), ("e", ())):
        checks.once(check, needs=needs)(passing)
    report = bench(checks, lab_with(one="a b d", two="c", three="e"), task="two")
    assert outcomes(report) == {"a": PASS, "b": PASS, "c": PASS, "d": SKIPPED, "e": SKIPPED}
    assert report.points == 6.0
    assert report.max_points == 10.0
    assert report.exit_code == 1


def test_checks_that_only_look_run_side_by_side(bench: Bench) -> None:
    both = threading.Barrier(2, timeout=5)
    checks = Checks()
    for check in "ab":
        checks.once(check)(lambda _: both.wait() and None)
    assert set(outcomes(bench(checks, lab_with(one="a b"))).values()) == {PASS}


class Order(list[str]):
    """The checks that ran, each alone."""

    def __init__(self) -> None:
        super().__init__()
        self._inside = threading.Semaphore(1)

    def noting(self, check: str) -> Callable[[Lab], None]:
        def function(_: Lab) -> None:
            assert self._inside.acquire(blocking=False)
            self.append(check)
            self._inside.release()

        return function


def test_triggers_run_alone_by_their_turn_after_what_looks_and_before_safeguards(bench: Bench) -> None:
    order = Order()
    noting = order.noting
    checks, world = Checks(), World()
    checks.once("guard", safeguard=True)(noting("guard"))
    checks.trigger("late", turn=2)(noting("late"))
    checks.trigger("second", turn=1)(noting("second"))
    checks.trigger("first")(noting("first"))
    checks.trigger("third", turn=1)(noting("third"))
    checks.once("look")(noting("look"))
    report = bench(checks, lab_with(one="guard late second first third look"), world)
    assert set(outcomes(report).values()) == {PASS}
    assert order == ["look", "first", "second", "third", "late", "guard"]
    assert [check.id for check in report.checks] == ["guard", "late", "second", "first", "third", "look"]
    assert world.refreshed == 1  # a safeguard sees what the triggers left


def test_a_quick_run_leaves_triggers_out_and_what_needs_them(bench: Bench) -> None:
    checks = Checks()
    checks.trigger("a")(failing)
    checks.once("b", needs=("a",))(passing)
    checks.once("c")(passing)
    report = bench(checks, lab_with(one="a b c"), quick=True)
    assert outcomes(report) == {"a": SKIPPED, "b": SKIPPED, "c": PASS}
    assert result(report).points == 0.0


def test_listeners_hear_when_a_check_starts_waits_and_ends(bench: Bench) -> None:
    checks = Checks()
    checks.converge("a", reads=("Pod",))(pod_is_ready)
    bench(checks, lab_with(one="a"), World([ready("api", "False")], [ready("api")]))
    assert [word for word, _ in bench.told] == ["started", "say", "finished"]
    assert bench.told[1][1] == ("a", "waiting: Ready is False")


# timings


def test_a_converging_check_passes_once_the_cluster_is_there(bench: Bench) -> None:
    checks, world = Checks(), World([ready("api", "False")], [ready("api", "Unknown")], [ready("api")])
    checks.converge("a", reads=("Pod",), seconds=60)(pod_is_ready)
    assert outcomes(bench(checks, lab_with(one="a"), world)) == {"a": PASS}
    assert world.followed


@pytest.mark.parametrize(("seconds", "whole"), [(0.1, 300.0), (60.0, 0.1)])
def test_a_converging_check_fails_after_its_deadline_with_the_last_message(
    bench: Bench, seconds: float, whole: float
) -> None:
    checks, world = Checks(), World([ready("api", "False")], [ready("api", "Unknown")])
    checks.converge("a", reads=("Pod",), seconds=seconds)(pod_is_ready)
    found = result(bench(checks, lab_with(one="a", seconds=whole), world))
    assert (found.outcome, found.observed) == (FAIL, "Ready is Unknown")
    assert 0.05 <= found.seconds < 3  # the lab's own time begins a moment before the check's


@pytest.mark.parametrize(("settled_looks", "expected", "count"), [({2, 3}, FAIL, 3), ({2, 4}, PASS, 5)])
def test_a_settled_failure_ends_the_waiting_once_a_fresh_list_shows_it_too(
    bench: Bench, settled_looks: set[int], expected: Outcome, count: int
) -> None:
    looks: list[float] = []
    checks = Checks()

    @checks.converge("a", seconds=60)
    def _(_: Lab) -> None:
        looks.append(0)
        if len(looks) < 5:
            raise Fail("there is no such image", settled=len(looks) in settled_looks)

    assert outcomes(bench(checks, lab_with(one="a"))) == {"a": expected}
    assert len(looks) == count


@pytest.mark.parametrize(("hopeless_looks", "outcome"), [(3, PASS), (10_000, FAIL)])
def test_a_hopeless_failure_ends_the_waiting_only_if_it_stays_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, hopeless_looks: int, outcome: Outcome
) -> None:
    monkeypatch.setattr("checkers.lab.HOPELESS_SECONDS", 0.5)
    looks: list[float] = []
    checks = Checks()

    @checks.converge("a", seconds=60)
    def _(_: Lab) -> None:
        looks.append(0)
        if len(looks) <= hopeless_looks:
            raise Fail("no node would take it", hopeless=True)

    found = result(bench(checks, lab_with(one="a")))
    assert found.outcome is outcome
    assert found.seconds < 10


def test_an_object_that_is_missing_is_settled_and_named(bench: Bench) -> None:
    checks = Checks()
    checks.converge("a", reads=("Pod",), seconds=60)(pod_is_ready)
    found = result(bench(checks, lab_with(one="a"), World([ready("apo")], [ready("api")])))
    assert found.observed == "no Pod 'api' in namespace kailab-6; there is 'apo'"
    assert found.hint == "no-pod"


@pytest.mark.parametrize("declare", ["once", "converge", "hold"])
def test_a_quick_run_looks_once(bench: Bench, declare: str) -> None:
    looks: list[int] = []
    checks = Checks()

    @getattr(checks, declare)("a")
    def _(lab: Lab) -> None:
        def look() -> None:
            looks.append(1)
            raise Fail("not yet")

        lab.until(60, look)

    assert outcomes(bench(checks, lab_with(one="a"), quick=True)) == {"a": FAIL}
    assert len(looks) == 1


def steady(states: list[str]) -> Callable[[Lab], None]:
    """A check that finds these states one after the other, then the last one for ever."""

    def check(lab: Lab) -> None:
        seen = lab._tape.read("state", lambda: states.pop(0) if len(states) > 1 else states[0])
        if seen == "bad":
            raise Fail("it was bad")

    return check


@pytest.mark.parametrize(
    ("states", "outcome"), [(["good"], PASS), (["good", "good", "bad", "good"], FAIL), (["bad", "good"], FAIL)]
)
def test_a_holding_check_must_hold_over_its_whole_window(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, states: list[str], outcome: Outcome
) -> None:
    monkeypatch.setattr(runner, "HOLD_EVERY", 0.01)
    checks = Checks()
    checks.hold("a", seconds=0.1)(steady(states))
    report = bench(checks, lab_with(one="a"))
    assert outcomes(report) == {"a": outcome}
    assert (result(report).seconds >= 0.1) is (outcome is PASS)


BUSY = ApiError(429, "TooManyRequests", "too many requests")
LATE = ApiError(500, "InternalError", "resource quota evaluation timed out")
QUOTA = ApiError(403, "Forbidden", "exceeded quota: gpus")


@pytest.mark.parametrize(("refusals", "outcome", "observed"), [
    ([], PASS, ""), ([QUOTA], FAIL, QUOTA.what), ([BUSY, LATE], PASS, ""), ([LATE, QUOTA], FAIL, QUOTA.what),
    ([BUSY] * 9, ERROR, "the API server can't do its work at this moment: too many requests"),
])  # fmt: skip
def test_the_api_servers_own_troubles_are_no_refusal_of_an_object(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, refusals: list[ApiError], outcome: Outcome, observed: str
) -> None:
    left = list(refusals)

    def apply(*_: Any, **__: Any) -> None:
        if left:
            raise left.pop(0)

    monkeypatch.setattr("checkers.lab.DRY_RUN_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(FakeApi, "apply", apply, raising=False)
    checks = Checks()

    @checks.once("a")
    def _(lab: Lab) -> None:
        if said := lab.dry_run({"kind": "Pod", "metadata": {"name": "one-more"}}):
            raise Fail(said)

    found = result(bench(checks, lab_with(one="a")))
    assert (found.outcome, found.observed) == (outcome, observed)


# triggers put back what they disturb


@pytest.mark.parametrize("end", [passing, failing, raising])
def test_a_trigger_leaves_no_node_cordoned_however_it_ends(bench: Bench, end: Any) -> None:
    checks = Checks()

    @checks.trigger("a")
    def _(lab: Lab) -> None:
        lab.cordon("worker")
        end(lab)

    bench(checks, lab_with(one="a"))
    assert bench.api.done == [
        ("Node", "worker", {"spec": {"unschedulable": True}}),
        ("Node", "worker", {"spec": {"unschedulable": None}}),
    ]
    assert not list(bench.state.rglob("*.json"))  # the journal is done with


def test_a_node_that_was_closed_before_stays_so(bench: Bench) -> None:
    bench.api.closed = ["mine"]
    checks = Checks()
    checks.trigger("a")(lambda lab: lab.cordon("mine", "cpu"))
    assert outcomes(bench(checks, lab_with(one="a"))) == {"a": PASS}
    opened = [name for _, name, patch in bench.api.done if patch["spec"]["unschedulable"] is None]
    assert opened == ["cpu"]


class Cordoned:
    """The turns of a cluster in which `another` run may just have had its own, and has the nodes at our first `looks`;
    `taken` counts ours."""

    def __init__(self, *, another: bool = False, looks: int = 0) -> None:
        self.another, self.looks, self.taken = another, looks, 0

    @contextmanager
    def alone(self, waiting: Callable[[float], None]) -> Iterator[None]:
        self.taken += 1
        yield

    def is_taken(self) -> bool:
        self.looks -= 1
        return self.looks >= 0

    def was_another(self, since: float) -> bool:
        return self.another


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        (0, ["nodes", "one", "two", "late"]),
        (1, ["one", "nodes", "two", "late"]),
        (9, ["one", "two", "nodes", "late"]),  # never behind its turn: the last of all need not be put back
    ],
)
def test_what_changes_nodes_comes_first_in_its_turn_or_when_another_run_has_left_them(
    bench: Bench, looks: int, expected: list[str]
) -> None:
    order, checks = Order(), Checks()
    checks.trigger("late", turn=1)(order.noting("late"))
    checks.trigger("one")(order.noting("one"))
    checks.trigger("two")(order.noting("two"))
    checks.trigger("nodes", exclusive=True)(order.noting("nodes"))
    report = bench(checks, lab_with(one="late one two nodes"), turns=Cordoned(looks=looks))
    assert set(outcomes(report).values()) == {PASS}
    assert order == expected


@pytest.mark.parametrize("lost", [OSError(errno.ENOSPC, "No space left on device"), Unreachable("no cluster")])
def test_who_cannot_ask_whether_the_nodes_are_taken_says_so_in_the_check(bench: Bench, lost: Exception) -> None:
    class Lost(Cordoned):
        def is_taken(self) -> bool:
            raise lost

        @contextmanager
        def alone(self, waiting: Callable[[float], None]) -> Iterator[None]:
            raise lost
            yield

    checks = Checks()
    checks.trigger("nodes", exclusive=True)(passing)
    checks.trigger("one")(passing)
    assert outcomes(bench(checks, lab_with(one="nodes one"), turns=Lost())) == {"nodes": ERROR, "one": PASS}


def test_a_check_may_give_the_nodes_back_before_it_ends(bench: Bench) -> None:
    checks, ours = Checks(), FileTurns(bench.state)

    @checks.trigger("a", exclusive=True)
    def _(lab: Lab) -> None:
        lab.cordon("cpu")
        assert ours.is_taken()
        lab.open_again()
        assert not ours.is_taken()
        assert bench.api.done[-1] == ("Node", "cpu", {"spec": {"unschedulable": None}})
        assert not list(bench.state.glob("restore/*.json"))  # nothing is left to put back
        lab.open_again()  # as when it looks again
        failing(lab)

    assert outcomes(bench(checks, lab_with(one="a"))) == {"a": FAIL}
    assert [name for _, name, _ in bench.api.done] == ["cpu", "cpu"]


def test_a_trigger_waits_for_the_trigger_that_it_needs(bench: Bench) -> None:
    order, checks = Order(), Checks()
    checks.trigger("nodes", exclusive=True, needs=("one",))(order.noting("nodes"))
    checks.trigger("one")(order.noting("one"))
    bench(checks, lab_with(one="nodes one"))
    assert order == ["one", "nodes"]


def scheduled(made: str, got: str, node: str = "cpu") -> dict[str, Any]:
    pod = ready("api")
    pod["metadata"]["creationTimestamp"] = f"2026-11-27T10:00:{made}Z"
    pod["spec"] = {"nodeName": node} if node else {}
    pod["status"]["conditions"].append({
        "type": "PodScheduled", "status": "True" if node else "False", "lastTransitionTime": f"2026-11-27T10:00:{got}Z",
    })  # fmt: skip
    return pod


@pytest.mark.parametrize(
    ("pod", "another", "taken"),
    [
        (scheduled("10", "10", node=""), True, 1),
        (scheduled("10", "35"), True, 1),  # has it at last, but too late to get ready in time
        (scheduled("10", "12"), True, 0),
        (scheduled("10", "35"), False, 0),  # the student's own doing
        (ready("api") | {"spec": {"nodeName": "cpu"}}, True, 0),  # a pod that no scheduler placed
    ],
)
def test_a_pod_that_lacked_a_node_while_another_run_closed_one_gets_another_try_alone(
    bench: Bench, pod: dict[str, Any], another: bool, taken: int
) -> None:
    checks, tries = Checks(), []

    @checks.trigger("a")
    def _(lab: Lab) -> None:
        tries.append(lab)
        if len(tries) == 1:
            failing(lab)

    turns = Cordoned(another=another)
    assert outcomes(bench(checks, lab_with(one="a"), World([pod]), turns=turns)) == {"a": PASS if taken else FAIL}
    assert turns.taken == taken == len(tries) - 1


def test_who_gets_the_turn_on_the_nodes_opens_those_of_a_killed_run(bench: Bench) -> None:
    Restorer(bench.state / "restore" / "lab-05.json", "lab-05").cordons("worker")
    checks, world = Checks(), World()
    checks.trigger("a", exclusive=True)(passing)
    bench(checks, lab_with(one="a"), world)
    assert bench.api.done == [("Node", "worker", {"spec": {"unschedulable": None}})]
    assert world.refreshed == 1  # so that nobody takes it for closed before


def test_a_gpu_that_was_broken_before_stays_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = {"fault.gpu.kailab.dev/2": "ecc"}
    node = {"metadata": {"name": "gpu-a", "annotations": annotations}, "spec": {}}
    monkeypatch.setattr(FakeApi, "get", lambda *_: node, raising=False)
    healed: list[Any] = []
    monkeypatch.setattr("cluster.gpu.control.fault", lambda *_: None)
    monkeypatch.setattr("cluster.gpu.control.heal", lambda _, where: healed.append(str(where)))
    checks = Checks()

    @checks.trigger("a")
    def _(lab: Lab) -> None:
        lab.break_gpu("gpu-a/1", "xid=79")
        lab.break_gpu("gpu-a/2", "xid=79")

    assert outcomes(bench(checks, lab_with(one="a"))) == {"a": PASS}
    assert healed == ["gpu-a/1"]


@pytest.mark.timeout(20)
def test_an_interrupted_run_puts_everything_back_and_passes_the_interrupt_on(bench: Bench) -> None:
    def interrupted(lab: Lab) -> None:
        lab.cordon("worker")
        _thread.interrupt_main()
        lab.until(10, lambda: failing(lab))

    checks = Checks()
    checks.trigger("a")(interrupted)
    checks.trigger("b")(passing)
    with pytest.raises(KeyboardInterrupt):
        bench(checks, lab_with(one="a b"))
    assert bench.api.done[-1] == ("Node", "worker", {"spec": {"unschedulable": None}})
    assert ("started", "b") not in bench.told


def test_a_deed_that_the_cluster_refuses_is_an_error(bench: Bench) -> None:
    def refuse(_: Any) -> None:
        raise ApiError(403, "Forbidden", "you may not")

    checks = Checks()
    checks.trigger("a")(lambda lab: lab.act("delete pod api", refuse))
    found = result(bench(checks, lab_with(one="a")))
    assert (found.outcome, found.observed) == (ERROR, "delete pod api: you may not")


class Slow:
    """A restorer that takes its time."""

    seconds = 0.6

    def __init__(self, *_: Any) -> None:
        pass

    def protect(self, objects: Iterable[dict[str, Any]]) -> None:
        assert [item["kind"] for item in objects] in ([], ["Deployment"])

    def restore(self, *_: Any, **__: Any) -> None:
        time.sleep(self.seconds)


@pytest.mark.parametrize(("end", "outcome"), [(passing, PASS), (failing, FAIL)])
def test_what_putting_back_takes_is_not_the_checks_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, end: Any, outcome: Outcome
) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(runner, "Restorer", Slow)
    checks = Checks()
    checks.trigger("a", seconds=0.1)(end)
    assert result(bench(checks, lab_with(one="a"))).outcome is outcome


def test_a_putting_back_that_hangs_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PUT_BACK_SECONDS", 0.1)
    monkeypatch.setattr(runner, "Restorer", Slow)
    checks = Checks()
    checks.trigger("a", seconds=0.1)(passing)
    found = result(bench(checks, lab_with(one="a")))
    assert (found.outcome, found.observed) == (ERROR, "what the check disturbed was not put back within 0 s")


def test_deeds_are_noted_one_by_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed run has done is known from its journal, so that nothing else is taken back for it."""
    noted: list[tuple[Any, bool]] = []
    pod = ready("other") | {"spec": {}}

    def look() -> None:
        (journal,) = bench.state.rglob("*.json")
        document = json.loads(journal.read_text())
        noted.append((document["made"], document["acting"]))

    def delete(api: Any) -> None:
        look()
        api.delete("Pod", "other", NAMESPACE)

    def there(*_: Any) -> Any:
        return None if bench.api.done else pod

    monkeypatch.setattr(FakeApi, "get", there, raising=False)
    checks = Checks()

    @checks.trigger("a", disturbs=("Pod",))
    def _(lab: Lab) -> None:
        look()
        lab.act("delete pod other", delete)
        look()

    bench(checks, lab_with(one="a"), World([pod]))
    assert noted == [({"Pod/other": 0}, False), ({"Pod/other": 0}, True), ({"Pod/other": None}, False)]


@pytest.mark.parametrize(("min_ready", "outcome"), [(0, FAIL), (1, PASS)])
def test_a_trigger_waits_as_long_as_what_it_disturbs_asks_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, min_ready: int, outcome: Outcome
) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(runner, "Restorer", Slow)
    deployment = {"kind": "Deployment", "metadata": {"name": "api"},
                  "spec": {"minReadySeconds": min_ready, "replicas": 3}}  # fmt: skip
    monkeypatch.setattr(World, "view", lambda self: {"Pod": (), "Node": (), "Deployment": (deployment,)})
    checks = Checks()

    @checks.trigger("a", disturbs=("Deployment",), seconds=0.2)
    def _(lab: Lab) -> None:
        began = lab.now()

        def rolled_out() -> None:
            if lab.now() - began < 1:
                raise Fail("the new pods are not available yet")

        lab.until(3, rolled_out)

    assert result(bench(checks, lab_with(one="a", seconds=0.3))).outcome is outcome


@pytest.mark.parametrize("lost", [Unreachable("no answer", why="timeout"), ApiError(500, "InternalError", "etcd")])
@pytest.mark.parametrize(("times", "guard"), [(1, PASS), (9, ERROR)])
def test_an_api_server_that_is_away_after_the_triggers_costs_only_the_safeguards(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lost: Any, times: int, guard: Outcome
) -> None:
    monkeypatch.setattr(runner, "REFRESH_PAUSES", (0.0, 0.0))

    class Lost(World):
        def refresh(self) -> None:
            super().refresh()
            if self.refreshed <= times:
                raise lost

    checks = Checks()
    checks.once("a")(passing)
    checks.trigger("b")(failing)
    checks.once("guard", safeguard=True)(passing)
    report = bench(checks, lab_with(one="a b guard"), Lost())
    assert outcomes(report) == {"a": PASS, "b": FAIL, "guard": guard}
    assert result(report, "guard").observed == (lost.what if guard is ERROR else "")


# evidence


def manifold() -> Checks:
    """Checks that come to every outcome, of all timings, reading from every source."""
    checks = Checks()
    checks.once("passes", reads=("Pod",))(pod_is_ready)
    checks.once("fails", reads=("Pod",))(about_the_pod)
    checks.once("breaks")(raising)
    checks.once("blind")(lambda lab: lab.reaches("api", 80) and None)
    checks.once("skipped", needs=("fails",))(passing)
    checks.converge("late", reads=("Pod",), seconds=60)(_two_pods)
    checks.converge("never", reads=("Pod",), seconds=0.1)(_resolves)
    checks.hold("unsteady", seconds=0.2)(steady(["good", "good", "fine", "bad"]))
    checks.trigger("deletes", reads=("Pod",))(_deletes)
    checks.once("guard", safeguard=True, reads=("Pod",))(pod_is_ready)
    return checks


def _two_pods(lab: Lab) -> None:
    if len(lab.objects("Pod")) < 2:
        raise Fail("one pod is not enough")


def _resolves(lab: Lab) -> None:
    if not lab.resolve("apo"):
        raise Fail(f"no address, though api has {lab.resolve('api')}")


def _deletes(lab: Lab) -> None:
    deleted = lab.act("delete pod other", lambda api: api.delete("Pod", "other", lab.namespace))
    lab.until(5, lambda: _two_pods(lab))
    if deleted:
        raise Fail("it was there")


def test_playing_a_runs_tapes_gives_the_same_outcomes_without_a_cluster(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "HOLD_EVERY", 0.01)
    lab = lab_with(one="passes fails breaks blind skipped", two="late never unsteady deletes guard")
    bench.api = FakeApi(lambda: [{"type": "Warning", "reason": "BackOff", "message": "it crashes"}])
    world = World([ready("api")], [ready("api")], [ready("api"), ready("other")])
    live = bench(manifold(), lab, world)
    expected = [PASS, FAIL, ERROR, ERROR, SKIPPED, PASS, FAIL, FAIL, FAIL, PASS]
    assert list(outcomes(live).values()) == expected

    document = json.loads(json.dumps(pack(bench.run.tapes, {"lab": 6}, {})))
    played = bench(manifold(), lab, tapes=unpack(document))
    assert outcomes(played) == outcomes(live)
    assert [told(check) for check in played.checks if check.outcome is FAIL] == [
        told(check) for check in live.checks if check.outcome is FAIL
    ]
    assert played.points == live.points


def told(check: CheckResult) -> tuple[Any, ...]:
    return check.id, check.expected, check.observed, check.evidence, check.hint, check.look_with, check.points


def test_only_the_looks_that_counted_become_evidence(bench: Bench) -> None:
    checks = Checks()
    checks.converge("a", reads=("Pod",), seconds=60)(pod_is_ready)
    bench(checks, lab_with(one="a"), World([ready("api", "False")], [ready("api", "Unknown")], [ready("api")]))
    assert bench.run.tapes["a"].attempts == [[("list Pod", (ready("api"),))]]


def test_what_was_not_tried_when_recorded_is_not_judged_when_played(bench: Bench) -> None:
    checks = Checks()
    checks.once("a")(passing)
    checks.once("b")(passing)
    lab = lab_with(one="a", two="b")
    bench(checks, lab, task="one")
    played = bench(checks, lab, tapes=unpack(pack(bench.run.tapes, {}, {})))
    assert outcomes(played) == {"a": PASS, "b": SKIPPED}


def test_a_check_that_now_asks_something_else_can_not_be_judged_from_old_evidence(bench: Bench) -> None:
    checks = Checks()
    checks.once("a", reads=("Pod",))(pod_is_ready)
    found = result(bench(checks, lab_with(one="a"), tapes={"a": Tape([[("list Node", [])]])}))
    assert found.outcome is ERROR
    assert "list Pod" in found.observed
