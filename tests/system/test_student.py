"""A student's way through a lab, by the commands that the README names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

import checkers
from cluster.api import Api
from cluster.run import run
from cluster.tools import find_kubectl
from cluster.workspace import Workspace
from labs.catalog import lab_numbered
from tests.system.conftest import eventually, kailab

pytestmark = pytest.mark.cluster
SCHEMA = json.loads((Path(checkers.__file__).parent / "schema.json").read_text())


@pytest.fixture(autouse=True)
def _nothing_is_left(api: Api) -> Iterator[None]:
    yield
    api.delete("Namespace", lab_numbered(6).namespace)


def test_from_the_starter_to_a_pass_and_away(home: Path, workspace: Workspace, api: Api) -> None:
    env = {"KAILAB_HOME": str(home)}
    lab = lab_numbered(6)
    not_started = kailab("check", "6", **env)
    assert not_started.returncode == 2
    assert "kailab start 6" in not_started.stderr

    assert "Started lab 6" in kailab("start", "6", **env).stdout
    work = home.parent / "work" / lab.namespace
    draft = (work / "deployment.yaml").read_text()

    failed = kailab("check", "6", **env)
    assert failed.returncode == 1
    assert "no Deployment 'ai-api' in namespace" in failed.stdout
    assert 'unknown field "spec.template.spec.containers[0].images"' in failed.stdout
    assert "Kubernetes has no Deployment of that name" in kailab("hint", "6", **env).stdout
    assert kailab("solution", "6", **env).returncode == 2

    (work / "broken.yaml").write_text("apiVersion: v1\nkind: Pod\n\tmetadata: {}\n")
    assert "broken.yaml, line 3: a tab" in kailab("check", "6", "--quick", **env).stdout
    (work / "broken.yaml").unlink()

    kubectl = find_kubectl(workspace)
    assert kubectl is not None
    for file in (lab.path / "solution").glob("*.yaml"):
        run([kubectl, "--kubeconfig", home / "kubeconfig", "apply", "-f", file])
    passed = eventually(lambda: _report("6", "--task", "serve", **env))
    assert {check["outcome"] for check in passed["checks"] if check["task"] == "serve"} == {"pass"}

    reset = kailab("reset", "6", "--yes", **env)
    assert reset.returncode == 0
    assert (work / "deployment.yaml").read_text() == draft
    assert kailab("finish", "6", **env).returncode == 0
    assert api.get("Namespace", lab.namespace) is None


def test_explain_names_what_each_node_lacks(api: Api, namespace: str) -> None:
    api.create({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "greedy"},
        "spec": {"containers": [{"name": "main", "image": "ai-app:v1", "resources": {"requests": {"cpu": "500"}}}]},
    }, namespace)  # fmt: skip
    done = kailab("explain", "greedy", "--namespace", namespace)
    said = done.stdout
    assert done.returncode == 0, done.stderr
    assert "No node can take it" in said
    assert "gpu-a: taint nvidia.com/gpu=present:NoSchedule is not tolerated" in said
    assert "cpu: cpu: asks 500" in said


def _report(*args: str, **env: str) -> dict[str, object]:
    done = kailab("check", *args, "--json", **env)
    document: dict[str, object] = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    return document
