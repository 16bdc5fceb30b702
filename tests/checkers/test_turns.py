"""Whoever changes nodes is alone with them, and others can tell that somebody was."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from checkers.turns import CLOCKS_APART, FileTurns, LeaseTurns, Turns
from cluster import leases
from tests.fakeapi import FakeApi

MakeTurns = Callable[[], Turns]


class _GaveUpError(Exception):
    pass


def give_up(_: float) -> None:
    raise _GaveUpError


def nothing() -> None:
    pass


@pytest.fixture(params=["file", "lease"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> MakeTurns:
    """Makes the turns of one more run: on this machine, or in a pod of the same cluster."""
    api, numbers = FakeApi(), count()
    if request.param == "file":
        return lambda: FileTurns(tmp_path)
    return lambda: LeaseTurns(api, "ns", f"run-{next(numbers)}", mend=nothing, lost=nothing)


def test_two_are_never_alone_at_once(another: MakeTurns) -> None:
    with another().alone(give_up), pytest.raises(_GaveUpError), another().alone(give_up):
        pytest.fail("both were alone")


def test_who_waits_gets_its_turn(another: MakeTurns) -> None:
    inside, waited = threading.Event(), []

    def other() -> None:
        with another().alone(waited.append):
            inside.set()

    with another().alone(give_up):
        thread = threading.Thread(target=other)
        thread.start()
        assert not inside.wait(0.1)
    assert inside.wait(2)
    thread.join()


def test_another_turn_is_noticed_during_and_after_but_not_before(another: MakeTurns) -> None:
    began = time.time()
    turns = another()
    assert not turns.was_another(began)
    with another().alone(give_up):
        assert turns.was_another(began)
    assert turns.was_another(began)
    assert not turns.was_another(time.time() + 1 + CLOCKS_APART)


def test_who_would_have_to_wait_can_tell_beforehand(another: MakeTurns) -> None:
    turns = another()
    assert not turns.is_taken()
    with another().alone(give_up):
        assert turns.is_taken()
    assert not turns.is_taken()
    with turns.alone(give_up):
        pass


def test_who_gets_the_turn_of_a_lost_run_puts_the_nodes_back_first() -> None:
    api, mended = FakeApi(), []
    leases.take(api, leases.ensure(api, "nodes", "ns"), "lost", seconds=0)
    turns = LeaseTurns(api, "ns", "next", mend=lambda: mended.append(True), lost=nothing)
    with turns.alone(nothing_to_wait_for):
        assert mended == [True]
    with turns.alone(give_up):
        assert mended == [True]  # given up in order, so there is nothing to mend


def nothing_to_wait_for(_: float) -> None:
    pass
