"""What the API says of programs run in containers; the messages were collected from containerd and runc."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from checkers import streams
from checkers.declare import CannotTell
from checkers.streams import MAX_OUTPUT, NOT_RUNNING, _how_it_ended, exec_in_pod
from cluster.api import Api, connect
from tests import servers

EXEC = "Internal error occurred: error executing command in container: failed to exec in container: "
RUNC = EXEC + 'failed to start exec "0c5f6c26": OCI runtime exec failed: exec failed: '
START = "unable to start container process: exec: "
ENDINGS = [
    EXEC + "container is in CONTAINER_EXITED state",
    EXEC + 'failed to create exec "adfb3759f399": ttrpc: closed',
    EXEC + "failed to load task: no running task found: not found",
    RUNC + "unable to create new parent process: namespace path: lstat /proc/695/ns/ipc: no such file or directory",
    EXEC + 'failed to create exec "3636c6436731": container not created: not found',
    RUNC + "unable to start container process: error adding pid 22804 to cgroups: failed to write 22804: openat2 "
    "/sys/fs/cgroup/systemd/kubelet.slice/a.scope/cgroup.procs: no such file or directory",
]


def _internal(message: str) -> dict[str, Any]:
    details = {"causes": [{"message": message}]}
    return {"status": "Failure", "reason": "InternalError", "message": message, "details": details, "code": 500}


def _exited(code: int) -> dict[str, Any]:
    details = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
    return {"status": "Failure", "reason": "NonZeroExitCode", "details": details}


def test_a_program_that_ran_has_its_exit_code() -> None:
    assert _how_it_ended({"status": "Success"}) == (0, "")
    assert _how_it_ended(_exited(7)) == (7, "")


@pytest.mark.parametrize(("message", "code"), [
    (RUNC + START + '"nosuch": executable file not found in $PATH', 127),
    (RUNC + START + '"/usr/bin/nosuch": stat /usr/bin/nosuch: no such file or directory', 127),
    (RUNC + START + '"/etc/passwd": permission denied', 126),
])  # fmt: skip
def test_a_program_that_cannot_be_run_has_the_shells_exit_code(message: str, code: int) -> None:
    assert _how_it_ended(_internal(message)) == (code, message.rpartition("exec: ")[2])


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


Script = Callable[[socket.socket], None]


@contextlib.contextmanager
def api_server(serve: servers.Serve, tmp_path: Path) -> Iterator[Api]:
    with servers.serving(serve) as port:
        config = servers.kubeconfig(tmp_path / "config", {"server": f"http://127.0.0.1:{port}"}, {"token": "t"})
        with contextlib.closing(connect(config)) as api:
            yield api


@contextlib.contextmanager
def exec_server(script: Script, tmp_path: Path) -> Iterator[Api]:
    """An API whose every exec stream a script speaks on."""

    def serve(connection: socket.socket, head: str) -> None:
        servers.accept_websocket(connection, head)
        script(connection)

    with api_server(serve, tmp_path) as api:
        yield api


def status(document: dict[str, Any]) -> bytes:
    return servers.message(3, yaml.safe_dump(document).encode()) + servers.CLOSE


def test_the_output_is_both_streams_in_order_however_they_are_cut(tmp_path: Path) -> None:
    def script(connection: socket.socket) -> None:
        word = "größer".encode()
        ping = b"\x89\x00"
        connection.sendall(servers.message(1, word[:3]) + ping + servers.message(1, word[3:]) + servers.message(1, b""))
        connection.sendall(servers.message(2, b" err") + servers.message(255, b"\x01") + status(_exited(3)))

    with exec_server(script, tmp_path) as api:
        assert exec_in_pod(api, "p", "n", ["x"]) == (3, "größer err")


def test_a_program_that_prints_without_end_is_left_in_time(tmp_path: Path) -> None:
    """Frames are always at hand here, and a client that reads whatever is at hand would never look at its clock."""

    def script(connection: socket.socket) -> None:
        end = time.monotonic() + 6
        while time.monotonic() < end:
            connection.sendall(servers.message(1, b"x") * 10)
            time.sleep(0.0005)

    with exec_server(script, tmp_path) as api:
        began = time.monotonic()
        with pytest.raises(CannotTell, match="'yes' in pod p did not finish within 1 s"):
            exec_in_pod(api, "p", "n", ["yes"], timeout=1.0)
        assert time.monotonic() - began < 3


def test_a_program_that_prints_too_much_is_left_at_once(tmp_path: Path) -> None:
    sent: list[int] = []

    def script(connection: socket.socket) -> None:
        end = time.monotonic() + 6
        while time.monotonic() < end:
            connection.sendall(servers.message(1, b"x" * 32768))
            sent.append(32768)

    with exec_server(script, tmp_path) as api:
        began = time.monotonic()
        with pytest.raises(CannotTell, match="'yes' in pod p prints more than 1 MiB"):
            exec_in_pod(api, "p", "n", ["yes"], timeout=20.0)
        assert time.monotonic() - began < 5
    assert sum(sent) < 16 * MAX_OUTPUT, "what lies in the buffers of both ends comes on top"


def test_a_program_that_keeps_silent_is_left_in_time(tmp_path: Path) -> None:
    silent = exec_server(lambda connection: connection.recv(1) and None, tmp_path)
    with silent as api, pytest.raises(CannotTell, match="did not finish within 1 s"):
        exec_in_pod(api, "p", "n", ["sleep"], timeout=0.6)


def test_a_server_that_never_opens_the_stream_is_left_in_time(tmp_path: Path) -> None:
    with servers.serving(lambda connection, _: connection.recv(1) and None) as port:
        config = servers.kubeconfig(tmp_path / "config", {"server": f"http://127.0.0.1:{port}"}, {"token": "t"})
        began = time.monotonic()
        with contextlib.closing(connect(config)) as api, pytest.raises(CannotTell, match="could not run 'ls' in pod p"):
            exec_in_pod(api, "p", "n", ["ls"], timeout=0.6)
    assert time.monotonic() - began < 3


def test_a_connection_that_is_lost_is_not_the_students_fault(tmp_path: Path) -> None:
    lost = exec_server(lambda connection: connection.sendall(servers.message(1, b"half")), tmp_path)
    with lost as api, pytest.raises(CannotTell, match="the connection was lost"):
        exec_in_pod(api, "p", "n", ["x"])


Pods = list[dict[str, Any] | None]


def _pod(container_id: str, state: str) -> dict[str, Any]:
    entry = {"name": "main", "containerID": container_id, "state": {state: {}}}
    return {
        "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "main"}]},
        "status": {"containerStatuses": [entry] if container_id else []},
    }  # fmt: skip


@contextlib.contextmanager
def _cluster(refusal: dict[str, Any], pods: Pods, tmp_path: Path) -> Iterator[Api]:
    """An API whose every exec stream ends with the refusal; asked for the pod, it gives one after the other."""
    left = list(pods)

    def serve(connection: socket.socket, head: str) -> None:
        if "/exec?" in head:
            servers.accept_websocket(connection, head)
            connection.sendall(status(refusal))
        elif pod := left.pop(0) if len(left) > 1 else left[0]:
            servers.answer(connection, 200, pod)
        else:
            servers.answer(connection, 404, {"kind": "Status", "code": 404, "reason": "NotFound"})

    with api_server(serve, tmp_path) as api:
        yield api


@pytest.fixture
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LOOK_EVERY", 0.01)


@pytest.mark.usefixtures("_looks_often")
@pytest.mark.parametrize("message", ENDINGS)
@pytest.mark.parametrize("pods", [
    [_pod("a", "running"), _pod("a", "running"), _pod("a", "terminated")],
    [_pod("a", "running"), _pod("b", "running")],
    [_pod("a", "running"), None],
    [_pod("a", "waiting")],
    [_pod("", "")],
], ids=["ended", "another-runs", "pod-gone", "waits", "not-begun"])  # fmt: skip
def test_a_container_that_has_just_ended_does_not_run(message: str, pods: Pods, tmp_path: Path) -> None:
    with _cluster(_internal(message), pods, tmp_path) as api:
        assert exec_in_pod(api, "p", "n", ["x"]) == (NOT_RUNNING, "")


@pytest.mark.usefixtures("_looks_often")
@pytest.mark.parametrize("message", ["the moon", *ENDINGS])
def test_where_the_container_goes_on_it_is_not_the_students_fault(message: str, tmp_path: Path) -> None:
    with (
        _cluster(_internal(message), [_pod("a", "running")], tmp_path) as api,
        pytest.raises(CannotTell, match=re.escape(f"could not run 'id' in pod p: {message}")),
    ):
        exec_in_pod(api, "p", "n", ["id"], timeout=0.5)


@pytest.mark.usefixtures("_looks_often")
def test_a_container_of_another_name_tells_nothing(tmp_path: Path) -> None:
    refusal = _internal("container sidecar is not valid for pod p")
    with _cluster(refusal, [_pod("a", "terminated")], tmp_path) as api, pytest.raises(CannotTell, match="not valid"):
        exec_in_pod(api, "p", "n", ["x"], "sidecar")


@pytest.mark.parametrize(("code", "said"), [
    (404, 'container not found ("main")'),
    (400, "cannot exec into a container in a completed pod; current phase is Succeeded"),
])  # fmt: skip
def test_a_container_that_ended_before_the_stream_was_open_does_not_run(tmp_path: Path, code: int, said: str) -> None:
    def serve(connection: socket.socket, head: str) -> None:
        if "/exec?" in head:
            servers.answer(connection, code, {"kind": "Status", "code": code, "message": said})
        else:
            servers.answer(connection, 200, _pod("a", "terminated"))

    with api_server(serve, tmp_path) as api:
        assert exec_in_pod(api, "p", "n", ["x"]) == (NOT_RUNNING, "")
