"""`make bench`, a class's part: the same work gets the same points whatever runs beside it, and a class takes how long.

    python -m tests.bench_class accuracy --lab 6 --submissions 40 --rounds 5 --jobs 1 --jobs 8
    python -m tests.bench_class speed --submissions 30

Either takes hours at that size, so what is measured stays in .kailab/bench-class: after `--seconds` it stops, and the
same command goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import nbformat
import yaml
from rich.console import Console
from rich.table import Table

from cluster.workspace import Workspace
from course.assignments import source
from course.chapters import chapters
from labs.catalog import LabFolder, facts, fill_in, lab_numbered
from labs.grading.records import Record, Records
from labs.mutants import expected_points, expected_skips, submissions

LAB = 6  # of the class that is timed
FASTER = 5  # times, than nbgrader alone (the promise)
AT_A_TIME = 5  # notebooks for one nbgrader, so that a stop loses little; each start of it costs about 4 s
console = Console(width=140)
seconds_option = click.option("--seconds", default=7200.0, help="stop after this time; what was measured is kept")
anew_option = click.option("--anew", is_flag=True, help="forget what was measured before")


@dataclass(frozen=True)
class HandedIn:
    """A student's work. `points`: what the author gate holds to be right; None where it says nothing."""

    name: str
    text: str
    points: float | None


def mix(lab: LabFolder, count: int) -> list[HandedIn]:
    """Right answers, an untouched starter, nothing, a broken file, and mutants, as many as there is room for; then all
    of it again."""
    solution = lab.manifests("solution")
    found = [
        HandedIn("solution", _yaml(lab, solution), sum(check.points for check in lab.spec.checks)),
        HandedIn("starter", "---\n".join(path.read_text() for path in sorted((lab.path / "starter").iterdir())), None),
        HandedIn("nothing", "", 0),
        HandedIn("broken-file", _yaml(lab, solution[:-1]) + "---\nkind: [not: closed\n", None),
    ]
    more = []
    for item in submissions(lab):
        points = item.points
        if points is None:
            points = expected_points(lab.spec, item.fails | expected_skips(lab, item.fails))
        more.append(HandedIn(item.name.replace(" ", "-"), _yaml(lab, item.objects), points))
    if room := max(count - len(found), 0):
        found += [more[index * len(more) // room] for index in range(room)] if room < len(more) else more
    chosen = [found[index % len(found)] for index in range(count)]
    return [replace(one, name=f"{number:02d}-{one.name}") for number, one in enumerate(chosen, 1)]


def _yaml(lab: LabFolder, objects: Any) -> str:
    return yaml.safe_dump_all([fill_in(item, facts(lab.namespace)) for item in objects], sort_keys=False)


@dataclass
class Budget:
    """Time for this call."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)


def grade(paths: list[Path], lab: LabFolder, jobs: int, out: Path, seconds: float, **env: str) -> bool:
    """Run `kailab grade`; False when it was stopped, after which the same call goes on. Fails when it breaks."""
    command = [sys.executable, "-m", "labs.cli", "grade", *map(str, paths), "--lab", str(lab.number), "--jobs",
               str(jobs), "--out", str(out)]  # fmt: skip
    with out.with_suffix(".log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **env})
        try:
            ended = process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait(120)
            return False
    if ended not in (0, 2):  # 2: somebody is not graded, which the table shows
        raise SystemExit(f"kailab grade ended with {ended}; see {out.with_suffix('.log')}")
    return True


def _folder(name: str, anew: bool) -> Path:
    folder = Workspace.here().state / "bench-class" / name
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    return folder


@click.group()
def app() -> None:
    """What a class may rely on, and how long it takes."""


@app.command()
@click.option("--lab", default=LAB)
@click.option("--submissions", "count", default=12)
@click.option("--rounds", default=2)
@click.option("--jobs", multiple=True, default=(1, 8))
@seconds_option
@anew_option
def accuracy(lab: int, count: int, rounds: int, jobs: tuple[int, ...], seconds: float, anew: bool) -> None:
    """Grade the same work again and again, alone and side by side. Exit status 1 when anybody's points differ."""
    folder, budget = _folder(f"lab-{lab:02d}-of-{count}", anew), Budget(seconds)
    found, handed_in = lab_numbered(lab), mix(lab_numbered(lab), count)
    for one in handed_in:
        (folder / "in" / one.name).mkdir(parents=True, exist_ok=True)
        (folder / "in" / one.name / "all.yaml").write_text(one.text)
    tables = {(many, turn): folder / f"jobs-{many}-round-{turn}.csv" for turn in range(rounds) for many in jobs}
    for (many, _), table in tables.items():
        if budget.left > 0 and None in _records(found, table, handed_in):
            grade([folder / "in" / one.name for one in handed_in], found, many, table, budget.left)
    if not _compare(found, handed_in, tables):
        raise SystemExit(1)


def _records(lab: LabFolder, table: Path, handed_in: list[HandedIn]) -> list[Record | None]:
    known = [Records(table, lab).of(one.name) for one in handed_in]
    return [record if record and record.is_graded else None for record in known]


def _compare(lab: LabFolder, handed_in: list[HandedIn], tables: dict[tuple[int, int], Path]) -> bool:
    """Show everybody's points in all rounds; whether they are the same, and right."""
    shown, good, graded = Table(box=None), True, 0
    for column in ("submission", "right", "points, round by round", "differs"):
        shown.add_column(column, overflow="fold")
    rounds = {key: _records(lab, table, handed_in) for key, table in tables.items()}
    for index, one in enumerate(handed_in):
        records = {key: records[index] for key, records in rounds.items()}
        graded += sum(record is not None for record in records.values())
        text = "  ".join(f"j{many}: {_points(record)}" for (many, _), record in records.items())
        differs = list(_differences([record for record in records.values() if record], one))
        good = good and not differs
        shown.add_row(one.name, "" if one.points is None else f"{one.points:g}", text, "\n".join(differs))
    console.print(shown)
    done = sum(None not in records for records in rounds.values())
    said = "everybody's points are the same and right" if good else "SOME DIFFER"
    console.print(
        f"lab {lab.number}: {len(handed_in)} submissions, {done} of {len(rounds)} rounds, {graded} gradings: {said}"
    )
    return good


def _points(record: Record | None) -> str:
    return f"{record.report.points:g}" if record and record.report else "-"


def _differences(records: list[Record], one: HandedIn) -> Iterator[str]:
    outcomes: dict[str, set[str]] = {}
    for record in records:
        assert record.report is not None
        for check in record.report.checks:
            outcomes.setdefault(check.id, set()).add(str(check.outcome))
    yield from (f"{check}: {' or '.join(sorted(seen))}" for check, seen in outcomes.items() if len(seen) > 1)
    wrong = {record.report.points for record in records if record.report} - {one.points}
    if one.points is not None and wrong:
        yield f"not {one.points:g} points but {', '.join(f'{points:g}' for points in sorted(wrong))}"


@app.command()
@click.option("--submissions", "count", default=12)
@seconds_option
@anew_option
def speed(count: int, seconds: float, anew: bool) -> None:
    """Time notebooks by `kailab grade --jobs 1`, `--jobs 8` and nbgrader alone. Exit status 1: not 5 times faster."""
    course, budget = Course(_folder(f"speed-of-{count}", anew), count), Budget(seconds)
    for part, measure in (
        ("jobs 8", course.side_by_side),
        ("jobs 1", course.one_by_one),
        ("nbgrader", course.nbgrader),
    ):
        if budget.left > 0:
            course.measure(part, measure)
    if not course.show():
        raise SystemExit(1)


class Course:
    """A course folder whose check cells do under plain nbgrader what they do for a student: look at a live cluster."""

    def __init__(self, folder: Path, count: int) -> None:
        self._home, self._count = folder / ".kailab", count
        self._root, self._kept = folder / "course", folder / "seconds.json"
        self._lab = lab_numbered(LAB)
        self._chapter = next(chapter for chapter in chapters() if chapter.number == LAB)
        self._env = {"KAILAB_HOME": str(self._home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        state = Workspace.here().state
        self._home.mkdir(parents=True, exist_ok=True)
        for name in ("kubeconfig", "prober-token", "cluster.json"):
            shutil.copy(state / name, self._home / name)
        if not self._root.exists():
            self._lay_out()

    def _lay_out(self) -> None:
        home = self._root / "source" / self._lab.namespace
        home.mkdir(parents=True)
        # One process for each, as nbgrader does it; a check that counts what users notice takes more than 30 s.
        (self._root / "nbgrader_config.py").write_text("c = get_config()\nc.Execute.timeout = 300\n")
        nbformat.write(self._plain(), home / self._chapter.name)
        self._run("nbgrader", "generate_assignment", self._lab.namespace)
        for number in range(self._count):
            notebook = nbformat.read(self._root / "release" / self._lab.namespace / self._chapter.name, as_version=4)
            self._solve(notebook, number)
            handed_in = self._root / "handed-in" / f"s{number:02d}" / self._lab.namespace
            handed_in.mkdir(parents=True)
            nbformat.write(notebook, handed_in / self._chapter.name)

    def _plain(self) -> Any:
        """The instructor's version, that begins with a fresh lab, and whose check cells look although nbgrader asks."""
        notebook = source(self._chapter)
        for cell in notebook.cells:
            if cell.source == f"start({LAB})":
                cell.source = f"!kailab reset {LAB} --yes\n{cell.source}"
            elif cell.metadata.get("nbgrader", {}).get("grade"):
                cell.source = f'import os\nos.environ["NBGRADER_EXECUTION"] = ""\n{cell.source}'
        return notebook

    def _solve(self, notebook: Any, number: int) -> None:
        """Of six students four have it all, one lacks the last object, one has not begun."""
        solved = {cell.id: cell.source for cell in self._chapter.notebook(solved=True).cells}
        for cell in notebook.cells:
            begun = number % 6 != 5 and not (number % 6 == 2 and cell.id == "ch06-more")
            if begun and cell.metadata.get("nbgrader", {}).get("solution"):
                cell.source = solved[cell.id]

    def _run(self, *args: str) -> None:
        with (self._root / "nbgrader.log").open("a") as log:
            subprocess.run([sys.executable, "-m", *args], cwd=self._root, env={**os.environ, **self._env},
                           stdout=log, stderr=log, check=True)  # fmt: skip

    def _paths(self) -> list[Path]:
        return sorted((self._root / "handed-in").glob(f"*/{self._lab.namespace}"))

    def _grade(self, jobs: int) -> Iterator[float]:
        table = self._home.parent / f"jobs-{jobs}.csv"
        shutil.rmtree(table.with_name(f"{table.stem}-feedback"), ignore_errors=True)
        began = time.monotonic()
        grade(self._paths(), self._lab, jobs, table, 7200, **self._env)
        yield time.monotonic() - began

    def one_by_one(self) -> Iterator[float]:
        return self._grade(1)

    def side_by_side(self) -> Iterator[float]:
        return self._grade(8)

    def nbgrader(self) -> Iterator[float]:
        """It takes one notebook after the other (its issue #174), and passes over what it has graded already."""
        submitted = self._root / "submitted"
        paths = self._paths()
        for start in range(0, len(paths), AT_A_TIME):
            for path in paths[start : start + AT_A_TIME]:
                shutil.copytree(path, submitted / path.parent.name / path.name, dirs_exist_ok=True)
            began = time.monotonic()
            self._run("nbgrader", "autograde", self._lab.namespace)
            yield time.monotonic() - began
        self._run("labs.cli", "finish", str(LAB))

    def measure(self, part: str, measure: Any) -> None:
        known = self._known()
        if part not in known:
            self._kept.write_text(json.dumps({**known, part: sum(measure())}))

    def _known(self) -> dict[str, float]:
        return json.loads(self._kept.read_text()) if self._kept.exists() else {}

    def show(self) -> bool:
        known, table = self._known(), Table(box=None)
        for column in ("lab 6 by", "minutes", "seconds each", "nbgrader takes"):
            table.add_column(column, justify="right")
        for part, took in known.items():
            ratio = f"{known['nbgrader'] / took:.1f} times" if "nbgrader" in known else ""
            table.add_row(part, f"{took / 60:.1f}", f"{took / self._count:.1f}", ratio)
        console.print(f"A class of {self._count} notebooks")
        console.print(table)
        return "nbgrader" not in known or known["nbgrader"] >= FASTER * known["jobs 8"]


if __name__ == "__main__":
    app()
