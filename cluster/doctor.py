"""What this machine needs for the course: present, missing or too old, with the command that mends each."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster import bringup, engine, kernel, registry, tools
from cluster.nodeimage import build as nodeimage
from cluster.nodeimage import programs
from cluster.workspace import Workspace

MEMORY = 6 * 2**30  # five nodes and a lab's pods, measured with docker stats, with room for a browser


@dataclass(frozen=True)
class Finding:
    """One line of `kailab doctor`. `mend` may also be advice where nothing is wrong."""

    what: str
    ok: bool
    found: str
    mend: str = ""


def examine(workspace: Workspace) -> list[Finding]:
    """Every need in the order in which `kailab up` meets it; changes nothing."""
    return list(_findings(workspace))


def _findings(workspace: Workspace) -> Iterator[Finding]:
    yield Finding("Python", sys.version_info >= (3, 11), platform.python_version(), _unless(
        sys.version_info >= (3, 11), "install Python 3.11 or newer"))  # fmt: skip
    found = engine.find()
    if found is not None:
        yield Finding("container engine", True, f"{found.program} {found.version}")
    elif engine.can_install():
        yield Finding("container engine", True, "none yet; `kailab up` installs and starts Docker with apt")
    else:
        yield Finding("container engine", False, "none answers", engine.how_to_install())
    yield from _images(workspace, found)
    yield _tool("kind", tools.find_kind(workspace), f"kind {tools.OLDEST_KIND[0]}.{tools.OLDEST_KIND[1]}")
    yield _tool("kubectl", tools.find_kubectl(workspace), f"kubectl 1.{tools.KUBECTL_MINORS[0]}")
    yield _memory()
    yield _disk(workspace, found)
    yield from _watchers()


def _images(workspace: Workspace, found: engine.Engine | None) -> Iterator[Finding]:
    if registry.answers():
        yield Finding("images", True, "a container registry answers: kind pulls its own node image")
        return
    if found is not None and nodeimage.is_built(found):
        yield Finding("images", True, "no container registry answers; the node images built here are ready")
        return
    yield Finding("images", True, "no container registry answers: `kailab up` builds the node images, about 15 minutes")
    version = programs.go_version()
    shown = "none" if version is None else f"{version[0]}.{version[1]}"
    good = version is not None and version >= (1, 21)
    yield Finding("Go, to build them", good, shown, _unless(good, "install Go 1.26 or newer"))
    present = shutil.which("mmdebstrap") is not None or engine.can_install()
    where = shutil.which("mmdebstrap") or ("`kailab up` installs it with apt" if present else "missing")
    yield Finding("mmdebstrap, to build them", present, where, _unless(present, "sudo apt-get install mmdebstrap"))


def _tool(name: str, path: Path | None, wanted: str) -> Finding:
    return Finding(name, True, str(path) if path else f"no {wanted} or newer on PATH; `kailab up` gets its own copy")


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return Finding("memory", True, "unknown here")
    good = total >= MEMORY
    return Finding("memory", good, f"{total / 2**30:.0f} GiB", _unless(good, f"{MEMORY >> 30} GiB are needed"))


def _watchers() -> Iterator[Finding]:
    limit = kernel.inotify_instances()
    if limit is None:
        return
    enough = limit >= kernel.INOTIFY_INSTANCES
    good = enough or os.geteuid() == 0
    found = f"{limit} a user" + _unless(enough or not good, "; `kailab up` raises it until the next boot")
    yield Finding("inotify instances", good, found, _unless(good, kernel.RAISE))


def _disk(workspace: Workspace, found: engine.Engine | None) -> Finding:
    built = found is not None and nodeimage.is_built(found)
    wanted = bringup.DISK_TO_CREATE if built else bringup.DISK_TO_BUILD
    folder = workspace.cache
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    mend = _unless(free >= wanted, f"free {wanted / 2**30:.0f} GiB; `docker system df` shows what the engine holds")
    return Finding("disk", free >= wanted, f"{free / 2**30:.0f} GiB free at {folder}", mend)


def _unless(good: bool, text: str) -> str:
    return "" if good else text
