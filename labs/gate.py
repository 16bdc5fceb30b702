"""The author gate: a lab is true only if its starter fails, its solutions pass, each mutant fails where it says,
and nothing is left behind. Everything happens on the real cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from checkers.declare import Timing
from checkers.results import Outcome, Report
from checkers.scheduling import requests
from checkers.workloads import containers, has_ended, is_owned
from cluster.api import Api, ApiError, Object, Unreachable
from cluster.errors import KailabError
from cluster.gpu import control
from cluster.run import CommandFailed, run
from cluster.tools import find_kubectl
from cluster.workspace import Workspace
from labs import fleets, lifecycle, receipts
from labs.catalog import LabFolder, facts, fill_in
from labs.crowd import doubtful
from labs.lanes import WORKLOADS, Lane, blind, lanes, made_anew
from labs.lifecycle import Course
from labs.mutants import Submission, expected_points, expected_skips, submissions
from labs.receipts import Receipt
from labs.regrading import replay
from labs.residue import snapshot

SLOWEST = 5
SETTLE_SECONDS = 60.0


@dataclass
class Part:
    """What went wrong in a part; `doubtful` if that may be due to what ran beside it."""

    problems: list[str] = field(default_factory=list)
    doubtful: bool = False

    def problem(self, text: str) -> None:
        self.problems.append(text)


class _Stopped(Exception):
    """Somebody has stopped the gate: what this thread has made is tidied up, and nothing said of it."""


@dataclass
class Gate:
    """One gate run: what went wrong, how long each part took, and what is to be tried again when nothing else runs."""

    lab: LabFolder
    course: Course
    console: Console
    problems: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    closing: ThreadPoolExecutor = field(init=False)
    again: dict[str, Callable[[], None]] = field(default_factory=dict)
    is_alone: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def part(self, name: str, again: Callable[[], None] | None = None, *, quietly: bool = False) -> Iterator[Part]:
        """Time a part, and keep and print what went wrong in it. A quiet one is shown only if something did.

        `again` tries the part once more by itself. That is done, after all others, when a problem is a doubtful one.
        """
        part = Part()
        started = time.monotonic()
        if self.stopping.is_set() and not quietly:
            raise _Stopped
        try:
            yield part
        except KailabError as failed:
            part.problem(str(failed))
            part.doubtful = part.doubtful or isinstance(failed, Unreachable)
        if quietly and not part.problems:
            return
        with self._lock:
            self.seconds[name] = time.monotonic() - started
            if part.problems and part.doubtful and again and not self.is_alone:
                self.again[name] = again
                mark, more = Text("· ", style="yellow"), ", to be tried again when nothing runs beside it"
            else:
                self.problems += [f"{name}: {problem}" for problem in part.problems]
                mark, more = (Text("✗ ", style="red") if part.problems else Text("✓ ", style="green")), ""
            self.console.print(mark + Text(f"{name}  {self.seconds[name]:.1f} s{more}"))
            for problem in part.problems:
                self.console.print(Text(f"    {problem}"), soft_wrap=True)

    def check(self, course: Course, **options: Any) -> lifecycle.CheckedLab:
        """As `lifecycle.check`, until the gate is stopped."""
        checked = lifecycle.check(course, self.lab, cancelled=self.stopping, **options)
        if self.stopping.is_set():
            raise _Stopped
        return checked

    def kubectl_apply(self, folder: Path, namespace: str) -> str:
        """What kubectl says against the manifests of a folder; empty when it applied them all."""
        workspace = self.course.workspace
        kubectl = find_kubectl(workspace)
        if kubectl is None:
            raise KailabError("There is no kubectl.", mend="kailab up")
        try:
            run([kubectl, "--kubeconfig", workspace.kubeconfig, "-n", namespace, "apply", "-f", folder], timeout=60)
        except CommandFailed as refused:
            return refused.output
        return ""

    def apply(self, objects: Iterable[Object], namespace: str) -> str:
        """What the API server says against objects; empty when it took them all. Much quicker than kubectl."""
        known = facts(namespace)
        refused = []
        for item in objects:
            try:
                self.course.api.apply(fill_in(item, known), namespace, manager="kubectl")
            except ApiError as failed:
                refused.append(failed.what)
        return "; ".join(refused)


def run_gate(workspace: Workspace, lab: LabFolder, console: Console, *, jobs: int = 0, only: str = "") -> list[str]:
    """Run the whole gate, or with `only` the submissions whose name contains that; what did not hold.
    `jobs` submissions run side by side; 0 means what the lab says.

    Raises KailabError when there is no cluster to run it on.
    """
    started, inputs = time.monotonic(), receipts.hash_of_inputs(lab)
    with Course.opened(workspace) as course:
        gate = Gate(lab, course, console)
        lifecycle.close_namespace(course, lab.namespace)
        lifecycle.give_back(course.api, lab)
        _let_settle(course)
        before = snapshot(course.api)
        console.print(Text(f"Author gate of lab {lab.number}, {lab.title}", style="bold"))
        wanted = [item for item in submissions(lab) if only in item.name]
        with _given_back_when_stopped(gate):
            _all_side_by_side(gate, wanted, jobs or lab.file.side_by_side, whole=not only)
            with ThreadPoolExecutor(1) as gate.closing:
                gate.is_alone = True
                for again in dict.fromkeys(gate.again.values()):
                    again()
        fleets.leave(course.api, lab)
        with gate.part("nothing is left on the cluster") as part:
            for difference in _left(before, course):
                part.problem(difference)
        version = course.api.version()
    seconds = time.monotonic() - started
    _summary(gate, seconds, len(wanted))
    if not only:
        now = datetime.now(UTC).replace(microsecond=0)
        receipt = Receipt(lab.number, tuple(gate.problems), gate.scores, round(seconds, 1), version, now)
        receipts.keep(workspace, lab, inputs, receipt)
    return gate.problems


def _all_side_by_side(gate: Gate, wanted: list[Submission], jobs: int, *, whole: bool) -> None:
    lab = gate.lab
    with ThreadPoolExecutor(len(wanted) + 1) as gate.closing, ThreadPoolExecutor(jobs) as pool:
        # What is borrowed is there but once, and is nothing to take away between two submissions.
        kept = [*lab.manifests("given"), *({"kind": b.kind, "metadata": {"name": b.name}} for b in lab.file.borrows)]
        split = lanes(lab.manifests("solution"), kept, wanted, one_by_one=jobs == 1)
        # Longest first, so that none is alone at the end.
        split.sort(key=lambda lane: (_tries(lab, lane), _slowness(lane)), reverse=True)
        order = [partial(_twice, gate)] if whole else []
        order += [partial(_try_lane, gate, str(number), lane) for number, lane in enumerate(split)]
        if whole:  # at its end fleets leave, which should join but once
            order.insert(len(order) if lab.file.fleets else 0, partial(_life, gate))
        parts = [pool.submit(one) for one in order]
        try:
            for running in parts:
                running.result()
        except KeyboardInterrupt:
            gate.stopping.set()
            for waiting in parts:
                waiting.cancel()
            gate.console.print("Stopping: what was begun is tidied up first.")
            raise


@contextmanager
def _given_back_when_stopped(gate: Gate) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        lifecycle.give_back(gate.course.api, gate.lab)
        fleets.leave(gate.course.api, gate.lab)
        raise


def _let_settle(course: Course) -> None:
    """What is on its way out already is not this gate's doing."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        leaving = any("deletionTimestamp" in item["metadata"] for item in course.api.list("Namespace")[0])
        released = any(item["status"]["phase"] == "Released" for item in course.api.list("PersistentVolume")[0])
        if not leaving and not released:
            break
        time.sleep(0.5)
    control.wait_as_described(course.api)


def _left(before: dict[str, str], course: Course) -> list[str]:
    """Differences to the snapshot taken first; what the cluster itself is still tidying gets a few seconds."""
    deadline = time.monotonic() + 15
    while True:
        after = snapshot(course.api)
        keys = sorted(before.keys() | after.keys())
        found = [f"{key}: was {before.get(key, 'absent')}, is {after.get(key, 'absent')}"
                 for key in keys if before.get(key) != after.get(key)]  # fmt: skip
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def _try_lane(gate: Gate, suffix: str, lane: Lane) -> None:
    """A lane's submissions in a namespace of their own."""
    lab, course = gate.lab, gate.course
    namespace = f"{lab.namespace}-gate-{suffix}"
    given = lifecycle.open_namespace(course, lab, namespace)
    fleets.join(course.api, lab)
    there: tuple[Object, ...] = ()
    try:
        for item in lane.submissions:
            suffix = item.name.replace(" ", "-") + "-alone"
            alone = partial(_try_lane, gate, suffix, Lane((item,), shared=False))
            with gate.part(item.name, alone) as part:
                part.doubtful = lane.shared  # what was there before may be to blame
                _make_way(course.api, namespace, there, item.objects)
                there = item.objects
                _try(gate, item, namespace, given, part, last=not lane.shared)
    finally:
        # Mostly waiting, so the next lane can begin meanwhile: as soon as what is scarce is free again.
        gate.closing.submit(_close, gate, namespace)
        _wait_for_devices(course, namespace)
        lifecycle.give_back(course.api, lab)


def _tries(lab: LabFolder, lane: Lane) -> int:
    return sum(1 + len(_triggers(lab, item, lane)) for item in lane.submissions)


def _slowness(lane: Lane) -> int:
    """The seconds that its pods let pass before they are ready: each trigger waits for them, and more than once."""
    waits = (container.get("readinessProbe") or {} for submission in lane.submissions for item in submission.objects
             if item["kind"] in WORKLOADS for container in containers(item))  # fmt: skip
    return sum(probe.get("initialDelaySeconds", 0) for probe in waits)


def _triggers(lab: LabFolder, item: Submission, lane: Lane) -> frozenset[str]:
    """The triggers that will be run on a submission: they take most of its time."""
    every = frozenset(check.id for check in lab.checks if check.timing is Timing.TRIGGER)
    left_out = blind(lab.checks, item, lab.manifests("solution")) if lane.shared else frozenset()
    return every - expected_skips(lab, item.fails) - left_out


def _wait_for_devices(course: Course, namespace: str) -> None:
    """Return when no pod of the namespace holds a device: all submissions share the few that the cluster has."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while any(map(_holds_device, course.api.list("Pod", namespace)[0])) and time.monotonic() < deadline:
        time.sleep(0.2)


def _holds_device(pod: Object) -> bool:
    # Extended resources are those with a domain: "Managing Resources for Containers" in kubernetes.io/docs.
    return not has_ended(pod) and any("/" in name for name in requests(pod))


def _close(gate: Gate, namespace: str) -> None:
    with gate.part(f"{namespace} is gone", quietly=True):
        lifecycle.close_namespace(gate.course, namespace)


def _make_way(api: Api, namespace: str, before: Sequence[Object], after: Sequence[Object]) -> None:
    """End and remove what the next submission lacks, or has otherwise and can't take over as it is."""
    staying = {f"{item['kind']}/{item['metadata']['name']}" for item in after} - made_anew(before, after)
    for item in before:
        kind, name = item["kind"], item["metadata"]["name"]
        if f"{kind}/{name}" in staying:
            continue
        if kind in WORKLOADS:
            _end(api, namespace, kind, name)
        else:
            api.delete(kind, name, namespace)


def _end(api: Api, namespace: str, kind: str, name: str) -> None:
    """Delete a workload and return when none of its pods is left."""
    found = api.get(kind, name, namespace)
    if found is None:
        return
    owners = {found["metadata"]["uid"]}
    owners |= {one["metadata"]["uid"] for one in api.list("ReplicaSet", namespace)[0] if is_owned(one, owners)}
    api.delete(kind, name, namespace)
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        left = [one for one in api.list("Pod", namespace)[0]
                if is_owned(one, owners) or one["metadata"]["uid"] in owners]  # fmt: skip
        if not left:
            return
        for pod in left:
            api.delete("Pod", pod["metadata"]["name"], namespace, grace=1)
        time.sleep(0.2)
    raise KailabError(f"Pods of {kind} {name} in {namespace} do not end.", mend=f"kubectl -n {namespace} describe pods")


def _try(gate: Gate, item: Submission, namespace: str, given: dict[str, str], part: Part, *, last: bool) -> None:
    lab, course = gate.lab, gate.course
    refused = gate.apply(item.objects, namespace)
    if refused:
        part.problem(f"kubectl refused it: {refused.strip()[:300]}")
    left_out = frozenset[str]() if last else blind(lab.checks, item, lab.manifests("solution"))
    checked = gate.check(
        course, namespace=namespace, given=given, keep_evidence=False, throwaway=last, leave_out=left_out
    )
    _compare(gate, item, checked.report, left_out, part)
    again = replay(lab, checked.document)
    if [check.outcome for check in again.checks] != [check.outcome for check in checked.report.checks]:
        part.problem(f"regrading its evidence gives {_outcomes(again)}")


def _compare(gate: Gate, item: Submission, report: Report, left_out: frozenset[str], part: Part) -> None:
    unexpected = [check for check in report.checks if check.id not in item.fails or check.outcome is Outcome.ERROR]
    part.doubtful = part.doubtful or doubtful(gate.lab.checks, unexpected)
    failed = frozenset(check.id for check in report.checks if check.outcome is Outcome.FAIL)
    skipped = frozenset(check.id for check in report.checks if check.outcome is Outcome.SKIPPED)
    for check in report.checks:
        if check.outcome is Outcome.ERROR:
            part.problem(f"{check.id} ended in an error: {check.observed}")
        elif check.outcome is Outcome.FAIL and check.id not in item.fails:
            part.problem(f"{check.id} fails but must not: {check.observed} {list(check.evidence)[:3]}")
    for name in sorted(item.fails - failed):
        part.problem(f"{name} must fail but does not ({item.reason})")
    blocked = expected_skips(gate.lab, item.fails)
    if not report.errors and skipped != blocked | left_out and failed == item.fails:
        part.problem(f"skipped {sorted(skipped)} instead of {sorted(blocked | left_out)}")
    earned = report.points + sum(check.max_points for check in report.checks if check.id in left_out - blocked)
    points = expected_points(gate.lab.spec, item.fails | blocked) if item.points is None else item.points
    if failed == item.fails and earned != points:
        part.problem(f"earns {earned:g} points instead of {points:g}")
    gate.scores[item.name] = earned


def _outcomes(report: Report) -> str:
    left = [check for check in report.checks if check.outcome is not Outcome.PASS]
    said = (f"{check.id}={check.outcome} ({check.observed} {list(check.evidence)[:3]})" for check in left)
    return ", ".join(said) or "all passed"


def _life(gate: Gate) -> None:
    """The lab as a student meets it, in its own namespace: starter, solution, reset from every state."""
    course = gate.course
    scratch = Workspace(course.workspace.state / "gate" / gate.lab.namespace / "state", course.workspace.cache)
    gated = Course(_with_kubeconfig(scratch, course.workspace), course.api, course.uid)
    try:
        _live(gate, gated)
    except _Stopped:
        lifecycle.finish(gated, gate.lab)


def _live(gate: Gate, gated: Course) -> None:
    lab, scratch = gate.lab, gated.workspace
    namespace, again = lab.namespace, partial(_life, gate)
    with gate.part("starter fails with the message it should", again) as part:
        lifecycle.start(gated, lab)
        said = gate.kubectl_apply(gated.work(lab), namespace)
        wanted = lab.file.starter
        if (wanted.kubectl_says and wanted.kubectl_says not in said) or (said and not wanted.kubectl_says):
            part.problem(f"kubectl says {said.strip()[:300]!r}, expected {wanted.kubectl_says!r}")
        report = gate.check(gated, given=_given(gated, lab)).report
        if report.points >= report.max_points:
            part.problem("it scores full marks")
        if not any(lab.fill(wanted.says) in check.observed for check in report.checks if check.outcome is Outcome.FAIL):
            part.problem(f"no failed check says {wanted.says!r}: {_outcomes(report)}")
        gate.scores["starter"] = report.points
    with gate.part("reset from untouched, then half done", again) as part:
        _reset_and_compare(gate, gated, part)
        gate.apply(lab.manifests("solution")[:1], namespace)
        _reset_and_compare(gate, gated, part)
    with gate.part("what triggers don't touch is right in the lab's own namespace", again) as part:
        gate.apply(lab.manifests("solution"), namespace)
        triggers = frozenset(check.id for check in lab.checks if check.timing is Timing.TRIGGER)
        report = gate.check(gated, given=_given(gated, lab), leave_out=triggers).report
        left = {check.id for check in report.checks if check.outcome is not Outcome.PASS}
        if left != triggers:
            part.doubtful = doubtful(lab.checks, [check for check in report.checks if check.id not in triggers])
            part.problem(_outcomes(report))
    with gate.part("reset from done and from a lost progress file, then finish", again) as part:
        _reset_and_compare(gate, gated, part)
        (scratch.state / "progress.json").unlink()
        _reset_and_compare(gate, gated, part)
        lifecycle.finish(gated, lab)


def _twice(gate: Gate) -> None:
    """The solution with all its triggers, and again on what the first run put back."""
    lab, course = gate.lab, gate.course
    namespace, again = f"{lab.namespace}-gate-twice{'-alone' if gate.is_alone else ''}", partial(_twice, gate)
    given = lifecycle.open_namespace(course, lab, namespace)
    fleets.join(course.api, lab)
    try:
        for name in ("solution scores full marks", "solution, checked again, does so too"):
            with gate.part(name, again) as part:
                refused = gate.apply(lab.manifests("solution"), namespace)
                report = gate.check(course, namespace=namespace, given=given, keep_evidence=False).report
                gate.scores[name] = report.points
                if refused or report.points != report.max_points:
                    part.doubtful = doubtful(lab.checks, report.checks)
                    part.problem(f"{refused} scores {report.points:g}: {_outcomes(report)}")
    finally:
        gate.closing.submit(_close, gate, namespace)
        _wait_for_devices(course, namespace)


def _given(course: Course, lab: LabFolder) -> dict[str, str]:
    from labs.progress import Progress

    return Progress(course.workspace).lab(lab.number).given


def _with_kubeconfig(scratch: Workspace, real: Workspace) -> Workspace:
    """A student of the gate's own: same cluster, but progress and files apart from yours."""
    scratch.state.mkdir(parents=True, exist_ok=True)
    for name in ("kubeconfig", "prober-token", "cluster.json"):
        target = scratch.state / name
        target.unlink(missing_ok=True)
        target.touch(mode=0o600)
        target.write_bytes((real.state / name).read_bytes())
    return scratch


def _reset_and_compare(gate: Gate, course: Course, part: Part) -> None:
    """After a reset the namespace holds the given objects, and the folder the starter, nothing else."""
    lab = gate.lab
    lifecycle.reset(course, lab)
    wanted = {f"{item['kind']}/{item['metadata']['name']}" for item in lab.manifests("given")}
    found = set()
    for kind in ("Deployment", "Service", "ConfigMap", "Pod", "PodDisruptionBudget", "PersistentVolumeClaim", "Job"):
        items, _ = course.api.list(kind, lab.namespace)
        found |= {f"{kind}/{item['metadata']['name']}" for item in items}
    found.discard("ConfigMap/kube-root-ca.crt")
    if found != wanted:
        part.problem(f"after reset the namespace holds {sorted(found)} instead of {sorted(wanted)}")
    for source in (lab.path / "starter").glob("*"):
        if (course.work(lab) / source.name).read_text() != source.read_text():
            part.problem(f"after reset {source.name} is not the starter")


def _summary(gate: Gate, seconds: float, count: int) -> None:
    slowest = sorted(gate.seconds.items(), key=lambda entry: -entry[1])[:SLOWEST]
    gate.console.print("slowest: " + ", ".join(f"{name} {took:.0f} s" for name, took in slowest))
    verdict = f"{len(gate.problems)} problems" if gate.problems else "the gate holds"
    gate.console.print(Text(f"lab {gate.lab.number}: {count} submissions, {verdict}, {seconds:.0f} s", style="bold"))
