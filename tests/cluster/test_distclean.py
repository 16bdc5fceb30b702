"""What can be made again is removed, under its locks; what students made stays, and so do others' images."""

from __future__ import annotations

import io
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from filelock import FileLock
from rich.console import Console

from cluster import bringup
from cluster import engine as engines
from cluster.engine import IMAGE_LABEL, Engine, label_of
from cluster.errors import KailabError
from cluster.workspace import Workspace


@dataclass(frozen=True)
class FakeEngine(Engine):
    """Images by the names that `docker image ls` tells, with their labels; those in `used` can't be removed."""

    images: dict[str, dict[str, str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    held: list[Path] = field(default_factory=list)

    def endpoint(self) -> str:
        return ""

    def run(self, *args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        words = list(map(str, args))
        short = words[-1].removeprefix("docker.io/").removeprefix("library/")
        said, status = "", 0
        match words[:2]:
            case ["image", "ls"]:
                label = words[words.index("--filter") + 1].removeprefix("label=")
                said = "\n".join(name for name, labels in self.images.items() if label in labels)
            case ["image", "inspect"]:
                assert IMAGE_LABEL in words[3]
                said = f"an-id {self.images[short][IMAGE_LABEL]}"
            case ["image", "rm"]:
                assert "--force" not in words
                assert all(_is_held(lock) for lock in self.held)
                status = 1 if short in self.used else 0
                if not status:
                    del self.images[short]
            case _:
                raise AssertionError(words)
        return subprocess.CompletedProcess(words, status, said, "")

    def add(self, name: str, labelled: str = "") -> None:
        self.images[name] = dict([label_of(labelled).split("=")]) if labelled else {}


def _is_held(lock: Path) -> bool:
    asked = FileLock(lock, timeout=0)
    try:
        asked.acquire()
    except TimeoutError:
        return True
    asked.release()
    return False


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    state, cache = tmp_path / "course/.kailab", tmp_path / "cache"
    for path in (state / "logs/nodes.log", state / "progress.json", state / "evidence/lab-06.json", state / "restore/x",
                 state / "chapters/06", cache / "programs/kind/kind", cache / "bin/kubectl", cache / "receipts/06",
                 cache / "of-others", cache / "engine/dockerd.log"):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    monkeypatch.setenv("KAILAB_HOME", str(state))
    monkeypatch.setenv("KAILAB_CACHE", str(cache))
    return Workspace(state, cache)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine("docker", "28")
    monkeypatch.setattr(engines, "find", lambda: engine)
    return engine


def clean(workspace: Workspace) -> str:
    said = io.StringIO()
    bringup.remove_caches(workspace, Console(file=said, width=400))
    return said.getvalue()


def files(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(".lock")}


def test_points_and_evidence_stay_and_it_is_said_where(workspace: Workspace, engine: FakeEngine) -> None:
    said = clean(workspace)
    assert files(workspace.state) == {"progress.json", "evidence/lab-06.json", "restore/x", "chapters/06"}
    assert str(workspace.state) in said
    assert str(workspace.work) in said


def test_of_the_cache_folder_goes_what_kailab_has_put_there(workspace: Workspace, engine: FakeEngine) -> None:
    clean(workspace)
    assert files(workspace.cache) == {"of-others"}


def test_only_images_that_kailab_made_are_removed(workspace: Workspace, engine: FakeEngine) -> None:
    engine.add("ai-app:v1", labelled="ai-app:v1")
    engine.add("kailab/gpu:v1", labelled="kailab/gpu:v1")
    engine.add("registry.k8s.io/pause:3", labelled="registry.k8s.io/pause:3")
    engine.add("ai-app:dev")  # a student's own
    engine.add("gpu-app:mine", labelled="gpu-app:v1")  # built upon ours
    engine.add("kailab/theirs:v1")
    clean(workspace)
    assert set(engine.images) == {"ai-app:dev", "gpu-app:mine", "kailab/theirs:v1"}


def test_images_of_another_checkouts_cluster_stay_and_are_named(workspace: Workspace, engine: FakeEngine) -> None:
    engine.add("kailab/node-worker:abc", labelled="kailab/node-worker:abc")
    engine.used.add("kailab/node-worker:abc")
    assert "kailab/node-worker:abc" in clean(workspace)
    assert "kailab/node-worker:abc" in engine.images


def test_nothing_is_removed_under_somebodys_build(workspace: Workspace, engine: FakeEngine) -> None:
    engine.add("ai-app:v1", labelled="ai-app:v1")
    engine.held[:] = [workspace.cache / name for name in ("node-image.lock", "images.lock", "tools.lock")]
    clean(workspace)
    assert engine.images == {}
    assert not any(_is_held(lock) for lock in engine.held)
    assert all(lock.exists() for lock in engine.held)


def test_a_docker_of_ours_that_must_go_on_stays_known_as_ours(
    workspace: Workspace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.cache / "engine/dockerd.pid").write_text("7")
    monkeypatch.setattr(engines, "started_by_us", lambda workspace: 7)
    monkeypatch.setattr(engines, "_is_empty", lambda: False)
    clean(workspace)
    assert (workspace.cache / "engine/dockerd.pid").read_text() == "7"


def test_without_an_engine_it_says_that_images_stay(
    workspace: Workspace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find", lambda: None)
    assert "stay there" in clean(workspace)
    assert files(workspace.cache) == {"of-others"}


def test_what_could_not_be_removed_is_named(
    workspace: Workspace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bringup.shutil, "rmtree", lambda path, ignore_errors: None)
    with pytest.raises(KailabError) as caught:
        clean(workspace)
    assert str(workspace.cache / "programs") in caught.value.why.splitlines()


def test_caches_stay_where_the_cluster_could_not_be_removed(
    workspace: Workspace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labs.cli import app

    (workspace.state / "cluster.json").write_text('{"uid": "u-1"}')
    monkeypatch.setattr(engines, "find", lambda: None)
    before = files(workspace.cache)
    assert isinstance(CliRunner().invoke(app, ["distclean"]).exception, KailabError)
    assert files(workspace.cache) == before
    assert (workspace.state / "cluster.json").exists()
