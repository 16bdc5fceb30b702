"""Chapters become notebooks whose cells keep their names, and a student's notebook is never overwritten."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import nbformat
import pytest

from cluster.errors import KailabError
from cluster.workspace import Workspace
from course.chapters import Chapter, build, chapters

ALL = pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.path.stem)


@ALL
def test_a_chapter_is_a_valid_notebook_and_the_same_each_time(chapter: Chapter) -> None:
    made = chapter.notebook()
    nbformat.validate(made)
    assert nbformat.writes(made) == nbformat.writes(chapter.notebook())
    assert "{{" not in nbformat.writes(made)
    assert not any(cell.cell_type == "code" and (cell.outputs or cell.execution_count) for cell in made.cells)


@ALL
def test_a_chapter_has_what_every_chapter_has(chapter: Chapter) -> None:
    text = "\n".join(cell.source for cell in chapter.notebook().cells)
    for part in ("Why this matters for AI", "```mermaid", f"lab({chapter.number})", "## Best practices",
                 "## Proved, and not proved here", "## Further reading"):  # fmt: skip
        assert part in text


@ALL
def test_a_chapter_says_its_minutes_and_its_waits_were_measured(chapter: Chapter) -> None:
    assert chapter.minutes.wait is not None
    title, minutes = chapter.notebook().cells[0].source.splitlines()[:3:2]
    assert title.startswith(f"# Chapter {chapter.number}: ")
    assert minutes == f"*About {chapter.minutes.total} minutes: {chapter.minutes}.*"


@ALL
def test_only_the_solved_build_holds_the_solution(chapter: Chapter) -> None:
    cells = {cell.id: cell.source for cell in chapter.notebook().cells}
    solved = {cell.id: cell.source for cell in chapter.notebook(solved=True).cells}
    changed = {name for name in cells if cells[name] != solved[name]}
    assert changed == {name for name, source in cells.items() if source.startswith("%%manifest ")}


@ALL
def test_what_the_text_says_of_outputs_can_be_looked_for(chapter: Chapter) -> None:
    promises = chapter.promises()
    assert len(promises) >= 2
    assert all(re.compile(pattern) for pattern in promises.values())
    assert not any("says" in cell.metadata for cell in chapter.notebook().cells)


def test_a_cell_without_a_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "06_x.md"
    head = "---\njupytext:\n  text_representation:\n    extension: .md\n    format_name: myst\n---\n\n"
    path.write_text(head + "# x\n\n```{code-cell}\n1\n```\n")
    with pytest.raises(KailabError, match="code cell 1 has no :id: of its own"):
        Chapter(path).notebook()


def test_a_notebook_that_was_worked_in_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path / ".kailab", tmp_path / "cache")
    assert {what for _, what in build(workspace)} == {"made"}
    path = workspace.work / "chapters" / "06_deployments.ipynb"
    assert {what for _, what in build(workspace)} == {"kept"}

    monkeypatch.setattr(Chapter, "lab", property(lambda self: _renamed(self)))
    assert (path, "renewed") in build(workspace)

    path.write_text(json.dumps({"mine": True}))
    assert {what for _, what in build(workspace)} <= {"kept", "renewed"}
    monkeypatch.undo()
    beside, what = next((made, what) for made, what in build(workspace) if made.stem.startswith("06"))
    assert json.loads(path.read_text()) == {"mine": True}
    assert beside.name.endswith(".new.ipynb")
    assert "newer than yours" in what


def _renamed(chapter: Chapter) -> object:
    from labs.catalog import lab_numbered

    lab = lab_numbered(chapter.number)
    changed = msgspec.structs.replace(lab.file, names={**lab.file.names, "image": "ai-app:v9"})
    lab.__dict__["file"] = changed
    return lab
