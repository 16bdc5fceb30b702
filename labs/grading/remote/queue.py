"""The queue of submissions, kept in the API server alone: a Lease per submission that is still to be judged.

A submission is a ConfigMap with the packed work, a Lease to claim it by, and in the end a ConfigMap with the packed
result. The work is there before the Lease, the result before the Lease goes, and a result is created, never changed:
so at any moment a submission is open, claimed or done, whatever was killed, and of two results the first one stands.
Students' names are not in it.
"""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cluster import leases
from cluster.api import Object
from cluster.leases import Held, Silence, Store
from labs.grading.remote import NAMESPACE

ROLE = "kailab.dev/queue"  # label: what an object is in the queue
WORK, CLAIM, RESULT, PART = "work", "claim", "result", "part"
ALONE = "kailab.dev/alone"  # label of a Lease: judged when nothing else runs, and nothing else is begun meanwhile
ROOM = "kailab.dev/room"  # annotation of a Lease: the namespace to judge in
MOST_BYTES = 700_000  # in one ConfigMap: in base64 a third more, and etcd takes 1.5 MiB in all
MOST_EVIDENCE = 12 * MOST_BYTES  # of one submission: etcd, 2 GiB in all, has to hold those of many
MOST_TRIES = 3


@dataclass(frozen=True)
class Open:
    """A submission that has no result yet."""

    key: str
    room: str
    holder: str
    alone: bool


class Queue:
    """The instructor's end of it. Keys are names that an object may have."""

    def __init__(self, api: Store) -> None:
        self._api = api

    def put(self, key: str, work: bytes, room: str) -> bool:
        """Queue a submission; False when it is queued or done already. Safe to repeat after a crash."""
        if self.is_done(key):
            return False
        leases.create(self._api, _packed(WORK, key, work), NAMESPACE)
        claim = leases.new(_named(CLAIM, key), labels={ROLE: CLAIM}, annotations={ROOM: room})
        return leases.create(self._api, claim, NAMESPACE)

    def open(self) -> list[Open]:
        return [_open(lease) for lease in listed(self._api)]

    def is_done(self, key: str) -> bool:
        """Whether there is a result to fetch."""
        return self._api.get("ConfigMap", _named(RESULT, key), NAMESPACE) is not None

    def result(self, key: str) -> tuple[bytes, bytes | None] | None:
        """The packed verdict and the packed evidence (None where there is none); None while open."""
        found = self._api.get("ConfigMap", _named(RESULT, key), NAMESPACE)
        if found is None:
            return None
        parts = []
        for number in range(int(found["data"]["parts"])):
            part = self._api.get("ConfigMap", _part(key, number), NAMESPACE)
            if part is None:
                return _content(found), None
            parts.append(_content(part))
        return _content(found), b"".join(parts) if parts else None

    def drop(self, key: str) -> None:
        """Remove all of a submission."""
        found = self._api.get("ConfigMap", _named(RESULT, key), NAMESPACE)
        parts = int(found["data"]["parts"]) if found else 0
        self._api.delete("Lease", _named(CLAIM, key), NAMESPACE)
        for name in (_named(WORK, key), _named(RESULT, key), *(_part(key, number) for number in range(parts))):
            self._api.delete("ConfigMap", name, NAMESPACE)


@dataclass
class Claim:
    """A submission in a worker's hands. `held` is entered by whoever took it; then one of the three ends follows."""

    key: str
    room: str
    work: bytes
    alone: bool
    tries: int  # with this one
    held: Held
    api: Store

    @property
    def is_hopeless(self) -> bool:
        """Whether its workers were lost so often that it looks like its own doing."""
        return self.tries > MOST_TRIES

    def finish(self, verdict: bytes, evidence: bytes) -> bool:
        """Keep the result; False when the claim has passed to another, whose result counts then.

        Of evidence at most MOST_EVIDENCE: whoever leaves it out says so in the verdict.
        """
        assert len(evidence) <= MOST_EVIDENCE
        parts = [evidence[start : start + MOST_BYTES] for start in range(0, len(evidence), MOST_BYTES)]
        if not self.held.is_mine():
            return False
        for number, part in enumerate(parts):
            item = _packed(PART, self.key, part, name=_part(self.key, number))
            if not leases.create(self.api, item, NAMESPACE):  # left by a worker that was lost just here
                self.api.patch("ConfigMap", item["metadata"]["name"], NAMESPACE, {"binaryData": item["binaryData"]})
        result = _packed(RESULT, self.key, verdict)
        result["data"] = {"parts": str(len(parts))}
        first = leases.create(self.api, result, NAMESPACE)
        self.held.delete()
        return first

    def again_alone(self) -> None:
        """What ran beside it may have been in its way."""
        meta = {"labels": {ALONE: "true"}}
        self.held.give_up({"metadata": meta, "spec": {"leaseTransitions": 0 if not self.alone else self.tries}})

    def put_back(self) -> None:
        """Not now, as when the worker is told to go; the try doesn't count."""
        self.held.give_up({"spec": {"leaseTransitions": self.tries - 1}})


class Desk:
    """A worker's end of the queue. `lost` is called once a claim may have passed to another: stop at once then."""

    def __init__(
        self, api: Store, name: str, lost: Callable[[], None], *, seconds: int = leases.SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._api, self._name, self._lost, self._seconds = api, name, lost, seconds
        self._silence = Silence(clock)
        self._unclaimed: list[Object] = []
        self._alone: Held | None = None

    def is_empty(self) -> bool:
        """Whether every submission has its result."""
        return not listed(self._api, limit="1")

    def claim(self) -> Claim | None:
        """One to judge; None when there is none at this moment, as others are at work on the last ones."""
        while self._unclaimed:  # one listing serves many claims: of a large class it is long
            if claim := self._take(self._unclaimed.pop()):
                return claim
        present = listed(self._api)
        crowd = [lease for lease in present if not _open(lease).alone]
        if not crowd:
            return self._claim_alone(present)
        if [one for one in present if _open(one).alone and not self._silence.is_free(one)]:
            return None  # work that has arrived while another tries something alone
        free = [lease for lease in crowd if self._silence.is_free(lease)]
        random.shuffle(free)  # so that workers seldom want the same one
        self._unclaimed = free
        return self.claim() if free else None

    def _claim_alone(self, present: Iterable[Object]) -> Claim | None:
        """Only one worker tries what is to be tried alone, and only when nothing else is open."""
        if self._alone is None:
            turn = leases.ensure(self._api, "alone", NAMESPACE)
            mine = self._silence.is_free(turn) and leases.take(self._api, turn, self._name, self._seconds)
            if not mine:
                return None
            self._alone = Held(self._api, mine, self._lost).__enter__()
        free = [lease for lease in present if self._silence.is_free(lease)]
        claim = next((claim for lease in free if (claim := self._take(lease))), None)
        if claim is not None and not all(_open(lease).alone for lease in listed(self._api)):
            claim.put_back()  # work arrived before the others could see that this one is being tried
            return None
        return claim

    def _take(self, lease: Object) -> Claim | None:
        mine = leases.take(self._api, lease, self._name, self._seconds)
        if mine is None:
            return None
        found, held = _open(mine), Held(self._api, mine, self._lost)
        work = self._api.get("ConfigMap", _named(WORK, found.key), NAMESPACE)
        done = self._api.get("ConfigMap", _named(RESULT, found.key), NAMESPACE)
        if work is None or done is not None:  # its worker was lost between the result and the Lease's end
            held.delete()
            return None
        tries = int(mine["spec"]["leaseTransitions"])
        return Claim(found.key, found.room, _content(work), found.alone, tries, held, self._api)

    def close(self) -> None:
        """Give up the right to try things alone."""
        if self._alone is not None:
            self._alone.give_up()


def listed(api: Store, **options: str) -> list[Object]:
    """The Leases of all open submissions, as far as the API's own options don't limit them."""
    return api.list("Lease", NAMESPACE, labelSelector=f"{ROLE}={CLAIM}", **options)[0]


def _open(lease: Object) -> Open:
    meta = lease["metadata"]
    alone = ALONE in (meta.get("labels") or {})
    return Open(meta["name"].removeprefix(f"{CLAIM}-"), meta["annotations"][ROOM], leases.holder(lease), alone)


def _named(role: str, key: str) -> str:
    return f"{role}-{key}"


def _part(key: str, number: int) -> str:
    return f"{PART}-{key}-{number}"


def _packed(role: str, key: str, content: bytes, *, name: str = "") -> dict[str, Any]:
    meta = {"name": name or _named(role, key), "labels": {ROLE: role}}
    data = {"packed": base64.b64encode(content).decode()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "binaryData": data}


def _content(item: Object) -> bytes:
    return base64.b64decode(item["binaryData"]["packed"])
