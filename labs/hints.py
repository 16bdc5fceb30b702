"""Hints and solutions: one rung at a time, the first chosen by what the last failed check saw."""

from __future__ import annotations

from rich.console import Console
from rich.markdown import Markdown
from rich.syntax import Syntax
from rich.text import Text

from checkers.spec import TaskSpec
from cluster.errors import KailabError
from cluster.workspace import Workspace
from labs.catalog import LabFolder
from labs.desk import Desk
from labs.progress import LabProgress


def give_hint(workspace: Workspace, lab: LabFolder, task_id: str, console: Console) -> None:
    """Print the next hint of a task, by default of the first that isn't passed, and note that it was taken."""
    desk = Desk(workspace, lab)
    task = _task(lab, desk.entry, task_id)
    hint = desk.hint(task.id)
    console.print(Text(f"Lab {lab.number}, {task.title}", style="bold"))
    if hint is None:
        console.print(f"That was the last hint for this task. One solution: kailab solution {lab.number} --give-up")
        return
    console.print(Markdown(hint))
    left = desk.hints_left()[task.id]
    console.print(Text(f"{left} more for this task" if left else "the last one for this task", style="dim"))


def _task(lab: LabFolder, entry: LabProgress, task_id: str) -> TaskSpec:
    tasks = {task.id: task for task in lab.spec.tasks}
    if task_id and task_id not in tasks:
        raise KailabError(f"Lab {lab.number} has no task {task_id!r}.", why=f"Its tasks: {', '.join(tasks)}.")
    if not task_id and not entry.checked_at:
        raise KailabError("Hints answer to what a check has seen, and there was none yet.",
                          mend=f"kailab check {lab.number}, or kailab hint {lab.number} --task NAME")  # fmt: skip
    if not task_id and not entry.failing:
        raise KailabError(f"Nothing in lab {lab.number} needs a hint: the last check passed.",
                          mend=f"kailab solution {lab.number}")  # fmt: skip
    return tasks[task_id or entry.failing[0]]


def show_solution(workspace: Workspace, lab: LabFolder, give_up: bool, console: Console) -> None:
    """Print one right solution, once the lab was passed or the student gives up."""
    for name, text in Desk(workspace, lab).solution(give_up=give_up):
        console.print(Text(f"# {name}", style="bold"))
        if console.is_terminal:
            console.print(Syntax(text, "yaml", background_color="default"))
        else:
            console.print(text, soft_wrap=True, markup=False)
