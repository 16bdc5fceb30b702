"""Whether pods reach pods on other nodes, which nothing that is merely Ready shows.

Nodes are containers side by side. What they forward to each other can pass through the firewall of the machine they
run on, and that may drop pods' addresses: Docker sets the chain FORWARD so, also for a cluster that is in Podman.
"""

from __future__ import annotations

import time

from checkers.declare import CannotTell
from checkers.prober import Prober, token
from cluster.api import Api
from cluster.errors import KailabError
from cluster.gpu import METRICS_PORT, control
from cluster.kindconfig import POD_SUBNET
from cluster.steps import Say
from cluster.workspace import Workspace

SECONDS = 20.0  # a route comes a moment after its node
POLL_SECONDS = 0.2
# Per try, while routes are on their way: what a route comes too late for is sent again only after a second.
TRY_SECONDS = 0.5
ALIVE = "connection refused"  # says a pod that is there, and so was reached


def unreached(api: Api, workspace: Workspace, timeout: float = 3.0) -> list[str]:
    """The GPU nodes whose agents don't answer the prober, which is on the control plane.

    Raises CannotTell when the prober itself does not answer.
    """
    prober = Prober(api, token(workspace))
    silent = []
    for pod in control.agents(api):
        answer = prober.tcp(pod["status"]["podIP"], METRICS_PORT, timeout=timeout)
        if not answer["open"] and answer["error"] != ALIVE:
            silent.append(str(pod["spec"]["nodeName"]))
    return silent


def require(api: Api, say: Say, workspace: Workspace) -> None:
    """Wait until pods reach each other. Raises KailabError when they don't, with what to look at and what mends it."""
    deadline = time.monotonic() + SECONDS
    while failed := _failed(api, workspace):
        if time.monotonic() > deadline:
            raise failed
        say(f"waiting: {failed.what}")
        time.sleep(POLL_SECONDS)


def _failed(api: Api, workspace: Workspace) -> KailabError | None:
    try:
        silent = unreached(api, workspace, TRY_SECONDS)
    except CannotTell as unknown:
        return KailabError("Whether pods reach each other can't be told.", why=str(unknown), mend="kailab up again")
    return cut_off(silent) if silent else None


def cut_off(silent: list[str]) -> KailabError:
    """What to say of nodes that pods elsewhere don't reach."""
    return KailabError(
        f"Pods don't reach the pods on {', '.join(silent)}.",
        why="Every node is Ready, so most likely the firewall of the machine drops what nodes forward to each other:\n"
        "`sudo iptables -S FORWARD` begins with -P FORWARD DROP. Docker sets it so, for Podman's networks too.",
        mend=f"sudo iptables -I FORWARD -s {POD_SUBNET} -d {POD_SUBNET} -j ACCEPT\n"
        "      (lets pods' addresses through until the machine starts anew), then kailab up",
    )
