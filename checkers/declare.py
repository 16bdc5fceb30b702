"""How a lab's checks.py declares its checks, and how a check says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from checkers.lab import Lab

CONVERGE_SECONDS = 20.0
TRIGGER_SECONDS = 120.0
HOLD_SECONDS = 5.0


class Fail(Exception):
    """The student's work is not (yet) right.

    `expected` and `observed` are plain sentences. `about` is the object that the trouble shows in: the report
    adds that object's own conditions, events and log lines. `settled` says that waiting can't help (the object
    isn't there, a field is wrong), so a converging check ends once a fresh list shows the same; `hopeless` that
    nothing speaks for a change (the image can't be had, no node would take the pod): the check ends when that stays
    so for a few seconds. `hint` is the key of the rung of the hint ladder that fits. `look_with` is one command; by
    default it describes `about`.
    """

    def __init__(
        self, observed: str, *, expected: str = "", evidence: Sequence[str] = (), about: dict[str, Any] | None = None,
        settled: bool = False, hopeless: bool = False, hint: str = "", look_with: str = "",
    ) -> None:  # fmt: skip
        super().__init__(observed)
        self.hopeless = hopeless
        self.observed, self.expected = observed, expected
        self.evidence, self.about = tuple(evidence), about
        self.settled, self.hint, self.look_with = settled, hint, look_with


class CannotTell(Exception):
    """The cluster or the checker could not be asked: an error, which never costs a point."""


class Timing(StrEnum):
    """When a check looks (design: the four timings)."""

    ASSERT = "assert"
    CONVERGE = "converge"
    HOLD = "hold"
    TRIGGER = "trigger"


CheckFunction = Callable[["Lab"], None]
Decorator = Callable[[CheckFunction], CheckFunction]


@dataclass(frozen=True)
class Check:
    """A declared check; title, task and points stand in lab.yaml under the same id.

    `reads` are the kinds it looks at ("Pod", or "Pod@kube-system" for another namespace). `seconds` is the
    deadline of a converging or triggered check and the window of a holding one. `needs` are ids of checks
    without which this one makes no sense: it is then skipped. A `safeguard` guards what was given.
    `disturbs` are kinds in the student's namespace that a trigger changes; they are put back afterwards.
    `exclusive` triggers change whole nodes and run one at a time on a cluster, whatever the namespace.
    Triggers run in the order of their `turn`, then of lab.yaml; of the same turn, an exclusive one begins as soon as
    no other run has the nodes.
    """

    id: str
    function: CheckFunction
    timing: Timing = Timing.ASSERT
    reads: tuple[str, ...] = ()
    seconds: float = 0.0
    needs: tuple[str, ...] = ()
    safeguard: bool = False
    disturbs: tuple[str, ...] = ()
    exclusive: bool = False
    turn: int = 0

    @property
    def expected(self) -> str:
        """What the check asserts, from its docstring: the text used when a Fail names no `expected`."""
        return " ".join((self.function.__doc__ or "").split())


class Checks:
    """The registry that a lab's checks.py fills: `checks = Checks()`, then one decorator for each check."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._checks.values())

    def __getitem__(self, check_id: str) -> Check:
        return self._checks[check_id]

    def _add(self, check_id: str, timing: Timing, seconds: float, **options: Any) -> Decorator:
        def keep(function: CheckFunction) -> CheckFunction:
            if check_id in self._checks:
                raise ValueError(f"two checks are called {check_id!r}")
            self._checks[check_id] = Check(check_id, function, timing, seconds=seconds, **options)
            return function

        return keep

    def once(self, check_id: str, *, reads: tuple[str, ...] = (), **options: Any) -> Decorator:
        """Assert: true now or not at all."""
        return self._add(check_id, Timing.ASSERT, 0.0, reads=reads, **options)

    def converge(
        self, check_id: str, *, reads: tuple[str, ...] = (), seconds: float = CONVERGE_SECONDS, **options: Any
    ) -> Decorator:
        """Gets true within the deadline, while the cluster still works on it."""
        return self._add(check_id, Timing.CONVERGE, seconds, reads=reads, **options)

    def hold(
        self, check_id: str, *, reads: tuple[str, ...] = (), seconds: float = HOLD_SECONDS, **options: Any
    ) -> Decorator:
        """True over the whole window."""
        return self._add(check_id, Timing.HOLD, seconds, reads=reads, **options)

    def trigger(
        self, check_id: str, *, reads: tuple[str, ...] = (), seconds: float = TRIGGER_SECONDS, **options: Any
    ) -> Decorator:
        """Does something to the student's work and watches what follows; see `Lab.act`."""
        return self._add(check_id, Timing.TRIGGER, seconds, reads=reads, **options)
