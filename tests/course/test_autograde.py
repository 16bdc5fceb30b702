"""Scores in nbgrader's gradebook are what the checker said, whatever a student did to the notebook.

The checker's word is on record here, so no cluster is needed; tests/system/test_nbgrader.py has a real one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbconvert.exporters import HTMLExporter
from nbformat import v4
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateFeedback
from nbgrader.server_extensions.formgrader.handlers import template_path
from traitlets.config import Config

from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from cluster.errors import KailabError
from cluster.workspace import Workspace
from course.autograde import _no_verdict, fill
from course.submitted import MISSING
from labs.catalog import lab_numbered
from labs.grading.reading import read_submission
from labs.grading.records import Record, Records, lab_digest
from labs.grading.run import ClassRun
from labs.lifecycle import Course
from tests.course.conftest import marked, nbgrader, released

pytestmark = [
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning"),  # nbgrader's own, about how it uses its database
    pytest.mark.filterwarnings("ignore::nbformat.warnings.DuplicateCellId"),  # what reading a student's copies says
]
LAB = lab_numbered(6)
TASKS = {task.id: float(sum(check.points for check in task.checks)) for task in LAB.spec.tasks}
MOST = sum(TASKS.values())
BOMB = "<script>kailab()</script><img src=x onerror=kailab()>"


Change = Callable[[Any], None]


def _cell(notebook: Any, name: str) -> Any:
    return next(cell for cell in notebook.cells if cell.get("metadata", {}).get("nbgrader", {}).get("grade_id") == name)


def _each_check(change: Change) -> Change:
    def all_of_them(notebook: Any) -> None:
        for cell in [cell for cell in notebook.cells if marked(cell, "grade")]:
            change(cell)

    return all_of_them


def _no_checks(notebook: Any) -> None:
    notebook.cells = [cell for cell in notebook.cells if not marked(cell, "grade")]


def _nothing_left(notebook: Any) -> None:
    notebook.cells = []


def _says_full_marks(cell: Any) -> None:
    points = repr(cell.metadata.nbgrader.points)
    cell.outputs = [v4.new_output("execute_result", data={"text/plain": points}, execution_count=1)]


def _hides(cell: Any) -> None:
    cell.outputs = []
    cell.metadata |= {"collapsed": True, "jupyter": {"outputs_hidden": True}, "tags": ["remove_output", "remove_cell"]}


def _edits(cell: Any) -> None:
    cell.source = "100.0"
    cell.metadata.editable = True


def _own_points(cell: Any) -> None:
    cell.metadata.nbgrader.points = 100


def _own_name(cell: Any) -> None:
    cell.metadata.nbgrader.grade_id += "-mine"


def _not_graded(cell: Any) -> None:
    cell.metadata.nbgrader |= {"grade": False, "solution": True, "locked": False}


def _text_now(cell: Any) -> None:
    cell.cell_type = "markdown"
    del cell["outputs"], cell["execution_count"]


def _broken_marks(cell: Any) -> None:
    cell.metadata["nbgrader"] = "mine"


def _copied(notebook: Any) -> None:
    notebook.cells += [cell.copy() for cell in notebook.cells if marked(cell, "grade")]
    _each_check(_says_full_marks)(notebook)


def _moved(notebook: Any) -> None:
    notebook.cells.reverse()


def _own_test(notebook: Any) -> None:
    marks = {"grade_id": "bonus", "grade": True, "solution": False, "locked": True, "points": 50, "schema_version": 3}
    cell = v4.new_code_cell("50.0", metadata={"nbgrader": marks})
    _says_full_marks(cell)
    notebook.cells.append(cell)


def _other_names(notebook: Any) -> None:
    """A check's name on the cell of the work, and the other way round."""
    work, check = _cell(notebook, "ch06-deployment"), _cell(notebook, "ch06-check-run")
    work.metadata.nbgrader, check.metadata.nbgrader = check.metadata.nbgrader, work.metadata.nbgrader


def _noisy(notebook: Any) -> None:
    for source, output in (
        ("1/0", v4.new_output("error", ename="ZeroDivisionError", evalue="no", traceback=["no"])),
        ("import sys; sys.stderr.write('x')", v4.new_output("stream", name="stderr", text="x")),
        ("import os; os._exit(1)", None), ("while True: pass", None),
    ):  # fmt: skip
        notebook.cells.insert(0, v4.new_code_cell(source, outputs=[output] if output else []))


def _bombs(notebook: Any) -> None:
    """What would run in the browser of whoever looks at it, wherever a notebook has a place for it."""
    data = {"text/html": BOMB, "image/svg+xml": f"<svg>{BOMB}</svg>", "application/javascript": "kailab()",
            "text/markdown": BOMB, "text/latex": BOMB, "text/plain": BOMB, "image/png": f'"{BOMB}'}  # fmt: skip
    for where in (_cell(notebook, "ch06-deployment"), _cell(notebook, "ch06-check-run")):
        where.outputs = [v4.new_output("display_data", data=data, metadata={"image/png": {"width": f'"{BOMB}'}}),
                         v4.new_output("error", ename=BOMB, evalue=BOMB, traceback=[BOMB]),
                         v4.new_output("stream", text=BOMB)]  # fmt: skip
        where.execution_count = BOMB
        where.metadata["tags"] = [f'"{BOMB}']
    notebook.cells += [
        v4.new_markdown_cell(f"{BOMB}\n\n````\n[x](javascript:kailab())\n```\n{BOMB}"),
        v4.new_raw_cell(BOMB, metadata={"raw_mimetype": "text/html"}),
        v4.new_code_cell(BOMB, metadata={"nbgrader": {"grade_id": BOMB}}),
    ]
    _cell(notebook, "ch06-text-0").source = BOMB
    notebook.metadata = {"title": BOMB, "widgets": {"application/vnd.jupyter.widget-state+json": {"state": BOMB}},
                         "language_info": {"name": BOMB, "pygments_lexer": BOMB}}  # fmt: skip


def _unwritable(notebook: Any) -> None:
    """What a notebook may not hold, or no file takes: letters that no encoding has, numbers that are none."""
    lone = "\ud800 \udcff"
    work = _cell(notebook, "ch06-deployment")
    work.source, work.execution_count = lone, True
    work.outputs = [v4.new_output("error", ename=lone, evalue=lone, traceback=[lone]),
                    v4.new_output("stream", text=lone),
                    v4.new_output("display_data", data={"text/plain": lone})]  # fmt: skip
    for count in (-1, 10**4000):
        notebook.cells.append(v4.new_code_cell(lone))
        notebook.cells[-1].execution_count = count
    notebook.cells.append(v4.new_markdown_cell(lone, metadata={"nbgrader": {"grade_id": [[[[lone]]]]}}))


# Whoever they are, the checker has said the same of their work: full marks for the first task, none for the others.
CHANGES: dict[str, Change] = {
    "honest": lambda notebook: None,
    "deleted-the-checks": _no_checks,
    "deleted-everything": _nothing_left,
    "edited-the-checks": _each_check(_edits),
    "set-the-outputs": _each_check(_says_full_marks),
    "hid-the-outputs": _each_check(_hides),
    "changed-points": _each_check(_own_points),
    "changed-names": _each_check(_own_name),
    "unmarked": _each_check(_not_graded),
    "checks-are-text": _each_check(_text_now),
    "broken-marks": _each_check(_broken_marks),
    "copied-the-checks": _copied,
    "moved-everything": _moved,
    "own-test": _own_test,
    "swapped-names": _other_names,
    "noisy-cells": _noisy,
    "bombs": _bombs,
    "unwritable": _unwritable,
}


def _report(got: dict[str, float], outcome: Outcome = Outcome.FAIL) -> Report:
    """A report whose tasks have these points, the others none."""
    checks = tuple(
        CheckResult(f"c-{task}", task, f"About {task}", Outcome.PASS if got.get(task) == most else outcome,
                    got.get(task, 0.0), most, "What is right.", f"What was seen: {BOMB}", (BOMB,))
        for task, most in TASKS.items()
    )  # fmt: skip
    return Report(6, LAB.spec.slug, LAB.title, LAB.namespace, checks, 1.0, ClusterInfo("k", "v1.37.2", "u"),
                  {task.id: task.title for task in LAB.spec.tasks})  # fmt: skip


def _hand_in(home: Path, student: str, change: Change, report: Report | None, *problems: str) -> None:
    """A student's notebook, and what `kailab grade` has on record of it."""
    folder = home / "submitted" / student / "lab-06"
    folder.mkdir(parents=True)
    notebook = released(home)
    change(notebook)
    (folder / "06_deployments.ipynb").write_text(json.dumps(notebook))
    record = Record(student, str(folder), read_submission(student, folder).digest, lab_digest(LAB), "now", 1.0,
                    problems, report, "" if report else "No room on the cluster.")  # fmt: skip
    Records(home / "lab-06.csv", LAB).keep(record, None)


@contextlib.contextmanager
def _no_cluster() -> Iterator[None]:
    @contextlib.contextmanager
    def opened(workspace: Workspace) -> Iterator[Course]:
        raise KailabError("No cluster answers.", mend="kailab up")
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Course, "opened", opened)
        yield


@pytest.fixture(scope="module")
def graded(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class of everybody above, autograded and given feedback by nbgrader."""
    home = Path(shutil.copytree(made, tmp_path_factory.mktemp("class") / "course"))
    for student, change in CHANGES.items():
        _hand_in(home, student, change, _report({"run": 5.0}), f"deployment.yaml: {BOMB}")
    with _no_cluster():
        for step in (Autograde, GenerateFeedback):
            ended = nbgrader(home, step)
            assert ended["success"], ended["log"]
    return home


def _scores(home: Path, student: str) -> tuple[float, dict[str, float | None]]:
    with Gradebook(f"sqlite:///{home / 'gradebook.db'}") as gradebook:
        found = gradebook.find_submission_notebook("06_deployments", "lab-06", student)
        return found.score, {grade.name: grade.auto_score for grade in found.grades}


@pytest.mark.parametrize("student", CHANGES)
def test_the_score_is_what_the_checker_said(graded: Path, student: str) -> None:
    score, cells = _scores(graded, student)
    assert cells == {f"ch06-check-{task}": 5.0 if task == "run" else 0.0 for task in TASKS}
    assert score == 5.0


def test_the_gradebook_knows_all_points(graded: Path) -> None:
    with Gradebook(f"sqlite:///{graded / 'gradebook.db'}") as gradebook:
        assert gradebook.find_assignment("lab-06").max_score == MOST
        assert gradebook.average_assignment_score("lab-06") == 5.0
        assert {student.id for student in gradebook.students} == set(CHANGES)


@pytest.mark.parametrize("student", CHANGES)
def test_the_autograded_notebook_is_the_assignments_own(graded: Path, student: str) -> None:
    notebook = nbformat.read(graded / "autograded" / student / "lab-06" / "06_deployments.ipynb", as_version=4)
    nbformat.validate(notebook)
    checks = [cell for cell in notebook.cells if marked(cell, "grade")]
    assert sorted(cell.source for cell in checks) == sorted(f'check(6, "{task}")' for task in TASKS)
    for cell in checks:
        assert [output.output_type for output in cell.outputs] == ["display_data", "execute_result"]
        assert re.fullmatch(r"\d\.0", cell.outputs[1].data["text/plain"])
    missing = student in ("deleted-the-checks", "deleted-everything", "changed-names", "broken-marks")
    assert (MISSING in [cell.source for cell in notebook.cells]) == missing


def test_what_a_student_saw_stays_as_far_as_it_is_harmless(graded: Path) -> None:
    notebook = nbformat.read(graded / "autograded" / "noisy-cells" / "lab-06" / "06_deployments.ipynb", as_version=4)
    outputs = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert outputs["1/0"][0].ename == "ZeroDivisionError"
    assert outputs["import sys; sys.stderr.write('x')"][0].text == "x"


def test_feedback_tells_what_was_expected_and_what_was_seen(graded: Path) -> None:
    page = (graded / "feedback" / "honest" / "lab-06" / "06_deployments.html").read_text()
    assert "(Score: 5.0 / 20.0)" in page
    for text in ("About update", "What is right.", "What was seen:", "In your files", "Score: 0.0 / 3.0"):
        assert text in page


@pytest.mark.parametrize("student", ["honest", "bombs"])
def test_nothing_of_a_student_runs_in_an_instructors_browser(graded: Path, student: str) -> None:
    config = Config()
    config.HTMLExporter.template_name = "formgrade"
    config.HTMLExporter.extra_template_basedirs = [template_path]
    notebook = graded / "autograded" / student / "lab-06" / "06_deployments.ipynb"
    about = {"submission_id": "1", "index": 0, "total": 1, "base_url": "", "student": student, "last_name": None,
             "first_name": None, "notebook_path": "", "assignment_id": "lab-06", "notebook_id": "x"}  # fmt: skip
    formgrader, _ = HTMLExporter(config=config).from_filename(str(notebook), resources=about)
    feedback = (graded / "feedback" / student / "lab-06" / "06_deployments.html").read_text()
    for page in (formgrader, feedback):
        assert "kailab()" in page
        assert not re.search(r"<script>\s*kailab|<img src=x|href=.javascript", page)


def test_without_a_verdict_there_is_no_score_and_the_others_have_theirs(made: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(made, tmp_path / "course"))
    _hand_in(home, "ada", CHANGES["honest"], _report(TASKS))
    _hand_in(home, "bob", CHANGES["set-the-outputs"], _report({"run": 5.0}, Outcome.ERROR))
    _hand_in(home, "carl", CHANGES["honest"], None)
    _hand_in(home, "zoe", CHANGES["honest"], _report({}))
    with _no_cluster():
        ended = nbgrader(home, Autograde)
    assert not ended["success"]
    for said in ("KailabError: No cluster answers.", "Next: kailab up"):
        assert ended["log"].count(said) == 2
    assert _scores(home, "ada")[0] == MOST
    assert _scores(home, "zoe")[0] == 0
    for student in ("bob", "carl"):
        assert set(_scores(home, student)[1].values()) == {None}
        assert not (home / "autograded" / student / "lab-06").exists()

    # Mended, the same command gives the rest their points.
    for student in ("bob", "carl"):
        shutil.rmtree(home / "submitted" / student)
        _hand_in(home, student, CHANGES["honest"], _report(TASKS))
    with _no_cluster():
        assert nbgrader(home, Autograde)["success"]
    assert _scores(home, "bob")[0] == _scores(home, "carl")[0] == MOST


def test_a_hostile_submission_costs_only_itself(made: Path, tmp_path: Path) -> None:
    """Before one is graded all of them are read, so that they can be graded side by side."""
    home = Path(shutil.copytree(made, tmp_path / "course"))
    _hand_in(home, "ada", CHANGES["honest"], _report(TASKS))
    _hand_in(home, "bob", CHANGES["honest"], None)
    for name in (b"eve", b"M\xfcller"):
        folder = Path(os.fsdecode(os.fsencode(home / "submitted") + b"/" + name)) / "lab-06"
        folder.mkdir(parents=True)
        (folder / "06_deployments.ipynb").write_text(json.dumps(released(home)))
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff.yaml")).write_text("a: !!bool maybe\nb: " + "[" * 900)
    asked = []

    def grade(run: ClassRun, paths: dict[str, Path]) -> list[Record]:
        asked.extend(paths)
        return [Record(name, "", "", "", "now", 1.0, (), _report({}) if name == "bob" else None, "No \x1b[2Jroom.")
                for name in paths]  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Course, "opened", lambda _: contextlib.nullcontext())
        patch.setattr(ClassRun, "grade", grade)
        # nbgrader logs the name as it is, and what was logged is more than pytest-xdist's workers can send as text.
        patch.setattr(logging.getLogger("traitlets"), "propagate", False)
        ended = nbgrader(home, Autograde)
    assert not ended["success"]
    assert set(asked) == {"bob", "eve", r"M\xfcller"}
    assert (_scores(home, "ada")[0], _scores(home, "bob")[0]) == (MOST, 0)
    assert "KailabError: eve's work for lab-06 could not be judged" in ended["log"]
    assert "No room." in ended["log"]
    assert "\x1b" not in ended["log"]


def test_the_command_to_copy_is_one_command_whatever_a_student_is_called() -> None:
    record = Record("", "", "", "", "", 1.0, (), None, "No \x1b[2Jroom.")
    refused = _no_verdict(LAB, "$(reboot); o'brien \x1b[31m", record)
    assert shlex.split(refused.mend)[-2:] == ["--student", "$(reboot); o'brien \\x1b[31m"]
    assert "\x1b" not in str(refused)
    assert _no_verdict(LAB, "ada", None).mend.endswith("nbgrader autograde lab-06 --student ada")


# Points


def _checks(**points: float) -> dict[str, Any]:
    marks = {task: {"grade_id": f"ch06-check-{task}", "points": most} for task, most in {**TASKS, **points}.items()}
    return {task: v4.new_code_cell("", metadata={"nbgrader": mark}) for task, mark in marks.items()}


def _record(report: Report) -> Record:
    return Record("ada", "", "", "", "", 1.0, (), report)


def test_points_are_never_more_than_the_cell_is_worth() -> None:
    cells = _checks()
    fill(cells, _record(_report({"run": 500.0, "serve": -3.0, "heal": 1.5})))
    said = {task: cell.outputs[-1].data["text/plain"] for task, cell in cells.items()}
    assert said == {"run": "5.0", "serve": "0.0", "heal": "1.5", "update": "0.0", "bad-release": "0.0", "drain": "0.0"}


@pytest.mark.parametrize("points", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_score(points: float) -> None:
    with pytest.raises(KailabError, match="is no score"):
        fill(_checks(), _record(_report({"run": points})))


def test_a_lab_whose_points_have_changed_is_not_graded() -> None:
    with pytest.raises(KailabError, match="Task run of lab 6 has 5 points now, and 7 in the gradebook"):
        fill(_checks(run=7.0), _record(_report(TASKS)))
