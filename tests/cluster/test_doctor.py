"""`kailab doctor` tells of each need whether it is met, and doesn't nag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster import doctor, engine, kernel
from cluster.doctor import Finding
from cluster.engine import Engine
from cluster.kindconfig import Machine
from cluster.workspace import Workspace

DOCKER = Engine("docker", "28.2.2", "6.8.0")
Look = Callable[[], dict[str, Finding]]


@pytest.fixture
def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """All findings by their names, of a machine with Docker 28, an open user and the usual limits."""
    monkeypatch.setattr("platform.release", lambda: "6.8.0")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(engine, "find", lambda: DOCKER)
    monkeypatch.setattr(Engine, "endpoint", lambda self: "unix:///var/run/docker.sock")
    monkeypatch.setattr(Engine, "folder", lambda self: tmp_path / "engine" / "not" / "there")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: _Usage(100 * 2**30))
    monkeypatch.setattr(doctor.registry, "answers", lambda: True)
    monkeypatch.setattr(doctor.nodeimage, "is_built", lambda found: True)
    monkeypatch.setattr(doctor.bringup, "machine_of", lambda found: Machine(4, 16 * 2**10))
    monkeypatch.setattr(doctor.tools, "find_kind", lambda workspace: None)
    monkeypatch.setattr(doctor.tools, "find_kubectl", lambda workspace: None)
    monkeypatch.setattr(kernel, "inotify_instances", lambda: 128)
    workspace = Workspace(tmp_path / ".kailab", tmp_path / "cache")
    return lambda: {finding.what: finding for finding in doctor.examine(workspace)}


class _Usage(NamedTuple):
    free: int


def test_an_ordinary_machine_has_nothing_to_fix(examine: Look) -> None:
    findings = examine()
    assert [finding.what for finding in findings.values() if not finding.ok] == []
    assert findings["container engine"] == Finding("container engine", True, "docker 28.2.2")


@pytest.mark.parametrize(
    ("limit", "ok", "told"), [(64, False, True), (128, True, True), (512, True, False), (8192, True, False)]
)
def test_file_watchers_are_a_fault_only_where_one_cluster_has_too_few(
    examine: Look, monkeypatch: pytest.MonkeyPatch, limit: int, ok: bool, told: bool
) -> None:
    monkeypatch.setattr(kernel, "inotify_instances", lambda: limit)
    finding = examine()["inotify instances"]
    assert finding.ok is ok
    assert finding.mend == (kernel.RAISE if told else "")


def test_the_limits_of_a_kernel_that_nodes_do_not_run_on_are_nobodys_business(
    examine: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "inotify_instances", lambda: 8)
    monkeypatch.setattr("platform.release", lambda: "6.8.0-of-the-host")
    assert "inotify instances" not in examine()


def test_an_engine_on_another_machine_is_to_be_fixed(examine: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "endpoint", lambda self: "ssh://me@gpu-box")
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@gpu-box")
    finding = examine()["container engine"]
    assert not finding.ok
    assert "ssh://me@gpu-box" in finding.found
    assert "unset DOCKER_HOST" in finding.mend


def test_a_rootless_engine_is_told_what_to_expect(examine: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find", lambda: Engine("podman", "5.4.0", "6.8.0", rootless=True))
    finding = examine()["container engine"]
    assert finding.ok
    assert finding.found == "podman 5.4.0, rootless"
    assert "cgroup v2" in finding.mend


@pytest.mark.parametrize(
    ("program", "version", "old"),
    [("docker", "20.10.24+dfsg1", True), ("docker", "26.1.5+dfsg1", False), ("podman", "3.4.4", True),
     ("podman", "4.3.1", False), ("docker", "master-dockerproject", False)],
)  # fmt: skip
def test_an_engine_older_than_any_tried_is_told(
    examine: Look, monkeypatch: pytest.MonkeyPatch, program: str, version: str, old: bool
) -> None:
    monkeypatch.setattr(engine, "find", lambda: Engine(program, version, "6.8.0"))
    finding = examine()["container engine"]
    assert finding.ok
    assert ("install a newer one" in finding.mend) is old


def test_memory_is_what_the_engine_has(examine: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.bringup, "machine_of", lambda found: Machine(4, 2 * 2**10))
    finding = examine()["memory"]
    assert not finding.ok
    assert finding.found == "2 GiB"


def test_the_disk_with_the_least_room_counts(examine: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: _Usage(2**30 if folder.name == "engine" else 2**40))
    finding = examine()["disk"]
    assert not finding.ok
    assert finding.found == f"1 GiB free at {tmp_path / 'engine'}"
    assert "df -h" in finding.mend


def test_without_an_engine_the_reason_is_told(examine: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find", lambda: None)
    monkeypatch.setattr(engine, "_complaint", lambda program: "permission denied")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(engine, "_asked", lambda: ("docker", "podman"))
    finding = examine()["container engine"]
    assert not finding.ok
    assert "newgrp docker" in finding.mend
