"""A chapter's notebook, handed in: what is graded is the lab's work, and nothing that the chapter only shows."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from course.chapters import Chapter, chapters
from labs.catalog import facts, fill_in
from labs.grading.reading import read_submission


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.path.stem)
def test_a_solved_chapter_is_the_labs_solution(chapter: Chapter, tmp_path: Path) -> None:
    nbformat.write(chapter.notebook(solved=True), tmp_path / chapter.name)
    found = read_submission("ada", tmp_path / chapter.name)
    solution = fill_in(chapter.lab.manifests("solution"), facts(chapter.lab.namespace))
    assert not found.problems
    assert sorted(found.objects, key=str) == sorted(solution, key=str)
