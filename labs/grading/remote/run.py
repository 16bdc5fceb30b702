"""A class graded inside the cluster, as the instructor's command sees it: queue, watch, fetch, and clear away.

The command may end at any time, and so may workers and nodes: what is queued is judged by whoever is left, and the
same command fetches what has come meanwhile.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster import leases
from cluster.api import Object, Unreachable
from cluster.errors import KailabError
from labs import fleets, lifecycle
from labs.catalog import LabFolder
from labs.grading.reading import Submission, read_submission
from labs.grading.records import Record, Records, lab_digest
from labs.grading.remote import NAMESPACE, image, job, nodes, packing, rights, where
from labs.grading.remote.queue import Open, Queue
from labs.grading.remote.roll import Roll
from labs.grading.rooms import demolish, leftovers, new_name
from labs.grading.run import Listener
from labs.lifecycle import Course, close_namespace

LOOK_EVERY = 1.0
_API_SECONDS = 120.0
_COMMAND_SECONDS = 15  # of silence, after which a command counts as killed
_LIST = 500  # open submissions that are no burden to list every second
# Without a worker, until that is said. A Job makes lost pods anew after 10, 20, 40 and 80 s.
_NO_WORKER_SECONDS = 120.0
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")


@dataclass
class RemoteRun:
    """One run over the submissions of one lab, by `jobs` workers in the cluster, as far as the lab has room."""

    course: Course
    lab: LabFolder
    records: Records
    place: where.Place
    jobs: int = 4
    again: bool = False
    listen: Listener = lambda *_: None
    _results: dict[str, Record] = field(default_factory=dict)
    _before: dict[str, Record] = field(default_factory=dict)
    _wanted: dict[str, tuple[Submission, list[str]]] = field(default_factory=dict)  # by key, with what can't be sent
    _shown: set[str] = field(default_factory=set)
    _turn: leases.Held | None = None

    def grade(self, paths: Mapping[str, Path]) -> list[Record]:
        """Grade what isn't graded yet; everybody's records. Raises KailabError when another class is being graded.

        After KeyboardInterrupt the workers go on.
        """
        self._before = {student: known for student in paths if (known := self.records.of(student))}
        work, api = self._not_graded(paths), self.course.api
        if work or (api.get("Namespace", NAMESPACE) is not None and Roll(api, self.records).other() is None):
            with self.place.alone(self.course):
                self._all(work, paths)
        self._write_table()
        return [self._results[student] for student in sorted(self._results)]

    def _all(self, work: list[Submission], named: Collection[str]) -> None:
        version = self._prepare()
        roll = Roll(self.course.api, self.records)
        is_new = roll.begin()
        with self._only_one() as self._turn:
            if not is_new:
                roll.require_all_named(Queue(self.course.api), named)
            try:
                self._dismiss(version)
                self._fill_queue(work)
                self._watch(version)
            finally:
                self._write_table()
            clear_away(self.course, self.lab, self._require_turn)

    def _not_graded(self, paths: Mapping[str, Path]) -> list[Submission]:
        digest, left = lab_digest(self.lab), []
        for student, path in paths.items():
            submission = read_submission(student, path)
            known = None if self.again else self._before.get(student)
            if known and known.is_graded and (known.digest, known.lab_digest) == (submission.digest, digest):
                self._results[student] = known
                self.listen("kept", known)
            elif submission.broken:
                self._finish(_not_read(submission, digest), None)
            else:
                left.append(submission)
        return left

    def _finish(self, record: Record, evidence: dict[str, Any] | None) -> None:
        record = self.records.keep(record, evidence)
        self._results[record.student] = record
        self.listen("finished", record)

    def _prepare(self) -> str:
        """The image on the nodes, and the namespace; which image, and which version of it."""
        api, version = self.course.api, f"{image.version()} {self.place.image or image.NAME}"
        lifecycle.wait_gone(self.course, NAMESPACE)
        Roll(api, self.records).require_ours()
        require_same(self.course, self.lab)
        token = where.token(api)
        if self.place.is_ours:
            image.lay_on_nodes(self.course.workspace, self.course.workspace.logs / "grader-image.log")
        for item in job.base(token):
            api.apply(item)
        return version

    def _only_one(self) -> leases.Held:
        """Two commands at once would clear away each other's queue."""
        api, name = self.course.api, f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        silence, deadline = leases.Silence(), time.monotonic() + 2 * _COMMAND_SECONDS
        while time.monotonic() < deadline:  # a command that was killed falls silent within this time
            found = leases.ensure(api, "command", NAMESPACE)
            if silence.is_free(found) and (mine := leases.take(api, found, name, _COMMAND_SECONDS)):
                # The API server may be silent for a while; a command asks before it changes anything.
                return leases.Held(api, mine, lambda: None, patient=True)
            time.sleep(LOOK_EVERY)
        raise KailabError("Another `kailab grade` watches this cluster's workers.", mend="wait until it is done")

    def _require_turn(self) -> None:
        """Raises KailabError when another command has begun since."""
        if self._turn is not None and not self._turn.is_mine():
            raise KailabError(
                "Another `kailab grade` has taken over this cluster's workers, or removed them; this one has stopped.",
                why=f"So it may be when this one is silent for more than {_COMMAND_SECONDS} s, as on a machine that "
                "sleeps. What it has fetched stays.",
                mend="wait until the other one is done, then run the same command again",
            )

    def _dismiss(self, version: str) -> None:
        """Workers of an earlier command with another image, so perhaps other checks; what they have done stays."""
        present = self.course.api.get("Job", job.NAME, NAMESPACE)
        if present is not None and present["metadata"]["annotations"].get(job.VERSION) != version:
            end_workers(self.course)

    def _fill_queue(self, work: list[Submission]) -> None:
        api, digest, queue = self.course.api, lab_digest(self.lab), Queue(self.course.api)
        self._require_turn()
        for namespace in leftovers(self.course):
            if api.get("Job", job.NAME, NAMESPACE) is None:
                demolish(self.course, namespace)
        nodes.note(api)
        lifecycle.give_back(api, self.lab)
        fleets.join(api, self.lab)
        packed = {}
        for submission in work:
            key = packing.key(submission, digest)
            packed[key], problems = packing.pack_work(submission)
            self._wanted[key] = submission, problems
        Roll(api, self.records).enter({key: submission.student for key, (submission, _) in self._wanted.items()})
        for one in queue.open():
            if one.key not in self._wanted and not one.holder:
                queue.drop(one.key)  # handed in anew since an earlier command
        self._put(queue, packed)

    def _put(self, queue: Queue, packed: Mapping[str, bytes]) -> None:
        """Queue these. A worker may claim one at once, so before that it has the right to act in its room."""
        rooms = {key: new_name(self.lab) for key in packed} | {one.key: one.room for one in queue.open()}
        for item in rights.objects(self.lab, rooms.values()):
            self.course.api.apply(item)
        for key, work in packed.items():
            queue.put(key, work, rooms[key])

    def _watch(self, version: str) -> None:
        """Fetch results as they come, until there is one for each submission."""
        queue, at_work, answered = Queue(self.course.api), time.monotonic(), time.monotonic()
        while self._wanted:
            try:
                self._require_turn()
                self._employ(version)
                present = {one.key: one for one in queue.open()}
                for key in [key for key in self._wanted if key not in present]:
                    self._fetch(queue, key)
                self._show(present)
                if self._is_any_running():  # a Lease has its holder's name also when that is lost
                    at_work = time.monotonic()
                elif time.monotonic() - at_work > _NO_WORKER_SECONDS:
                    raise self._no_worker()
                answered = time.monotonic()
            except Unreachable:
                at_work = time.monotonic()  # or perhaps not; nobody can tell
                if time.monotonic() - answered > _API_SECONDS:
                    raise
            # The whole queue is listed at each look: of a large class that is megabytes.
            time.sleep(LOOK_EVERY * max(1.0, len(self._wanted) / _LIST))

    def _employ(self, version: str) -> None:
        """Workers, unless there are some: those of a run that had come to its end are no use to a fuller queue."""
        api = self.course.api
        present = api.get("Job", job.NAME, NAMESPACE)
        if present is not None and not _has_ended(present):
            return
        if present is not None:
            api.delete("Job", job.NAME, NAMESPACE)
        workers = max(1, min(self.jobs, self.lab.file.side_by_side, len(self._wanted)))
        leases.create(api, job.manifest(self.lab, workers, self.place.image or image.NAME, version), NAMESPACE)

    def _show(self, present: Mapping[str, Open]) -> None:
        for key, (submission, _) in self._wanted.items():
            one = present.get(key)
            if one and one.alone and f"{key} alone" not in self._shown:
                self._shown |= {key, f"{key} alone"}
                self.listen("again", submission.student)
            elif one and one.holder and key not in self._shown:
                self._shown.add(key)
                self.listen("started", submission.student)

    def _fetch(self, queue: Queue, key: str) -> None:
        """Keep a result here, then forget it there: etcd is no archive."""
        self._require_turn()
        submission, unsendable = self._wanted[key]
        found = queue.result(key)
        if found is None:  # a queue that somebody cleared
            self._put(queue, {key: packing.pack_work(submission)[0]})
            return
        verdict, evidence = packing.unpack_verdict(found[0]), packing.unpack_evidence(found[1])
        record = Record(
            student=submission.student, submission=str(submission.path), digest=submission.digest,
            lab_digest=lab_digest(self.lab), graded_at=verdict.graded_at, seconds=verdict.seconds,
            problems=(*submission.problems, *unsendable, *verdict.problems), report=verdict.report, why=verdict.why,
            note=_without_evidence(submission, self.lab, verdict.left_out) if verdict.report and not evidence else "",
        )  # fmt: skip
        self._finish(record, evidence)
        del self._wanted[key]
        queue.drop(key)
        self._write_table()

    def _pods(self) -> list[Object]:
        return self.course.api.list("Pod", NAMESPACE, labelSelector="app.kubernetes.io/name=grader")[0]

    def _is_any_running(self) -> bool:
        return any(pod["status"].get("phase") == "Running" for pod in self._pods())

    def _no_worker(self) -> KailabError:
        """Why none runs, as far as pods tell."""
        for pod in self._pods():
            for status in pod["status"].get("containerStatuses", []):
                waiting = status["state"].get("waiting", {})
                if waiting.get("reason") in _NO_IMAGE:
                    return KailabError(f"The nodes can't get the grader's image {status['image']}.",
                                       why=waiting.get("message", ""), mend=_LOOK_WITH)  # fmt: skip
            for condition in pod["status"].get("conditions", []):
                if condition.get("reason") == "Unschedulable":
                    return KailabError("No node takes the workers.", why=condition["message"], mend=_LOOK_WITH)
        return KailabError("No worker runs.", mend=_LOOK_WITH)

    def _write_table(self) -> None:
        self.records.write_table({**self._before, **self._results}.values())


def _not_read(submission: Submission, digest: str) -> Record:
    """What the grader could not read gets no points, and loses none."""
    return Record(
        student=submission.student, submission=str(submission.path), digest=submission.digest, lab_digest=digest,
        graded_at=datetime.now(UTC).isoformat(timespec="seconds"), seconds=0.0, problems=submission.problems,
        report=None, why=submission.broken,
    )  # fmt: skip


def _without_evidence(submission: Submission, lab: LabFolder, size: int) -> str:
    how = f"{size / 1e6:.1f} MB are more than the cluster can keep" if size else "it was lost on its way"
    return (f"The points stand, but without evidence ({how}), so they can't be regraded. To have it: "
            f"kailab grade {shlex.quote(str(submission.path))} --lab {lab.number} --out with-evidence.csv")  # fmt: skip


_LOOK_WITH = f"kubectl -n {NAMESPACE} describe pods; the same command goes on where it was"


def _has_ended(found: Object) -> bool:
    conditions = found.get("status", {}).get("conditions") or []
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)


def require_same(course: Course, lab: LabFolder) -> None:
    """Raises KailabError when what goes on in the cluster is for another lab."""
    present = course.api.get("Job", job.NAME, NAMESPACE)
    number = present["metadata"]["labels"].get(job.LAB) if present else str(lab.number)
    if number != str(lab.number):
        raise KailabError(
            f"A class is being graded in this cluster already, for lab {number}.",
            mend="fetch it with the command that began it, or that command with --stop",
        )


def clear_away(course: Course, lab: LabFolder, require_turn: Callable[[], None] = lambda: None) -> None:
    """Remove workers, queue, rooms and rights, and put back what a lost worker had changed on the nodes.

    `require_turn` is called before each step, and may raise. The namespace goes last: it holds whose turn it is.
    """
    api = course.api
    if api.get("Namespace", NAMESPACE) is not None:
        require_turn()
        end_workers(course)
        require_turn()
        nodes.put_back(api)
    for namespace in leftovers(course):
        require_turn()
        demolish(course, namespace)
    for kind, name, namespace in rights.names(lab):
        require_turn()
        api.delete(kind, name, namespace)
    require_turn()
    lifecycle.give_back(api, lab)
    if not lifecycle.is_started(course, lab.namespace):
        fleets.leave(api, lab)
    require_turn()
    close_namespace(course, NAMESPACE)


def end_workers(course: Course) -> None:
    """Tell the workers to go, and wait while they put back what they disturbed."""
    api = course.api
    api.delete("Job", job.NAME, NAMESPACE)
    deadline = time.monotonic() + lifecycle.GONE_SECONDS
    while api.list("Pod", NAMESPACE)[0] and time.monotonic() < deadline:
        time.sleep(0.3)
