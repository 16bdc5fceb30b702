"""A worker in the cluster: claims a submission, judges it, keeps the result, until every submission has one.

It holds nothing that would be missed: whatever it has in hand is free again when it falls silent.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from checkers.turns import LeaseTurns
from cluster.api import Unreachable
from cluster.errors import KailabError
from cluster.files import replace
from cluster.workspace import Workspace
from labs import lifecycle
from labs.catalog import LabFolder, lab_numbered
from labs.crowd import doubtful
from labs.grading.judging import Judged, judge
from labs.grading.remote import NAMESPACE, nodes
from labs.grading.remote.packing import Verdict, pack_evidence, pack_verdict, unpack_work
from labs.grading.remote.queue import MOST_TRIES, Claim, Desk
from labs.grading.rooms import demolish
from labs.lifecycle import Course

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOOK_EVERY = 1.0
READY_SECONDS = 180.0  # for nodes that are on their way back, before something is tried alone
TOKEN_SECONDS = 600.0  # the kubelet writes a new token long before the old one ends; then it is read again
LOST = 70  # exit statuses: a claim has passed to another worker
TOLD_TO_GO = 143
log = logging.getLogger("worker")


@dataclass
class Worker:
    """One worker's life. `stop` is set when the pod is told to go."""

    course: Course
    lab: LabFolder
    name: str
    stop: threading.Event
    closing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))

    def run(self, seconds: float) -> bool:
        """Work until the queue is empty (True), the time is over, or the worker is told to go."""
        desk, end = Desk(self.course.api, self.name, lost), time.monotonic() + seconds
        try:
            while not self.stop.is_set() and time.monotonic() < end:
                claim = desk.claim()
                if claim is not None:
                    with claim.held:
                        self._work(claim)
                elif desk.is_empty():
                    return True
                else:
                    self.stop.wait(LOOK_EVERY)
            return False
        finally:
            self.closing.shutdown()
            desk.close()

    def _work(self, claim: Claim) -> None:
        started, clock = datetime.now(UTC), time.monotonic()
        if claim.tries > 1:
            log.info("%s: try %d, its room is cleared first", claim.key, claim.tries)
            self._clear(claim.room)
        judged, why = None, ""
        if claim.is_hopeless:
            why = f"The worker that judged it was lost {MOST_TRIES} times. See what it does to its node, or try again."
        else:
            log.info("%s: in %s%s", claim.key, claim.room, ", alone" if claim.alone else "")
            before = self._steady() if claim.alone else nodes.readiness(self.course.api)
            try:
                judged = self._judge(claim)
            except Unreachable:
                if claim.alone:
                    raise
                return self._again(claim, claim.again_alone)
            except KailabError as failed:
                why = failed.what
            if self.stop.is_set():
                return self._again(claim, claim.put_back)
            if judged and self._may_owe_it_to_others(judged, claim, before):
                return self._again(claim, claim.again_alone)
        evidence, left_out = pack_evidence(judged.evidence if judged else None)
        verdict = Verdict(
            judged.report if judged else None, judged.problems if judged else (), why,
            started.isoformat(timespec="seconds"), round(time.monotonic() - clock, 2), left_out,
        )  # fmt: skip
        self.closing.submit(self._demolish, claim.room)
        kept = claim.finish(pack_verdict(verdict), evidence)
        points = f"{judged.report.points:g} points" if judged else why
        log.info("%s: %s, %.0f s%s", claim.key, points, verdict.seconds, "" if kept else ", but another was first")
        return None

    def _judge(self, claim: Claim) -> Judged:
        turns = LeaseTurns(self.course.api, NAMESPACE, self.name, mend=self._mend, lost=lost)
        objects = unpack_work(claim.work)
        return judge(self.course, self.lab, objects, claim.room, cancelled=self.stop, leave=self._leave, turns=turns)

    def _may_owe_it_to_others(self, judged: Judged, claim: Claim, before: dict[str, tuple[str, str]]) -> bool:
        """A node that was lost meanwhile may take points from anybody; so may work beside it."""
        report = judged.report
        if report.points == report.max_points:
            return False
        if nodes.readiness(self.course.api) != before:
            return claim.tries < MOST_TRIES
        return not claim.alone and doubtful(self.lab.checks, report.checks)

    def _mend(self) -> None:
        log.info("the nodes are put back as a lost worker left them")
        nodes.put_back(self.course.api)

    def _steady(self) -> dict[str, tuple[str, str]]:
        """The nodes' readiness once all are Ready, or after a while as it is."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            found = nodes.readiness(self.course.api)
            if all(status == "True" for status, _ in found.values()) or time.monotonic() > deadline:
                return found
            self.stop.wait(LOOK_EVERY)
            if self.stop.is_set():
                return found

    def _clear(self, room: str) -> None:
        """What a lost worker left behind goes first, also on the nodes."""
        turns = LeaseTurns(self.course.api, NAMESPACE, self.name, mend=self._mend, lost=lost)
        with turns.alone(lambda _: None):
            pass
        lifecycle.give_back(self.course.api, self.lab)
        demolish(self.course, room)

    def _leave(self, room: str) -> None:
        """What the lab has but once must be free before it is given back; all else can go while others are judged."""
        if self.lab.file.side_by_side == 1:
            self._demolish(room)

    def _again(self, claim: Claim, give_up: Callable[[], None]) -> None:
        """Whoever has it next may open its room at once, so it goes first."""
        log.info("%s: once more", claim.key)
        self._demolish(claim.room)
        give_up()

    def _demolish(self, room: str) -> None:
        """A room that stays costs nobody a point, and the instructor's own command removes it at the end."""
        with suppress(KailabError):
            demolish(self.course, room)


def lost() -> None:
    """Another may be at work on what this worker has in hand: it must not touch anything any more."""
    log.warning("the claim has passed to another worker; ending at once")
    os._exit(LOST)


@contextmanager
def _opened(workspace: Workspace) -> Iterator[Course]:
    """The cluster that the pod runs in, as a kubeconfig: all that is run here finds its cluster by one."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    authority = base64.b64encode((ACCOUNT / "ca.crt").read_bytes()).decode()
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "in-cluster",
        "clusters": [{"name": "in-cluster", "cluster": {
            "server": f"https://{host}:{port}", "certificate-authority-data": authority,
        }}],
        "users": [{"name": "worker", "user": {"tokenFile": str(ACCOUNT / "token")}}],
        "contexts": [{"name": "in-cluster", "context": {"cluster": "in-cluster", "user": "worker"}}],
    }  # fmt: skip
    workspace.state.mkdir(parents=True, exist_ok=True)
    replace(workspace.kubeconfig, json.dumps(document), private=True)
    (workspace.state / "prober-token").write_text(os.environ["PROBER_TOKEN"])
    with Course.opened(workspace) as course:
        yield course


def main() -> None:
    """Entry point of the image: LAB, POD_NAME and PROBER_TOKEN come from the Job."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    lab, done = lab_numbered(int(os.environ["LAB"])), False
    while not done and not stop.is_set():
        with _opened(Workspace.here()) as course:
            done = Worker(course, lab, os.environ["POD_NAME"], stop).run(TOKEN_SECONDS)
    sys.exit(0 if done else TOLD_TO_GO)


if __name__ == "__main__":
    main()
