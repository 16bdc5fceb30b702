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


@pytest.mark.parametrize(("seconds", "is_true"), [(20, True), (180, True), (19.9, False), (181, False)])
def test_a_record_is_true_within_a_factor_of_three(seconds: float, is_true: bool) -> None:
    assert Machine(cells=50, check=10).is_true(seconds) == is_true
