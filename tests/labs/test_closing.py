"""A namespace is closed: what holds it is told, or taken away where nobody will look into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.api import ApiError
from cluster.errors import KailabError
from cluster.workspace import Workspace
from labs import lifecycle
from labs.lifecycle import Course, close_namespace

HELD = {"type": "NamespaceFinalizersRemaining", "status": "True", "message": "kailab.dev/never in 1 resource instances"}


class Api:
    """A namespace that goes once the claim in it has no finalizers any more; whoever asks may not list Secrets."""

    reports = True

    def __init__(self) -> None:
        self.claim: dict[str, Any] = {"metadata": {"name": "stays", "finalizers": ["kailab.dev/never"]}}
        self.is_deleted = False

    def get(self, kind: str, name: str) -> Any:
        if not self.claim["metadata"]["finalizers"]:
            return None
        leaving = {"deletionTimestamp": "now"} if self.is_deleted else {}
        return {
            "metadata": {"name": name, **leaving},
            "status": {"conditions": [HELD] if self.is_deleted and self.reports else []},
        }

    def list(self, kind: Any, namespace: str) -> Any:
        name = getattr(kind, "kind", kind)
        if name == "Secret":
            raise ApiError(403, "Forbidden", "secrets is forbidden")
        return ([self.claim] if name == "ResourceClaim" else []), ""

    def patch(self, kind: Any, name: str, namespace: str, patch: Any) -> None:
        self.claim["metadata"] |= patch["metadata"]

    def delete(self, kind: str, name: str) -> None:
        self.is_deleted = True

    def delete_all(self, *_: Any, **__: Any) -> None:
        pass


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Course:
    monkeypatch.setattr(lifecycle, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(lifecycle, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(lifecycle, "GONE_SECONDS", 1.0)
    return Course(Workspace(tmp_path, tmp_path), Api(), "uid")  # type: ignore[arg-type]


def test_a_students_own_finalizer_is_named_and_left(course: Course) -> None:
    with pytest.raises(KailabError) as held:
        close_namespace(course, "lab-06")
    assert "kailab.dev/never" in held.value.why


@pytest.mark.parametrize("reports", [True, False])
def test_in_a_room_no_finalizer_holds_of_whatever_kind_named_or_not(
    course: Course, monkeypatch: pytest.MonkeyPatch, reports: bool
) -> None:
    monkeypatch.setattr(Api, "reports", reports)
    close_namespace(course, "grade-04-x", insist=True)
    assert course.api.get("Namespace", "grade-04-x") is None
