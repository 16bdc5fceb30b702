"""Simulated nodes that a lab brings along: there while the lab is started, gone when it is finished."""

from __future__ import annotations

from cluster.api import Api
from labs.catalog import LabFolder


def join(api: Api, lab: LabFolder) -> None:
    """Let the lab's fleets join and wait until they are Ready. Nodes that somebody has closed are open again.

    Raises KailabError when KWOK isn't there or nodes don't get Ready.
    """
    for one in lab.file.fleets:
        from cluster.gpu import scale  # few labs have fleets, and every command imports this module

        plan = scale.fleet(one.nodes, one.model, one.gpus, one.regions, one.zones, one.name)
        if scale.join(api, scale.nodes(plan)):
            scale.wait_ready(api, one.nodes, group=one.name)
        else:
            scale.reopen(api, one.name)


def leave(api: Api, lab: LabFolder) -> None:
    """Remove the lab's fleets with the pods on them."""
    for one in lab.file.fleets:
        from cluster.gpu import scale

        scale.leave(api, group=one.name)
