"""What the API says of programs run in containers; the messages were collected from containerd and runc."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from checkers.declare import CannotTell
from checkers.streams import NOT_RUNNING, _how_it_ended, exec_in_pod
from cluster.api import connect

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


def test_where_the_kubeconfig_has_a_token_the_stream_is_opened_with_it(tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {"token": "of-a-service-account"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        with (
            contextlib.closing(connect(kubeconfig)) as api,
            pytest.raises(CannotTell, match="could not run 'ls' in pod"),
        ):
            exec_in_pod(api, "p", "n", ["ls", "-l a"], "main")
        server.shutdown()
    ((path, token),) = asked
    assert token == "Bearer of-a-service-account"
    assert urlsplit(path).path == "/api/v1/namespaces/n/pods/p/exec"
    assert parse_qs(urlsplit(path).query) == {
        "command": ["ls", "-l a"], "container": ["main"], "stdout": ["True"], "stderr": ["True"],
    }  # fmt: skip
