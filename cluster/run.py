"""The one way in which kailab runs other programs: logged, with a deadline, failing with the log's tail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from cluster.errors import KailabError

TAIL_LINES = 12


class CommandFailed(KailabError):
    """A program ended non-zero or outlived its deadline; `output` is what it said on both streams."""

    def __init__(self, command: Sequence[str], why: str, output: str) -> None:
        self.command = tuple(command)
        self.output = output
        super().__init__(f"`{' '.join(map(str, command[:6]))}` {why}", why=tail(output))


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last `lines` non-blank lines of `text`, without the stack trace that kind ends with."""
    text = text.partition("\nStack Trace:")[0]
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
) -> subprocess.CompletedProcess[str]:
    """Run `command` and return what it printed (stdout; stderr too, unless `log` takes it).

    With `log`, both streams are appended to that file as they come, so that an interrupted step leaves its
    story behind, and stdout is read back from there. `timeout` is in seconds. Raises CommandFailed when
    `check` is set and the program ends non-zero, runs out of time, or isn't there.
    """
    args = [str(part) for part in command]
    full_env = {**os.environ, **(env or {})}
    text = stdin if isinstance(stdin, str) else None
    start = 0
    source = subprocess.DEVNULL if stdin is None or isinstance(stdin, str) else stdin
    try:
        if log is None:
            done = subprocess.run(
                args, input=text, stdin=source if text is None else None, env=full_env, cwd=cwd,
                timeout=timeout, capture_output=True, text=True, errors="replace",
            )  # fmt: skip
            said = done.stdout + done.stderr
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as sink:
                sink.write(f"$ {' '.join(args)}\n".encode())
                sink.flush()
                start = sink.tell()
                raw = subprocess.run(
                    args, input=text.encode() if text is not None else None,
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
        raise CommandFailed(args, f"failed with status {done.returncode}", said)
    return done


def _since(log: Path, start: int) -> str:
    with log.open("rb") as written:
        written.seek(start)
        return _text(written.read())


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
