"""One submission judged in a room of its own: opened, filled, checked, left. The same wherever the grader runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from checkers.report.document import from_document, to_document
from checkers.results import Report
from checkers.turns import Turns
from cluster.api import Object
from cluster.errors import KailabError
from labs import lifecycle
from labs.catalog import LabFolder
from labs.grading.rooms import borrowed, hand_in, open_room
from labs.lifecycle import Course


@dataclass(frozen=True)
class Judged:
    """What came of a submission: the report as the student's own, what was refused, and the evidence."""

    report: Report
    problems: tuple[str, ...]
    evidence: dict[str, Any]


def judge(
    course: Course, lab: LabFolder, objects: Sequence[Object], namespace: str, *, cancelled: threading.Event,
    leave: Callable[[str], None], turns: Turns | None = None,
) -> Judged:  # fmt: skip
    """Judge a submission's objects in a fresh namespace of that name, which `leave` is told afterwards in any case.

    Raises KailabError when nothing could be judged.
    """
    with borrowed(course, lab):
        try:
            given = open_room(course, lab, namespace)
            problems = hand_in(course, lab, namespace, objects)
            checked = lifecycle.check(
                course, lab, namespace=namespace, given=given, keep_evidence=False, throwaway=True, cancelled=cancelled,
                turns=turns,
            )  # fmt: skip
        except KailabError:
            raise
        except Exception as broken:  # one student's work must not end the run of a class
            what = f"The grader itself broke ({type(broken).__name__}: {broken}); please report it."
            raise KailabError(what, mend="the same command tries again") from broken
        finally:
            leave(namespace)
    return Judged(_at_home(checked.report, lab), tuple(problems), checked.document)


def _at_home(report: Report, lab: LabFolder) -> Report:
    """The report as the student's own: its commands name the lab's namespace, not one that is gone by now."""
    text = json.dumps(to_document(report)).replace(report.namespace, lab.namespace)
    return from_document(json.loads(text))
