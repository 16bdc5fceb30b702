"""What to tell users, by their system, about an engine that is missing, stopped, closed to them or elsewhere."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

WHY_HERE = (
    "kind opens the API server's port on the engine's machine alone, and the nodes mount files of this checkout, "
    "which that machine does not have."
)
ROOTLESS = """\
never tried with kailab: kind then needs cgroup v2 with delegated controllers (kind.sigs.k8s.io/docs/user/rootless), \
LoadBalancer addresses don't answer from this machine, and node images built here don't start"""
# What leads these programs to another engine than the machine's own (docker(1), podman(1)).
LEADS_TO = {"docker": ("DOCKER_HOST", "DOCKER_CONTEXT"), "podman": ("CONTAINER_HOST",)}
# The group is read at login.
JOIN = "sudo usermod -aG docker $USER && newgrp docker   (other terminals know it after the next login)"
_INSTALL = {
    "debian": "sudo apt-get install docker.io",
    "fedora": "sudo dnf install moby-engine",
    "rhel": "sudo dnf install podman   (then run kailab as root; or Docker Engine: docs.docker.com/engine/install)",
    "arch": "sudo pacman -S docker",
    "suse": "sudo zypper install docker",
}
_PAGES = {
    "kind": "kind.sigs.k8s.io/docs/user/quick-start",
    "kubectl": "kubernetes.io/docs/tasks/tools",
    "go": "go.dev/doc/install",
}
_COLIMA = "colima start --cpu 4 --memory 8"


@dataclass(frozen=True)
class Missing:
    """Why no engine answers, in a few words, and what to type."""

    found: str
    mend: str


def os_release() -> dict[str, str]:
    """The fields of os-release, or an empty dict where there is none (macOS, Windows)."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def systems() -> set[str]:
    """The Linux distribution here and those that it is like, in os-release's words; empty elsewhere."""
    known = os_release()
    return {known.get("ID", ""), *known.get("ID_LIKE", "").split()} - {""}


def is_wsl() -> bool:
    """Whether this is Linux in Windows: Microsoft's kernel says so in its release."""
    return "microsoft" in platform.release().lower()


def how_to_install() -> str:
    """The commands for this user's system where there is no engine at all."""
    if platform.system() == "Darwin":
        return f"install Docker Desktop and open it, or: brew install colima docker && {_COLIMA}"
    known = systems()
    if "rhel" in known:
        return _INSTALL["rhel"]
    for name in known & _INSTALL.keys():
        return f"{_INSTALL[name]} && {how_to_start('docker')} && {JOIN}"
    return "install Docker Engine (docs.docker.com/engine/install) and start it; `docker info` must answer"


def how_to_renew(program: str) -> str:
    """Of an engine so old that nobody has tried kailab with it."""
    page = "docs.docker.com/engine/install" if program == "docker" else "podman.io/docs/installation"
    return f"never tried with one this old; should nodes not start, install a newer one ({page})"


def how_to_start(program: str) -> str:
    """The command for this user's system where the program is there but nothing answers it."""
    if platform.system() == "Darwin":
        return "podman machine start" if program == "podman" else f"open -a Docker   (or: {_COLIMA})"
    if Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return f"sudo systemctl enable --now {program}"
    return f"sudo service {program} start"


def of_silence(program: str, said: str) -> Missing:
    """By what `docker info` or `podman info` has to say instead of an answer."""
    for name in LEADS_TO[program]:
        if os.environ.get(name):
            where = f"{name} is {os.environ[name]}, but nothing answers there"
            return Missing(where, f"start that engine, or: unset {name}")
    if "permission denied" in said.lower():
        return Missing(f"{program} is there, but not open to this user", JOIN)
    if program == "docker":
        desktop = ", or start Docker Desktop and switch on its WSL integration" if is_wsl() else ""
        return Missing("Docker is installed, but does not run", how_to_start(program) + desktop)
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it says nothing")
    mend = how_to_start(program) if platform.system() == "Darwin" else "podman info   (must answer), then kailab up"
    return Missing(f"Podman does not work: {last.strip()}", mend)


def of_absence() -> Missing:
    """Neither program is there."""
    return Missing("none is installed", how_to_install())


def how_to_come_back(program: str, then: str = "kailab up") -> str:
    """From an engine of another machine to one of this."""
    for name in LEADS_TO[program]:
        if os.environ.get(name):
            return f"unset {name}, then {then}   (or run kailab on that machine)"
    return f"docker context use default, then {then}   (or run kailab on that machine)"


def how_to_give_memory(gib: int) -> str:
    """For an engine in a virtual machine, or a machine that is one."""
    if is_wsl():
        return f"{gib} GiB are needed: set [wsl2] memory={gib + 2}GB in %UserProfile%\\.wslconfig, then: wsl --shutdown"
    if platform.system() == "Darwin":
        return f"{gib} GiB are needed: Docker Desktop, Settings, Resources (or: colima stop && {_COLIMA})"
    return f"{gib} GiB are needed"


def how_to_get(program: str) -> str:
    """kind, kubectl or go, where kailab can't get its own copy."""
    if platform.system() == "Darwin":
        return f"brew install {program}"
    if program == "go" and "fedora" in systems():
        return "sudo dnf install golang"
    return f"install {program} ({_PAGES[program]})"


def how_to_get_mmdebstrap() -> str:
    """It assembles Debian root file systems, also on Ubuntu, whose apt doesn't know Debian's keys."""
    if "debian" in systems():
        return "sudo apt-get install mmdebstrap debian-archive-keyring"
    return "connect to a container registry; without one, images are built on Debian and Ubuntu only"
