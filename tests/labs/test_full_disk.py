"""On a full disk nothing that was there is lost, and no part of a file is taken for a whole one.

A file that is to be written as NAME is first written as NAME.new; where that leads to full(4), it is as on a full disk.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkers import prober
from checkers.declare import Checks
from checkers.restore import Restorer
from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from cluster.workspace import Workspace
from course import manifest
from labs import cli, lifecycle
from labs.catalog import lab_numbered
from labs.desk import Desk
from labs.progress import Progress
from tests.checkers.test_runner import Bench, lab_with

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="full(4) is Linux's")


def no_room_for(path: Path) -> None:
    """The next attempt to write this file finds no room, the one after it does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.new").symlink_to(FULL)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / ".kailab", tmp_path / "cache")


def test_points_stay(workspace: Workspace) -> None:
    progress = Progress(workspace)
    progress.lab(6).best = 20
    progress.save()
    progress.lab(6).best = 3
    no_room_for(workspace.state / "progress.json")
    with pytest.raises(OSError, match=r"No space left.*progress\.json"):
        progress.save()
    assert Progress(workspace).lab(6).best == 20


def test_no_empty_token_is_left_behind(workspace: Workspace) -> None:
    no_room_for(workspace.state / "prober-token")
    with pytest.raises(OSError, match="No space left"):
        prober.token(workspace)
    assert len(prober.token(workspace)) == 32


def test_what_is_to_be_restored_stays_known(tmp_path: Path) -> None:
    """The second note comes when something has been disturbed already."""
    journal = tmp_path / "restore" / "lab-06.json"
    restorer = Restorer(journal, "lab-06")
    restorer.protect([{"kind": "Deployment", "metadata": {"name": "ai-api"}}])
    no_room_for(journal)
    with pytest.raises(OSError, match="No space left"):
        restorer.cordons("cpu")
    assert [item["metadata"]["name"] for item in json.loads(journal.read_text())["objects"]] == ["ai-api"]


def test_a_starter_is_laid_whole_or_not_at_all(tmp_path: Path) -> None:
    lab = lab_numbered(6)
    starter = next(path for path in sorted((lab.path / "starter").glob("*")))
    no_room_for(tmp_path / starter.name)
    with pytest.raises(OSError, match="No space left"):
        lifecycle.lay_out(tmp_path, lab)
    assert not (tmp_path / starter.name).exists()
    lifecycle.lay_out(tmp_path, lab)
    assert (tmp_path / starter.name).read_bytes() == starter.read_bytes()


def test_a_manifest_that_a_cell_replaces_stays(tmp_path: Path) -> None:
    (tmp_path / "deployment.yaml").write_text("kind: Deployment\n")
    no_room_for(tmp_path / "deployment.yaml")
    with pytest.raises(OSError, match="No space left"):
        manifest._keep(tmp_path, "deployment.yaml", "kind: Deployment\nspec: {}\n")
    assert (tmp_path / "deployment.yaml").read_text() == "kind: Deployment\n"


def _report(outcome: Outcome) -> Report:
    result = CheckResult("up", "run", "The pods are up", outcome, 0.0, 2.0, expected="3 pods", observed="1 pod")
    return Report(6, "deployments", "Deployments", "lab-06", (result,), 1.0, ClusterInfo("kailab", "v1.37.2", "uid"))


def test_a_report_is_shown_also_when_its_points_find_no_room(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAILAB_HOME", str(workspace.state))
    monkeypatch.setattr(sys, "argv", ["kailab", "check", "6", "--json"])
    monkeypatch.setenv("COLUMNS", "300")

    def check(lab: Any, task: str, as_json: bool, *, quick: bool = False) -> int:
        desk = Desk(workspace, lab)
        cli._note_and_print(_report(Outcome.FAIL), desk, as_json, keep=True)
        return 1

    monkeypatch.setattr(cli, "_check", check)
    no_room_for(workspace.state / "progress.json")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == cli.AT_FAULT
    assert json.loads(said.out)["checks"][0]["observed"] == "1 pod"
    assert "progress.json" in said.err
    assert "free some space" in said.err
    assert "Traceback" not in said.err


def test_a_crash_without_room_for_its_log_shows_no_traceback(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAILAB_HOME", str(workspace.state))
    monkeypatch.setattr(sys, "argv", ["kailab", "list"])
    workspace.logs.mkdir(parents=True)
    (workspace.logs / "crash.log").symlink_to(FULL)

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit):
        cli.main()
    assert "kailab itself broke: ZeroDivisionError" in capsys.readouterr().err


def _no_room(_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/state/restore/lab-06.json")


def _broken(_: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(("check", "says"), [(_no_room, "disk of this machine is full"), (_broken, "itself broke")])
def test_a_check_without_room_costs_no_point_and_no_other_check(
    tmp_path: Path, check: Callable[[Any], None], says: str
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "checker-errors.log").symlink_to(FULL)
    checks = Checks()
    checks.once("a")(check)
    checks.once("b")(lambda lab: None)
    first, second = Bench(tmp_path)(checks, lab_with(one="a b")).checks
    assert first.outcome is Outcome.ERROR
    assert says in first.observed
    assert second.outcome is Outcome.PASS
