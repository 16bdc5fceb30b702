"""The container engine: find one that runs; as root on Debian or Ubuntu start Docker, installed if need be."""

from __future__ import annotations

import ipaddress
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from cluster import advice, docker
from cluster.errors import KailabError
from cluster.files import replace
from cluster.identity import Identity
from cluster.run import CommandFailed, run, tail
from cluster.workspace import Workspace

# Of older major versions `kailab doctor` warns.
OLDEST = {"docker": docker.OLDEST, "podman": 4}
START_SECONDS = 60
SOCKET = "/var/run/docker.sock"  # where a dockerd listens that is told nothing else, as ours
PROGRAMS = ("docker", "podman")
# On every image that kailab makes: the name that it was made under. Images built upon it inherit the label.
IMAGE_LABEL = "kailab.image"
# kind's own variable for which of them to use, here too.
CHOICE = "KIND_EXPERIMENTAL_PROVIDER"
_ABOUT = {
    "docker": "{{.ServerVersion}}\t{{.KernelVersion}}\t{{.SecurityOptions}}",
    "podman": "{{.Version.Version}}\t{{.Host.Kernel}}\t{{if .Host.Security.Rootless}}rootless{{end}}",
}


@dataclass(frozen=True)
class Engine:
    """A container engine that answered, and how kind must be told about it.

    `kernel` is the release that containers run on: of this machine, or of a virtual one. `rootless` when the engine
    has no more rights than the user who started it.
    """

    program: str
    version: str
    kernel: str = ""
    rootless: bool = False

    @property
    def env(self) -> dict[str, str]:
        """What kind needs in its environment: it tries Docker first unless told otherwise."""
        return {CHOICE: self.program, "DOCKER_BUILDKIT": "0"}

    @property
    def is_old(self) -> bool:
        """Older than what kailab would install."""
        major = self.version.split(".")[0]
        return major.isdigit() and int(major) < OLDEST[self.program]

    @property
    def on_this_kernel(self) -> bool:
        """Whether containers share this machine's kernel and its limits (not so with Docker Desktop)."""
        return self.kernel == platform.release()

    def folder(self) -> Path:
        """Where it keeps images and containers, on its own machine."""
        field = "{{.DockerRootDir}}" if self.program == "docker" else "{{.Store.GraphRoot}}"
        return Path(self.run("info", "--format", field, check=False).stdout.strip() or "/")

    def endpoint(self) -> str:
        """Where its API is, as a URL; empty where that is not known, so the usual place on this machine."""
        if self.program != "docker":
            return os.environ.get("CONTAINER_HOST", "")
        # The current context's; with DOCKER_HOST set, that.
        asked = self.run("context", "inspect", "--format", "{{.Endpoints.docker.Host}}", check=False)
        return asked.stdout.strip() if asked.returncode == 0 else os.environ.get("DOCKER_HOST", "")

    def run(self, *args: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        return run([self.program, *args], **options)  # type: ignore[arg-type]

    def has_image(self, name: str) -> bool:
        asked = self.run("image", "inspect", "--format", "{{.Id}}", full_name(name), check=False)
        return asked.returncode == 0

    def build(self, tag: str, context: Path | str, *args: str, log: Path, timeout: float) -> None:
        """Build the folder's Dockerfile. The image gets its name when it is whole, and the one that had it goes."""
        label, before = ("--label", label_of(tag)), self._made(tag)
        self.run("build", "--tag", full_name(tag), *label, *args, context,
                 log=log, env=self.env, timeout=timeout, tied=True)  # fmt: skip
        if before and before != self._made(tag):
            self.run("image", "rm", before, check=False)  # it stays where a container or another image needs it

    def image_names(self, *options: str) -> list[str]:
        """All that have one, in full; `options` choose among them, as those of `image ls`."""
        listed = self.run("image", "ls", *options, "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        return [full_name(name) for name in listed if "<none>" not in name]

    def images_made(self) -> list[str]:
        """The names of the images that kailab has made here; not those that others built upon them or called alike."""
        return [name for name in self.image_names("--filter", f"label={IMAGE_LABEL}") if self._made(name)]

    def _made(self, name: str) -> str:
        """The id of the image of this name; empty where kailab has not made it, or there is none."""
        told = f'{{{{.Id}}}} {{{{index .Config.Labels "{IMAGE_LABEL}"}}}}'
        words = self.run("image", "inspect", "--format", told, full_name(name), check=False).stdout.split()
        return words[0] if words[1:] == [full_name(name)] else ""

    def save(self, names: Sequence[str], target: Path | str, log: Path | None = None) -> None:
        """Write several images into one archive, as containerd imports it."""
        several = ["--multi-image-archive"] if self.program == "podman" else []
        self.run("save", *several, "--output", target, *map(full_name, names), log=log)


def full_name(image: str) -> str:
    """An image's name with its registry.

    Manifests and kind mean docker.io where a name says none. Docker thinks so too; Podman would make it localhost/.
    """
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def label_of(tag: str) -> str:
    """The label of the image of this name."""
    return f"{IMAGE_LABEL}={full_name(tag)}"


def is_here(endpoint: str) -> bool:
    """Whether an engine's URL leads to this machine: a socket, a pipe, or a port of the loopback network."""
    url = urlsplit(endpoint)
    if url.scheme in ("", "unix", "npipe", "fd"):
        return True
    try:
        return ipaddress.ip_address(url.hostname or "").is_loopback
    except ValueError:
        return url.hostname == "localhost"


def find() -> Engine | None:
    """The engine that answers now: Docker (also through DOCKER_HOST), else Podman.

    Only one of them is asked where KIND_EXPERIMENTAL_PROVIDER names it, or where the course cluster lies in it: what
    has been stopped must not look as if it had gone.
    """
    for program in _asked():
        if shutil.which(program) is None:
            continue
        try:
            answer = run([program, "info", "--format", _ABOUT[program]], timeout=15, check=False)
        except CommandFailed:
            continue
        version, _, more = answer.stdout.strip().partition("\t")
        if answer.returncode == 0 and version:
            kernel, _, security = more.partition("\t")
            return Engine(program, version, kernel, "rootless" in security)
    return None


def _asked() -> tuple[str, ...]:
    chosen = os.environ.get(CHOICE) or Identity.engine(Workspace.here())
    return (chosen,) if chosen in PROGRAMS else PROGRAMS


def why_none() -> advice.Missing:
    """Why `find` found nothing, and what to do about it on this system."""
    for program in _asked():
        if shutil.which(program) is not None:
            return advice.of_silence(program, _complaint(program))
    return advice.of_absence()


def _complaint(program: str) -> str:
    try:
        asked = run([program, "info"], timeout=15, check=False)
    except CommandFailed as failed:
        return str(failed)
    return asked.stdout + asked.stderr


def require_here(engine: Engine, then: str = "kailab up") -> None:
    """Raises KailabError for an engine of another machine, where a cluster would come up and be of no use.

    `then` is the command to repeat with an engine of this machine.
    """
    endpoint = engine.endpoint()
    if not is_here(endpoint):
        raise KailabError(
            f"{engine.program} speaks to an engine on another machine ({endpoint}); the cluster needs one on this.",
            why=advice.WHY_HERE,
            mend=advice.how_to_come_back(engine.program, then),
        )


def require() -> Engine:
    """The running engine, or the error that says how to get one."""
    engine = find()
    if engine is None:
        raise KailabError("No container engine answers.", mend="kailab up   (starts one, or says what to do)")
    return engine


def can_install() -> bool:
    """Root on Debian or Ubuntu, and no engine asked for by name."""
    chosen = any(os.environ.get(name) for name in advice.LEADS_TO["docker"]) or _asked() == ("podman",)
    return os.name == "posix" and os.geteuid() == 0 and "debian" in advice.systems() and not chosen


def ensure(workspace: Workspace, log: Path) -> Engine:
    """A running engine on this machine: the one that answers, else ours, installed if need be and started.

    Raises KailabError with the commands for the user's system where kailab may not install anything.
    """
    engine = find()
    if engine is not None:
        require_here(engine)
        return engine
    if not can_install():
        missing = why_none()
        raise KailabError(f"No container engine answers: {missing.found}.", mend=missing.mend)
    folder = _pid_file(workspace).parent
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "start.lock"):  # two checkouts share the engine
        if find() is None:
            if shutil.which("dockerd") is None:
                docker.install(workspace, log)
            _start(workspace)
    return require()


def _pid_file(workspace: Workspace) -> Path:
    return workspace.cache / "engine" / "dockerd.pid"


def _start(workspace: Workspace) -> None:
    """Start dockerd in a session of its own: Ctrl-C in our terminal must not take the cluster down."""
    log = _pid_file(workspace).with_name("dockerd.log")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        replace(_pid_file(workspace), str(process.pid))  # at once: whoever is interrupted now still knows it as ours
    except OSError:
        process.terminate()
        raise
    deadline = time.monotonic() + START_SECONDS
    while find() is None:
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            raise KailabError(
                "Docker did not start.", why=tail(log.read_text(errors="replace")), mend=f"read {log}, then kailab up"
            )
        time.sleep(0.2)  # the socket gives nothing to wait on before it exists


def started_by_us(workspace: Workspace) -> int | None:
    """The process id of the dockerd that kailab started, if it still runs."""
    try:
        pid = int(_pid_file(workspace).read_text())
        return pid if "dockerd" in Path(f"/proc/{pid}/cmdline").read_text() else None
    except (OSError, ValueError):
        return None


def _is_empty() -> bool:
    """Whether nothing runs in the dockerd of this machine: not in Podman, or where DOCKER_HOST leads to."""
    try:
        asked = run(["docker", "--host", f"unix://{SOCKET}", "ps", "--quiet"], timeout=15, check=False)
    except CommandFailed:
        return False
    return asked.returncode == 0 and not asked.stdout.strip()


def stop(workspace: Workspace) -> bool:
    """Stop the dockerd that kailab started, unless somebody's containers still run in it. True if stopped."""
    pid = started_by_us(workspace)
    if pid is None or not _is_empty():
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while started_by_us(workspace) is not None and time.monotonic() < deadline:
        time.sleep(0.1)  # not our child any more, so there is nothing to wait(2) on
    _pid_file(workspace).unlink(missing_ok=True)
    return True
