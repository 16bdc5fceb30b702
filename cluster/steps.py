"""Bring-up as named, timed steps that can each be run again, with a display that tells what is happening."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cluster.errors import KailabError
from cluster.files import is_full, replace
from cluster.run import FREE_SPACE, CommandFailed
from cluster.workspace import Workspace

Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """`action(log, say)` does the work and must be safe to repeat; `usual` is seconds when there is work to do.

    What it returns is a short note for the display ("found Docker 26", "built"), or an empty string.
    """

    name: str
    title: str
    usual: int
    action: Callable[[Path, Say], str]


class StepFailed(KailabError):
    """A step's failure, with the step's name and log file."""


def run_steps(steps: Sequence[Step], workspace: Workspace, console: Console) -> None:
    """Run the steps in order; the first failure stops and is raised as StepFailed with what to do next.

    Ctrl-C passes through: every step can be run again. Each step's seconds are kept, so that the next display
    shows what is usual on this machine.
    """
    usual = _Durations(workspace.state / "durations.json")
    for number, step in enumerate(steps, 1):
        log = workspace.logs / f"{step.name}.log"
        started = time.monotonic()
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.unlink(missing_ok=True)
            with _shown(console, f"[{number}/{len(steps)}] {step.title}", usual.of(step)) as display:
                note = step.action(log, display.say)
                display.note = note
        except KailabError as failed:
            mend = failed.mend or f"read {log}, then `kailab up` again: finished steps are not repeated"
            if isinstance(failed, CommandFailed) and failed.full:
                mend += "; then `kailab up` again: what is finished stays"
            raise StepFailed(f"{step.title}: {failed.what}", why=failed.why, mend=mend) from failed
        except OSError as failed:
            mend = FREE_SPACE if is_full(failed) else "mend that"
            where = f" ({failed.filename})" if failed.filename else ""
            raise StepFailed(
                f"{step.title}: {failed.strerror or failed}{where}",
                mend=f"{mend}; then `kailab up` again (log: {log})",
            ) from failed
        usual.keep(step, time.monotonic() - started)


class _Durations:
    """How long each step took here, when it had something to do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._seconds: dict[str, float] = json.loads(path.read_text())
        except (OSError, ValueError):
            self._seconds = {}

    def of(self, step: Step) -> float:
        return self._seconds.get(step.name, step.usual)

    def keep(self, step: Step, seconds: float) -> None:
        if seconds < 1:  # nothing to do: no news about how long the work takes
            return
        self._seconds[step.name] = round(seconds, 1)
        with contextlib.suppress(OSError):  # what the next display shows is not worth a step that has gone well
            replace(self._path, json.dumps(self._seconds, indent=1))


class _Display:
    def __init__(self, title: str, usual: float) -> None:
        self._title, self._usual = title, usual
        self._started = time.monotonic()
        self._spinner = Spinner("dots")
        self._doing = ""
        self.note = ""

    def say(self, text: str) -> None:
        self._doing = text

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def __rich__(self) -> Table:
        row = Table.grid(padding=(0, 1))
        row.add_column()
        row.add_column(overflow="fold")
        times = f"{self.seconds:.0f} s, usually {self._usual:.0f} s" if self.seconds > 1 else ""
        row.add_row(self._spinner, Text.assemble(self._title, (f"  {times}", "dim"), (f"  {self._doing}", "cyan")))
        return row

    def line(self, ok: bool) -> Text:
        mark = ("✓ ", "green") if ok else ("✗ ", "red")
        after = f"{self.seconds:.1f} s" if self.seconds >= 0.05 else ""
        return Text.assemble(mark, self._title, (f"  {self.note}" if self.note else "", "cyan"), (f"  {after}", "dim"))


class _PlainDisplay(_Display):
    """Without a terminal each change is a line of its own."""

    def __init__(self, title: str, usual: float, console: Console) -> None:
        super().__init__(title, usual)
        self._console = console
        console.print(f"{title} ...")

    def say(self, text: str) -> None:
        if text == self._doing:
            return
        super().say(text)
        self._console.print(f"    {text}  ({self.seconds:.0f} s)")


@contextmanager
def _shown(console: Console, title: str, usual: float) -> Iterator[_Display]:
    display = _Display(title, usual) if console.is_terminal else _PlainDisplay(title, usual, console)
    ok = False
    try:
        if console.is_terminal:
            with Live(display, console=console, refresh_per_second=8, transient=True):
                yield display
        else:
            yield display
        ok = True
    finally:
        console.print(display.line(ok))
