"""Recipe hashes: what was built from the same inputs is not built again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

IGNORED = {"__pycache__", ".pytest_cache"}
LENGTH = 12


def of_files(root: Path) -> str:
    """A hash over the names, contents and executable bits of all files below `root` (or of one file)."""
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        if IGNORED.isdisjoint(path.parts):
            name = path.relative_to(root).as_posix()
            digest.update(f"{name}\0{path.stat().st_mode & 0o100}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:LENGTH]


def combined(parts: Iterable[str]) -> str:
    """One hash over several strings; their order and borders count."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:LENGTH]
