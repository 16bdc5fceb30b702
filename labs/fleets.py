"""Simulated nodes that a lab brings along: there while the lab is started, gone when it is finished."""

from __future__ import annotations

from collections.abc import Callable

from cluster.api import Api
from labs.catalog import LabFolder


def join(api: Api, lab: LabFolder, progress: Callable[[int], None] = lambda _: None) -> int:
    """Let the lab's fleet join and wait until it is Ready; how many nodes were missing. Nothing for most labs.

    Nodes that somebody has closed are open again. Raises KailabError when KWOK isn't there or nodes don't get Ready.
    """
    wanted = lab.file.fleet
    if wanted is None:
        return 0
    from cluster.gpu import scale  # few labs have a fleet, and every command imports this module

    plan = scale.fleet(wanted.nodes, wanted.model, wanted.gpus, wanted.regions, wanted.zones, wanted.name)
    missing = scale.join(api, scale.nodes(plan), progress)
    if missing:
        scale.wait_ready(api, wanted.nodes, group=wanted.name)
    else:
        scale.reopen(api, wanted.name)
    return missing


def leave(api: Api, lab: LabFolder) -> None:
    """Remove the lab's fleet with the pods on it."""
    if lab.file.fleet is not None:
        from cluster.gpu import scale

        scale.leave(api, group=lab.file.fleet.name)
