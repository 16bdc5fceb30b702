"""ai-api: an inference service for pictures of digits, as labs deploy it.

POST /predict {"pixels": 8x8 values from 0 to 1} or {"instances": [8x8, ...]}; GET /healthz (the process is
alive), /readyz (the model is loaded and the service is not shutting down), /version, /metrics. Settings come
from the environment: MODEL_PATH, BATCH_SIZE, LOG_LEVEL, PORT, START_DELAY, SHUTDOWN_DELAY, FAIL_READY, FAIL_LIVE.

Python's own HTTP server rather than a framework: labs start this program hundreds of times on small machines,
and it is up in a third of the time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from digits import SIZE
from prometheus_client import Counter, Gauge, Histogram, generate_latest
from train import predict

RELEASE = os.environ.get("RELEASE", "dev")
POD = os.environ.get("HOSTNAME", socket.gethostname())
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
MAX_BODY = 1 << 20
BRIGHTEST = 1e6  # pixels are 0 to 1; far beyond, sums overflow
log = logging.getLogger("ai-api")

REQUESTS = Counter("ai_api_requests_total", "Requests answered", ["path", "code"])
SECONDS = Histogram("ai_api_request_seconds", "Time to answer a request", ["path"])
MODEL = Gauge("ai_api_model_info", "The loaded model", ["name", "release"])


class BadSetting(Exception):
    """An environment variable that makes no sense."""


@dataclass(frozen=True)
class Settings:
    model_path: Path
    batch_size: int
    log_level: str
    port: int
    start_delay: float
    shutdown_delay: float
    fail_ready: bool
    fail_live: bool

    @classmethod
    def from_environment(cls) -> Settings:
        """Raises BadSetting naming the variable and its value."""
        level = os.environ.get("LOG_LEVEL", "INFO").upper()
        if level not in LEVELS:
            raise BadSetting(f"LOG_LEVEL is {level!r}; it must be one of {', '.join(LEVELS)}")
        return cls(
            model_path=Path(os.environ.get("MODEL_PATH", "/models/model.npz")),
            batch_size=int(_number("BATCH_SIZE", 32, least=1)),
            log_level=level,
            port=int(_number("PORT", 8000, least=1, most=65535)),
            start_delay=_number("START_DELAY", 0),
            shutdown_delay=_number("SHUTDOWN_DELAY", 5),
            fail_ready=_switch("FAIL_READY"),
            fail_live=_switch("FAIL_LIVE"),
        )


def _number(name: str, default: float, least: float = 0, most: float = 10**6) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text or default)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise BadSetting(f"{name} is {text!r}; it must be a number from {least:g} to {most:g}")
    return value


def _switch(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


class Service:
    """The model and the service's state: loading, ready, failed, draining."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model: dict[str, np.ndarray] | None = None
        self.problem = "the model is still loading"
        self.draining = False

    def load(self) -> None:
        """Load the model after START_DELAY; a damaged file leaves the service alive but never ready."""
        time.sleep(self.settings.start_delay)
        try:
            with np.load(self.settings.model_path) as stored:
                model = {name: stored[name] for name in stored.files}
            predict(model, np.zeros((1, SIZE * SIZE)))
        except Exception as failed:  # noqa: BLE001 - numpy raises many kinds for a damaged file
            self.problem = f"the model {self.settings.model_path} can't be loaded: {failed}"
            log.error(self.problem)  # noqa: TRY400 - a student reads this line, not a traceback
            return
        self.model, self.problem = model, ""
        MODEL.labels(str(model["name"]), RELEASE).set(1)
        log.info("model %s loaded, accuracy %.3f", model["name"], model["accuracy"])

    @property
    def not_ready(self) -> str:
        """Empty when ready, else why not."""
        if self.settings.fail_ready:
            return "FAIL_READY is set"
        return "shutting down" if self.draining else self.problem

    def version(self) -> dict[str, Any]:
        model = self.model or {}
        return {
            "release": RELEASE, "pod": POD, "model": str(model.get("name", "")),
            "accuracy": round(float(model["accuracy"]), 3) if model else None,
        }  # fmt: skip

    def predictions(self, document: Any) -> tuple[int, dict[str, Any]]:
        """HTTP status and answer for the body of /predict."""
        if self.model is None:
            return (503 if "loading" in self.problem else 500), {"error": self.problem}
        if not isinstance(document, dict) or not ({"pixels", "instances"} & document.keys()):
            return 422, {"error": 'send {"pixels": 8 rows of 8 numbers} or {"instances": [such pictures]}'}
        pictures = document["instances"] if "instances" in document else [document["pixels"]]
        shape = 422, {"error": f"a picture is {SIZE} rows of {SIZE} numbers, none beyond {BRIGHTEST:g}"}
        if not isinstance(pictures, list):
            return shape
        if len(pictures) > self.settings.batch_size:
            return 413, {"error": f"at most BATCH_SIZE={self.settings.batch_size} pictures at once"}
        try:
            rows = np.array(pictures, dtype=float).reshape(len(pictures), SIZE * SIZE)
        except (ValueError, TypeError, OverflowError):
            return shape
        if not (np.abs(rows) <= BRIGHTEST).all():  # also false for what is no number (null, NaN)
            return shape
        chances = predict(self.model, rows)
        found = [{"digit": int(row.argmax()), "confidence": round(float(row.max()), 4)} for row in chances]
        return 200, ({"predictions": found} if "instances" in document else found[0])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Or the body waits for the headers' acknowledgement: 40 ms on a connection that was kept.
    disable_nagle_algorithm = True
    server: Server

    def handle_one_request(self) -> None:
        self.server.idle.add(self.connection)
        super().handle_one_request()

    def parse_request(self) -> bool:
        self.server.idle.discard(self.connection)
        return super().parse_request()

    def finish(self) -> None:
        self.server.idle.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        service = self.server.service
        if self.path == "/healthz":
            failing = service.settings.fail_live
            self._answer(500 if failing else 200, {"alive": not failing})
        elif self.path == "/readyz":
            why = service.not_ready
            self._answer(503 if why else 200, {"ready": not why, **({"why": why} if why else {})})
        elif self.path == "/version":
            self._answer(200, service.version())
        elif self.path == "/metrics":
            self._send(200, generate_latest(), "text/plain; version=0.0.4")
        else:
            self._answer(404, {"error": f"no such path: {self.path[:80]}"})

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if size > MAX_BODY:
            self.close_connection = True
            return self._answer(413, {"error": f"at most {MAX_BODY} bytes"})
        raw = self.rfile.read(size)
        if self.path != "/predict":
            return self._answer(404, {"error": f"no such path: {self.path[:80]}"})
        started = time.perf_counter()
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            return self._answer(422, {"error": "the body is not JSON"})
        status, answer = self.server.service.predictions(document)
        SECONDS.labels("/predict").observe(time.perf_counter() - started)
        return self._answer(status, answer)

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        self._send(status, json.dumps(document).encode() + b"\n", "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        path = self.path if self.path in ("/healthz", "/readyz", "/version", "/metrics", "/predict") else "other"
        REQUESTS.labels(path, str(status)).inc()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Pod", POD)
        self.send_header("X-Version", RELEASE)
        if self.server.service.draining:  # a kept-alive connection would outlive us
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form: str, *args: Any) -> None:
        log.debug("%s %s", self.address_string(), form % args)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # what has begun is answered before the process ends
    request_queue_size = 256

    def __init__(self, service: Service) -> None:
        self.service = service
        self.idle: set[socket.socket] = set()  # connections kept alive, between two requests
        super().__init__(("", service.settings.port), Handler)

    def server_close(self) -> None:
        """Wait for the last answers, but not for clients that have nothing more to ask."""
        for connection in list(self.idle):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("connection lost: %s", sys.exc_info()[1])


def main() -> int:
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        settings = Settings.from_environment()
        log.setLevel(settings.log_level)
        if not settings.model_path.exists():
            raise BadSetting(f"MODEL_PATH: there is no file {settings.model_path}")
        service = Service(settings)
        server = Server(service)
    except (BadSetting, OSError) as wrong:
        log.error("can't start: %s", wrong)  # noqa: TRY400 - as above
        return 1

    def shut_down(*_: Any) -> None:
        """Kubernetes takes a moment to send traffic elsewhere: go on answering, then stop."""
        if service.draining:
            return
        service.draining = True
        log.info("told to stop: answering for another %g s", settings.shutdown_delay)
        threading.Timer(settings.shutdown_delay, server.shutdown).start()

    signal.signal(signal.SIGTERM, shut_down)
    signal.signal(signal.SIGINT, shut_down)
    threading.Thread(target=service.load, daemon=True).start()
    log.info("ai-api %s listens on port %d", RELEASE, settings.port)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
