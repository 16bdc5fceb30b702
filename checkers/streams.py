"""Programs run inside containers: the API's exec streams, through the kubernetes package."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

import yaml

from checkers.declare import CannotTell
from cluster.api import Api

NOT_RUNNING = -1  # no program returns this
# A shell's exit codes for a program that is not there or that it may not run: POSIX, "Exit Status for Commands".
_NO_PROGRAM, _MAY_NOT_RUN = 127, 126
# The kubelet's, the API server's, containerd's and runc's words for a container that has just ended, or a pod that has.
_GONE = (
    "container not found", "cannot exec into a container in a completed pod", "CONTAINER_EXITED",
    "no running task found", "unable to create new parent process", "cannot exec in a stopped container",
    "ttrpc: closed",  # to the shim, which ends with its container
)  # fmt: skip


def exec_in_pod(
    api: Api, pod: str, namespace: str, command: list[str], container: str = "", timeout: float = 20.0
) -> tuple[int, str]:
    """Exit code and the output of both streams; NOT_RUNNING when the container does not run at this moment.

    Raises CannotTell when it can't be entered for another reason.
    """
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException
    from kubernetes.stream import stream
    from kubernetes.stream.ws_client import ERROR_CHANNEL

    try:
        with api.as_kubernetes_client() as connection:
            core = client.CoreV1Api(connection)
            options: dict[str, Any] = {"container": container} if container else {}
            channel = stream(
                core.connect_get_namespaced_pod_exec, pod, namespace, command=command, stderr=True, stdin=False,
                stdout=True, tty=False, _preload_content=False, **options,
            )  # fmt: skip
            with closing(channel):
                channel.run_forever(timeout=timeout)
                # Its own `returncode` takes every refusal for a number.
                said = "" if channel.is_open() else channel.read_channel(ERROR_CHANNEL)
                output = str(channel.read_all())
            channel.sock.shutdown()  # close() leaves the socket open when the server was first to end
    except ApiException as refused:
        if any(words in f"{refused.reason} {refused.body}" for words in _GONE):
            return NOT_RUNNING, ""
        raise CannotTell(f"could not run {command[0]!r} in pod {pod}: {refused.reason or refused}") from None
    if not said:
        raise CannotTell(f"{command[0]!r} in pod {pod} did not finish within {timeout:.0f} s")
    code, instead = _how_it_ended(yaml.safe_load(said), f"{command[0]!r} in pod {pod}")
    return code, output or instead


def _how_it_ended(status: dict[str, Any], what: str) -> tuple[int, str]:
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
    if any(words in message for words in _GONE):
        return NOT_RUNNING, ""
    if found := re.search(r"unable to start container process: exec: (.+)", message):
        missing = "not found" in found[1] or "no such file" in found[1]
        return _NO_PROGRAM if missing else _MAY_NOT_RUN, found[1]
    raise CannotTell(f"could not run {what}: {message}")
