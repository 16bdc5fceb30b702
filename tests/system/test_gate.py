"""Every lab's author gate: the longest and most telling test of all."""

from __future__ import annotations

import pytest
from rich.console import Console

from cluster.workspace import Workspace
from labs import receipts
from labs.catalog import LabFolder, all_labs
from labs.gate import run_gate
from tests.system import held

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("lab", all_labs(), ids=lambda lab: f"lab-{lab.number}")
def test_the_author_gate_holds(lab: LabFolder, workspace: Workspace) -> None:
    found = None if held.ALWAYS else receipts.find(workspace, lab)
    if found and found.holds:
        pytest.skip(held.told(found.at))
    console = Console(width=160)
    console.print()
    problems = run_gate(workspace, lab, console)
    # In pytest's summary too, which is all that is left of a long log.
    assert not problems, "\n".join([f"kailab gate {lab.number}", *problems])
