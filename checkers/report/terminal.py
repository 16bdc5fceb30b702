"""The report as a student reads it in a terminal, a narrow window, a log file or without colour."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from checkers.results import CheckResult, Outcome, Report
from cluster.errors import KailabError

EVIDENCE_LINES = 8
LONGEST_LINE = 400
MARKS = {
    Outcome.PASS: ("✓", "ok"),
    Outcome.FAIL: ("✗", "no"),
    Outcome.ERROR: ("!", "!!"),
    Outcome.SKIPPED: ("-", "--"),
}
_STYLES = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.ERROR: "yellow", Outcome.SKIPPED: "dim"}
WORDS = {Outcome.PASS: "", Outcome.FAIL: "not yet", Outcome.ERROR: "could not tell", Outcome.SKIPPED: "not tried"}
# Everything but printable text: cluster logs may hold colours, cursor jumps and worse.
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Text from the cluster made harmless for a terminal, and cut to a sensible length."""
    clean = _CONTROLS.sub("", _ESCAPES.sub("", text)).replace("\t", "    ")
    return clean if len(clean) <= LONGEST_LINE else clean[: LONGEST_LINE - 1] + "…"


def number(points: float) -> str:
    return f"{points:g}"


def show(report: Report, console: Console, *, hints_left: Mapping[str, int] | None = None) -> None:
    """Print a report: every task, every check, and for each failure what to look at next."""
    forgive(console)
    console.print()
    console.print(
        Text.assemble(
            (f"Lab {report.lab}: {report.title}", "bold"),
            (f"   namespace {report.namespace}, cluster {report.cluster.name}", "dim"),
        )
    )
    tasks = dict.fromkeys(check.task for check in report.checks)
    for count, task in enumerate(tasks, 1):
        checks = [check for check in report.checks if check.task == task]
        console.print()
        console.print(Text(f"{count}. {report.task_titles.get(task, task)}", style="bold"))
        for check in checks:
            _show_check(check, console)
    console.print()
    _show_end(report, console, hints_left or {})


def _show_check(check: CheckResult, console: Console) -> None:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1, overflow="fold")
    row.add_column(justify="right", no_wrap=True)
    slow = f"{check.seconds:.1f} s  " if check.seconds >= 1 else ""
    points = Text.assemble((slow, "dim"), f"{number(check.points)}/{number(check.max_points)}")
    row.add_row(line(check, console), points)
    console.print(Padding(row, (0, 0, 0, 2), expand=True))
    for part in details(check, console):
        console.print(part, soft_wrap=isinstance(part, Text))


def line(check: CheckResult, console: Console) -> Text:
    """One check in one line: mark, title, outcome in words unless it passed."""
    style = _STYLES[check.outcome]
    words = f"  ({WORDS[check.outcome]})" if WORDS[check.outcome] else ""
    title = (check.title + words, "" if check.outcome is Outcome.PASS else style)
    return Text.assemble((_mark(check.outcome, console), style), " ", title)


def details(check: CheckResult, console: Console) -> Iterator[RenderableType]:
    """What to know about a check that didn't pass: expected, observed, evidence, what to look with."""
    if check.outcome is Outcome.FAIL:
        yield from _block(console, [("expected", check.expected), ("observed", check.observed)], check.evidence)
        if check.look_with:
            yield _labelled(console, "look with", "")
            # On a line of its own, never wrapped or cut: it is there to be copied.
            yield Text("      " + plain(check.look_with), style="cyan")
    elif check.outcome is Outcome.ERROR:
        lines = [("why", check.observed), ("", "Not your fault, and it costs no point.")]
        yield from _block(console, lines, check.evidence)
    elif check.outcome is Outcome.SKIPPED and check.observed:
        yield from _block(console, [("", check.observed)], ())


def _block(console: Console, lines: Sequence[tuple[str, str]], evidence: Sequence[str]) -> Iterator[RenderableType]:
    for label, text in lines:
        if text:
            yield _labelled(console, label, text)
    for count, text in enumerate(evidence[:EVIDENCE_LINES]):
        yield _labelled(console, "evidence" if count == 0 else "", text)
    if len(evidence) > EVIDENCE_LINES:
        yield _labelled(console, "", f"… and {len(evidence) - EVIDENCE_LINES} more lines")


def _labelled(console: Console, label: str, text: str) -> RenderableType:
    if console.width < 60:
        body: RenderableType = Text.assemble((f"{label}: " if label else "", "dim"), plain(text))
    else:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=9)
        grid.add_column(overflow="fold")
        grid.add_row(Text(label, style="dim"), Text(plain(text)))
        body = grid
    return Padding(body, (0, 0, 0, 4), expand=False)


def _mark(outcome: Outcome, console: Console) -> str:
    return MARKS[outcome][0 if _can_encode(console, "✓") else 1]


def console(*, stderr: bool = False) -> Console:
    """Where commands write: nothing is highlighted of itself, and no terminal's encoding is too poor for it."""
    made = Console(stderr=stderr, highlight=False)
    forgive(made)
    return made


def forgive(console: Console) -> None:
    """Where a terminal has only ASCII, a question mark stands for the rest."""
    if isinstance(console.file, io.TextIOWrapper):
        console.file.reconfigure(errors="replace")


def _can_encode(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _show_end(report: Report, console: Console, hints_left: Mapping[str, int]) -> None:
    passed = sum(check.outcome is Outcome.PASS for check in report.checks)
    full = report.points == report.max_points
    style = "bold green" if full else "bold"
    console.print(
        Text(
            f"{number(report.points)} of {number(report.max_points)} points, "
            f"{passed} of {len(report.checks)} checks passed, {report.seconds:.1f} s",
            style=style,
        )
    )
    for line in _next_steps(report, hints_left):
        console.print(Text(line))


def _next_steps(report: Report, hints_left: Mapping[str, int]) -> Iterator[str]:
    lab = report.lab
    if report.errors:
        yield "Some checks could not be judged. Run `kailab status`, then check again; your work is as it was."
    if report.points == report.max_points:
        yield f"Well done. Compare with one solution: kailab solution {lab}. Clean up: kailab finish {lab}."
        return
    failed = next((check for check in report.checks if check.outcome is Outcome.FAIL), None)
    if failed is not None:
        left = hints_left.get(failed.task, 0)
        more = f" ({left} left for this task)" if left else ""
        yield f"Start with “{failed.title}”. Stuck? kailab hint {lab}{more}"


def show_error(failed: KailabError, console: Console) -> None:
    """What happened, why, and the command that mends it."""
    forgive(console)
    console.print(Text(plain(failed.what), style="bold red"))
    for line in failed.why.splitlines()[:20]:
        console.print(Padding(Text(plain(line), style="dim"), (0, 0, 0, 2)))
    if failed.mend:
        console.print(Text("Next: ", style="bold") + Text(plain(failed.mend)), soft_wrap=True)


class CheckProgress:
    """Progress of a running check: what is done, what runs, what it waits for. Thread-safe.

    Where there is no terminal it stays silent: the report follows within a minute.
    """

    def __init__(self, console: Console, titles: Sequence[tuple[str, str]]) -> None:
        forgive(console)
        self._console, self._titles = console, dict(titles)
        self._lock = threading.Lock()
        self._running: dict[str, tuple[float, str]] = {}
        self._done: list[CheckResult] = []
        self._live = Live(self, console=console, refresh_per_second=8, transient=True)
        self._spinner = Spinner("dots" if _can_encode(console, "⠋") else "line")

    def __enter__(self) -> CheckProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def started(self, check_id: str) -> None:
        with self._lock:
            self._running[check_id] = (time.monotonic(), "")

    def say(self, check_id: str, text: str) -> None:
        with self._lock:
            if check_id in self._running:
                self._running[check_id] = (self._running[check_id][0], text)

    def finished(self, result: CheckResult) -> None:
        with self._lock:
            self._running.pop(result.id, None)
            self._done.append(result)

    def __rich__(self) -> RenderableType:
        with self._lock:
            done, running = list(self._done), dict(self._running)
        marks = Text.assemble(*((_mark(result.outcome, self._console), _STYLES[result.outcome]) for result in done))
        head = Text.assemble(f"{len(done)} of {len(self._titles)} checks ", marks)
        rows: list[RenderableType] = [head]
        for check_id, (since, text) in list(running.items())[:6]:
            line = Text.assemble(f" {self._titles.get(check_id, check_id)}",
                                 (f"  {time.monotonic() - since:.0f} s", "dim"),
                                 (f"  {plain(text)}" if text else "", "cyan"))  # fmt: skip
            line.truncate(max(self._console.width - 4, 10), overflow="ellipsis")
            row = Table.grid()
            row.add_row(self._spinner, line)
            rows.append(row)
        return Group(*rows)
