"""What a class run leaves behind: a folder per student, one table, and enough to go on after a crash."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkers import evidence
from checkers.report.document import from_document, to_document
from checkers.report.html import page
from checkers.report.terminal import number
from checkers.results import Outcome, Report
from cluster.files import is_full, replace
from labs.catalog import LabFolder

COLUMNS = ("student", "lab", "points", "max_points", "percent", "status", "checks_passed", "checks", "problems",
           "graded_at", "seconds", "submission", "feedback", "note")  # fmt: skip
GRADED, NOT_GRADED = "graded", "not graded"
_LONGEST_NAME = 255  # bytes of a file's name; so it is on all common file systems


@dataclass(frozen=True)
class Record:
    """One student's result. `report` is None when there is none; `why` then tells what stood in the way.

    `digest` and `lab_digest` tell what was graded by what: with both unchanged there is nothing to do again.
    `note` is for the instructor, and costs nobody a point.
    """

    student: str
    submission: str
    digest: str
    lab_digest: str
    graded_at: str
    seconds: float
    problems: tuple[str, ...]
    report: Report | None
    why: str = ""
    note: str = ""

    @property
    def is_graded(self) -> bool:
        """A report with errors is no verdict, so it is not kept as one."""
        return self.report is not None and not self.report.errors


class Records:
    """The folder beside the table: STUDENT/{result.json, evidence.json, feedback.html}. Written whole or not at all."""

    def __init__(self, table: Path, lab: LabFolder) -> None:
        self.table, self.lab = table, lab
        self.folder = table.with_name(f"{table.stem}-feedback")
        self._unwritten: dict[str, Record] = {}

    def of(self, student: str) -> Record | None:
        """What is known of a student; None when there is nothing, or nothing that can be read."""
        try:
            document = json.loads((self._home(student) / "result.json").read_text())
            report = from_document(document["report"]) if document["report"] else None
            return Record(**{**document, "report": report, "problems": tuple(document["problems"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, record: Record, recorded: dict[str, Any] | None) -> Record:
        """Write a student's files; evidence of an earlier result goes, since it tells nothing about this one.

        The record as it is then: what can't be written of one student ends no run of a class, and has a note instead.
        Raises OSError for what concerns everybody: a full disk, or a folder that takes nothing.
        """

        def write() -> None:
            file = self._home(record.student) / "evidence.json"
            if recorded is None:
                file.unlink(missing_ok=True)
            else:
                evidence.write(file, recorded)
            self._write_verdict(record)

        return self._written(record, write)

    def keep_verdict(self, record: Record) -> Record:
        """Write a student's result, and leave the evidence that it rests on. Otherwise like `keep`."""
        return self._written(record, lambda: self._write_verdict(record))

    def _written(self, record: Record, write: Callable[[], None]) -> Record:
        self._unwritten.pop(record.student, None)
        try:
            write()
        except OSError as refused:
            if is_full(refused) or not (self.folder.is_dir() and os.access(self.folder, os.W_OK)):
                raise
            said = f"Feedback and result could not be written ({refused.strerror}), so the next run grades it again."
            record = dataclasses.replace(record, note=" ".join(filter(None, (record.note, said))))
            self._unwritten[record.student] = record
        return record

    def _write_verdict(self, record: Record) -> None:
        """The result comes last: it says all is there."""
        home = self._home(record.student)
        home.mkdir(parents=True, exist_ok=True)
        feedback = page(record.report, record.student, record.problems, record.why)
        replace(home / "feedback.html", printable(feedback), durable=True)
        document = {**asdict(record), "report": to_document(record.report) if record.report else None}
        replace(home / "result.json", json.dumps(document, indent=1), durable=True)

    def write_table(self, records: Iterable[Record]) -> None:
        """The table for a spreadsheet or an LMS: a line per student, points empty where there is no verdict."""
        lines = io.StringIO()
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        known = [self._unwritten.get(record.student, record) for record in records]
        writer.writerows(self._row(record) for record in sorted(known, key=lambda record: record.student))
        self.table.parent.mkdir(parents=True, exist_ok=True)
        replace(self.table, printable(lines.getvalue()), durable=True)

    def _row(self, record: Record) -> dict[str, str]:
        report = record.report if record.is_graded else None
        feedback = str((self._home(record.student) / "feedback.html").relative_to(self.table.parent))
        known = {
            "student": _harmless(record.student), "lab": str(self.lab.number),
            "status": GRADED if report else NOT_GRADED, "problems": str(len(record.problems)),
            "graded_at": record.graded_at, "seconds": f"{record.seconds:.1f}", "note": record.note,
            "submission": _harmless(record.submission),
            "feedback": "" if record.student in self._unwritten else _harmless(feedback),
        }  # fmt: skip
        if report:
            passed = sum(check.outcome is Outcome.PASS for check in report.checks)
            known |= {
                "points": number(report.points), "max_points": number(report.max_points),
                "percent": f"{100 * report.points / report.max_points:.1f}",
                "checks_passed": str(passed), "checks": str(len(report.checks)),
            }  # fmt: skip
        return known

    def _home(self, student: str) -> Path:
        """A folder whose name a student can't choose freely: whatever a file system may mistake is written out."""
        plain = "".join(letter if letter.isalnum() or letter in "-_@+ " else "_" for letter in student)
        if plain != student or len(plain.encode()) > _LONGEST_NAME:
            # A name of bytes that are no UTF-8 has lone surrogates in their place.
            end = f"-{hashlib.sha256(student.encode(errors='surrogatepass')).hexdigest()[:8]}"
            plain = plain.encode()[: _LONGEST_NAME - len(end)].decode(errors="ignore") + end
        return self.folder / plain


def printable(text: str) -> str:
    """Text that UTF-8 has no bytes for, as in the name of a file from a Latin-1 disk, with its escapes instead."""
    return text.encode(errors="backslashreplace").decode()


def _harmless(text: str) -> str:
    """Spreadsheets run cells that begin like a formula (OWASP, "CSV Injection")."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def lab_digest(lab: LabFolder) -> str:
    """Of everything that decides about points: a mended check grades anew."""
    digest = hashlib.sha256()
    for name in ("lab.yaml", "checks.py"):
        digest.update((lab.path / name).read_bytes())
    for path in sorted((lab.path / "given").glob("*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
