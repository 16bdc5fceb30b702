"""What a lab borrows outside its namespace goes back when the lab ends."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cluster.api import Api
from labs.catalog import Borrowed, lab_numbered
from labs.lifecycle import give_back

LABEL = "nvidia.com/device-plugin.config"


class FakeApi:
    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.deleted: list[tuple[str, str, str]] = []
        self.patched: list[Any] = []

    def get(self, kind: str, name: str) -> Any:
        return {"metadata": {"name": name, "labels": self.labels}}

    def delete(self, kind: str, name: str, namespace: str = "") -> bool:
        self.deleted.append((kind, name, namespace))
        return True

    def patch(self, kind: str, name: str, namespace: str, patch: Any) -> None:
        self.patched.append((kind, name, patch["metadata"]["labels"]))


def test_objects_are_deleted_and_labels_taken_off() -> None:
    made = FakeApi({LABEL: "mine", "other": "stays"})
    give_back(cast("Api", made), lab_numbered(4))
    assert made.deleted == [("ConfigMap", "device-plugin-configs", "kailab-gpu")]
    assert made.patched == [("Node", "gpu-b", {LABEL: None})]


def test_a_label_that_is_not_there_costs_nothing() -> None:
    made = FakeApi({"other": "stays"})
    give_back(cast("Api", made), lab_numbered(4))
    assert made.patched == []


def test_a_node_is_never_borrowed_whole() -> None:
    with pytest.raises(ValueError, match="by one of its labels"):
        Borrowed(kind="Node", name="gpu-b")
    assert all(kind != "Node" for kind, _, _ in _deleted_by(4))


def _deleted_by(number: int) -> list[tuple[str, str, str]]:
    made = FakeApi({LABEL: "x"})
    give_back(cast("Api", made), lab_numbered(number))
    return made.deleted
