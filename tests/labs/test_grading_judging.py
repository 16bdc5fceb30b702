"""A submission is judged or there is no verdict; whatever is in it, the class goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import KailabError
from cluster.workspace import Workspace
from labs.catalog import lab_numbered
from labs.grading import judging
from labs.lifecycle import Course


def test_what_the_grader_stumbles_over_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbles(*_: Any) -> None:
        raise TypeError("'int' object is not iterable")

    left: list[str] = []
    monkeypatch.setattr(judging, "open_room", lambda *_: {})
    monkeypatch.setattr(judging, "hand_in", stumbles)
    course = Course(Workspace(tmp_path, tmp_path), None, "uid")  # type: ignore[arg-type]
    with pytest.raises(KailabError, match="grader itself broke"):
        judging.judge(course, lab_numbered(6), (), "grade-06-x", cancelled=threading.Event(), leave=left.append)
    assert left == ["grade-06-x"]
