"""nbgrader's exchange: an assignment goes out to a student and comes back as work that `kailab grade` reads. And what
nbgrader's validate tells the student."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbgrader.auth import Authenticator
from nbgrader.coursedir import CourseDirectory
from nbgrader.exchange.default import (
    ExchangeCollect,
    ExchangeFetchAssignment,
    ExchangeReleaseAssignment,
    ExchangeSubmit,
)
from nbgrader.validator import Validator
from traitlets.config import Config
from traitlets.config.loader import JSONFileConfigLoader

from cluster.workspace import Workspace
from course.__main__ import CELL_SECONDS, environment
from labs.grading.reading import read_submission, students
from tests.course.conftest import CHAPTER, config, marked

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's own, about its database
NOTEBOOK = "06_deployments.ipynb"
SOLVED = {cell.id: cell.source for cell in CHAPTER.notebook(solved=True).cells}


@pytest.fixture
def instructors(made: Path, tmp_path: Path) -> Config:
    home = Path(shutil.copytree(made, tmp_path / "course"))
    with (home / "nbgrader_config.py").open("a") as file:
        file.write(f"c.CourseDirectory.course_id = 'ai-101'\nc.Exchange.root = '{tmp_path / 'exchange'}'\n")
    return config(home)


@pytest.fixture
def student(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ada" / ".kailab", tmp_path / "cache")


def _students_config(student: Workspace, exchange: Path) -> Config:
    folder = Path(environment(student)["JUPYTER_CONFIG_PATH"])
    settings = JSONFileConfigLoader("nbgrader_config.json", str(folder)).load_config()
    settings.CourseDirectory.course_id, settings.Exchange.root = "ai-101", str(exchange)
    settings.Exchange.cache = str(student.state / "nbgrader")
    return settings


def _run(step: type, settings: Config, name: str = "") -> None:
    directory = CourseDirectory(config=settings, assignment_id="lab-06")
    if name:
        directory.student_id = name
    step(coursedir=directory, authenticator=Authenticator(parent=None, config=settings), config=settings).start()


def _write(path: Path, *solved: str) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if marked(cell, "solution") and cell.id in solved:
            cell.source = SOLVED[cell.id]
    nbformat.write(notebook, path)


def test_an_assignment_goes_out_and_comes_back(instructors: Config, student: Workspace, tmp_path: Path) -> None:
    _run(ExchangeReleaseAssignment, instructors)
    theirs = _students_config(student, tmp_path / "exchange")
    _run(ExchangeFetchAssignment, theirs)
    # Beside the lab's own files, which are in work/lab-06.
    path = student.work / "assignments" / "lab-06" / NOTEBOOK
    _write(path, "ch06-deployment")
    _run(ExchangeSubmit, theirs, "ada")
    _write(path, "ch06-deployment", "ch06-more")
    _run(ExchangeSubmit, theirs, "ada")
    _run(ExchangeCollect, instructors)

    collected = tmp_path / "course" / "submitted" / "ada" / "lab-06"
    assert (collected / "timestamp.txt").exists()
    assert students([collected], "lab-06") == {"ada": collected}
    work = read_submission("ada", collected)
    assert not work.problems
    assert [item["kind"] for item in work.objects] == ["Deployment", "PodDisruptionBudget"]


def test_validate_without_a_cluster_says_what_to_start(
    made: Path, student: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that puts out nothing but text has nbgrader's full points."""
    monkeypatch.setenv("KAILAB_HOME", str(student.state))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(made / "release" / "lab-06" / NOTEBOOK, as_version=4)
    checks = [cell for cell in notebook.cells if marked(cell, "grade")]
    notebook.cells = [cell for cell in notebook.cells if cell.id == "ch06-load"] + checks
    path = tmp_path / NOTEBOOK
    nbformat.write(notebook, path)
    found: dict[str, Any] = Validator(config=_students_config(student, tmp_path)).validate(str(path))
    assert [cell["source"] for cell in found["failed"]] == [cell.source for cell in checks]
    assert {cell["raw_error"] for cell in found["failed"]} == {"There is no course cluster here yet.\nNext: kailab up"}


def test_validate_gives_checks_their_time(student: Workspace, tmp_path: Path) -> None:
    from nbgrader.preprocessors import Execute

    assert Execute(config=_students_config(student, tmp_path)).timeout == CELL_SECONDS > CHAPTER.lab.file.seconds
