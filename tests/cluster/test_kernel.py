"""The kernel's limit on file watchers: raised where we may, told where not, never lowered."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import kernel


@pytest.fixture
def limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    path = tmp_path / "max_user_instances"
    path.write_text("128\n")
    return path


def test_root_raises_it_and_says_so(limit: Path) -> None:
    assert "from 128 to 512" in kernel.raise_inotify(limit)
    assert kernel.inotify_instances(limit) == 512
    assert kernel.raise_inotify(limit) == ""


def test_a_higher_limit_stays(limit: Path) -> None:
    limit.write_text("8192\n")
    assert kernel.raise_inotify(limit) == ""
    assert kernel.inotify_instances(limit) == 8192


def test_others_are_told_the_command(limit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert kernel.RAISE in kernel.raise_inotify(limit)
    assert kernel.inotify_instances(limit) == 128


def test_a_read_only_proc_is_told_too(limit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert kernel.RAISE in kernel.raise_inotify(limit)


def test_a_system_without_the_limit_needs_nothing(tmp_path: Path) -> None:
    assert kernel.inotify_instances(tmp_path / "none") is None
    assert kernel.raise_inotify(tmp_path / "none") == ""
