"""gRPC servers on Unix sockets, where the kubelet looks for plugins."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

STOP_SECONDS = 5


def serve(path: Path, add: Callable[[Any, grpc.Server], None], servicer: Any, threads: int) -> grpc.Server:
    """A started server at `path`, in the place of whatever is there. `add` is the generated add_..._to_server."""
    path.unlink(missing_ok=True)
    server = grpc.server(ThreadPoolExecutor(threads, thread_name_prefix=path.stem))
    add(servicer, server)
    server.add_insecure_port(f"unix://{path}")
    server.start()
    return server


def stop(server: grpc.Server) -> None:
    """Return when it has ended: gRPC then removes the socket's path, which later could be the next server's."""
    server.stop(grace=0).wait(timeout=STOP_SECONDS)
