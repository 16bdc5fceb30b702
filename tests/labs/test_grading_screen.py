"""What a class's grading tells in a terminal: names and files are students' own, and may hold anything."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from cluster.workspace import Workspace
from labs.catalog import lab_numbered
from labs.grading import screen
from labs.grading.records import Record

LAB = lab_numbered(6)
CURSOR = "\x1b[2J"
TITLE = "\x1b]0;mine\x07"


def _record(student: str, report: Report | None, *, why: str = "", note: str = "") -> Record:
    return Record(student, "", "", "", "now", 1.0, (f"{CURSOR}a.yaml: {TITLE}",), report, why, note)


def _report(outcome: Outcome) -> Report:
    check = CheckResult("c", "run", "t", outcome, 0.0, 1.0, "", f"{CURSOR}seen{TITLE}")
    return Report(6, "s", "t", "lab-06", (check,), 1.0, ClusterInfo("c", "v", "u"))


class Run:
    """A class's run that has these results at once."""

    records: tuple[Record, ...] = ()

    def __init__(self, *about: Any) -> None:
        self._listen = about[-1]

    def grade(self, paths: Mapping[str, Path]) -> list[Record]:
        for record in self.records:
            self._listen("started", record.student)
        for record in self.records:
            self._listen("finished", record)
            self._listen("again", record.student)
        return list(self.records)


def _told(monkeypatch: pytest.MonkeyPatch, folder: Path, console: Console, *records: Record) -> int:
    @contextlib.contextmanager
    def opened(_: Workspace) -> Any:
        yield None

    monkeypatch.setattr(screen.Course, "opened", opened)
    monkeypatch.setattr(screen, "ClassRun", Run)
    monkeypatch.setattr(Run, "records", records)
    work = folder / "ada"
    work.mkdir()
    return screen.grade_class(Workspace(folder, folder), LAB, [work], jobs=1, out=folder / "g.csv", again=False,
                              as_json=False, console=console)  # fmt: skip


def test_nothing_of_a_student_steers_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = f"eve{CURSOR}{TITLE}"
    console = Console(file=io.StringIO(), width=300, highlight=False)
    status = _told(
        monkeypatch, tmp_path, console, _record(name, None, why=f"no {CURSOR} room"),
        _record(name, _report(Outcome.ERROR)), _record(name, _report(Outcome.FAIL), note=f"without {TITLE}"),
    )  # fmt: skip
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert (status, told.count("eve"), told.count("not graded: eve")) == (2, 9, 2)
    assert not {"\x1b", "\x07"} & set(told)


def test_brackets_in_a_name_are_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=300, highlight=False, force_terminal=True)
    _told(monkeypatch, tmp_path, console, _record("[/b] [red]eve", None, why="no [/b] room"))
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[/b] [red]eve  not graded: no [/b] room" in told


def test_where_a_terminal_has_no_such_letter_a_question_mark_stands_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = io.TextIOWrapper(io.BytesIO(), "ascii")
    folder = tmp_path / "\udcff"
    folder.mkdir()
    _told(monkeypatch, folder, Console(file=file, width=300), _record("Zoë", _report(Outcome.FAIL), note="ü"))
    file.flush()
    assert b"Zo?  0/1" in file.buffer.getvalue()  # type: ignore[attr-defined]
