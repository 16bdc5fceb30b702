"""Two commands about one lab at the same time: none takes what the other disturbs for a killed run's, or for work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkers.restore import Restorer, owned
from cluster.errors import KailabError
from cluster.workspace import Workspace
from labs import lifecycle
from labs.catalog import lab_numbered
from labs.lifecycle import Course
from labs.progress import Progress

LAB = lab_numbered(6)


class Api:
    """Notes what is written; there is one namespace, and nothing in it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def get(self, kind: str, name: str, namespace: str = "") -> Any:
        return None

    def list(self, kind: Any, namespace: str = "", **_: str) -> Any:
        name = getattr(kind, "kind", kind)
        return ([{"metadata": {"name": LAB.namespace, "uid": "1"}}] if name == "Namespace" else []), "1"

    def patch(self, kind: str, name: str, namespace: str, patch: Any) -> None:
        self.done.append((kind, name, patch))

    def delete(self, kind: str, name: str) -> None:
        self.done.append(("delete", kind, name))


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Course:
    monkeypatch.setattr(lifecycle, "BUSY_SECONDS", 0.2)
    return Course(Workspace(tmp_path, tmp_path), Api(), "uid")  # type: ignore[arg-type]


@pytest.fixture
def draining(course: Course) -> Iterator[Path]:
    """Another run of the lab, in the middle of its drain; its journal."""
    journal = course.journal(LAB.namespace)
    with owned(journal) as is_ours:
        assert is_ours
        Restorer(journal, LAB.namespace).cordons("cpu")
        yield journal


def test_a_quick_look_goes_on_beside_a_check_and_leaves_its_journal(course: Course, draining: Path) -> None:
    began = time.monotonic()
    with lifecycle.observed(course, LAB, LAB.namespace):
        pass
    assert time.monotonic() - began < 1
    assert course.api.done == []  # type: ignore[attr-defined]
    assert draining.exists()


def test_a_second_check_and_a_reset_wait_a_moment_then_say_what_they_wait_for(course: Course, draining: Path) -> None:
    with pytest.raises(KailabError, match="being checked already"):
        lifecycle.check(course, LAB)
    with pytest.raises(KailabError, match="being checked already"):
        lifecycle.close_namespace(course, LAB.namespace)
    assert course.api.done == []  # type: ignore[attr-defined]
    assert draining.exists()


def test_a_namespace_that_is_given_up_goes_also_with_a_check_that_hangs_in_it(course: Course, draining: Path) -> None:
    lifecycle.close_namespace(course, LAB.namespace, insist=True)
    assert course.api.done == [("delete", "Namespace", LAB.namespace)]  # type: ignore[attr-defined]
    assert draining.exists()


def test_a_check_owns_its_journal_until_it_has_ended(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: Any) -> Any:
        with owned(course.journal(LAB.namespace)) as is_ours:
            assert not is_ours
        raise KailabError("seen")

    monkeypatch.setattr(lifecycle, "observed", look)
    with pytest.raises(KailabError, match="seen"):
        lifecycle.check(course, LAB)
    with owned(course.journal(LAB.namespace)) as is_ours:
        assert is_ours


def test_points_that_are_noted_while_a_lab_is_started_are_kept(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(*_: Any) -> dict[str, str]:
        """Seconds pass, in which a check in another terminal ends."""
        noted = Progress(course.workspace)
        noted.lab(LAB.number).best = 12.0
        noted.save()
        return {"Service/ai-api": "uid"}

    monkeypatch.setattr(lifecycle, "open_namespace", check)
    monkeypatch.setattr(lifecycle, "use_namespace", lambda *_: None)
    assert lifecycle.start(course, LAB)
    entry = Progress(course.workspace).lab(LAB.number)
    assert (entry.best, entry.started, entry.given) == (12.0, True, {"Service/ai-api": "uid"})


def test_whatever_opens_the_course_opens_the_nodes_of_killed_runs(
    course: Course, draining: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Restorer(course.journal("lab-05"), "lab-05").cordons("cloud-1")
    monkeypatch.setattr(Api, "close", lambda self: None, raising=False)
    monkeypatch.setattr(lifecycle, "connect", lambda _: course.api)
    monkeypatch.setattr(lifecycle.Identity, "verify", lambda *_: "uid")
    with Course.opened(course.workspace):
        pass
    assert course.api.done == [("Node", "cloud-1", {"spec": {"unschedulable": None}})]  # type: ignore[attr-defined]
    assert draining.exists()
