"""`make jupyter`: build the chapters, see to the cluster, and open JupyterLab on them."""

from __future__ import annotations

import json
import os
import sys

from checkers.report.terminal import console, show_error
from cluster.errors import KailabError
from cluster.tools import program_folders
from cluster.workspace import Workspace
from course import chapters, startpage
from labs.setup import ensure_up

# What would ask the internet for news at every start.
_DISABLED = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
# By itself, nbgrader's validate stops a cell after 30 s, and with it a check in the midst of a drain.
CELL_SECONDS = 600


def environment(workspace: Workspace) -> dict[str, str]:
    """Of JupyterLab and thus of its kernels and terminals: kubectl and kailab found, set to the course cluster."""
    settings = workspace.state / "jupyter"
    config = settings / "labconfig" / "page_config.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(_DISABLED))
    # For members of a class: what nbgrader fetches lies apart, for the labs' own files are in folders of that name.
    assignments = workspace.work / "assignments"
    assignments.mkdir(parents=True, exist_ok=True)
    student = {"Exchange": {"assignment_dir": str(assignments)}, "Execute": {"timeout": CELL_SECONDS}}
    (settings / "nbgrader_config.json").write_text(json.dumps(student))
    folders = [*program_folders(workspace), os.environ.get("PATH", "")]
    return {
        **os.environ, "KUBECONFIG": str(workspace.kubeconfig), "PATH": os.pathsep.join(folders),
        "JUPYTER_CONFIG_PATH": str(settings),
    }  # fmt: skip


def _as_root() -> list[str]:
    """JupyterLab asks root for a word of its own; who is root here (in a container, mostly) has no other account."""
    return ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


def main() -> None:
    """Exit status: 2 when something stood in the way; otherwise JupyterLab's own."""
    workspace, out = Workspace.here(), console()
    try:
        for path, what in (*startpage.build(workspace), *chapters.build(workspace)):
            out.print(f"{what:<8} {path}", soft_wrap=True)
        ensure_up(workspace, out)
    except KailabError as failed:
        show_error(failed, console(stderr=True))
        sys.exit(2)
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={workspace.work}",
               f"--LabApp.default_url=/lab/tree/chapters/{startpage.NAME}", *_as_root(), *sys.argv[1:]]  # fmt: skip
    os.execve(sys.executable, command, environment(workspace))  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main()
