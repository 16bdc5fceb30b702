"""The queue of a class in a cluster: nothing is judged twice or lost, whoever is killed at whatever moment."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import leases
from cluster.api import Object
from labs.grading.reading import Submission
from labs.grading.remote import NAMESPACE, packing
from labs.grading.remote.queue import MOST_BYTES, MOST_EVIDENCE, MOST_TRIES, Claim, Desk, Queue
from tests.fakeapi import FakeApi


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def nobody() -> None:
    pytest.fail("a claim was lost")


def desk(api: FakeApi, name: str, clock: Clock | None = None) -> Desk:
    return Desk(api, name, nobody, clock=clock or Clock())


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@contextmanager
def claimed(worker: Desk) -> Iterator[Claim]:
    claim = worker.claim()
    assert claim is not None
    with claim.held:
        yield claim


def test_a_submission_goes_through_the_queue(api: FakeApi) -> None:
    queue, worker = Queue(api), desk(api, "one")
    assert queue.put("ada", b"work", "room-1")
    with claimed(worker) as claim:
        assert (claim.key, claim.room, claim.work, claim.tries) == ("ada", "room-1", b"work", 1)
        assert [(one.key, one.holder) for one in queue.open()] == [("ada", "one")]
        assert queue.result("ada") is None
        assert claim.finish(b"full marks", b"evidence")
    assert worker.is_empty()
    assert queue.result("ada") == (b"full marks", b"evidence")
    queue.drop("ada")
    assert not api.objects


def test_putting_the_same_again_changes_nothing(api: FakeApi) -> None:
    queue, worker = Queue(api), desk(api, "one")
    queue.put("ada", b"work", "room-1")
    assert not queue.put("ada", b"work", "room-2")
    with claimed(worker) as claim:
        assert claim.room == "room-1"
        assert not queue.put("ada", b"work", "room-3")
        claim.finish(b"done", b"")
    assert not queue.put("ada", b"work", "room-4")
    assert worker.is_empty()


def test_a_crash_between_work_and_claim_is_made_good(api: FakeApi) -> None:
    queue = Queue(api)
    queue.put("ada", b"work", "room")
    api.delete("Lease", "claim-ada")
    assert queue.put("ada", b"work", "room")
    with claimed(desk(api, "one")) as claim:
        claim.finish(b"done", b"")


def test_many_workers_judge_each_submission_once(api: FakeApi) -> None:
    queue, judged, lock = Queue(api), [], threading.Lock()
    for number in range(60):
        queue.put(f"s{number}", b"work", f"room-{number}")

    def work(name: str) -> None:
        worker = desk(api, name)
        while not worker.is_empty():
            if claim := worker.claim():
                with claim.held:
                    first = claim.finish(name.encode(), b"")
                with lock:
                    judged.append((claim.key, first))

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(judged) == sorted((f"s{number}", True) for number in range(60))
    assert not queue.open()


def test_a_claim_is_free_only_after_its_holder_was_silent_for_the_whole_time(api: FakeApi) -> None:
    Queue(api).put("ada", b"work", "room")
    silent = desk(api, "lost").claim()
    assert silent is not None
    clock = Clock()
    other = desk(api, "other", clock)
    assert other.claim() is None
    clock.now = leases.SECONDS - 1
    assert other.claim() is None
    api.patch("Lease", "claim-ada", NAMESPACE, {"spec": {"renewTime": "now"}})  # a sign of life
    clock.now += 2
    assert other.claim() is None
    clock.now += leases.SECONDS
    with claimed(other) as claim:
        assert claim.tries == 2
        assert not silent.finish(b"too late", b"")
        assert claim.finish(b"right", b"")
    found = Queue(api).result("ada")
    assert found is not None
    assert found[0] == b"right"


def test_the_first_result_stands(api: FakeApi) -> None:
    Queue(api).put("ada", b"work", "room")
    with claimed(desk(api, "one")) as claim:
        api.create(copy.deepcopy({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": "result-ada", "labels": {},
        }, "data": {"parts": "0"}, "binaryData": {"packed": ""}}))  # fmt: skip
        assert not claim.finish(b"second", b"")
    assert not Queue(api).open()


def test_a_worker_lost_between_result_and_end_costs_nothing(api: FakeApi) -> None:
    Queue(api).put("ada", b"work", "room")
    with claimed(desk(api, "one")) as claim:
        lease = api.objects["Lease", "claim-ada"]
        claim.finish(b"done", b"")
    lease["spec"].pop("holderIdentity")
    api.objects["Lease", "claim-ada"] = lease
    other = desk(api, "other")
    assert other.claim() is None
    assert other.is_empty()
    found = Queue(api).result("ada")
    assert found is not None
    assert found[0] == b"done"


def test_parts_of_a_lost_worker_are_written_over(api: FakeApi) -> None:
    Queue(api).put("ada", b"work", "room")
    evidence = bytes(range(256)) * (2 * MOST_BYTES // 256)
    api.create(
        {"kind": "ConfigMap", "metadata": {"name": "part-ada-1", "labels": {}}, "binaryData": {"packed": "b2xk"}}
    )
    with claimed(desk(api, "one")) as claim:
        claim.finish(b"done", evidence)
    assert Queue(api).result("ada") == (b"done", evidence)


def test_as_much_evidence_as_there_may_be_comes_back_whole(api: FakeApi) -> None:
    evidence = random.Random(6).randbytes(MOST_EVIDENCE)
    Queue(api).put("ada", b"work", "room")
    with claimed(desk(api, "one")) as claim:
        claim.finish(b"done", evidence)
    assert Queue(api).result("ada") == (b"done", evidence)


def test_who_kills_every_worker_is_hopeless_in_the_end(api: FakeApi) -> None:
    Queue(api).put("ada", b"work", "room")
    for tries in range(1, MOST_TRIES + 2):
        claim = desk(api, f"w{tries}").claim()
        assert claim is not None
        assert (claim.tries, claim.is_hopeless) == (tries, tries > MOST_TRIES)
        api.patch("Lease", "claim-ada", NAMESPACE, {"spec": {"holderIdentity": None}})


def test_a_worker_told_to_go_costs_no_try(api: FakeApi) -> None:
    Queue(api).put("ada", b"work", "room")
    with claimed(desk(api, "one")) as claim:
        claim.put_back()
    with claimed(desk(api, "two")) as claim:
        assert claim.tries == 1


def test_what_is_tried_alone_comes_last_and_by_one_worker(api: FakeApi) -> None:
    queue, clock = Queue(api), Clock()
    for key in ("ada", "bob", "eve"):
        queue.put(key, b"work", key)
    one, two = desk(api, "one", clock), desk(api, "two", clock)
    with claimed(one) as first, claimed(two) as second:
        first.again_alone()
        second.again_alone()
        with claimed(two) as third:
            assert one.claim() is None  # the third is still at work
            third.finish(b"done", b"")
    with claimed(one) as alone:
        assert alone.alone
        assert alone.key in (first.key, second.key)
        assert alone.tries == 1
        assert two.claim() is None
        alone.finish(b"done", b"")
    assert two.claim() is None  # the other one is the first worker's, too
    with claimed(one) as alone:
        alone.finish(b"done", b"")
    one.close()
    assert one.is_empty()


def test_nobody_begins_beside_what_is_tried_alone_although_new_work_arrives(api: FakeApi) -> None:
    queue, clock = Queue(api), Clock()
    queue.put("ada", b"work", "room")
    one, two = desk(api, "one", clock), desk(api, "two", clock)
    with claimed(one) as claim:
        claim.again_alone()
    with claimed(one) as alone:
        queue.put("bob", b"work", "room-2")
        assert alone.alone
        assert two.claim() is None
        clock.now += leases.SECONDS - 1
        alone.held.is_mine()  # a sign of life
        assert two.claim() is None
        alone.finish(b"done", b"")
    with claimed(two) as claim:
        assert claim.key == "bob"
        claim.finish(b"done", b"")


def test_work_that_arrives_as_something_is_taken_to_be_tried_alone_goes_first(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may have looked, and begun it, before that could be seen."""
    queue, clock = Queue(api), Clock()
    queue.put("ada", b"work", "room")
    one, two = desk(api, "one", clock), desk(api, "two", clock)
    with claimed(one) as claim:
        claim.again_alone()
    beside: list[Claim] = []
    take = leases.take

    def meanwhile(api: FakeApi, lease: Object, name: str, seconds: int) -> Object | None:
        if lease["metadata"]["name"] == "claim-ada" and not beside:
            queue.put("bob", b"work", "room-2")
            beside.extend(filter(None, [two.claim()]))
        return take(api, lease, name, seconds)

    monkeypatch.setattr(leases, "take", meanwhile)
    assert one.claim() is None
    (claim,) = beside
    with claim.held:
        assert claim.key == "bob"
        assert one.claim() is None
        claim.finish(b"done", b"")
    with claimed(one) as alone:
        assert (alone.key, alone.alone, alone.tries) == ("ada", True, 1)
        alone.finish(b"done", b"")


def test_what_a_lost_worker_tried_alone_is_in_nobodys_way(api: FakeApi) -> None:
    queue, clock = Queue(api), Clock()
    queue.put("ada", b"work", "room")
    one, two = desk(api, "one", clock), desk(api, "two", clock)
    with claimed(one) as claim:
        claim.again_alone()
    assert one.claim() is not None  # and then no sign of life
    queue.put("bob", b"work", "room-2")
    assert two.claim() is None
    clock.now = leases.SECONDS
    with claimed(two) as claim:
        assert claim.key == "bob"
        claim.finish(b"done", b"")


def test_the_right_to_try_alone_passes_on_when_its_holder_is_lost(api: FakeApi) -> None:
    Queue(api).put("ada", b"work", "room")
    one, clock = desk(api, "one"), Clock()
    with claimed(one) as claim:
        claim.again_alone()
    assert one.claim() is not None
    two = desk(api, "two", clock)
    assert two.claim() is None
    assert one._alone is not None
    one._alone._ended.set()  # the worker is lost
    version = api.objects["Lease", "alone"]["metadata"]["resourceVersion"]
    clock.now = 2 * leases.SECONDS
    assert two.claim() is None  # it had not seen the claim itself until now
    assert api.objects["Lease", "alone"]["metadata"]["resourceVersion"] != version
    clock.now += leases.SECONDS
    assert two.claim() is not None


def test_who_cannot_renew_is_told_before_another_may_begin(api: FakeApi) -> None:
    Queue(api).put("ada", b"work", "room")
    lost = threading.Event()
    claim = Desk(api, "one", lost.set, seconds=3).claim()
    assert claim is not None
    began = time.monotonic()
    with claim.held:
        api.fails.add("patch")
        assert lost.wait(10)
        assert time.monotonic() - began < 3
        api.fails.clear()


def test_who_is_patient_holds_on_until_another_has_it(api: FakeApi) -> None:
    lost = threading.Event()
    mine = leases.take(api, leases.ensure(api, "command", NAMESPACE), "one", 1)
    assert mine is not None
    with leases.Held(api, mine, lost.set, patient=True) as held:
        api.fails.add("patch")
        time.sleep(1.5)
        api.fails.clear()
        assert held.is_mine()
        assert not lost.is_set()
        api.patch("Lease", "command", NAMESPACE, {"spec": {"holderIdentity": "two"}})
        assert lost.wait(5)
        assert not held.is_mine()
    assert leases.holder(api.objects["Lease", "command"]) == "two"


def test_who_was_replaced_is_told(api: FakeApi) -> None:
    Queue(api).put("ada", b"work", "room")
    lost = threading.Event()
    claim = Desk(api, "one", lost.set, seconds=1).claim()
    assert claim is not None
    with claim.held:
        api.patch("Lease", "claim-ada", NAMESPACE, {"spec": {"holderIdentity": "two"}})
        assert lost.wait(5)
        assert not claim.held.is_mine()


def _submission(*objects: Object) -> Submission:
    return Submission("ada", None, objects, ())  # type: ignore[arg-type]


def test_work_comes_out_as_it_went_in() -> None:
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": "ä"}}
    packed, problems = packing.pack_work(_submission(item))
    assert packing.unpack_work(packed) == [item]
    assert not problems


def test_what_json_has_no_word_for_is_said_and_the_rest_is_sent() -> None:
    good = {"kind": "ConfigMap", "metadata": {"name": "good"}}
    bad = {"kind": "ConfigMap", "metadata": {"name": "bad"}, "data": {"when": {1, 2}}}
    packed, problems = packing.pack_work(_submission(bad, good))
    assert packing.unpack_work(packed) == [good]
    assert problems[0].startswith("ConfigMap bad: it can't be sent")


def test_work_that_is_too_large_is_judged_as_nothing() -> None:
    noise = "".join(map(str, random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789+/", k=2 * MOST_BYTES)))
    packed, problems = packing.pack_work(_submission({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": noise}))
    assert packing.unpack_work(packed) == []
    assert "KiB" in problems[0]


def test_a_key_tells_no_name_and_changes_with_work_and_checks() -> None:
    one, other = _submission(), _submission({"kind": "Pod", "metadata": {"name": "a"}})
    keys = {packing.key(one, "v1"), packing.key(one, "v2"), packing.key(other, "v1")}
    assert len(keys) == 3
    assert not any("ada" in key for key in keys)


def test_names_that_no_encoding_has_travel_as_well() -> None:
    deep: Object = {}
    for _ in range(5000):
        deep = {"x": deep}
    bad = {"kind": "ConfigMap", "metadata": {"name": "\udcff\x1b[31m"}, "data": deep}
    good = {"kind": "ConfigMap", "metadata": {"name": "\udcff"}}
    submission = Submission("\udcff", Path("\udcff"), (bad, good), ())
    packed, problems = packing.pack_work(submission)
    assert packing.unpack_work(packed) == [good]
    assert problems[0].startswith(r"ConfigMap \xff\x1b[31m: it can't be sent")
    other = Submission(r"\xff", Path("x"), (), ())
    keys = {packing.key(Submission("\udcff", Path("x"), (), ()), "v"), packing.key(other, "v")}
    assert (len(keys), {len(key) for key in keys}) == (2, {20})
