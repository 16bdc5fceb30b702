"""What the API says of programs run in containers; the messages were collected from containerd and runc."""

from __future__ import annotations

from typing import Any

import pytest

from checkers.declare import CannotTell
from checkers.streams import NOT_RUNNING, _how_it_ended

EXEC = "Internal error occurred: error executing command in container: failed to exec in container: "
RUNC = EXEC + 'failed to start exec "0c5f6c26": OCI runtime exec failed: exec failed: '
START = "unable to start container process: exec: "


def _internal(message: str) -> dict[str, Any]:
    details = {"causes": [{"message": message}]}
    return {"status": "Failure", "reason": "InternalError", "message": message, "details": details, "code": 500}


def _exited(code: int) -> dict[str, Any]:
    details = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
    return {"status": "Failure", "reason": "NonZeroExitCode", "details": details}


def test_a_program_that_ran_has_its_exit_code() -> None:
    assert _how_it_ended({"status": "Success"}, "x") == (0, "")
    assert _how_it_ended(_exited(7), "x") == (7, "")


@pytest.mark.parametrize("message", [
    EXEC + "container is in CONTAINER_EXITED state",
    EXEC + 'failed to create exec "adfb3759f399": ttrpc: closed',
    EXEC + "failed to load task: no running task found: not found",
    RUNC + "unable to create new parent process: namespace path: lstat /proc/695/ns/ipc: no such file or directory",
])  # fmt: skip
def test_a_container_that_has_just_ended_does_not_run(message: str) -> None:
    assert _how_it_ended(_internal(message), "x") == (NOT_RUNNING, "")


@pytest.mark.parametrize(("message", "code"), [
    (RUNC + START + '"nosuch": executable file not found in $PATH', 127),
    (RUNC + START + '"/usr/bin/nosuch": stat /usr/bin/nosuch: no such file or directory', 127),
    (RUNC + START + '"/etc/passwd": permission denied', 126),
])  # fmt: skip
def test_a_program_that_cannot_be_run_has_the_shells_exit_code(message: str, code: int) -> None:
    assert _how_it_ended(_internal(message), "x") == (code, message.rpartition("exec: ")[2])


def test_what_nobody_foresaw_is_not_the_students_fault() -> None:
    with pytest.raises(CannotTell, match="could not run 'id' in pod p: the moon"):
        _how_it_ended(_internal("the moon"), "'id' in pod p")
