"""The prober's client: HTTP, TCP, DNS and steady traffic from inside the cluster."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from checkers.declare import CannotTell
from cluster.api import Api, ApiError, Unreachable
from cluster.files import replace
from cluster.workspace import Workspace

NAMESPACE = "kailab-system"
PORT = 8080


def token(workspace: Workspace) -> str:
    """The secret shared with the prober, made on first use and readable by this user only."""
    path = workspace.state / "prober-token"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, secrets.token_hex(16), private=True)
    return path.read_text()


class Prober:
    """Asks the prober pod. Raises CannotTell when it doesn't answer: never the student's fault."""

    def __init__(self, api: Api, secret: str) -> None:
        self._api, self._secret = api, secret
        self._pod = ""

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 15) -> dict[str, Any]:
        for attempt in (1, 2):
            try:
                headers = {"X-Kailab-Token": self._secret}
                pod = self._pod or self._find()
                return self._api.proxy(method, pod, NAMESPACE, PORT, path, body, headers=headers, timeout=timeout)
            except ApiError as refused:
                self._pod = ""  # perhaps replaced since the last question
                if attempt == 2 or method != "POST" or path == "/traffic":
                    raise CannotTell(f"the prober pod did not answer: {refused.what[:200]}") from None
            except Unreachable as lost:
                raise CannotTell(lost.what) from None
        raise AssertionError("unreachable")

    def _find(self) -> str:
        pods, _ = self._api.list("Pod", NAMESPACE, labelSelector="app.kubernetes.io/name=prober")
        for pod in pods:
            conditions = pod.get("status", {}).get("conditions", [])
            if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                self._pod = str(pod["metadata"]["name"])
                return self._pod
        raise CannotTell("the prober pod is not ready; `kailab up` repairs it")

    def http(self, url: str, **options: Any) -> dict[str, Any]:
        """{status, headers, body, seconds} or {error, seconds}."""
        return self.ask("POST", "/http", {"url": url, **options}, timeout=float(options.get("timeout", 3)) + 5)

    def tcp(self, host: str, port: int, **options: Any) -> dict[str, Any]:
        return self.ask("POST", "/tcp", {"host": host, "port": port, **options})

    def dns(self, name: str) -> dict[str, Any]:
        return self.ask("POST", "/dns", {"name": name})

    def start_traffic(self, url: str, **options: Any) -> str:
        stream = uuid.uuid4().hex
        self.ask("POST", "/traffic", {"id": stream, "url": url, **options})
        return stream

    def traffic(self, stream: str) -> dict[str, Any]:
        return self.ask("GET", f"/traffic/{stream}")

    def stop_traffic(self, stream: str) -> dict[str, Any]:
        return self.ask("DELETE", f"/traffic/{stream}", timeout=40)
