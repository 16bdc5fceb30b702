"""A gate's receipt is good for the files that it was given for, and for those only."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.workspace import SOURCE_ROOT, Workspace
from labs import catalog, receipts
from labs.catalog import LabFolder
from labs.receipts import GOOD_FOR, Receipt

LAB = "labs/06_deployments"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, to change."""
    root = tmp_path / "checkout"
    for name in ("checkers", "cluster", "labs", "requirements"):
        shutil.copytree(SOURCE_ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(receipts, "SOURCE_ROOT", root)
    monkeypatch.setattr(catalog, "LABS", root / "labs")
    return root


def receipt(at: datetime) -> Receipt:
    return Receipt(6, (), {"starter": 3.0}, 178.9, "v1.37.2", at)


@pytest.mark.parametrize("name", [
    f"{LAB}/checks.py", f"{LAB}/solution/budget.yaml", f"{LAB}/mutants/a-new-one.yaml", "labs/gate.py",
    "labs/apps/ai_api/Dockerfile", "checkers/runner.py", "checkers/report/terminal.py", "cluster/scheduler.yaml",
    "cluster/gpu/node/agent.py", "requirements/lab.lock",
])  # fmt: skip
def test_a_change_in_what_a_gate_reads_asks_for_it_again(root: Path, name: str) -> None:
    lab = LabFolder(root / LAB)
    before = receipts.hash_of_inputs(lab)
    with (root / name).open("a") as file:
        file.write("# changed\n")
    assert receipts.hash_of_inputs(lab) != before


@pytest.mark.parametrize("name", [
    "labs/01_inside_a_cluster/checks.py", "labs/grading/rooms.py", "labs/cli.py", "labs/WRITE_A_LAB.md",
    "checkers/notebook/panel.js", "requirements/dev.lock", "labs/__pycache__/gate.cpython-311.pyc",
    "cluster/__pycache__/api.cpython-311.pyc",
])  # fmt: skip
def test_a_change_in_what_it_does_not_read_leaves_it_true(root: Path, name: str) -> None:
    lab = LabFolder(root / LAB)
    before = receipts.hash_of_inputs(lab)
    (root / name).parent.mkdir(exist_ok=True)
    with (root / name).open("a") as file:
        file.write("# changed\n")
    assert receipts.hash_of_inputs(lab) == before


def test_a_receipt_is_found_until_a_file_changes_or_it_grows_old(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, workspace, now = LabFolder(root / LAB), Workspace(tmp_path / "state", tmp_path / "cache"), datetime.now(UTC)
    assert receipts.find(workspace, lab) is None
    receipts.keep(workspace, lab, receipts.hash_of_inputs(lab), receipt(now))
    assert receipts.find(workspace, lab) == receipt(now)
    assert receipts.find(workspace, LabFolder(root / "labs/01_inside_a_cluster")) is None
    (root / LAB / "lab.yaml").write_text((root / LAB / "lab.yaml").read_text() + "\n")
    assert receipts.find(workspace, lab) is None
    receipts.keep(workspace, lab, receipts.hash_of_inputs(lab), receipt(now - GOOD_FOR))
    assert receipts.find(workspace, lab) is None


def test_one_that_can_not_be_read_is_none(root: Path, tmp_path: Path) -> None:
    lab, workspace = LabFolder(root / LAB), Workspace(tmp_path / "state", tmp_path / "cache")
    receipts.keep(workspace, lab, receipts.hash_of_inputs(lab), receipt(datetime.now(UTC)))
    (path,) = (tmp_path / "cache" / "receipts").iterdir()
    path.write_text("{")
    assert receipts.find(workspace, lab) is None
