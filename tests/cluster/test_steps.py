"""Bring-up steps tell what they do, stop at the first failure, and say what to do about it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cluster.errors import KailabError
from cluster.run import run
from cluster.steps import Say, Step, StepFailed, run_steps
from cluster.workspace import Workspace

Action = Callable[[Path, Say], str]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / ".kailab", tmp_path / "cache")


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def shown(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def noting(done: list[str], name: str) -> Step:
    def action(log: Path, say: Say) -> str:
        done.append(name)
        return f"note of {name}"

    return Step(name, f"Title of {name}", 10, action)


def failing(action: Action) -> Step:
    return Step("bad", "The bad step", 10, action)


def run_into(step: Step, workspace: Workspace) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        run_steps([step], workspace, console())
    return caught.value


def test_steps_run_in_order_and_show_their_notes(workspace: Workspace) -> None:
    done: list[str] = []
    screen = console()
    run_steps([noting(done, "one"), noting(done, "two")], workspace, screen)
    assert done == ["one", "two"]
    lines = shown(screen).splitlines()
    assert lines[0] == "[1/2] Title of one ..."
    assert "✓ [1/2] Title of one  note of one" in lines[1]
    assert "✓ [2/2] Title of two  note of two" in lines[3]


def test_after_a_failure_nothing_more_is_run(workspace: Workspace) -> None:
    done: list[str] = []
    screen = console()

    def broken(log: Path, say: Say) -> str:
        raise KailabError("It broke.")

    with pytest.raises(StepFailed, match="The bad step: It broke"):
        run_steps([noting(done, "one"), failing(broken), noting(done, "three")], workspace, screen)
    assert done == ["one"]
    assert "✗ [2/3] The bad step" in shown(screen)


def test_a_failed_program_is_shown_with_the_end_of_its_log(workspace: Workspace) -> None:
    def broken(log: Path, say: Say) -> str:
        run(["sh", "-c", "for n in $(seq 50); do echo line $n; done; echo no space left >&2; exit 3"], log=log)
        return ""

    failed = run_into(failing(broken), workspace)
    assert failed.what.startswith("The bad step: `sh -c")
    assert failed.what.endswith("failed with status 3")
    assert failed.why.splitlines()[-2:] == ["line 50", "no space left"]
    assert "line 1\n" not in failed.why
    log = workspace.logs / "bad.log"
    assert "line 1\n" in log.read_text()
    assert str(log) in failed.mend
    assert "kailab up" in failed.mend


def test_a_failure_that_knows_its_remedy_says_that(workspace: Workspace) -> None:
    def broken(log: Path, say: Say) -> str:
        raise KailabError("There is no Go.", why="go version finds none", mend="install Go")

    failed = run_into(failing(broken), workspace)
    assert str(failed) == "The bad step: There is no Go.\ngo version finds none\nNext: install Go"


def test_a_full_disk_is_a_failed_step_too(workspace: Workspace) -> None:
    def broken(log: Path, say: Say) -> str:
        raise OSError(28, "No space left on device", "/var/lib/images.tar")

    failed = run_into(failing(broken), workspace)
    assert "No space left on device" in failed.what
    assert "/var/lib/images.tar" in failed.what
    assert "df -h" in failed.mend
    assert "kailab up" in failed.mend


def test_an_engine_whose_disk_is_full_is_a_failed_step_that_says_so(workspace: Workspace) -> None:
    def broken(log: Path, say: Say) -> str:
        run(["sh", "-c", "echo Error response from daemon: write /x: no space left on device >&2; exit 1"], log=log)
        return ""

    failed = run_into(failing(broken), workspace)
    assert failed.what.startswith("The bad step: A disk is full")
    assert "docker system df" in failed.mend
    assert "then `kailab up` again" in failed.mend


def test_a_folder_for_logs_that_cannot_be_made_is_a_failed_step_too(workspace: Workspace) -> None:
    workspace.state.mkdir()
    workspace.logs.write_text("a file where a folder should be")
    assert str(workspace.logs) in run_into(noting([], "one"), workspace).what


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="full(4) is Linux's")
def test_a_step_that_went_well_is_none_the_worse_for_a_note_that_finds_no_room(workspace: Workspace) -> None:
    workspace.state.mkdir()
    (workspace.state / "durations.json.new").symlink_to("/dev/full")
    done: list[str] = []

    def slow(log: Path, say: Say) -> str:
        time.sleep(1.1)  # shorter steps are not noted
        done.append("slow")
        return ""

    run_steps([Step("slow", "Slow", 1, slow)], workspace, console())
    assert done == ["slow"]
    assert not (workspace.state / "durations.json").exists()


def test_a_mistake_of_ours_is_not_hidden(workspace: Workspace) -> None:
    def broken(log: Path, say: Say) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_steps([failing(broken)], workspace, console())


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_passes_through_and_ends_the_run(workspace: Workspace, terminal: bool) -> None:
    done: list[str] = []
    screen = console(terminal=terminal)

    def interrupted(log: Path, say: Say) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_steps([failing(interrupted), noting(done, "two")], workspace, screen)
    assert done == []
    assert "✗ [1/2] The bad step" in shown(screen)


def test_without_a_terminal_each_news_is_a_line_once(workspace: Workspace) -> None:
    screen = console()

    def talking(log: Path, say: Say) -> str:
        for text in ("building", "building", "loading"):
            say(text)
        return ""

    run_steps([Step("talk", "Talk", 10, talking)], workspace, screen)
    assert [line.split("(")[0].strip() for line in shown(screen).splitlines()[1:-1]] == ["building", "loading"]


def test_a_log_tells_of_the_last_run_only(workspace: Workspace) -> None:
    def logging(log: Path, say: Say) -> str:
        run(["echo", "once"], log=log)
        return ""

    for _ in range(2):
        run_steps([Step("log", "Log", 10, logging)], workspace, console())
    assert (workspace.logs / "log.log").read_text().count("\nonce") == 1


def test_how_long_a_step_took_is_remembered_and_shown(workspace: Workspace) -> None:
    workspace.state.mkdir()
    durations = workspace.state / "durations.json"
    durations.write_text(json.dumps({"slow": 42.0, "other": 7.0, "quick": 30.0}))

    def slow(log: Path, say: Say) -> str:
        time.sleep(1.3)
        return ""

    screen = console(terminal=True)
    run_steps([Step("slow", "Slow", 10, slow), Step("quick", "Quick", 10, lambda log, say: "")], workspace, screen)
    assert "usually 42 s" in shown(screen)
    kept = json.loads(durations.read_text())
    assert 1.3 <= kept["slow"] < 10
    assert kept["other"] == 7.0
    assert kept["quick"] == 30.0, "a step that had nothing to do is no news"


@pytest.mark.parametrize("text", ["", "{", '{"one": 4', "\0"])
def test_a_damaged_note_of_durations_costs_nothing(workspace: Workspace, text: str) -> None:
    workspace.state.mkdir()
    (workspace.state / "durations.json").write_text(text)
    done: list[str] = []
    run_steps([noting(done, "one")], workspace, console())
    assert done == ["one"]
