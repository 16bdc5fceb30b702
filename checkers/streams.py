"""Programs run inside containers: the API's exec streams, through the kubernetes package."""

from __future__ import annotations

from typing import Any

from checkers.declare import CannotTell
from cluster.api import Api


def exec_in_pod(
    api: Api, pod: str, namespace: str, command: list[str], container: str = "", timeout: float = 20.0
) -> tuple[int, str]:
    """Exit code and the output of both streams. Raises CannotTell when the container can't be entered."""
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException
    from kubernetes.stream import stream

    try:
        with api.as_kubernetes_client() as connection:
            core = client.CoreV1Api(connection)
            options: dict[str, Any] = {"container": container} if container else {}
            channel = stream(
                core.connect_get_namespaced_pod_exec, pod, namespace, command=command, stderr=True, stdin=False,
                stdout=True, tty=False, _preload_content=False, **options,
            )  # fmt: skip
            channel.run_forever(timeout=timeout)
            code = channel.returncode  # before read_all, which forgets the channel that tells it
            output = channel.read_all()
            channel.close()
            channel.sock.shutdown()  # close() leaves the socket open when the server was first to end
    except ApiException as refused:
        raise CannotTell(f"could not run {command[0]!r} in pod {pod}: {refused.reason or refused}") from None
    if code is None:
        raise CannotTell(f"{command[0]!r} in pod {pod} did not finish within {timeout:.0f} s")
    return int(code), str(output)
