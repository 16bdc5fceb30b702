"""The `kailab` command as a student meets it, with no cluster anywhere: clear words, the right status, no traceback.

Each test has a checkout of its own (KAILAB_HOME, KAILAB_CACHE): the real .kailab is never touched.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.yamls import load_all
from labs import catalog, cli
from labs.catalog import all_labs, lab_numbered
from labs.progress import Progress

COMMANDS = ["up", "down", "status", "doctor", "list", "start", "check", "hint", "solution", "reset", "finish",
            "explain", "regrade", "gate", "env", "kubectl"]  # fmt: skip
NO_CLUSTER = ["There is no course cluster here yet.", "Next: kailab up"]


@dataclass
class Said:
    status: int
    out: str
    err: str


Kailab = Callable[..., Said]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The state folder of an empty checkout, in a path that needs quoting."""
    folder = tmp_path / "it's here" / ".kailab"
    monkeypatch.setenv("KAILAB_HOME", str(folder))
    monkeypatch.setenv("KAILAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def kailab(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Kailab]:
    """Run the command in this process: what its entry point does, without a second for starting Python."""

    def run(*args: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["kailab", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    yield run
    assert not (home / "kubeconfig").exists()


def in_a_process(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "labs.cli", *args], cwd=catalog.LABS.parent, text=True, timeout=20, check=False,
        stdin=subprocess.DEVNULL, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


def test_help_lists_every_command_with_a_line(kailab: Kailab) -> None:
    said = kailab("--help")
    assert said.status == 0
    listed = dict(re.findall(r"^  ([a-z]+) +(\S.*)$", said.out, re.MULTILINE))
    assert [name for name in COMMANDS if not listed.get(name)] == []


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "kubectl"])
def test_every_command_has_help_of_its_own(kailab: Kailab, command: str) -> None:
    said = kailab(command, "--help")
    assert said.status == 0
    assert f"kailab {command}" in said.out


def test_without_arguments_there_is_help_and_no_harm(kailab: Kailab, home: Path) -> None:
    said = kailab()
    assert "check" in said.out + said.err
    assert not home.exists()


def test_the_labs_are_listed_without_a_cluster(kailab: Kailab, home: Path) -> None:
    said = kailab("list")
    assert (said.status, said.err) == (0, "")
    for lab in all_labs():
        points = sum(check.points for check in lab.spec.checks)
        assert re.search(rf"^ *{lab.number} +{re.escape(lab.title)} +0/{points:g} ", said.out, re.MULTILINE)
    assert not home.exists()


def test_the_list_shows_points_and_where_one_left_off(kailab: Kailab, home: Path) -> None:
    task = lab_numbered(6).spec.tasks[1]
    home.mkdir(parents=True)
    entry = {"started": True, "best": 11.5, "failing": [task.id]}
    (home / "progress.json").write_text(json.dumps({"current": 6, "labs": {"6": entry}}))
    said = kailab("list")
    assert "11.5/" in said.out
    assert f"you are here: {task.title}" in said.out


def test_a_damaged_progress_file_is_told_of_and_kept(kailab: Kailab, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "progress.json").write_text("{damaged")
    said = kailab("list")
    assert said.status == 0
    (kept,) = home.iterdir()
    assert str(kept) in said.out
    assert kept.read_text() == "{damaged"


@pytest.mark.parametrize(
    "command",
    ["check 6", "check 6 --json", "check 6 --task run", "check 6 --watch", "start 6", "finish 6", "reset 6 --yes",
     "explain some-pod --namespace lab-06", "gate 6"],
)  # fmt: skip
def test_what_needs_a_cluster_says_how_to_get_one(kailab: Kailab, home: Path, command: str) -> None:
    said = kailab(*command.split())
    assert said.status == 2
    assert [words for words in NO_CLUSTER if words not in said.err] == []
    assert said.out == ""
    assert not (home.parent / "work").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("check 99", ["There is no lab 99.", "6", "Next: kailab list"]),
        ("start 0", ["There is no lab 0."]),
        ("hint 99", ["There is no lab 99."]),
        ("solution 99 --give-up", ["There is no lab 99."]),
        ("check 6 --task nonsense", ["no task 'nonsense'", "run"]),
        ("hint 6 --task nonsense", ["no task 'nonsense'", "run"]),
        ("hint 6", ["none yet", "Next: kailab check 6"]),
        ("solution 6", ["opens with full marks", "kailab hint 6", "--give-up"]),
        ("explain some-pod", ["No lab was started yet", "--namespace"]),
        ("regrade /no/such/file.json", ["/no/such/file.json", "can't be read"]),
        ("check six", ["N", "integer", "Usage"]),
        ("check", ["Usage"]),
        ("check 6 --nonsense", ["--nonsense", "Usage"]),
        ("nonsense", ["nonsense", "Usage"]),
    ],
)
def test_what_can_not_be_done_is_explained_in_a_few_lines(kailab: Kailab, command: str, words: list[str]) -> None:
    said = kailab(*command.split())
    assert said.status == 2
    assert said.out == ""
    assert [it for it in words if it not in said.err] == []
    assert len(said.err.splitlines()) <= 6


def test_a_reset_that_is_not_confirmed_does_nothing(kailab: Kailab, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        said = kailab("reset", "6")
    assert said.status == 1
    assert "Delete everything in namespace lab-06" in said.out
    assert "no course cluster" not in said.err


@pytest.mark.parametrize("text", ["", "not JSON", "[]", "{}", '{"lab": 6}'])
def test_what_is_no_evidence_is_not_regraded(kailab: Kailab, tmp_path: Path, text: str) -> None:
    path = tmp_path / "evidence.json"
    path.write_text(text)
    said = kailab("regrade", str(path))
    assert said.status == 2
    assert f"{path} is not an evidence file." in said.err


def test_the_solution_opens_to_who_gives_up_and_is_the_one_that_is_checked(kailab: Kailab) -> None:
    said = kailab("solution", "6", "--give-up")
    assert said.status == 0
    shown = load_all(said.out.replace("\n# ", "\n---\n# "))
    assert shown == lab_numbered(6).manifests("solution")


def test_the_solution_opens_after_a_pass(kailab: Kailab, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "progress.json").write_text('{"current": 6, "labs": {"6": {"passed": true}}}')
    assert kailab("solution", "6").status == 0


def hints(kailab: Kailab, task: str) -> list[str]:
    """All that is said until the last hint was given."""
    texts: list[str] = []
    while "That was the last hint" not in (said := kailab("hint", "6", "--task", task)).out:
        assert said.status == 0
        texts.append(said.out)
        assert len(texts) < 20
    return texts


@pytest.mark.parametrize("task", [task.id for task in lab_numbered(6).spec.tasks])
def test_hints_come_one_by_one_and_none_twice(kailab: Kailab, home: Path, task: str) -> None:
    texts = hints(kailab, task)
    assert texts
    assert len(set(texts)) == len(texts)
    assert len(Progress(cli.Workspace.here()).lab(6).shown[task]) == len(texts)


@pytest.mark.parametrize("task", [task.id for task in lab_numbered(6).spec.tasks])
def test_a_hint_says_truly_how_many_are_to_come(kailab: Kailab, task: str) -> None:
    texts = hints(kailab, task)
    promised = [re.search(r"(\d+) more for this task", text) for text in texts]
    assert [int(found[1]) if found else 0 for found in promised] == list(reversed(range(len(texts))))


def test_a_hint_without_a_task_is_for_the_first_that_failed(kailab: Kailab, home: Path) -> None:
    task = lab_numbered(6).spec.tasks[2]
    home.mkdir(parents=True)
    entry = {"checked_at": "2026-01-01", "failing": [task.id]}
    (home / "progress.json").write_text(json.dumps({"current": 6, "labs": {"6": entry}}))
    assert task.title in kailab("hint", "6").out


def test_ctrl_c_ends_with_a_word_of_comfort(kailab: Kailab, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "all_labs", interrupted)
    said = kailab("list")
    assert said.status == 130
    assert "nothing is lost" in said.err


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (OSError(28, "No space left on device", "/somewhere"), "No space left on device"),
        (ZeroDivisionError("division by zero"), "division by zero"),
    ],
)
def test_whatever_breaks_there_is_no_traceback(
    kailab: Kailab, monkeypatch: pytest.MonkeyPatch, failure: Exception, words: str
) -> None:
    def broken() -> None:
        raise failure

    monkeypatch.setattr(catalog, "all_labs", broken)
    said = kailab("list")
    assert said.status == 2
    assert words in said.err
    assert "Traceback" not in said.err


def test_the_program_itself_ends_with_two_and_without_a_traceback(home: Path) -> None:
    done = in_a_process("check", "6")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == NO_CLUSTER
    assert not home.exists()


def test_a_reader_that_has_seen_enough_is_no_error(home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = in_a_process("list", stdout=writing)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def test_in_a_narrow_window_every_lab_is_still_there(kailab: Kailab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = kailab("list").out.splitlines()
    assert max(map(len, lines)) <= 40
    assert all(any(re.match(rf" *{lab.number} ", line) for line in lines) for lab in all_labs())


def test_the_shell_lines_survive_a_path_with_a_quote(home: Path) -> None:
    env = {**os.environ, "KUBECONFIG": "other"}
    script = f'eval "$("{sys.executable}" -m labs.cli env)" && printf %s "$KUBECONFIG"'
    done = subprocess.run(
        ["sh", "-c", script], cwd=catalog.LABS.parent, env=env, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.stderr == ""
    assert done.stdout == str(home / "kubeconfig")


# Whoever runs these tests under nohup hands on that the signal is ignored. The program takes that back itself:
# a `preexec_fn` would fork us, and gRPC, which other tests leave running here, now and then aborts in such a fork.
WAITING = """
import signal, sys, time
signal.signal(int(sys.argv[1]), signal.SIG_DFL)
from labs import cli
def wait():
    try:
        print("begun", flush=True)
        time.sleep(20)
    finally:
        print("put back", flush=True)
cli.app = wait
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_and_a_plain_kill_are_like_ctrl_c(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING, str(int(number))], cwd=catalog.LABS.parent, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stdout.readline() == "begun\n"
        run.send_signal(number)
        assert run.stdout.read() == "put back\n"
    assert run.returncode not in (-number, 0)


def test_a_second_kill_ends_the_putting_back_unless_it_is_the_first_ones_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(cli.time, "monotonic", lambda: now)
    interrupt = cli._Interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGTERM, None)
    now += 0.1
    interrupt(signal.SIGTERM, None)
    now += cli.ECHO_SECONDS + 1
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGTERM, None)
