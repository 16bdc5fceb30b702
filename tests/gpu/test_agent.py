"""The agent as a whole, on a node that lacks something."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.api import Api, ApiError
from cluster.gpu.devices import NodeGpus
from cluster.gpu.node.agent import Agent, Folders


class DeadApi:
    """An API server that refuses everything."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*args: Any, **options: Any) -> Any:
            raise ApiError(503, "ServiceUnavailable", "not now")

        return refuse


def agent(folder: Path) -> Agent:
    folders = Folders(folder / "kubelet", folder / "state", "/node", folder / "cdi")
    return Agent(cast("Api", DeadApi()), "gpu-b", NodeGpus("T4", 2), folders)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets' names may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="k-") as made:
        yield Path(made)


def test_a_missing_device_directory_is_said_and_waited_for(folder: Path) -> None:
    made = agent(folder)
    made._turn()
    assert any("device-plugins is missing; waiting for it" in text for text in made.moment().problems)
    (folder / "kubelet" / "device-plugins").mkdir(parents=True)
    made._turn()
    assert not any("is missing" in text for text in made.moment().problems)


def test_without_kubelet_and_api_server_the_gpus_are_still_told(folder: Path) -> None:
    made = agent(folder)
    (folder / "kubelet" / "plugins_registry").mkdir(parents=True)
    for _ in range(2):
        made._turn()
    moment = made.moment()
    assert len(moment.readings) == 2
    assert any("not now" in text for text in moment.problems)
    assert all("Traceback" not in text for text in moment.problems)
