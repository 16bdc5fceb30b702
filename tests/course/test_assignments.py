"""Chapters as nbgrader assignments: what is in them, what students get, and that an instructor's changes stay."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateAssignment

import course
import course.assignments as assignments
from cluster.errors import KailabError
from cluster.workspace import Workspace
from course.chapters import Chapter, chapters
from tests.course.conftest import CHAPTER, config, marked, nbgrader, released

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's own, about its database
ALL = pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.path.stem)


# The notebooks


@ALL
def test_there_is_a_check_cell_for_each_task_worth_its_points(chapter: Chapter) -> None:
    made = assignments.source(chapter)
    nbformat.validate(made)
    points = {cell.source: cell.metadata.nbgrader.points for cell in made.cells if marked(cell, "grade")}
    assert points == {
        f'check({chapter.number}, "{task.id}")': sum(check.points for check in task.checks)
        for task in chapter.lab.spec.tasks
    }
    ids = [cell.id for cell in made.cells]
    assert [name for name in ids if "-check-" in name] == [
        f"ch{chapter.number:02d}-check-{task.id}" for task in chapter.lab.spec.tasks
    ]
    panel = next(count for count, cell in enumerate(made.cells) if cell.source == f"lab({chapter.number})")
    assert marked(made.cells[panel + 2], "grade")


@ALL
def test_only_where_students_write_is_a_solution_and_text_is_locked(chapter: Chapter) -> None:
    for cell in assignments.source(chapter).cells:
        writes = cell.source.startswith("%%manifest ") and cell.source.split("\n")[0].endswith(".yaml")
        assert marked(cell, "solution") == writes
        assert ("### BEGIN SOLUTION" in cell.source) == writes
        if cell.cell_type == "markdown":
            assert marked(cell, "locked")


# The course folder


@pytest.fixture
def only_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignments, "chapters", lambda: [CHAPTER])


def _workspace(folder: Path) -> Workspace:
    return Workspace(folder / ".kailab", folder / "cache")


def _done(workspace: Workspace) -> dict[str, str]:
    home = workspace.work / "nbgrader"
    return {str(path.relative_to(home)): what for path, what in assignments.make(workspace)}


@pytest.mark.usefixtures("only_6")
def test_nothing_of_an_instructor_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = _workspace(tmp_path)
    notebook = "source/lab-06/06_deployments.ipynb"
    assert _done(workspace) == {"nbgrader_config.py": "made", notebook: "made", "release/lab-06": "made"}
    assert _done(workspace) == {"nbgrader_config.py": "kept", notebook: "kept"}

    home = workspace.work / "nbgrader"
    assert home.stat().st_mode & 0o077 == 0
    with (home / "nbgrader_config.py").open("a") as file:
        file.write("c.CourseDirectory.course_id = 'ours'\n")
    monkeypatch.setattr(assignments, "CONFIG", assignments.CONFIG + "# newer\n")
    monkeypatch.setattr(assignments, "_ABOUT", "## Newer\n")
    done = _done(workspace)
    assert "newer than yours" in done.pop("new/nbgrader_config.py")
    assert done == {notebook: "renewed", "release/lab-06": "renewed"}
    assert "'ours'" in (home / "nbgrader_config.py").read_text()

    collected = home / "submitted" / "ada" / "lab-06"
    collected.mkdir(parents=True)
    monkeypatch.setattr(assignments, "_ABOUT", "## Newest\n")
    assert _done(workspace)["release/lab-06"] == "kept, since there are submissions for it"

    collected.rmdir()
    with Gradebook(f"sqlite:///{home / 'gradebook.db'}") as gradebook:
        gradebook.add_student("ada")
        gradebook.add_submission("lab-06", "ada")
    monkeypatch.setattr(assignments, "_ABOUT", "## Newest of all\n")
    assert _done(workspace)["release/lab-06"] == "kept, since there are submissions for it"
    assert "Newest" not in (home / "release" / "lab-06" / "06_deployments.ipynb").read_text()


def test_students_get_the_drafts_and_no_solution(made: Path) -> None:
    drafts = {cell.id: cell.source for cell in CHAPTER.notebook().cells}
    for cell in released(made).cells:
        assert "SOLUTION" not in cell.source
        if marked(cell, "solution"):
            assert cell.source == drafts[cell.id]
            assert cell.metadata.deletable is False
        elif marked(cell, "locked"):
            assert cell.metadata.editable is False
    assert "maxUnavailable: 0\n" not in nbformat.writes(released(made))
    assert "maxUnavailable: 0\\n" in (made / "source" / "lab-06" / "06_deployments.ipynb").read_text()


def test_a_cell_that_only_code_could_grade_is_refused(made: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(made, tmp_path / "course"))
    shutil.rmtree(home / "release")
    path = home / "source" / "lab-06" / "06_deployments.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(v4.new_code_cell("assert True", metadata={"nbgrader": {
        "grade_id": "mine", "grade": True, "solution": False, "locked": True, "points": 3, "schema_version": 3,
    }}))  # fmt: skip
    nbformat.write(notebook, path)
    ended = nbgrader(home, GenerateAssignment)
    assert not ended["success"]
    assert "Cell mine is none of lab 6's checks" in ended["log"]


def test_a_config_that_does_not_load_stops_nbgrader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nbgrader_config.py").write_text(assignments.CONFIG)
    monkeypatch.setattr(assignments, "Execute", int)
    with pytest.raises(SystemExit, match="no step int"):
        config(tmp_path)


def test_plain_nbgrader_gets_no_points_from_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without our configuration it runs check cells where they would look at the instructor's own lab."""
    ended: list[int] = []
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    monkeypatch.setattr("os._exit", ended.append)
    with contextlib.suppress(KailabError):
        course.check(99)
    assert ended


def test_an_assignment_of_somebody_else_is_not_graded_here(made: Path, tmp_path: Path) -> None:
    """Its tests would not be run, and nbgrader has full points for a cell without output."""
    home = Path(shutil.copytree(made, tmp_path / "course"))
    shutil.copytree(home / "source" / "lab-06", home / "source" / "essay")
    ended = nbgrader(home, GenerateAssignment, "essay")
    assert not ended["success"]
    assert "Assignment essay is none of the course's labs" in ended["log"]
