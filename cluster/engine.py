"""The container engine: find one that runs; on Debian or Ubuntu as root install and start Docker."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import KailabError
from cluster.run import CommandFailed, run, tail
from cluster.workspace import Workspace

# Debian 12's own docker.io (20.10) predates cgroup fixes that kind needs, so an older system borrows Docker,
# and nothing else, from the next release.
OLDEST_DOCKER = (24, 0)
BORROW_FROM = "trixie"
START_SECONDS = 60


@dataclass(frozen=True)
class Engine:
    """A container engine that answered, and how kind must be told about it."""

    program: str
    version: str

    @property
    def env(self) -> dict[str, str]:
        """What kind needs in its environment: it tries Docker first unless told otherwise."""
        return {"KIND_EXPERIMENTAL_PROVIDER": self.program, "DOCKER_BUILDKIT": "0"}

    def run(self, *args: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        return run([self.program, *args], **options)  # type: ignore[arg-type]

    def has_image(self, name: str) -> bool:
        return self.run("image", "inspect", "--format", "{{.Id}}", name, check=False).returncode == 0


def find() -> Engine | None:
    """The engine that answers now: Docker (also through DOCKER_HOST), else Podman."""
    for program in ("docker", "podman"):
        if shutil.which(program) is None:
            continue
        field = "{{.ServerVersion}}" if program == "docker" else "{{.Version.Version}}"
        try:
            answer = run([program, "info", "--format", field], timeout=15, check=False)
        except CommandFailed:
            continue
        if answer.returncode == 0 and answer.stdout.strip():
            return Engine(program, answer.stdout.strip())
    return None


def require() -> Engine:
    """The running engine, or the error that says how to get one."""
    engine = find()
    if engine is None:
        raise KailabError("No container engine answers.", mend="kailab up   (starts one, or says what to install)")
    return engine


def system() -> dict[str, str]:
    """The fields of os-release, or an empty dict where there is none (macOS, Windows)."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def can_install() -> bool:
    """Root on Debian or Ubuntu, and no remote engine asked for."""
    os_ids = {system().get("ID", ""), *system().get("ID_LIKE", "").split()}
    return os.name == "posix" and os.geteuid() == 0 and "debian" in os_ids and not os.environ.get("DOCKER_HOST")


def how_to_install() -> str:
    """The commands for this user's system."""
    if platform.system() == "Darwin":
        return "Install Docker Desktop (or `brew install colima docker && colima start --cpu 4 --memory 8`)."
    if os.environ.get("DOCKER_HOST"):
        return "DOCKER_HOST is set, but nothing answers there: start that engine, or `unset DOCKER_HOST`."
    if "debian" in {system().get("ID", ""), *system().get("ID_LIKE", "").split()}:
        return "sudo apt-get install docker.io && sudo systemctl start docker && sudo usermod -aG docker $USER"
    if "fedora" in {system().get("ID", ""), *system().get("ID_LIKE", "").split()}:
        return "sudo dnf install moby-engine && sudo systemctl enable --now docker && sudo usermod -aG docker $USER"
    return "Install Docker Engine or Podman 5 for your system and start it; `docker info` must answer."


def ensure(workspace: Workspace, log: Path) -> Engine:
    """A running engine: the one that answers, else ours, installed if need be and started.

    Raises KailabError with the commands for the user's system where kailab may not install anything.
    """
    engine = find()
    if engine is not None:
        return engine
    if not can_install():
        raise KailabError("No container engine (Docker or Podman) answers.", mend=how_to_install())
    if shutil.which("dockerd") is None:
        _install(workspace, log)
    _start(workspace)
    return require()


def _docker_version_offered(options: list[str], suite: str = "") -> str:
    """The newest version of docker.io that apt knows (of `suite`, where given), or an empty string."""
    shown = run(["apt-cache", *options, "madison", "docker.io"], check=False).stdout
    for line in shown.splitlines():
        _, version, source = (part.strip() for part in line.split("|"))
        if not suite or f"{suite}/" in source:
            return version
    return ""


def _install(workspace: Workspace, log: Path) -> None:
    """apt-get install docker.io, where the system's own is too old from the next Debian release alone.

    The extra source is derived from the machine's own Debian entries (`apt-get indextargets`), pinned below
    everything else, and kept in the cache folder: the system's source list stays as it was.
    """
    run(["apt-get", "-q", "update"], log=log)
    packages = ["docker.io"] + ([] if shutil.which("docker") else ["docker-cli"])
    version = _docker_version_offered([])
    major = int(version.split(".")[0]) if version else 0
    options: list[str] = []
    if major < OLDEST_DOCKER[0]:
        options = _borrowed_sources(workspace)
        run(["apt-get", *options, "-q", "update"], log=log)
        version = _docker_version_offered(options, BORROW_FROM)
        if not version:
            raise KailabError(f"apt offers no docker.io of Debian {BORROW_FROM}.", mend=how_to_install())
        packages = [f"{name}={version}" for name in packages]
    # Without an init system the package's own start-up would fail the whole install.
    env = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run(["apt-get", *options, "-q", "-y", "--no-install-recommends", "install", *packages], log=log, env=env)


def _borrowed_sources(workspace: Workspace) -> list[str]:
    folder = workspace.cache / "apt"
    for sub in ("sources", "lists/partial"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    shown = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"])
    entries = {tuple(line.split()) for line in shown.stdout.splitlines() if len(line.split()) == 3}
    codename = system().get("VERSION_CODENAME", "")
    own = sorted(f"deb {uri} {suite} {component}" for uri, suite, component in entries)
    extra = sorted(f"deb {uri} {BORROW_FROM} {component}" for uri, suite, component in entries if suite == codename)
    (folder / "sources" / "kailab.list").write_text("\n".join([*own, *extra]) + "\n")
    (folder / "preferences").write_text(f"Package: *\nPin: release n={BORROW_FROM}\nPin-Priority: 100\n")
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": folder / "sources",
        "Dir::Etc::preferences": folder / "preferences",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
    }
    return [part for name, value in options.items() for part in ("-o", f"{name}={value}")]


def _pid_file(workspace: Workspace) -> Path:
    return workspace.cache / "engine" / "dockerd.pid"


def _start(workspace: Workspace) -> None:
    """Start dockerd in a session of its own: Ctrl-C in our terminal must not take the cluster down."""
    folder = _pid_file(workspace).parent
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "dockerd.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS
    while find() is None:
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            raise KailabError(
                "Docker did not start.", why=tail(log.read_text(errors="replace")), mend=f"read {log}, then kailab up"
            )
        time.sleep(0.2)  # the socket gives nothing to wait on before it exists
    _pid_file(workspace).write_text(str(process.pid))


def started_by_us(workspace: Workspace) -> int | None:
    """The process id of the dockerd that kailab started, if it still runs."""
    try:
        pid = int(_pid_file(workspace).read_text())
        return pid if "dockerd" in Path(f"/proc/{pid}/cmdline").read_text() else None
    except (OSError, ValueError):
        return None


def stop(workspace: Workspace) -> bool:
    """Stop the dockerd that kailab started, unless somebody's containers still run in it. True if stopped."""
    pid = started_by_us(workspace)
    if pid is None or require().run("ps", "--quiet").stdout.strip():
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while started_by_us(workspace) is not None and time.monotonic() < deadline:
        time.sleep(0.1)  # not our child any more, so there is nothing to wait(2) on
    _pid_file(workspace).unlink(missing_ok=True)
    return True
