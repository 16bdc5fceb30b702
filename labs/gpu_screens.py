"""What `kailab gpu` shows: a table of GPUs, a picture of nodes and slots, and both as HTML for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.gpu.use import Group as Nodes

# (what it means, its mark without colour, its colour)
FREE, HELD, CLAIMED, FAULTY = (
    ("free", "·", "dim"),
    ("held by pods", "■", "green"),
    ("held through a claim", "◆", "cyan"),
    ("faulty", "✗", "bold red"),
)
LEVELS = " ▁▂▃▄▅▆▇█"
Status = Mapping[str, Any]


def state(device: Status, fault: str) -> tuple[str, str, str]:
    """Of a GPU, or of a slice whose GPU may have a fault: one of the four states above."""
    if fault:
        return FAULTY
    holders = device["held_by"]
    if not holders:
        return FREE
    return CLAIMED if any("claim" in one for one in holders) else HELD


def screen(statuses: Sequence[Status], zones: Sequence[Nodes] = ()) -> RenderableType:
    """The whole status: picture, table, simulated nodes by zone and fleet, problems."""
    parts: list[RenderableType] = [picture(statuses), Text(""), table(statuses)]
    if zones:
        parts += [Text(""), fleet(zones)]
    problems = [(status["node"], text) for status in statuses for text in status["problems"]]
    parts += [Text(f"{node}: {text}", style="yellow") for node, text in problems]
    return Group(*parts)


def picture(statuses: Sequence[Status]) -> RenderableType:
    """One line a node, one mark a GPU (or replica, or slice), and what the marks mean."""
    lines = Table.grid(padding=(0, 2))
    for status in statuses:
        slots = Text()
        for gpu in status["gpus"]:
            slots.append_text(_marks(gpu, status["replicas"])).append("  ")
        lines.add_row(Text(status["node"], style="bold"), slots, Text(_models(status), style="dim"))
    legend = Text("   ").join(Text.assemble((mark, style), f" {name}") for name, mark, style in
                              (FREE, HELD, CLAIMED, FAULTY))  # fmt: skip
    return Group(lines, Text(""), legend)


def _marks(gpu: Status, replicas: int) -> Text:
    if not gpu["mig"]:
        return _device(gpu, replicas, gpu["fault"])
    return Text("").join(_device(cut, cut["replicas"], gpu["fault"]) for cut in gpu["mig"])


def _device(device: Status, replicas: int, fault: str) -> Text:
    what = state(device, fault)
    taken = replicas if what == FAULTY else min(len(device["held_by"]), replicas)
    return Text(what[1] * taken, what[2]) + Text(FREE[1] * (replicas - taken), FREE[2])


def _models(status: Status) -> str:
    names = dict.fromkeys(gpu["model"] for gpu in status["gpus"])
    shared = f", {status['replicas']} pods may share each" if status["replicas"] > 1 else ""
    return ", ".join(names) + shared


def table(statuses: Sequence[Status]) -> Table:
    """One row a GPU or slice."""
    found = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("gpu", "memory MiB", "use", "°C", "W"):
        found.add_column(name, justify="left" if name == "gpu" else "right", no_wrap=True)
    found.add_column("held by", overflow="fold")
    for status in statuses:
        for gpu in status["gpus"]:
            found.add_row(*_row(f"{status['node']}/{gpu['index']}", gpu))
            for number, cut in enumerate(gpu["mig"], start=1):
                found.add_row(
                    f"  mig {number} {cut['profile']}", f"{cut['memory_used']}/{cut['memory_total']}",
                    f"{cut['utilization']}%", "", "", _who(cut["held_by"]),
                )  # fmt: skip
    return found


def _row(name: str, gpu: Status) -> tuple[RenderableType, ...]:
    who: RenderableType = Text(gpu["fault"], style="red") if gpu["fault"] else Text(_who(gpu["held_by"]))
    return (
        name, f"{gpu['memory_used']}/{gpu['memory_total']}", f"{gpu['utilization']}%", str(gpu["temperature"]),
        f"{gpu['power']:.0f}/{gpu['power_limit']}", who,
    )  # fmt: skip


def _who(holders: Sequence[Status]) -> str:
    return ", ".join(dict.fromkeys(f"{one['namespace']}/{one['pod']}" for one in holders))


def fleet(zones: Sequence[Nodes]) -> RenderableType:
    """Simulated nodes: one mark a node, as high as its share of GPUs in use."""
    lines = Table.grid(padding=(0, 2))
    last = ""
    for one in zones:
        zone, last = "" if one.zone == last else one.zone, one.zone
        count = f"{len(one.nodes)} node{'' if len(one.nodes) == 1 else 's'}"
        lines.add_row(Text(zone, style="bold"), one.fleet, Text(one.model, style="dim"), count, in_use(one),
                      bars(one.nodes))  # fmt: skip
    return Group(Text("simulated nodes (KWOK), one mark each, by share of GPUs in use", style="dim"), lines)


def in_use(group: Nodes) -> str:
    """GPUs in use and in all; slices, and GPUs that are shared, by the name that pods ask for."""
    return ", ".join(
        f"{used}/{total} {'GPUs' if name == 'gpu' else name} in use" for name, (used, total) in group.resources.items()
    )


def bars(nodes: Sequence[tuple[int, int]]) -> Text:
    text = "".join(LEVELS[round(used / total * (len(LEVELS) - 1))] if total else "?" for used, total in nodes)
    return Text(text.replace(" ", "·"), style="green", overflow="fold")


def show(statuses: Sequence[Status], zones: Sequence[Nodes], console: Console) -> None:
    console.print(screen(statuses, zones))


_COLOURS = {FREE[0]: "#e5e7eb", HELD[0]: "#4d9e5b", CLAIMED[0]: "#3b8fb5", FAULTY[0]: "#c0392b"}


def as_html(statuses: Sequence[Status], zones: Sequence[Nodes] = ()) -> str:
    """A picture of slots for a notebook: every GPU or slice a box, filled by its memory, with its use and holders."""
    rows = "".join(
        f"<tr><th>{html.escape(status['node'])}</th>"
        f"<td>{''.join(_boxes(gpu, status['replicas']) for gpu in status['gpus'])}</td></tr>"
        for status in statuses
    )
    keys = "".join(f'<span><i style="background:{colour}"></i>{name}</span>' for name, colour in _COLOURS.items())
    parts = [_STYLE, f"<table>{rows}</table>", f'<p class="keys">{keys}</p>']
    if zones:
        parts.append(f"<table>{''.join(map(_zone, zones))}</table>")
        parts.append("<p>Simulated nodes (KWOK): one bar each, by share of GPUs in use.</p>")
    return f'<div class="kailab-gpus">{"".join(parts)}</div>'


def _boxes(gpu: Status, replicas: int) -> str:
    """One box for a GPU, or one for each of its slices."""
    if not gpu["mig"]:
        return _box(str(gpu["index"]), gpu["model"], gpu, replicas, gpu["fault"])
    return "".join(
        _box(f"{gpu['index']} · {cut['profile']}", f"{gpu['model']} MIG {cut['profile']}", cut, cut["replicas"],
             gpu["fault"])
        for cut in gpu["mig"]
    )  # fmt: skip


def _box(name: str, model: str, device: Status, replicas: int, fault: str) -> str:
    colour = _COLOURS[state(device, fault)[0]]
    full = 100 * device["memory_used"] / max(device["memory_total"], 1)
    who = fault or _who(device["held_by"]) or "free"
    shared = f", shared by up to {replicas}" if replicas > 1 else ""
    title = f"{model}{shared}\n{device['uuid']}\n{device['memory_used']} of {device['memory_total']} MiB\n{who}"
    return (
        f'<div class="gpu" style="border-color:{colour}" title="{html.escape(title)}">'
        f"<b>{html.escape(name)}</b><span>{device['utilization']}%</span>"
        f'<div class="fill" style="height:{full:.0f}%;background:{colour}"></div>'
        f"<small>{html.escape(who)}</small></div>"
    )


def _zone(group: Nodes) -> str:
    used = "".join(
        f'<i class="bar" style="height:{max(round(18 * one / max(total, 1)), 1)}px" title="{one} of {total}"></i>'
        for one, total in group.nodes
    )
    names = "".join(f"<th>{html.escape(name)}</th>" for name in (group.zone, group.fleet, group.model))
    return f"<tr>{names}<td>{html.escape(in_use(group))}</td><td>{used}</td></tr>"


_STYLE = """<style>
.kailab-gpus table{border-collapse:collapse}
.kailab-gpus th{text-align:left;padding:4px 14px 4px 0;vertical-align:middle;font:600 13px sans-serif}
.kailab-gpus .gpu{position:relative;display:inline-block;width:108px;height:64px;margin:3px;border:2px solid;
  border-radius:6px;overflow:hidden;font:12px sans-serif;background:#fff;color:#111}
.kailab-gpus .gpu b{position:absolute;left:6px;top:4px;z-index:1}
.kailab-gpus .gpu span{position:absolute;right:6px;top:4px;z-index:1}
.kailab-gpus .gpu small{position:absolute;left:6px;right:6px;bottom:4px;z-index:1;white-space:nowrap;overflow:hidden;
  text-overflow:ellipsis}
.kailab-gpus .fill{position:absolute;left:0;right:0;bottom:0;opacity:.35}
.kailab-gpus .keys span{margin-right:16px;font:12px sans-serif}
.kailab-gpus .keys i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
.kailab-gpus .bar{display:inline-block;width:3px;margin-right:1px;background:#4d9e5b;vertical-align:bottom}
</style>"""
