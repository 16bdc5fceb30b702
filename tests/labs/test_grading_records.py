"""What a class run writes: it survives a crash, and a spreadsheet can't be fooled by a student's name."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest

from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from cluster.errors import KailabError
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


def _old(records: Records, student: str) -> None:
    """Make a result one of an earlier version, which did not tell its lab."""
    file = records.folder / student / "result.json"
    document = json.loads(file.read_text())
    del document["lab"]
    file.write_text(json.dumps(document))


def test_everybody_else_stays_in_the_table(records: Records) -> None:
    everybody = [_record("ada", Outcome.PASS), _record("bob"), _record("carl", Outcome.FAIL)]
    for record in everybody:
        records.keep(record, None)
    records.write_table(everybody)
    before = _rows(records)
    late = Records(records.table, records.lab)
    late.keep(_record("bert", Outcome.PASS), None)
    late.keep(_record("carl", Outcome.PASS), None)
    late.write_table([_record("bert", Outcome.PASS), _record("carl", Outcome.PASS)])
    after = _rows(records)
    assert [row["student"] for row in after] == ["ada", "bert", "bob", "carl"]
    assert [after[0], after[2]] == before[:2]
    assert (before[2]["points"], after[3]["points"]) == ("0", "2")


def test_who_is_on_record_is_in_the_table_also_after_a_crash_before_it_was_written(records: Records) -> None:
    records.keep(_record("ada", Outcome.PASS), None)
    again = Records(records.table, records.lab)
    again.write_table([_record("bob", Outcome.PASS)])
    assert [row["student"] for row in _rows(records)] == ["ada", "bob"]


def test_a_row_stays_when_nothing_else_is_left_of_a_student(records: Records) -> None:
    records.write_table([_record("=ada", Outcome.PASS), _record("bob", Outcome.PASS)])
    before = _rows(records)
    for _ in range(2):
        Records(records.table, records.lab).write_table([_record("bob", Outcome.FAIL)])
        assert [row["points"] for row in _rows(records)] == ["2", "0"]
    assert _rows(records)[0] == before[0]


def test_a_table_of_another_lab_is_refused_and_left_as_it_is(records: Records) -> None:
    records.keep(_record("ada", Outcome.PASS), {"format": "x"})
    records.write_table([_record("ada", Outcome.PASS)])
    before = records.table.read_text()
    for _ in range(2):
        with pytest.raises(KailabError) as refused:
            Records(records.table, lab_numbered(3))
        assert "results of lab 6" in refused.value.what
        assert "--out" in refused.value.mend
        assert "grades-lab-03.csv" in refused.value.mend
        assert records.of("ada")
        if records.table.exists():
            assert records.table.read_text() == before
            records.table.unlink()  # then the feedback still tells


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("outcomes", [(Outcome.PASS,), ()])
def test_a_result_tells_its_lab_as_far_as_that_is_known(
    records: Records, outcomes: tuple[Outcome, ...], is_old: bool
) -> None:
    records.keep(_record("ada", *outcomes), None)
    if is_old:
        _old(records, "ada")
    if is_old and not outcomes:
        assert Records(records.table, lab_numbered(3)).of("ada") == _record("ada")
        return
    with pytest.raises(KailabError, match="results of lab 6"):
        Records(records.table, lab_numbered(3))


def test_results_that_tell_no_lab_do_not_hide_those_that_do(records: Records) -> None:
    for record in (_record("ada"), _record("bob", Outcome.PASS)):
        records.keep(record, None)
        _old(records, record.student)
    with pytest.raises(KailabError, match="results of lab 6"):
        Records(records.table, lab_numbered(3))


def test_one_result_of_another_lab_is_not_taken_for_ours(records: Records) -> None:
    """As two labs in one table left it, before that was refused."""
    records.keep(_record("ada", Outcome.PASS), None)
    records.table.write_text("student,lab\ncarl,3\n")
    other = Records(records.table, lab_numbered(3))
    with pytest.raises(KailabError, match="results of lab 6"):
        other.of("ada")
    other.write_table([_record("carl", Outcome.PASS)])
    assert [(row["student"], row["lab"]) for row in _rows(records)] == [("carl", "3")]


@pytest.mark.parametrize("text", ["my notes\n", "name,points\nada,3\n", "\xff\xfe"])
def test_a_file_that_is_no_table_is_not_written_over(tmp_path: Path, text: str) -> None:
    file = tmp_path / "notes.csv"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(KailabError, match="no table of `kailab grade`"):
        Records(file, lab_numbered(6))


@pytest.mark.parametrize("text", ["", ",".join(COLUMNS) + "\n", "\ufeffstudent,lab\n,\n"])
def test_an_empty_table_takes_any_lab(tmp_path: Path, text: str) -> None:
    file = tmp_path / "grades.csv"
    file.write_text(text, encoding="utf-8")
    records = Records(file, lab_numbered(6))
    records.write_table([_record("ada", Outcome.PASS)])
    assert [row["student"] for row in _rows(records)] == ["ada"]
