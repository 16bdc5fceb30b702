"""Reports as HTML: a page of feedback for a student, and the same parts for the notebook.

Everything that came from the cluster or a student is text here, never markup: the templates escape all they print.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from checkers.report.terminal import EVIDENCE_LINES, MARKS, WORDS, number, plain
from checkers.results import CheckResult, Outcome, Report

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update(number=number, plain=plain)
    made.globals.update(
        marks={outcome: mark for outcome, (mark, _) in MARKS.items()},
        words={**WORDS, Outcome.PASS: "passed"}, evidence_lines=EVIDENCE_LINES,
    )  # fmt: skip
    return made


def check_style() -> str:
    """The rules for a check's part, wherever it is shown; they name only classes that begin with `kailab-`."""
    return (TEMPLATES / "check.css").read_text()


def page(report: Report | None, student: str, problems: Sequence[str], why: str = "") -> str:
    """A page that needs nothing else, to send to a student. `problems` are of the files, `why` says that there
    is no verdict."""
    style = (TEMPLATES / "feedback.css").read_text() + check_style()
    template = _environment().get_template("feedback.html")
    text: str = template.render(report=report, student=student, problems=problems, why=why, style=style)
    return text


def part(check: CheckResult) -> str:
    """One check with its result, to show inside of another page that has `check_style`."""
    text: str = _environment().get_template("check.html").render(check=check)
    return text


def open_part(title: str, points: float, doing: str | None = None) -> str:
    """The same for a check that has no result yet: `doing` says what it is at, None that it does not run."""
    text: str = _environment().get_template("open.html").render(title=title, points=points, doing=doing)
    return text


def parts(report: Report, task: str = "") -> str:
    """The checks of a report, or of one of its tasks, to show inside of another page."""
    wanted = (check for check in report.checks if task in ("", check.task))
    return f"<style>{check_style()}</style>" + "".join(map(part, wanted))
