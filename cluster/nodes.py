"""The nodes as containers: state, start, running programs inside, loading images."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cluster.engine import Engine
from cluster.errors import KailabError
from cluster.run import CommandFailed
from cluster.topology import CONTROL_PLANE, NODES, Node, container_name

# Linux gives each control group 1024 where nothing else is said ("Control Group v1: cpu.shares" in its documentation).
CONTROL_PLANE_SHARES = 8 * 1024
# A killed container whose processes can die is gone in a second or two.
END_SECONDS = 15
KIND_LABEL = "io.x-k8s.kind.cluster"
# Where containerd puts what it makes of cni.template.
POD_NETWORK = "/etc/cni/net.d/10-containerd-net.conflist"
CTR = ("ctr", "--namespace=k8s.io")
# Lets all that runs in the containers with these ids go on ("Control Group v1: freezer" of Linux); of v2 it finds none.
_THAW = """
for id; do
    for state in $(find /host/freezer -path "*$id*" -name freezer.state); do echo THAWED >"$state"; done
done"""


@dataclass(frozen=True)
class NodeState:
    """`state` is the engine's word (running, exited, paused ...) or "absent"."""

    node: Node
    container: str
    state: str


def containers(engine: Engine, cluster: str) -> list[str]:
    """The containers that carry kind's label of this cluster, running or not."""
    ours = f"label={KIND_LABEL}={cluster}"
    return engine.run("ps", "--all", "--filter", ours, "--format", "{{.Names}}").stdout.split()


def clusters(engine: Engine) -> set[str]:
    """The names of all of kind's clusters in the engine, whoever made them."""
    field = f'{{{{.Label "{KIND_LABEL}"}}}}'
    if engine.program == "podman":  # whose list has no function for a label
        field = f'{{{{index .Labels "{KIND_LABEL}"}}}}'
    return set(engine.run("ps", "--all", "--filter", f"label={KIND_LABEL}", "--format", field).stdout.split())


def states(engine: Engine, cluster: str) -> list[NodeState]:
    """One entry per node of the topology, whether its container exists or not."""
    present = containers(engine, cluster)
    # Podman's list has words for people in the place of a state ("Up 5 seconds ago").
    asked = ("container", "inspect", "--format", "{{.Name}}\t{{.State.Status}}", *present)
    told = engine.run(*asked, check=False).stdout if present else ""
    found = dict(line.removeprefix("/").split("\t", 1) for line in told.splitlines() if "\t" in line)
    names = [(node, container_name(cluster, node)) for node in NODES]
    return [NodeState(node, name, found.get(name, "absent")) for node, name in names]


def started(engine: Engine, cluster: str) -> dict[str, datetime]:
    """Since when each node's container runs, by the node's name."""
    names = {container_name(cluster, node): node.name for node in NODES}
    asked = ("container", "inspect", "--format", "{{.Name}}\t{{json .State.StartedAt}}", *names)
    found = dict(line.removeprefix("/").split("\t", 1) for line in engine.run(*asked).stdout.splitlines())
    return {names[name]: datetime.fromisoformat(json.loads(since)) for name, since in found.items()}


def start(engine: Engine, stopped: Sequence[NodeState], log: Path) -> None:
    """Start stopped nodes, the control plane first so that it gets back the address it had."""
    for node in sorted(stopped, key=lambda state: not state.node.is_control_plane):
        _run_again(engine, "unpause" if node.state == "paused" else "start", node.container, log)


def _run_again(engine: Engine, verb: str, container: str, log: Path) -> None:
    """`verb` is start, restart or unpause. A killed container that can't end is in its way, whatever the engine calls
    that: running (Docker) or exited (Podman)."""
    try:
        engine.run(verb, container, log=log)
    except CommandFailed:
        let_end(engine, [container], log)
        engine.run("start", container, log=log)


def dead(engine: Engine, found: Sequence[NodeState]) -> list[NodeState]:
    """Nodes that the engine calls running although nothing can be started in them any more."""

    def answers(node: NodeState) -> bool:
        return engine.run("exec", node.container, "true", check=False).returncode == 0

    running = [node for node in found if node.state == "running"]
    with ThreadPoolExecutor(len(NODES)) as pool:
        return [node for node, well in zip(running, pool.map(answers, running), strict=True) if not well]


def let_end(engine: Engine, containers: Sequence[str], log: Path) -> None:
    """Thaw what is frozen in containers that were killed, and wait a moment until the engine has seen them end.

    A pod's runc may be killed while it holds the processes of a container frozen, to set limits. With control groups
    v1 frozen processes don't even die of SIGKILL, so the node never ends, and nobody is left in it to thaw them.
    """
    told = engine.run("container", "inspect", "--format", "{{.Id}} {{.Image}}", *containers).stdout
    ids, images = zip(*(line.split() for line in told.splitlines()), strict=True)
    # The node's own image is certainly there, and has a shell.
    engine.run("run", "--rm", "--privileged", "--cgroupns=host", "--network=none", "--volume=/sys/fs/cgroup:/host",
               "--entrypoint=sh", images[0], "-c", _THAW, "sh", *ids, log=log, check=False)  # fmt: skip
    asked = ("container", "inspect", "--format", "{{.State.Running}}", *containers)
    deadline = time.monotonic() + END_SECONDS
    # One that is being removed may vanish in between, which makes the question fail.
    while "true" in engine.run(*asked, check=False).stdout and time.monotonic() < deadline:
        time.sleep(0.2)


def restart_anew(engine: Engine, containers: Sequence[str], log: Path) -> None:
    """Restart nodes that will get another range of pod addresses, as a node that registers anew does.

    containerd writes its network configuration for the range only where it has none. (kindnet writes another file,
    and whenever the range changes.)
    """
    for container in containers:
        engine.run("exec", container, "rm", "-f", POD_NETWORK, log=log)
        _run_again(engine, "restart", container, log)


def remove(engine: Engine, cluster: str, log: Path) -> list[str]:
    """Remove a cluster's containers and their volumes, as `kind delete cluster` does, but without kind; returns names.

    Raises KailabError with what is left.
    """
    present, why, mend = containers(engine, cluster), "", ""
    try:
        if present:
            _remove_containers(engine, cluster, present, log)
        if volumes := _podmans_volumes(engine, cluster):
            engine.run("volume", "rm", *volumes, log=log)
    except CommandFailed as failed:
        why, mend = failed.why, failed.mend
    if left := [*containers(engine, cluster), *_podmans_volumes(engine, cluster)]:
        raise KailabError(
            f"Cluster {cluster} is not removed: {', '.join(left)} remain.", why=why,
            mend=f"{mend + '; then ' if mend else ''}kailab down   (once more; log: {log})",
        )  # fmt: skip
    return present


def _remove_containers(engine: Engine, cluster: str, present: Sequence[str], log: Path) -> None:
    """Ask once more where a node can't end."""
    try:
        engine.run("rm", "--force", "--volumes", *present, log=log)
    except CommandFailed:
        if not (left := containers(engine, cluster)):
            raise
        let_end(engine, left, log)
        engine.run("rm", "--force", "--volumes", *left, log=log)


def _podmans_volumes(engine: Engine, cluster: str) -> list[str]:
    """The nodes' volumes, which on Podman aren't anonymous, so that they stay when their containers are removed.

    kind marks each with a label that is the container's name (pkg/cluster/internal/providers/podman/util.go).
    """
    if engine.program != "podman":
        return []
    found: list[str] = []
    for node in NODES:
        ours = f"label={container_name(cluster, node)}"
        found += engine.run("volume", "ls", "--quiet", "--filter", ours).stdout.split()
    return found


def favour_control_plane(engine: Engine, cluster: str, log: Path) -> None:
    """Give the control plane the larger part of a busy machine's processors: pods that eat all they get must not
    keep the API server from answering. An engine that has no say in that leaves it as it is."""
    container = container_name(cluster, CONTROL_PLANE)
    engine.run("update", "--cpu-shares", str(CONTROL_PLANE_SHARES), container, log=log, check=False)


def images_on(engine: Engine, container: str) -> dict[str, str]:
    """Image names on a node with the digests of their contents."""
    listed = engine.run("exec", container, "crictl", "images", "--output", "json", check=False)
    if listed.returncode == 0:
        return {
            tag: image["id"] for image in json.loads(listed.stdout)["images"] for tag in image.get("repoTags") or []
        }
    lines = engine.run("exec", container, *CTR, "images", "ls").stdout.splitlines()[1:]
    return {parts[0]: parts[2] for parts in (line.split() for line in lines) if len(parts) > 2}


def load_images(engine: Engine, containers: Sequence[str], images: Sequence[str], saved: Path, log: Path) -> None:
    """Import the engine's `images` into every container's store, all nodes at once; `saved` is a scratch file."""

    def load(container: str) -> None:
        with saved.open("rb") as stream:
            engine.run("exec", "--interactive", container, *CTR, "images", "import", "--all-platforms", "--digests",
                       "--snapshotter=overlayfs", "-", stdin=stream, log=log)  # fmt: skip

    try:
        engine.save(images, saved, log)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(load, containers))
    finally:
        saved.unlink(missing_ok=True)
