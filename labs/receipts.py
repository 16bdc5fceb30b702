"""What an author gate found, kept under a hash of all that it read: it is true until one of these files changes."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydantic

from cluster.files import replace
from cluster.hashing import IGNORED, combined, of_files
from cluster.workspace import SOURCE_ROOT, Workspace
from labs.catalog import LabFolder, all_labs

# Gates don't import these; pyproject.toml has a contract that says so.
NOT_READ = ("checkers/notebook", "labs/grading", "labs/cli.py", "labs/WRITE_A_LAB.md")
# Debian's packages in images change without us, and luck in timing is no proof: what held long ago is asked again.
GOOD_FOR = timedelta(days=7)


@dataclass(frozen=True)
class Receipt:
    """One gate's outcome. `scores` are points by the name of a submission, `at` is the time of its end."""

    lab: int
    problems: tuple[str, ...]
    scores: Mapping[str, float]
    seconds: float
    kubernetes: str
    at: datetime

    @property
    def holds(self) -> bool:
        return not self.problems


_ADAPTER = pydantic.TypeAdapter(Receipt)


def keep(workspace: Workspace, lab: LabFolder, inputs: str, receipt: Receipt) -> None:
    """`inputs` is what `hash_of_inputs` gave when the gate began."""
    path = _path(workspace, lab, inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f"{lab.path.name}-*"):
        if datetime.fromtimestamp(old.stat().st_mtime, UTC) < receipt.at - GOOD_FOR:
            old.unlink(missing_ok=True)
    replace(path, _ADAPTER.dump_json(receipt, indent=1).decode())


def find(workspace: Workspace, lab: LabFolder) -> Receipt | None:
    """The newest receipt for the files as they are now, wherever on this machine they were checked out."""
    try:
        found = _ADAPTER.validate_json(_path(workspace, lab, hash_of_inputs(lab)).read_bytes())
    except (OSError, pydantic.ValidationError):
        return None
    return found if datetime.now(UTC) - found.at < GOOD_FOR else None


def hash_of_inputs(lab: LabFolder) -> str:
    """A hash of what a gate's outcome may follow from: the lab, what checks it, the cluster, and this machine."""
    left_out = {SOURCE_ROOT / name for name in NOT_READ}
    return hash_of(lab, ("checkers", "cluster", "labs", "requirements/lab.lock"), left_out)


def hash_of(lab: LabFolder, names: Iterable[str], left_out: Collection[Path]) -> str:
    """A hash of these files and folders of the checkout, less other labs and what is left out, and of this machine."""
    skipped = {other.path for other in all_labs() if other != lab}.union(left_out)
    files = (f"{path.relative_to(SOURCE_ROOT).as_posix()} {of_files(path)}" for path in _within(names, skipped))
    return combined((*files, platform.python_version(), platform.platform()))


def _within(names: Iterable[str], left_out: Collection[Path]) -> Iterator[Path]:
    for there in (SOURCE_ROOT / name for name in names):
        found = sorted(there.iterdir()) if there.is_dir() else [there]
        yield from (path for path in found if path not in left_out and path.name not in IGNORED)


def _path(workspace: Workspace, lab: LabFolder, inputs: str) -> Path:
    return workspace.cache / "receipts" / f"{lab.path.name}-{inputs}.json"
