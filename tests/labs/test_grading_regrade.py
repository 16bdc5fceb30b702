"""A class graded again by checks that were mended since: who changed, why, and that nothing is lost on the way."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from checkers.evidence import pack, write
from checkers.report.document import to_document
from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from checkers.runner import NOT_RECORDED
from cluster.errors import KailabError
from labs.catalog import LabFolder, lab_numbered
from labs.grading import regrade
from labs.grading.records import Record, Records, lab_digest

LAB = lab_numbered(6)


def _report(*failed: str, observed: str = "as it was") -> Report:
    def result(spec: Any) -> CheckResult:
        wrong = spec.id in failed
        return CheckResult(spec.id, spec.task, spec.title, Outcome.FAIL if wrong else Outcome.PASS,
                           0 if wrong else spec.points, spec.points, observed=observed if wrong else "")  # fmt: skip

    checks = tuple(map(result, LAB.spec.checks))
    return Report(6, LAB.spec.slug, LAB.title, LAB.namespace, checks, 1.0, ClusterInfo("c", "v1.37.2", "u"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Ada lacks limits, Bob has everything, Carl was not judged."""
    records = Records(tmp_path / "grades.csv", LAB)
    kept = []
    for student, report in (("ada", _report("limits")), ("bob", _report()), ("carl", None)):
        record = Record(student, f"in/{student}", "d", "older checks", "2026-11-01T10:00:00+00:00", 1.0, (), report)
        records.keep(record, {"lab": 6, "report": to_document(report), "who": student} if report else None)
        kept.append(record)
    records.write_table(kept)
    return records.table


def _again(monkeypatch: pytest.MonkeyPatch, table: Path, judge: Callable[[str], Report], *, write: bool = False) -> Any:
    monkeypatch.setattr(regrade, "read_evidence", lambda path: json.loads(path.read_text()))

    def replay(lab: LabFolder, document: dict[str, Any]) -> Report:
        return judge(document["who"])

    monkeypatch.setattr(regrade, "replay", replay)
    said = io.StringIO()
    status = regrade.regrade_class(table, Console(file=said, width=120), write=write)
    return status, said.getvalue()


def test_who_has_changed_is_shown_with_the_check_that_did_it(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    before = table.read_text()
    status, said = _again(monkeypatch, table, lambda who: _report("budget", observed="keeps 3 of 3"))
    assert status == 0
    points = {spec.id: spec.points for spec in LAB.spec.checks}
    row = f"ada {20 - points['limits']:g} {20 - points['budget']:g} limits: fail -> pass"
    assert row in " ".join(said.split())
    assert "budget: pass -> fail (keeps 3 of 3)" in said
    assert "2 graded again, 2 changed" in said
    assert table.read_text() == before


def test_nothing_changes_without_a_changed_verdict(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    same = {"ada": _report("limits"), "bob": _report()}
    assert _again(monkeypatch, table, same.__getitem__) == (0, "2 graded again, 0 changed\n")


def test_written_it_is_the_result_of_the_checks_of_now(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    _again(monkeypatch, table, lambda who: _report(), write=True)
    records = Records(table, LAB)
    ada, bob = records.of("ada"), records.of("bob")
    assert ada
    assert bob
    assert ada.report
    assert ada.report.points == ada.report.max_points
    assert (ada.lab_digest, bob.lab_digest) == (lab_digest(LAB), lab_digest(LAB))
    assert bob.graded_at.startswith("2026-11-01"), "nothing changed for Bob"
    rows = table.read_text().splitlines()
    assert [row.split(",")[:3] for row in rows[1:3]] == [["ada", "6", "20"], ["bob", "6", "20"]]
    assert (records.folder / "ada" / "evidence.json").exists()


def test_evidence_that_cannot_tell_leaves_the_result(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    def cannot(who: str) -> Report:
        report = _report()
        error = replace(report.checks[0], outcome=Outcome.ERROR, points=0, observed="this needs the cluster")
        return replace(report, checks=(error, *report.checks[1:]))

    status, said = _again(monkeypatch, table, cannot, write=True)
    assert status == 2
    assert "ada stays as it is: shape: this needs the cluster" in said
    kept = Records(table, LAB).of("ada")
    assert kept
    assert kept.report == _report("limits")
    assert kept.lab_digest == "older checks"


def test_a_check_that_left_no_evidence_is_no_zero(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    """As when `ready` failed wrongly and is mended, so that what needs it was never tried; or when a check is new."""
    before = table.read_text()

    def mended(who: str) -> Report:
        report = _report()
        last = replace(report.checks[-1], outcome=Outcome.SKIPPED, points=0, observed=NOT_RECORDED)
        return replace(report, checks=(*report.checks[:-1], last)) if who == "ada" else report

    status, said = _again(monkeypatch, table, mended, write=True)
    assert status == 2
    assert f"ada stays as it is: {LAB.spec.checks[-1].id}: not tried when this was recorded" in said
    assert "2 graded again, 0 changed, 1 can't be" in said
    ada, bob = Records(table, LAB).of("ada"), Records(table, LAB).of("bob")
    assert ada
    assert bob
    assert (ada.report, ada.lab_digest) == (_report("limits"), "older checks")
    assert bob.lab_digest == lab_digest(LAB)
    assert table.read_text() == before


def test_a_check_skipped_for_what_it_needs_is_told(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    def failing(who: str) -> Report:
        report = _report("shape")
        last = replace(report.checks[-1], outcome=Outcome.SKIPPED, points=0, observed="not tried: first mend “shape”")
        return replace(report, checks=(*report.checks[:-1], last))

    status, said = _again(monkeypatch, table, failing)
    assert (status, "2 changed" in said) == (0, True)


@pytest.mark.parametrize("lab", [6, 3])
def test_evidence_without_its_tapes_or_of_another_lab_leaves_the_result(table: Path, lab: int) -> None:
    """Replayed in earnest."""
    before = table.read_text()
    document = pack({}, {"lab": lab, "namespace": "lab-06", "given": {}}, to_document(_report()))
    for student in ("ada", "bob"):
        write(Records(table, LAB).evidence_of(student), document)
    said = io.StringIO()
    assert regrade.regrade_class(table, Console(file=said, width=120), write=True) == 2
    assert "2 graded again, 0 changed, 2 can't be" in said.getvalue()
    assert ("lab 3" in said.getvalue()) == (lab == 3)
    assert table.read_text() == before


def test_who_was_not_graded_stays_in_the_table(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    before = table.read_text().splitlines()
    _again(monkeypatch, table, lambda who: _report(), write=True)
    after = table.read_text().splitlines()
    assert after[3] == before[3]
    assert after[3].startswith("carl,6,,")


def test_what_cannot_be_written_of_one_student_is_said_and_costs_only_that_one(
    monkeypatch: pytest.MonkeyPatch, table: Path
) -> None:
    (table.parent / "grades-feedback" / "ada" / "feedback.html").unlink()
    (table.parent / "grades-feedback" / "ada" / "feedback.html").mkdir()
    _, said = _again(monkeypatch, table, lambda who: _report("limits", "shape"), write=True)
    assert "ada: Feedback and result could not be written" in said
    bob = Records(table, LAB).of("bob")
    assert bob
    assert bob.report == _report("limits", "shape")


def test_what_evidence_and_names_say_is_harmless_for_a_terminal(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    records = Records(table, LAB)
    name = os.fsdecode(b"andr\xe9\x1b[2J")
    records.keep(Record(name, "in", "d", "o", "at", 1.0, (), _report()), {"lab": 6, "who": name})

    def broken(who: str) -> Report:
        raise KailabError("bad\x1b[31m evidence", why=os.fsdecode(b"\xe9"))

    _, said = _again(monkeypatch, table, broken)
    assert "\x1b" not in said
    assert r"andr\xe9 stays as it is: bad evidence" in said
    said.encode()
    _, said = _again(monkeypatch, table, lambda who: _report("budget", observed=name))
    assert "\x1b" not in said
    said.encode()


def test_a_result_that_cannot_be_read_ends_nothing(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    """Its row is all that is left of it."""
    before = table.read_text().splitlines()
    (table.parent / "grades-feedback" / "bob" / "result.json").write_text("{")
    _, said = _again(monkeypatch, table, lambda who: _report(), write=True)
    assert "1 graded again, 1 changed" in said
    assert table.read_text().splitlines()[2:] == before[2:]


def test_what_is_no_table_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    for name, said in (("a.csv", "no table of"), ("nowhere.csv", "can't be read")):
        with pytest.raises(KailabError, match=said):
            regrade.regrade_class(tmp_path / name, Console(file=io.StringIO()), write=False)
