"""What a student has done is kept: through crashes, damaged files, worse attempts and errors that aren't theirs."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from checkers.spec import Hint, LabSpec, TaskSpec
from cluster.workspace import Workspace
from labs.progress import LabProgress, Progress, hints_left, next_hint

P, F, E, S = Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.SKIPPED


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / ".kailab", tmp_path / "cache")


def report(*outcomes: Outcome, hint: str = "") -> Report:
    """A run over lab 6: one check of 2 points for each outcome, two checks to a task."""
    checks = tuple(
        CheckResult(f"c{at}", f"task{at // 2}", "Title", it, 2.0 if it is P else 0.0, 2.0, hint=hint if it is F else "")
        for at, it in enumerate(outcomes)
    )
    return Report(6, "slug", "Title", "lab-06", checks, 1.0, ClusterInfo("c", "v1", "u"))


def recorded(*reports: Report) -> LabProgress:
    progress = Progress(Workspace(Path("/nonexistent/.kailab"), Path("/nonexistent/cache")))
    for number, it in enumerate(reports):
        progress.record(it, f"2026-01-0{number + 1}")
    return progress.lab(6)


def test_what_was_saved_is_there_again(workspace: Workspace) -> None:
    progress = Progress(workspace)
    progress.current = 6
    progress.record(report(P, F, hint="no-limits"), "2026-01-01T10:00:00+01:00")
    progress.lab(6).given = {"Service/web": "u-1"}
    progress.lab(6).shown = {"task0": ["Größe?"]}
    progress.lab(12).started = True
    progress.save()

    again = Progress(workspace)
    assert again.current == 6
    assert again.lab(6) == progress.lab(6)
    assert again.lab(6).saw == {"task0": ["no-limits"]}
    assert again.lab(12) == LabProgress(started=True)
    assert again.set_aside is None


def test_the_first_time_there_is_nothing_and_nothing_is_written(workspace: Workspace) -> None:
    progress = Progress(workspace)
    assert (progress.current, progress.lab(6), progress.set_aside) == (0, LabProgress(), None)
    assert not workspace.state.exists()


def test_saving_leaves_one_file_that_people_can_read(workspace: Workspace) -> None:
    progress = Progress(workspace)
    progress.record(report(P), "now")
    progress.save()
    (file,) = workspace.state.iterdir()
    assert json.loads(file.read_text())["labs"]["6"]["best"] == 2
    assert len(file.read_text().splitlines()) > 10


DAMAGED = ["", "{", "[]", "null", "{}", '{"current": 6}', '{"current": "x", "labs": {}}', '{"current": 6, "labs": []}',
           '{"current": 6, "labs": {"six": {}}}', '{"current": 6, "labs": {"6": {"future": 1}}}', "\udcff"]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_set_aside_and_not_overwritten(workspace: Workspace, text: str) -> None:
    workspace.state.mkdir()
    (workspace.state / "progress.json").write_text(text, errors="surrogateescape")
    progress = Progress(workspace)
    assert progress.lab(6) == LabProgress()
    assert progress.set_aside is not None
    progress.save()
    assert progress.set_aside.read_text(errors="surrogateescape") == text
    assert Progress(workspace).set_aside is None


def test_a_second_damaged_file_does_not_overwrite_the_first(workspace: Workspace) -> None:
    workspace.state.mkdir()
    kept = []
    for text in ("{first", "{second"):
        (workspace.state / "progress.json").write_text(text)
        kept.append(Progress(workspace).set_aside)
    assert [path.read_text() for path in kept if path] == ["{first", "{second"]


@pytest.mark.parametrize(
    ("runs", "last", "best", "passed"),
    [
        pytest.param([(P, F)], 2, 2, False, id="part of it"),
        pytest.param([(P, P)], 4, 4, True, id="all of it"),
        pytest.param([(F, F)], 0, 0, False, id="none of it"),
        pytest.param([(P, P), (P, F)], 2, 4, True, id="the best stays"),
        pytest.param([(P, F), (F, F), (F, P)], 2, 2, False, id="two halves are no whole"),
        pytest.param([(P, F), (E, E)], 2, 2, False, id="errors change no score"),
        pytest.param([(P, F), (P, E)], 2, 2, False, id="not even beside passes"),
        pytest.param([(P, P), (F, E)], 4, 4, True, id="nor take a pass away"),
        pytest.param([(P, E)], 0, 0, False, id="nor count as a first score"),
        pytest.param([(P, S)], 2, 2, False, id="skipped is not passed"),
    ],
)
def test_a_run_is_scored(runs: list[tuple[Outcome, ...]], last: float, best: float, passed: bool) -> None:
    entry = recorded(*(report(*outcomes) for outcomes in runs))
    assert (entry.last, entry.best, entry.passed, entry.max_points) == (last, best, passed, 4)
    assert entry.checked_at == f"2026-01-0{len(runs)}"


def test_what_failed_is_that_of_the_last_run() -> None:
    entry = recorded(report(F, F, P, E, hint="old"), report(P, P, P, S, F, P, hint="new"))
    assert entry.failing == ["task1", "task2"]
    assert entry.saw == {"task2": ["new"]}


def test_an_error_is_no_reason_for_a_fitting_hint() -> None:
    assert recorded(report(E, P)).saw == {}


LADDER = (
    Hint("image", "wrong-image"),
    Hint("general one"),
    Hint("limits", "no-limits"),
    Hint("general two"),
    Hint("limits again", "no-limits"),
)
TASK = TaskSpec("run", "Run", (), LADDER)


def climbed(saw: list[str], shown: list[str] | None = None) -> list[str]:
    """The hints that a student gets who asks until there are no more."""
    entry = LabProgress(saw={"run": saw}, shown={"run": shown or []})
    taken: list[str] = []
    while (hint := next_hint(TASK, entry)) is not None:
        assert hint.text not in taken
        taken.append(hint.text)
        entry.shown["run"].append(hint.text)
    return taken


@pytest.mark.parametrize(
    ("saw", "taken"),
    [
        ([], ["general one", "general two"]),
        ([""], ["general one", "general two"]),
        (["something-else"], ["general one", "general two"]),
        (["wrong-image"], ["image", "general one", "general two"]),
        (["no-limits"], ["limits", "limits again", "general one", "general two"]),
        (["no-limits", "wrong-image"], ["image", "limits", "limits again", "general one", "general two"]),
        (["no-limits", "no-limits", ""], ["limits", "limits again", "general one", "general two"]),
    ],
)
def test_the_fitting_rungs_come_first_then_the_general_ones_none_twice(saw: list[str], taken: list[str]) -> None:
    assert climbed(saw) == taken


def test_a_new_mistake_finds_its_own_hint_though_others_were_taken() -> None:
    assert climbed(["wrong-image"], ["general one", "general two", "limits"]) == ["image"]


def test_hints_of_another_task_count_for_nothing() -> None:
    entry = LabProgress(saw={"other": ["wrong-image"]}, shown={"other": ["general one"]})
    hint = next_hint(TASK, entry)
    assert hint is not None
    assert hint.text == "general one"


@pytest.mark.parametrize("saw", [[], ["no-limits"], ["no-limits", "wrong-image"]])
def test_as_many_hints_are_promised_as_there_are_to_come(saw: list[str]) -> None:
    lab = LabSpec(6, "x", "X", "lab-06", {}, (TASK,))
    assert hints_left(lab, LabProgress(saw={"run": saw})) == {"run": len(climbed(saw))}
    taken = climbed(saw)
    assert hints_left(lab, LabProgress(saw={"run": saw}, shown={"run": taken})) == {"run": 0}


def test_what_others_note_while_one_changes_the_file_is_kept(workspace: Workspace) -> None:
    begun = threading.Event()

    def check() -> None:
        begun.wait(5)
        with Progress.changed(workspace) as progress:
            progress.record(report(P, P), "2026-01-01")

    other = threading.Thread(target=check)
    other.start()
    with Progress.changed(workspace) as progress:
        begun.set()
        other.join(0.2)  # it waits, and reads what was saved here
        progress.lab(6).started = True
    other.join(5)
    assert (Progress(workspace).lab(6).started, Progress(workspace).lab(6).best) == (True, 4.0)
