"""A file is as it was or as it should be, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from cluster.files import replace


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [False, True])
def test_the_whole_text_and_nothing_else_is_there(tmp_path: Path, durable: bool) -> None:
    replace(tmp_path / "progress.json", "größer", durable=durable)
    assert (tmp_path / "progress.json").read_text(encoding="utf-8") == "größer"
    assert names(tmp_path) == ["progress.json"]


def test_a_private_file_is_its_owners(tmp_path: Path) -> None:
    replace(tmp_path / "token", "secret", private=True)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


@pytest.mark.parametrize("when", ["write", "fsync", "rename"])
def test_on_a_full_disk_the_old_file_stays_and_no_part_of_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    path = tmp_path / "progress.json"
    replace(path, "what the student has")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "write":
        path.with_name("progress.json.new").symlink_to("/dev/full")  # full(4) takes nothing
    elif when == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    else:
        monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left on device") as full:
        replace(path, "x" * 100_000, durable=True)
    assert full.value.errno == errno.ENOSPC
    assert full.value.filename == str(path)
    assert path.read_text() == "what the student has"
    assert names(tmp_path) == ["progress.json"]
