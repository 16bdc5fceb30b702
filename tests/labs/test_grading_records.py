"""What a class run writes: it survives a crash, and a spreadsheet can't be fooled by a student's name."""

from __future__ import annotations

import csv
import dataclasses
import errno
import os
from pathlib import Path

import pytest

from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from labs.catalog import lab_numbered
from labs.grading.records import COLUMNS, Record, Records, lab_digest

HOSTILE = "<script>alert(1)</script>"


def _report(*outcomes: Outcome) -> Report:
    checks = tuple(
        CheckResult(f"c{n}", "run", "A title", outcome, 2.0 if outcome is Outcome.PASS else 0.0, 2.0,
                    observed=HOSTILE, evidence=(HOSTILE,))
        for n, outcome in enumerate(outcomes)
    )  # fmt: skip
    return Report(6, "deployments", "Deployments", "lab-06", checks, 1.5, ClusterInfo("k", "v1.37.2", "u"),
                  {"run": "Run it"})  # fmt: skip


def _record(student: str, *outcomes: Outcome, problems: tuple[str, ...] = ()) -> Record:
    report = _report(*outcomes) if outcomes else None
    return Record(student, f"/submitted/{student}", "d1", "d2", "2026-11-25T00:00:00+00:00", 3.0, problems, report,
                  "" if report else "no cluster")  # fmt: skip


def _rows(records: Records) -> list[dict[str, str]]:
    with records.table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "grades.csv", lab_numbered(6))


def test_a_record_comes_back_as_it_was(records: Records) -> None:
    for record in (_record("ada", Outcome.PASS, Outcome.FAIL, problems=("a",)), _record("bob")):
        records.keep(record, {"format": "x"})
        assert records.of(record.student) == record


def test_evidence_of_an_earlier_result_goes_with_it(records: Records) -> None:
    records.keep(_record("ada", Outcome.PASS), {"format": "x"})
    records.keep_verdict(_record("ada", Outcome.FAIL))
    evidence = records.folder / "ada" / "evidence.json"
    assert evidence.exists()
    records.keep(_record("ada", Outcome.PASS), None)
    assert not evidence.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"report": 3}', '{"report": null}'])
def test_a_half_written_record_is_no_record(records: Records, text: str) -> None:
    records.keep(_record("ada", Outcome.PASS), None)
    (records.folder / "ada" / "result.json").write_text(text)
    assert records.of("ada") is None


def test_errors_are_no_verdict() -> None:
    assert _record("ada", Outcome.PASS, Outcome.FAIL).is_graded
    assert not _record("ada", Outcome.PASS, Outcome.ERROR).is_graded
    assert not _record("ada").is_graded


def test_the_table_leaves_points_empty_where_there_is_no_verdict(records: Records) -> None:
    records.write_table([_record("bob", Outcome.ERROR), _record("ada", Outcome.PASS, Outcome.FAIL)])
    rows = _rows(records)
    assert tuple(rows[0]) == COLUMNS
    assert [(row["student"], row["points"], row["percent"], row["status"]) for row in rows] == [
        ("ada", "2", "50.0", "graded"), ("bob", "", "", "not graded"),
    ]  # fmt: skip


def test_a_name_can_be_neither_a_formula_nor_a_path(records: Records) -> None:
    for name in ("=cmd|'/c calc'!A1", "../../evil", ".."):
        record = _record(name, Outcome.PASS)
        records.keep(record, None)
        assert records.of(name) == record
    records.write_table([_record("=cmd|'/c calc'!A1", Outcome.PASS)])
    assert "'=cmd" in records.table.read_text()
    assert {path.parent for path in records.folder.parent.rglob("result.json")} == set(records.folder.iterdir())


def test_feedback_shows_hostile_text_as_text(records: Records) -> None:
    records.keep(_record(HOSTILE, Outcome.FAIL, problems=(HOSTILE,)), None)
    page = next(records.folder.rglob("feedback.html")).read_text()
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") >= 4


def test_a_changed_check_is_another_lab() -> None:
    assert lab_digest(lab_numbered(6)) != lab_digest(lab_numbered(3))


LATIN = os.fsdecode("andré".encode("latin-1"))


def test_a_name_that_is_no_utf8_is_written_out_and_comes_back_as_it_was(records: Records) -> None:
    record = dataclasses.replace(_record(LATIN, Outcome.PASS, problems=(LATIN,)), why=LATIN, note=LATIN)
    records.keep(record, {"who": LATIN})
    records.write_table([record])
    assert records.of(LATIN) == record
    (row,) = _rows(records)
    assert (row["student"], row["note"]) == (r"andr\udce9", r"andr\udce9")
    assert r"andr\udce9" in (records.table.parent / row["feedback"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["." + "a" * 254, "." + "é" * 127, "a" * 246 + "."])
def test_a_folder_is_named_within_what_file_systems_take(records: Records, name: str) -> None:
    for student in (name, name[:-1] + "!"):
        records.keep(_record(student, Outcome.PASS), {"format": "x"})
        assert records.of(student) == _record(student, Outcome.PASS)


def test_what_cannot_be_kept_of_one_student_costs_only_that_one(records: Records) -> None:
    records.keep(_record("ada", Outcome.PASS), None)
    (records.folder / "bob").write_text("somebody's own notes")
    kept = records.keep(_record("bob", Outcome.FAIL), {"format": "x"})
    records.write_table([_record("ada", Outcome.PASS), _record("bob", Outcome.FAIL)])
    ada, bob = _rows(records)
    assert (ada["points"], ada["note"]) == ("2", "")
    assert (bob["points"], bob["feedback"]) == ("0", "")
    assert bob["note"] == kept.note
    assert "could not be written" in bob["note"]
    (records.folder / "bob").unlink()
    records.keep(_record("bob", Outcome.FAIL), None)
    records.write_table([_record("bob", Outcome.FAIL)])
    *_, bob = _rows(records)
    assert (bob["note"], bool(bob["feedback"])) == ("", True)


def test_a_full_disk_concerns_all(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("labs.grading.records.replace", full)
    with pytest.raises(OSError, match="No space left"):
        records.keep(_record("ada", Outcome.PASS), None)


def test_a_folder_that_takes_nothing_concerns_all(records: Records) -> None:
    records.folder.write_text("no folder")
    with pytest.raises(OSError, match="feedback"):
        records.keep(_record("ada", Outcome.PASS), None)
