"""A class that works in notebooks: handed in, graded on the real cluster, collected by nbgrader's own commands."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import v4

from cluster.api import Api
from course.chapters import chapters
from labs.catalog import lab_numbered
from labs.grading.walls import GRADING_LABEL
from tests.system.conftest import eventually, kailab

pytestmark = pytest.mark.cluster
LAB = lab_numbered(1)
CHAPTER = next(chapter for chapter in chapters() if chapter.number == LAB.number)
NOTEBOOK = CHAPTER.path.stem
SOLVED = {cell.id: cell.source for cell in CHAPTER.notebook(solved=True).cells}


def _is(cell: Any, what: str) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get(what))


def _solve(notebook: Any, *, but: str = "") -> None:
    for cell in notebook.cells:
        if _is(cell, "solution") and cell.id != but:
            cell.source = SOLVED[cell.id]


def _partial(notebook: Any) -> None:
    _solve(notebook, but="ch01-alone")


def _crashes(notebook: Any) -> None:
    _solve(notebook)
    for source in ("import os; os._exit(1)", "1/0", "while True: pass", "!rm -rf ~/nowhere; exit 1"):
        notebook.cells.insert(0, v4.new_code_cell(source))


def _writes_to_stderr(notebook: Any) -> None:
    _solve(notebook)
    for cell in [cell for cell in notebook.cells if cell.cell_type == "code"]:
        cell.outputs = [v4.new_output("stream", name="stderr", text="DeprecationWarning: all of this")]


def _deletes_checks(notebook: Any) -> None:
    _solve(notebook)
    gone = {"ch01-check-follow", "ch01-check-survive"}
    notebook.cells = [cell for cell in notebook.cells if cell.id not in gone]


def _hides_output(notebook: Any) -> None:
    for cell in notebook.cells:
        if _is(cell, "grade"):
            cell.outputs = []
            cell.metadata |= {"collapsed": True, "jupyter": {"outputs_hidden": True}}


def _sets_the_score(notebook: Any) -> None:
    for cell in notebook.cells:
        if _is(cell, "grade"):
            most = cell.metadata.nbgrader.points
            cell.source, cell.metadata.nbgrader.points = repr(most), most * 10
            cell.outputs = [v4.new_output("execute_result", data={"text/plain": repr(most)}, execution_count=1)]


HANDED_IN: dict[str, tuple[Callable[[Any], None], float]] = {
    "untouched": (lambda notebook: None, 0), "partial": (_partial, 17), "full": (_solve, 20),
    "crashes": (_crashes, 20), "stderr": (_writes_to_stderr, 20), "deletes-checks": (_deletes_checks, 20),
    "hides-output": (_hides_output, 0), "sets-the-score": (_sets_the_score, 0),
}  # fmt: skip


@pytest.fixture
def course(home: Path) -> Path:
    """A course folder as `make assignments` leaves it, with the class's work collected."""
    made = _python("-m", "course.assignments", home=home)
    assert made.returncode == 0, made.stdout + made.stderr
    folder = home.parent / "work" / "nbgrader"
    for student, (change, _) in HANDED_IN.items():
        notebook = nbformat.read(folder / "release" / LAB.namespace / f"{NOTEBOOK}.ipynb", as_version=4)
        change(notebook)
        handed_in = folder / "submitted" / student / LAB.namespace
        handed_in.mkdir(parents=True)
        nbformat.write(notebook, handed_in / f"{NOTEBOOK}.ipynb")
    return folder


def _python(*args: str, home: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], env={**os.environ, "KAILAB_HOME": str(home)}, cwd=cwd,
                          capture_output=True, text=True, timeout=600, check=False)  # fmt: skip


def _nbgrader(home: Path, course: Path, *args: str) -> str:
    ended = _python("-m", "nbgrader", *args, home=home, cwd=course)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_a_class_in_notebooks_is_graded_by_the_cluster(api: Api, home: Path, course: Path) -> None:
    submitted = course / "submitted"
    # All but two by `kailab grade`, five side by side; nbgrader collects those, and has the rest graded.
    later = {"full", "sets-the-score"}
    paths = [str(submitted / student / LAB.namespace) for student in HANDED_IN if student not in later]
    table = course / f"{LAB.namespace}.csv"
    ran = kailab("grade", *paths, "--lab", str(LAB.number), "--jobs", "8", "--out", str(table), KAILAB_HOME=str(home))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    before = table.read_text()

    # A cluster that does not answer is no verdict.
    kubeconfig = home / "kubeconfig"
    away = kubeconfig.rename(home / "kubeconfig-away")
    failed = _python("-m", "nbgrader", "autograde", LAB.namespace, "--student", "full", home=home, cwd=course)
    assert failed.returncode == 1
    assert "KailabError" in failed.stderr
    assert not (course / "autograded" / "full" / LAB.namespace).exists()
    away.rename(kubeconfig)

    said = _nbgrader(home, course, "autograde", LAB.namespace)
    graded = {line.split("] ")[-1].split(",")[0] for line in said.splitlines() if "/20, " in line}
    assert graded == {"sets-the-score: 0/20", "full: 20/20"}
    assert table.read_text() == before
    assert not api.list("Namespace", labelSelector=GRADING_LABEL)[0]

    _nbgrader(home, course, "export", "--to", str(course / "export.csv"))
    with (course / "export.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["assignment"] == LAB.namespace]
    assert {row["student_id"]: float(row["score"]) for row in rows} == {
        student: points for student, (_, points) in HANDED_IN.items()
    }
    assert {float(row["max_score"]) for row in rows} == {20}

    _nbgrader(home, course, "generate_feedback", LAB.namespace)
    page = (course / "feedback" / "partial" / LAB.namespace / f"{NOTEBOOK}.html").read_text()
    for text in ("(Score: 17.0 / 20.0)", "expected", "observed", "Pod alone", "In your files"):
        assert text in page, text
    _formgrader_lists(home, course)


def _formgrader_lists(home: Path, course: Path) -> None:
    with _jupyter(home, course) as ask:
        (assignment,) = [one for one in ask("assignments") if one["name"] == LAB.namespace]
        assert (assignment["max_score"], assignment["num_submissions"]) == (20, len(HANDED_IN))
        found = {one["student"]: (one["score"], one["autograded"]) for one in ask(f"submissions/{LAB.namespace}")}
        assert found == {student: (points, True) for student, (_, points) in HANDED_IN.items()}


@contextlib.contextmanager
def _jupyter(home: Path, course: Path) -> Iterator[Callable[[str], Any]]:
    """Jupyter's server with nbgrader's extension, in the course folder; gives what asks formgrader for its JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    command = [sys.executable, "-m", "jupyter", "server", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
               f"--IdentityProvider.token={token}", "--allow-root", f"--ServerApp.root_dir={course}"]  # fmt: skip
    env = {**os.environ, "KAILAB_HOME": str(home)}
    with (course / "jupyter.log").open("w") as log:
        server = subprocess.Popen(command, cwd=course, env=env, stdout=log, stderr=log)

    def ask(what: str) -> Any:
        address = f"http://127.0.0.1:{port}/formgrader/api/{what}?token={token}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return bool(ask("status"))
        return False

    try:
        eventually(answers)
        yield ask
    finally:
        server.terminate()
        server.wait(timeout=30)
        shutil.rmtree(course / ".ipynb_checkpoints", ignore_errors=True)
