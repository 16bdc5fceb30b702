"""Between two submissions in one namespace: what the next one can't take over has ended before it is applied."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import KailabError
from labs import gate
from labs.lanes import Lane
from labs.mutants import Submission


def thing(kind: str, name: str, owner: str = "", **fields: Any) -> dict[str, Any]:
    owners = [{"uid": owner}] if owner else []
    return {"kind": kind, "metadata": {"name": name, "uid": f"uid-{name}", "ownerReferences": owners}, **fields}


class Api:
    """A Deployment whose ReplicaSet replaces the first pod that goes, as it does until its own deletion is seen."""

    def __init__(self, *, stays: str = "") -> None:
        self.there = [thing("Deployment", "web"), thing("ReplicaSet", "web-1", "uid-web"), thing("Pod", "other"),
                      thing("Pod", "web-1-a", "uid-web-1"), thing("ConfigMap", "settings")]  # fmt: skip
        self.deleted: list[str] = []
        self._stays, self._replaces = stays, True

    def get(self, kind: str, name: str, namespace: str) -> Any:
        return next((item for item in self.there if (item["kind"], item["metadata"]["name"]) == (kind, name)), None)

    def list(self, kind: str, namespace: str) -> tuple[list[Any], str]:
        return [item for item in self.there if item["kind"] == kind], ""

    def delete(self, kind: str, name: str, namespace: str, *, grace: int | None = None) -> bool:
        self.deleted.append(f"{kind}/{name}")
        if name != self._stays:
            self.there = [item for item in self.there if (item["kind"], item["metadata"]["name"]) != (kind, name)]
        if kind == "Pod" and self._replaces:
            self._replaces = False
            self.there.append(thing("Pod", "web-1-b", "uid-web-1"))
        return True


BEFORE = [thing("Deployment", "web", spec={"envFrom": [{"configMapRef": {"name": "settings"}}]}),
          thing("ConfigMap", "settings", data={"a": "1"}), thing("ConfigMap", "answers")]  # fmt: skip


def test_pods_are_gone_before_what_they_use() -> None:
    api = Api()
    gate._make_way(api, "lab", BEFORE, [BEFORE[0], thing("ConfigMap", "settings"), BEFORE[2]])  # type: ignore[arg-type]
    assert api.deleted == ["Deployment/web", "Pod/web-1-a", "Pod/web-1-b", "ConfigMap/settings"]


def test_what_the_next_one_lacks_goes_and_what_it_can_take_over_stays() -> None:
    api = Api()
    gate._make_way(api, "lab", BEFORE, BEFORE[:2])  # type: ignore[arg-type]
    assert api.deleted == ["ConfigMap/answers"]


def test_a_pod_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "SETTLE_SECONDS", 0.3)
    with pytest.raises(KailabError, match="Pods of Deployment web in lab do not end"):
        gate._make_way(Api(stays="web-1-b"), "lab", BEFORE, BEFORE[1:])  # type: ignore[arg-type]


def test_a_lane_whose_pods_take_long_to_be_ready_is_known() -> None:
    """It begins before others like it: each trigger waits for its pods, and at the end nothing else would run."""
    pod = {"containers": [{"readinessProbe": {"initialDelaySeconds": 6}}, {"name": "without"}]}
    objects = (thing("Deployment", "web", spec={"template": {"spec": pod}}), thing("Pod", "one", spec=pod),
               thing("ConfigMap", "settings"))  # fmt: skip
    item = Submission("late", "", objects)
    assert gate._slowness(Lane((item,), shared=False)) == 12
