"""What a class run leaves behind: a folder per student, one table, and enough to go on after a crash."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from checkers import evidence
from checkers.report.document import from_document, to_document
from checkers.report.html import page
from checkers.report.terminal import number
from checkers.results import Outcome, Report
from cluster.errors import KailabError
from cluster.files import is_full, replace
from labs.catalog import LabFolder

COLUMNS = ("student", "lab", "points", "max_points", "percent", "status", "checks_passed", "checks", "problems",
           "graded_at", "seconds", "submission", "feedback", "note")  # fmt: skip
GRADED, NOT_GRADED = "graded", "not graded"
_LONGEST_NAME = 255  # bytes of a file's name; so it is on all common file systems
Row = dict[str, str]


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
        """Raises KailabError when table or folder hold results of another lab, or the table is something else."""
        self.table, self.lab = table, lab
        self.folder = table.with_name(f"{table.stem}-feedback")
        self._unwritten: dict[str, Record] = {}
        self._rows_before = read_table(table) if table.exists() else []
        for row in self._rows_before:
            self._require_ours(row["lab"], table)
        if not self._rows_before:
            # One that tells its lab is enough; without a report, those of earlier versions don't.
            any(record and record.report for record in map(self._read, self._homes()))

    def of(self, student: str) -> Record | None:
        """What is known of a student; None when there is nothing, or nothing that can be read.

        Raises KailabError when what there is belongs to another lab.
        """
        return self._read(self._home(student))

    def everybody(self) -> Iterator[Record]:
        """Of every student what is known, as far as it can be read and is this lab's."""
        for home in self._homes():
            with suppress(KailabError):
                if (record := self._read(home)) and self._home(record.student) == home:
                    yield record

    def evidence_of(self, student: str) -> Path:
        """The file that a result rests on, if there is one."""
        return self._home(student) / "evidence.json"

    def _homes(self) -> list[Path]:
        return sorted(file.parent for file in self.folder.glob("*/result.json"))

    def _read(self, home: Path) -> Record | None:
        file = home / "result.json"
        try:
            document = json.loads(file.read_text())
            report = from_document(document["report"]) if document["report"] else None
            lab = document.pop("lab", report.lab if report else "")  # of earlier versions only the report tells
            record = Record(**{**document, "report": report, "problems": tuple(document["problems"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        self._require_ours(str(lab), file)
        return record

    def _require_ours(self, number: str, where: Path) -> None:
        if number not in ("", str(self.lab.number)):
            other = self.table.with_name(f"{self.table.stem}-{self.lab.namespace}.csv")
            raise KailabError(
                f"{where} holds results of lab {number}.",
                why=f"Those of lab {self.lab.number} would take their place, and evidence and feedback would be lost.",
                mend=f"name another table, such as --out {shlex.quote(str(other))}",
            )

    def keep(self, record: Record, recorded: dict[str, Any] | None) -> Record:
        """Write a student's files; evidence of an earlier result goes, since it tells nothing about this one.

        The record as it is then: what can't be written of one student ends no run of a class, and has a note instead.
        Raises OSError for what concerns everybody: a full disk, or a folder that takes nothing.
        """

        def write() -> None:
            file = self.evidence_of(record.student)
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
        replace(home / "feedback.html", _encodable(feedback), durable=True)
        report = to_document(record.report) if record.report else None
        document = {**asdict(record), "report": report, "lab": self.lab.number}
        replace(home / "result.json", json.dumps(document, indent=1), durable=True)

    def write_table(self, records: Iterable[Record]) -> None:
        """The table for a spreadsheet or an LMS: a line per student, points empty where there is no verdict.

        Whoever else is on record, or in the table as it was, stays in it.
        """
        given = [self._unwritten.get(record.student, record) for record in records]
        rows = {**self._on_record, **{record.student: self._row(record) for record in given}}
        students = {row["student"] for row in rows.values()}
        left = [row for row in self._rows_before if row["student"] not in students]
        lines = io.StringIO()
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*rows.values(), *left], key=lambda row: row["student"]))
        self.table.parent.mkdir(parents=True, exist_ok=True)
        replace(self.table, _encodable(lines.getvalue()), durable=True)

    @cached_property
    def _on_record(self) -> dict[str, Row]:
        """The rows of all that is on record; read once, since for a large class it takes seconds."""
        return {record.student: self._row(record) for record in self.everybody()}

    def _row(self, record: Record) -> Row:
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


def read_table(table: Path) -> list[Row]:
    """The rows of a table that `kailab grade` wrote. Raises KailabError for any other file."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark in front
            reader = csv.DictReader(file)
            if not {"student", "lab"} <= set(reader.fieldnames or ("student", "lab")):
                raise ValueError("other columns")
            rows = [{column: row.get(column) or "" for column in COLUMNS} for row in reader]
    except OSError as failed:
        raise KailabError(f"{table} can't be read: {failed.strerror}.") from None
    except (ValueError, csv.Error):
        raise KailabError(
            f"{table} is no table of `kailab grade`.", mend="the file that --out named, or a new one"
        ) from None
    return [row for row in rows if row["student"]]


def _encodable(text: str) -> str:
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
