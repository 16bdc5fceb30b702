"""Grading recorded evidence again: the same checks, perhaps mended since, without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from checkers.evidence import unpack
from checkers.report.document import from_document, to_document
from checkers.report.terminal import number, show
from checkers.results import Report
from checkers.runner import Run, Setting
from cluster.errors import KailabError
from labs.catalog import LabFolder, lab_numbered

LARGEST = 64 * 2**20


def replay(lab: LabFolder, document: dict[str, Any]) -> Report:
    """The report that the lab's checks give on recorded evidence. Raises ValueError for a broken document."""
    tapes = unpack(document)
    before = from_document(document["report"])
    setting = Setting(document["namespace"], Path(), before.cluster, document.get("given", {}))
    return Run(lab.spec, lab.checks, setting, None, tapes=tapes).report()


def regrade_files(files: list[Path], as_json: bool, console: Console) -> int:
    """Regrade each file and print the outcome; exit status as of the worst. Raises KailabError for a bad file."""
    worst = 0
    documents = []
    for path in files:
        document = read_evidence(path)
        lab = lab_numbered(document["lab"])
        try:
            report, before = replay(lab, document), from_document(document["report"])
        except (ValueError, KeyError) as broken:
            raise KailabError(f"{path} can't be graded again.", why=str(broken)) from None
        worst = max(worst, report.exit_code)
        documents.append({**to_document(report), "evidence_file": str(path), "points_before": before.points})
        if not as_json:
            show(report, console)
            for line in _changes(before, report):
                console.print(Text(line))
    if as_json:
        print(json.dumps(documents if len(documents) > 1 else documents[0], indent=2))
    return worst


def _changes(before: Report, after: Report) -> list[str]:
    was = {check.id: check for check in before.checks}
    changed = [f"  {check.id}: {was[check.id].outcome} -> {check.outcome}" for check in after.checks
               if check.id in was and was[check.id].outcome is not check.outcome]  # fmt: skip
    if not changed:
        return [f"Regraded: {number(after.points)} points, the same as when it was recorded."]
    return [f"Regraded: {number(before.points)} points when recorded, {number(after.points)} now.", *changed]


def read_evidence(path: Path) -> dict[str, Any]:
    """An evidence file. Raises KailabError for anything else."""
    try:
        if path.stat().st_size > LARGEST:
            raise KailabError(f"{path} is larger than any evidence file ({LARGEST >> 20} MiB).")
        document = json.loads(path.read_text())
        if not isinstance(document, dict) or "report" not in document or "lab" not in document:
            raise ValueError("it has no report")
    except OSError as failed:
        raise KailabError(f"{path} can't be read: {failed.strerror}.") from None
    except ValueError as broken:
        raise KailabError(f"{path} is not an evidence file.", why=str(broken),
                          mend="evidence lies in .kailab/evidence, one file for each check run") from None  # fmt: skip
    return document
