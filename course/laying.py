"""Files that we make and others go on with: renewed while they are as we left them, never touched once they aren't."""

from __future__ import annotations

from pathlib import Path

from cluster.files import replace


def lay(path: Path, last: Path, text: str, aside: Path) -> tuple[Path, str]:
    """Lay `text` at `path`, or `aside` where somebody has changed what we laid there; where it is, and what was done.

    `last` keeps what we made last time, to tell.
    """
    before = _read(last)
    if not path.exists():
        what = "made"
    elif text in (before, _read(path)):
        what = "kept"
    elif _read(path) == before:
        what = "renewed"
    else:
        path, what = aside, "is newer than yours, and lies beside it"
    for place in (path, last) if what != "kept" else (last,):
        place.parent.mkdir(parents=True, exist_ok=True)
        replace(place, text)
    return path, what


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
