"""Closing nodes for new pods, and opening them again, as `kubectl cordon` and `uncordon` do."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from cluster.api import Api

# What the scheduler looks at: the node controller sets it and takes it away a while after the field has changed.
TAINT = "node.kubernetes.io/unschedulable"
CLOSED = {"key": TAINT, "effect": "NoSchedule"}


def set_unschedulable(api: Api, nodes: Iterable[str], value: bool | None) -> None:
    """Cordon nodes, or with None uncordon them; a region of them in a few seconds."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: api.patch("Node", name, "", {"spec": {"unschedulable": value}}), nodes))
