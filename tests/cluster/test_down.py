"""What `down` says is removed is removed, and what it can't remove it doesn't lose sight of."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster import advice, bringup, note
from cluster import engine as engines
from cluster.engine import Engine
from cluster.errors import KailabError
from cluster.identity import Identity
from cluster.run import CommandFailed
from cluster.workspace import Workspace

SOCKET = "unix:///var/run/docker.sock"


@dataclass(frozen=True)
class FakeEngine(Engine):
    """Holds containers by cluster, and Podman's volumes by label; those in `stuck` can't be removed.

    Nor can those in `frozen`, until a container that shares the machine's control groups has thawed them.
    """

    at: str = SOCKET
    clusters: dict[str, list[str]] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)
    volumes: dict[str, str] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)

    def endpoint(self) -> str:
        return self.at

    def run(self, *args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        words = list(map(str, args))
        said = ""
        if words[0] == "ps":
            said = "\n".join(self.clusters.get(words[words.index("--filter") + 1].rpartition("=")[2], []))
        elif words[:2] == ["volume", "ls"]:
            said = self.volumes.get(words[-1].removeprefix("label="), "")
        elif words[:2] == ["volume", "rm"]:
            if any(name in self.stuck for name in words):
                raise CommandFailed(words, "failed with status 2", "volume is being used")
            for label in [label for label, name in self.volumes.items() if name in words]:
                del self.volumes[label]
        elif words[0] == "rm":
            self._remove(set(words))
        elif words[:2] == ["container", "inspect"]:
            said = "\n".join(f"id-of-{name} image-of-{name}" for name in words[4:])
        elif words[0] == "run":
            assert "--volume=/sys/fs/cgroup:/host" in words
            self.frozen[:] = [name for name in self.frozen if f"id-of-{name}" not in words]
        else:
            raise AssertionError(words)
        return subprocess.CompletedProcess(words, 0, said, "")

    def _remove(self, words: set[str]) -> None:
        stay = {*self.stuck, *self.frozen}
        for names in self.clusters.values():
            names[:] = [name for name in names if name not in words or name in stay]
        if stay & words:
            raise CommandFailed(["rm"], "failed with status 1", "device or resource busy")

    def add(self, cluster: str) -> None:
        self.clusters[cluster] = [f"{cluster}-control-plane", f"{cluster}-worker"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return made(tmp_path / "one")


def made(folder: Path) -> Workspace:
    (folder / ".kailab").mkdir(parents=True)
    return Workspace(folder / ".kailab", folder.parent / "cache")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine("docker", "28")
    answers(engine, monkeypatch)
    return engine


def answers(engine: Engine | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find", lambda: engine)
    monkeypatch.setattr(engines, "can_install", lambda: False)
    monkeypatch.setattr(engines, "why_none", lambda: advice.Missing("Docker does not run", "service docker start"))


def has_cluster(workspace: Workspace, engine: FakeEngine) -> None:
    Identity.begin(workspace, engine.program, engine.at)
    Identity.keep(workspace, uid="u-1", creating=False)
    workspace.kubeconfig.write_text("login")
    (workspace.state / "shared").mkdir()
    engine.add(workspace.cluster_name)


def files(workspace: Workspace) -> set[str]:
    return {path.name for path in workspace.state.iterdir()} - {"up.lock", "logs"}


def down(workspace: Workspace) -> str:
    said = io.StringIO()
    bringup.down(workspace, Console(file=said, width=400))
    return said.getvalue()


def test_a_cluster_is_removed_with_its_notes_and_others_stay(workspace: Workspace, engine: FakeEngine) -> None:
    has_cluster(workspace, engine)
    engine.add("kailab-of-others")
    assert f"removed cluster {workspace.own_name}" in down(workspace)
    assert {name for name, left in engine.clusters.items() if left} == {"kailab-of-others"}
    assert files(workspace) == set()


def test_a_node_whose_processes_are_frozen_is_thawed_and_removed(workspace: Workspace, engine: FakeEngine) -> None:
    has_cluster(workspace, engine)
    engine.frozen.extend([f"{workspace.own_name}-worker", "kailab-of-others-worker"])
    assert f"removed cluster {workspace.own_name}" in down(workspace)
    assert not engine.clusters[workspace.own_name]
    assert engine.frozen == ["kailab-of-others-worker"]


@pytest.mark.parametrize("with_containers", [True, False])
def test_podmans_volumes_go_with_the_cluster_and_those_of_others_stay(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, with_containers: bool
) -> None:
    engine = FakeEngine("podman", "4")
    answers(engine, monkeypatch)
    has_cluster(workspace, engine)
    if not with_containers:  # as a `down` left it that was killed between the two
        engine.clusters.clear()
    labels = (f"{workspace.own_name}-control-plane", f"{workspace.own_name}-worker4", "kailab-of-others-worker")
    engine.volumes.update({label: f"volume-{at}" for at, label in enumerate(labels)})
    assert "removed cluster" in down(workspace)
    assert engine.volumes == {"kailab-of-others-worker": "volume-2"}


def test_a_volume_that_stays_is_said(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine("podman", "4", stuck=["volume-0"])
    answers(engine, monkeypatch)
    has_cluster(workspace, engine)
    engine.clusters.clear()
    engine.volumes[f"{workspace.own_name}-worker"] = "volume-0"
    with pytest.raises(KailabError, match="volume-0 remain") as failed:
        down(workspace)
    assert "being used" in failed.value.why
    assert "kailab down" in failed.value.mend


def test_where_there_never_was_a_cluster_down_says_so(
    workspace: Workspace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert down(workspace).strip() == "there is no course cluster here"
    answers(None, monkeypatch)
    assert down(workspace).strip() == "there is no course cluster here"
    answers(FakeEngine("docker", "28", at="ssh://me@gpu-box"), monkeypatch)
    assert down(workspace).strip() == "there is no course cluster here"


def test_a_cluster_whose_notes_are_lost_is_found_by_its_label(workspace: Workspace, engine: FakeEngine) -> None:
    engine.add(workspace.own_name)
    assert f"removed cluster {workspace.own_name}" in down(workspace)


def refused(workspace: Workspace) -> KailabError:
    """What `down` says while it leaves everything as it was."""
    before = files(workspace)
    with pytest.raises(KailabError) as caught:
        down(workspace)
    assert files(workspace) == before
    assert workspace.own_name in caught.value.what or "another machine" in caught.value.what
    assert "kailab down" in caught.value.mend
    return caught.value


def test_with_the_engine_stopped_nothing_is_said_to_be_removed(
    workspace: Workspace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_cluster(workspace, engine)
    answers(None, monkeypatch)
    assert "service docker start" in refused(workspace).mend
    answers(engine, monkeypatch)
    assert "removed" in down(workspace)


@pytest.mark.parametrize("lost", ["cluster.json", "kubeconfig"])
def test_either_of_note_and_login_tells_that_there_is_a_cluster(
    workspace: Workspace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    has_cluster(workspace, engine)
    (workspace.state / lost).unlink()
    answers(None, monkeypatch)
    refused(workspace)


def test_an_engine_on_another_machine_is_not_asked_to_remove_it(
    workspace: Workspace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_cluster(workspace, engine)
    answers(FakeEngine("docker", "28", at="ssh://me@gpu-box"), monkeypatch)
    assert "another machine" in refused(workspace).what


@pytest.mark.parametrize(
    ("other", "setting"),
    [
        (FakeEngine("docker", "28", at="unix:///home/me/.docker/desktop/docker.sock"), f"DOCKER_HOST={SOCKET} "),
        (FakeEngine("podman", "5", at=""), f"{engines.CHOICE}=docker DOCKER_HOST={SOCKET} "),
    ],
)
def test_an_engine_that_does_not_have_the_cluster_is_not_taken_for_the_one_that_has_it(
    workspace: Workspace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, other: FakeEngine, setting: str
) -> None:
    has_cluster(workspace, engine)
    answers(other, monkeypatch)
    assert refused(workspace).mend.startswith(setting)
    with pytest.raises(KailabError, match="in another engine"):
        bringup._settled_name(workspace, other)


def test_the_same_engine_by_another_way_is_the_same(
    workspace: Workspace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_cluster(workspace, engine)
    answers(FakeEngine("docker", "28", at="tcp://127.0.0.1:2375", clusters=engine.clusters), monkeypatch)
    assert "removed" in down(workspace)


def test_containers_removed_by_hand_are_removed(workspace: Workspace, engine: FakeEngine) -> None:
    has_cluster(workspace, engine)
    engine.clusters.clear()
    assert "removed" in down(workspace)
    assert files(workspace) == set()


def test_what_the_engine_could_not_remove_is_named(workspace: Workspace, engine: FakeEngine) -> None:
    has_cluster(workspace, engine)
    engine.stuck.append(f"{workspace.own_name}-worker")
    told = refused(workspace)
    assert f"{workspace.own_name}-worker remain" in told.what
    assert "busy" in told.why
    engine.stuck.clear()
    assert "removed" in down(workspace)


def move(one: Workspace, to: Path) -> Workspace:
    one.state.parent.rename(to)
    return Workspace(to / ".kailab", one.cache)


def copy(one: Workspace, to: Path) -> Workspace:
    shutil.copytree(one.state.parent, to)
    return Workspace(to / ".kailab", one.cache)


def test_a_moved_checkout_removes_the_cluster_that_it_made(
    workspace: Workspace, engine: FakeEngine, tmp_path: Path
) -> None:
    has_cluster(workspace, engine)
    moved = move(workspace, tmp_path / "two")
    assert moved.cluster_name == workspace.own_name != moved.own_name
    assert f"removed cluster {workspace.own_name}" in down(moved)
    assert not any(engine.clusters.values())
    assert moved.cluster_name == moved.own_name


def test_a_moved_checkout_keeps_its_cluster_also_when_it_is_brought_up(
    workspace: Workspace, engine: FakeEngine, tmp_path: Path
) -> None:
    has_cluster(workspace, engine)
    moved = move(workspace, tmp_path / "two")
    assert bringup._settled_name(moved, engine) == workspace.own_name
    noted = note.read(moved.state)
    assert (noted["state"], noted["uid"]) == (str(moved.state), "u-1")
    assert move(moved, tmp_path / "three").cluster_name == workspace.own_name


def test_the_name_of_a_moved_checkouts_cluster_goes_with_the_cluster(
    workspace: Workspace, engine: FakeEngine, tmp_path: Path
) -> None:
    has_cluster(workspace, engine)
    moved = move(workspace, tmp_path / "two")
    engine.clusters.clear()
    assert bringup._settled_name(moved, engine) == moved.own_name
    assert files(moved) == set()


def test_stopped_nodes_of_a_moved_checkout_are_not_started_with_empty_folders(
    workspace: Workspace, engine: FakeEngine, tmp_path: Path
) -> None:
    has_cluster(workspace, engine)
    bringup._need_mounts(workspace, [])
    moved = move(workspace, tmp_path / "two")
    bringup._settled_name(moved, engine)
    with pytest.raises(KailabError, match="was moved"):
        bringup._need_mounts(moved, [])
    (tmp_path / "one").symlink_to(tmp_path / "two")
    bringup._need_mounts(moved, [])


@pytest.mark.parametrize("do", [down, lambda copied: Identity.disown(copied)])
def test_a_copied_checkout_leaves_the_originals_cluster_alone(
    workspace: Workspace, engine: FakeEngine, tmp_path: Path, do: Callable[[Workspace], str]
) -> None:
    has_cluster(workspace, engine)
    copied = copy(workspace, tmp_path / "two")
    assert copied.cluster_name == copied.own_name
    assert str(workspace.state) in do(copied)
    assert files(copied) <= {"shared"}
    assert len(engine.clusters[workspace.own_name]) == 2
    assert files(workspace) == {"cluster.json", "kubeconfig", "shared"}
    assert workspace.cluster_name == workspace.own_name


def test_a_copy_outlives_its_original(workspace: Workspace, engine: FakeEngine, tmp_path: Path) -> None:
    has_cluster(workspace, engine)
    copied = copy(workspace, tmp_path / "two")
    shutil.rmtree(workspace.state.parent)
    assert "removed" in down(copied)
    assert not any(engine.clusters.values())


def test_a_note_of_an_earlier_kailab_gets_name_and_place(workspace: Workspace, engine: FakeEngine) -> None:
    (workspace.state / "cluster.json").write_text(json.dumps({"uid": "u-1", "engine": "docker"}))
    assert bringup._settled_name(workspace, engine) == workspace.own_name
    noted = note.read(workspace.state)
    assert (noted["name"], noted["state"], noted["uid"]) == (workspace.own_name, str(workspace.state), "u-1")


def test_a_copied_checkout_is_brought_up_with_a_cluster_of_its_own(
    workspace: Workspace, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_cluster(workspace, engine)
    copied = copy(workspace, tmp_path / "two")
    monkeypatch.setattr(engines, "ensure", lambda workspace, log: engine)
    said: list[str] = []
    bringing = bringup.Bringup(copied, bringup.Extras())
    bringing._find_engine(tmp_path / "log", said.append)
    assert bringing._name == copied.own_name
    assert files(copied) == {"shared"}
    assert str(workspace.state) in said[0]
    Identity.begin(copied, "docker", SOCKET)
    assert (workspace.cluster_name, copied.cluster_name) == (workspace.own_name, copied.own_name)


def test_status_of_a_moved_checkout_is_that_of_its_cluster(
    workspace: Workspace, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_cluster(workspace, engine)
    asked: list[str] = []
    absent = [bringup.nodes.NodeState(node, "", "absent") for node in bringup.NODES]
    monkeypatch.setattr(bringup.nodes, "states", lambda engine, cluster: asked.append(cluster) or absent)
    moved, copied = copy(workspace, tmp_path / "two"), copy(workspace, tmp_path / "three")
    assert bringup.status(copied).cluster == copied.own_name
    shutil.rmtree(workspace.state)
    assert bringup.status(moved).cluster == workspace.own_name
    assert asked == [copied.own_name, workspace.own_name]


def test_what_does_not_get_ready_after_a_move_is_to_be_made_anew(
    workspace: Workspace, engine: FakeEngine, tmp_path: Path
) -> None:
    has_cluster(workspace, engine)
    assert "kailab status" in bringup.Bringup(workspace, bringup.Extras())._how_to_get_ready()
    moved = move(workspace, tmp_path / "two")
    assert "was moved" in bringup.Bringup(moved, bringup.Extras())._how_to_get_ready()
