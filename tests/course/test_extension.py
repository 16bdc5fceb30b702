"""`%load_ext course`: what is at hand afterwards, and how it speaks when something stands in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell


def test_what_stands_in_the_way_is_a_sentence_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAILAB_HOME", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "course")
    assert {"check", "cluster", "lab", "progress", "quiz", "start", "timeline"} <= shell.user_ns.keys()
    assert not shell.run_cell("check(6)").success
    said = "".join(capsys.readouterr())
    assert "kailab up" in said
    assert "Traceback" not in said
