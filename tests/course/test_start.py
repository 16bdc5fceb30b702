"""The start page: links, minutes and points without a cluster, and that a student's own words stay in it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

import course.startpage as startpage
from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from cluster.workspace import Workspace
from course.chapters import chapters
from course.startpage import NAME, build, notebook, table
from labs.catalog import all_labs, lab_numbered
from labs.progress import Progress


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / ".kailab", tmp_path / "cache")


def _done(workspace: Workspace, number: int, *failing: str) -> None:
    """A lab that was checked, with these of its tasks not right yet."""
    lab = lab_numbered(number)
    checks = tuple(
        CheckResult(check.id, check.task, check.title, Outcome.FAIL if check.task in failing else Outcome.PASS,
                    0 if check.task in failing else check.points, check.points)
        for check in lab.spec.checks
    )  # fmt: skip
    noted = Progress(workspace)
    noted.current = number
    noted.lab(number).started = True
    noted.record(
        Report(number, lab.spec.slug, lab.title, lab.namespace, checks, 1.0, ClusterInfo("c", "v", "u")), "now"
    )
    noted.save()


def test_every_lab_is_there_with_its_minutes_and_every_chapter_with_a_link(workspace: Workspace) -> None:
    shown = table(workspace)
    for lab in all_labs():
        assert f"{lab.file.minutes} for the lab (estimated)</td>" in shown
        assert f">0 of {sum(check.points for check in lab.spec.checks):g}</td>" in shown
    for chapter in chapters():
        assert f'<a href="{chapter.name}">{chapter.lab.title}</a>' in shown
        assert f"<b>{chapter.minutes.total}</b>: {chapter.minutes}</td>" in shown
    assert f"<td {startpage._LEFT}>{sum(chapter.minutes.total for chapter in chapters())}</td>" in shown
    assert f"<b>Begin with chapter {all_labs()[0].number}, " in shown


def test_it_says_where_the_student_left_off(workspace: Workspace) -> None:
    task = lab_numbered(6).spec.tasks[3]
    _done(workspace, 6, task.id)
    shown = table(workspace)
    assert f"<b>You are in chapter 6, Deployments that survive: {task.title}</b>" in shown
    assert f"begun; next: {task.title}" in shown


def test_what_is_done_is_done_and_the_next_one_named(workspace: Workspace) -> None:
    _done(workspace, 3)
    shown = table(workspace)
    assert ">20 of 20</td>" in shown
    assert ">done</td>" in shown
    assert "<b>Go on with chapter 4, " in shown


def test_after_the_last_lab_comes_the_first_that_is_open(workspace: Workspace) -> None:
    labs = [lab.number for lab in all_labs()]
    for number in labs[1:]:
        _done(workspace, number)
    assert f"<b>Go on with chapter {labs[0]}, " in table(workspace)
    _done(workspace, labs[0])
    assert "All labs are done" in table(workspace)


def test_a_lab_without_a_chapter_says_how_to_begin_it(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startpage, "chapters", list)
    shown = table(workspace)
    assert "(lab only: <code>make lab-6</code>)" in shown
    assert f"{lab_numbered(6).file.minutes} (estimated)</td>" in shown


def test_the_page_is_a_valid_notebook_with_its_table_already_there(workspace: Workspace) -> None:
    made = notebook(workspace)
    nbformat.validate(made)
    cells = {cell.id: cell for cell in made.cells}
    assert "progress()" in cells["start-progress"].source
    assert cells["start-progress"].outputs[0].data["text/html"] == table(workspace)
    assert cells["start-cluster"].source == "cluster()"


def test_it_is_no_chapter() -> None:
    assert 0 not in [chapter.number for chapter in chapters()]


def test_the_page_is_made_anew_with_the_present_points(workspace: Workspace) -> None:
    path = workspace.work / "chapters" / NAME
    assert build(workspace) == [(path, "made")]
    opened = nbformat.read(path, as_version=4)
    opened.cells[1].execution_count = 7  # run and saved
    nbformat.write(opened, path)
    _done(workspace, 3)
    assert build(workspace) == [(path, "renewed")]
    assert "20 of 20" in path.read_text()


def test_a_page_that_was_written_in_is_never_touched(workspace: Workspace) -> None:
    path = workspace.work / "chapters" / NAME
    build(workspace)
    opened = nbformat.read(path, as_version=4)
    opened.cells[0].source += "\n\nMy notes."
    nbformat.write(opened, path)
    assert build(workspace) == [(path, "kept")]
    assert "My notes." in path.read_text()
    path.write_text("no notebook")
    assert build(workspace) == [(path, "kept")]
    assert path.read_text() == "no notebook"


def test_a_page_that_nobody_wrote_in_follows_the_course(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workspace.work / "chapters" / NAME
    build(workspace)
    newer = workspace.state / "newer.md"
    newer.write_text(startpage.TEXT.read_text().replace("Welcome.", "Welcome back."))
    monkeypatch.setattr(startpage, "TEXT", newer)
    assert build(workspace) == [(path, "renewed")]
    assert "Welcome back." in path.read_text()
