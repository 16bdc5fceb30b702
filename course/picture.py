"""A recording as a picture, as a table and in words. Pure: samples in, nothing asked of any cluster."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from checkers.report.terminal import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from course.recording import Sample

# Okabe and Ito's colours ("Color Universal Design", jfly.uni-koeln.de/color), which those who see fewer can tell apart.
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#999999")
LINES = ("#0072b2", "#d55e00", "#009e73")  # of the same set, those that a thin line can have on white
# Two of them mean trouble, here and only here; what passes by itself is grey.
STATES = {"no node yet": "#f0e442", "starting": "#ffffff", "not Ready": "#d0d4d8", "failing": "#d55e00",
          "leaving": "#999999"}  # fmt: skip
HATCHES = {"no node yet": "..", "starting": "//", "not Ready": "//", "failing": "xx", "leaving": "--"}
INK = "#1c2024"
DASHES = ("-", "--", ":", "-.")
ROWS = 40
Band = tuple[str, list[int]]


def figure(samples: Sequence[Sample]) -> Figure:
    """Up to three pictures with one time: ready pods by version below what is wanted, pods that aren't ready (if
    there were any), GPU load (if there was any)."""
    from matplotlib.figure import Figure

    drawn: list[tuple[float, Callable[[Axes, Sequence[Sample]], None]]] = [(3, _ready)]
    if _names(samples, lambda one: one.unready):
        drawn.append((1.6, _unready))
    if any(load > 0 for one in samples for load in one.gpus.values()):
        drawn.append((1.8, _gpus))
    heights = [height for height, _ in drawn]
    made = Figure(figsize=(8.5, sum(heights) * 0.8 + 0.5), layout="constrained")
    grid = made.subplots(len(drawn), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axes, (_, draw) in zip(grid[:, 0], drawn, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
        draw(axes, samples)
    last = grid[-1, 0]
    last.set_xlabel("seconds")
    last.set_xlim(0, max(samples[-1].seconds, 1))
    return made


def _names(samples: Sequence[Sample], of: Callable[[Sample], Mapping[str, float]]) -> list[str]:
    """Names that were ever there, in the order of their coming."""
    return list(dict.fromkeys(name for one in samples for name, value in of(one).items() if value))


def _bands(samples: Sequence[Sample], of: Callable[[Sample], Mapping[str, int]]) -> list[Band]:
    return [(name, [of(one).get(name, 0) for one in samples]) for name in _names(samples, of)]


def _ready(axes: Axes, samples: Sequence[Sample]) -> None:
    bands = _bands(samples, lambda one: one.ready)
    colours = {name: COLOURS[count % len(COLOURS)] for count, (name, _) in enumerate(bands)}
    _stack(axes, samples, bands, colours, {})
    wanted = [one.wanted for one in samples]
    axes.step([one.seconds for one in samples], wanted, where="post", color=INK, linestyle="--", linewidth=1.6)
    axes.annotate(f"wanted: {wanted[-1]}", (1, wanted[-1]), xycoords=("axes fraction", "data"), xytext=(4, 0),
                  textcoords="offset points", va="center", color=INK, annotation_clip=False)  # fmt: skip
    _title(axes, "Ready pods by version")
    _whole_numbers(axes, max([*wanted, *(sum(one.ready.values()) for one in samples)]))


def _unready(axes: Axes, samples: Sequence[Sample]) -> None:
    bands = _bands(samples, lambda one: one.unready)
    _stack(axes, samples, bands, STATES, HATCHES, are_named=False)
    # Here bands are short and many: their names would lie on each other.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(bands), frameon=False, borderaxespad=0.2,
                fontsize=8, columnspacing=1.2, handlelength=1.6)  # fmt: skip
    _title(axes, "Pods that are not ready")
    _whole_numbers(axes, max(sum(one.unready.values()) for one in samples))


def _stack(
    axes: Axes, samples: Sequence[Sample], bands: Sequence[Band], colours: Mapping[str, str],
    hatches: Mapping[str, str], *, are_named: bool = True,
) -> None:  # fmt: skip
    """Bands upon each other, as steps, each with its name where it is widest."""
    times, below = [one.seconds for one in samples], [0] * len(samples)
    for name, counts in bands:
        above = [low + count for low, count in zip(below, counts, strict=True)]
        axes.fill_between(times, below, above, step="post", facecolor=colours.get(name, COLOURS[-1]), edgecolor=INK,
                          hatch=hatches.get(name), linewidth=0.5, label=name)  # fmt: skip
        if are_named:
            _name_band(axes, name, times, below, counts)
        below = above


def _name_band(axes: Axes, name: str, times: Sequence[float], below: Sequence[int], counts: Sequence[int]) -> None:
    begin, end = _widest(times, counts)
    middle, span = (times[begin] + times[end]) / 2, max(times[-1] - times[0], 1)
    # Inside of the picture, whatever its place: names at the edge grow inwards.
    share = (middle - times[0]) / span
    align = "left" if share < 0.15 else "right" if share > 0.85 else "center"
    axes.annotate(name, (middle, below[begin] + counts[begin] / 2), ha=align, va="center", color=INK, fontsize=9,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5})  # fmt: skip


def _widest(times: Sequence[float], counts: Sequence[int]) -> tuple[int, int]:
    """First and last index of the longest time at the highest count."""
    most, runs, begin = max(counts), [], None
    for index, count in enumerate(counts):
        if count == most and begin is None:
            begin = index
        if begin is not None and (count != most or index == len(counts) - 1):
            runs.append((begin, index))
            begin = None
    return max(runs, key=lambda run: times[run[1]] - times[run[0]])


def _gpus(axes: Axes, samples: Sequence[Sample]) -> None:
    times = [one.seconds for one in samples]
    nodes = sorted({node for one in samples for node in one.gpus})
    for count, node in enumerate(nodes):
        loads = [one.gpus.get(node, float("nan")) for one in samples]
        axes.plot(times, loads, drawstyle="steps-post", color=LINES[count % len(LINES)],
                  linestyle=DASHES[count % len(DASHES)], linewidth=2, label=node)  # fmt: skip
    # Names at the lines' ends would lie on each other: most loads end at 0.
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, borderaxespad=0.2, labelcolor=INK)
    _title(axes, "GPU load in %, mean of a node's GPUs (simulated)")
    axes.set_ylim(0, 105)
    axes.set_yticks([0, 50, 100])


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10, color=INK)


def _whole_numbers(axes: Axes, most: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(0, max(most, 1) * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


# In words


def in_words(samples: Sequence[Sample]) -> str:
    """The picture for those who don't see it: how it began and ended, and the extremes between."""
    first, last = samples[0], samples[-1]
    ready = [sum(one.ready.values()) for one in samples]
    parts = [
        f"{last.seconds - first.seconds:.0f} s. Ready at first: {_counted(first.ready)}",
        f"at last: {_counted(last.ready)}",
        f"never fewer than {min(ready)} and never more than {max(ready)} ready",
        f"wanted: {first.wanted}" + (f", at last {last.wanted}" if last.wanted != first.wanted else ""),
    ]
    if most := max(sum(one.unready.values()) for one in samples):
        at_most = max(samples, key=lambda one: sum(one.unready.values()))
        parts.append(f"at most {most} not ready ({_counted(at_most.unready)}, at {at_most.seconds:.0f} s)")
    peaks = {node: max(one.gpus.get(node, 0.0) for one in samples) for node in _names(samples, lambda one: one.gpus)}
    parts += [f"GPU load of {node} up to {peak:.0f} %" for node, peak in sorted(peaks.items())]
    return "; ".join(parts) + "."


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


# Together


def bundle(samples: Sequence[Sample], words: str) -> dict[str, Any]:
    """What a notebook displays: the picture with its words and a table, or the words alone."""
    if len(samples) < 2:
        return {"text/plain": words, "text/html": f"<p>{html.escape(words)}</p>"}
    png, text = _png(figure(samples)), html.escape(words)
    picture = f'<img src="data:image/png;base64,{png}" alt="{text}" style="max-width: 100%; width: 850px">'
    more = f"<details><summary>The same in words and numbers</summary><p>{text}</p>{_table(samples)}</details>"
    return {"text/plain": words, "text/html": f"<figure style='margin: 0'>{picture}{more}</figure>", "image/png": png}


def _png(made: Figure) -> str:
    file = io.BytesIO()
    made.savefig(file, format="png", dpi=160, facecolor="white")
    return base64.b64encode(file.getvalue()).decode()


def _table(samples: Sequence[Sample]) -> str:
    """Rows only where something has changed, and no more than can be read."""
    rows = changes(samples)
    titles = ("seconds", "ready", "not ready", "wanted", "GPU load %")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(
        f"<tr><td>{one.seconds:.1f}</td><td>{html.escape(_counted(one.ready))}</td>"
        f"<td>{html.escape(_counted(one.unready))}</td><td>{one.wanted}</td>"
        f"<td>{html.escape(', '.join(f'{node} {number(round(load))}' for node, load in one.gpus.items()))}</td></tr>"
        for one in rows[:ROWS]
    )
    rest = f"<p>and {len(rows) - ROWS} more changes</p>" if len(rows) > ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def changes(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that differ from the one before in more than the load of GPUs, and the last."""

    def pods(one: Sample) -> tuple[object, ...]:
        return one.ready, one.unready, one.wanted

    return [one for index, one in enumerate(samples)
            if index in (0, len(samples) - 1) or pods(one) != pods(samples[index - 1])]  # fmt: skip
