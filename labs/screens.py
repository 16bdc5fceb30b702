"""What the lesser commands print: lists, states, what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from checkers.report.terminal import number, plain

if TYPE_CHECKING:
    from cluster.bringup import Status
    from cluster.doctor import Finding
    from labs.catalog import LabFolder
    from labs.progress import Progress


def show_labs(labs: Sequence[LabFolder], progress: Progress, console: Console) -> None:
    """Every lab with points and where the student left off."""
    if progress.set_aside:
        console.print(f"Your progress file could not be read; it is kept as {progress.set_aside}.")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("lab", "title", "points", "minutes", ""):
        table.add_column(column, justify="right" if column in ("lab", "points", "minutes") else "left", overflow="fold")
    for lab in labs:
        entry = progress.lab(lab.number)
        full = sum(check.points for check in lab.spec.checks)
        state = "done" if entry.passed else "started" if entry.started else ""
        if lab.number == progress.current and not entry.passed:
            titles = {task.id: task.title for task in lab.spec.tasks}
            left = next((titles[task] for task in entry.failing if task in titles), "")
            state = "you are here" + (f": {left}" if left else "")
        table.add_row(str(lab.number), lab.title, f"{number(entry.best)}/{number(full)}", str(lab.file.minutes), state)
    console.print(table)
    console.print(Text("Begin or check one: make lab-N", style="dim"))


def show_started(lab: LabFolder, folder: Path, news: bool, console: Console) -> None:
    """Where to read, where to work, how to check."""
    verb = "Started" if news else "Already started:"
    console.print(Text(f"{verb} lab {lab.number}, {lab.title}", style="bold"))
    console.print(Text(f"  read    {folder / 'README.md'}"), soft_wrap=True)
    console.print(Text(f"  work    in {folder}, namespace {lab.namespace}"), soft_wrap=True)
    console.print(Text('  shell   eval "$(kailab env)"   then kubectl talks to this cluster'), soft_wrap=True)
    console.print(Text(f"  check   kailab check {lab.number}   (or make lab-{lab.number})"), soft_wrap=True)


def show_status(found: Status, console: Console) -> None:
    """Engine, nodes, what is not ready."""
    console.print(f"engine    {found.engine or 'none answers'}")
    console.print(f"cluster   {found.cluster}" + (f", Kubernetes {found.version}" if found.version else ""))
    for state in found.nodes:
        console.print(f"node      {state.node.name:<14} {state.state}")
    for item in found.waiting:
        console.print(Text(f"waiting   {item}", style="yellow"))
    if found.is_ready:
        console.print(Text("everything is ready", style="green"))
    else:
        console.print("Next: kailab up   (starts or repairs it)")


def show_findings(findings: Sequence[Finding], console: Console) -> None:
    """`kailab doctor`: one line each, and the command that mends it."""
    for finding in findings:
        mark, style = ("ok  ", "green") if finding.ok else ("fix ", "bold red")
        console.print(Text.assemble((mark, style), f"{finding.what}: {finding.found}"))
        if finding.mend:
            console.print(Text(f"      {finding.mend}", style="cyan"), soft_wrap=True)


def show_notes(notes: Sequence[str], console: Console) -> None:
    """What was noticed in the student's own files."""
    console.print(Text("In your folder:", style="dim"))
    for note in notes:
        console.print(Padding(Text(plain(note)), (0, 0, 0, 2)))
