"""`make bench`: the figures that kailab promises, measured on the running course cluster.

Machines differ and are noisy, so what counts are ratios within one run; seconds are printed beside them. Nothing is
asserted here: a figure out of bounds is shown as such, and the exit status is 1.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from checkers.runner import Run, Setting
from cluster import engine as engines
from cluster import kindconfig, nodes, tools
from cluster.bringup import down, machine_of
from cluster.run import run
from cluster.workspace import Workspace
from labs import receipts
from labs.catalog import facts, fill_in, lab_numbered
from labs.lifecycle import Course, check, finish, observed, start
from labs.progress import Progress
from tests import bench_fleets
from tests.bench_fleets import seconds
from tests.system.conftest import eventually

ROUNDS = 7
# What the assert checks of lab 6 look at, as a careful person would script it with kubectl alone.
KUBECTL_SCRIPT = r"""
set -eu
k="$KUBECTL -n lab-06"
[ "$($k get deployment ai-api -o jsonpath='{.spec.replicas} {.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].ports[0].containerPort}')" = "3 ai-app:v1 8000" ]
[ "$($k get deployment ai-api -o jsonpath='{.status.readyReplicas} {.status.updatedReplicas} {.status.replicas}')" = "3 3 3" ]
[ -n "$($k get deployment ai-api -o jsonpath='{.spec.template.spec.containers[0].resources.requests.cpu}{.spec.template.spec.containers[0].resources.limits.memory}')" ]
[ "$($k get pods -l app.kubernetes.io/name=ai-api -o jsonpath='{.items[*].status.containerStatuses[0].restartCount}')" = "0 0 0" ]
$k get --raw /api/v1/namespaces/lab-06/services/ai-service:80/proxy/readyz >/dev/null
[ "$($k get pdb -o jsonpath='{.items[0].status.disruptionsAllowed}')" = "1" ]
[ "$($k get service ai-service -o jsonpath='{.spec.ports[0].port}')" = "80" ]
"""  # noqa: E501 - one kubectl call a line


def middle(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median of several runs, the first of which is thrown away."""
    return statistics.median([seconds(action) for _ in range(rounds + 1)][1:])


class Figures:
    """A table of what was measured beside what was promised."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, bool]] = []

    def add(self, what: str, found: float, limit: float, unit: str = "s", note: str = "") -> None:
        self.rows.append((what, f"{found:.2f} {unit}{note}", f"at most {limit:g} {unit}", found <= limit))

    def show(self, console: Console) -> bool:
        table = Table(box=None)
        for column in ("figure", "measured", "promised", ""):
            table.add_column(column, overflow="fold")
        for what, found, limit, good in self.rows:
            table.add_row(what, found, limit, "ok" if good else "MISSED")
        console.print(table)
        return all(good for *_, good in self.rows)


@contextmanager
def finished_lab_6(workspace: Workspace) -> Iterator[Course]:
    lab = lab_numbered(6)
    with Course.opened(workspace) as course:
        start(course, lab)
        for item in lab.manifests("solution"):
            course.api.apply(fill_in(item, facts(lab.namespace)), lab.namespace)
        try:
            report = check(course, lab, given=Progress(workspace).lab(6).given, keep_evidence=False).report
            assert report.points == report.max_points, report
            yield course
        finally:
            finish(course, lab)


def quick_checks(workspace: Workspace, figures: Figures) -> None:
    """One look at lab 6, from the shell and in a warm process, against the kubectl script."""
    program = str(Path(sys.executable).parent / "kailab")
    kubectl = str(tools.find_kubectl(workspace))
    shell = {**os.environ, "KUBECTL": f"{kubectl} --kubeconfig {workspace.kubeconfig}"}

    def scripted() -> bool:
        return (
            subprocess.run(["sh", "-c", KUBECTL_SCRIPT], env=shell, stdout=subprocess.DEVNULL, check=False).returncode
            == 0
        )

    eventually(scripted)  # pods that the check's own updates replaced may still be ending, and the script counts them
    whole = middle(lambda: subprocess.run([program, "check", "6", "--quick"], stdout=subprocess.DEVNULL, check=False))
    script = middle(scripted)
    assert scripted()  # one that stops at its first difference would be fast
    figures.add("check 6 --quick, whole process", whole, 0.4)
    figures.add("  against the kubectl script", whole / script, 1, "times", f" (script {script:.2f} s)")
    lab = lab_numbered(6)
    with Course.opened(workspace) as course, observed(course, lab, lab.namespace) as sources:
        sources.observation.follow()
        setting = Setting(lab.namespace, workspace.state, course.cluster, Progress(workspace).lab(6).given, quick=True)
        figures.add(
            "the same in a warm process", middle(lambda: Run(lab.spec, lab.checks, setting, sources).report()), 0.1
        )


def beginnings(figures: Figures) -> None:
    """What one waits for before anything is asked of the cluster; whole processes, Python's own start included."""
    program = str(Path(sys.executable).parent / "kailab")
    for what, command, limit in (
        ("kailab --help", [program, "--help"], 0.3),
        ("kailab list", [program, "list"], 0.3),
        ("a kernel's import of course and panel", [sys.executable, "-c", "import course, checkers.notebook"], 0.5),
    ):
        took = middle(lambda command=command: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))
        figures.add(what, took, limit)


def full_check(workspace: Workspace, figures: Figures) -> None:
    program = str(Path(sys.executable).parent / "kailab")
    reported = 0.0

    def whole() -> None:
        nonlocal reported
        done = subprocess.run([program, "lab", "6", "--json"], stdout=subprocess.PIPE, check=False, text=True)
        reported = json.loads(done.stdout)["seconds"]

    took = seconds(whole)
    figures.add("check 6 with its triggers", reported, 45)
    figures.add("  what `make lab-6` adds on a running cluster", took - reported, 1)


def bring_up(workspace: Workspace, figures: Figures) -> None:
    """`kailab up` with built images against a bare `kind create cluster` of the same nodes and images."""
    program = str(Path(sys.executable).parent / "kailab")
    engine = engines.find()
    assert engine is not None
    state = nodes.states(engine, workspace.cluster_name)
    listed = json.loads(run([engine.program, "inspect", *(one.container for one in state)], env=engine.env).stdout)
    images = [container["Config"]["Image"] for container in listed]
    down(workspace, Console(quiet=True), stop_engine=False)  # the bare cluster needs the engine
    bare = bare_kind(workspace, engine, kindconfig.Images(images[0], images[1]))
    took = seconds(lambda: subprocess.run([program, "up"], check=True, stdout=subprocess.DEVNULL))
    figures.add("kailab up, nodes and add-ons Ready", took, 60)
    figures.add("  against a bare kind create cluster", took / bare, 1.5, "times", f" (bare {bare:.1f} s)")


def bare_kind(workspace: Workspace, engine: engines.Engine, images: kindconfig.Images) -> float:
    """Seconds until all nodes of a cluster by kind alone are Ready; the cluster is removed again."""
    kind, kubectl, name = tools.find_kind(workspace), tools.find_kubectl(workspace), "kailab-bench"
    assert kind is not None
    assert kubectl is not None
    with tempfile.TemporaryDirectory() as folder:
        shared, kubeconfig = Path(folder) / "shared", Path(folder) / "kubeconfig"
        shared.mkdir()
        config = json.dumps(kindconfig.config(name, images, shared, machine_of(engine)))

        def make() -> None:
            create = [kind, "create", "cluster", "--name", name, "--kubeconfig", kubeconfig, "--config", "-"]
            run([*create, "--wait", "180s"], env=engine.env, stdin=config)
            ready = ["--for=condition=Ready", "node", "--all", "--timeout=180s"]
            run([kubectl, "--kubeconfig", kubeconfig, "wait", *ready])

        try:
            return seconds(make)
        finally:
            nodes.remove(engine, name, workspace.logs / "bench.log")


def gates(workspace: Workspace, figures: Figures) -> None:
    for number, limit in ((1, 90), (3, 300), (6, 180)):
        found = receipts.find(workspace, lab_numbered(number))
        when = f"{found.at:%d %b %H:%M}" if found else "not run with these files"
        figures.add(f"gate {number}, the last one ({when})", found.seconds if found else math.inf, limit)


def fleets(workspace: Workspace, figures: Figures, console: Console) -> None:
    """Simulated nodes by the hundred, GPU pods on them, and a check beside them."""
    sizes = bench_fleets.measured(workspace)
    console.print(bench_fleets.table(sizes))
    largest = sizes[-1]
    figures.add(f"{largest.nodes} simulated nodes Ready", largest.ready, 20)
    figures.add(f"  {largest.pods} GPU pods on them Running, profile `sampling`", largest.running, 90)
    figures.add(f"  check {bench_fleets.CHECKED} --quick beside them, whole process", largest.check, 2)


def main() -> int:
    # As on a student's machine, where Python keeps what it has compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    workspace, figures, console = Workspace.here(), Figures(), Console(width=120)
    good = False
    try:
        beginnings(figures)
        with finished_lab_6(workspace):
            quick_checks(workspace, figures)
            full_check(workspace, figures)
        gates(workspace, figures)
        fleets(workspace, figures, console)
        bring_up(workspace, figures)
    finally:  # half a table is better than none
        good = figures.show(console)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
