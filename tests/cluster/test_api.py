"""The API client speaks plain JSON, and tells a refusal from silence; tried against a small server of our own."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cluster.api import Api, ApiError, Stop, Target, Unreachable, connect, target
from cluster.errors import KailabError
from cluster.kinds import Kind
from tests import servers

Answer = tuple[int, Any] | Callable[["Handler"], None]
PODS = "/api/v1/namespaces/lab/pods"
POD = f"{PODS}/web"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        seen = {"method": self.command, "path": url.path, "query": query, "headers": self.headers}
        self.server.seen.append({**seen, "body": json.loads(raw) if raw else None})
        answer = self.server.answers.get(f"{self.command} {url.path}", (404, refusal(404, "NotFound", "not found")))
        if callable(answer):
            answer(self)
        else:
            status, document = answer
            self.send(status, document.encode() if isinstance(document, str) else json.dumps(document).encode())

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.seen: list[dict[str, Any]] = []
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that leave early are part of these tests

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    connection = api_at(server.url)
    yield connection
    connection.close()


def api_at(url: str) -> Api:
    return Api(Target(url, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), {"Authorization": "Bearer secret"}))


def refusal(status: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "code": status, "reason": reason, "message": message, "details": details}


def event(kind: str, item: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def test_an_object_is_got_as_it_is_with_our_login(server: Server, api: Api) -> None:
    server.answers[f"GET {POD}"] = (200, {"metadata": {"name": "web"}})
    assert api.get("Pod", "web", "lab") == {"metadata": {"name": "web"}}
    assert server.seen[0]["headers"]["Authorization"] == "Bearer secret"


def test_what_is_not_there_is_none(api: Api) -> None:
    assert api.get("Pod", "web", "lab") is None


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (403, "Forbidden", 'pods "web" is forbidden: User "x" cannot get resource "pods"'),
        (409, "Conflict", "the object has been modified"),
        (422, "Invalid", "spec.replicas: Invalid value: -1"),
        (500, "InternalError", "etcdserver: request timed out"),
    ],
)
def test_a_refusal_carries_the_servers_own_words(
    server: Server, api: Api, status: int, reason: str, message: str
) -> None:
    server.answers[f"GET {POD}"] = (status, refusal(status, reason, message, name="web"))
    with pytest.raises(ApiError) as caught:
        api.get("Pod", "web", "lab")
    assert (caught.value.status, caught.value.reason, str(caught.value)) == (status, reason, message)
    assert caught.value.details == {"name": "web"}


@pytest.mark.parametrize(
    ("body", "words"), [("<html>bad gateway</html>", "bad gateway"), ("", "502"), ("[]", "502"), ("{}", "502")]
)
def test_an_error_page_is_a_refusal_with_words(server: Server, api: Api, body: str, words: str) -> None:
    server.answers[f"GET {POD}"] = (502, body)
    with pytest.raises(ApiError, match=words) as caught:
        api.get("Pod", "web", "lab")
    assert caught.value.status == 502


def test_listed_objects_know_their_kind(server: Server, api: Api) -> None:
    document = {"metadata": {"resourceVersion": "77"}, "items": [{"metadata": {"name": "web"}}]}
    server.answers["GET /apis/apps/v1/namespaces/lab/deployments"] = (200, document)
    items, version = api.list("Deployment", "lab", labelSelector="app in (a,b)", fieldSelector="metadata.name=web")
    assert items == [{"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web"}}]
    assert version == "77"
    assert server.seen[0]["query"] == {"labelSelector": "app in (a,b)", "fieldSelector": "metadata.name=web"}


@pytest.mark.parametrize("items", [None, []])
def test_an_empty_list_is_a_list(server: Server, api: Api, items: Any) -> None:
    server.answers["GET /api/v1/nodes"] = (200, {"metadata": {"resourceVersion": "1"}, "items": items})
    assert api.list("Node") == ([], "1")


def test_a_kind_that_the_cluster_does_not_serve_is_a_refusal_when_listed(api: Api) -> None:
    with pytest.raises(ApiError) as caught:
        api.list(Kind("Gadget", "example.com/v1", "gadgets"), "lab")
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("status", "answer"), [(200, True), (202, True), (404, False)], ids=["gone", "going", "never there"]
)
def test_deleting_tells_whether_there_was_anything(server: Server, api: Api, status: int, answer: bool) -> None:
    server.answers[f"DELETE {POD}"] = (status, {})
    assert api.delete("Pod", "web", "lab", grace=0) is answer
    assert server.seen[0]["body"] == {"propagationPolicy": "Background", "gracePeriodSeconds": 0}


def test_deleting_leaves_the_grace_period_alone_unless_told(server: Server, api: Api) -> None:
    server.answers[f"DELETE {POD}"] = (200, {})
    api.delete("Pod", "web", "lab")
    assert "gracePeriodSeconds" not in server.seen[0]["body"]


@pytest.mark.parametrize(
    ("status", "answer"), [(201, True), (404, True), (429, False)], ids=["evicted", "gone already", "budget says no"]
)
def test_an_eviction_asks_the_disruption_budget(server: Server, api: Api, status: int, answer: bool) -> None:
    server.answers[f"POST {POD}/eviction"] = (status, refusal(status, "", "would violate the disruption budget"))
    assert api.evict("web", "lab") is answer
    assert (server.seen[0]["body"]["kind"], server.seen[0]["body"]["apiVersion"]) == ("Eviction", "policy/v1")


def test_an_eviction_that_is_refused_otherwise_is_an_error(server: Server, api: Api) -> None:
    server.answers[f"POST {POD}/eviction"] = (500, refusal(500, "InternalError", "two budgets select this pod"))
    with pytest.raises(ApiError, match="two budgets"):
        api.evict("web", "lab")


@pytest.mark.parametrize(
    ("patch", "content"),
    [
        ({"spec": {"replicas": 1}}, "application/merge-patch+json"),
        ([{"op": "remove", "path": "/spec/x"}], "application/json-patch+json"),
    ],
)
def test_a_patch_is_sent_as_what_it_is(server: Server, api: Api, patch: Any, content: str) -> None:
    server.answers[f"PATCH {POD}/status"] = (200, {})
    api.patch("Pod", "web", "lab", patch, subresource="status")
    assert server.seen[0]["headers"]["Content-Type"] == content
    assert server.seen[0]["body"] == patch


@pytest.mark.parametrize("own", ["", "other"])
def test_applying_is_strict_and_goes_to_the_objects_own_namespace(server: Server, api: Api, own: str) -> None:
    path = f"/apis/apps/v1/namespaces/{own or 'lab'}/deployments/web"
    server.answers[f"PATCH {path}"] = (200, {"metadata": {"uid": "u"}})
    item = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web"}}
    if own:
        item["metadata"]["namespace"] = own  # type: ignore[index]
    assert api.apply(item, "lab") == {"metadata": {"uid": "u"}}
    api.apply(item, "lab", dry_run=True)
    first, second = server.seen
    assert first["headers"]["Content-Type"] == "application/apply-patch+yaml"
    assert first["query"] == {"fieldManager": "kailab", "force": "true", "fieldValidation": "Strict"}
    assert second["query"] == {**first["query"], "dryRun": "All"}
    assert first["body"] == item


def test_creating_posts_to_the_list(server: Server, api: Api) -> None:
    server.answers[f"POST {PODS}"] = (201, {"metadata": {"name": "web-x"}})
    item = {"kind": "Pod", "apiVersion": "v1", "metadata": {"generateName": "web-"}}
    assert api.create(item, "lab") == {"metadata": {"name": "web-x"}}


def test_logs_are_text_and_their_absence_an_error(server: Server, api: Api) -> None:
    server.answers[f"GET {POD}/log"] = (200, "line one\nline two\n")
    assert api.logs("web", "lab", container="c", tail=2, previous=True) == "line one\nline two\n"
    assert server.seen[0]["query"] == {"tailLines": "2", "limitBytes": "65536", "container": "c", "previous": "true"}
    server.answers[f"GET {POD}/log"] = (400, refusal(400, "BadRequest", "container c is waiting to start"))
    with pytest.raises(ApiError, match="waiting to start"):
        api.logs("web", "lab", container="c")


def test_a_pods_port_is_reached_through_the_server(server: Server, api: Api) -> None:
    server.answers[f"POST {PODS}/web:8080/proxy/run/it"] = (200, {"ok": True})
    answer = api.proxy("POST", "web", "lab", 8080, "/run/it?fast=1", {"a": 1}, headers={"X-Token": "t"})
    assert answer == {"ok": True}
    assert server.seen[0]["query"] == {"fast": "1"}
    assert server.seen[0]["headers"]["X-Token"] == "t"
    assert server.seen[0]["headers"]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("call", [lambda api: api.get("Pod", "web", "lab"), lambda api: api.delete("Pod", "web")])
def test_when_nothing_listens_the_cluster_is_unreachable(call: Callable[[Api], Any]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        api = api_at(f"http://127.0.0.1:{unused.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(Unreachable, match="does not answer") as caught:
            call(api)
        api.close()
    assert time.monotonic() - started < 2
    assert "refused" in caught.value.why
    assert "kailab up" in caught.value.mend


def test_a_server_that_keeps_silent_is_unreachable_in_time(server: Server, api: Api) -> None:
    server.answers["GET /readyz"] = lambda handler: handler.server.over.wait(20) and None
    started = time.monotonic()
    with pytest.raises(Unreachable):
        api.request("GET", "/readyz", timeout=0.2)
    assert time.monotonic() - started < 2


def hang_up(handler: Handler) -> None:
    handler.close_connection = True


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("POST", 1), ("PATCH", 1), ("DELETE", 1)])
def test_only_reading_is_repeated_when_a_connection_breaks(server: Server, api: Api, method: str, times: int) -> None:
    server.answers[f"{method} {POD}"] = hang_up
    with pytest.raises(Unreachable):
        api.call(method, POD, None if method == "GET" else {})
    assert len(server.seen) == times


def test_a_connection_that_was_closed_meanwhile_does_not_matter_to_a_reader(server: Server, api: Api) -> None:
    def once_then_well(handler: Handler) -> None:
        if len(server.seen) == 1:
            hang_up(handler)
        else:
            handler.send(200, b'{"metadata": {"name": "web"}}')

    server.answers[f"GET {POD}"] = once_then_well
    assert api.get("Pod", "web", "lab") == {"metadata": {"name": "web"}}


def watched(api: Api, stop: Stop | None = None) -> Iterator[dict[str, Any]]:
    return api.watch("Pod", "lab", "77", stop or Stop(), labelSelector="app=web")


def test_a_watch_yields_events_however_they_are_cut(server: Server, api: Api) -> None:
    def stream(handler: Handler) -> None:
        handler.begin_stream()
        text = event("ADDED", {"n": 1}) + event("MODIFIED", {"n": 2}) + event("DELETED", {"n": "ü"})
        for cut in (text[:7], text[7:50], text[50:]):
            handler.chunk(cut)
            time.sleep(0.02)
        handler.chunk(b"")

    server.answers[f"GET {PODS}"] = stream
    assert [(entry["type"], entry["object"]["n"]) for entry in watched(api)] == [
        ("ADDED", 1), ("MODIFIED", 2), ("DELETED", "ü")]  # fmt: skip
    query = server.seen[0]["query"]
    assert (query["watch"], query["resourceVersion"], query["labelSelector"]) == ("1", "77", "app=web")


def test_a_watch_from_too_long_ago_is_an_error_410_after_its_beginning(server: Server, api: Api) -> None:
    def stream(handler: Handler) -> None:
        handler.begin_stream()
        handler.chunk(event("ADDED", {"n": 1}) + event("ERROR", refusal(410, "Expired", "too old resource version")))
        handler.server.over.wait(20)

    server.answers[f"GET {PODS}"] = stream
    events = watched(api)
    assert next(events)["object"] == {"n": 1}
    with pytest.raises(ApiError, match="too old resource version") as caught:
        next(events)
    assert (caught.value.status, caught.value.reason) == (410, "Expired")


def test_a_watch_from_too_long_ago_is_an_error_410_at_once(server: Server, api: Api) -> None:
    server.answers[f"GET {PODS}"] = (410, refusal(410, "Expired", "too old resource version"))
    with pytest.raises(ApiError, match="too old") as caught:
        next(watched(api))
    assert caught.value.status == 410


def test_a_quiet_second_does_not_end_a_watch(server: Server, api: Api) -> None:
    def stream(handler: Handler) -> None:
        handler.begin_stream()
        handler.chunk(event("ADDED", {"n": 1}))
        time.sleep(1.2)
        handler.chunk(event("ADDED", {"n": 2}))
        handler.chunk(b"")

    server.answers[f"GET {PODS}"] = stream
    assert [entry["object"]["n"] for entry in watched(api)] == [1, 2]


def test_a_watch_can_be_stopped_while_nothing_happens(server: Server, api: Api) -> None:
    def stream(handler: Handler) -> None:
        handler.begin_stream()
        handler.chunk(event("ADDED", {"n": 1}))
        handler.server.over.wait(20)

    server.answers[f"GET {PODS}"] = stream
    stop = Stop()
    events = watched(api, stop)
    next(events)
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    assert list(events) == []
    assert time.monotonic() - started < 3


def test_a_watch_that_finds_nobody_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        api = api_at(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(Unreachable):
            next(watched(api))
        api.close()


# Any certificate will do: nothing is connected to.
AUTHORITY = """
-----BEGIN CERTIFICATE-----
MIIBLjCB4aADAgECAhRKD3zkQN7DExAvScBO6SnVhZUWLzAFBgMrZXAwDDEKMAgG
A1UEAwwBdDAgFw0yNjExMjUwNTEwMTVaGA8yMTI2MTEwMTA1MTAxNVowDDEKMAgG
A1UEAwwBdDAqMAUGAytlcAMhAHa7dR+u3vtUIn+3+QH20Ko9m/BjmHB1Vf3etnTG
QFXWo1MwUTAdBgNVHQ4EFgQULZfYdDc/EQDLo7FfBqWbL+IX2HQwHwYDVR0jBBgw
FoAULZfYdDc/EQDLo7FfBqWbL+IX2HQwDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXAD
QQCL7880nxsye8OL+mYafttTlAJldn/X2lge0pEyM7ufQP3pf044gf0xcG8svprk
DqOZZHsuwwgzs2l6AFr0sc0K
-----END CERTIFICATE-----
"""
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: kind-x
clusters: [{name: kind-x, cluster: {server: "https://127.0.0.1:1", certificate-authority-data: "AUTHORITY"}}]
contexts: [{name: kind-x, context: {cluster: kind-x, user: kind-x}}]
users: [{name: kind-x, user: {client-certificate-data: eA==, client-key-data: eA==}}]
""".replace("AUTHORITY", base64.b64encode(AUTHORITY.strip().encode()).decode())
WITH_TOKEN = KUBECONFIG.replace("client-certificate-data: eA==, client-key-data: eA==", "token: secret")


def test_without_a_kubeconfig_there_is_no_cluster_yet(tmp_path: Path) -> None:
    with pytest.raises(KailabError, match="no course cluster here yet") as caught:
        connect(tmp_path / "kubeconfig")
    assert caught.value.mend == "kailab up"


def kubeconfig(folder: Path, text: str) -> Path:
    (folder / "kubeconfig").write_text(text)
    return folder / "kubeconfig"


def test_a_kubeconfig_says_where_the_cluster_is_and_how_to_log_in(tmp_path: Path) -> None:
    found = target(kubeconfig(tmp_path, WITH_TOKEN))
    assert found.server == "https://127.0.0.1:1"
    assert found.headers["Authorization"] == "Bearer secret"
    assert found.tls.verify_mode is ssl.CERT_REQUIRED
    assert len(found.tls.get_ca_certs()) == 1, "no other authority is trusted"


def test_an_authority_may_be_a_file_and_one_that_nobody_signed_is_the_owners_choice(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    data = WITH_TOKEN[WITH_TOKEN.index("certificate-authority-data") : WITH_TOKEN.index("}}]")]
    by_file = target(kubeconfig(tmp_path, WITH_TOKEN.replace(data, f"certificate-authority: {tmp_path}/ca.pem")))
    assert by_file.tls.verify_mode is ssl.CERT_REQUIRED
    assert by_file.headers["Authorization"] == "Bearer secret"
    unsigned = target(kubeconfig(tmp_path, WITH_TOKEN.replace(data, "insecure-skip-tls-verify: true")))
    assert unsigned.tls.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        pytest.param(KUBECONFIG, KUBECONFIG, "", id="empty"),
        pytest.param(KUBECONFIG, KUBECONFIG, "just text", id="text"),
        pytest.param(KUBECONFIG, "apiVersion", "\t}: {", id="no YAML"),
        pytest.param(KUBECONFIG, "current-context: kind-x", "current-context: gone", id="no such context"),
        pytest.param(KUBECONFIG, "user: kind-x", "user: gone", id="no such user"),
        pytest.param(KUBECONFIG, "clusters:", "others:", id="no clusters"),
        pytest.param(KUBECONFIG, ", client-key-data: eA==", "", id="no key"),
        pytest.param(KUBECONFIG, "client-key-data: eA==", "client-key-data: e", id="key cut off"),
        pytest.param(WITH_TOKEN, 'data: "LS0t', 'data: "', id="damaged authority"),
    ],
)
def test_a_damaged_kubeconfig_is_named_with_the_remedy(tmp_path: Path, text: str, old: str, new: str) -> None:
    assert old in text
    path = kubeconfig(tmp_path, text.replace(old, new))
    with pytest.raises(KailabError, match="not a usable kubeconfig") as caught:
        connect(path)
    assert str(path) in caught.value.what
    assert caught.value.mend == "kailab up"


class Expiring:
    """A login whose token ends: the server takes one only, and a file or program has it."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server
        self.valid, self.count = "first", folder / "count"
        self.to("first", told=True)
        server.answers[f"GET {POD}"] = self.answer
        server.answers[f"PATCH {POD}"] = self.answer

    def to(self, token: str, *, told: bool) -> None:
        """From now on the server takes this one; `told` when whoever asks for a new one gets it."""
        self.valid = token
        if told:
            (self.folder / "token").write_text(token)

    def takes(self, handler: Handler) -> bool:
        if handler.headers["Authorization"] == f"Bearer {self.valid}":
            return True
        handler.send(401, json.dumps(refusal(401, "Unauthorized", "Unauthorized")).encode())
        return False

    def answer(self, handler: Handler) -> None:
        if self.takes(handler):
            handler.send(200, b"{}")

    def api(self, user: dict[str, Any]) -> Api:
        return connect(servers.kubeconfig(self.folder / "config", {"server": self.server.url}, user), "c")

    def program(self) -> dict[str, Any]:
        said = '{"apiVersion": "v1", "kind": "ExecCredential", "status": {"token": "%s"}}'
        script = self.folder / "login"
        script.write_text(f"#!/bin/sh\necho run >> count\nprintf '{said}' $(cat token)\n")
        script.chmod(0o755)
        return {"exec": {"apiVersion": "v1", "command": str(script)}}


@pytest.fixture
def login(tmp_path: Path, server: Server) -> Expiring:
    return Expiring(tmp_path, server)


@pytest.mark.parametrize("by", ["tokenFile", "exec"])
@pytest.mark.parametrize(
    "call", [lambda api: api.get("Pod", "web", "lab"), lambda api: api.patch("Pod", "web", "lab", {})]
)
def test_a_login_that_has_expired_is_renewed_and_the_request_repeated(
    server: Server, login: Expiring, by: str, call: Callable[[Api], Any]
) -> None:
    with closing(login.api({"tokenFile": "token"} if by == "tokenFile" else login.program())) as api:
        for token in ("first", "second", "third"):
            login.to(token, told=True)
            assert call(api) == {}
            assert call(api) == {}
    assert [seen["headers"]["Authorization"][7:] for seen in server.seen] == [
        "first", "first", "first", "second", "second", "second", "third", "third",
    ]  # fmt: skip
    assert len({json.dumps(seen["body"]) for seen in server.seen}) == 1, "the same is sent again"


def test_a_watch_and_a_stream_renew_their_login_too(server: Server, login: Expiring) -> None:
    def events(handler: Handler) -> None:
        if login.takes(handler):
            handler.begin_stream()
            handler.chunk(event("ADDED", {"n": 1}))
            handler.chunk(b"")

    def stream(handler: Handler) -> None:
        if login.takes(handler):
            handler.close_connection = True
            head = f"x\r\nSec-WebSocket-Key: {handler.headers['Sec-WebSocket-Key']}"
            head += f"\r\nSec-WebSocket-Protocol: {handler.headers['Sec-WebSocket-Protocol']}"
            servers.accept_websocket(handler.connection, head)

    server.answers[f"GET {PODS}"], server.answers["GET /exec"] = events, stream
    with closing(login.api({"tokenFile": "token"})) as api:
        login.to("second", told=True)
        assert [entry["object"]["n"] for entry in watched(api)] == [1]
        login.to("third", told=True)
        with api.stream("/exec", 5) as opened:
            assert opened.connected
        login.to("fourth", told=False)
        with pytest.raises(ApiError, match="Unauthorized"), api.stream("/exec", 5):
            pass
        with pytest.raises(ApiError, match="Unauthorized"):
            next(watched(api))


def test_a_login_that_is_refused_for_good_is_tried_once_more_only(server: Server, login: Expiring) -> None:
    with closing(login.api(login.program())) as api:
        login.to("another", told=False)
        with pytest.raises(ApiError, match="Unauthorized") as refused:
            api.get("Pod", "web", "lab")
        assert refused.value.status == 401
    assert len(server.seen) == 2
    assert login.count.read_text().count("run") == 2


def test_who_acts_as_another_still_does_so_with_a_new_login(server: Server, login: Expiring) -> None:
    """Else the rest of a submission would be applied with the grader's own rights."""
    with closing(login.api({"tokenFile": "token"})) as api, closing(api.acting_as("ada")) as hers:
        hers.get("Pod", "web", "lab")
        login.to("second", told=True)
        hers.get("Pod", "web", "lab")
        hers.patch("Pod", "web", "lab", {})
        api.get("Pod", "web", "lab")
    assert [seen["headers"]["Impersonate-User"] for seen in server.seen] == ["ada"] * 4 + [None] * 2


def test_one_login_is_made_for_all_that_wait_for_it(server: Server, login: Expiring) -> None:
    all_there = threading.Barrier(8)

    def once_all_are_refused(handler: Handler) -> None:
        if handler.headers["Authorization"] != "Bearer second":
            all_there.wait(10)
        login.answer(handler)

    server.answers[f"GET {POD}"] = once_all_are_refused
    with closing(login.api(login.program())) as api, ThreadPoolExecutor(8) as pool:
        login.to("second", told=True)
        assert list(pool.map(lambda _: api.get("Pod", "web", "lab"), range(8))) == [{}] * 8
    assert login.count.read_text().count("run") == 2


def test_a_login_that_cannot_be_renewed_is_told_with_its_own_words(login: Expiring) -> None:
    user = login.program()
    with closing(login.api(user)) as api:
        login.to("second", told=False)
        Path(user["exec"]["command"]).write_text("#!/bin/sh\necho the session has ended >&2\nexit 1\n")
        with pytest.raises(Unreachable, match="login program") as lost:
            api.get("Pod", "web", "lab")
        assert "the session has ended" in lost.value.why
        login.server.answers[f"GET {PODS}"] = login.answer
        with pytest.raises(Unreachable, match="login program"):
            next(watched(api))


def test_where_nothing_tells_of_another_login_the_refusal_stands(server: Server, api: Api) -> None:
    server.answers[f"GET {POD}"] = (401, refusal(401, "Unauthorized", "Unauthorized"))
    with pytest.raises(ApiError, match="Unauthorized"):
        api.get("Pod", "web", "lab")
    assert len(server.seen) == 1
