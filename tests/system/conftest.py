"""Tests on the real course cluster: `kailab up` first, then what they make goes away again."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from cluster import engine as engines
from cluster.api import Api, ApiError, Object, connect
from cluster.engine import Engine
from cluster.workspace import Workspace
from labs.catalog import LabFolder, facts, fill_in
from tests.system import held

HELD = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test of one lab alone is marked so by `of_one_lab`, and given it as `lab` or as its `chapter`."""
    if not item.get_closest_marker("of_one_lab"):
        return
    assert isinstance(item, pytest.Function)
    given = item.callspec.params
    path = held.receipt(Workspace.here(), item.nodeid, given["lab"] if "lab" in given else given["chapter"].lab)
    if not held.ALWAYS and (at := held.when(path)):
        pytest.skip(held.told(at))
    item.stash[HELD] = path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if HELD in item.stash:
        if not report.passed:
            del item.stash[HELD]
        elif report.when == "teardown":
            held.keep(item.stash[HELD], item.nodeid)
    return report


@pytest.fixture(scope="session")
def workspace() -> Workspace:
    return Workspace.here()


@pytest.fixture(scope="session")
def api(workspace: Workspace) -> Iterator[Api]:
    with contextlib.closing(connect(workspace.kubeconfig)) as connected:
        yield connected


@pytest.fixture(scope="session")
def engine() -> Engine:
    found = engines.find()
    assert found is not None, "no container engine answers"
    return found


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A namespace of the test's own, gone afterwards."""
    name = f"kailab-test-{secrets.token_hex(3)}"
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    api.delete("Namespace", name)


@pytest.fixture
def home(tmp_path: Path, workspace: Workspace) -> Path:
    """A student's state folder of the test's own, on the same cluster."""
    state = tmp_path / ".kailab"
    state.mkdir()
    for name in ("kubeconfig", "prober-token", "cluster.json"):
        shutil.copy(workspace.state / name, state / name)
    return state


def answer(folder: Path, lab: LabFolder, *more: Object, lacks: str = "") -> Path:
    """A lab's own right answer as a student would hand it in, without the object of that name, with more beside it."""
    items = [item for item in lab.manifests("solution") if item["metadata"]["name"] != lacks]
    known = facts(lab.namespace)
    folder.mkdir(parents=True)
    (folder / "all.yaml").write_text(yaml.safe_dump_all([fill_in(item, known) for item in [*items, *more]]))
    return folder


T = TypeVar("T")


def eventually(look: Callable[[], T], seconds: float = 60) -> T:
    """The first result of `look` that is neither false nor an AssertionError or ApiError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = look()
            if found or time.monotonic() > deadline:
                assert found
                return found
        except (AssertionError, ApiError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def let_settle(api: Api) -> None:
    """Wait while namespaces of earlier tests are on their way out."""
    eventually(lambda: not any("deletionTimestamp" in item["metadata"] for item in api.list("Namespace")[0]))


def pod(name: str, program: str, *, node: str = "", claim: str = "", **labels: str) -> Object:
    """A pod that runs a Python program in the course's own image, with the claim mounted at /data."""
    spec: Object = {
        "terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
        "tolerations": [{"operator": "Exists"}], "nodeSelector": {"kubernetes.io/hostname": node} if node else {},
        "containers": [{"name": "main", "image": "ai-app:v1", "command": ["python3", "-c", program]}],
    }  # fmt: skip
    if claim:
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
        spec["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def claim(name: str, mode: str, storage_class: str = "") -> Object:
    spec: Object = {"accessModes": [mode], "resources": {"requests": {"storage": "16Mi"}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def run_to_end(api: Api, namespace: str, item: Object) -> str:
    """Create a pod, wait for its end, and return its log. Fails when it fails."""
    name = item["metadata"]["name"]
    api.create(item, namespace)

    def ended() -> str:
        found = api.get("Pod", name, namespace)
        assert found is not None
        phase = str(found.get("status", {}).get("phase"))
        return phase if phase in ("Succeeded", "Failed") else ""

    phase, log = eventually(ended), api.logs(name, namespace)
    assert phase == "Succeeded", log
    return log


def kailab(*args: str, seconds: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a student would."""
    return subprocess.run(
        [sys.executable, "-m", "labs.cli", *args], capture_output=True, text=True, timeout=seconds,
        env={**os.environ, **env}, check=False,
    )  # fmt: skip
