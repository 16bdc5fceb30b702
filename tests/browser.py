"""The browser that JupyterLab is tested in: a Chromium that is there, or, from `make browser`, Debian's own."""

from __future__ import annotations

import shutil

from rich.console import Console

from checkers.report.terminal import show_error
from cluster import engine
from cluster.errors import KailabError
from cluster.run import run
from cluster.workspace import Workspace

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "fonts-dejavu-core")  # a machine without fonts takes pictures of little boxes
MEND = "sudo apt-get install chromium fonts-dejavu-core   (or Google Chrome, on the PATH)"


def path() -> str:
    """The browser's program. Raises KailabError where there is none."""
    found = next((found for name in NAMES if (found := shutil.which(name))), None)
    if found is None:
        raise KailabError("JupyterLab is tested in a real browser, and none of these is on the PATH.",
                          why=", ".join(NAMES), mend=MEND)  # fmt: skip
    return found


def install(workspace: Workspace, console: Console) -> None:
    """Install one unless it is there. Raises KailabError where that is not ours to do, or fails."""
    try:
        path()
    except KailabError:
        if not engine.can_install():
            raise
        console.print("Installing Chromium, for the tests of JupyterLab (124 MB)")
        log = workspace.logs / "browser.log"
        run(["apt-get", "-q", "update"], log=log)
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "-q", "-y", "--no-install-recommends", "install", *PACKAGES], log=log, env=env)
        path()


if __name__ == "__main__":
    try:
        install(Workspace.here(), Console(highlight=False))
    except KailabError as failed:
        show_error(failed, Console(stderr=True))  # no more than that: the tests that need it will fail, all others run
