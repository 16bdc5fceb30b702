"""Listings and watches of the same objects, which overtake each other."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import pytest

from checkers.observe import Observation
from cluster.api import Api, ApiError, Object, Stop

GONE = ApiError(410, "Expired", "too old resource version")


def pod(name: str, version: int, phase: str = "Running") -> Object:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version)}, "status": {"phase": phase}}


class FakeApi:
    """Listings in their order, the last one for ever; watch events as they are put in."""

    def __init__(self, *listings: tuple[list[Object], int]) -> None:
        self.listings = list(listings)
        self.events: queue.Queue[tuple[str, Object] | ApiError] = queue.Queue()
        self.watched_from: list[str] = []

    def list(self, kind: Any, namespace: str = "") -> tuple[list[Object], str]:
        items, version = self.listings.pop(0) if len(self.listings) > 1 else self.listings[0]
        return [{**item} for item in items], str(version)

    def watch(self, kind: Any, namespace: str, version: str, stop: Stop) -> Iterator[Object]:
        self.watched_from.append(version)
        while not stop.is_set():
            try:
                found = self.events.get(timeout=0.02)
            except queue.Empty:
                continue
            if isinstance(found, ApiError):
                raise found
            yield {"type": found[0], "object": found[1]}


def phases(observation: Observation) -> dict[str, str]:
    return {item["metadata"]["name"]: item["status"]["phase"] for item in observation.view()["Pod"]}


def happens(api: FakeApi, observation: Observation, *events: tuple[str, Object] | ApiError) -> None:
    """Returns when the observation has taken them all."""
    for event in events:
        count = observation.count
        api.events.put(event)
        observation.wait(count, 5)
        assert observation.count > count


@pytest.fixture
def late_listing() -> Iterator[tuple[FakeApi, Observation]]:
    """Watched up to version 8, and then listed as it was at 6."""
    api = FakeApi(([pod("a", 3, "Pending")], 5), ([pod("a", 3, "Pending"), pod("b", 6, "Pending")], 6))
    with closing(Observation(cast("Api", api), "lab", ["Pod"])) as observation:
        observation.refresh()
        observation.follow()
        happens(api, observation, ("ADDED", pod("b", 6, "Pending")), ("MODIFIED", pod("b", 7)))
        happens(api, observation, ("DELETED", pod("a", 8)))
        yield api, observation


def test_a_listing_that_the_watch_has_overtaken_changes_nothing(late_listing: tuple[FakeApi, Observation]) -> None:
    _, observation = late_listing
    assert phases(observation) == {"b": "Running"}
    observation.refresh()
    assert phases(observation) == {"b": "Running"}


def test_after_such_a_listing_the_watch_goes_on_where_it_was(late_listing: tuple[FakeApi, Observation]) -> None:
    api, observation = late_listing
    observation.refresh()
    api.listings = [([pod("b", 7), pod("c", 9)], 9)]
    happens(api, observation, GONE)
    assert phases(observation) == {"b": "Running", "c": "Running"}
    happens(api, observation, ("MODIFIED", pod("c", 10, "Failed")))
    assert phases(observation) == {"b": "Running", "c": "Failed"}
    assert api.watched_from == ["5", "9"]


def test_an_event_that_a_listing_has_overtaken_changes_nothing() -> None:
    api = FakeApi(([], 5), ([pod("a", 9)], 9))
    with closing(Observation(cast("Api", api), "lab", ["Pod"])) as observation:
        observation.refresh()
        observation.follow()
        observation.refresh()
        api.events.put(("MODIFIED", pod("a", 7, "Pending")))
        happens(api, observation, ("ADDED", pod("b", 10)))
        assert phases(observation) == {"a": "Running", "b": "Running"}
