"""A class graded by workers in the cluster: the same points as here, whatever is killed or stopped meanwhile."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.api import Api
from cluster.engine import Engine
from cluster.topology import NODES, container_name
from cluster.workspace import Workspace
from labs.catalog import LabFolder, lab_numbered
from labs.grading.remote import NAMESPACE, job, rights
from labs.grading.remote.queue import Queue
from labs.grading.rooms import ROOM_PREFIX
from labs.residue import snapshot
from tests.system.conftest import answer, eventually, kailab, let_settle

pytestmark = pytest.mark.cluster
PLAIN, LAB = lab_numbered(1), lab_numbered(6)  # one that leaves the nodes alone, and one that drains them
HOST = next(node for node in NODES if job.hosts_workers(node) and not node.is_control_plane)
PRIVILEGED = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mine"},
    "spec": {"containers": [{"name": "main", "image": "ai-app:v1", "securityContext": {"privileged": True}}]},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "in"


def _command(folder: Path, lab: LabFolder) -> list[str]:
    out = folder.parent / "grades.csv"
    options = ["--lab", str(lab.number), "--jobs", "2", "--runner", "kubernetes", "--out", str(out)]
    return ["grade", *sorted(map(str, folder.iterdir())), *options]


@contextmanager
def nothing_left(api: Api) -> Iterator[None]:
    let_settle(api)
    before = snapshot(api)
    yield
    assert snapshot(api) == before
    assert api.get("ValidatingAdmissionPolicyBinding", "kailab-grading-worker") is None


def _table(tmp_path: Path) -> dict[str, dict[str, str]]:
    with (tmp_path / "grades.csv").open() as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def _points(tmp_path: Path) -> dict[str, str]:
    return {name: row["points"] for name, row in _table(tmp_path).items()}


def test_a_class_gets_the_same_points_as_here(api: Api, folder: Path, tmp_path: Path) -> None:
    answer(folder / "full", PLAIN)
    answer(folder / "hostile", PLAIN, PRIVILEGED)
    answer(folder / "partial", PLAIN, lacks="alone")
    shutil.copytree(PLAIN.path / "starter", folder / "untouched")
    command = _command(folder, PLAIN)
    with nothing_left(api):
        ran = kailab(*command, seconds=400)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    # As the author gate has it for the solution, a mutant, and the starter.
    points = {"full": "20", "hostile": "20", "partial": "17", "untouched": "0"}
    assert _points(tmp_path) == points
    feedback = tmp_path / "grades-feedback"
    problems = json.loads((feedback / "hostile" / "result.json").read_text())["problems"]
    assert "violates PodSecurity" in " ".join(problems)
    assert kailab("regrade", str(feedback / "full" / "evidence.json")).returncode == 0
    again = kailab(*command)
    assert again.stdout.count("as before") == len(points), again.stdout


def test_killed_workers_commands_and_nodes_cost_nobody_anything(
    api: Api, engine: Engine, workspace: Workspace, folder: Path, tmp_path: Path
) -> None:
    answer(folder / "full", LAB)
    answer(folder / "partial", LAB, lacks="ai-api-budget")
    command = _command(folder, LAB)

    def at_work(node: str) -> str:
        """A worker on that node which has a submission in hand."""
        nodes = {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in api.list("Pod", NAMESPACE)[0]}
        return next((one.holder for one in Queue(api).open() if nodes.get(one.holder) == node), "")

    def is_ready() -> bool:
        node = api.get("Node", HOST.name)
        assert node is not None
        return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"]["conditions"])

    container = container_name(workspace.cluster_name, HOST)
    with nothing_left(api):
        first = subprocess.Popen([sys.executable, "-m", "labs.cli", *command], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True)  # fmt: skip
        try:
            worker = eventually(lambda: at_work("control-plane"), 120)
            eventually(lambda: at_work(HOST.name))
            api.delete("Pod", worker, NAMESPACE, grace=0)
            first.send_signal(signal.SIGKILL)
            first.communicate(timeout=30)
            # As by a power cut. A runc that held a pod's processes frozen leaves a node that can't end.
            engine.run("kill", container, check=False)
            try:
                eventually(lambda: not is_ready(), 90)
            finally:
                up = kailab("up")
            assert up.returncode == 0, up.stdout + up.stderr
            ran = kailab(*command, seconds=400)
            assert ran.returncode == 0, ran.stdout + ran.stderr
        finally:
            kailab(*command, "--stop")
        eventually(is_ready)
    assert _points(tmp_path) == {"full": "20", "partial": "16"}


def test_a_worker_may_change_nothing_outside_of_rooms(api: Api) -> None:
    """The policy itself, asked with a worker's and a submission's name, and with the rights of an administrator."""
    groups = {"Impersonate-Group": "system:masters"}
    items = [item for item in rights.objects(LAB, ()) if item["kind"].startswith("ValidatingAdmissionPolicy")]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mine"}}

    def status(user: str, path: str, item: dict[str, object]) -> int:
        headers = {"Impersonate-User": user, **groups}
        return api.request("POST", f"{path}?dryRun=All", item, headers=headers).status

    try:
        for item in items:
            api.apply(item)
        users = (rights.USER, f"kailab:submission:{ROOM_PREFIX}06-x")
        for user in users:
            eventually(lambda user=user: status(user, "/api/v1/namespaces/default/secrets", secret) == 422)  # type: ignore[misc]
            assert status(user, "/api/v1/namespaces", space) == 422
            named = {**space, "metadata": {"name": f"{ROOM_PREFIX}06-x"}}
            assert status(user, "/api/v1/namespaces", named) == 201
        assert status("somebody-else", "/api/v1/namespaces", space) == 201
    finally:
        for item in items:
            api.delete(item["kind"], item["metadata"]["name"])
