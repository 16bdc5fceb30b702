"""Files that a crash or a full disk leaves either as they were or as they should be."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def is_full(refused: BaseException) -> bool:
    """Whether it was for want of room on a disk, or of what a user may have of it."""
    return isinstance(refused, OSError) and refused.errno in (errno.ENOSPC, errno.EDQUOT)


def replace(path: Path, text: str, *, durable: bool = False, private: bool = False) -> None:
    """Write a whole file at once. `durable`: also through a power cut; `private`: for its owner's eyes only.

    Raises OSError with the file's name where the disk is full or does not take it; what was there before stays.
    """
    unfinished = path.with_name(f"{path.name}.new")
    try:
        if private:
            unfinished.touch(mode=0o600)
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as refused:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)  # a part of a file helps nobody, and takes up room
        raise OSError(refused.errno, refused.strerror, str(path)) from refused
