"""Set-up as a student meets it: the cluster with the course's images and the prober."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING

from cluster.errors import KailabError
from cluster.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.bringup import Status


def bring_up(workspace: Workspace, console: Console) -> None:
    """`kailab up`. Raises KailabError naming the step that failed."""
    from checkers.prober import addon, reach
    from cluster.bringup import Extras, up
    from labs.apps import IMAGES

    proof = functools.partial(reach.require, workspace=workspace)
    extras = Extras((*IMAGES, addon.IMAGE), tuple(addon.manifests(workspace)), addon.READY, proof)
    up(workspace, console, extras)


def ensure_up(workspace: Workspace, console: Console) -> None:
    """Bring the cluster up unless it answers and everything in it is ready: a warm look costs milliseconds."""
    from checkers.declare import CannotTell
    from checkers.prober import addon, reach
    from cluster.api import connect
    from cluster.bringup import unready
    from cluster.identity import Identity

    try:
        with contextlib.closing(connect(workspace.kubeconfig)) as api:
            Identity.verify(workspace, api)
            if not unready(api, addon.READY) and not reach.unreached(api, workspace):
                return
    except (KailabError, CannotTell):
        pass  # whatever is wrong, `up` repairs it or says what it is
    bring_up(workspace, console)


def status(workspace: Workspace) -> Status:
    """The cluster's state without changing anything: ready, only where pods reach each other."""
    from checkers.declare import CannotTell
    from checkers.prober import reach
    from cluster import bringup
    from cluster.api import connect

    found = bringup.status(workspace)
    if not found.is_ready:
        return found
    try:
        with contextlib.closing(connect(workspace.kubeconfig)) as api:
            silent = reach.unreached(api, workspace)
    except (KailabError, CannotTell) as failed:
        return dataclasses.replace(found, waiting=(str(failed).splitlines()[0],))
    waiting = tuple(f"pods on {node}: other nodes' pods don't reach them (`kailab up` tells why)" for node in silent)
    return dataclasses.replace(found, waiting=waiting)
