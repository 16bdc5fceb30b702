"""A port of the loopback network that leads to a Unix socket: an engine as DOCKER_HOST would name it."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType


class UnixSocketProxy(socketserver.ThreadingTCPServer):
    """Counts the connections that came through."""

    daemon_threads = True

    def __init__(self, target: Path) -> None:
        self.target, self.count = target, 0
        super().__init__(("127.0.0.1", 0), _Connection)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __enter__(self) -> UnixSocketProxy:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown()
        self.server_close()


class _Connection(socketserver.BaseRequestHandler):
    server: UnixSocketProxy

    def handle(self) -> None:
        self.server.count += 1
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(str(self.server.target))
            back = threading.Thread(target=_pump, args=(engine, self.request), daemon=True)
            back.start()
            _pump(self.request, engine)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)  # the other direction may go on, as in `docker exec` without input
