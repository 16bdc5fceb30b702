"""Files that a crash leaves either as they were or as they should be."""

from __future__ import annotations

import os
from pathlib import Path


def replace(path: Path, text: str, *, durable: bool = False, private: bool = False) -> None:
    """Write a whole file at once. `durable`: also through a power cut; `private`: for its owner's eyes only."""
    unfinished = path.with_name(f"{path.name}.new")
    if private:
        unfinished.touch(mode=0o600)
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    unfinished.replace(path)
