"""The one way in which kailab runs other programs: logged, with a deadline, failing with the log's tail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from cluster.errors import KailabError

TAIL_LINES = 12
# strerror(3) of ENOSPC and EDQUOT: programs hand these words on, engines also those of a daemon elsewhere.
_FULL = ("no space left on device", "disk quota exceeded")
FREE_SPACE = "free some space: `df -h` shows which disk is full, `docker system df` (or podman) what images hold of it"
# Frames as github.com/pkg/errors prints them (a function, below it its file and line), and what klog says as info.
_BESIDE_THE_POINT = re.compile(r"^\S+\n\t\S+\.\w+:\d+(\n|\Z)|^I\d{4} \d\d:\d\d:.*(\n|\Z)", re.MULTILINE)
_TIE = ("setpriv", "--pdeathsig", "KILL")  # util-linux; PR_SET_PDEATHSIG in prctl(2)
_HARDLY_ANYTHING = 2**16  # bytes left of a disk on which no program can say any more what is wrong


class CommandFailed(KailabError):
    """A program ended non-zero or outlived its deadline; `output` is what it said on both streams.

    `full` when that was for want of room on a disk, so that trying again helps only after something has gone from it.
    """

    def __init__(self, command: Sequence[str], why: str, output: str, *, full: bool = False) -> None:
        self.command = tuple(command)
        self.output = output
        self.full = full or any(words in output.lower() for words in _FULL)
        what = f"`{' '.join(map(str, command[:6]))}` {why}"
        if self.full:
            super().__init__(f"A disk is full: {what}", why=tail(output), mend=FREE_SPACE)
        else:
            super().__init__(what, why=tail(output))


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last `lines` non-blank lines of `text`, without stack traces (kind's, kubeadm's) and klog's chatter."""
    text = _BESIDE_THE_POINT.sub("", text.partition("\nStack Trace:")[0])
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def run(
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    stdin: IO[bytes] | str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600,
    check: bool = True,
    tied: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `command` and return what it printed (stdout; stderr too, unless `log` takes it).

    With `log`, both streams are appended to that file as they come, so that an interrupted step leaves its
    story behind, and stdout is read back from there. `timeout` is in seconds. `tied`: should kailab be killed, Linux
    ends the program too, so that it doesn't go on beside the next kailab. Raises CommandFailed when
    `check` is set and the program ends non-zero, runs out of time, or isn't there.
    """
    args = [str(part) for part in command]
    started = [*_TIE, *args] if tied and shutil.which(_TIE[0]) and shutil.which(args[0]) else args
    full_env = {**os.environ, **(env or {})}
    text = stdin if isinstance(stdin, str) else None
    start = 0
    source = subprocess.DEVNULL if stdin is None or isinstance(stdin, str) else stdin
    try:
        if log is None:
            done = subprocess.run(
                started, input=text, stdin=source if text is None else None, env=full_env, cwd=cwd,
                timeout=timeout, capture_output=True, text=True, errors="replace",
            )  # fmt: skip
            said = done.stdout + done.stderr
        else:
            _note(log, f"$ {' '.join(args)}\n")
            with log.open("ab") as sink:
                start = sink.tell()
                raw = subprocess.run(
                    started, input=text.encode() if text is not None else None,
                    stdin=source if text is None else None, env=full_env, cwd=cwd, timeout=timeout,
                    stdout=sink, stderr=subprocess.STDOUT,
                )  # fmt: skip
            said = _since(log, start)
            done = subprocess.CompletedProcess(args, raw.returncode, said, "")
    except FileNotFoundError as missing:
        raise CommandFailed(args, "could not start: the program is not installed", str(missing)) from None
    except subprocess.TimeoutExpired as late:
        said = _text(late.output) if log is None else _since(log, start)
        raise CommandFailed(args, f"did not finish within {timeout:.0f} s", said) from None
    if check and done.returncode != 0:
        raise CommandFailed(args, f"failed with status {done.returncode}", said, full=_is_full(log))
    return done


def _note(log: Path, line: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("a") as file:
            file.write(line)
    except OSError as refused:  # which doesn't know the name of the file that it comes from
        raise OSError(refused.errno, refused.strerror, str(log)) from refused


def _is_full(log: Path | None) -> bool:
    return log is not None and shutil.disk_usage(log.parent).free < _HARDLY_ANYTHING


def _since(log: Path, start: int) -> str:
    with log.open("rb") as written:
        written.seek(start)
        return _text(written.read())


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
