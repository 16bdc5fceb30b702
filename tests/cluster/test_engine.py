"""Which engine is used, under which names images go to it, and when it is of no use here."""

from __future__ import annotations

import platform
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import engine as engines
from cluster.engine import Engine
from cluster.errors import KailabError
from cluster.identity import Identity
from cluster.workspace import Workspace


class Programs:
    """Stand-ins on PATH for docker and podman, and what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = folder / "asked"

    def add(self, name: str, script: str) -> None:
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.asked}\n{script}\n')
        program.chmod(0o755)

    def calls(self) -> list[str]:
        return self.asked.read_text().splitlines() if self.asked.exists() else []


DOCKER = r"printf '28.2.2\t6.1.0-custom\t[name=seccomp,profile=builtin]\n'"
PODMAN = r"printf '5.4.0\t6.1.0-custom\t\n'"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINER_HOST", engines.CHOICE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(engines.shutil, "which", lambda name: _which(tmp_path / "bin", name))
    monkeypatch.setenv("KAILAB_HOME", str(tmp_path / ".kailab"))
    (tmp_path / ".kailab").mkdir()
    return Programs(tmp_path / "bin")


def _which(folder: Path, name: str) -> str | None:
    return str(folder / name) if (folder / name).exists() else None


def test_docker_is_taken_first(programs: Programs) -> None:
    programs.add("docker", DOCKER)
    programs.add("podman", PODMAN)
    assert engines.find() == Engine("docker", "28.2.2", "6.1.0-custom")


def test_podman_answers_where_docker_does_not(programs: Programs) -> None:
    programs.add("docker", "exit 1")
    programs.add("podman", PODMAN)
    assert engines.find() == Engine("podman", "5.4.0", "6.1.0-custom")


def test_kinds_own_variable_chooses(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.add("docker", DOCKER)
    programs.add("podman", PODMAN)
    monkeypatch.setenv("KIND_EXPERIMENTAL_PROVIDER", "podman")
    found = engines.find()
    assert found is not None
    assert found.program == "podman"
    assert found.env["KIND_EXPERIMENTAL_PROVIDER"] == "podman"


def test_a_cluster_in_a_docker_that_is_stopped_is_not_looked_for_in_podman(programs: Programs) -> None:
    """Else `up` would make a second one there, and the first would come back at the next boot."""
    programs.add("docker", "echo Cannot connect to the Docker daemon. >&2; exit 1")
    programs.add("podman", PODMAN)
    Identity.begin(Workspace.here(), "docker")
    assert engines.find() is None
    Identity.forget(Workspace.here())
    assert engines.find() is not None


@pytest.mark.parametrize(
    ("said", "rootless"),
    [(r"printf '28.2.2\tk\t[name=seccomp,profile=builtin name=rootless name=cgroupns]\n'", True), (DOCKER, False)],
)
def test_a_rootless_docker_is_known(programs: Programs, said: str, rootless: bool) -> None:
    programs.add("docker", said)
    found = engines.find()
    assert found is not None
    assert found.rootless is rootless


def test_a_rootless_podman_is_known(programs: Programs) -> None:
    programs.add("podman", r"printf '5.4.0\tk\trootless\n'")
    found = engines.find()
    assert found is not None
    assert found.rootless


def test_an_engine_in_a_virtual_machine_has_a_kernel_of_its_own() -> None:
    assert Engine("docker", "28", platform.release()).on_this_kernel
    assert not Engine("docker", "28", "6.10.14-linuxkit").on_this_kernel


@pytest.mark.parametrize(
    ("endpoint", "here"),
    [
        ("", True),
        ("unix:///var/run/docker.sock", True),
        ("unix:///home/me/.docker/desktop/docker.sock", True),
        ("npipe:////./pipe/docker_engine", True),
        ("tcp://127.0.0.1:2375", True),
        ("tcp://localhost:2376", True),
        ("tcp://[::1]:2375", True),
        ("ssh://core@127.0.0.1:53685/run/podman/podman.sock", True),
        ("tcp://10.0.0.7:2376", False),
        ("ssh://me@gpu-box", False),
        ("tcp://docker:2375", False),
        ("tcp://127.example.org:2375", False),
    ],
)
def test_what_is_here_and_what_is_not(endpoint: str, here: bool) -> None:
    assert engines.is_here(endpoint) is here


CONTEXT = 'if [ "$1" = context ]; then echo "${DOCKER_HOST:-%s}"; else ' + DOCKER + "; fi"


def test_an_engine_on_another_machine_is_refused_before_anything_is_done(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs.add("docker", CONTEXT % "unix:///var/run/docker.sock")
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@gpu-box")
    with pytest.raises(KailabError, match=r"another machine \(ssh://me@gpu-box\)") as refused:
        engines.ensure(Workspace.here(), tmp_path / "log")
    assert "API server" in refused.value.why
    assert refused.value.mend.startswith("unset DOCKER_HOST")
    assert {call.split()[1] for call in programs.calls()} == {"info", "context"}


def test_a_context_of_another_machine_is_refused_too(programs: Programs, tmp_path: Path) -> None:
    programs.add("docker", CONTEXT % "ssh://me@gpu-box")
    with pytest.raises(KailabError, match="ssh://me@gpu-box") as refused:
        engines.ensure(Workspace.here(), tmp_path / "log")
    assert refused.value.mend.startswith("docker context use default")


def test_docker_host_on_this_machine_is_an_engine_as_any(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs.add("docker", CONTEXT % "unix:///var/run/docker.sock")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert engines.ensure(Workspace.here(), tmp_path / "log").version == "28.2.2"


@pytest.mark.parametrize("variable", ["DOCKER_HOST", engines.CHOICE])
def test_root_gets_no_docker_beside_the_engine_asked_for(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "debian"})
    assert engines.can_install()
    programs.add("docker", "exit 1")
    programs.add("podman", "exit 1")
    monkeypatch.setenv(variable, "podman" if variable == engines.CHOICE else "tcp://127.0.0.1:1")
    assert not engines.can_install()
    with pytest.raises(KailabError, match="No container engine answers"):
        engines.ensure(Workspace.here(), tmp_path / "log")


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("ai-app:v1", "docker.io/library/ai-app:v1"),
        ("kailab/prober:v1", "docker.io/kailab/prober:v1"),
        ("docker.io/library/busybox:1.36", "docker.io/library/busybox:1.36"),
        ("registry.k8s.io/pause:3.10.2", "registry.k8s.io/pause:3.10.2"),
        ("localhost/kailab/x:v1", "localhost/kailab/x:v1"),
        ("localhost:5000/x:v1", "localhost:5000/x:v1"),
    ],
)
def test_images_go_to_the_engine_under_the_names_that_manifests_mean(image: str, full: str) -> None:
    assert engines.full_name(image) == full
    assert engines.full_name(full) == full


@pytest.mark.parametrize(("program", "flag"), [("docker", ""), ("podman", "--multi-image-archive ")])
def test_several_images_are_saved_as_one_archive(programs: Programs, program: str, flag: str, tmp_path: Path) -> None:
    programs.add(program, "")
    Engine(program, "5").save(["ai-app:v1", "kailab/prober:v1"], tmp_path / "tar")
    assert programs.calls() == [
        f"{program} save {flag}--output {tmp_path / 'tar'} docker.io/library/ai-app:v1 docker.io/kailab/prober:v1"
    ]


@pytest.fixture
def dockerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like the dockerd that kailab has started."""
    monkeypatch.setenv("KAILAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "engine").mkdir(parents=True)
    process = subprocess.Popen(["/bin/bash", "-c", "exec -a dockerd sleep 60"])
    (tmp_path / "cache" / "engine" / "dockerd.pid").write_text(str(process.pid))
    deadline = time.monotonic() + 10
    while not Path(f"/proc/{process.pid}/cmdline").read_text().startswith("dockerd"):  # until bash has become it
        assert time.monotonic() < deadline
    yield process
    process.kill()
    process.wait()


# Of ours it tells one container, of whatever DOCKER_HOST leads to none.
WITH_A_CONTAINER = 'case "$*" in *--host*/var/run/docker.sock*ps*) echo 4f1c;; *ps*) ;; *) ' + DOCKER + ";; esac"


@pytest.mark.parametrize("elsewhere", ["podman", "DOCKER_HOST", ""])
def test_an_engine_in_which_something_runs_is_not_stopped_whichever_engine_is_in_use(
    programs: Programs, dockerd: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    programs.add("docker", WITH_A_CONTAINER)
    programs.add("podman", 'case "$*" in *ps*) ;; *) ' + PODMAN + ";; esac")
    if elsewhere:
        monkeypatch.setenv(engines.CHOICE if elsewhere == "podman" else elsewhere, "podman")
    assert not engines.stop(Workspace.here())
    assert dockerd.poll() is None


def test_an_engine_that_cannot_be_asked_is_not_stopped(programs: Programs, dockerd: subprocess.Popen[bytes]) -> None:
    programs.add("docker", "exit 1")
    assert not engines.stop(Workspace.here())
    assert dockerd.poll() is None


def test_an_engine_of_ours_with_nothing_in_it_is_stopped(programs: Programs, dockerd: subprocess.Popen[bytes]) -> None:
    programs.add("docker", "exit 0")
    assert engines.stop(Workspace.here())
    assert dockerd.wait(5) == -signal.SIGTERM
