"""Docker from Debian's or Ubuntu's own packages, on systems whose release has one too old from the next."""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster import advice
from cluster.errors import KailabError
from cluster.run import run
from cluster.workspace import Workspace

# Debian 12's own docker.io (20.10) predates cgroup fixes that kind needs, so an older system borrows Docker,
# and nothing else, from the next release.
OLDEST = 24
BORROW_FROM = "trixie"


def _docker_version_offered(options: list[str], suite: str = "") -> str:
    """The newest version of docker.io that apt knows (of `suite`, where given), or an empty string."""
    shown = run(["apt-cache", *options, "madison", "docker.io"], check=False).stdout
    for line in shown.splitlines():
        _, version, source = (part.strip() for part in line.split("|"))
        if not suite or f"{suite}/" in source:
            return version
    return ""


def install(workspace: Workspace, log: Path) -> None:
    """apt-get install docker.io, where the system's own is too old from the next Debian release alone.

    The extra source is derived from the machine's own Debian entries (`apt-get indextargets`), pinned below
    everything else, and kept in the cache folder: the system's source list stays as it was.
    """
    run(["apt-get", "-q", "update"], log=log)
    packages = ["docker.io"] + ([] if shutil.which("docker") else ["docker-cli"])
    version = _docker_version_offered([])
    major = int(version.split(".")[0]) if version else 0
    options: list[str] = []
    if major < OLDEST:
        options = _borrowed_sources(workspace)
        run(["apt-get", *options, "-q", "update"], log=log)
        version = _docker_version_offered(options, BORROW_FROM)
        if not version:
            raise KailabError(f"apt offers no docker.io of Debian {BORROW_FROM}.", mend=advice.how_to_install())
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
    codename = advice.os_release().get("VERSION_CODENAME", "")
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
