"""Closing nodes for new pods, and opening them again, as `kubectl cordon` and `uncordon` do."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from cluster.api import Api, ApiError, Unreachable
from cluster.errors import KailabError

# What the scheduler looks at: the node controller sets it and takes it away a while after the field has changed.
TAINT = "node.kubernetes.io/unschedulable"
CLOSED = {"key": TAINT, "effect": "NoSchedule"}


def closed(api: Api) -> set[str]:
    """The nodes that are closed at this moment."""
    found, _ = api.list("Node", fieldSelector="spec.unschedulable=true")
    return {node["metadata"]["name"] for node in found}


def set_unschedulable(api: Api, nodes: Iterable[str], value: bool | None) -> None:
    """Cordon nodes, or with None uncordon them; a region of them in a few seconds.

    A node that is gone needs neither. What fails otherwise is raised only once all others were tried.
    """

    def failure(name: str) -> KailabError | None:
        try:
            api.patch("Node", name, "", {"spec": {"unschedulable": value}})
        except (ApiError, Unreachable) as failed:
            return None if isinstance(failed, ApiError) and failed.status == HTTPStatus.NOT_FOUND else failed
        return None

    with ThreadPoolExecutor(8) as pool:
        for failed in list(pool.map(failure, nodes)):
            if failed is not None:
                raise failed
