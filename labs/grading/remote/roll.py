"""Whose queue a cluster holds: a class is known there by an id, and its students' names are only beside its table.

A queue ends with the command that empties it, and all that this command did not ask for would be lost with it.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from checkers.manifests import printable
from cluster import leases
from cluster.errors import KailabError
from cluster.files import replace
from labs.grading.records import Records
from labs.grading.remote import NAMESPACE
from labs.grading.remote.queue import Queue

_NAME = "class"  # of the ConfigMap
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Roll:
    """One class as the queue knows it."""

    api: leases.Store
    records: Records

    def other(self) -> Mapping[str, str] | None:
        """Whose the cluster's queue is, when it is another class's."""
        found = self.api.get("ConfigMap", _NAME, NAMESPACE)
        return found["data"] if found is not None and found["data"]["id"] != self._known()[0] else None

    def require_ours(self) -> None:
        """Raises KailabError when the cluster's queue is another class's."""
        if (other := self.other()) is not None:
            raise _anothers(other)

    def require_named(self) -> None:
        """Raises KailabError when the cluster's queue is another class's, unless its table's path was given.

        So that a queue whose table is gone can be ended, and nobody's by mistake.
        """
        other = self.other()
        if other is not None and not self._shown().items() <= other.items():
            raise _anothers(other)

    def begin(self) -> bool:
        """Make the cluster's queue this class's; False when it was already. Raises KailabError for another's."""
        number, students = self._known()
        if not number:
            number = secrets.token_hex(8)
            self._note(number, students)
        data = {"id": number, **self._shown()}
        item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": _NAME}, "data": data}
        if leases.create(self.api, item, NAMESPACE):
            self._note(number, {})
            return True
        self.require_ours()
        return False

    def require_all_named(self, queue: Queue, named: Collection[str]) -> None:
        """Raises KailabError when the queue has work or results of students other than these."""
        held = {one.key for one in queue.open()}
        others = sorted({student for key, student in self._known()[1].items()
                         if student not in named and (key in held or queue.is_done(key))})  # fmt: skip
        if others:
            more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            raise KailabError(
                f"The cluster's queue holds work of students whom this command does not name: {len(others)}.",
                why=printable(", ".join(others[:_SHOWN])) + more,
                mend="the command that began it, with these and what is new; or with --stop, then it is graded anew",
            )

    def enter(self, students: Mapping[str, str]) -> None:
        """Remember whose work is queued under which key, before it is."""
        number, known = self._known()
        self._note(number, {**known, **students})

    def _shown(self) -> dict[str, str]:
        """By what its instructor knows the class."""
        return {"lab": str(self.records.lab.number), "table": printable(str(self.records.table))}

    def _known(self) -> tuple[str, dict[str, str]]:
        """The class's id, empty when it has none, and its students by key."""
        try:
            document = json.loads((self.records.folder / "queue.json").read_text())
            return str(document["id"]), dict(document["students"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", {}

    def _note(self, number: str, students: Mapping[str, str]) -> None:
        self.records.folder.mkdir(parents=True, exist_ok=True)
        replace(self.records.folder / "queue.json", json.dumps({"id": number, "students": students}), durable=True)


def _anothers(queue: Mapping[str, str]) -> KailabError:
    lab, table = queue["lab"], queue["table"]
    command = f"kailab grade DIR... --lab {shlex.quote(lab)} --runner kubernetes --out {shlex.quote(table)}"
    return KailabError(
        f"Another class is being graded in this cluster: lab {lab}, with the table {table}.",
        why="It would lose what its workers have found.",
        mend=f"fetch it with the command that began it ({command}), or end it with that command and --stop",
    )
