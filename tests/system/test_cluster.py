"""The course cluster does what lessons rely on: nodes, network, storage, metrics, load balancer."""

from __future__ import annotations

import json
import urllib.request

import pytest

from cluster.api import Api
from cluster.engine import Engine
from cluster.kinds import KINDS
from cluster.nodes import states
from cluster.run import run
from cluster.topology import NODES
from cluster.workspace import KUBERNETES_VERSION, Workspace
from tests.system.conftest import claim, eventually, pod, run_to_end

pytestmark = pytest.mark.cluster
SERVE = "import http.server as h; h.HTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"


def test_nodes_are_as_declared(api: Api) -> None:
    there = {node["metadata"]["name"]: node for node in api.list("Node")[0]}
    assert there.keys() == {node.name for node in NODES}
    for node in NODES:
        found = there[node.name]
        assert node.all_labels.items() <= found["metadata"]["labels"].items()
        assert found["status"]["nodeInfo"]["kubeletVersion"] == KUBERNETES_VERSION
        taints = {f"{t['key']}={t.get('value', '')}:{t['effect']}" for t in found["spec"].get("taints", [])}
        if node.taint:
            assert any(taint.replace("=:", ":") == node.taint.replace("=:", ":") for taint in taints), taints


def test_the_edge_node_is_small(api: Api) -> None:
    node = api.get("Node", "edge")
    assert node is not None
    assert node["status"]["allocatable"]["cpu"] == "1"


def test_the_table_of_kinds_is_the_servers_own(api: Api) -> None:
    for version in sorted({kind.api_version for kind in KINDS.values()}):
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        served = {(item["kind"], item["name"], item["namespaced"]) for item in api.call("GET", root)["resources"]}
        for kind in KINDS.values():
            if kind.api_version == version:
                assert (kind.kind, kind.plural, kind.namespaced) in served


def test_pods_on_different_nodes_reach_each_other_by_name(api: Api, namespace: str) -> None:
    server = pod("server", SERVE, node="gpu-a", app="server")
    api.create(server, namespace)
    api.create({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }, namespace)  # fmt: skip
    ask = (
        "import time, urllib.request as u\n"
        "for _ in range(100):\n"
        "    try: print(u.urlopen('http://web', timeout=2).status); break\n"
        "    except OSError: time.sleep(0.2)"
    )
    assert run_to_end(api, namespace, pod("asks", ask, node="edge")).strip() == "200"


def test_a_shared_volume_is_one_volume_on_all_nodes(api: Api, namespace: str) -> None:
    api.create(claim("both", "ReadWriteMany", "shared"), namespace)
    run_to_end(api, namespace, pod("writes", "open('/data/model', 'w').write('42')", node="cpu", claim="both"))
    read = pod("reads", "print(open('/data/model').read())", node="gpu-b", claim="both")
    assert run_to_end(api, namespace, read).strip() == "42"


def test_a_claim_of_the_default_class_keeps_its_data(api: Api, namespace: str) -> None:
    api.create(claim("own", "ReadWriteOnce"), namespace)
    run_to_end(api, namespace, pod("writes", "open('/data/model', 'w').write('42')", claim="own"))
    assert run_to_end(api, namespace, pod("reads", "print(open('/data/model').read())", claim="own")).strip() == "42"


def test_metrics_tell_what_nodes_use(api: Api) -> None:
    def measured() -> set[str]:
        return {item["metadata"]["name"] for item in api.list("NodeMetrics")[0]}

    assert eventually(lambda: measured() == {node.name for node in NODES})


def test_a_load_balancer_gets_an_address_that_answers_from_here(api: Api, namespace: str) -> None:
    api.create(pod("server", SERVE, app="server"), namespace)
    api.create({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }, namespace)  # fmt: skip

    def address() -> str:
        service = api.get("Service", "front", namespace)
        assert service is not None
        entries = service["status"]["loadBalancer"].get("ingress") or []
        return str(entries[0]["ip"]) if entries else ""

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://{address()}", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    assert eventually(address)
    assert eventually(answers)

    def said() -> bool:
        events = api.list("Event", namespace, fieldSelector="involvedObject.name=front")[0]
        return any("simulated cloud" in event["message"] for event in events)

    assert eventually(said)


def test_the_nodes_run_our_air_gapped_images_when_forced_to(engine: Engine, workspace: Workspace) -> None:
    """`make test` sets KAILAB_IMAGES=offline, so that this way is always taken at least once."""
    names = [state.container for state in states(engine, workspace.cluster_name)]
    found = json.loads(run([engine.program, "inspect", *names], env=engine.env).stdout)
    assert len(found) == len(NODES)
    for container in found:
        assert "kindest/node" not in container["Config"]["Image"]
        assert "kailab" in container["Config"]["Image"]
