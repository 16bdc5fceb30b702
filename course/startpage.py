"""The start page: table of contents with the student's progress. It is made anew at every `make jupyter`, so that it
shows the present points before any cell is run."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkers.report.terminal import number
from cluster.errors import KailabError
from cluster.files import replace
from cluster.workspace import Workspace
from course.chapters import HERE, Chapter, cells_of, chapters
from labs.catalog import LabFolder, all_labs
from labs.progress import LabProgress, Progress

TEXT = HERE / "00_start.md"
NAME = "00_start.ipynb"
PROGRESS_CELL = "start-progress"
_LEFT = 'style="text-align: left"'  # notebooks have numbers in mind


def table(workspace: Workspace) -> str:
    """Chapters and labs as an HTML table: link, minutes, points so far, and where the student left off."""
    noted = Progress(workspace)
    labs, texts = all_labs(), {chapter.number: chapter for chapter in chapters()}
    rows = "".join(_row(lab, texts.get(lab.number), noted) for lab in labs)
    got = sum(noted.lab(lab.number).best for lab in labs)
    full = sum(_full(lab) for lab in labs)
    minutes = sum(texts[lab.number].minutes.total if lab.number in texts else lab.file.minutes for lab in labs)
    head = "".join(
        f"<th {_LEFT}>{title}</th>" for title in ("", "chapter and lab", "about", "minutes", "points", "so far")
    )
    sums = ("", "<b>all of them</b>", "", str(minutes), f"{number(got)} of {number(full)}", "")
    foot = "".join(f"<td {_LEFT}>{cell}</td>" for cell in sums)
    return (
        f"<p><b>{html.escape(_left_off(labs, noted))}</b></p><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody><tfoot><tr>{foot}</tr></tfoot></table>"
    )


def _row(lab: LabFolder, chapter: Chapter | None, noted: Progress) -> str:
    entry = noted.lab(lab.number)
    title = html.escape(lab.title)
    only = f"{title} (lab only: <code>make lab-{lab.number}</code>)"
    link = f'<a href="{chapter.name}">{title}</a>' if chapter else only
    cells = (html.escape(lab.file.summary), _minutes(lab, chapter), f"{number(entry.best)} of {number(_full(lab))}",
             html.escape(_state(lab, entry)))  # fmt: skip
    rest = "".join(f"<td {_LEFT}>{cell}</td>" for cell in cells)
    return f"<tr><td {_LEFT}>{lab.number}</td><th {_LEFT}>{link}</th>{rest}</tr>"


def _minutes(lab: LabFolder, chapter: Chapter | None) -> str:
    if chapter is None:
        return f"{lab.file.minutes} (estimated)"
    needed = chapter.minutes
    return f"<b>{needed.total}</b>: {html.escape(str(needed))}"


def _full(lab: LabFolder) -> float:
    return sum(check.points for check in lab.spec.checks)


def _state(lab: LabFolder, entry: LabProgress) -> str:
    if entry.passed:
        return "done"
    if not entry.started and not entry.checked_at:
        return ""
    task = _next_task(lab, entry)
    return f"begun; next: {task}" if task else "begun"


def _next_task(lab: LabFolder, entry: LabProgress) -> str:
    """The first task whose last check failed."""
    return next((task.title for task in lab.spec.tasks if task.id in entry.failing), "")


def _left_off(labs: Sequence[LabFolder], noted: Progress) -> str:
    """Where to go on, in one sentence."""
    current = next((lab for lab in labs if lab.number == noted.current), None)
    if current is not None and not noted.lab(current.number).passed:
        task = _next_task(current, noted.lab(current.number))
        return f"You are in chapter {current.number}, {current.title}" + (f": {task}" if task else "")
    rest = [lab for lab in labs if not noted.lab(lab.number).passed]
    if not rest:
        return "All labs are done. Well done!"
    following = next((lab for lab in rest if lab.number > noted.current), rest[0])
    return f"{'Go on' if noted.current else 'Begin'} with chapter {following.number}, {following.title}"


def notebook(workspace: Workspace) -> Any:
    """The page as a notebook, its table already there. Raises KailabError for a cell without an id."""
    from nbformat import v4

    made = cells_of(TEXT.read_text(), TEXT.name, "start")
    cell = next((cell for cell in made.cells if cell.id == PROGRESS_CELL), None)
    if cell is None:
        raise KailabError(f"{TEXT.name}: there is no cell {PROGRESS_CELL}")
    cell.outputs = [v4.new_output("display_data", {"text/html": table(workspace), "text/plain": "your progress"})]
    return made


def build(workspace: Workspace) -> list[tuple[Path, str]]:
    """The page in the student's folder, and what was done. One that the student has written in is never touched."""
    import nbformat

    path = workspace.work / "chapters" / NAME
    last = workspace.state / "chapters" / NAME
    new = notebook(workspace)
    is_new = not path.exists()
    if not is_new and not _is_ours(path, last, new):
        return [(path, "kept")]
    for place in (path, last):
        place.parent.mkdir(parents=True, exist_ok=True)
        replace(place, nbformat.writes(new))
    return [(path, "made" if is_new else "renewed")]


def _is_ours(path: Path, last: Path, new: Any) -> bool:
    """Whether the page is as it was made last time, or as it would be made now."""
    found = _sources(path)
    return found is not None and found in (_sources(last), [cell.source for cell in new.cells])


def _sources(path: Path) -> list[str] | None:
    """What a reader can write in: outputs don't count, every run changes those."""
    import nbformat

    try:
        return [str(cell.source) for cell in nbformat.read(path, as_version=4).cells]
    except (OSError, ValueError, nbformat.reader.NotJSONError, nbformat.validator.NotebookValidationError):
        return None
