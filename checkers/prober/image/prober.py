"""The prober: a small pod that asks questions from inside the cluster on the checker's behalf.

POST /http, /tcp, /dns answer one question each; POST /traffic starts a steady stream of requests, GET
/traffic/ID tells how it goes, DELETE /traffic/ID stops it and gives the final count. Every call needs the
token of the Secret beside it: students' pods share the network and must not borrow our eyes.
"""

from __future__ import annotations

import hmac
import http.client
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import SplitResult, urlsplit

PORT = 8080
TOKEN = os.environ["PROBER_TOKEN"]
MAX_BODY = 64 * 1024
MAX_TIMEOUT = 30.0
MAX_RATE = 200.0  # requests a second
MAX_SECONDS = 300.0  # a stream nobody stops ends by itself
MAX_STREAMS = 32


def ask_http(question: dict[str, Any]) -> dict[str, Any]:
    """One request on a connection of its own, so that a Service balances each anew."""
    started = time.monotonic()
    try:
        parts = urlsplit(question["url"])
        connection = connect(parts, min(float(question.get("timeout", 3)), MAX_TIMEOUT))
    except ValueError as wrong:
        return {"error": f"{question['url']}: {wrong}", "seconds": 0.0}
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        body = question.get("body")
        connection.request(
            question.get("method", "GET"), path, None if body is None else body.encode(),
            {"Host": parts.netloc, "Connection": "close", "User-Agent": "kailab-prober", **question.get("headers", {})},
        )  # fmt: skip
        answer = connection.getresponse()
        data = answer.read(MAX_BODY)
        return {
            "status": answer.status,
            "headers": {name.lower(): value for name, value in answer.getheaders()},
            "body": data.decode(errors="replace"),
            "seconds": round(time.monotonic() - started, 4),
        }
    except (OSError, http.client.HTTPException, ValueError) as failed:
        return {"error": describe(failed), "seconds": round(time.monotonic() - started, 4)}
    finally:
        connection.close()


def connect(parts: SplitResult, timeout: float) -> http.client.HTTPConnection:
    """Raises ValueError for a port that is none."""
    # The final dot makes a full name of it: without one the resolver tries every search domain first.
    dot = "." if parts.hostname and parts.hostname.endswith(".cluster.local") else ""
    host = f"{parts.hostname}{dot}"
    if parts.scheme == "https":
        # As the kubelet's probes do: who signed it is no question of theirs.
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(host, parts.port or 443, timeout=timeout, context=unverified)
    return http.client.HTTPConnection(host, parts.port or 80, timeout=timeout)


def ask_tcp(question: dict[str, Any]) -> dict[str, Any]:
    timeout = min(float(question.get("timeout", 3)), MAX_TIMEOUT)
    try:
        with socket.create_connection((question["host"], int(question["port"])), timeout):
            return {"open": True}
    except OSError as failed:
        return {"open": False, "error": describe(failed)}


def ask_dns(question: dict[str, Any]) -> dict[str, Any]:
    try:
        found = socket.getaddrinfo(question["name"], None, socket.AF_INET, socket.SOCK_STREAM)
        return {"addresses": sorted({str(entry[4][0]) for entry in found})}
    except (OSError, UnicodeError) as failed:
        return {"addresses": [], "error": describe(failed)}


def describe(failed: BaseException) -> str:
    if isinstance(failed, TimeoutError):
        return "no answer in time"
    if isinstance(failed, ConnectionRefusedError):
        return "connection refused"
    if isinstance(failed, ConnectionResetError):
        return "connection reset"
    if isinstance(failed, http.client.RemoteDisconnected):
        return "connection closed without an answer"
    return str(failed) or type(failed).__name__


class Stream:
    """A steady stream of requests from a few threads; every request counts once, as ok or failed."""

    def __init__(self, question: dict[str, Any]) -> None:
        self.question = question
        self.rate = min(float(question.get("rate", 20)), MAX_RATE)
        self.workers = max(1, min(int(question.get("workers", 4)), 16))
        self.started = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.pods: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        self.slowest = 0.0
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(self.workers)]
        for thread in self.threads:
            thread.start()

    def _send(self, number: int) -> None:
        gap = self.workers / self.rate
        due = self.started + gap * number / self.workers
        while not self.stop.wait(max(due - time.monotonic(), 0)):
            if time.monotonic() - self.started > MAX_SECONDS:
                return
            self._count(ask_http(self.question))
            due = max(due + gap, time.monotonic() - gap)

    def _count(self, answer: dict[str, Any]) -> None:
        ok = 200 <= answer.get("status", 0) < 400
        headers = answer.get("headers", {})
        with self.lock:
            self.counts["sent"] += 1
            self.counts["ok" if ok else "failed"] += 1
            self.slowest = max(self.slowest, answer["seconds"])
            if ok:
                self.pods[headers.get("x-pod", "?")] += 1
                self.versions[headers.get("x-version", "?")] += 1
            elif len(self.failures) < 10:
                what = answer.get("error") or f"HTTP {answer.get('status')}: {answer.get('body', '')[:120]}"
                self.failures.append({"after": round(time.monotonic() - self.started, 2), "what": what})

    def result(self) -> dict[str, Any]:
        with self.lock:
            return {
                "sent": self.counts["sent"], "ok": self.counts["ok"], "failed": self.counts["failed"],
                "pods": dict(self.pods), "versions": dict(self.versions), "failures": list(self.failures),
                "slowest": self.slowest, "seconds": round(time.monotonic() - self.started, 2),
            }  # fmt: skip

    def end(self) -> dict[str, Any]:
        self.stop.set()
        for thread in self.threads:
            thread.join(timeout=MAX_TIMEOUT)
        return self.result()


STREAMS: dict[str, Stream] = {}
QUESTIONS = {"/http": ask_http, "/tcp": ask_tcp, "/dns": ask_dns}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are written one after the other: with Nagle's algorithm the body waits for the headers'
    # acknowledgement, which the API server's kernel holds back for 40 ms on connections that it keeps.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(200, {"ok": True})
        elif self._allowed() and (stream := self._stream()):
            self._answer(200, stream.result())

    def do_DELETE(self) -> None:
        if self._allowed() and (stream := self._stream()):
            STREAMS.pop(self.path.rsplit("/", 1)[-1], None)
            self._answer(200, stream.end())

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if size > 4 * MAX_BODY:
            self.close_connection = True
            return self._answer(413, {"error": "too large"})
        raw = self.rfile.read(size)
        if not self._allowed():
            return None
        try:
            question = json.loads(raw)
            if self.path in QUESTIONS:
                return self._answer(200, QUESTIONS[self.path](question))
            if self.path == "/traffic" and len(STREAMS) < MAX_STREAMS:
                STREAMS[question["id"]] = Stream(question)
                return self._answer(200, {"id": question["id"]})
        except (ValueError, KeyError, TypeError) as wrong:
            return self._answer(400, {"error": repr(wrong)})
        return self._answer(404, {"error": "no such question"})

    def _stream(self) -> Stream | None:
        stream = STREAMS.get(self.path.rsplit("/", 1)[-1])
        if stream is None:
            self._answer(404, {"error": "no such stream"})
        return stream

    def _allowed(self) -> bool:
        good = hmac.compare_digest(self.headers.get("X-Kailab-Token", ""), TOKEN)
        if not good:
            self._answer(403, {"error": "wrong token"})
        return good

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet: the checker's questions are in its evidence."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    server = Server(("", PORT), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main()
