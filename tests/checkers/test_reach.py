"""Whether pods reach pods on other nodes: what the prober's answers mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from checkers.declare import CannotTell
from checkers.prober import Prober, reach
from cluster.api import Api
from cluster.errors import KailabError
from cluster.gpu import METRICS_PORT, control
from cluster.workspace import Workspace

OPEN, REFUSED = {"open": True}, {"open": False, "error": "connection refused"}
SILENT = {"open": False, "error": "no answer in time"}
API = cast("Api", None)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / ".kailab", tmp_path / "cache")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "SECONDS", 0.05)
    monkeypatch.setattr(reach, "POLL_SECONDS", 0.01)
    agents = [
        {"spec": {"nodeName": node}, "status": {"podIP": address}}
        for node, address in (("gpu-a", "10.244.1.2"), ("gpu-b", "10.244.2.2"))
    ]
    monkeypatch.setattr(control, "agents", lambda api: agents)


def answering(monkeypatch: pytest.MonkeyPatch, answers: Iterator[dict[str, Any] | CannotTell]) -> list[tuple[str, int]]:
    asked = []

    def tcp(self: Prober, host: str, port: int, timeout: float) -> dict[str, Any]:
        asked.append((host, port))
        answer = next(answers)
        if isinstance(answer, CannotTell):
            raise answer
        return answer

    monkeypatch.setattr(Prober, "tcp", tcp)
    return asked


def test_every_other_node_is_asked(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, iter([OPEN, SILENT]))
    assert reach.unreached(API, workspace) == ["gpu-b"]
    assert asked == [("10.244.1.2", METRICS_PORT), ("10.244.2.2", METRICS_PORT)]


def test_a_pod_that_refuses_was_reached(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, iter([REFUSED, OPEN]))
    assert reach.unreached(API, workspace) == []


def test_a_route_that_comes_late_and_a_prober_that_is_replaced_are_waited_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([SILENT, OPEN, CannotTell("the prober pod is not ready"), OPEN, OPEN])
    answering(monkeypatch, answers)
    monkeypatch.setattr(reach, "SECONDS", 5.0)
    said: list[str] = []
    reach.require(API, said.append, workspace)
    assert next(answers, None) is None
    assert said == [
        "waiting: Pods don't reach the pods on gpu-a.",
        "waiting: Whether pods reach each other can't be told.",
    ]


def test_a_firewall_is_named_with_the_line_that_opens_it(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, iter([SILENT] * 1000))
    with pytest.raises(KailabError, match="Pods don't reach the pods on gpu-a, gpu-b") as failed:
        reach.require(API, [].append, workspace)
    assert "iptables -I FORWARD -s 10.244.0.0/16 -d 10.244.0.0/16 -j ACCEPT" in failed.value.mend


def test_a_prober_that_never_answers_is_said_too(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, iter([CannotTell("the prober pod did not answer")] * 1000))
    with pytest.raises(KailabError, match="can't be told") as failed:
        reach.require(API, [].append, workspace)
    assert "did not answer" in failed.value.why
