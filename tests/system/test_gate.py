"""Every lab's author gate: the longest and most telling test of all."""

from __future__ import annotations

import os

import pytest
from rich.console import Console

from cluster.workspace import Workspace
from labs import receipts
from labs.catalog import LabFolder, all_labs
from labs.gate import run_gate

pytestmark = pytest.mark.cluster
# CI takes nobody's word for it, not even its own of an hour ago.
ALWAYS = bool(os.environ.get("CI") or os.environ.get("ANEW"))


@pytest.mark.parametrize("lab", all_labs(), ids=lambda lab: f"lab-{lab.number}")
def test_the_author_gate_holds(lab: LabFolder, workspace: Workspace) -> None:
    held = None if ALWAYS else receipts.find(workspace, lab)
    if held and held.holds:
        pytest.skip(f"it held on {held.at:%d %b at %H:%M} UTC, and no file that it reads has changed (ANEW=1 runs it)")
    console = Console(width=160)
    console.print()
    problems = run_gate(workspace, lab, console)
    # In pytest's summary too, which is all that is left of a long log.
    assert not problems, "\n".join([f"kailab gate {lab.number}", *problems])
