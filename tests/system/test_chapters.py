"""Every code cell of every chapter runs on the real cluster, in a kernel such as a student's."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path
from typing import Any

import nbclient
import pytest

from cluster.workspace import Workspace
from course.__main__ import environment
from course.chapters import Chapter, chapters
from course.minutes import Machine, measured, record
from course.questions import printed_by_kubectl, questions
from labs.lifecycle import Course, finish
from tests.system.conftest import kailab

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.of_one_lab,
    # The kernel client's own sockets, which it closes a moment after the test.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


EACH = pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.path.stem)


@pytest.fixture
def student(home: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workspace:
    """Somebody's state folder, in which the kernels of this test work."""
    student = Workspace(home, workspace.cache)
    for name, value in {**environment(student), "KAILAB_HOME": str(home)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return student


@EACH
def test_an_untouched_chapter_runs_to_its_end(chapter: Chapter, student: Workspace) -> None:
    """With "Run All Cells" no cell may end in an error because the work that it shows isn't done yet: Jupyter would
    run none after it, so there would be no panel."""
    try:
        _run(chapter.notebook())
    finally:
        _finish(student, chapter)


@EACH
def test_every_cell_runs_its_solution_passes_and_its_quiz_has_answers(chapter: Chapter, student: Workspace) -> None:
    notebook = chapter.notebook(solved=True)
    try:
        begun = time.monotonic()
        _run(notebook)
        cells = time.monotonic() - begun
        said = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
        for name, pattern in chapter.promises().items():
            printed = _printed(next(cell for cell in notebook.cells if cell.id == name))
            assert re.search(pattern, printed, re.DOTALL), f"{name} does not say {pattern!r}: {printed}"
        assert not [text for text in said if "✗" in text or "Traceback" in text]
        assert any("✓" in text for text in said)
        begun = time.monotonic()
        report = kailab("check", str(chapter.number), KAILAB_HOME=str(student.state))
        check = time.monotonic() - begun
        assert report.returncode == 0, report.stdout
        for question in questions(chapter.number):
            printed = printed_by_kubectl(student, chapter.lab, question)
            right = [choice for choice in question.choices if question.is_right(choice, printed)]
            assert len(right) == 1 or not question.choices, (question.id, printed)
    finally:
        _finish(student, chapter)
    _minutes_are_true(chapter, Machine(math.ceil(cells), math.ceil(check)))


def _run(notebook: Any) -> None:
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()


def _finish(student: Workspace, chapter: Chapter) -> None:
    with Course.opened(student) as course:
        finish(course, chapter.lab)


def _minutes_are_true(chapter: Chapter, now: Machine) -> None:
    """What the built chapter says of the machine's part is what was measured just now, more or less.

    The first measurement of a chapter is written down by itself: tests/course/test_chapters.py asks for it.
    """
    if os.environ.get("KAILAB_REWRITE_MEASURED") or chapter.number not in measured():
        record(chapter.number, now)
    noted = measured()[chapter.number]
    again = f"KAILAB_REWRITE_MEASURED=1 pytest -m cluster tests/system/test_chapters.py -k {chapter.path.stem}"
    assert noted.is_true(now), f"course/measured.yaml has {noted}, now it was {now}. To write that: {again}"


def _printed(cell: Any) -> str:
    outputs = cell.get("outputs", [])
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)
