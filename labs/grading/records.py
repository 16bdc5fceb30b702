"""What a class run leaves behind: a folder per student, one table, and enough to go on after a crash."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkers import evidence
from checkers.report.document import from_document, to_document
from checkers.report.html import page
from checkers.report.terminal import number
from checkers.results import Outcome, Report
from cluster.files import replace
from labs.catalog import LabFolder

COLUMNS = ("student", "lab", "points", "max_points", "percent", "status", "checks_passed", "checks", "problems",
           "graded_at", "seconds", "submission", "feedback", "note")  # fmt: skip
GRADED, NOT_GRADED = "graded", "not graded"


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

    def of(self, student: str) -> Record | None:
        """What is known of a student; None when there is nothing, or nothing that can be read."""
        try:
            document = json.loads((self._home(student) / "result.json").read_text())
            report = from_document(document["report"]) if document["report"] else None
            return Record(**{**document, "report": report, "problems": tuple(document["problems"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, record: Record, recorded: dict[str, Any] | None) -> None:
        """Write a student's files; evidence of an earlier result goes, since it tells nothing about this one."""
        file = self._home(record.student) / "evidence.json"
        if recorded is None:
            file.unlink(missing_ok=True)
        else:
            evidence.write(file, recorded)
        self.keep_verdict(record)

    def keep_verdict(self, record: Record) -> None:
        """Write a student's result, and leave the evidence that it rests on. It comes last: it says all is there."""
        home = self._home(record.student)
        home.mkdir(parents=True, exist_ok=True)
        replace(home / "feedback.html", page(record.report, record.student, record.problems, record.why), durable=True)
        document = {**asdict(record), "report": to_document(record.report) if record.report else None}
        replace(home / "result.json", json.dumps(document, indent=1), durable=True)

    def write_table(self, records: Iterable[Record]) -> None:
        """The table for a spreadsheet or an LMS: a line per student, points empty where there is no verdict."""
        lines = io.StringIO()
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._row(record) for record in sorted(records, key=lambda record: record.student))
        self.table.parent.mkdir(parents=True, exist_ok=True)
        replace(self.table, lines.getvalue(), durable=True)

    def _row(self, record: Record) -> dict[str, str]:
        report = record.report if record.is_graded else None
        known = {
            "student": _harmless(record.student), "lab": str(self.lab.number),
            "status": GRADED if report else NOT_GRADED, "problems": str(len(record.problems)),
            "graded_at": record.graded_at, "seconds": f"{record.seconds:.1f}", "note": record.note,
            "submission": _harmless(record.submission),
            "feedback": _harmless(str(self._home(record.student).relative_to(self.table.parent) / "feedback.html")),
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
        if plain != student:
            plain += f"-{hashlib.sha256(student.encode()).hexdigest()[:8]}"
        return self.folder / plain


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
