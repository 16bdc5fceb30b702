"""What a failure may owe to the work that ran beside it, on a machine where all share few cores."""

from __future__ import annotations

from collections.abc import Iterable

from checkers.declare import Checks, Timing
from checkers.results import CheckResult, Outcome

_NEARLY = 0.9


def doubtful(checks: Checks, results: Iterable[CheckResult]) -> bool:
    """Whether a check could not tell, or failed at how things go in time: it lost a request, or waited to its very end.

    Such a verdict holds only if it comes again when nothing else runs.
    """
    return any(_is_matter_of_time(checks, result) for result in results)


def _is_matter_of_time(checks: Checks, result: CheckResult) -> bool:
    if result.outcome is Outcome.FAIL:
        check = checks[result.id]
        waited = check.timing is Timing.CONVERGE and result.seconds >= _NEARLY * check.seconds
        return waited or check.timing in (Timing.TRIGGER, Timing.HOLD)
    return result.outcome is Outcome.ERROR
