"""Servers of our own for tests of clients: they speak plainly what an API server would, also where it misbehaves."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme

NAME = "inside.example"
_AUTHORITY = trustme.CA()
_ISSUED = _AUTHORITY.issue_cert(NAME)
# In PEM: who is to be trusted, and a certificate for NAME with its key.
AUTHORITY = _AUTHORITY.cert_pem.bytes().decode()
CERTIFICATE = b"".join(part.bytes() for part in _ISSUED.cert_chain_pems).decode()
KEY = _ISSUED.private_key_pem.bytes().decode()
Serve = Callable[[socket.socket, str], None]


@contextmanager
def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that hands each connection, with the head of its first request, to a function; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def one(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:  # clients may leave whenever they like
                opened = tls.wrap_socket(connection, server_side=True) if tls else connection
                with opened:
                    serve(opened, _head(opened))

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def _head(connection: socket.socket) -> str:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError
        head += byte
    return head.decode()


def header(head: str, name: str) -> str:
    """A header of a request, empty where it has none of that name."""
    lines = [line.partition(": ") for line in head.split("\r\n")[1:]]
    return next((value for key, _, value in lines if key.lower() == name.lower()), "")


def answer(connection: socket.socket, status: int, document: Any) -> None:
    """One HTTP answer, after which the connection ends."""
    body = json.dumps(document).encode()
    connection.sendall(
        f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    )


def accept_websocket(connection: socket.socket, head: str) -> None:
    """RFC 6455, "Opening Handshake". As the API server does, it refuses whoever asks for JSON."""
    if header(head, "Accept"):
        answer(connection, 406, {"kind": "Status", "code": 406, "reason": "NotAcceptable"})
        return
    key = header(head, "Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    token = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    protocol = header(head, "Sec-WebSocket-Protocol").split(",")[0]
    connection.sendall(
        f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {token}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n".encode()
    )


def message(stream: int, data: bytes) -> bytes:
    """A binary message of an exec stream."""
    return _frame(2, bytes([stream]) + data)


CLOSE = b"\x88\x02" + struct.pack(">H", 1000)


def _frame(opcode: int, data: bytes) -> bytes:
    size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data))
    return bytes([0x80 | opcode]) + size + data


@contextmanager
def tunnelling(to: int, seen: list[str]) -> Iterator[int]:
    """An HTTP proxy whose every tunnel ends at one port here; its own port. What it is asked goes to `seen`."""

    def serve(connection: socket.socket, head: str) -> None:
        seen.append(head)
        with socket.create_connection(("127.0.0.1", to)) as inside:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=_pour, args=(inside, connection), daemon=True).start()
            _pour(connection, inside)

    with serving(serve) as port:
        yield port


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def server_tls(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS, with the certificate above."""
    (folder / "pair.pem").write_text(CERTIFICATE + KEY)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "pair.pem")
    return tls


def kubeconfig(path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    """A kubeconfig with one context, `c`."""
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }))  # fmt: skip
    return path
