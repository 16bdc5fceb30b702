"""Tests of one lab alone: one that held is repeated when a file has changed that its outcome may follow from.

With fourteen labs these tests are most of what `make test` does, and a change is mostly in one of them. CI takes
nobody's word for it, not even its own of an hour ago.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from cluster import hashing
from cluster.files import replace
from cluster.workspace import SOURCE_ROOT, Workspace
from course.chapters import chapters
from labs.catalog import LabFolder
from labs.receipts import GOOD_FOR, hash_of

ALWAYS = any(os.environ.get(name) for name in ("CI", "ANEW", "KAILAB_REWRITE_MEASURED"))
READ = ("checkers", "cluster", "course", "labs", "tests/system", "requirements/dev.lock")


def told(at: datetime) -> str:
    """Why a test is skipped that held then (UTC)."""
    return f"it held on {at:%d %b at %H:%M} UTC, and no file that it reads has changed (ANEW=1 runs it)"


def receipt(workspace: Workspace, test: str, lab: LabFolder) -> Path:
    """The file that is there if the test of this name held with the files as they are now."""
    here = SOURCE_ROOT / test.partition("::")[0]
    left_out = {path for path in here.parent.glob("test_*.py") if path != here}
    left_out |= {chapter.path for chapter in chapters() if chapter.number != lab.number}
    key = hashing.combined([test, hash_of(lab, READ, left_out)])
    return workspace.cache / "receipts" / f"{lab.path.name}-test-{key}"


def keep(path: Path, test: str) -> None:
    """Note that it held. What has grown too old to count is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob("*-test-*"):
        if when(old) is None:
            old.unlink(missing_ok=True)
    replace(path, f"{test}\n")


def when(path: Path) -> datetime | None:
    """When the test held (UTC), if that is not too long ago."""
    try:
        at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None
    return at if datetime.now(UTC) - at < GOOD_FOR else None
