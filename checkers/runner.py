"""Running a lab's checks: all that only look at once, then the triggers one by one, then the safeguards."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkers.declare import CannotTell, Check, Checks, Fail, Timing
from checkers.enrich import own_words
from checkers.evidence import Tape
from checkers.lab import Lab, Sources
from checkers.restore import LONGEST_PATIENCE, Restorer, restore_nodes
from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from checkers.spec import CheckSpec, LabSpec
from checkers.workloads import condition, patience
from cluster.api import ApiError, Object, Unreachable
from cluster.errors import KailabError
from cluster.files import is_full

if TYPE_CHECKING:
    from checkers.turns import Turns

HOLD_EVERY = 0.5
NOT_RECORDED = "not tried when this was recorded"  # a replayed check whose evidence can't tell, for there is none
GRACE_SECONDS = 30.0  # beyond its own deadline, before a check counts as hung
REFRESH_PAUSES = (1.0, 2.0, 4.0)  # seconds, between tries to list what the triggers left
PUT_BACK_SECONDS = 600.0  # after the verdict, before the putting back does; every wait of its own is shorter
SCHEDULED_WITHIN = timedelta(seconds=2)  # where a node has room; the API tells these times in whole seconds
Listener = Callable[[str, Any], None]  # ("started", id) | ("say", (id, text)) | ("finished", CheckResult)


@dataclass(frozen=True)
class Setting:
    """Where and how a run happens; `state` is the folder for journals, locks and the checker's own log."""

    namespace: str
    state: Path
    cluster: ClusterInfo
    given: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    quick: bool = False  # one look a check and no triggers, for whoever looks again soon
    leave_out: frozenset[str] = frozenset()  # checks not to run at all
    throwaway: bool = False  # the namespace is deleted afterwards: what the last trigger disturbed may stay so
    turns: Turns | None = None  # where runs on other machines change the same nodes


class Run:
    """One run over one lab's checks. `tapes` afterwards hold what each check read."""

    def __init__(
        self, lab: LabSpec, checks: Checks, setting: Setting, sources: Sources | None,
        *, tapes: dict[str, Tape] | None = None, listen: Listener = lambda *_: None,
        cancelled: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self._lab, self._checks, self._setting, self._sources = lab, checks, setting, sources
        self._listen = listen
        self._playing = tapes is not None
        self.tapes: dict[str, Tape] = tapes if tapes is not None else {}
        self._results: dict[str, CheckResult] = {}
        self._finished = {spec.id: threading.Event() for spec in lab.checks}
        self._cancelled = cancelled or threading.Event()
        self._waited = 0.0  # seconds in which other runs had their turn on the nodes
        self._is_last = False  # whether the last trigger is running
        self._end = time.monotonic() + lab.seconds
        self._lock = threading.Lock()
        self._ended: dict[str, threading.Event] = {}
        self._limits: dict[str, float] = {}  # by our own clock, when each check counts as hung
        self._judged: set[str] = set()  # triggers that have their verdict, and put back what they disturbed

    def report(self) -> Report:
        """Run all checks and return the report. Raises KailabError only when the cluster can't be read at all.

        KeyboardInterrupt passes through, after what a trigger had disturbed was put back.
        """
        started = time.monotonic()
        wanted, triggers, safeguards = self._sorted()
        try:
            self._all_at_once(wanted)
            waiting = sorted(triggers, key=self._when)
            while waiting:
                spec = self._next(waiting)
                waiting.remove(spec)
                self._is_last = not waiting
                self._all_at_once([spec])
            if not triggers or not safeguards or self._looks_anew(safeguards):
                self._all_at_once(safeguards)
        except KeyboardInterrupt:
            self._cancelled.set()
            for event in self._finished.values():
                event.set()
            self._join_all()
            raise
        results = tuple(self._results[spec.id] for spec in self._lab.checks)
        return Report(
            lab=self._lab.number, slug=self._lab.slug, title=self._lab.title, namespace=self._setting.namespace,
            checks=results, seconds=round(time.monotonic() - started, 3), cluster=self._setting.cluster,
            task_titles={task.id: task.title for task in self._lab.tasks},
        )  # fmt: skip

    def _when(self, spec: CheckSpec) -> tuple[int, bool]:
        """Those that change nodes come first among the triggers of their turn, so that `_next` has a choice."""
        check = self._checks[spec.id]
        return check.turn, not check.exclusive

    def _next(self, waiting: list[CheckSpec]) -> CheckSpec:
        """The first trigger, or while another run has the nodes, the first of the same turn that lets them be."""
        ids = {spec.id for spec in waiting}
        free = [spec for spec in waiting if ids.isdisjoint(self._checks[spec.id].needs)]
        first = self._checks[free[0].id]
        quiet = [spec for spec in free if self._when(spec) == (first.turn, True)]
        if first.exclusive and quiet and self._are_nodes_taken():
            return quiet[0]
        return free[0]

    def _are_nodes_taken(self) -> bool:
        with suppress(KailabError, OSError):  # a dead cluster or full disk becomes a result when the check itself runs
            return self._sources is not None and self._turns().is_taken()
        return False

    def _turns(self) -> Turns:
        from checkers.turns import FileTurns  # a quick check takes no turn, and need not wait for this import

        return self._setting.turns or FileTurns(self._setting.state)

    def _looks_anew(self, safeguards: list[CheckSpec]) -> bool:
        """List what the triggers left; where that can't be had, only the safeguards are lost, and no verdict."""
        for pause in (*REFRESH_PAUSES, 0.0):
            try:
                if self._sources:
                    self._sources.observation.refresh()
                return True
            except KailabError as failed:
                lost = failed
            self._cancelled.wait(pause)
        for spec in safeguards:
            why = (lost.why,) if lost.why else ()
            self._finish(self._result(spec, Outcome.ERROR, observed=lost.what, evidence=why))
        return False

    def _sorted(self) -> tuple[list[CheckSpec], list[CheckSpec], list[CheckSpec]]:
        wanted, triggers, safeguards = [], [], []
        for spec in self._lab.checks:
            check = self._checks[spec.id]
            if self._setting.task and spec.task != self._setting.task and not self._is_needed(spec.id):
                self._finish(self._result(spec, Outcome.SKIPPED, observed="another task was asked for"))
            elif spec.id in self._setting.leave_out:
                self._finish(self._result(spec, Outcome.SKIPPED, observed="left out"))
            elif check.safeguard:
                safeguards.append(spec)
            elif check.timing is not Timing.TRIGGER:
                wanted.append(spec)
            elif not self._setting.quick:
                triggers.append(spec)
            else:
                self._finish(self._result(spec, Outcome.SKIPPED, observed="triggered checks were left out"))
        return wanted, triggers, safeguards

    def _is_needed(self, check_id: str) -> bool:
        """Whether a check of the wanted task needs this one, directly or not."""
        pending = [need for spec in self._lab.checks if spec.task == self._setting.task
                   for need in self._checks[spec.id].needs]  # fmt: skip
        seen: set[str] = set()
        while pending:
            need = pending.pop()
            if need not in seen:
                seen.add(need)
                pending.extend(self._checks[need].needs)
        return check_id in seen

    def _all_at_once(self, specs: list[CheckSpec]) -> None:
        # Events, since a thread's own join() may return too early once Ctrl-C has interrupted it (CPython 3.11).
        self._ended = {spec.id: threading.Event() for spec in specs}
        for spec in specs:
            self._limits[spec.id] = self._clock() + self._checks[spec.id].seconds + GRACE_SECONDS
            threading.Thread(target=self._attempt_and_say, args=(spec, self._ended[spec.id]), daemon=True).start()
        for spec in specs:
            self._wait(spec, self._ended[spec.id])

    def _attempt_and_say(self, spec: CheckSpec, ended: threading.Event) -> None:
        try:
            self._attempt(spec)
        finally:
            ended.set()

    def _clock(self) -> float:
        """Seconds, without those in which other runs had their turn."""
        return time.monotonic() - self._waited

    def _wait(self, spec: CheckSpec, ended: threading.Event) -> None:
        began = self._clock()
        while not ended.wait(0.2) and self._clock() < self._limits[spec.id]:
            pass
        if not ended.is_set():
            took = self._clock() - began
            text = f"the check itself did not finish within {took:.0f} s"
            if spec.id in self._judged:
                text = f"what the check disturbed was not put back within {PUT_BACK_SECONDS:.0f} s"
            self._finish(self._result(spec, Outcome.ERROR, observed=text, seconds=round(took, 3)))

    def _join_all(self) -> None:
        for ended in self._ended.values():
            ended.wait(GRACE_SECONDS)

    def _attempt(self, spec: CheckSpec) -> None:
        check = self._checks[spec.id]
        for need in check.needs:
            self._finished[need].wait()
        missing = [need for need in check.needs if self._results.get(need, _NOTHING).outcome is not Outcome.PASS]
        if self._cancelled.is_set():
            self._finish(self._result(spec, Outcome.ERROR, observed="interrupted"))
            return
        if missing:
            titles = {item.id: item.title for item in self._lab.checks}
            text = f"not tried: first mend “{titles[missing[0]]}”"
            self._finish(self._result(spec, Outcome.SKIPPED, observed=text))
            return
        self._listen("started", spec.id)
        self._finish(self._evaluate(spec, check))

    def _evaluate(self, spec: CheckSpec, check: Check) -> CheckResult:
        if self._playing and spec.id not in self.tapes:
            return self._result(spec, Outcome.SKIPPED, observed=NOT_RECORDED)
        started = time.monotonic()
        try:
            result = self._verdict(spec, check, alone=check.exclusive)
        except _Disturbed:
            result = self._verdict(spec, check, alone=True)
        return replace(result, seconds=round(time.monotonic() - started, 3))

    def _verdict(self, spec: CheckSpec, check: Check, *, alone: bool) -> CheckResult:
        """Raises _Disturbed when what was seen may be another run's doing."""
        tape = self.tapes[spec.id] if self._playing else Tape()
        self.tapes[spec.id] = tape
        lab = None
        try:
            lab = Lab(
                self._setting.namespace, self._lab.names, tape, self._sources, given=self._setting.given,
                deadline=time.monotonic() if self._setting.quick else self._end + self._waited,
                say=lambda text: self._listen("say", (spec.id, text)), cancelled=self._cancelled,
            )  # fmt: skip
            with self._put_back(check, lab, alone):
                _judge(check, lab, tape, quick=self._setting.quick)
            return self._result(spec, Outcome.PASS)
        except _Disturbed:
            raise
        except Fail as wrong:
            return self._failed(spec, check, wrong, lab)
        except CannotTell as unknown:
            return self._result(spec, Outcome.ERROR, observed=str(unknown))
        except (Unreachable, ApiError, KailabError) as lost:
            return self._result(spec, Outcome.ERROR, observed=lost.what, evidence=(lost.why,) if lost.why else ())
        except Exception as broken:  # noqa: BLE001 - a check that raises is our fault, never the student's
            if is_full(broken):
                return self._result(spec, Outcome.ERROR, observed=f"a disk of this machine is full: {broken}")
            log = self._note_crash(spec)
            text = f"the check itself broke ({type(broken).__name__}: {broken}); please report it with {log}"
            return self._result(spec, Outcome.ERROR, observed=text)

    def _failed(self, spec: CheckSpec, check: Check, wrong: Fail, lab: Lab | None) -> CheckResult:
        evidence = list(wrong.evidence)
        look_with = wrong.look_with
        if wrong.about is not None and lab is not None:
            evidence += own_words(lab, wrong.about)
            look_with = look_with or _describe(wrong.about)
        return self._result(
            spec, Outcome.FAIL, expected=wrong.expected or check.expected, observed=wrong.observed,
            evidence=tuple(dict.fromkeys(evidence)), hint=wrong.hint,
            look_with=look_with or f"kubectl -n {self._setting.namespace} get all",
        )  # fmt: skip

    @contextmanager
    def _put_back(self, check: Check, lab: Lab, alone: bool) -> Iterator[None]:
        """Around a trigger: the student's objects are put back, and whoever changes nodes is alone with them."""
        if check.timing is not Timing.TRIGGER or self._sources is None:
            yield
            return
        self._sources.observation.follow()
        state, namespace = self._setting.state, self._setting.namespace
        may_stay = self._setting.throwaway and self._is_last
        restorer = Restorer(state / "restore" / f"{namespace}.json", namespace)
        with ExitStack() as turn:
            if alone:
                turn.enter_context(self._turns().alone(partial(self._waiting, lab)))
                self._open_what_was_left()
            began = time.time()
            lab.look_again()
            disturbed = [item for kind in check.disturbs for item in lab.untaped(kind)]
            self._begin(check, lab, min(sum(map(patience, disturbed)), LONGEST_PATIENCE))
            restorer.protect(disturbed)
            lab.restorer, lab.turn = restorer, turn
            try:
                yield
            except Fail:
                pods = self._sources.observation.view().get("Pod", ())
                if not alone and any(map(_lacked_a_node, pods)) and self._turns().was_another(began):
                    may_stay = False
                    raise _Disturbed from None
                raise
            finally:
                # What the putting back takes is not the check's time: the verdict is there.
                self._judged.add(check.id)
                self._limits[check.id] = self._clock() + PUT_BACK_SECONDS
                lab.say("putting everything back")
                restorer.restore(self._sources.api, objects=not may_stay)

    def _open_what_was_left(self) -> None:
        """Whoever was alone with the nodes before us may have been killed, long after this run has begun."""
        with suppress(KailabError):
            if self._sources and restore_nodes(self._setting.state / "restore", self._sources.api):
                self._sources.observation.refresh()

    def _begin(self, check: Check, lab: Lab, granted: float) -> None:
        """A trigger's own time begins, with the seconds that what it disturbs asks to be given."""
        self._judged.discard(check.id)
        self._end += granted
        allowed = check.seconds + granted
        self._limits[check.id] = self._clock() + allowed + GRACE_SECONDS
        lab.begin(min(self._end + self._waited, time.monotonic() + allowed))

    def _waiting(self, lab: Lab, seconds: float) -> None:
        self._waited += seconds
        lab.say("another check has its turn on the nodes")
        if self._cancelled.is_set():
            raise CannotTell("interrupted")

    def _result(self, spec: CheckSpec, outcome: Outcome, **found: Any) -> CheckResult:
        points = spec.points if outcome is Outcome.PASS else 0.0
        return CheckResult(spec.id, spec.task, spec.title, outcome, points, spec.points, **found)

    def _finish(self, result: CheckResult) -> None:
        with self._lock:
            if result.id in self._results:  # a hung check that woke up late changes nothing any more
                return
            self._results[result.id] = result
        self._listen("finished", result)
        self._finished[result.id].set()

    def _note_crash(self, spec: CheckSpec) -> Path:
        log = self._setting.state / "logs" / "checker-errors.log"
        with suppress(OSError):  # a full disk must not cost the other checks' results
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as file:
                file.write(f"lab {self._lab.number}, check {spec.id}\n{traceback.format_exc()}\n")
        return log


class _Disturbed(Exception):
    """The check failed while another run changed nodes, and a pod found none, or found one late: try again alone."""


def _lacked_a_node(pod: Object) -> bool:
    """Whether it has no node, or got one late: then it may be late for what another run did to the nodes."""
    if not pod.get("spec", {}).get("nodeName"):
        return True
    made, got = pod["metadata"].get("creationTimestamp"), condition(pod, "PodScheduled").get("lastTransitionTime")
    if not made or not got:
        return False
    return datetime.fromisoformat(got) - datetime.fromisoformat(made) > SCHEDULED_WITHIN


def _judge(check: Check, lab: Lab, tape: Tape, *, quick: bool) -> None:
    """Evaluate the check by its timing; returns when it passed."""
    if quick:
        check.function(lab)
    elif check.timing is Timing.CONVERGE:
        lab.until(check.seconds, lambda: check.function(lab))
    elif check.timing is Timing.HOLD and not tape.playing:
        _hold(check, lab, tape)
    else:
        check.function(lab)
        while tape.playing and not tape.is_last:  # every recorded look of a window
            tape.again(keep=True)
            check.function(lab)


def _hold(check: Check, lab: Lab, tape: Tape) -> None:
    end = time.monotonic() + check.seconds
    while True:
        lab.look_again()
        check.function(lab)
        if time.monotonic() >= end:
            return
        tape.again(keep=True)
        time.sleep(max(min(HOLD_EVERY, end - time.monotonic()), 0))  # also what the API can't tell may change


def _describe(item: dict[str, Any]) -> str:
    namespace = item["metadata"].get("namespace", "")
    where = f"-n {namespace} " if namespace else ""
    return f"kubectl {where}describe {item['kind'].lower()} {item['metadata']['name']}"


_NOTHING = CheckResult("", "", "", Outcome.SKIPPED, 0, 0)
