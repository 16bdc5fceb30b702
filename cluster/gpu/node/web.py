"""Port 9400: /metrics for Prometheus, /status for `kailab gpu status`, /healthz for the kubelet."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from cluster.gpu.node import exporter
from cluster.gpu.node.view import Moment, status


class Pages:
    """A small HTTP server in a thread, while the `with` block runs; `moment` is asked at every request."""

    def __init__(self, port: int, moment: Callable[[], Moment]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Or the body waits for the headers' acknowledgement: 40 ms on a connection that was kept.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, exporter.CONTENT_TYPE, exporter.render(moment()))
                elif path == "/status":
                    self._answer(200, "application/json", json.dumps(status(moment())).encode())
                elif path == "/healthz":
                    self._answer(200, "text/plain", b"ok\n")
                else:
                    self._answer(404, "text/plain", b"there is /metrics, /status and /healthz\n")

            def _answer(self, code: int, content: str, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", content)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Scrapes every few seconds would hide what matters in the log."""

        self._server = ThreadingHTTPServer(("", port), Handler)
        self._server.daemon_threads = True

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Pages:
        threading.Thread(target=self._server.serve_forever, name="pages", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
