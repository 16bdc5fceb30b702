"""Limits of the Linux kernel that the nodes share with everything else on the machine."""

from __future__ import annotations

import os
from pathlib import Path

# A course cluster with a lab's pods holds about 95, counted in /proc/*/fd. Linux gives each user 128, so a second
# cluster, or an editor run by root, uses them up; containerd then sees no pod network and nodes never get Ready.
# kind's "known issues" page (Pod errors due to "too many open files") recommends this number.
INOTIFY_INSTANCES = 512
LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
RAISE = f"sudo sysctl fs.inotify.max_user_instances={INOTIFY_INSTANCES}"
ENOUGH_FOR_ONE = 128  # that cluster, and the few that a system's own services hold


def inotify_instances(limit: Path = LIMIT) -> int | None:
    """How many file watchers one user may have; None where the kernel is not this machine's to ask (macOS)."""
    try:
        return int(limit.read_text())
    except (OSError, ValueError):
        return None


def raise_inotify(limit: Path = LIMIT) -> str:
    """Let nodes watch files: raise the limit until the next boot where we may. Returns what was done or what to do.

    An empty string where there was nothing to do. A limit is never lowered. Only for an engine on this kernel.
    """
    present = inotify_instances(limit)
    if present is None or present >= INOTIFY_INSTANCES:
        return ""
    if os.geteuid() == 0:
        try:
            limit.write_text(str(INOTIFY_INSTANCES))
        except OSError:
            pass  # a container whose /proc/sys is read-only; then as for any other user
        else:
            return f"raised fs.inotify.max_user_instances from {present} to {INOTIFY_INSTANCES} until the next boot"
    return f"Linux allows only {present} inotify instances a user; should nodes not get ready: {RAISE}"
