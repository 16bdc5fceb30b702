"""Whoever changes nodes is alone with them, and others can tell that somebody was."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from checkers.turns import FileTurns


class _GaveUpError(Exception):
    pass


def give_up(_: float) -> None:
    raise _GaveUpError


def test_two_are_never_alone_at_once(tmp_path: Path) -> None:
    with FileTurns(tmp_path).alone(give_up), pytest.raises(_GaveUpError), FileTurns(tmp_path).alone(give_up):
        pytest.fail("both were alone")


def test_who_waits_gets_its_turn(tmp_path: Path) -> None:
    inside, waited = threading.Event(), []

    def other() -> None:
        with FileTurns(tmp_path).alone(waited.append):
            inside.set()

    with FileTurns(tmp_path).alone(give_up):
        thread = threading.Thread(target=other)
        thread.start()
        assert not inside.wait(0.1)
    assert inside.wait(2)
    thread.join()


def test_another_turn_is_noticed_during_and_after_but_not_before(tmp_path: Path) -> None:
    began = time.time()
    turns = FileTurns(tmp_path)
    assert not turns.was_another(began)
    with FileTurns(tmp_path).alone(give_up):
        assert turns.was_another(began)
    assert turns.was_another(began)
    assert not turns.was_another(time.time() + 1)
