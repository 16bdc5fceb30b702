"""A worker's decisions: what is a verdict, what is tried again, and what it does when told to go."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from cluster.api import Unreachable
from cluster.errors import KailabError
from cluster.workspace import Workspace
from labs.catalog import lab_numbered
from labs.grading.judging import Judged
from labs.grading.reading import Submission
from labs.grading.remote import NAMESPACE, packing, worker
from labs.grading.remote.queue import MOST_TRIES, Queue
from labs.grading.remote.worker import Worker
from labs.lifecycle import Course
from tests.fakeapi import FakeApi

LAB = lab_numbered(6)
READY = {"cpu": ("True", "then")}


def judged(*, lost: str = "") -> Judged:
    """Full marks, or all but those of one check."""
    checks = tuple(CheckResult(check.id, check.task, check.title, Outcome.FAIL if check.id == lost else Outcome.PASS,
                               0.0 if check.id == lost else check.points, check.points)
                   for check in LAB.spec.checks)  # fmt: skip
    return Judged(Report(6, "s", "t", "ns", checks, 1.0, ClusterInfo("c", "v", "u")), ("said",), {"seen": 1})


@dataclass
class World:
    """A queue with one submission, and a worker whose judging and looking at nodes are played."""

    api: FakeApi = field(default_factory=FakeApi)
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[Any] = field(default_factory=list)
    nodes: list[dict[str, tuple[str, str]]] = field(default_factory=list)
    tried: int = 0
    demolished: list[str] = field(default_factory=list)

    def judge(self, *_: Any, **__: Any) -> Judged:
        self.tried += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Judged)
        return answer

    def readiness(self, _: Any) -> dict[str, tuple[str, str]]:
        return self.nodes.pop(0) if self.nodes else READY

    def run(self) -> packing.Verdict | None:
        Queue(self.api).put("ada", packing.pack_work(_nothing())[0], "room")
        course = Course(Workspace(Path(), Path()), self.api, "uid")  # type: ignore[arg-type]
        Worker(course, LAB, "w", self.stop).run(20)
        found = Queue(self.api).result("ada")
        return packing.unpack_verdict(found[0]) if found else None


def _nothing() -> Any:
    return Submission("ada", Path(), (), ())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(worker, "judge", made.judge)
    monkeypatch.setattr(worker, "demolish", lambda _, room: made.demolished.append(room))
    monkeypatch.setattr(worker.nodes, "readiness", made.readiness)
    monkeypatch.setattr(worker, "LOOK_EVERY", 0.01)
    return made


def test_a_verdict_travels_whole(world: World) -> None:
    world.answers = [judged()]
    verdict = world.run()
    assert verdict is not None
    assert verdict.report == judged().report
    assert verdict.problems == ("said",)
    assert world.demolished == ["room"]
    found = Queue(world.api).result("ada")
    assert found is not None
    assert packing.unpack_evidence(found[1]) == {"seen": 1}


def test_evidence_that_is_too_large_is_left_out_and_the_verdict_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MOST_EVIDENCE", 10)
    world.answers = [judged()]
    verdict = world.run()
    assert verdict is not None
    assert verdict.left_out > 10
    assert verdict.report == judged().report
    found = Queue(world.api).result("ada")
    assert found is not None
    assert found[1] is None


def test_a_failure_that_is_none_of_time_stands_at_once(world: World) -> None:
    world.answers = [judged(lost="shape")]
    verdict = world.run()
    assert verdict is not None
    assert verdict.report == judged(lost="shape").report


@pytest.mark.parametrize("second", [judged(), judged(lost="drain")])
def test_a_failure_at_time_is_tried_once_more_alone(world: World, second: Judged) -> None:
    world.answers = [judged(lost="drain"), second]
    verdict = world.run()
    assert verdict is not None
    assert (verdict.report, world.tried) == (second.report, 2)


def test_a_node_that_was_lost_meanwhile_makes_any_failure_doubtful(world: World) -> None:
    world.answers = [judged(lost="shape"), judged()]
    world.nodes = [READY, {"cpu": ("True", "later")}]
    verdict = world.run()
    assert verdict is not None
    assert verdict.report == judged().report


def test_full_marks_stand_whatever_happened_to_nodes(world: World) -> None:
    world.answers = [judged()]
    world.nodes = [READY, {"cpu": ("False", "later")}]
    assert world.run() is not None
    assert world.tried == 1


def test_no_answer_from_the_api_is_no_verdict(world: World) -> None:
    world.answers = [Unreachable("gone"), judged()]
    verdict = world.run()
    assert verdict is not None
    assert (verdict.report, world.tried) == (judged().report, 2)


def test_what_cannot_be_judged_has_a_reason_and_no_report(world: World) -> None:
    world.answers = [KailabError("no room could be made")]
    verdict = world.run()
    assert verdict is not None
    assert (verdict.report, verdict.why) == (None, "no room could be made")


def test_what_kills_its_workers_is_not_graded(world: World) -> None:
    Queue(world.api).put("ada", packing.pack_work(_nothing())[0], "room")
    world.api.patch("Lease", "claim-ada", NAMESPACE, {"spec": {"leaseTransitions": MOST_TRIES}})
    verdict = world.run()
    assert verdict is not None
    assert (verdict.report, world.tried) == (None, 0)
    assert "lost 3 times" in verdict.why


def test_a_worker_told_to_go_leaves_its_submission_to_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*_: Any, **__: Any) -> Judged:
        world.stop.set()
        return judged(lost="drain")

    monkeypatch.setattr(worker, "judge", told)
    assert world.run() is None
    lease = world.api.objects["Lease", "claim-ada"]
    assert "holderIdentity" not in lease["spec"]
    assert lease["spec"]["leaseTransitions"] == 0
    assert world.demolished == ["room"]  # before anybody else opens it
