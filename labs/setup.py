"""Set-up as a student meets it: the cluster with the course's images and the prober."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cluster.errors import KailabError
from cluster.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console


def bring_up(workspace: Workspace, console: Console) -> None:
    """`kailab up`. Raises KailabError naming the step that failed."""
    from checkers.prober import addon
    from cluster.bringup import Extras, up
    from labs.apps import IMAGES

    extras = Extras((*IMAGES, addon.IMAGE), tuple(addon.manifests(workspace)), addon.READY)
    up(workspace, console, extras)


def ensure_up(workspace: Workspace, console: Console) -> None:
    """Bring the cluster up unless it answers and everything in it is ready: a warm look costs milliseconds."""
    from checkers.prober import addon
    from cluster.api import connect
    from cluster.bringup import unready
    from cluster.identity import Identity

    try:
        with contextlib.closing(connect(workspace.kubeconfig)) as api:
            Identity.verify(workspace, api)
            if not unready(api, addon.READY):
                return
    except KailabError:
        pass  # whatever is wrong, `up` repairs it or says what it is
    bring_up(workspace, console)
