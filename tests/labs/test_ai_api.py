"""The inference service that labs deploy: health, readiness, predictions, bad input, and a clean end."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from labs import catalog

PROGRAM = catalog.LABS / "apps" / "ai_api"
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
BLANK = {"pixels": [[0] * 8] * 8}
# All processes of these tests, by what they are for, with their release and settings: they start together.
STARTED = {
    "v1": ("v1", {"BATCH_SIZE": "300", "HOSTNAME": "pod-v1"}),
    "v2": ("v2", {"BATCH_SIZE": "300", "HOSTNAME": "pod-v2", "START_DELAY": "0.4"}),
    "broken": ("broken", {}),
    "failing": ("v1", {"FAIL_READY": "true", "FAIL_LIVE": "1"}),
    "loading": ("v1", {"START_DELAY": "60"}),
    "busy": ("v1", {}),
    "draining": ("v1", {"SHUTDOWN_DELAY": "0.8"}),
    "kept open": ("v1", {}),
}


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        """The body as strict JSON: Python alone knows NaN and Infinity."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is not JSON: {self.body!r}")

        return json.loads(self.body, parse_constant=refuse)


@dataclass
class Service:
    """The program as a process of its own on a free port."""

    process: subprocess.Popen[str]
    port: int
    hung: bool = False

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, None)

    def post(self, body: Any, path: str = "/predict") -> Answer:
        return self._ask("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        connection = self.connect()
        try:
            connection.request(method, path, body, {"Connection": "close"})
            return answer_of(connection)
        finally:
            connection.close()

    def wait(self, path: str, status: int, body: Any = None) -> None:
        """Ask until it answers so; POST where there is a body."""
        deadline = time.monotonic() + 20
        while True:
            try:
                if (self.get(path) if body is None else self.post(body, path)).status == status:
                    return
            except OSError:
                assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, f"{path} never answered {status}"
            time.sleep(0.02)

    def end(self, seconds: float = 5) -> int:
        """Its exit status after SIGTERM; `hung` when it had to be killed."""
        self.process.terminate()
        return self.status(seconds)

    def status(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.hung = True
            self.process.kill()
            return self.process.wait(5)


def answer_of(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    return Answer(response.status, response.read(), dict(response.headers))


def started(release: str, model: Path, settings: dict[str, str]) -> Service:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    usual = {"RELEASE": release, "MODEL_PATH": str(model), "PORT": str(port), "START_DELAY": "0", "SHUTDOWN_DELAY": "0"}
    process = subprocess.Popen(
        [sys.executable, PROGRAM / "server.py"], env={**ENVIRONMENT, **usual, **settings}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return Service(process, port)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each release's model file will be, once `services` are there; made as the images make them."""
    folder = tmp_path_factory.mktemp("models")
    return {release: folder / release / "model.npz" for release in ("v1", "broken", "v2")}


@pytest.fixture(scope="module")
def services(models: dict[str, Path]) -> Iterator[dict[str, Service]]:
    training = {
        release: subprocess.Popen([sys.executable, PROGRAM / "train.py", release, path], env=ENVIRONMENT,
                                  stdout=subprocess.DEVNULL)
        for release, path in models.items()
    }  # fmt: skip
    running = {}
    for release, process in training.items():  # the last one takes longest: the others' services start meanwhile
        assert process.wait(30) == 0
        for name, (of, settings) in STARTED.items():
            if of == release:
                running[name] = started(release, models[release], settings)
    yield running
    for service in running.values():
        service.process.kill()
        service.process.communicate(timeout=5)


@pytest.fixture
def v1(services: dict[str, Service]) -> Service:
    services["v1"].wait("/readyz", 200)
    return services["v1"]


@pytest.fixture
def v2(services: dict[str, Service]) -> Service:
    services["v2"].wait("/readyz", 200)
    return services["v2"]


def test_a_ready_service_says_what_it_is(v1: Service, models: dict[str, Path]) -> None:
    assert v1.get("/healthz").json == {"alive": True}
    assert v1.get("/readyz").json == {"ready": True}
    version = v1.get("/version").json
    with np.load(models["v1"]) as model:
        assert version == {"release": "v1", "pod": "pod-v1", "model": str(model["name"]),
                           "accuracy": round(float(model["accuracy"]), 3)}  # fmt: skip


def test_every_answer_tells_which_pod_and_which_release_gave_it(v1: Service, v2: Service) -> None:
    for release, service in (("v1", v1), ("v2", v2)):
        headers = service.post(BLANK).headers
        assert (headers["X-Pod"], headers["X-Version"]) == (f"pod-{release}", release)


@pytest.mark.parametrize("document", [BLANK, {"pixels": [0.5] * 64}, {"pixels": [[1.0] * 8] * 8, "note": "ignored"}])
def test_a_picture_gets_a_digit(v1: Service, document: Any) -> None:
    answer = v1.post(document)
    assert answer.status == 200
    assert answer.json["digit"] in range(10)
    assert 0.1 <= answer.json["confidence"] <= 1


@pytest.mark.parametrize("count", [0, 1, 300])
def test_a_batch_gets_as_many_digits(v1: Service, count: int) -> None:
    answer = v1.post({"instances": [BLANK["pixels"]] * count})
    assert answer.status == 200
    assert len(answer.json["predictions"]) == count


def test_a_picture_is_read_the_same_alone_and_in_a_batch(v1: Service) -> None:
    picture = [[row * column / 64 for column in range(8)] for row in range(8)]
    batch = v1.post({"instances": [BLANK["pixels"], picture]}).json["predictions"]
    assert batch[1] == v1.post({"pixels": picture}).json


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 422, id="nothing"),
        pytest.param(b"pixels", 422, id="not JSON"),
        pytest.param(b"\xff\xfe", 422, id="no text"),
        pytest.param(b"[" * 100_000, 422, id="nested without end"),
        pytest.param([], 422, id="a list"),
        pytest.param({}, 422, id="no pixels"),
        pytest.param({"pixels": [[0] * 8] * 7}, 422, id="a row less"),
        pytest.param({"pixels": [[0] * 8] * 7 + [[0] * 7]}, 422, id="a short row"),
        pytest.param({"pixels": [["x"] * 8] * 8}, 422, id="no numbers"),
        pytest.param({"pixels": 7}, 422, id="one number"),
        pytest.param({"pixels": {"a": 1}}, 422, id="an object"),
        pytest.param({"pixels": [[None] * 8] * 8}, 422, id="nulls"),
        pytest.param({"pixels": [[1e308] * 8] * 8}, 422, id="far too bright"),
        pytest.param({"instances": 7}, 422, id="instances that are no list"),
        pytest.param({"instances": [[[0] * 8] * 8, [[0] * 8] * 7]}, 422, id="one of two too small"),
        pytest.param({"instances": [BLANK["pixels"]] * 301}, 413, id="more than a batch"),
    ],
)
def test_bad_input_is_refused_with_the_reason(v1: Service, body: Any, status: int) -> None:
    answer = v1.post(body)
    assert answer.status == status
    assert answer.json["error"]
    assert v1.get("/readyz").status == 200


def test_a_body_that_is_too_big_is_refused_unread(v1: Service) -> None:
    connection = v1.connect()
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(2 << 20))
    connection.endheaders()
    answer = answer_of(connection)
    connection.close()
    assert answer.status == 413
    assert "1048576" in answer.json["error"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/predict"), ("POST", "/"), ("POST", "/healthz")])
def test_other_paths_are_not_found(v1: Service, method: str, path: str) -> None:
    answer = v1.get(path) if method == "GET" else v1.post(BLANK, path)
    assert (answer.status, path in answer.json["error"]) == (404, True)


def test_one_connection_serves_many_requests(v1: Service) -> None:
    connection = v1.connect()
    for body in (b"{}", b"nonsense", json.dumps(BLANK).encode()):
        connection.request("POST", "/predict", body)
        last = answer_of(connection)
    connection.close()
    assert last.status == 200


def measured(service: Service) -> dict[tuple[str, ...], float]:
    answer = service.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.body.decode())
    return {
        (it.name, *(f"{key}={value}" for key, value in sorted(it.labels.items()))): it.value
        for family in families
        for it in family.samples
    }


def test_metrics_count_what_was_answered(v1: Service) -> None:
    good = ("ai_api_requests_total", "code=200", "path=/predict")
    bad = ("ai_api_requests_total", "code=422", "path=/predict")
    lost = ("ai_api_requests_total", "code=404", "path=other")
    before = measured(v1)
    for body in (BLANK, BLANK, {}):
        v1.post(body)
    v1.get("/no/such/path")
    after = measured(v1)
    assert [after[name] - before.get(name, 0) for name in (good, bad, lost)] == [2, 1, 1]
    assert after["ai_api_request_seconds_count", "path=/predict"] >= 3
    assert after["ai_api_model_info", "name=digits-linear", "release=v1"] == 1


def test_a_broken_release_is_alive_but_never_ready(services: dict[str, Service]) -> None:
    broken = services["broken"]
    broken.wait("/predict", 500, BLANK)
    assert broken.get("/healthz").status == 200
    ready = broken.get("/readyz")
    assert (ready.status, ready.json["ready"]) == (503, False)
    assert "can't be loaded" in ready.json["why"]
    answer = broken.post(BLANK)
    assert answer.status == 500
    assert "can't be loaded" in answer.json["error"]
    assert broken.get("/version").json["accuracy"] is None


def test_the_second_release_reads_more_digits_rightly(v1: Service, v2: Service) -> None:
    found = importlib.util.spec_from_file_location("ai_api_digits", PROGRAM / "digits.py")
    assert found is not None
    assert found.loader is not None
    digits = importlib.util.module_from_spec(found)
    found.loader.exec_module(digits)
    pictures, truth = digits.sample(300, seed=7)
    body = {"instances": pictures.reshape(-1, 8, 8).tolist()}
    right = {}
    for release, service in (("v1", v1), ("v2", v2)):
        read = [it["digit"] for it in service.post(body).json["predictions"]]
        right[release] = float((np.array(read) == truth).mean())
        assert right[release] == pytest.approx(service.get("/version").json["accuracy"], abs=0.08)
    assert right["v2"] > right["v1"] + 0.2 > 0.4


@pytest.mark.usefixtures("services")
def test_the_broken_release_is_the_first_one_cut_off(models: dict[str, Path]) -> None:
    whole, cut = models["v1"].read_bytes(), models["broken"].read_bytes()
    assert whole.startswith(cut), "training gives the same model each time"
    assert 0 < len(cut) < len(whole)


def test_while_its_model_loads_a_service_is_alive_and_not_ready(services: dict[str, Service]) -> None:
    service = services["loading"]
    service.wait("/healthz", 200)
    ready = service.get("/readyz")
    assert (ready.status, ready.json["ready"], "loading" in ready.json["why"]) == (503, False, True)
    assert service.post(BLANK).status == 503
    assert (service.end(), service.hung) == (0, False)


def test_a_slow_start_comes_to_its_end(v2: Service) -> None:
    assert v2.post(BLANK).status == 200


def test_a_service_can_be_told_to_fail_its_probes(services: dict[str, Service]) -> None:
    service = services["failing"]
    service.wait("/healthz", 500)
    assert service.get("/readyz").json == {"ready": False, "why": "FAIL_READY is set"}


def half_sent(service: Service) -> tuple[http.client.HTTPConnection, bytes]:
    """A request of which the service has seen the beginning; the rest."""
    body = json.dumps(BLANK).encode()
    connection = service.connect()
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:10])
    return connection, body[10:]


def test_told_to_stop_it_answers_what_has_begun_and_ends_well(services: dict[str, Service]) -> None:
    service = services["busy"]
    service.wait("/readyz", 200)
    connection, rest = half_sent(service)
    service.wait("/healthz", 200)  # by now the first request has been taken up
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert service.process.poll() is None
    connection.send(rest)
    assert answer_of(connection).status == 200
    connection.close()
    assert (service.status(5), service.hung) == (0, False)


def test_told_to_stop_it_goes_on_answering_for_a_while_but_is_not_ready(services: dict[str, Service]) -> None:
    service = services["draining"]
    service.wait("/readyz", 200)
    service.process.send_signal(signal.SIGTERM)
    service.wait("/readyz", 503)
    answer = service.post(BLANK)
    assert answer.status == 200
    assert answer.headers["Connection"] == "close"
    assert service.get("/healthz").status == 200
    assert (service.end(), service.hung) == (0, False)  # a second SIGTERM changes nothing


def test_a_client_that_keeps_its_connection_open_does_not_hold_up_the_end(services: dict[str, Service]) -> None:
    service = services["kept open"]
    service.wait("/readyz", 200)
    connection = service.connect()
    connection.request("GET", "/healthz")
    assert answer_of(connection).status == 200
    status = service.end(1.5)
    connection.close()
    assert (status, service.hung) == (0, False)


WRONG_SETTINGS = {
    "BATCH_SIZE": "0",
    "LOG_LEVEL": "LOUD",
    "MODEL_PATH": "/no/such/model.npz",
    "PORT": "http",
    "START_DELAY": "-1",
    "SHUTDOWN_DELAY": "soon",
    "PORT ": "80000",  # a number, but of no port
}
# The program's entry once for each wrong setting, in one process: Python and NumPy take longer to start than all this.
TRY_ALL = """
import json, os, sys, traceback, server
for name, value in json.loads(sys.argv[1]).items():
    usual = os.environ[name.strip()]
    os.environ[name.strip()] = value
    print(f"<{name}>", flush=True)
    try:
        print("status", server.main(), flush=True)
    except Exception:
        traceback.print_exc(file=sys.stdout)
    os.environ[name.strip()] = usual
"""


@pytest.fixture(scope="module")
def refusals() -> str:
    usual = {"BATCH_SIZE": "1", "LOG_LEVEL": "INFO", "MODEL_PATH": str(PROGRAM / "server.py"), "PORT": "8000",
             "START_DELAY": "0", "SHUTDOWN_DELAY": "0"}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", TRY_ALL, json.dumps(WRONG_SETTINGS)], env={**ENVIRONMENT, **usual}, cwd=PROGRAM,
        capture_output=True, text=True, check=True, timeout=20,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_a_setting_that_makes_no_sense_is_named_and_nothing_starts(refusals: str, name: str) -> None:
    said = refusals.partition(f"<{name}>")[2].partition("<")[0]
    assert "Traceback" not in said
    assert WRONG_SETTINGS[name] in said
    assert name.strip() in said or name == "PORT "
    assert said.rstrip().endswith("status 1")


def test_many_requests_at_once_are_all_answered(v1: Service) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(v1.post(BLANK).status)) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 40
