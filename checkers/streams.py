"""Programs run inside containers: the API's exec streams."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import yaml

from checkers.declare import CannotTell
from cluster.api import Api, ApiError, Unreachable
from cluster.kinds import kind_named

if TYPE_CHECKING:
    from websocket import WebSocket

NOT_RUNNING = -1  # no program returns this
# A shell's exit codes for a program that is not there or that it may not run: POSIX, "Exit Status for Commands".
_NO_PROGRAM, _MAY_NOT_RUN = 127, 126
# What checks ask for is some kilobytes. No verdict is to rest on a part of more, and a program that prints without end
# is to fill nobody's memory.
MAX_OUTPUT = 2**20  # bytes
_OUTPUT, _STATUS = (1, 2), 3  # streams, by the first byte of each message: stdout and stderr, and how it ended
LOOK_EVERY = 0.5  # seconds, until the kubelet tells that a container ended: on a busy machine 8 s were seen
_OF_RIGHTS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)  # they say nothing of the container


class _DidNotRun(Exception):
    """No program ran; whether for the container's sake, its state tells."""


def exec_in_pod(
    api: Api, pod: str, namespace: str, command: list[str], container: str = "", timeout: float = 20.0
) -> tuple[int, str]:
    """Exit code and the output of both streams; NOT_RUNNING when the container does not run at this moment.

    Raises CannotTell when it can't be entered for another reason, and for a program that does not end in time or prints
    more than MAX_OUTPUT.
    """
    what, deadline = f"{command[0]!r} in pod {pod}", time.monotonic() + timeout
    options = {"container": container} if container else {}
    query = urlencode({"command": command, "stdout": True, "stderr": True, **options}, doseq=True)
    try:
        with api.stream(f"{kind_named('Pod').path(namespace, pod, 'exec')}?{query}", timeout) as opened:
            output, said = _heard(opened, deadline, what)
        if not said:
            raise CannotTell(f"{what} did not finish within {timeout:.0f} s")
        code, instead = _how_it_ended(yaml.safe_load(said))
        return code, output or instead
    except Unreachable as lost:
        raise CannotTell(f"could not run {what}: {lost.what} {lost.why}") from None
    except (ApiError, _DidNotRun) as refused:
        of_rights = isinstance(refused, ApiError) and refused.status in _OF_RIGHTS
        if not of_rights and _has_ended(api, pod, namespace, container, deadline):
            return NOT_RUNNING, ""
        raise CannotTell(f"could not run {what}: {refused}") from None


def _has_ended(api: Api, pod: str, namespace: str, container: str, deadline: float) -> bool:
    """Whether a container that could not be entered has ended or has yet to begin, as the pod's status soon tells.

    The runtime's words are no help: every moment of a container's end has its own, and most read like a machine's
    trouble.
    """
    entered = ""
    while True:
        try:
            found = api.get("Pod", pod, namespace)
        except (Unreachable, ApiError):
            return False
        if not found:
            return True
        name = container or found["spec"]["containers"][0]["name"]
        entries = found.get("status", {}).get("containerStatuses") or []
        states = {entry["name"]: entry for entry in entries}
        if name not in states:
            return not entries  # none has begun, or there is no container of this name
        entered = entered or states[name].get("containerID", "")
        if "running" not in states[name]["state"] or states[name].get("containerID") != entered:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_EVERY)


def _heard(opened: WebSocket, deadline: float, what: str) -> tuple[str, str]:
    """The output, and the Status that tells how the program ended: empty when it has not by then."""
    from websocket import ABNF, WebSocketException, WebSocketTimeoutException

    output, status = bytearray(), bytearray()
    while (left := deadline - time.monotonic()) > 0:
        opened.settimeout(left)
        try:
            kind, message = opened.recv_data_frame(control_frame=True)
        except WebSocketTimeoutException:
            break
        except (WebSocketException, OSError):
            kind = ABNF.OPCODE_CLOSE  # it was lost; what counts is whether all was said before
        if kind == ABNF.OPCODE_CLOSE:
            if not status:
                raise CannotTell(f"could not run {what}: the connection was lost before it ended")
            return output.decode(errors="replace"), status.decode(errors="replace")
        if kind in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) and message.data:
            stream, data = message.data[0], message.data[1:]
            if stream in _OUTPUT:
                output += data
            elif stream == _STATUS:
                status += data
        if len(output) + len(status) > MAX_OUTPUT:
            raise CannotTell(f"{what} prints more than {MAX_OUTPUT >> 20} MiB")
    return "", ""


def _how_it_ended(status: dict[str, Any]) -> tuple[int, str]:
    """Exit code, and what the runtime says where no program ran, from the error channel's Status.

    Its form: staging/src/k8s.io/kubelet/pkg/cri/streaming/remotecommand in the Kubernetes sources.
    """
    if status.get("status") == "Success":
        return 0, ""
    causes = (status.get("details") or {}).get("causes") or []
    for cause in causes:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"]), ""
    message = str(status.get("message", ""))
    if found := re.search(r"unable to start container process: exec: (.+)", message):
        missing = "not found" in found[1] or "no such file" in found[1]
        return _NO_PROGRAM if missing else _MAY_NOT_RUN, found[1]
    raise _DidNotRun(message)
