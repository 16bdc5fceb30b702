"""What a check reads is kept and played back, so that it comes to the same verdict without a cluster."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NoReturn

import pytest

from checkers.declare import CannotTell
from checkers.evidence import FORMAT, Tape, pack, unpack, write


def nobody() -> NoReturn:
    raise AssertionError("a playing tape asks nobody")


def recorded(*attempts: dict[str, Any], acts: dict[str, Any] | None = None) -> Tape:
    """A tape ready to play."""
    return Tape([list(attempt.items()) for attempt in attempts], acts)


def test_a_recording_tape_asks_and_a_playing_tape_answers_the_same() -> None:
    tape = Tape()
    assert tape.read("list Pod", lambda: ["a"]) == ["a"]
    assert tape.read("dns api", list) == []
    played = Tape(tape.attempts, tape.acts)
    assert played.playing
    assert not tape.playing
    assert played.read("list Pod", nobody) == ["a"]
    assert played.read("dns api", nobody) == []


def test_the_same_question_asked_twice_gets_both_answers_in_order() -> None:
    answers = iter([1, 2, 3])
    tape = Tape()
    assert [tape.read("http /", lambda: next(answers)) for _ in range(3)] == [1, 2, 3]
    played = Tape(tape.attempts)
    assert [played.read("http /", nobody) for _ in range(3)] == [1, 2, 3]


def test_a_question_that_fails_leaves_no_answer() -> None:
    tape = Tape()
    with pytest.raises(ZeroDivisionError):
        tape.read("dns api", lambda: 1 / 0)
    assert tape.attempts == [[]]


def test_a_changed_check_may_leave_questions_out() -> None:
    tape = recorded({"list Pod": 1, "dns api": 2, "list Node": 3})
    assert tape.read("list Node", nobody) == 3


@pytest.mark.parametrize("key", ["list Secret", "list Pod"])
def test_questions_that_were_not_asked_or_are_used_up_can_not_be_told(key: str) -> None:
    tape = recorded({"list Pod": 1, "dns api": 2})
    tape.read("dns api", nobody)
    with pytest.raises(CannotTell, match=key):
        tape.read(key, nobody)


def test_a_tape_without_any_attempt_answers_nothing() -> None:
    tape = Tape([])
    assert tape.is_last
    with pytest.raises(CannotTell):
        tape.read("list Pod", nobody)


def test_converge_keeps_only_the_last_attempt() -> None:
    tape = Tape()
    for number in range(3):
        tape.again(keep=False)
        tape.read("list Pod", lambda number=number: number)
    assert tape.attempts == [[("list Pod", 2)]]


def test_hold_keeps_all_attempts_that_differ() -> None:
    tape = Tape()
    for number in (1, 1, 2, 2, 1, 3):
        tape.read("list Pod", lambda number=number: number)
        tape.again(keep=True)
    tape.read("list Pod", lambda: 4)
    assert [attempt[0][1] for attempt in tape.attempts] == [1, 2, 3, 4]


def test_each_look_of_a_window_is_played_in_turn() -> None:
    tape = recorded({"list Pod": 1}, {"list Pod": 2})
    assert tape.read("list Pod", nobody) == 1
    assert not tape.is_last
    tape.again(keep=True)
    assert tape.read("list Pod", nobody) == 2
    assert tape.is_last


def test_what_a_look_read_in_vain_is_forgotten_from_the_mark_on() -> None:
    tape = Tape()
    tape.read("list Node", lambda: "kept")
    mark = tape.mark()
    tape.read("list Pod", lambda: "not yet")
    tape.back_to(mark)
    tape.read("list Pod", lambda: "there")
    assert tape.attempts == [[("list Node", "kept"), ("list Pod", "there")]]


def test_a_playing_tape_forgets_nothing() -> None:
    tape = recorded({"list Node": 1, "list Pod": 2})
    tape.back_to(tape.mark())
    tape.back_to(0)
    assert tape.attempts == [[("list Node", 1), ("list Pod", 2)]]


def test_what_was_done_outlives_a_forgotten_attempt() -> None:
    tape = Tape()
    mark = tape.mark()
    assert tape.act("delete pod a", lambda: True) is True
    tape.back_to(mark)
    tape.again(keep=False)
    played = Tape(tape.attempts, tape.acts)
    assert played.act("delete pod a", nobody) is True


def test_of_what_was_done_repeatedly_the_last_result_counts() -> None:
    answers = iter([False, False, True])
    tape = Tape()
    assert [tape.act("evict a", lambda: next(answers)) for _ in range(3)] == [False, False, True]
    assert Tape([[]], tape.acts).act("evict a", nobody) is True


def test_a_deed_that_was_not_recorded_can_not_be_told() -> None:
    with pytest.raises(CannotTell, match="delete pod b"):
        recorded({}, acts={"delete pod a": True}).act("delete pod b", nobody)


def packed() -> dict[str, Any]:
    """A run with two checks that read the same listing, and a deed."""
    pods = ({"metadata": {"name": "ä"}, "spec": {"n": 1.5, "none": None}},)
    one, two = Tape(), Tape()
    one.read("list Pod", lambda: pods)
    one.again(keep=True)
    one.read("list Pod", lambda: ())
    two.read("list Pod", lambda: pods)
    two.read("exec id", lambda: [0, "root"])
    two.act("delete", lambda: None)
    return pack({"one": one, "two": two}, {"lab": 6}, {"points": 1})


def test_a_run_survives_the_way_through_a_file() -> None:
    document = json.loads(json.dumps(packed()))
    assert (document["lab"], document["report"]) == (6, {"points": 1})
    tapes = unpack(document)
    pods = [{"metadata": {"name": "ä"}, "spec": {"n": 1.5, "none": None}}]
    assert tapes["one"].playing
    assert tapes["one"].attempts == [[("list Pod", pods)], [("list Pod", [])]]
    assert tapes["two"].read("list Pod", nobody) == pods
    assert tapes["two"].read("exec id", nobody) == [0, "root"]
    assert tapes["two"].act("delete", nobody) is None


def test_an_answer_that_many_checks_read_is_stored_once() -> None:
    equal = [{"metadata": {"name": "a"}}], [{"metadata": {"name": "a"}}]
    tapes = {}
    for number, answer in enumerate(equal):
        tapes[str(number)] = Tape()
        tapes[str(number)].read("list Pod", lambda answer=answer: answer)
    assert len(pack(tapes, {}, {})["blobs"]) == 1
    assert len(packed()["blobs"]) == 4


def changed(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(packed()), **fields}


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        [],
        "text",
        7,
        {},
        {"format": FORMAT},
        changed(format="kailab-evidence/0"),
        changed(format=None),
        changed(blobs={}),
        changed(blobs=None),
        changed(blobs=[]),
        changed(checks=None),
        changed(checks=["one"]),
        changed(checks={"one": None}),
        changed(checks={"one": {"attempts": [[]]}}),
        changed(checks={"one": {"attempts": None, "acts": {}}}),
        changed(checks={"one": {"attempts": [[["list Pod"]]], "acts": {}}}),
        changed(checks={"one": {"attempts": [[["list Pod", ["unhashable"]]]], "acts": {}}}),
        changed(checks={"one": {"attempts": [[["list Pod", "gone"]]], "acts": {}}}),
        changed(checks={"one": {"attempts": [[["list Pod", 0]]], "acts": {}}}, blobs=[]),
        changed(checks={"one": {"attempts": [], "acts": {"delete": "gone"}}}),
        changed(checks={"one": {"attempts": [], "acts": [1]}}),
    ],
)
def test_anything_that_is_no_evidence_is_refused_as_a_wrong_value(garbage: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, never another kind of error
        unpack(garbage)


def test_evidence_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    write(path, packed())
    assert unpack(json.loads(path.read_text()))["one"].playing
    endless: dict[str, Any] = {}
    endless["self"] = endless
    with pytest.raises(ValueError, match="Circular"):
        write(path, endless)
    assert json.loads(path.read_text())["format"] == FORMAT
    assert list(path.parent.iterdir()) == [path]
