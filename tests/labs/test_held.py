"""What `make test` does not repeat: tests of one lab that held, while no file has changed that they read."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from cluster.workspace import SOURCE_ROOT, Workspace
from course import chapters
from labs import catalog, receipts
from labs.catalog import LabFolder
from labs.receipts import GOOD_FOR
from tests.system import held

LAB, TEST = "labs/06_deployments", "tests/system/test_chapters.py::test_it[06]"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that such a test reads."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("checkers", "cluster", "course", "labs", "requirements", "tests"):
        shutil.copytree(SOURCE_ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture
def root(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (receipts, held):
        monkeypatch.setattr(module, "SOURCE_ROOT", checkout)
    monkeypatch.setattr(catalog, "LABS", checkout / "labs")
    monkeypatch.setattr(chapters, "HERE", checkout / "course")
    return checkout


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "state", tmp_path / "cache")


def changes(root: Path, workspace: Workspace, name: str) -> bool:
    """Whether a change in the file asks for the test again."""
    path, lab = root / name, LabFolder(root / LAB)
    before, text = held.receipt(workspace, TEST, lab), path.read_text()
    try:
        path.write_text(text + "\n# changed\n")
        return held.receipt(workspace, TEST, lab) != before
    finally:
        path.write_text(text)


@pytest.mark.parametrize("name", [
    f"{LAB}/checks.py", "course/06_deployments.md", "course/questions.py", "checkers/notebook/panel.js",
    "labs/grading/rooms.py", "cluster/scheduler.yaml", "tests/system/test_chapters.py", "tests/system/conftest.py",
    "requirements/dev.lock",
])  # fmt: skip
def test_a_change_in_what_such_a_test_reads_asks_for_it_again(root: Path, workspace: Workspace, name: str) -> None:
    assert changes(root, workspace, name)


@pytest.mark.parametrize("name", [
    "labs/01_inside_a_cluster/checks.py", "course/01_inside_a_cluster.md", "tests/labs/test_held.py",
    "tests/system/test_survival.py",
])  # fmt: skip
def test_a_change_in_another_lab_or_test_does_not(root: Path, workspace: Workspace, name: str) -> None:
    assert not changes(root, workspace, name)


def test_a_receipt_is_one_tests_and_counts_for_a_while(root: Path, workspace: Workspace) -> None:
    lab = LabFolder(root / LAB)
    path, another = (held.receipt(workspace, name, lab) for name in (TEST, "another"))
    assert held.when(path) is None
    held.keep(path, TEST)
    assert held.when(path)
    assert held.when(another) is None
    long_ago = time.time() - GOOD_FOR.total_seconds()
    os.utime(path, (long_ago, long_ago))
    assert held.when(path) is None
    held.keep(another, "another")
    assert [found.name for found in path.parent.iterdir()] == [another.name]
