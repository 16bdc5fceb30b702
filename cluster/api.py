"""The Kubernetes API as plain JSON over one pooled connection: get, list, watch, patch, delete, proxy, exec.

Objects stay plain dicts. The kubernetes package is used where it saves real work (kubeconfig logins of other
clusters, exec streams) and imported only then: its import alone takes longer than a whole check may.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
import yaml

from cluster.errors import KailabError
from cluster.kinds import Kind, kind_named
from cluster.yamls import load

Object = dict[str, Any]
QUIET_SECONDS = 10  # of a watch, before it is asked for anew: its API server may be gone
TIMEOUT = urllib3.Timeout(connect=3, read=15)
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
FIELD_MANAGER = "kailab"


class ApiError(KailabError):
    """The API server's refusal: `status` (HTTP), `reason` (NotFound, Conflict ...) and its own message."""

    def __init__(self, status: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message or f"the API server answered {status} {reason}")
        self.status, self.reason, self.details = status, reason, details or {}


class Unreachable(KailabError):
    """No answer from the API server at all."""


class Busy(Unreachable):
    """It answers, but for a while only that it can't do its work: to whoever asks that is the same."""


@dataclass(frozen=True)
class Target:
    """Where a cluster is and how to log in: server URL, TLS context, headers."""

    server: str
    tls: ssl.SSLContext
    headers: Mapping[str, str]
    source: tuple[str, str] = ("", "")  # kubeconfig and context, for other clients


class Stop:
    """An Event that also ends what watches are waiting for. Thread-safe."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._open: set[urllib3.BaseHTTPResponse] = set()

    def set(self) -> None:
        self._event.set()
        with self._lock:
            for response in self._open:
                with contextlib.suppress(OSError, ValueError, RuntimeError):  # it has just ended by itself
                    response.shutdown()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)

    @contextmanager
    def ends(self, response: urllib3.BaseHTTPResponse) -> Iterator[None]:
        """While the block runs, `set` shuts the response's connection down."""
        with self._lock:
            self._open.add(response)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(response)


class Api:
    """One cluster. Thread-safe; `close` when done.

    All calls raise ApiError or Unreachable, and NoPath for a name that no object can have.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pool = urllib3.PoolManager(
            maxsize=64,
            block=False,
            ssl_context=target.tls,
            timeout=TIMEOUT,
            retries=False,
            headers=dict(target.headers),
        )

    def close(self) -> None:
        self._pool.clear()

    def acting_as(self, user: str) -> Api:
        """The same cluster with no more than a user's rights ("User Impersonation" in kubernetes.io/docs)."""
        return Api(replace(self._target, headers={**self._target.headers, "Impersonate-User": user}))

    @contextmanager
    def as_kubernetes_client(self) -> Iterator[Any]:
        """The same cluster as an ApiClient of the kubernetes package, for what needs WebSockets."""
        from kubernetes import client, config

        with client.ApiClient(config.new_client_from_config(*self._target.source).configuration) as connection:
            yield connection

    def request(
        self, method: str, path: str, body: Any = None, *, content: str = "application/json",
        timeout: float | None = None, headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        """One HTTP exchange, whatever its status; raises Unreachable when there is none. `timeout` in seconds."""
        wait = urllib3.Timeout(connect=3, read=timeout) if timeout else TIMEOUT
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**self._target.headers, **(headers or {}), **({"Content-Type": content} if data is not None else {})}
        for attempt in (1, 2):
            try:
                return self._pool.request(method, self._target.server + path, body=data, headers=sent, timeout=wait)
            except (urllib3.exceptions.ProtocolError, ConnectionError) as lost:
                # A kept-alive connection may have been closed under us; only reading is safe to repeat.
                if attempt == 2 or method != "GET":
                    raise _unreachable(self._target.server, lost) from None
            except urllib3.exceptions.HTTPError as failed:
                raise _unreachable(self._target.server, failed) from None
        raise AssertionError("unreachable")

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Object:
        """One exchange that must succeed; returns the JSON document."""
        response = self.request(method, path, body, **options)
        return _document(response)

    def becomes_ready(self, seconds: float, wait: Callable[[float], object] = time.sleep) -> bool:
        """Whether the API server is ready within this time ("API health endpoints" in kubernetes.io/docs)."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(Unreachable):
                if self.request("GET", "/readyz", timeout=5).status == HTTPStatus.OK:
                    return True
            if time.monotonic() > deadline:
                return False
            wait(0.2)

    def version(self) -> str:
        return str(self.call("GET", "/version")["gitVersion"])

    def get(self, kind: str | Kind, name: str, namespace: str = "") -> Object | None:
        """The object, or None where there is none."""
        try:
            return self.call("GET", kind_named(kind).path(namespace, name))
        except ApiError as refused:
            if refused.status == 404:
                return None
            raise

    def list(self, kind: str | Kind, namespace: str = "", **selectors: str) -> tuple[list[Object], str]:
        """All objects of a kind (of all namespaces when none is given) and the list's resourceVersion.

        Selectors are the API's own parameters: labelSelector=..., fieldSelector=...
        """
        found = kind_named(kind)
        path = found.path(namespace) + (f"?{urlencode(selectors)}" if selectors else "")
        answer = self.call("GET", path)
        items: list[Object] = answer.get("items") or []
        for item in items:  # lists leave these out, and every reader wants them
            item.setdefault("kind", found.kind)
            item.setdefault("apiVersion", found.api_version)
        return items, str(answer["metadata"].get("resourceVersion", ""))

    def watch(self, kind: str | Kind, namespace: str, version: str, stop: Stop, **selectors: str) -> Iterator[Object]:
        """Events ({type, object}) from `version` on, until the server ends the watch or `stop` is set.

        Raises ApiError with status 410 when `version` is too old; list again then.
        """
        query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true", **selectors}
        path = f"{kind_named(kind).path(namespace)}?{urlencode(query)}"
        try:
            response = self._pool.request(
                "GET", self._target.server + path, preload_content=False,
                timeout=urllib3.Timeout(connect=3, read=QUIET_SECONDS), headers=dict(self._target.headers),
            )  # fmt: skip
            if response.status != 200:
                _document(response)
            with stop.ends(response):
                yield from _events(response, stop)
        except (urllib3.exceptions.HTTPError, OSError) as failed:
            if not stop.is_set():
                raise _unreachable(self._target.server, failed) from None

    def apply(
        self, item: Object, namespace: str = "", *, manager: str = FIELD_MANAGER, dry_run: bool = False
    ) -> Object:
        """Server-side apply; our fields win over other managers'."""
        kind = Kind.of(item)
        own = item.get("metadata", {})
        path = kind.path(own.get("namespace") or namespace, own["name"])
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return self.call("PATCH", f"{path}?{urlencode(query)}", item, content=APPLY)

    def create(self, item: Object, namespace: str = "", *, dry_run: bool = False) -> Object:
        path = Kind.of(item).path(item.get("metadata", {}).get("namespace") or namespace)
        return self.call("POST", path + ("?dryRun=All&fieldValidation=Strict" if dry_run else ""), item)

    def patch(self, kind: str | Kind, name: str, namespace: str, patch: Any, *, subresource: str = "") -> Object:
        """Merge patch for a dict, JSON patch (RFC 6902) for a list of operations."""
        path = kind_named(kind).path(namespace, name, subresource)
        return self.call("PATCH", path, patch, content=JSON_PATCH if isinstance(patch, list) else MERGE)

    def delete(self, kind: str | Kind, name: str, namespace: str = "", *, grace: int | None = None) -> bool:
        """True when there was something to delete. `grace` in seconds; None leaves the object's own."""
        options: Object = {"propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            self.call("DELETE", kind_named(kind).path(namespace, name), options)
        except ApiError as refused:
            if refused.status == 404:
                return False
            raise
        return True

    def delete_all(self, kind: str | Kind, namespace: str, *, grace: int | None = None) -> None:
        """Delete every object of a kind in a namespace; `grace` as in `delete`."""
        options: Object = {"propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        self.call("DELETE", kind_named(kind).path(namespace), options)

    def evict(self, pod: str, namespace: str) -> bool:
        """Ask for an eviction as a drain does; False when a disruption budget says not now (429)."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        try:
            self.call("POST", kind_named("Pod").path(namespace, pod, "eviction"), body)
        except ApiError as refused:
            if refused.status == 429:
                return False
            if refused.status != 404:
                raise
        return True

    def logs(self, pod: str, namespace: str, *, container: str = "", tail: int = 20, previous: bool = False) -> str:
        query = {"tailLines": str(tail), "limitBytes": "65536", **({"container": container} if container else {})}
        if previous:
            query["previous"] = "true"
        response = self.request("GET", f"{kind_named('Pod').path(namespace, pod, 'log')}?{urlencode(query)}")
        if response.status != 200:
            _document(response)
        return response.data.decode(errors="replace")

    def proxy(self, method: str, pod: str, namespace: str, port: int, path: str, body: Any = None,
              *, headers: Mapping[str, str] | None = None, timeout: float = 15) -> Object:  # fmt: skip
        """Talk JSON to a pod's HTTP port through the API server."""
        where = f"{kind_named('Pod').path(namespace, f'{pod}:{port}', 'proxy')}/{quote(path.lstrip('/'), safe='/?&=')}"
        return self.call(method, where, body, headers=headers, timeout=timeout)


def _events(response: urllib3.BaseHTTPResponse, stop: Stop) -> Iterator[Object]:
    """Newline-separated JSON, until the server ends it, falls silent, or `stop` is set."""
    rest = b""
    try:
        while not stop.is_set():
            try:
                chunk = response.read1(65536)
            except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
                return
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
                yield event
    finally:
        response.close()


def _document(response: urllib3.BaseHTTPResponse) -> Object:
    try:
        document = json.loads(response.data)
    except ValueError:
        document = {"message": response.data[:500].decode(errors="replace")}
    if not isinstance(document, dict):
        document = {"value": document}
    if response.status >= 400:
        raise ApiError(
            response.status, str(document.get("reason", "")), str(document.get("message", "")), document.get("details")
        )
    return document


def _unreachable(server: str, failed: Exception) -> Unreachable:
    return Unreachable(
        f"The cluster's API server does not answer ({server}).",
        why=str(getattr(failed, "reason", None) or failed)[:300],
        mend="kailab status, then kailab up   (starts or repairs the course cluster)",
    )


def connect(kubeconfig: Path, context: str = "") -> Api:
    """The cluster of a kubeconfig's context (the current one when none is given).

    Raises KailabError when the file is missing or broken.
    """
    return Api(target(kubeconfig, context))


def target(kubeconfig: Path, context: str = "") -> Target:
    try:
        document = load(kubeconfig.read_text())
        wanted = context or document["current-context"]
        entry = _entry(document["contexts"], wanted)["context"]
        cluster = _entry(document["clusters"], entry["cluster"])["cluster"]
        user = _entry(document["users"], entry["user"])["user"]
        if "certificate-authority-data" in cluster and ("client-certificate-data" in user or "token" in user):
            return _plain_target(cluster, user, (str(kubeconfig), wanted))
    except FileNotFoundError:
        raise KailabError("There is no course cluster here yet.", mend="kailab up") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError, StopIteration, ssl.SSLError) as broken:
        raise KailabError(
            f"{kubeconfig} is not a usable kubeconfig.", why=repr(broken)[:200], mend="kailab up"
        ) from None
    return _foreign_target(kubeconfig, wanted)


def bearer(configuration: Any) -> str:
    """The Authorization header of a Configuration of the kubernetes package, empty where a certificate is used.

    Its older releases keep the token as "authorization", newer ones as "BearerToken".
    """
    return str(configuration.get_api_key_with_prefix("BearerToken", alias="authorization") or "")


def _entry(entries: list[Object], name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


def _plain_target(cluster: Object, user: Object, source: tuple[str, str]) -> Target:
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    tls = ssl.create_default_context(cadata=authority)
    headers = {"User-Agent": "kailab", "Accept": "application/json"}
    if "token" in user:
        headers["Authorization"] = f"Bearer {user['token']}"
    else:
        pem = base64.b64decode(user["client-certificate-data"]) + b"\n" + base64.b64decode(user["client-key-data"])
        _load_client_certificate(tls, pem)
    return Target(cluster["server"], tls, headers, source)


def _load_client_certificate(tls: ssl.SSLContext, pem: bytes) -> None:
    """OpenSSL reads certificates only from files, so the pair goes through a private one for a moment."""
    import tempfile

    descriptor, name = tempfile.mkstemp(prefix="kailab-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        tls.load_cert_chain(name)
    finally:
        Path(name).unlink()


def _foreign_target(kubeconfig: Path, context: str) -> Target:
    """Clusters that need a login program, files or other arrangements: the kubernetes package knows them all."""
    from kubernetes import client, config

    loaded = client.Configuration()
    config.load_kube_config(str(kubeconfig), context, client_configuration=loaded)
    tls = ssl.create_default_context(cafile=loaded.ssl_ca_cert)
    if not loaded.verify_ssl:  # its owner wrote insecure-skip-tls-verify
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if loaded.cert_file:
        tls.load_cert_chain(loaded.cert_file, loaded.key_file)
    headers = {"User-Agent": "kailab", "Accept": "application/json"}
    if token := bearer(loaded):
        headers["Authorization"] = token
    return Target(loaded.host, tls, headers, (str(kubeconfig), context))
