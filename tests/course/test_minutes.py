"""A chapter says how long it takes, and what of that was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

import course.minutes as counting
from course.minutes import Machine, Minutes, measured, minutes, record

TEXT = """\
---
kernelspec:
  name: python3
---

# Chapter 42: Things

{words}

```{{code-cell}}
:id: ch42-load
%load_ext course
```

| a table | is read |
|---|---|

```{{mermaid}}
flowchart LR
  A --> B
```
"""
WORDS_BESIDE = 7  # the title's three and the table's four


@pytest.fixture(autouse=True)
def _no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MEASURED", tmp_path / "measured.yaml")


@pytest.mark.parametrize(("words", "read"), [(1, 1), (200 - WORDS_BESIDE, 1), (201 - WORDS_BESIDE, 2)])
def test_words_are_read_and_code_and_pictures_are_not(words: int, read: int) -> None:
    text = TEXT.format(words="it's " * words)
    assert minutes(42, text, 30) == Minutes(read, None, 30)


def test_what_was_measured_is_said_and_what_was_not_is_said_too() -> None:
    text = TEXT.format(words="word")
    assert str(minutes(42, text, 30)) == "1 of reading, waits not measured yet, 30 for the lab (estimated)"
    record(42, Machine(cells=50, check=11))
    record(7, Machine(cells=1, check=1))
    found = minutes(42, text, 30)
    assert str(found) == "1 of reading, 2 of waiting for the machine (measured), 30 for the lab (estimated)"
    assert found.total == 33
    assert measured() == {7: Machine(1, 1), 42: Machine(50, 11)}


@pytest.mark.parametrize(("seconds", "is_true"), [
    (61, True), (120, True), (31, True), (29, False), (270, True), (271, False),
])  # fmt: skip
def test_a_record_is_true_where_it_says_the_same_minutes_or_within_a_factor_of_three(
    seconds: int, is_true: bool
) -> None:
    assert Machine(cells=60, check=30).is_true(Machine(cells=seconds, check=0)) == is_true


def test_a_short_wait_is_a_minute_however_loaded_the_machine_is() -> None:
    assert Machine(cells=4, check=2).is_true(Machine(cells=50, check=10))
    assert not Machine(cells=4, check=2).is_true(Machine(cells=50, check=11))
