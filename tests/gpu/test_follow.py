"""What is watched stays watched, whatever comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from cluster.api import Api, Stop
from cluster.gpu.node import follow as module
from cluster.gpu.node.follow import follow


class FakeApi:
    """One object, and a watch that never tells anything."""

    def list(self, kind: str, namespace: str = "", **selectors: str) -> Any:
        return [{"metadata": {"uid": "1"}}], "1"

    def watch(self, kind: str, namespace: str, version: str, stop: Stop, **selectors: str) -> Iterator[Any]:
        while not stop.wait(0.01):
            pass
        yield from ()


@pytest.fixture
def stop() -> Iterator[Stop]:
    made = Stop()
    yield made
    made.set()


def test_a_follower_goes_on_after_an_error_nobody_thought_of(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    calls, heard, is_well = [], [], threading.Event()

    def on_change(items: list[Any]) -> None:
        calls.append(items)
        if len(calls) < 3:
            raise TypeError("unlike what was foreseen")

    def report(text: str) -> None:
        heard.append(text)
        if not text:
            is_well.set()

    thread = follow(cast("Api", FakeApi()), "ConfigMap", on_change, stop, report=report)
    assert is_well.wait(5)
    assert heard == ["watching ConfigMap: TypeError: unlike what was foreseen"] * 2 + [""]
    assert thread.is_alive()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
