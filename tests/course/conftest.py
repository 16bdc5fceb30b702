"""A course folder with lab 6 as an nbgrader assignment, and nbgrader's commands on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbgrader.coursedir import CourseDirectory
from nbgrader.utils import capture_log
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

import course.assignments as assignments
from cluster.workspace import Workspace
from course.chapters import chapters

CHAPTER = next(chapter for chapter in chapters() if chapter.number == 6)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as `make assignments` leaves it. Made once; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("assignments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignments, "chapters", lambda: [CHAPTER])
        workspace = Workspace(folder / ".kailab", folder / "cache")
        assignments.make(workspace)
    return workspace.work / "nbgrader"


def released(home: Path) -> Any:
    """The students' version."""
    return nbformat.read(home / "release" / "lab-06" / "06_deployments.ipynb", as_version=4)


def config(home: Path) -> Config:
    return PyFileConfigLoader("nbgrader_config.py", str(home)).load_config()


def nbgrader(home: Path, step: type, assignment: str = "lab-06") -> dict[str, Any]:
    """Run one of nbgrader's steps as its own commands do: whether it was a success, and its log."""
    settings = config(home)
    directory = CourseDirectory(config=settings, assignment_id=assignment)
    ended: dict[str, Any] = capture_log(step(coursedir=directory, config=settings))
    return ended


def marked(cell: Any, what: str) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get(what))
