"""The prober's own program, as it runs in its pod."""

from __future__ import annotations

import http.client
import importlib.util
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from checkers.prober import addon
from cluster.workspace import Workspace
from cluster.yamls import load_all

TOKEN = "a-token"
DELAYED_ACK = 0.04  # seconds: the least for which Linux holds an acknowledgement back (TCP_DELACK_MIN in its sources)


@pytest.fixture
def prober(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.client.HTTPConnection]:
    """A connection to it that is kept open, as the API server keeps its own."""
    monkeypatch.setenv("PROBER_TOKEN", TOKEN)
    spec = importlib.util.spec_from_file_location("prober_program", addon.IMAGE.context / "prober.py")
    assert spec
    assert spec.loader
    program: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    with program.Server(("127.0.0.1", 0), program.Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        with closing(http.client.HTTPConnection(*server.server_address, timeout=10)) as connection:
            yield connection
        server.shutdown()


def ask(prober: http.client.HTTPConnection, path: str, question: Any) -> tuple[int, Any]:
    prober.request("POST", path, json.dumps(question), {"X-Kailab-Token": TOKEN})
    answer = prober.getresponse()
    return answer.status, json.loads(answer.read())


def test_every_answer_on_a_kept_connection_comes_at_once(prober: http.client.HTTPConnection) -> None:
    # A new connection is acknowledged at once for a while, so what counts are the later answers.
    took = []
    for _ in range(40):
        began = time.perf_counter()
        assert ask(prober, "/tcp", {"host": "127.0.0.1", "port": prober.port}) == (200, {"open": True})
        took.append(time.perf_counter() - began)
    assert min(took[-10:]) < DELAYED_ACK / 2


def test_it_answers_nobody_without_the_token(prober: http.client.HTTPConnection) -> None:
    prober.request("POST", "/dns", json.dumps({"name": "localhost"}), {"X-Kailab-Token": "another"})
    answer = prober.getresponse()
    assert (answer.status, json.loads(answer.read())) == (403, {"error": "wrong token"})


def test_an_address_that_is_none_is_the_students_and_gets_an_answer(prober: http.client.HTTPConnection) -> None:
    status, said = ask(prober, "/http", {"url": "http://127.0.0.1:8000healthz"})
    assert status == 200
    assert "8000healthz" in said["error"]


def test_https_to_a_plain_server_fails_as_it_does_for_the_kubelet(prober: http.client.HTTPConnection) -> None:
    status, said = ask(prober, "/http", {"url": f"https://127.0.0.1:{prober.port}/healthz"})
    assert status == 200
    assert "SSL" in said["error"]


def pod_of(items: list[dict[str, Any]]) -> dict[str, Any]:
    (deployment,) = (item for item in items if item["kind"] == "Deployment")
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def test_on_the_course_cluster_it_is_where_no_lab_drains(tmp_path: Path) -> None:
    """Only a rule that must hold keeps it there: beside its own predecessor the scheduler would spread it away."""
    pod = pod_of(addon.manifests(Workspace(tmp_path, tmp_path)))
    assert pod["nodeSelector"] == {"node-role.kubernetes.io/control-plane": ""}


def test_a_cluster_that_shows_no_control_plane_has_a_place_for_it() -> None:
    """As its manifest stands, for whoever applies it by hand: managed clusters have no such node."""
    pod = pod_of(load_all((addon.FOLDER / "prober.yaml").read_text()))
    assert "nodeSelector" not in pod
    (preferred,) = pod["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in pod["affinity"]["nodeAffinity"]
    assert preferred["preference"]["matchExpressions"] == [
        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}
    ]
    assert {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"} in pod["tolerations"]
