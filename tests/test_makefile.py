"""The Makefile's own decisions, without what they lead to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.workspace import SOURCE_ROOT


@pytest.mark.parametrize(("command", "is_kept"), [
    ("command = /usr/bin/python3 -m venv {here}/.venv", True),
    ("command = /usr/bin/python3 -m venv {here}2/.venv", False),
    ("command = /usr/bin/python3 -m venv /elsewhere/.venv", False),
    ("uv = 0.9", True),  # another tool's, which says nothing of its place
])  # fmt: skip
def test_an_environment_of_another_place_is_made_anew(tmp_path: Path, command: str, is_kept: bool) -> None:
    here = tmp_path / "a checkout"
    (here / ".venv").mkdir(parents=True)
    shutil.copy(SOURCE_ROOT / "Makefile", here)
    (here / ".venv" / ".lab").touch()
    (here / ".venv" / "pyvenv.cfg").write_text(f"home = /usr/bin\n{command.format(here=here)}\n")
    said = subprocess.run(["make", "help"], cwd=here, capture_output=True, text=True, check=True).stdout
    assert (here / ".venv").exists() == is_kept
    assert ("set up anew" in said) != is_kept
