"""`kailab gpu`: the simulated GPUs, seen, broken, healed and kept busy."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.errors import KailabError
from cluster.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.api import Api
    from cluster.gpu.node.readings import GpuFault
    from cluster.gpu.use import Group

SAMPLED = 100  # nodes that the scheduler always scores, if so many fit (minFeasibleNodesToFind in its sources)


@click.group("gpu")
def app() -> None:
    """The simulated GPUs: status, faults, load, fleets."""


@contextlib.contextmanager
def _api() -> Iterator[Api]:
    from labs.lifecycle import Course

    with Course.opened(Workspace.here()) as course:
        yield course.api


def _console() -> Console:
    from checkers.report.terminal import console

    return console()


@app.command()
@click.option("--watch", "-w", is_flag=True, help="keep it up to date until Ctrl-C")
@click.option("--json", "as_json", is_flag=True, help="one JSON document")
@click.option("--html", "page", type=click.Path(path_type=Path), help="write the picture into this HTML file")
def status(watch: bool, as_json: bool, page: Path | None) -> None:
    """Every GPU: what it does, who holds it, what is wrong with it."""
    from cluster.gpu.control import statuses
    from labs import gpu_screens

    with _api() as api:
        if watch:
            _watch(api)
            return
        found, zones = statuses(api), _zones(api)
        if as_json:
            click.echo(json.dumps({"nodes": found, "zones": [_as_json(one) for one in zones]}))
        elif page is not None:
            page.write_text(f"<!doctype html><meta charset=utf-8><body>{gpu_screens.as_html(found, zones)}")
            click.echo(f"wrote {page}")
        else:
            gpu_screens.show(found, zones, _console())


def _watch(api: Api) -> None:
    from rich.live import Live

    from cluster.gpu.control import statuses
    from labs.gpu_screens import screen

    zones = _zones(api)
    with Live(screen(statuses(api), zones), console=_console(), auto_refresh=False) as live:
        while True:
            time.sleep(1)
            live.update(screen(statuses(api), zones), refresh=True)


def _zones(api: Api) -> list[Group]:
    from cluster.gpu.use import by_zone

    return by_zone(api)


def _as_json(group: Group) -> dict[str, Any]:
    return {"zone": group.zone, "fleet": group.fleet, "model": group.model, "nodes": group.nodes,
            "resources": group.resources}  # fmt: skip


@app.command()
@click.argument("where", metavar="NODE/INDEX", help="for example gpu-a/1")
@click.option("--xid", type=int, help="an Xid, as the driver would log it (79: fallen off the bus)")
@click.option("--ecc", is_flag=True, help="an uncorrectable memory error")
@click.option("--lost", is_flag=True, help="the GPU answers no more")
@click.option("--hot", is_flag=True, help="too hot: it slows down")
def fault(where: str, xid: int | None, ecc: bool, lost: bool, hot: bool) -> None:
    """Break a GPU; `kailab gpu heal` mends it."""
    from cluster.gpu import control, faults

    place, what = control.slot(where), _chosen(xid, ecc=ecc, lost=lost, hot=hot)
    with _api() as api:
        control.fault(api, place, what)
        click.echo(f"{place}: {faults.describe(what)}")
        if faults.is_momentary(what):
            click.echo("an application's own error: what ran there has died, the GPU is as good as before")
            return
        _tell_effect(api, place, broken=True)


def _chosen(xid: int | None, *, ecc: bool, lost: bool, hot: bool) -> GpuFault:
    from cluster.gpu import faults
    from cluster.gpu.node.readings import Fault, GpuFault

    wanted = [kind for kind, given in ((Fault.ECC, ecc), (Fault.LOST, lost), (Fault.HOT, hot)) if given]
    if len(wanted) + (xid is not None) != 1:
        raise KailabError("Say one thing that is wrong.", mend="one of --xid N, --ecc, --lost, --hot")
    if xid is None:
        return GpuFault(wanted[0])
    if not 1 <= xid <= faults.HIGHEST_XID:
        raise KailabError(
            f"There is no Xid {xid}.", why=f"NVIDIA's catalogue has 1 to {faults.HIGHEST_XID}.",
            mend="--xid 79 (fallen off the bus), 48 (double-bit ECC) or 31 (a program's own fault) show most",
        )  # fmt: skip
    return GpuFault(Fault.XID, xid)


def _tell_effect(api: Api, place: Any, *, broken: bool) -> None:
    from cluster.gpu import control

    node = control.wait_effect(api, place, broken=broken)
    if node is None:
        raise KailabError(
            f"{place} did not follow within {control.EFFECT_SECONDS:.0f} s.",
            why="The node's agent may be away, or the node stopped.",
            mend="kubectl -n kailab-gpu get pods -o wide, then kailab gpu status",
        )
    click.echo(f"node {place.node} says GpusHealthy={'False' if broken else 'True or other GPUs'}")


@app.command()
@click.argument("where", metavar="[NODE/INDEX]", default="", help="all of them when none is named")
def heal(where: str) -> None:
    """Mend a GPU, or all of them."""
    from cluster.gpu import control

    with _api() as api:
        if not where:
            healed = control.heal_all(api)
            click.echo(f"healed {', '.join(map(str, healed))}" if healed else "no GPU has a fault")
            return
        place = control.slot(where)
        if not control.heal(api, place):
            click.echo(f"{place} has no fault")
            return
        click.echo(f"{place}: healed")
        _tell_effect(api, place, broken=False)


@app.command()
@click.argument("node", metavar="NODE", help="for example gpu-a")
@click.option("--gpus", type=click.IntRange(1, 16), default=1, show_default=True, help="how many GPUs")
@click.option("--memory", type=click.IntRange(1), default=4096, show_default=True, help="MiB to hold on each")
@click.option("--busy", type=click.IntRange(1, 100), default=80, show_default=True, help="percent of the time")
@click.option("--seconds", type=click.IntRange(1, 3600), default=60, show_default=True, help="for how long")
def load(node: str, gpus: int, memory: int, busy: int, seconds: int) -> None:
    """Keep GPUs of a node busy; see it in `kailab gpu status`."""
    from labs.gpu_load import start

    with _api() as api:
        job = start(api, node, gpus=gpus, memory=memory, busy=busy, seconds=seconds)
    click.echo(f"Job {job} in namespace default works for {seconds} s, then it is gone")
    click.echo("look: kailab gpu status --watch")


@app.group("fleet")
def fleet_app() -> None:
    """Hundreds of simulated GPU nodes (KWOK) beside the real ones."""


@fleet_app.command("up")
@click.option("--nodes", type=int, default=100, show_default=True, help="how many nodes")
@click.option("--model", default="H100-80GB", show_default=True, help="A100-80GB, H100-80GB (or H100), T4, L4")
@click.option("--gpus", type=int, default=8, show_default=True, help="GPUs on each node")
@click.option("--regions", type=click.IntRange(1, 10), default=3, show_default=True, help="over how many regions")
@click.option("--zones", type=click.IntRange(1, 26), default=3, show_default=True, help="zones in each region")
@click.option("--file", "-f", type=click.Path(path_type=Path), help="a fleet file instead of the options")
def fleet_up(nodes: int, model: str, gpus: int, regions: int, zones: int, file: Path | None) -> None:
    """Let simulated nodes join the cluster. Safe to repeat."""
    from cluster.gpu import scale

    wanted = scale.nodes(_fleet(nodes, model, gpus, regions, zones, file))
    if not wanted:
        raise KailabError("The fleet file has no simulated nodes.", mend="give an entry `simulated: {nodes: 100}`")
    started = time.monotonic()
    with _api() as api, _bar("joining", len(wanted)) as progress:
        scale.join(api, wanted, progress)
    with _api() as api, _bar("Ready", len(wanted)) as progress:
        before = 0
        for group, count in scale.groups(wanted).items():  # labs' fleets and others' may be there too
            scale.wait_ready(api, count, functools.partial(_further, progress, before), group=group)
            before += count
    places = ", ".join(f"{zone} {count}" for zone, count in sorted(scale.spread(wanted).items()))
    click.echo(f"{len(wanted)} simulated nodes are Ready after {time.monotonic() - started:.1f} s: {places}")
    click.echo("pods for them tolerate kwok.x-k8s.io/node and nvidia.com/gpu; kailab gpu fleet down removes all of it")
    if len(wanted) > SAMPLED:
        click.echo("thousands of pods at once? With schedulerName: sampling not every node is scored for every pod")


def _further(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


@fleet_app.command("down")
def fleet_down() -> None:
    """Remove every simulated node, and the pods on them."""
    from cluster.gpu import scale

    started = time.monotonic()
    with _api() as api:
        count = len(scale.members(api))
        with _bar("leaving", count) as progress:
            scale.leave(api, progress)
    click.echo(f"{count} simulated nodes removed in {time.monotonic() - started:.1f} s" if count else "there are none")


def _fleet(nodes: int, model: str, gpus: int, regions: int, zones: int, file: Path | None) -> Any:
    from pydantic import ValidationError

    from cluster.gpu import fleet, scale
    from cluster.gpu.models import MODELS

    if file is not None:
        return fleet.read(file)
    full = next((key for key in MODELS if key == model or key.partition("-")[0] == model), model)
    try:
        return scale.fleet(nodes, full, gpus, regions, zones)
    except ValidationError as wrong:
        why = "\n".join(
            f"{error['loc'][-1] if error['loc'] else ''}: {error['msg'].removeprefix('Value error, ')}"
            for error in wrong.errors()
        )
        raise KailabError("There can't be such a fleet.", why=why, mend="kailab gpu fleet up --help") from None


@contextlib.contextmanager
def _bar(title: str, total: int) -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_console(), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)
