"""A newcomer gets the commands for their own system, and for what is wrong there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import advice, engine

UBUNTU = {"ID": "ubuntu", "ID_LIKE": "debian"}
FEDORA = {"ID": "fedora"}


class System:
    """A machine that a test makes up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def be(
        self, release: dict[str, str], *, system: str = "Linux", kernel: str = "6.8.0", systemd: bool = True
    ) -> None:
        def os_release() -> dict[str, str]:
            if not release:
                raise OSError("no os-release")
            return release

        self._monkeypatch.setattr("platform.freedesktop_os_release", os_release)
        self._monkeypatch.setattr("platform.system", lambda: system)
        self._monkeypatch.setattr("platform.release", lambda: kernel)
        there = Path.is_dir
        self._monkeypatch.setattr(
            Path, "is_dir", lambda path: systemd if str(path) == "/run/systemd/system" else there(path)
        )


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINER_HOST"):
        monkeypatch.delenv(name, raising=False)
    return System(monkeypatch)


@pytest.mark.parametrize(
    ("release", "command"),
    [
        (UBUNTU, "sudo apt-get install docker.io && sudo systemctl enable --now docker && sudo usermod"),
        ({"ID": "debian"}, "sudo apt-get install docker.io"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "sudo apt-get install docker.io"),
        (FEDORA, "sudo dnf install moby-engine && sudo systemctl enable --now docker && sudo usermod"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "sudo dnf install podman"),
        ({"ID": "arch"}, "sudo pacman -S docker"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "sudo zypper install docker"),
        ({"ID": "nixos"}, "install Docker Engine"),
    ],
)
def test_each_distribution_has_its_own_command(system: System, release: dict[str, str], command: str) -> None:
    system.be(release)
    assert advice.how_to_install().startswith(command)


def test_a_new_member_of_the_group_hears_that_a_login_reads_it(system: System) -> None:
    system.be(UBUNTU)
    assert "newgrp docker" in advice.how_to_install()


def test_a_mac_gets_a_virtual_machine(system: System) -> None:
    system.be({}, system="Darwin", kernel="24.1.0")
    assert "Docker Desktop" in advice.how_to_install()
    assert "colima start --cpu 4 --memory 8" in advice.how_to_install()
    assert advice.of_silence("docker", "Cannot connect to the Docker daemon").mend.startswith("open -a Docker")
    assert advice.of_silence("podman", "Cannot connect to Podman").mend == "podman machine start"
    assert "registry" in advice.how_to_get_mmdebstrap()


def test_an_engine_that_is_not_open_to_the_user_is_not_installed_again(system: System) -> None:
    system.be(UBUNTU)
    said = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock"
    missing = advice.of_silence("docker", said)
    assert "not open to this user" in missing.found
    assert missing.mend.startswith("sudo usermod -aG docker $USER")
    assert "install" not in missing.mend


@pytest.mark.parametrize(
    ("systemd", "command"), [(True, "sudo systemctl enable --now docker"), (False, "sudo service docker start")]
)
def test_an_engine_that_is_stopped_is_started(system: System, systemd: bool, command: str) -> None:
    system.be(UBUNTU, systemd=systemd)
    said = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    assert advice.of_silence("docker", said) == advice.Missing("Docker is installed, but does not run", command)


def test_windows_users_hear_of_docker_desktop_too(system: System) -> None:
    system.be(UBUNTU, kernel="5.15.167.4-microsoft-standard-WSL2", systemd=False)
    mend = advice.of_silence("docker", "Cannot connect").mend
    assert mend.startswith("sudo service docker start")
    assert "WSL integration" in mend
    assert ".wslconfig" in advice.how_to_give_memory(6)


@pytest.mark.parametrize(
    ("program", "name"), [("docker", "DOCKER_HOST"), ("docker", "DOCKER_CONTEXT"), ("podman", "CONTAINER_HOST")]
)
def test_a_variable_that_leads_nowhere_is_named(
    system: System, monkeypatch: pytest.MonkeyPatch, program: str, name: str
) -> None:
    system.be(UBUNTU)
    monkeypatch.setenv(name, "tcp://10.0.0.7:2376")
    missing = advice.of_silence(program, "permission denied")
    assert f"{name} is tcp://10.0.0.7:2376" in missing.found
    assert f"unset {name}" in missing.mend
    assert advice.how_to_come_back(program).startswith(f"unset {name}")


def test_a_podman_that_does_not_work_is_quoted(system: System) -> None:
    system.be(FEDORA)
    missing = advice.of_silence("podman", "time=...\nError: cannot re-exec process\n\n")
    assert missing.found.endswith("Error: cannot re-exec process")


def test_without_any_engine_the_diagnosis_says_so(
    system: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    system.be(FEDORA)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KAILAB_HOME", str(tmp_path))
    assert engine.why_none() == advice.Missing("none is installed", advice.how_to_install())


@pytest.mark.parametrize(("release", "word"), [(UBUNTU, "debian-archive-keyring"), (FEDORA, "registry")])
def test_mmdebstrap_is_for_systems_with_apt(system: System, release: dict[str, str], word: str) -> None:
    system.be(release)
    assert word in advice.how_to_get_mmdebstrap()


@pytest.mark.parametrize(
    ("release", "kernel", "program", "command"),
    [
        ({}, "Darwin", "kind", "brew install kind"),
        (FEDORA, "Linux", "go", "sudo dnf install golang"),
        (UBUNTU, "Linux", "go", "install go (go.dev/doc/install)"),
        (UBUNTU, "Linux", "kubectl", "install kubectl (kubernetes.io/docs/tasks/tools)"),
    ],
)
def test_programs_come_from_where_the_system_has_them(
    system: System, release: dict[str, str], kernel: str, program: str, command: str
) -> None:
    system.be(release, system=kernel)
    assert advice.how_to_get(program) == command
