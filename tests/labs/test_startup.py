"""Commands start quickly: what takes long to import and isn't needed for them stays unloaded.

Seconds differ from machine to machine; what is loaded does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from labs.catalog import LABS

# Each costs between a fiftieth and half of a second wherever it is imported.
SLOW = {"IPython", "filelock", "ipywidgets", "jinja2", "jsonpatch", "jsonschema", "kubernetes", "markdown_it",
        "matplotlib", "nbformat", "numpy", "pydantic", "rich.markdown", "rich.progress", "typer"}  # fmt: skip
TALKS_TO_CLUSTERS = {"ssl", "urllib3"}
COMMAND = "import sys; from labs.cli import main; sys.argv[0] = 'kailab'; main()"
CHECKS = "from labs.catalog import all_labs; assert [list(lab.checks) for lab in all_labs()]"
TELL = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(list(sys.modules))))"


def loaded(home: Path, program: str, *args: str) -> set[str]:
    """The modules that a program has loaded when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", f"{TELL}; {program}", *args], cwd=LABS.parent, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={**os.environ, "KAILAB_HOME": str(home / ".kailab")},
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("args", [["--help"], ["check", "--help"], ["list"]])
def test_what_asks_no_cluster_loads_nothing_that_talks_to_one(tmp_path: Path, args: list[str]) -> None:
    found = loaded(tmp_path, COMMAND, *args)
    assert "labs.cli" in found
    assert found & (SLOW | TALKS_TO_CLUSTERS) == set()


def test_a_check_loads_only_what_it_needs(tmp_path: Path) -> None:
    # It ends where it would ask the cluster, of which there is none; by then its modules are there.
    found = loaded(tmp_path, COMMAND, "check", "6", "--quick")
    assert {"labs.lifecycle", "checkers.runner", "checkers.report.terminal", "urllib3"} <= found
    assert found & SLOW == set()


def test_the_checks_of_no_lab_load_more(tmp_path: Path) -> None:
    found = loaded(tmp_path, CHECKS)
    assert "labs.06_deployments.checks" in found
    assert found & SLOW == set()


def test_a_kernel_that_loads_the_course_waits_for_no_widgets(tmp_path: Path) -> None:
    found = loaded(tmp_path, "import course")
    assert "course" in found
    assert found & (SLOW | TALKS_TO_CLUSTERS) == set()
