"""The Kubernetes API as plain JSON over one pooled connection: get, list, watch, patch, delete, proxy, exec.

Objects stay plain dicts.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlencode

import urllib3

from cluster.errors import KailabError
from cluster.kinds import Kind, kind_named
from cluster.kubeconfig import Target, target

if TYPE_CHECKING:
    from websocket import WebSocket

Object = dict[str, Any]
T = TypeVar("T")
QUIET_SECONDS = 10  # of a watch, before it is asked for anew: its API server may be gone
TIMEOUT = urllib3.Timeout(connect=3, read=15)
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
FIELD_MANAGER = "kailab"
EXEC_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")  # each message's first byte names its stream
_SERVERS_OWN = (
    HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT,
)  # fmt: skip
# The API server's words for what is not there yet in a new namespace, or not yet after its own restart.
_NOT_YET = ("status unknown for quota", "/default: serviceaccount", "not yet ready to handle request")
# With status 500 it also tells what is wrong with the object itself: a field or an amount (server-side apply,
# kubernetes issue 139253), or its size (etcd and the connection to it, issue 112152).
_OBJECTS_OWN = (
    "failed to create typed patch object",
    "failed to convert new",
    "request is too large",
    "larger than max",
)


class ApiError(KailabError):
    """The API server's refusal: `status` (HTTP), `reason` (NotFound, Conflict ...) and its own message."""

    def __init__(self, status: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message or f"the API server answered {status} {reason}")
        self.status, self.reason, self.details = status, reason, details or {}

    @property
    def is_servers_own(self) -> bool:
        """Whether this says nothing of what was asked for: the very same may be granted a moment later."""
        if self.status == HTTPStatus.FORBIDDEN:
            return any(words in self.what for words in _NOT_YET)
        return self.status in _SERVERS_OWN and not any(words in self.what for words in _OBJECTS_OWN)


class Unreachable(KailabError):
    """No answer from the API server at all."""


class Busy(Unreachable):
    """It answers, but for a while only that it can't do its work: to whoever asks that is the same."""


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


@dataclass(frozen=True)
class _Line:
    """A login, and the connections that were made with it."""

    target: Target
    pool: urllib3.PoolManager


class Api:
    """One cluster. Thread-safe; `close` when done.

    All calls raise ApiError or Unreachable, and NoPath for a name that no object can have.
    """

    def __init__(self, target: Target, *, user: str = "") -> None:
        self._line, self._user = _Line(target, _pool(target)), user
        self._lock = threading.Lock()

    def close(self) -> None:
        self._line.pool.clear()

    def acting_as(self, user: str) -> Api:
        """The same cluster with no more than a user's rights ("User Impersonation" in kubernetes.io/docs)."""
        return Api(self._line.target, user=user)

    def request(
        self, method: str, path: str, body: Any = None, *, content: str = "application/json",
        timeout: float | None = None, headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        """One HTTP exchange, whatever its status; raises Unreachable when there is none. `timeout` in seconds."""
        wait = urllib3.Timeout(connect=3, read=timeout) if timeout else TIMEOUT
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**(headers or {}), **({"Content-Type": content} if data is not None else {})}
        for attempt in (1, 2):
            try:
                return self._exchange(method, path, sent, body=data, timeout=wait)
            except (urllib3.exceptions.ProtocolError, ConnectionError) as lost:
                # A kept-alive connection may have been closed under us; only reading is safe to repeat.
                if attempt == 2 or method != "GET":
                    raise _unreachable(self._line.target, lost) from None
            except urllib3.exceptions.HTTPError as failed:
                raise _unreachable(self._line.target, failed) from None
        raise AssertionError("unreachable")

    def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], **options: Any
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        """One exchange; where the login is no longer taken, once more with a new one."""

        def ask(line: _Line) -> urllib3.BaseHTTPResponse:
            sent = {**self._headers(line), **headers}
            return line.pool.request(method, line.target.server + path, headers=sent, **options)

        line = self._line
        answer = ask(line)
        if answer.status == HTTPStatus.UNAUTHORIZED and (fresh := self._logged_in_anew(line)):
            answer.drain_conn()
            answer = ask(fresh)
        return answer

    def _headers(self, line: _Line) -> dict[str, str]:
        return {**line.target.headers, **({"Impersonate-User": self._user} if self._user else {})}

    def _logged_in_anew(self, line: _Line) -> _Line | None:
        """What to use instead of a line whose login has expired; None where none can be got. Many threads may ask at
        once, and one login program is run for all of them. Raises Unreachable when it fails.
        """
        with self._lock:
            if self._line is line and line.target.anew is not None:
                try:
                    fresh = line.target.anew()
                except KailabError as failed:
                    raise Unreachable(failed.what, why=failed.why, mend=failed.mend) from None
                # Others may still be reading from the old pool; it closes with the last of them.
                self._line = _Line(fresh, _pool(fresh))
            return None if self._line is line else self._line

    @contextmanager
    def stream(self, path: str, timeout: float) -> Iterator[WebSocket]:
        """A WebSocket for one of EXEC_PROTOCOLS, while the block runs. Raises ApiError or Unreachable, the latter also
        when it isn't there within `timeout` seconds.
        """
        line = self._line
        try:
            opened = _websocket(line.target, path, self._headers(line), timeout)
        except ApiError as refused:
            fresh = self._logged_in_anew(line) if refused.status == HTTPStatus.UNAUTHORIZED else None
            if fresh is None:
                raise
            opened = _websocket(fresh.target, path, self._headers(fresh), timeout)
        try:
            yield opened
        finally:
            opened.shutdown()

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
            wait = urllib3.Timeout(connect=3, read=QUIET_SECONDS)
            response = self._exchange("GET", path, {}, preload_content=False, timeout=wait)
            if response.status != 200:
                _document(response)
            with stop.ends(response):
                yield from _events(response, stop)
        except (urllib3.exceptions.HTTPError, OSError) as failed:
            if not stop.is_set():
                raise _unreachable(self._line.target, failed) from None

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
    if response.status >= 400:
        raise _refusal(response.status, response.data)
    return _parsed(response.data)


def _parsed(data: bytes) -> Object:
    try:
        document = json.loads(data)
    except ValueError:
        return {"message": data[:500].decode(errors="replace")}
    return document if isinstance(document, dict) else {"value": document}


def _refusal(status: int, data: bytes) -> ApiError:
    said = _parsed(data)
    return ApiError(status, str(said.get("reason", "")), str(said.get("message", "")), said.get("details"))


def _unreachable(target: Target, failed: Exception) -> Unreachable:
    return Unreachable(
        f"The cluster's API server does not answer ({target.server}).",
        why=str(getattr(failed, "reason", None) or failed)[:300], mend=target.mend,
    )  # fmt: skip


def patiently(
    ask: Callable[[], T], passes: Callable[[ApiError], bool], pauses: Iterable[float], wait: Callable[[float], object]
) -> T:  # fmt: skip
    """The answer, asked for again after each of the pauses (seconds) while a refusal is one that passes by itself.

    Raises the last ApiError.
    """
    for pause in pauses:
        try:
            return ask()
        except ApiError as refused:
            if not passes(refused):
                raise
        wait(pause)
    return ask()


def connect(kubeconfig: Path, context: str = "") -> Api:
    """The cluster of a kubeconfig's context; without one, the course's own.

    Raises KailabError when the file is missing or broken.
    """
    return Api(target(kubeconfig, context))


def _pool(target: Target) -> urllib3.PoolManager:
    options: dict[str, Any] = {
        "maxsize": 64, "block": False, "ssl_context": target.tls, "timeout": TIMEOUT, "retries": False,
        "server_hostname": target.server_name or None,
    }  # fmt: skip
    if not target.proxy:
        return urllib3.PoolManager(**options)
    auth = urllib3.util.parse_url(target.proxy).auth
    headers = urllib3.util.make_headers(proxy_basic_auth=unquote(auth)) if auth else None
    return urllib3.ProxyManager(target.proxy, proxy_headers=headers, **options)


def _websocket(target: Target, path: str, headers: Mapping[str, str], timeout: float) -> WebSocket:
    """A WebSocket for one of the exec protocols. Raises ApiError or Unreachable."""
    from websocket import WebSocket, WebSocketBadStatusException, WebSocketException

    # To a question for JSON an exec stream is no answer: the API server refuses it (406 Not Acceptable).
    headers = {name: value for name, value in headers.items() if name != "Accept"}
    opened = WebSocket(sslopt={"context": target.tls, "server_hostname": target.server_name}, skip_utf8_validation=True)
    # The target knows its proxy. Where none is named, the library would ask the environment again, in a way of its own.
    options: dict[str, Any] = {"http_no_proxy": ["*"], "http_proxy_host": "unused", "http_proxy_port": 1}
    if target.proxy:
        proxy = urllib3.util.parse_url(target.proxy)
        options = {"http_no_proxy": [""], "http_proxy_host": proxy.host, "http_proxy_port": proxy.port or 80}
        if proxy.auth:
            options["http_proxy_auth"] = tuple(unquote(proxy.auth).split(":", 1))
    try:
        opened.connect(
            f"ws{target.server.removeprefix('http')}{path}", header=headers, timeout=timeout,
            subprotocols=list(EXEC_PROTOCOLS), redirect_limit=0, **options,
        )  # fmt: skip
    except WebSocketBadStatusException as refused:
        raise _refusal(refused.status_code, refused.resp_body or b"") from None
    except (WebSocketException, OSError) as failed:
        raise _unreachable(target, failed) from None
    return opened
