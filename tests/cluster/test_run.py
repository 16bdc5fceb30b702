"""Other programs are run with a deadline and a log, and their failures say what the program said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.run import TAIL_LINES, CommandFailed, run, tail


@pytest.fixture(params=["without a log", "with a log"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "logs" / "step.log" if request.param == "with a log" else None


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_what_a_program_prints_is_returned(log: Path | None) -> None:
    done = run(sh("echo one; echo two"), log=log)
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")


def test_complaints_stay_apart_from_the_answer() -> None:
    done = run(sh("echo answer; echo complaint >&2"))
    assert (done.stdout, done.stderr) == ("answer\n", "complaint\n")


def test_a_text_reaches_the_programs_input(log: Path | None) -> None:
    assert run(["cat"], stdin="größe\n", log=log).stdout == "größe\n"


def test_a_file_reaches_the_programs_input(log: Path | None, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"from a file")
    with (tmp_path / "input").open("rb") as stream:
        assert run(["cat"], stdin=stream, log=log).stdout == "from a file"


def test_without_input_a_program_that_reads_does_not_hang(log: Path | None) -> None:
    assert run(["cat"], log=log, timeout=5).stdout == ""


def test_environment_is_added_to_ours(log: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAILAB_TEST_OURS", "ours")
    done = run(sh("echo $KAILAB_TEST_OURS $THEIRS"), env={"THEIRS": "theirs"}, log=log)
    assert done.stdout == "ours theirs\n"


def test_a_program_runs_where_it_is_told_to(log: Path | None, tmp_path: Path) -> None:
    assert run(["pwd"], cwd=tmp_path, log=log).stdout.strip() == str(tmp_path.resolve())


def test_bytes_that_are_no_text_are_no_error(log: Path | None) -> None:
    assert run(["printf", r"a\377b"], log=log).stdout == "a\ufffdb"


def test_a_non_zero_end_tells_status_and_last_words(log: Path | None) -> None:
    with pytest.raises(CommandFailed, match=r"`sh -c .*` failed with status 3") as caught:
        run(sh("echo to stdout; echo to stderr >&2; exit 3"), log=log)
    assert caught.value.why == "to stdout\nto stderr"
    assert caught.value.output == "to stdout\nto stderr\n"
    assert caught.value.command[0] == "sh"


def test_a_non_zero_end_may_be_an_answer(log: Path | None) -> None:
    assert run(sh("echo no; exit 1"), check=False, log=log).returncode == 1


def test_a_long_command_is_shown_by_its_beginning() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["false", *map(str, range(100))])
    assert "`false 0 1 2 3 4`" in caught.value.what


@pytest.mark.parametrize("check", [True, False])
def test_a_missing_program_is_named(log: Path | None, check: bool) -> None:
    with pytest.raises(CommandFailed, match=r"kailab-no-such-program.*not installed"):
        run(["kailab-no-such-program", "--version"], log=log, check=check)


def test_a_program_that_takes_too_long_is_ended(log: Path | None) -> None:
    started = time.monotonic()
    with pytest.raises(CommandFailed, match="did not finish within"):
        run(["sleep", "30"], timeout=0.2, log=log)
    assert time.monotonic() - started < 5


def test_what_a_program_said_before_its_time_was_up_is_told(log: Path | None) -> None:
    with pytest.raises(CommandFailed, match="did not finish within") as caught:
        run(sh("echo waiting for the network; exec sleep 30"), timeout=0.4, log=log)
    assert caught.value.why == "waiting for the network"


def test_a_log_is_appended_to_with_the_commands_in_it(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "step.log"
    run(sh("echo one; echo grumble >&2"), log=log)
    assert run(["echo", "two"], log=log).stdout == "two\n"
    with pytest.raises(CommandFailed):
        run(["cat", "/no/such/file"], log=log)
    written = log.read_text()
    assert written.startswith(
        "$ sh -c echo one; echo grumble >&2\none\ngrumble\n$ echo two\ntwo\n$ cat /no/such/file\n"
    )
    assert "No such file" in written


def test_a_failure_quotes_its_own_program_not_an_earlier_one(tmp_path: Path) -> None:
    log = tmp_path / "step.log"
    run(["echo", "all is well"], log=log)
    with pytest.raises(CommandFailed) as caught:
        run(sh("echo it broke; exit 1"), log=log)
    assert caught.value.why == "it broke"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("one", "one"),
        ("one\n\n  \ntwo\n\n", "one\ntwo"),
        ("\n".join(map(str, range(100))), "\n".join(map(str, range(100 - TAIL_LINES, 100)))),
    ],
)
def test_the_tail_is_the_last_lines_that_say_something(text: str, kept: str) -> None:
    assert tail(text) == kept


def test_the_tail_ends_before_kinds_stack_trace() -> None:
    trace = "Stack Trace: \nsigs.k8s.io/kind/pkg/errors.WithStack\n\tx.go:59"
    said = f"ERROR: failed to create cluster: no space left\n{trace}"
    assert tail(said) == "ERROR: failed to create cluster: no space left"


def test_the_tail_has_kubeadms_words_and_not_where_in_its_source_they_are_said() -> None:
    said = (
        "error: couldn't initialize a Kubernetes cluster\n"
        "k8s.io/kubernetes/cmd/kubeadm/app/cmd/phases/init.runWaitControlPlanePhase\n"
        "\tk8s.io/kubernetes@v1.37.2/cmd/kubeadm/app/cmd/phases/init/waitcontrolplane.go:109\n"
        'I1128 05:03:12.991010     163 round_trippers.go:632] "Response" verb="POST"\n'
        "error execution phase wait-control-plane\n"
        "runtime.goexit\n\truntime/asm_amd64.s:1771"
    )
    assert tail(said) == "error: couldn't initialize a Kubernetes cluster\nerror execution phase wait-control-plane"


@pytest.mark.parametrize(
    "said",
    [
        "Error response from daemon: write /var/lib/docker/tmp/x: no space left on device",
        "Error processing tar file(exit status 1): write /big: No space left on device",
        "tar: a: Cannot write: Disk quota exceeded",
    ],
)
def test_a_full_disk_is_named_with_what_to_do(log: Path | None, said: str) -> None:
    with pytest.raises(CommandFailed, match=r"^A disk is full: `sh -c .*` failed with status 1") as caught:
        run(sh(f"echo '{said}' >&2; exit 1"), log=log)
    assert caught.value.full
    assert said in caught.value.why
    assert "docker system df" in caught.value.mend


def test_another_failure_is_no_full_disk(log: Path | None) -> None:
    with pytest.raises(CommandFailed) as caught:
        run(sh("echo space left for everybody; exit 1"), log=log)
    assert not caught.value.full
    assert caught.value.mend == ""


def test_a_program_that_can_say_nothing_for_want_of_room_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 0}))
    with pytest.raises(CommandFailed, match="A disk is full"):
        run(["false"], log=tmp_path / "step.log")


def test_a_log_that_does_not_take_a_word_is_named(tmp_path: Path) -> None:
    log = tmp_path / "step.log"
    log.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as full:
        run(["true"], log=log)
    assert full.value.filename == str(log)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_program_ends_with_kailab_however_that_ends(tmp_path: Path, tied: bool) -> None:
    note = tmp_path / "pid"
    script = f"""
from pathlib import Path
from cluster.run import run
run(["sh", "-c", "echo $$ > {note}.new; mv {note}.new {note}; exec sleep 60"], tied={tied})
"""
    kailab = subprocess.Popen([sys.executable, "-c", script])
    try:
        _until(note.exists)
    finally:
        kailab.kill()
        kailab.wait()
    program = int(note.read_text())
    try:
        if tied:
            _until(lambda: not _runs(program))
        else:
            assert _runs(program)
    finally:
        if _runs(program):
            os.kill(program, signal.SIGKILL)


def _until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return "sleep" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def test_a_tied_program_that_is_missing_is_named() -> None:
    with pytest.raises(CommandFailed, match="not installed"):
        run(["kailab-no-such-program"], tied=True)
