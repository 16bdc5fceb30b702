"""Which submissions of an author gate can share a namespace: starting pods is what a gate's time goes into.

A mutant that leaves every workload of the solution as it is can be tried on the solution's own running pods, one
after the other. All others get a namespace of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from checkers.declare import Checks, Timing
from cluster.api import Object
from labs.mutants import Submission

WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod", "Job", "CronJob"})


@dataclass(frozen=True)
class Lane:
    """Submissions tried one after the other in one namespace; `shared` when on the solution's pods."""

    submissions: tuple[Submission, ...]
    shared: bool


def lanes(solution: Sequence[Object], given: Sequence[Object], wanted: Iterable[Submission]) -> list[Lane]:
    """Every wanted submission in exactly one lane; the shared one, if any, comes first."""
    # What fails least runs most checks, so it takes longest and goes first.
    wanted = sorted(wanted, key=lambda item: len(item.fails))
    light = tuple(item for item in wanted if _is_light(item, solution, given))
    own = [Lane((item,), shared=False) for item in wanted if item not in light]
    return [Lane(light, shared=True), *own] if light else own


def blind(checks: Checks, item: Submission, solution: Sequence[Object]) -> frozenset[str]:
    """The triggers that can't tell a light submission from the solution, since they read no kind that differs.

    They are run on the solution itself, on pods just like these.
    """
    kinds = {name.partition("/")[0] for name in _changed(item, solution)}
    return frozenset(
        check.id for check in checks
        if check.timing is Timing.TRIGGER and check.id not in item.fails
        and not kinds & {kind.partition("@")[0] for kind in (*check.reads, *check.disturbs)}
    )  # fmt: skip


def _is_light(item: Submission, solution: Sequence[Object], given: Sequence[Object]) -> bool:
    """Whether all that differs is read by checks, but neither runs, nor is used by what runs, nor was given."""
    running = json.dumps([entry for entry in solution if entry["kind"] in WORKLOADS])
    for changed in _changed(item, solution):
        kind, _, name = changed.partition("/")
        if kind in WORKLOADS or changed in _named(given) or f'"{name}"' in running:
            return False
    return True


def _changed(item: Submission, solution: Sequence[Object]) -> set[str]:
    before, after = _named(solution), _named(item.objects)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _named(objects: Iterable[Object]) -> dict[str, Object]:
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in objects}
