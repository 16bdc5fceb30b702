"""How long a chapter takes: reading by its words, the machine's part as it was measured, the lab as its author thinks.

Only the machine's part can be measured without a reader. tests/system/test_chapters.py runs every cell of a chapter and
the lab's check on the real cluster, and holds measured.yaml against what that took. It writes there what is missing,
and everything anew where KAILAB_REWRITE_MEASURED is set.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from cluster.yamls import load

MEASURED = Path(__file__).parent / "measured.yaml"
# A little under the mean of 238 for adults who read English non-fiction, where most are between 175 and 300, and those
# with another first language slower (M. Brysbaert, "How many words do we read per minute?", Journal of Memory and
# Language 109, 2019, doi.org/10.1016/j.jml.2019.104047): this text has tables and pictures to look at.
WORDS_A_MINUTE = 200
_HEAD = """\
# Seconds on the real cluster, by chapter: all cells of the solved chapter one after the other, its kernel's start
# included, and then `kailab check` of the lab, which passes. Written by tests/system/test_chapters.py, which fails when
# the sum is not true any more: see course/minutes.py.
"""
# What is not read word by word: the file's head, code, pictures.
_BESIDE = re.compile(r"\A---\n.*?^---$|^(`{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"\w[\w'./-]*")


@dataclass(frozen=True)
class Machine:
    """Seconds that the cells of a chapter took, and the check of its lab."""

    cells: int
    check: int

    @property
    def seconds(self) -> int:
        return self.cells + self.check

    @property
    def minutes(self) -> int:
        """Both, rounded up: what is shown."""
        return math.ceil(self.seconds / 60)

    def is_true(self, now: Machine) -> bool:
        """Whether what was measured now comes to the same minutes, or is within a factor of three: machines differ,
        and so does their load."""
        return now.minutes == self.minutes or self.seconds / 3 <= now.seconds <= self.seconds * 3


@dataclass(frozen=True)
class Minutes:
    """Of one chapter. `wait` is None for one that was not measured yet."""

    read: int
    wait: int | None
    lab: int

    @property
    def total(self) -> int:
        return self.read + (self.wait or 0) + self.lab

    def __str__(self) -> str:
        wait = "waits not measured yet" if self.wait is None else f"{self.wait} of waiting for the machine (measured)"
        return f"{self.read} of reading, {wait}, {self.lab} for the lab (estimated)"


def minutes(number: int, text: str, lab: int) -> Minutes:
    """Of a chapter with this MyST text, whose lab takes `lab` minutes by its author's estimate. Each is rounded up."""
    words = len(_WORD.findall(_BESIDE.sub("", text)))
    machine = measured().get(number)
    return Minutes(math.ceil(words / WORDS_A_MINUTE), machine.minutes if machine else None, lab)


def measured() -> dict[int, Machine]:
    """What is on record, by chapter."""
    found = load(MEASURED.read_text()) if MEASURED.exists() else {}
    return {int(number): Machine(**about) for number, about in (found or {}).items()}


def record(number: int, machine: Machine) -> None:
    """Put one chapter's measurement in the place of the last."""
    found = {**measured(), number: machine}
    lines = yaml.safe_dump({key: asdict(found[key]) for key in sorted(found)}, default_flow_style=None, sort_keys=False)
    MEASURED.write_text(_HEAD + lines)
