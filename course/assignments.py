"""`make assignments`: the chapters as nbgrader assignments, in a course folder that belongs to the instructor.

A source notebook holds the lab's solution where students write, and one check cell for each task, worth its points.
Released, the solution is the starter's draft again. Autograded, the check cells get their points from the cluster.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbformat import v4
from nbgrader.api import Gradebook, MissingEntry  # type: ignore[import-untyped]
from nbgrader.converters import Autograde, GenerateAssignment  # type: ignore[import-untyped]
from nbgrader.coursedir import CourseDirectory  # type: ignore[import-untyped]
from nbgrader.nbgraderformat import SCHEMA_VERSION  # type: ignore[import-untyped]
from nbgrader.preprocessors import CheckCellMetadata, ClearSolutions, Execute  # type: ignore[import-untyped]
from nbgrader.utils import capture_log, is_solution  # type: ignore[import-untyped]
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from checkers.report.terminal import console, show_error
from cluster.errors import KailabError
from cluster.workspace import Workspace
from course.autograde import GradeOnCluster, check_cells, check_id, lab_of
from course.chapters import Chapter, chapters
from course.laying import lay
from course.submitted import RestoreCells

CONFIG = '''\
"""nbgrader in this folder: check cells get their points from the course cluster, and no student's code is run here.

Made by `make assignments`. Settings of your own go at the end; from then on this file stays as it is.
"""

from pathlib import Path

try:
    from course.assignments import configure

    c = get_config()  # noqa: F821 - nbgrader defines it
    configure(c, Path(__file__).parent)
except Exception as broken:
    # nbgrader would go on without, and run what students wrote.
    raise SystemExit(f"nbgrader_config.py: {broken!r}. Use the nbgrader in kailab's own .venv/bin.") from broken
'''
_STUDENTS = re.compile(r"%%manifest[ \t]+\S")  # a cell for the lab's work: it names the file to keep
_COURSES = re.compile(r"%load_ext course\b|(start|lab|quiz)\(")
_ABOUT = """\
## Your points

Each cell below checks one task and ends with its points. Run them as often as you like: they check what is on your own
cluster now. What counts is what you hand in. The manifests in this notebook are applied to a fresh cluster namespace
and checked there, by the same checks.
"""
_BEGIN, _END = "### BEGIN SOLUTION", "### END SOLUTION"


def source(chapter: Chapter) -> Any:
    """The instructor's version of a chapter: solutions, check cells with points, the course's own cells locked.

    Raises KailabError when the chapter has no panel, after which the check cells stand.
    """
    made = chapter.notebook(solved=True)
    cells = []
    for cell in made.cells:
        if cell.cell_type == "markdown" or _COURSES.match(cell.source):
            _mark(cell, locked=True)
        elif _STUDENTS.match(cell.source):
            first, _, rest = cell.source.partition("\n")
            cell.source = f"{first}\n{_BEGIN}\n{rest.rstrip()}\n{_END}"
            _mark(cell, solution=True)
        cells.append(cell)
        if cell.cell_type == "code" and cell.source.startswith(f"lab({chapter.number})"):
            cells += _checks(chapter)
    made.cells = cells
    if len(check_cells(cells, chapter.lab)) != len(chapter.lab.spec.tasks):
        raise KailabError(f"{chapter.path.name}: no cell is lab({chapter.number}), so its checks have no place.")
    return made


def _checks(chapter: Chapter) -> list[Any]:
    about = v4.new_markdown_cell(_ABOUT, id=f"ch{chapter.number:02d}-points")
    _mark(about, locked=True)
    cells = [about]
    for task in chapter.lab.spec.tasks:
        name = check_id(chapter.lab, task.id)
        cell = v4.new_code_cell(f'check({chapter.number}, "{task.id}")', id=name)
        _mark(cell, grade=True, locked=True, points=float(sum(check.points for check in task.checks)))
        cells.append(cell)
    return cells


def _mark(cell: Any, **what: Any) -> None:
    marks = {"grade": False, "solution": False, "locked": False, "task": False, **what}
    cell.metadata["nbgrader"] = {"grade_id": cell.id, "schema_version": SCHEMA_VERSION, **marks}


class ReleaseCells(ClearSolutions):  # type: ignore[misc]
    """In nbgrader's generate_assignment, in place of what clears solutions: the lab's draft is there instead."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Raises KailabError for a cell that could never be autograded here."""
        lab = lab_of(resources["nbgrader"]["assignment"])
        check_cells(nb.cells, lab)
        made = next((chapter for chapter in chapters() if chapter.number == lab.number), None)
        self._drafts = {cell.id: cell.source for cell in made.notebook().cells} if made else {}
        released: tuple[Any, Any] = super().preprocess(nb, resources)
        return released

    def preprocess_cell(self, cell: Any, resources: Any, cell_index: int) -> tuple[Any, Any]:
        draft = self._drafts.get(cell.metadata.nbgrader["grade_id"]) if is_solution(cell) else None
        if draft is not None:
            cell.source = draft
            return cell, resources
        cleared: tuple[Any, Any] = super().preprocess_cell(cell, resources, cell_index)
        return cleared


def configure(config: Any, folder: Path) -> None:
    """What nbgrader_config.py sets: the folder, and our steps in the place of nbgrader's."""
    # nbgrader finds its database tool, alembic, by the PATH.
    programs = os.environ.get("PATH", "").split(os.pathsep)
    if (own := str(Path(sys.executable).parent)) not in programs:
        os.environ["PATH"] = os.pathsep.join([own, *programs])
    config.CourseDirectory.root = str(folder.resolve())
    config.GenerateAssignment.preprocessors = _with(GenerateAssignment.preprocessors, ClearSolutions, ReleaseCells)
    config.Autograde.sanitize_preprocessors = [RestoreCells, CheckCellMetadata]
    config.Autograde.autograde_preprocessors = _with(Autograde.autograde_preprocessors, Execute, GradeOnCluster)


def _with(steps: Any, old: type, new: type) -> list[type]:
    """A list of nbgrader's own with one of its steps changed for ours. Raises KailabError when it isn't there."""
    known: list[type] = steps.default()
    if old not in known:
        raise KailabError(f"This nbgrader has no step {old.__name__}.", mend="make distclean, then make assignments")
    return [new if step is old else step for step in known]


def make(workspace: Workspace) -> list[tuple[Path, str]]:
    """Lay out the course folder; every file, and what was done: made, kept, renewed, or laid aside.

    What the instructor has changed is never touched: the newer text then lies in new/, outside of what nbgrader reads.
    """
    home, last = workspace.work / "nbgrader", workspace.state / "assignments"
    if not home.exists():
        home.mkdir(parents=True, mode=0o700)  # solutions, points, and the folders that nbgrader collects are in it
    wanted = {"nbgrader_config.py": CONFIG}
    for chapter in chapters():
        wanted[f"source/{chapter.lab.namespace}/{chapter.name}"] = nbformat.writes(source(chapter)) + "\n"
    done = [lay(home / name, last / name, text, home / "new" / name) for name, text in wanted.items()]
    return [*done, *_release(home, {path.parent.name: what for path, what in done if path.suffix == ".ipynb"})]


def _release(home: Path, sources: dict[str, str]) -> list[tuple[Path, str]]:
    """The students' versions, by nbgrader itself: where there is none, or a new source that nobody has answered yet."""
    config = PyFileConfigLoader("nbgrader_config.py", str(home)).load_config()
    done = []
    for assignment, what in sources.items():
        there = (home / "release" / assignment).exists()
        answered = there and _is_answered(config, assignment)
        if not there or (what in ("made", "renewed") and not answered):
            _generate(config, assignment)
            done.append((home / "release" / assignment, "renewed" if there else "made"))
        elif what == "renewed":
            done.append((home / "release" / assignment, "kept, since there are submissions for it"))
    return done


def _is_answered(config: Config, assignment: str) -> bool:
    """Whether work for it was collected; the gradebook knows only of what was graded."""
    directory = CourseDirectory(config=config)
    if any(Path(directory.root, directory.submitted_directory).glob(f"*/{assignment}")):
        return True
    with Gradebook(directory.db_url) as gradebook:
        try:
            return bool(gradebook.find_assignment(assignment).submissions)
        except MissingEntry:
            return False


def _generate(config: Config, assignment: str) -> None:
    directory = CourseDirectory(config=config, assignment_id=assignment)
    converter = GenerateAssignment(coursedir=directory, config=config, force=True)
    converter.log.setLevel(logging.WARNING)
    ended = capture_log(converter)
    if not ended["success"]:
        raise KailabError(
            f"nbgrader could not generate {assignment}.", why=ended.get("log", ended["error"]),
            mend=f"in {directory.root}: nbgrader generate_assignment --force {assignment}",
        )  # fmt: skip


def main() -> None:
    """Exit status: 2 when something stood in the way."""
    workspace, out = Workspace.here(), console()
    try:
        done = make(workspace)
    except KailabError as failed:
        show_error(failed, console(stderr=True))
        sys.exit(2)
    for path, what in done:
        out.print(f"{what:<8} {path}", soft_wrap=True)
    out.print("Hand out what is in release/, collect what comes back in submitted/STUDENT/ASSIGNMENT/. Then:")
    out.print(f"  cd {workspace.work / 'nbgrader'}", soft_wrap=True)
    out.print(f'  eval "$({Path(sys.executable).parent / "kailab"} env)"', soft_wrap=True)
    out.print("  nbgrader autograde ASSIGNMENT && nbgrader generate_feedback ASSIGNMENT", soft_wrap=True)


if __name__ == "__main__":
    main()
