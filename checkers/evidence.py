"""Evidence: everything a check reads is kept, so that the same check gives the same verdict without a cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkers.declare import CannotTell
from cluster.files import replace

FORMAT = "kailab-evidence/1"
Entry = tuple[str, Any]


class Tape:
    """What one check read, in order. Recording while the cluster is there, playing when it isn't.

    An attempt is one evaluation of the check; of those that a converging check needs only the last is kept,
    of a holding check's all that differ. What was done to the cluster is kept whatever becomes of the attempt
    in which it was done.
    """

    def __init__(self, recorded: list[list[Entry]] | None = None, acts: dict[str, Any] | None = None) -> None:
        self.playing = recorded is not None
        self.attempts: list[list[Entry]] = recorded if recorded is not None else [[]]
        self.acts: dict[str, Any] = acts or {}
        self._next = 0
        self._attempt = 0

    def read(self, key: str, ask: Callable[[], Any]) -> Any:
        """The answer to `ask`, recorded under `key`; when playing, the recorded answer.

        Raises CannotTell when the check asks for something else than it did when it was recorded.
        """
        if not self.playing:
            answer = ask()
            self.attempts[-1].append((key, answer))
            return answer
        entries = self.attempts[self._attempt] if self._attempt < len(self.attempts) else []
        # A changed check may ask in another order or leave questions out, so look for the key ahead.
        for place in range(self._next, len(entries)):
            if entries[place][0] == key:
                self._next = place + 1
                return entries[place][1]
        raise CannotTell(f"the evidence holds no answer to: {key}")

    def act(self, key: str, do: Callable[[], Any]) -> Any:
        """What `do` returned; when playing, what it returned the last time (an eviction is asked for until it is
        granted)."""
        if not self.playing:
            self.acts[key] = do()
        elif key not in self.acts:
            raise CannotTell(f"the evidence does not tell what came of: {key}")
        return self.acts[key]

    def mark(self) -> int:
        return len(self.attempts[-1])

    def back_to(self, mark: int) -> None:
        """Forget what a part of the check read in an attempt that did not count."""
        if not self.playing:
            del self.attempts[-1][mark:]

    def again(self, *, keep: bool) -> None:
        """Begin another attempt; keep the last one (hold) or forget it (converge)."""
        if self.playing:
            self._attempt, self._next = self._attempt + 1, 0
        elif keep and self.attempts[-1] not in self.attempts[:-1]:
            self.attempts.append([])
        else:
            self.attempts[-1] = []

    @property
    def is_last(self) -> bool:
        return self._attempt >= len(self.attempts) - 1


def pack(tapes: dict[str, Tape], about: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """One JSON document for a run; equal answers (the same listing read by ten checks) are stored once."""
    blobs: dict[str, Any] = {}
    known: dict[int, str] = {}

    def stored(value: Any) -> str:
        if id(value) not in known:
            text = json.dumps(value, sort_keys=True, default=str)
            known[id(value)] = hashlib.sha256(text.encode()).hexdigest()[:16]
            blobs[known[id(value)]] = value
        return known[id(value)]

    checks = {
        check: {
            "attempts": [[[key, stored(value)] for key, value in attempt] for attempt in tape.attempts],
            "acts": {key: stored(value) for key, value in tape.acts.items()},
        }
        for check, tape in tapes.items()
    }
    return {"format": FORMAT, **about, "report": report, "checks": checks, "blobs": blobs}


def unpack(document: dict[str, Any]) -> dict[str, Tape]:
    """The tapes of a packed run, ready to play. Raises ValueError for anything that isn't evidence."""
    try:
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r} instead of {FORMAT!r}")
        blobs = document["blobs"]
        return {
            check: Tape(
                [[(key, blobs[ref]) for key, ref in attempt] for attempt in tape["attempts"]],
                {key: blobs[ref] for key, ref in tape["acts"].items()},
            )
            for check, tape in document["checks"].items()
        }
    except (KeyError, TypeError, AttributeError, IndexError) as broken:
        raise ValueError(f"not a kailab evidence file: {broken!r}") from None


def write(path: Path, document: dict[str, Any]) -> None:
    """Atomically, so that an interrupted run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, json.dumps(document, separators=(",", ":"), default=str))
