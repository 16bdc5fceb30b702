"""nbgrader's autograde without running a line of a student's code: a check cell's points are what the course cluster
says about the manifests that were handed in.

nbgrader reads a score from what a cell put out, and gives full points for a cell that put out nothing. So a check cell
gets its points here and nowhere else, or the submission is not graded at all.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from nbconvert.preprocessors import Preprocessor
from nbformat import v4
from nbgrader.utils import is_grade, is_solution  # type: ignore[import-untyped]
from traitlets import Bool, Int

from checkers.manifests import printable
from checkers.report.html import parts
from checkers.report.terminal import number, plain
from checkers.results import Report
from cluster.errors import KailabError
from cluster.workspace import Workspace
from labs.catalog import LabFolder, all_labs
from labs.grading.reading import read_submission, students
from labs.grading.records import Record, Records, lab_digest
from labs.grading.run import ClassRun
from labs.lifecycle import Course


def check_id(lab: LabFolder, task: str) -> str:
    """The grade_id of the cell that checks a task. Gradebooks know cells by it, so it never changes."""
    return f"ch{lab.number:02d}-check-{task}"


def lab_of(assignment: str) -> LabFolder:
    """Raises KailabError for an assignment that is none of the course's."""
    for lab in all_labs():
        if lab.namespace == assignment:
            return lab
    raise KailabError(
        f"Assignment {assignment} is none of the course's labs, and this folder runs no students' code.",
        mend="keep assignments of your own in a folder of their own, with an nbgrader_config.py of their own",
    )


def check_cells(cells: Iterable[Any], lab: LabFolder) -> dict[str, Any]:
    """The notebook's check cells by task. Raises KailabError for any other cell that code would have to score."""
    tasks = {check_id(lab, task.id): task.id for task in lab.spec.tasks}
    found = {}
    for cell in cells:
        if cell.cell_type != "code" or not is_grade(cell) or is_solution(cell):
            continue
        name = cell.metadata.nbgrader["grade_id"]
        if name not in tasks:
            raise KailabError(
                f"Cell {name} is none of lab {lab.number}'s checks, and this folder runs no students' code.",
                mend="make it a manually graded answer, or take it out of the assignment",
            )
        found[tasks[name]] = cell
    return found


class GradeOnCluster(Preprocessor):
    """In nbgrader's autograde, in place of what executes a notebook."""

    enabled = Bool(True).tag(config=True)
    jobs = Int(4, help="submissions side by side on the cluster, as far as the lab has room").tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """The notebook with each check cell's report and points. Raises KailabError when there is no verdict."""
        about = resources["nbgrader"]
        lab = lab_of(about["assignment"])
        cells = check_cells(nb.cells, lab)
        if cells:
            fill(cells, self._verdict(lab, about["student"]))
        return nb, resources

    def _verdict(self, lab: LabFolder, student: str) -> Record:
        converter: Any = self.parent and self.parent.parent  # nbgrader's, by way of the exporter
        folder = converter.coursedir
        path = Path(folder.format_path(folder.submitted_directory, student, lab.namespace))
        student = printable(student)  # as `students` and the records call whoever it is
        records = _WithoutTable(Path(folder.root) / f"{lab.namespace}.csv", lab)
        digest = lab_digest(lab)

        def known(student: str, path: Path) -> Record | None:
            found = records.of(student)
            work = read_submission(student, path).digest
            return found if found and (found.digest, found.lab_digest) == (work, digest) else None

        record = known(student, path)
        if record is None or not record.is_graded:
            # nbgrader asks for one submission after the other; on the cluster all of them may go side by side.
            others = students(map(Path, converter.assignments), lab.namespace)
            new = {name: where for name, where in others.items() if known(name, where) is None}
            record = self._graded(lab, records, {**new, student: path}).get(student)
        if record is None or not record.is_graded:
            raise _no_verdict(lab, student, record)
        return record

    def _graded(self, lab: LabFolder, records: Records, paths: Mapping[str, Path]) -> dict[str, Record]:
        self.log.info("Grading for lab %d on the cluster: %s", lab.number, ", ".join(map(plain, sorted(paths))))
        with Course.opened(Workspace.here()) as course:
            run = ClassRun(course, lab, records, self.jobs, listen=self._tell)
            return {record.student: record for record in run.grade(paths)}

    def _tell(self, what: str, about: Any) -> None:
        if what == "finished":
            report = about.report
            points = f"{number(report.points)}/{number(report.max_points)}" if about.is_graded else "not graded"
            self.log.info("%s: %s, %.0f s", plain(about.student), points, about.seconds)


class _WithoutTable(Records):
    """The records of `kailab grade --out ASSIGNMENT.csv`, whose table of the whole class is not ours to write."""

    def write_table(self, records: Iterable[Record]) -> None:
        pass


def _no_verdict(lab: LabFolder, student: str, record: Record | None) -> KailabError:
    errors = record.report.errors if record and record.report else ()
    why = errors[0].observed if errors else record.why if record else "It was interrupted."
    who = printable(student)
    return KailabError(
        f"{who}'s work for {lab.namespace} could not be judged, so it has no score. Not the student's fault.",
        why=plain(why),
        mend=f"kailab status; then nbgrader autograde {lab.namespace} --student {shlex.quote(who)}",
    )


def fill(cells: Mapping[str, Any], record: Record) -> None:
    """Give each task's check cell its report and its points. Raises KailabError when they don't fit together."""
    assert record.report is not None
    said = _problems(record.problems)
    for count, (task, cell) in enumerate(cells.items(), 1):
        points = _points(record.report, task, float(cell.metadata.nbgrader["points"]))
        text = {"text/html": said + parts(record.report, task), "text/plain": _lines(record.report, task)}
        # nbgrader takes its score from the first execute_result: a plain number, never above the cell's points.
        result = v4.new_output("execute_result", data={"text/plain": repr(points)}, execution_count=count)
        cell.outputs = [v4.new_output("display_data", data=text), result]
        cell.execution_count = count
        said = ""


def _points(report: Report, task: str, most: float) -> float:
    checks = [check for check in report.checks if check.task == task]
    possible = float(sum(check.max_points for check in checks))
    if not checks or not math.isclose(possible, most):
        raise KailabError(
            f"Task {task} of lab {report.lab} has {number(possible)} points now, and {number(most)} in the gradebook.",
            mend=f"make assignments, then nbgrader generate_assignment --force lab-{report.lab:02d}",
        )
    points = float(sum(check.points for check in checks))
    if not math.isfinite(points):
        raise KailabError(f"Task {task} of lab {report.lab} has {points} points, which is no score.")
    return max(0.0, min(points, most))


def _problems(problems: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(plain(problem))}</li>" for problem in problems)
    return f"<p><b>In your files</b></p><ul>{items}</ul>" if items else ""


def _lines(report: Report, task: str) -> str:
    wanted = [check for check in report.checks if check.task == task]
    return "\n".join(f"{check.outcome}: {plain(check.title)}" for check in wanted)
