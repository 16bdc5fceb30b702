"""What this machine needs for the course: present, missing or too old, with the command that mends each."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster import advice, bringup, engine, kernel, registry, tools
from cluster.nodeimage import build as nodeimage
from cluster.nodeimage import programs
from cluster.run import FREE_SPACE
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
    yield _engine(found)
    yield from _images(workspace, found)
    yield _tool("kind", tools.find_kind(workspace), f"kind {tools.OLDEST_KIND[0]}.{tools.OLDEST_KIND[1]}")
    yield _tool("kubectl", tools.find_kubectl(workspace), f"kubectl 1.{tools.KUBECTL_MINORS[0]}")
    yield _memory(found)
    yield _disk(workspace, found)
    yield from _watchers(found)


def _engine(found: engine.Engine | None) -> Finding:
    if found is None:
        if engine.can_install():
            return Finding("container engine", True, "none answers; `kailab up` installs Docker with apt and starts it")
        missing = engine.why_none()
        return Finding("container engine", False, missing.found, missing.mend)
    shown, endpoint = f"{found.program} {found.version}", found.endpoint()
    if not engine.is_here(endpoint):
        shown += f" on another machine ({endpoint}): a cluster there is of no use here"
        return Finding("container engine", False, shown, advice.how_to_come_back(found.program))
    if found.rootless:
        return Finding("container engine", True, f"{shown}, rootless", advice.ROOTLESS)
    return Finding("container engine", True, shown, _unless(not found.is_old, advice.how_to_renew(found.program)))


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
    yield Finding("Go, to build them", good, shown, _unless(good, f"{advice.how_to_get('go')}, 1.26 or newer"))
    present = shutil.which("mmdebstrap") is not None or engine.can_install()
    where = shutil.which("mmdebstrap") or ("`kailab up` installs it with apt" if present else "missing")
    mend = _unless(present, advice.how_to_get_mmdebstrap())
    yield Finding("mmdebstrap, to build them", present, where, mend)


def _tool(name: str, path: Path | None, wanted: str) -> Finding:
    return Finding(name, True, str(path) if path else f"no {wanted} or newer on PATH; `kailab up` gets its own copy")


def _memory(found: engine.Engine | None) -> Finding:
    try:
        # A virtual machine's engine has only what was given to that.
        total = bringup.machine_of(found).memory * 2**20 if found else _installed()
    except (ValueError, OSError, AttributeError):
        return Finding("memory", True, "unknown here")
    good = total >= MEMORY
    return Finding("memory", good, f"{total / 2**30:.0f} GiB", _unless(good, advice.how_to_give_memory(MEMORY >> 30)))


def _installed() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _watchers(found: engine.Engine | None) -> Iterator[Finding]:
    limit = kernel.inotify_instances()
    if limit is None or (found is not None and not found.on_this_kernel):
        return  # a virtual machine's kernel, or that of another machine
    if limit >= kernel.INOTIFY_INSTANCES:
        yield Finding("inotify instances", True, f"{limit} a user")
    elif os.geteuid() == 0:
        yield Finding("inotify instances", True, f"{limit} a user; `kailab up` raises it until the next boot")
    else:
        good = limit >= kernel.ENOUGH_FOR_ONE
        shown = f"{limit} a user" + (": enough for one cluster; should nodes not get ready" if good else "")
        yield Finding("inotify instances", good, shown, kernel.RAISE)


def _disk(workspace: Workspace, found: engine.Engine | None) -> Finding:
    built = found is not None and nodeimage.is_built(found)
    wanted = bringup.DISK_TO_CREATE if built else bringup.DISK_TO_BUILD
    folders = [workspace.cache, *([found.folder()] if found is not None else [])]
    free, folder = min(bringup.free_space(folder) for folder in folders)
    mend = _unless(free >= wanted, f"{wanted / 2**30:.0f} GiB are needed; {FREE_SPACE}")
    return Finding("disk", free >= wanted, f"{free / 2**30:.0f} GiB free at {folder}", mend)


def _unless(good: bool, text: str) -> str:
    return "" if good else text
