"""The report reads well in any terminal, can't be abused by what a cluster says, and keeps its JSON contract.

Golden files are written anew with KAILAB_REWRITE_GOLDEN=1.
"""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from checkers.report.document import from_document, to_document, validate
from checkers.report.terminal import CheckProgress, plain, show, show_error
from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from cluster.errors import KailabError

GOLDEN = Path(__file__).parent / "golden"

REPORT = Report(
    lab=6,
    slug="deployments",
    title="Deployments",
    namespace="kailab-06",
    checks=(
        CheckResult("shape", "deploy", "The Deployment asks for three replicas", Outcome.PASS, 2.0, 2.0, seconds=0.01),
        CheckResult(
            "ready", "deploy", "All replicas are available", Outcome.FAIL, 0.0, 1.5,
            expected="Deployment ai-api has 3 updated and available pods and no older ones",
            observed="2 available, 3 updated, 3 in all",
            evidence=(
                "pod ai-api-7c5ddbdf54-x2x5k, container api: CrashLoopBackOff: back-off 40s restarting container",
                "event BackOff: Back-off restarting failed container api in pod ai-api-7c5ddbdf54-x2x5k_kailab-06",
                "log of api: FileNotFoundError: [Errno 2] No such file or directory: '/models/digits.npz'",
            ),
            hint="not-ready", look_with="kubectl -n kailab-06 describe deployment ai-api", seconds=20.04,
        ),
        CheckResult(
            "answers", "serve", "The Service answers a prediction", Outcome.ERROR, 0.0, 1.0,
            observed="the prober pod did not answer: 503 Service Unavailable", evidence=("no endpoints available",),
            seconds=1.25,
        ),
        CheckResult(
            "rollout", "serve", "A rollout loses no request", Outcome.SKIPPED, 0.0, 3.0,
            observed="not tried: first mend “All replicas are available”",
        ),
    ),
    seconds=21.5,
    cluster=ClusterInfo("kailab", "v1.37.0", "0b1c"),
    task_titles={"deploy": "Deploy the model service", "serve": "Keep it serving"},
)  # fmt: skip


def failing(**fields: Any) -> Report:
    """A report with one failed check."""
    check = CheckResult("a", "t", "Title", Outcome.FAIL, 0.0, 1.0, **fields)
    return replace(REPORT, checks=(check,))


def printed(report: Report, width: int = 80, **options: Any) -> str:
    file = io.StringIO()
    show(report, Console(file=file, width=width, color_system=None, highlight=False), **options)
    return file.getvalue()


# in a terminal


@pytest.mark.parametrize("width", [80, 40])
def test_the_report_looks_as_it_should(width: int) -> None:
    golden = GOLDEN / f"report-{width}.txt"
    lines = printed(REPORT, width, hints_left={"deploy": 2}).splitlines()
    text = "".join(f"{line.rstrip()}\n" for line in lines)
    if os.environ.get("KAILAB_REWRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 40, 20])
def test_the_command_to_look_with_is_never_wrapped_and_nothing_else_is_too_wide(width: int) -> None:
    command = "kubectl -n kailab-06 describe deployment ai-api"
    lines = printed(REPORT, width).splitlines()
    assert command in [line.strip() for line in lines]
    assert [line for line in lines if len(line) > width and command not in line] == []


@pytest.mark.parametrize("width", [80, 40])
def test_the_points_stand_at_the_right_edge(width: int) -> None:
    lines = [line for line in printed(REPORT, width).splitlines() if re.search(r" [0-9.]+/[0-9.]+ *$", line)]
    assert [len(line.rstrip()) for line in lines] == [width] * 4


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x1b[?25lx", "x"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;never ends", ""),
        ("lone \x1b", "lone "),
        ("\x9b31mx", "31mx"),
        ("50%\r100%", "50%100%"),
        ("a\x08b\x00c\x7f", "abc"),
        ("\u202egnp.exe", "gnp.exe"),
        ("\u2066x\u2069\u200f", "x"),
        ("a\tb", "a    b"),
        ("two\nlines", "two\nlines"),
        ("Grüße ✓ 日本", "Grüße ✓ 日本"),
        ("x" * 5000, "x" * 399 + "…"),
    ],
)
def test_text_from_the_cluster_is_made_harmless(hostile: str, harmless: str) -> None:
    assert plain(hostile) == harmless


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("field", ["expected", "observed", "evidence", "look_with"])
def test_no_escape_sequence_reaches_the_terminal(field: str, width: int) -> None:
    hostile = "\x1bc\x1b[31m\x1b]0;title\x07\x9b2J\u202ea[bold]b[/bold] :warning: [/]\r"
    text = printed(failing(**{field: (hostile,) if field == "evidence" else hostile}), width)
    assert [
        character for character in text if unicodedata.category(character) in ("Cc", "Cf") and character != "\n"
    ] == []
    assert "a[bold]b[/bold]:warning:[/]" in "".join(text.split())  # and what looks like markup is only text


def test_errors_and_skipped_checks_are_made_harmless_too() -> None:
    for outcome in (Outcome.ERROR, Outcome.SKIPPED):
        check = replace(REPORT.checks[0], outcome=outcome, observed="\x1b[31mx", evidence=("\x1b[2Jy",))
        assert "\x1b" not in printed(replace(REPORT, checks=(check,)))


def test_much_evidence_is_cut_and_the_rest_is_counted() -> None:
    text = printed(failing(evidence=tuple(f"line {number}" for number in range(11))))
    assert "line 7" in text
    assert "line 8" not in text
    assert "and 3 more lines" in text


def ascii_console() -> tuple[Console, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    return Console(file=file, width=80, color_system=None, highlight=False), raw


def test_an_ascii_only_console_gets_ascii_marks() -> None:
    console, raw = ascii_console()
    show(replace(REPORT, checks=REPORT.checks[:1]), console)
    assert "  ok The Deployment asks for three replicas" in raw.getvalue().decode("ascii")


@pytest.mark.parametrize(
    ("check", "mark"), [(REPORT.checks[1], "  no "), (REPORT.checks[2], "  !! "), (REPORT.checks[3], "  -- ")]
)
def test_an_ascii_only_console_gets_every_report(check: CheckResult, mark: str) -> None:
    console, raw = ascii_console()
    show(replace(REPORT, checks=(check,)), console)
    assert f"{mark}{check.title}" in raw.getvalue().decode("ascii")


def test_what_the_cluster_says_in_unicode_does_not_break_an_ascii_only_console() -> None:
    console, raw = ascii_console()
    show(failing(observed="model 日本 ready → no"), console)
    assert "ready" in raw.getvalue().decode("ascii")


def test_full_marks_are_praised_and_lead_on() -> None:
    text = printed(replace(REPORT, checks=REPORT.checks[:1]))
    assert "2 of 2 points, 1 of 1 checks passed" in text
    assert "kailab solution 6" in text
    assert "hint" not in text


@pytest.mark.parametrize(
    ("left", "said"), [({"t": 3}, "kailab hint 6 (3 left for this task)"), ({}, "kailab hint 6\n")]
)
def test_a_failure_leads_to_its_hints(left: dict[str, int], said: str) -> None:
    assert said in printed(failing(), hints_left=left)


def test_an_error_says_that_it_costs_nothing_and_what_to_do() -> None:
    text = printed(replace(REPORT, checks=REPORT.checks[2:3]))
    assert "costs no point" in text
    assert "kailab status" in text


def test_an_error_of_ours_is_shown_without_a_traceback_and_without_escapes() -> None:
    file = io.StringIO()
    failed = KailabError("no \x1b[31mcluster", why="line 1\nline 2\x9b", mend="kailab up")
    show_error(failed, Console(file=file, width=80, color_system=None))
    assert [line.strip() for line in file.getvalue().splitlines()] == [
        "no cluster",
        "line 1",
        "line 2",
        "Next: kailab up",
    ]


def test_progress_is_silent_without_a_terminal() -> None:
    file = io.StringIO()
    with CheckProgress(Console(file=file, width=80), [("ready", "Ready")]) as progress:
        progress.started("ready")
        progress.finished(REPORT.checks[1])
    assert file.getvalue() == ""


def test_progress_tells_what_is_done_what_runs_and_what_it_waits_for() -> None:
    file = io.StringIO()
    console = Console(file=file, width=60, color_system=None)
    progress = CheckProgress(console, [("ready", "All replicas are available"), ("shape", "Shape")])
    progress.started("ready")
    progress.started("shape")
    progress.say("ready", "waiting: 2 \x1b[31mavailable")
    progress.say("gone", "late words of a check that has ended")
    progress.finished(REPORT.checks[0])
    console.print(progress)
    head, running = [line.strip() for line in file.getvalue().splitlines()]
    assert head == "1 of 2 checks ✓"
    assert "All replicas are available" in running
    assert "waiting: 2 available" in running
    assert "\x1b" not in running


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_progress_line_that_is_cut_breaks_no_terminal(encoding: str) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=file, width=40, force_terminal=True, color_system=None)
    with CheckProgress(console, [("ready", "All replicas are available")]) as progress:
        progress.started("ready")
        progress.say("ready", "waiting: two of three replicas are available, and the third is pending")
    assert "1 checks" in raw.getvalue().decode(encoding)


# as a document


def test_the_document_keeps_its_contract_and_comes_back_as_the_same_report() -> None:
    document = json.loads(json.dumps(to_document(REPORT)))
    validate(document)
    assert from_document(document) == REPORT
    assert document["checks"][1]["outcome"] == "fail"
    assert (document["points"], document["max_points"], document["exit_code"]) == (2.0, 7.5, 2)


def changed(place: str, value: Any) -> dict[str, Any]:
    """The document with one field of itself, or of its second check (check.FIELD), set to `value`."""
    document: dict[str, Any] = json.loads(json.dumps(to_document(REPORT)))
    first, _, field = place.partition(".")
    (document["checks"][1] if field else document)[field or first] = value
    return document


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("lab", 0),
        ("points", -1),
        ("max_points", 0),
        ("checks", []),
        ("exit_code", 3),
        ("cluster", {"name": "kailab"}),
        ("tasks", {"deploy": 1}),
        ("check.outcome", "passed"),
        ("check.points", 1.0),  # a failed check earns nothing
        ("check.title", ""),
        ("check.evidence", "one line"),
        ("check.surprise", "a new field"),
    ],
)
def test_a_document_that_breaks_the_contract_is_refused(place: str, value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(changed(place, value))


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        [],
        {},
        changed("checks", None),
        changed("checks", [None]),
        changed("cluster", {"name": "kailab"}),
        changed("check.outcome", "passed"),
        changed("check.surprise", "a new field"),
        changed("check.evidence", None),
    ],
)
def test_a_document_that_is_no_report_is_a_wrong_value(garbage: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, never another kind of error
        from_document(garbage)


@pytest.mark.parametrize(
    ("chosen", "code"),
    [((0,), 0), ((0, 1), 1), ((0, 3), 1), ((0, 2), 2), ((0, 1, 2), 2)],
)
def test_the_exit_status_tells_full_marks_from_less_and_from_no_verdict(chosen: tuple[int, ...], code: int) -> None:
    assert replace(REPORT, checks=tuple(REPORT.checks[index] for index in chosen)).exit_code == code
