"""A class graded at once: submissions side by side, results kept as they come, going on where it was stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cluster.api import Unreachable
from cluster.errors import KailabError
from labs import fleets, lifecycle
from labs.catalog import LabFolder
from labs.crowd import doubtful
from labs.grading import remote
from labs.grading.judging import judge
from labs.grading.reading import Submission, read_submission
from labs.grading.records import Record, Records, lab_digest
from labs.grading.rooms import demolish, leftovers, new_name
from labs.lifecycle import Course

_ATTEMPTS = 3  # of a submission by itself, while the API server does not answer
_API_SECONDS = 120.0
# ("started", student) | ("again", student) | ("kept", Record) | ("finished", Record) | ("silent", seconds of patience)
Listener = Callable[[str, Any], None]


@dataclass
class ClassRun:
    """One run over the submissions of one lab. `jobs` at once, as far as the lab has room."""

    course: Course
    lab: LabFolder
    records: Records
    jobs: int = 4
    again: bool = False
    listen: Listener = lambda *_: None
    _stop: threading.Event = field(default_factory=threading.Event)
    _before: dict[str, Record] = field(default_factory=dict)
    _results: dict[str, Record] = field(default_factory=dict)
    _alone: list[Submission] = field(default_factory=list)
    _closing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16))
    _going: list[Future[None]] = field(default_factory=list)  # rooms on their way out

    def grade(self, paths: Mapping[str, Path]) -> list[Record]:
        """Grade what isn't graded yet; everybody's records. Raises KailabError when another class is being graded.

        KeyboardInterrupt passes through, after running checks have put back what they disturbed.
        """
        with begin(self.course):
            if self.course.api.get("Namespace", remote.NAMESPACE):
                raise KailabError(
                    "Workers in the cluster are grading a class, and what runs beside them would be in their way.",
                    mend="fetch it with the command that began it, or that command with --stop",
                )
            self._before = {student: known for student in paths if (known := self.records.of(student))}
            try:
                for namespace in leftovers(self.course):
                    demolish(self.course, namespace)
                lifecycle.give_back(self.course.api, self.lab)
                fleets.join(self.course.api, self.lab)
                self._all(paths)
            finally:
                self._closing.shutdown()
                self._write_table()
                # With a cluster that has gone there is nothing to tidy; what ended the run must still be told.
                with suppress(Unreachable):
                    if not lifecycle.is_started(self.course, self.lab.namespace):
                        fleets.leave(self.course.api, self.lab)
        return [self._results[student] for student in sorted(self._results)]

    def _all(self, paths: Mapping[str, Path]) -> None:
        digest = lab_digest(self.lab)
        jobs = max(1, min(self.jobs, self.lab.file.side_by_side))
        with ThreadPoolExecutor(jobs) as pool:
            running: set[Future[None]] = {pool.submit(self._one, student, path, digest)
                                          for student, path in paths.items()}  # fmt: skip
            try:
                while running:
                    done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    if done:
                        self._write_table()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        answers = True
        for attempt in range(_ATTEMPTS):
            waiting, self._alone = self._alone, []
            for submission in waiting:
                # Its pods found no room beside the others', or nothing answered: that is no fault of theirs.
                self.listen("again", submission.student)
                wait(self._going)
                # After an overload the API server needs a while. One that stayed away is not waited for again.
                answers = answers and self._cluster_answers()
                self._grade(submission, digest, alone=True, last=attempt == _ATTEMPTS - 1 or not answers)
                self._write_table()

    def _cluster_answers(self) -> bool:
        api = self.course.api
        if api.becomes_ready(0):
            return True
        self.listen("silent", _API_SECONDS)
        return api.becomes_ready(_API_SECONDS, self._stop.wait)

    def _one(self, student: str, path: Path, digest: str) -> None:
        if self._stop.is_set():
            return
        submission = read_submission(student, path)
        known = None if self.again else self._before.get(student)
        if known and known.is_graded and (known.digest, known.lab_digest) == (submission.digest, digest):
            self._results[student] = known
            self.listen("kept", known)
            return
        self.listen("started", student)
        # Also one after the other: the room of the one before goes beside it, and who knows what else.
        self._grade(submission, digest, alone=False)

    def _grade(self, submission: Submission, digest: str, *, alone: bool, last: bool = False) -> None:
        started = time.monotonic()
        report, document, problems, why = None, None, list(submission.problems), ""
        try:
            if submission.broken:
                raise KailabError(submission.broken)  # what nobody has read gets no points, and loses none
            judged = judge(self.course, self.lab, submission.objects, new_name(self.lab), cancelled=self._stop,
                           leave=self._leave)  # fmt: skip
            if not alone and doubtful(self.lab.checks, judged.report.checks):
                self._alone.append(submission)
                return
            report, document = judged.report, judged.evidence
            problems += judged.problems
        except KailabError as failed:
            if isinstance(failed, Unreachable) and not last and not self._stop.is_set():
                self._alone.append(submission)
                return
            why = failed.what
        if self._stop.is_set():
            return  # interrupted is not graded; the next run does it
        record = Record(
            student=submission.student, submission=str(submission.path), digest=submission.digest, lab_digest=digest,
            graded_at=datetime.now(UTC).isoformat(timespec="seconds"), seconds=round(time.monotonic() - started, 2),
            problems=tuple(problems), report=report, why=why,
        )  # fmt: skip
        record = self.records.keep(record, document)
        self._results[submission.student] = record
        self.listen("finished", record)

    def _leave(self, namespace: str) -> None:
        """Mostly waiting, so the next submission begins meanwhile; unless what it needs is there but once."""
        self._going.append(self._closing.submit(demolish, self.course, namespace))
        if self.lab.file.side_by_side == 1:
            wait(self._going)

    def _write_table(self) -> None:
        self.records.write_table({**self._before, **self._results}.values())


@contextmanager
def begin(course: Course) -> Iterator[None]:
    """Around everything that grades a class from here. Raises KailabError while another command does."""
    lock = FileLock(course.workspace.state / "grading.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        raise KailabError("Another `kailab grade` is at work on this cluster.", mend="wait until it is done") from None
    try:
        yield
    finally:
        lock.release()
