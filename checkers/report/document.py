"""The JSON report: a contract with other programs, described by checkers/schema.json."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from checkers.results import CheckResult, ClusterInfo, Outcome, Report

SCHEMA = Path(__file__).parent.parent / "schema.json"


def to_document(report: Report) -> dict[str, Any]:
    """The report as plain JSON types."""
    return {
        "lab": report.lab, "slug": report.slug, "title": report.title, "namespace": report.namespace,
        "points": report.points, "max_points": report.max_points,
        "checks": [{**asdict(check), "outcome": check.outcome.value, "evidence": list(check.evidence)}
                   for check in report.checks],
        "tasks": report.task_titles, "seconds": report.seconds, "cluster": asdict(report.cluster),
        "exit_code": report.exit_code,
    }  # fmt: skip


def from_document(document: dict[str, Any]) -> Report:
    """The other way round. Raises ValueError for a document that isn't one."""
    try:
        checks = tuple(
            CheckResult(**{**check, "outcome": Outcome(check["outcome"]), "evidence": tuple(check["evidence"])})
            for check in document["checks"]
        )
        return Report(
            lab=document["lab"], slug=document["slug"], title=document["title"], namespace=document["namespace"],
            checks=checks, seconds=document["seconds"], cluster=ClusterInfo(**document["cluster"]),
            task_titles=document["tasks"],
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as broken:
        raise ValueError(f"not a kailab report: {broken!r}") from None


def validate(document: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError when the document breaks the contract."""
    import jsonschema  # costs too much start-up time to import for every check

    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
