"""Programs run inside containers: the API's exec streams, through the kubernetes package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import yaml

from checkers.declare import CannotTell
from cluster.api import Api, bearer

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
    from kubernetes.client.exceptions import ApiException
    from kubernetes.stream.ws_client import ERROR_CHANNEL

    try:
        with _opened(api, pod, namespace, command, container) as channel, closing(channel):
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


@contextmanager
def _opened(api: Api, pod: str, namespace: str, command: list[str], container: str) -> Iterator[Any]:
    """The stream of a program that has been started, as a WSClient.

    Without the package's CoreV1Api, which takes half a second to import: it brings a model of every kind.
    """
    from kubernetes.stream.ws_client import websocket_call

    options = {"container": container} if container else {}
    query = urlencode({"command": command, "stdout": True, "stderr": True, **options}, doseq=True)
    path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/exec?{query}"
    with api.as_kubernetes_client() as connection:
        of = connection.configuration
        # A client certificate is the connection's; a token is a header, which CoreV1Api would have set.
        headers = {"authorization": token} if (token := bearer(of)) else {}
        yield websocket_call(of, "GET", of.host + path, headers=headers, _preload_content=False)


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
