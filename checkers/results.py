"""What a check found: plain frozen data that reports, JSON, evidence and graders share."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """`error` means that nothing could be judged (cluster not ready, checker broken): it costs no point.
    `skipped` means not run at all (another task was asked for): it earns nothing and is never called a pass."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class CheckResult:
    """One check's verdict. `seconds` is wall-clock time; `points` are earned, `max_points` possible.

    `expected` and `observed` are plain English for people; `evidence` holds the object's own words, one line
    each (condition, last event, log line); `look_with` is one command to type; `hint` is the key of the
    first rung of the hint ladder that fits what was seen (empty when none is special).
    """

    id: str
    task: str
    title: str
    outcome: Outcome
    points: float
    max_points: float
    expected: str = ""
    observed: str = ""
    evidence: tuple[str, ...] = ()
    hint: str = ""
    look_with: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class ClusterInfo:
    """Which cluster was graded: name, Kubernetes version and the UID of kube-system, its identity."""

    name: str
    version: str
    uid: str


@dataclass(frozen=True)
class Report:
    """All results of one run over one lab."""

    lab: int
    slug: str
    title: str
    namespace: str
    checks: tuple[CheckResult, ...]
    seconds: float
    cluster: ClusterInfo
    task_titles: dict[str, str] = field(default_factory=dict)

    @property
    def points(self) -> float:
        return sum(check.points for check in self.checks)

    @property
    def max_points(self) -> float:
        return sum(check.max_points for check in self.checks)

    @property
    def errors(self) -> tuple[CheckResult, ...]:
        return tuple(check for check in self.checks if check.outcome is Outcome.ERROR)

    @property
    def exit_code(self) -> int:
        """0 full marks, 1 less, 2 the checker or the cluster is at fault (then the score is no verdict)."""
        if self.errors:
            return 2
        return 0 if self.points == self.max_points else 1
