"""Which submissions of an author gate can share a namespace: starting pods is what a gate's time goes into.

A mutant that leaves every workload of the solution as it is can be tried on the solution's own running pods, one
after the other. Where a lab's submissions run one by one anyway, so can one that changes few of the workloads: those
few are ended and made anew, while all others go on. Every other one gets a namespace of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from checkers.declare import Checks, Timing
from cluster.api import Object
from labs.mutants import Submission

WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod", "Job", "CronJob"})
# What a workload's change changes too.
MADE_OF_WORKLOADS = frozenset({"Pod", "ReplicaSet", "ResourceClaim"})


@dataclass(frozen=True)
class Lane:
    """Submissions tried one after the other in one namespace; `shared` when on pods of the solution."""

    submissions: tuple[Submission, ...]
    shared: bool


def lanes(
    solution: Sequence[Object], given: Sequence[Object], wanted: Iterable[Submission], *, one_by_one: bool = False
) -> list[Lane]:
    """Every wanted submission in exactly one lane; the shared one, if any, comes first.

    `one_by_one` says that lanes don't run side by side.
    """
    wanted = list(wanted)
    # Beside each other those that change the same: between two of them nothing else starts anew.
    by_change = sorted(wanted, key=lambda item: sorted(made_anew(solution, item.objects)))
    light = tuple(item for item in by_change if _may_share(item, solution, given, one_by_one))
    own = [Lane((item,), shared=False) for item in wanted if item not in light]
    return [Lane(light, shared=True), *own] if light else own


def blind(checks: Checks, item: Submission, solution: Sequence[Object]) -> frozenset[str]:
    """The triggers that can't tell a submission in a shared lane from the solution: they read no kind that differs.

    They are run on the solution itself, on objects just like these.
    """
    kinds = {name.partition("/")[0] for name in _changed(solution, item.objects) | made_anew(solution, item.objects)}
    if kinds & WORKLOADS:
        kinds |= MADE_OF_WORKLOADS
    return frozenset(
        check.id for check in checks
        if check.timing is Timing.TRIGGER and check.id not in item.fails
        and not kinds & {kind.partition("@")[0] for kind in (*check.reads, *check.disturbs)}
    )  # fmt: skip


def made_anew(before: Sequence[Object], after: Sequence[Object]) -> set[str]:
    """What must end or go before `after` is applied in place of `before`, as if nothing had been there: workloads that
    change, all that uses what changes, and that itself. As Kind/name."""
    changed = _changed(before, after)
    anew = {name for name in changed if name.partition("/")[0] in WORKLOADS}
    for item in before:
        if item["kind"] in WORKLOADS:
            text = json.dumps(item)
            if used := {name for name in changed if f'"{name.partition("/")[2]}"' in text}:
                anew |= {_name(item), *used}
    return anew & _named(before).keys()


def _may_share(item: Submission, solution: Sequence[Object], given: Sequence[Object], one_by_one: bool) -> bool:
    """Whether what was given stays, and of the workloads all do, or in lanes one by one most do."""
    running = [entry for entry in solution if entry["kind"] in WORKLOADS]
    changed = _changed(solution, item.objects)
    stirred = {name for name in changed | made_anew(solution, item.objects) if name.partition("/")[0] in WORKLOADS}
    return not changed & _named(given).keys() and len(stirred) <= (len(running) / 2 if one_by_one else 0)


def _changed(before: Sequence[Object], after: Sequence[Object]) -> set[str]:
    was, now = _named(before), _named(after)
    return {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}


def _named(objects: Iterable[Object]) -> Mapping[str, Object]:
    return {_name(item): item for item in objects}


def _name(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"
