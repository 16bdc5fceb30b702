"""What `kailab gpu` shows: a table of GPUs, a picture of nodes and slots, and both as HTML for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

# (what it means, its mark without colour, its colour)
FREE, HELD, CLAIMED, FAULTY = (
    ("free", "·", "dim"),
    ("held by pods", "■", "green"),
    ("held through a claim", "◆", "cyan"),
    ("faulty", "✗", "bold red"),
)
LEVELS = " ▁▂▃▄▅▆▇█"
Status = Mapping[str, Any]
Zone = tuple[str, Sequence[tuple[int, int]]]  # zone's name; GPUs in use and GPUs in all, node by node


def state(gpu: Status) -> tuple[str, str, str]:
    """One of the four states above."""
    if gpu["fault"]:
        return FAULTY
    holders = _holders(gpu)
    if not holders:
        return FREE
    return CLAIMED if any("claim" in one for one in holders) else HELD


def _holders(gpu: Status) -> list[Any]:
    return [one for device in (gpu, *gpu["mig"]) for one in device["held_by"]]


def screen(statuses: Sequence[Status], zones: Sequence[Zone] = ()) -> RenderableType:
    """The whole status: picture, table, simulated nodes by zone, problems."""
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
    _, mark, style = state(gpu)
    if gpu["mig"]:
        return Text("").join(_device(cut, 1, gpu) for cut in gpu["mig"])
    if state(gpu) == FAULTY:
        return Text(mark * replicas, style)
    return _device(gpu, replicas, gpu)


def _device(device: Status, replicas: int, gpu: Status) -> Text:
    count = len(device["held_by"])
    _, mark, style = state(gpu)
    if count == 0:
        return Text(FREE[1] * replicas, FREE[2])
    return Text(mark * min(count, replicas), style) + Text(FREE[1] * max(replicas - count, 0), FREE[2])


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


def fleet(zones: Sequence[Zone]) -> RenderableType:
    """Simulated nodes: one mark a node, as high as its share of GPUs in use."""
    lines = Table.grid(padding=(0, 2))
    for name, nodes in zones:
        used, total = sum(one for one, _ in nodes), sum(one for _, one in nodes)
        lines.add_row(Text(name, style="bold"), f"{len(nodes)} nodes", f"{used}/{total} GPUs in use", bars(nodes))
    return Group(Text("simulated nodes (KWOK), one mark each, by share of GPUs in use", style="dim"), lines)


def bars(nodes: Sequence[tuple[int, int]]) -> Text:
    text = "".join(LEVELS[round(used / total * (len(LEVELS) - 1))] if total else "?" for used, total in nodes)
    return Text(text.replace(" ", "·"), style="green", overflow="fold")


def show(statuses: Sequence[Status], zones: Sequence[Zone], console: Console) -> None:
    console.print(screen(statuses, zones))


_COLOURS = {FREE[0]: "#e5e7eb", HELD[0]: "#4d9e5b", CLAIMED[0]: "#3b8fb5", FAULTY[0]: "#c0392b"}


def as_html(statuses: Sequence[Status], zones: Sequence[Zone] = ()) -> str:
    """A picture of slots for a notebook: every GPU a box, filled by its memory, with its use and who holds it."""
    rows = "".join(
        f"<tr><th>{html.escape(status['node'])}</th>"
        f"<td>{''.join(_box(gpu, status) for gpu in status['gpus'])}</td></tr>"
        for status in statuses
    )
    keys = "".join(f'<span><i style="background:{colour}"></i>{name}</span>' for name, colour in _COLOURS.items())
    parts = [_STYLE, f"<table>{rows}</table>", f'<p class="keys">{keys}</p>']
    if zones:
        parts.append(f"<table>{''.join(_zone(name, nodes) for name, nodes in zones)}</table>")
        parts.append("<p>Simulated nodes (KWOK): one bar each, by share of GPUs in use.</p>")
    return f'<div class="kailab-gpus">{"".join(parts)}</div>'


def _box(gpu: Status, status: Status) -> str:
    name, _, _ = state(gpu)
    full = 100 * gpu["memory_used"] / max(gpu["memory_total"], 1)
    who = gpu["fault"] or _who(_holders(gpu)) or "free"
    shared = f", shared by up to {status['replicas']}" if status["replicas"] > 1 else ""
    title = f"{gpu['model']}{shared}\n{gpu['uuid']}\n{gpu['memory_used']} of {gpu['memory_total']} MiB\n{who}"
    return (
        f'<div class="gpu" style="border-color:{_COLOURS[name]}" title="{html.escape(title)}">'
        f"<b>{gpu['index']}</b><span>{gpu['utilization']}%</span>"
        f'<div class="fill" style="height:{full:.0f}%;background:{_COLOURS[name]}"></div>'
        f"<small>{html.escape(who)}</small></div>"
    )


def _zone(name: str, nodes: Sequence[tuple[int, int]]) -> str:
    used = "".join(
        f'<i class="bar" style="height:{max(round(18 * one / max(total, 1)), 1)}px" title="{one} of {total}"></i>'
        for one, total in nodes
    )
    return f"<tr><th>{html.escape(name)}</th><td>{used}</td></tr>"


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
