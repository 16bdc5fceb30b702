"""`make bench`, fleets: simulated nodes by the hundred, GPU pods on them, a check beside them, and how each grows.

`python -m tests.bench_fleets 100 1000` measures these alone. Bounded: what has not come by then counts as never.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from checkers.observe import Observation
from cluster.api import Api
from cluster.gpu import scale
from cluster.workspace import Workspace
from cluster.yamls import load
from labs.catalog import facts, fill_in, lab_numbered
from labs.lifecycle import Course, finish, is_started, start

NAMESPACE = "kailab-bench"
SIZES = (100, 1000)
PODS_A_NODE = 5
# A controller looks at all pods of its Deployment at each change: one of 5,000 would measure that square.
PODS_A_DEPLOYMENT = 500
CHECKED = 3  # the lab whose checks look at all nodes
CHECKS = 3
RUNNING_SECONDS = 150.0
POLL_SECONDS = 0.5
NEVER = float("inf")
MANY = """
apiVersion: apps/v1
kind: Deployment
metadata: {}
spec:
  template:
    spec:
      schedulerName: sampling  # the default profile scores every node for every pod
      nodeSelector: {kailab.dev/simulated: "true"}
      tolerations: [{key: kwok.x-k8s.io/node, operator: Exists}, {key: nvidia.com/gpu, operator: Exists}]
      containers: [{name: main, image: none, resources: {limits: {nvidia.com/gpu: 1}}}]
"""


@dataclass(frozen=True)
class Size:
    """One fleet: seconds until its nodes were Ready, until its pods ran, for one whole check beside them, and until
    all was gone. Where `ran` is less than `pods`, `running` is never, and a rate is that of the time given."""

    nodes: int
    pods: int
    ready: float
    running: float
    ran: int
    check: float
    gone: float


def measured(workspace: Workspace, sizes: Sequence[int] = SIZES) -> list[Size]:
    with Course.opened(workspace) as course, _laid_out(course):
        return [_measure(course.api, count) for count in sizes]


@contextmanager
def _laid_out(course: Course) -> Iterator[None]:
    """Lab 3 with its solution, so that its checks have something to look at; as it was, if it was there."""
    lab = lab_numbered(CHECKED)
    was_there = is_started(course, lab.namespace)
    try:
        if not was_there:
            start(course, lab)
            for item in lab.manifests("solution"):
                course.api.apply(fill_in(item, facts(lab.namespace)), lab.namespace)
        yield
    finally:
        if not was_there:
            finish(course, lab)


def _measure(api: Api, count: int) -> Size:
    wanted = scale.nodes(scale.fleet(count, "H100-80GB", 8, 3, 3))
    pods = PODS_A_NODE * count
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    try:
        ready = seconds(lambda: (scale.join(api, wanted), scale.wait_ready(api, len(wanted))))
        running, ran = _until_running(api, pods)
        check = statistics.median([seconds(_check) for _ in range(CHECKS)])
    finally:
        gone = seconds(lambda: _away(api))
    return Size(count, pods, ready, running, ran, check, gone)


def seconds(action: Callable[[], object]) -> float:
    """How long it took."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def _until_running(api: Api, pods: int) -> tuple[float, int]:
    """Seconds, and how many ran by then: counted pod by pod, for a Deployment's status comes late under such load."""
    begun, ran = time.perf_counter(), 0
    with closing(Observation(api, NAMESPACE, ["Pod"])) as seen:
        seen.refresh()
        seen.follow()
        for first in range(0, pods, PODS_A_DEPLOYMENT):
            api.apply(_deployment(f"many-{first}", min(pods - first, PODS_A_DEPLOYMENT)), NAMESPACE)
        while (took := time.perf_counter() - begun) < RUNNING_SECONDS:
            ran = sum(pod["status"].get("phase") == "Running" for pod in seen.view()["Pod"])
            if ran == pods:
                return took, ran
            time.sleep(POLL_SECONDS)
    return NEVER, ran


def _deployment(name: str, replicas: int) -> dict[str, Any]:
    document: dict[str, Any] = load(MANY)
    labels = {"app.kubernetes.io/name": name}
    document["metadata"]["name"] = name
    document["spec"] |= {"replicas": replicas, "selector": {"matchLabels": labels}}
    document["spec"]["template"]["metadata"] = {"labels": labels}
    return document


def _check() -> None:
    program = Path(sys.executable).parent / "kailab"
    done = subprocess.run([program, "check", str(CHECKED), "--quick"], stdout=subprocess.DEVNULL, check=False)
    assert done.returncode in (0, 1), done  # 2 would be a fault of ours


def _away(api: Api) -> None:
    api.delete("Namespace", NAMESPACE)
    scale.leave(api)
    while api.get("Namespace", NAMESPACE) is not None:
        time.sleep(POLL_SECONDS)


def table(sizes: Sequence[Size]) -> Table:
    """Seconds by size, and in the last line how many times the first one's the last one's are."""
    made = Table(box=None, title="fleets, in seconds (pods by profile `sampling`)", title_justify="left")
    for column in ("nodes", "Ready", "GPU pods", "Running", "pods a second", f"check {CHECKED} --quick", "all gone"):
        made.add_column(column, justify="right")
    for one in sizes:
        took = f"{one.running:.1f}" if one.ran == one.pods else f"{one.ran} pods in {RUNNING_SECONDS:.0f}"
        rate = one.ran / min(one.running, RUNNING_SECONDS)
        made.add_row(str(one.nodes), f"{one.ready:.1f}", str(one.pods), took, f"{rate:.0f}", f"{one.check:.2f}",
                     f"{one.gone:.1f}")  # fmt: skip
    first, last = sizes[0], sizes[-1]
    if first is not last:
        made.add_row(f"x {last.nodes / first.nodes:.0f}", f"x {last.ready / first.ready:.1f}",
                     f"x {last.pods / first.pods:.0f}", f"x {last.running / first.running:.1f}", "",
                     f"x {last.check / first.check:.1f}", f"x {last.gone / first.gone:.1f}")  # fmt: skip
    return made


if __name__ == "__main__":
    wanted_sizes = [int(text) for text in sys.argv[1:]] or SIZES
    Console(width=120).print(table(measured(Workspace.here(), wanted_sizes)))
