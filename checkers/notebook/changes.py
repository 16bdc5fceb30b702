"""What has changed between two scenes, in sentences: for those who listen, and for those who looked away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from checkers.notebook.scene import Scene

TOGETHER = 3  # more of the same in one breath become one sentence with a number
Change = tuple[str, str, str]  # what it is about (singular), its name and place, what became of it


def sentences(before: Scene, after: Scene) -> list[str]:
    """In order: nodes, GPUs, pods. The first look at another namespace says what is there."""
    if before["namespace"] != after["namespace"]:
        return [summary(after)]
    groups: dict[tuple[str, str], list[str]] = {}
    for kind, name, what in (*_nodes(before, after), *_gpus(before, after), *_pods(before, after)):
        groups.setdefault((kind, what), []).append(name)
    said = []
    for (kind, what), names in groups.items():
        if len(names) > TOGETHER:
            said.append(f"{len(names)} {kind}s: {what}")
        else:
            said += [f"{kind} {name} {what}" for name in names]
    return said


def summary(scene: Scene) -> str:
    """One sentence for the whole picture."""
    pods = [pod for pod, _ in _all_pods(scene).values()]
    ready = sum(pod["state"] == "ready" for pod in pods)
    simulated = sum(zone["nodes"] for zone in scene["zones"])
    beside = f" and {simulated} simulated ones" if simulated else ""
    counted = f"{_plural(len(pods), 'pod')}, {ready} of them Ready" if pods else "no pods"
    return f"{_plural(len(scene['nodes']), 'node')}{beside}; in namespace {scene['namespace']} {counted}"


def _plural(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _by_name(scene: Scene) -> dict[str, Mapping[str, Any]]:
    return {node["name"]: node for node in scene["nodes"]}


def _nodes(before: Scene, after: Scene) -> Iterator[Change]:
    old, new = _by_name(before), _by_name(after)
    for name in old.keys() - new.keys():
        yield "node", name, "is gone"
    for name, node in new.items():
        if name not in old or old[name]["state"] != node["state"]:
            yield "node", name, f"is {', '.join(node['state'])}"


def _gpus(before: Scene, after: Scene) -> Iterator[Change]:
    old = _slots(before)
    for (kind, name), slot in _slots(after).items():
        was = old.get((kind, name))
        if was is None or (was["state"], was["who"], was["word"]) == (slot["state"], slot["who"], slot["word"]):
            continue
        if slot["state"] in ("free", "faulty"):
            yield kind, name, f"is {slot['word']}"
        else:
            yield kind, name, f"is {slot['word']} {', '.join(slot['who'])}"


def _slots(scene: Scene) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {_called(node["name"], slot["name"]): slot for node in scene["nodes"] for slot in node["gpus"]}


def _called(node: str, slot: str) -> tuple[str, str]:
    """A slot as a sentence begins: ("GPU", "gpu-a/0") or ("slice", "1 (1g.10gb) of GPU gpu-a/0")."""
    gpu, _, cut = slot.removeprefix("GPU ").partition(" slice ")
    return ("slice", f"{cut} of GPU {node}/{gpu}") if cut else ("GPU", f"{node}/{gpu}")


def _all_pods(scene: Scene) -> dict[str, tuple[Mapping[str, Any], str]]:
    """(pod, its place) by name."""
    places = [("", scene["waiting"]["pods"]), *((node["name"], node["pods"]) for node in scene["nodes"])]
    return {pod["name"]: (pod, place) for place, pods in places for pod in pods}


def _pods(before: Scene, after: Scene) -> Iterator[Change]:
    old, new = _all_pods(before), _all_pods(after)
    for name, (pod, place) in new.items():
        known = old.get(name)
        if known is None or known[0]["word"] != pod["word"]:
            yield "pod", f"{name} on {place}" if place else name, _became(pod)
    for name in old.keys() - new.keys():
        place = old[name][1]
        yield "pod", f"{name} on {place}" if place else name, "is gone or finished"


def _became(pod: Mapping[str, Any]) -> str:
    # A sentence that is read aloud: the reason, not all that belongs to it.
    reason = pod["why"].split(": " if pod["state"] == "failing" else ". ")[0]
    why = f": {reason}" if reason else ""
    return {"no node yet": "has no node yet", "failing": "fails"}.get(pod["word"], f"is {pod['word']}") + why
