"""A class's run: what is a matter of time is tried again when nothing else runs, and nobody else waits for it."""

from __future__ import annotations

import os
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
from labs.grading import reading, run
from labs.grading.judging import Judged
from labs.grading.reading import students
from labs.grading.records import Record, Records
from labs.lifecycle import Course

LAB = lab_numbered(6)


def judged(*, lost: str = "") -> Judged:
    """Full marks, or all but those of one check."""
    checks = tuple(CheckResult(check.id, check.task, check.title, Outcome.FAIL if check.id == lost else Outcome.PASS,
                               0.0 if check.id == lost else check.points, check.points)
                   for check in LAB.spec.checks)  # fmt: skip
    return Judged(Report(6, "s", "t", "ns", checks, 1.0, ClusterInfo("c", "v", "u")), (), {"seen": 1})


class Api:
    """An API server that answers, or has gone; how long it was waited for."""

    def __init__(self) -> None:
        self.has_gone = False
        self.waited: list[float] = []

    def get(self, *_: str) -> None:
        return None

    def becomes_ready(self, seconds: float, *_: Any) -> bool:
        self.waited.append(seconds)
        return not self.has_gone


@dataclass
class World:
    """A cluster where judging is played; which rooms are open is known at every moment."""

    answers: list[Judged | KailabError]
    open: set[str] = field(default_factory=set)
    beside: list[int] = field(default_factory=list)  # at each judging, how many rooms there were already
    lock: threading.Lock = field(default_factory=threading.Lock)
    api: Api = field(default_factory=Api)
    told: list[str] = field(default_factory=list)

    def judge(self, course: Any, lab: Any, objects: Any, room: str, *, leave: Any, **_: Any) -> Judged:
        with self.lock:
            self.beside.append(len(self.open))
            self.open.add(room)
            answer = self.answers.pop(0)
        leave(room)
        if isinstance(answer, KailabError):
            raise answer
        return answer

    def is_started(self, *_: Any) -> bool:
        if self.api.has_gone:
            raise Unreachable("There is no cluster.")
        return False

    def demolish(self, course: Any, room: str) -> None:
        with self.lock:
            self.open.discard(room)


@pytest.fixture
def graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Grade a class of so many, or with this work, with so many jobs; their records, and the world."""

    def grade(students: int | dict[str, Path], jobs: int, *answers: Judged | KailabError) -> tuple[list[Record], World]:
        world = World(list(answers))
        monkeypatch.setattr(run, "judge", world.judge)
        monkeypatch.setattr(run, "demolish", world.demolish)
        monkeypatch.setattr(run, "leftovers", lambda _: [])
        for module, name in ((run.lifecycle, "give_back"), (run.fleets, "join"), (run.fleets, "leave")):
            monkeypatch.setattr(module, name, lambda *_: None)
        monkeypatch.setattr(run.lifecycle, "is_started", world.is_started)
        paths = students if isinstance(students, dict) else {
            f"s{number}": tmp_path / f"s{number}" for number in range(students)
        }  # fmt: skip
        for path in paths.values():
            path.mkdir(exist_ok=True)
        course = Course(Workspace(tmp_path, tmp_path), world.api, "uid")  # type: ignore[arg-type]
        world.api.has_gone = isinstance(answers[0], Unreachable)

        def listen(what: str, _: Any) -> None:
            world.told.append(what)

        return run.ClassRun(course, LAB, Records(tmp_path / "g.csv", LAB), jobs, listen=listen).grade(paths), world

    return grade


@pytest.mark.parametrize("jobs", [1, 8])
@pytest.mark.parametrize("second", [judged(), judged(lost="drain")])
def test_a_failure_at_time_holds_only_if_it_comes_again_alone(graded: Any, jobs: int, second: Judged) -> None:
    (record,), world = graded(1, jobs, judged(lost="drain"), second)
    assert (record.report, world.beside, world.answers) == (second.report, [0, 0], [])


def test_a_failure_that_is_none_of_time_stands_at_once(graded: Any) -> None:
    (record,), world = graded(1, 8, judged(lost="shape"))
    assert (record.report, len(world.beside)) == (judged(lost="shape").report, 1)


def test_second_tries_wait_until_every_room_has_gone(graded: Any) -> None:
    records, world = graded(4, 8, *[judged(lost="drain")] * 4, *[judged()] * 4)
    assert world.beside[4:] == [0, 0, 0, 0]
    assert [record.report.points for record in records] == [20, 20, 20, 20]


def test_what_could_not_be_judged_costs_only_itself(graded: Any) -> None:
    records, _ = graded(2, 1, KailabError("The grader itself broke."), judged())
    assert sorted((record.is_graded, record.why) for record in records) == [
        (False, "The grader itself broke."), (True, ""),
    ]  # fmt: skip


def test_a_cluster_that_has_gone_is_waited_for_once(graded: Any, tmp_path: Path) -> None:
    gone = [Unreachable("There is no cluster.")] * 6
    records, world = graded(3, 1, *gone)
    assert [(record.is_graded, record.why) for record in records] == [(False, "There is no cluster.")] * 3
    assert world.api.waited == [0, run._API_SECONDS]
    assert world.told.count("silent") == 1
    assert len((tmp_path / "g.csv").read_text().splitlines()) == 1 + 3


def test_what_broke_the_reader_is_not_graded_and_costs_only_itself(
    graded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(path: Path) -> Any:
        raise KeyError("nobody thought of it")

    read = reading._read
    monkeypatch.setattr(reading, "_read", lambda path: (breaks if path.name == "s0" else read)(path))
    (broken, fine), world = graded(2, 2, judged())
    assert (broken.is_graded, fine.is_graded, len(world.beside)) == (False, True, 1)
    assert "KeyError: 'nobody thought of it'" in broken.why
    assert broken.problems == (broken.why,)


def test_a_student_whose_name_is_not_utf_8_is_in_the_table(graded: Any, tmp_path: Path) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller"))
    home.mkdir()
    Path(os.fsdecode(os.fsencode(home) + b"/\xff.yaml")).write_text("a")
    (record,), _ = graded(students([home], LAB.namespace), 1, judged())
    assert record.student == r"M\xfcller"
    assert record.problems == (r"\xff.yaml, line 1: it is the text 'a', not an object",)
    assert r"M\xfcller" in (tmp_path / "g.csv").read_text()
