"""A training loop: takes memory on every GPU it was given, then runs step after step, and tells how it goes.

The environment says what it does:

    GPU_MEMORY     MiB to hold on each GPU (1024)
    STEP_SECONDS   how long one step takes on a GPU that nobody else uses (0.5)
    PAUSE_SECONDS  idle time after each step, as a data loader's (0)
    STEPS          how many steps; 0 means for ever (0)

On port 8000: /healthz, /readyz (200 once the first step is done), /status (JSON) and /metrics (Prometheus format).
Exit status: 0 when all steps are done, 1 when a GPU failed, 2 when memory did not suffice, 3 without any GPU.
The silicon is simulated: a step is a duration on the GPU, no arithmetic happens in it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import kailab_gpu as gpu

PORT = 8000
GPU_FAILED, OUT_OF_MEMORY, NO_GPU = 1, 2, 3


@dataclass
class State:
    """What /status shows. Times in seconds; `alone_seconds` is what a step takes where nobody else uses the GPU, and
    `memory` the MiB held on each."""

    gpus: list[dict[str, object]] = field(default_factory=list)
    alone_seconds: float = 0.0
    memory: int = 0
    steps: int = 0
    last_step_seconds: float = 0.0
    mean_step_seconds: float = 0.0
    error: str = ""


def serve(state: State) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages = {
                "/healthz": (200, "text/plain", "ok\n"),
                "/readyz": (200 if state.steps else 503, "text/plain", f"{state.steps} steps done\n"),
                "/status": (200, "application/json", json.dumps(asdict(state))),
                "/metrics": (200, "text/plain; version=0.0.4", metrics(state)),
            }
            code, content, text = pages.get(self.path, (404, "text/plain", "there is /status and /metrics\n"))
            body = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", content)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Probes would drown the steps in the log."""

    threading.Thread(target=ThreadingHTTPServer(("", PORT), Handler).serve_forever, daemon=True).start()


def metrics(state: State) -> str:
    return (
        "# TYPE gpu_app_steps_total counter\n"
        f"gpu_app_steps_total {state.steps}\n"
        "# TYPE gpu_app_step_seconds gauge\n"
        f"gpu_app_step_seconds {state.last_step_seconds:.4f}\n"
    )


def number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        return float(text) if text else default
    except ValueError:
        sys.exit(f"{name} should be a number, not {text!r}")


def train(state: State) -> int:
    """Run the loop; returns the exit status."""
    memory, step = int(number("GPU_MEMORY", 1024)), number("STEP_SECONDS", 0.5)
    pause, wanted = number("PAUSE_SECONDS", 0), int(number("STEPS", 0))
    try:
        found = gpu.devices()
        state.gpus = [{"index": one.index, "uuid": one.uuid, "name": one.name, "memory": one.memory} for one in found]
        print(f"training on {', '.join(f'{one.name} ({one.uuid})' for one in found)}")
        blocks = [gpu.allocate(memory, one.index) for one in found]
        state.alone_seconds, state.memory = step, memory
        print(f"holding {memory} MiB on each of {len(blocks)} GPUs")
        started = time.monotonic()
        while not wanted or state.steps < wanted:
            state.last_step_seconds = together(step, [one.index for one in found])
            state.steps += 1
            state.mean_step_seconds = (time.monotonic() - started) / state.steps - pause
            if state.steps in (1, 10) or state.steps % 100 == 0:
                print(f"step {state.steps}: {state.last_step_seconds:.3f} s")
            time.sleep(pause)
    except gpu.NoDeviceError as failed:
        return stop(state, failed, NO_GPU)
    except gpu.OutOfMemoryError as failed:
        return stop(state, failed, OUT_OF_MEMORY)
    except gpu.DeviceError as failed:
        return stop(state, failed, GPU_FAILED)
    print(f"done: {state.steps} steps, {state.mean_step_seconds:.3f} s each")
    return 0


def together(seconds: float, devices: list[int]) -> float:
    """One step on all GPUs side by side, as data-parallel training does; the slowest one counts."""
    took: dict[int, float] = {}
    errors: list[Exception] = []

    def on(device: int) -> None:
        try:
            took[device] = gpu.run(seconds, device)
        except RuntimeError as failed:
            errors.append(failed)

    threads = [threading.Thread(target=on, args=(device,)) for device in devices[1:]]
    for thread in threads:
        thread.start()
    on(devices[0])
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return max(took.values())


def stop(state: State, failed: Exception, status: int) -> int:
    state.error = str(failed)
    print(f"{type(failed).__name__}: {failed}", file=sys.stderr)
    return status


def main() -> None:
    # As process 1 of a container it gets no default handler: without this, a deletion would take the whole grace.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    state = State()
    serve(state)
    sys.exit(train(state))


if __name__ == "__main__":
    main()
