"""Notes on a student's own files help, and never stand in the way of a report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from cluster.api import Unreachable
from cluster.kinds import Kind, kind_named
from cluster.workspace import Workspace
from labs import cli, lifecycle, worknotes
from labs.catalog import lab_numbered
from labs.progress import Progress

DEPLOYMENT = "apiVersion: {version}\nkind: Deployment\nmetadata:\n  name: {name}\n"
FAILED = CheckResult("shape", "run", "There are three replicas", Outcome.FAIL, 0.0, 2.0, observed="there is one")
REPORT = Report(6, "deployments", "Deployments", "lab-06", (FAILED,), 1.0, ClusterInfo("kailab", "v1.37.2", "uid"))


class Api:
    """Empty, and with an API server's own paths; or, once lost, no API server at all."""

    def __init__(self, *, lost: bool = False) -> None:
        self._lost = lost

    def get(self, kind: Any, name: str, namespace: str = "") -> Any:
        if self._lost:
            raise Unreachable("no answer")
        kind_named(kind).path(namespace, name)

    def create(self, item: Any, namespace: str = "", *, dry_run: bool = False) -> None:
        Kind.of(item).path(namespace)
        raise Unreachable("no answer")


@pytest.mark.parametrize(("version", "name", "says"), [
    ("Apps/v1", "ai-api", "'Apps/v1' can't be an apiVersion"), ("V1", "ai-api", "'V1' can't be an apiVersion"),
    ("apps/v1", "a/b", "'a/b' can't be a name in Kubernetes"),
])  # fmt: skip
def test_what_no_cluster_takes_is_a_note(tmp_path: Path, version: str, name: str, says: str) -> None:
    (tmp_path / "deployment.yaml").write_text(DEPLOYMENT.format(version=version, name=name))
    (note,) = worknotes.notes(Api(), tmp_path, "lab-06")  # type: ignore[arg-type]
    assert "deployment.yaml: " in note
    assert says in note


@pytest.mark.parametrize("lost", [True, False])
def test_a_cluster_that_is_away_gives_no_notes(tmp_path: Path, lost: bool) -> None:
    (tmp_path / "deployment.yaml").write_text(DEPLOYMENT.format(version="apps/v1", name="ai-api"))
    assert worknotes.notes(Api(lost=lost), tmp_path, "lab-06") == []  # type: ignore[arg-type]


def test_a_report_is_kept_and_shown_before_anything_else_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path / ".kailab", tmp_path / "cache")

    @contextmanager
    def opened(_: Workspace) -> Iterator[Any]:
        yield SimpleNamespace(api=None)

    def broken(*_: Any) -> list[str]:
        raise ZeroDivisionError

    monkeypatch.setenv("KAILAB_HOME", str(workspace.state))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(lifecycle.Course, "opened", opened)
    monkeypatch.setattr(lifecycle, "check", lambda *_, **__: SimpleNamespace(report=REPORT))
    monkeypatch.setattr(worknotes, "notes", broken)
    with pytest.raises(ZeroDivisionError):
        cli._check(lab_numbered(6), "", as_json=False)
    assert "there is one" in capsys.readouterr().out
    assert Progress(workspace).lab(6).failing == ["run"]
