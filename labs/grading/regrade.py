"""A class's recorded evidence graded again, without a cluster: who has other points now, and by which check."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from checkers.manifests import printable
from checkers.report.terminal import number, plain
from checkers.results import CheckResult, Outcome, Report
from checkers.runner import NOT_RECORDED
from cluster.errors import KailabError
from labs.catalog import LabFolder, lab_numbered
from labs.grading.records import Record, Records, lab_digest, read_table
from labs.regrading import read_evidence, replay


@dataclass(frozen=True)
class Regraded:
    """One student's record with what the checks say now; `now` is None where the evidence can't tell, and `why` not."""

    record: Record
    now: Report | None
    why: str = ""

    @property
    def before(self) -> Report:
        assert self.record.report is not None
        return self.record.report

    @property
    def changes(self) -> list[tuple[CheckResult, CheckResult]]:
        """The checks that give other points, as they were and as they are."""
        was = {check.id: check for check in self.before.checks}
        pairs = [(was[check.id], check) for check in (self.now.checks if self.now else ()) if check.id in was]
        return [(then, now) for then, now in pairs if (then.outcome, then.points) != (now.outcome, now.points)]

    @property
    def has_changed(self) -> bool:
        return self.now is not None and (bool(self.changes) or self.now.points != self.before.points)


def regrade_class(table: Path, console: Console, *, write: bool) -> int:
    """Regrade all that the table's folder has on record and show who has changed, and why.

    With `write`, results, feedback and table become those of now. Exit status: 2 when somebody's evidence can't tell,
    else 0. Raises KailabError when there is no such class.
    """
    lab = _lab_of(table)
    records = Records(table, lab)
    found = sorted(_regraded(records, lab), key=lambda one: one.record.student)
    if not found:
        raise KailabError(f"There is nothing on record for {table}.", why=f"No results in {records.folder}.",
                          mend=f"kailab grade DIR... --lab {lab.number} --out {shlex.quote(str(table))}")  # fmt: skip
    changed = [one for one in found if one.has_changed]
    untold = [one for one in found if one.now is None]
    if changed:
        console.print(_shown(changed))
    for one in untold:
        console.print(Text(f"  {_shown_as(one.record.student)} stays as it is: {_shown_as(one.why)}"))
    console.print(
        f"{len(found)} graded again, {len(changed)} changed" + (f", {len(untold)} can't be" if untold else "")
    )
    if write:
        for record in _keep(records, found, digest=lab_digest(lab)):
            if record.note:
                console.print(Text(f"  {_shown_as(record.student)}: {_shown_as(record.note)}"))
        console.print(Text(f"written: {table}, feedback in {records.folder}"), soft_wrap=True)
    elif changed:
        console.print("Nothing is written yet; --write makes these the results.")
    return 2 if untold else 0


def _lab_of(table: Path) -> LabFolder:
    try:
        return lab_numbered(int(read_table(table)[0]["lab"]))
    except (IndexError, ValueError):
        raise KailabError(f"{table} is no table of `kailab grade`.", mend="the file that --out named") from None


def _regraded(records: Records, lab: LabFolder) -> Iterator[Regraded]:
    for record in records.everybody():
        if not record.is_graded:
            continue
        try:
            document = read_evidence(records.evidence_of(record.student))
            if document["lab"] != lab.number:
                raise ValueError(f"its evidence is of lab {document['lab']}")
            now = replay(lab, document)
        except (ValueError, KeyError, KailabError) as broken:
            yield Regraded(record, None, str(broken))
            continue
        untold = next(filter(_is_untold, now.checks), None)
        yield Regraded(record, None, f"{untold.id}: {untold.observed}") if untold else Regraded(record, now)


def _is_untold(check: CheckResult) -> bool:
    """Whether the evidence can't tell. It can for what was skipped since another check failed: that check tells."""
    return check.outcome is Outcome.ERROR or (check.outcome is Outcome.SKIPPED and check.observed == NOT_RECORDED)


def _shown(changed: list[Regraded]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("student", "was", "is", "why"):
        shown.add_column(name, justify="right" if name in ("was", "is") else "left", overflow="fold")
    for one in changed:
        assert one.now is not None
        why = "\n".join(_why(was, now) for was, now in one.changes)
        student = Text(_shown_as(one.record.student))
        shown.add_row(student, number(one.before.points), number(one.now.points), Text(why))
    return shown


def _why(was: CheckResult, now: CheckResult) -> str:
    said = now.observed or was.observed
    return f"{now.id}: {was.outcome} -> {now.outcome}" + (f" ({_shown_as(said)})" if said else "")


def _shown_as(text: str) -> str:
    return printable(plain(text))


def _keep(records: Records, found: list[Regraded], digest: str) -> list[Record]:
    """Write the results of now and the table; the records that were written."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    kept = []
    for one in found:
        if one.now is not None:
            graded_at = at if one.has_changed else one.record.graded_at
            record = replace(one.record, report=one.now, lab_digest=digest, graded_at=graded_at)
            kept.append(records.keep_verdict(record))
    records.write_table(kept)
    return kept
