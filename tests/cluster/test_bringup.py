"""What an interrupted or crowded-out bring-up left behind is not taken for whole by the next."""

from __future__ import annotations

import ipaddress
import json
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from cluster import bringup, nodes
from cluster.engine import Engine
from cluster.identity import Identity
from cluster.topology import NODES, Node
from cluster.workspace import Workspace

ENGINE = Engine("docker", "28.2.2")


def kubeconfig() -> str:
    certificate = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="
    return json.dumps({
        "current-context": "kind-x", "contexts": [{"name": "kind-x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": "https://x", "certificate-authority-data": certificate}}],
        "users": [{"name": "x", "user": {"token": "t"}}],
    })  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / ".kailab").mkdir()
    return Workspace(tmp_path / ".kailab", tmp_path / "cache")


@pytest.fixture
def kind(tmp_path: Path) -> Path:
    """A stand-in that refuses a lock as kind does, and a kubeconfig that is not whole."""
    program = tmp_path / "kind"
    program.write_text(
        "#!/bin/sh\n"
        "for last; do :; done\n"
        'if [ -e "$last.lock" ]; then echo "failed to lock config file"; exit 1; fi\n'
        'if [ -e "$last" ]; then echo "failed to get kubeconfig to merge"; exit 1; fi\n'
        'echo "$@" > "$last"\n'
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("part", ["", "{", kubeconfig()[:200], "apiVersion: v1\nclusters:\n- cluster:\n    cert"])
def test_a_part_of_a_kubeconfig_is_not_usable(workspace: Workspace, part: str) -> None:
    workspace.kubeconfig.write_text(part)
    assert not bringup.is_usable(workspace.kubeconfig)


def test_no_kubeconfig_is_not_usable_either(workspace: Workspace) -> None:
    assert not bringup.is_usable(workspace.kubeconfig)


@pytest.mark.parametrize("left", ["kubeconfig.lock", "kubeconfig"])
def test_kind_does_not_stumble_over_what_a_killed_one_left(workspace: Workspace, kind: Path, left: str) -> None:
    (workspace.state / left).write_text("apiVer")
    bringup._run_kind(workspace, kind, ENGINE, "export", "kubeconfig", log=workspace.logs / "nodes.log")
    assert workspace.kubeconfig.read_text().startswith(f"export kubeconfig --name {workspace.cluster_name}")


class Making(bringup.Bringup):
    """The step that makes nodes, with its calls noted instead of done."""

    def __init__(self, workspace: Workspace, engine: Engine) -> None:
        super().__init__(workspace, bringup.Extras())
        self._engine = engine
        self.done: list[str] = []
        self.lost: list[Node] = []

    def make(self, said: list[str]) -> str:
        return self._make_nodes(self._workspace.logs / "nodes.log", said.append)

    def load(self) -> str:
        return self._load_images(self._workspace.logs / "load.log", lambda text: None)

    @property
    def names(self) -> list[str]:
        return [recipe.name for recipe in self._recipes]

    def _create_nodes(self, log: Path) -> None:
        self.done.append("create")

    def _wait_for_api(self) -> None:
        self.done.append("wait")

    def _without_object(self) -> list[Node]:
        return self.lost

    def _kind(self, *args: str, log: Path, stdin: str | None = None) -> None:
        self.done.append(" ".join(args))


def nodes_are(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [nodes.NodeState(node, node.container, state) for node in NODES]
    monkeypatch.setattr(nodes, "states", lambda engine, cluster: found)
    monkeypatch.setattr(nodes, "dead", lambda engine, found: [])


def test_a_kubeconfig_that_is_not_whole_is_fetched_anew(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_are("running", monkeypatch)
    workspace.kubeconfig.write_text(kubeconfig()[:200])
    making = Making(workspace, ENGINE)
    making.make([])
    assert making.done == ["export kubeconfig", "wait"]


def test_a_whole_one_stays(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_are("running", monkeypatch)
    monkeypatch.setattr(bringup, "is_usable", lambda kubeconfig: True)
    making = Making(workspace, ENGINE)
    making.make([])
    assert making.done == ["wait"]


def test_a_node_that_is_dead_but_called_running_is_let_end_and_started(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes_are("running", monkeypatch)
    monkeypatch.setattr(bringup, "is_usable", lambda kubeconfig: True)
    monkeypatch.setattr(bringup, "_need_mounts", lambda workspace, starting: None)
    monkeypatch.setattr(nodes, "dead", lambda engine, found: [node for node in found if node.node == NODES[2]])
    making = Making(workspace, ENGINE)
    monkeypatch.setattr(nodes, "let_end", lambda engine, held, log: (making.done.append(f"end {held[0]}"),
                                                                     nodes_are("exited", monkeypatch)))  # fmt: skip
    monkeypatch.setattr(nodes, "start", lambda engine, found, log: making.done.append("start"))
    said: list[str] = []
    making.make(said)
    assert making.done == [f"end {NODES[2].container}", "start", "wait"]
    assert "gpu-b" in said[0]


def test_nodes_deleted_from_the_cluster_are_restarted_so_that_they_register(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes_are("running", monkeypatch)
    monkeypatch.setattr(bringup, "is_usable", lambda kubeconfig: True)
    making = Making(workspace, ENGINE)
    making.lost = [NODES[2]]

    def restart(engine: Engine, containers: list[str], log: Path) -> None:
        assert containers == [f"{workspace.own_name}-worker2"]
        making.done.append("restart")
        making.lost = []

    monkeypatch.setattr(nodes, "restart_anew", restart)
    said: list[str] = []
    assert making.make(said).endswith(", gpu-b registered again")
    assert making.done == ["wait", "restart", "wait"]
    assert "gpu-b" in said[-1]


def test_nodes_just_made_are_not_taken_for_deleted(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_are("absent", monkeypatch)
    monkeypatch.setattr(bringup, "is_usable", lambda kubeconfig: True)
    making = Making(workspace, ENGINE)
    making.lost = list(NODES)
    making.make([])
    assert making.done == ["create", "wait"]


@pytest.mark.parametrize(
    ("state", "kernel_of_engine", "raised"),
    [
        ("absent", platform.release(), True),
        ("absent", "6.10.14-linuxkit", False),
        ("running", platform.release(), False),
    ],
)
def test_limits_are_raised_for_nodes_that_are_to_start_on_this_kernel(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, state: str, kernel_of_engine: str, raised: bool
) -> None:
    nodes_are(state, monkeypatch)
    monkeypatch.setattr(bringup.kernel, "raise_inotify", lambda: "raised")
    said: list[str] = []
    Making(workspace, Engine("docker", "28", kernel_of_engine)).make(said)
    assert ("raised" in said) is raised


class Answering(Engine):
    """An engine that answers every question with the same words."""

    def run(self, *args: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, self.version, "")


DOCKERS_NETWORK = """[{"Name": "kind", "IPAM": {"Config": [
    {"Subnet": "fc00:f853:ccd:e793::/64"}, {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}]}}]"""
PODMANS_NETWORK = """[
     {
          "name": "kind",
          "subnets": [
               {"subnet": "fc00:8866:27d0:bd7e::/64", "gateway": "fc00:8866:27d0:bd7e::1"},
               {"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"}
          ]
     }
]"""


@pytest.mark.parametrize(
    ("program", "said", "network", "pools"),
    [("docker", DOCKERS_NETWORK, "172.18.0.0/16", 8), ("podman", PODMANS_NETWORK, "10.89.0.0/24", 1)],
)
def test_load_balancers_get_the_last_addresses_of_the_network_whichever_engine_tells_it(
    program: str, said: str, network: str, pools: int
) -> None:
    engine, whole = Answering(program, said), ipaddress.ip_network(network)
    found = {tuple(bringup._load_balancer_pool(engine, f"kailab-{number}")) for number in range(50)}
    assert len(found) == pools
    for pool in found:
        assert len(pool) == 16
        assert all(address in whole and int(whole.broadcast_address) - int(address) <= 16 * pools for address in pool)


@dataclass(frozen=True)
class Sharing(Engine):
    """An engine with several clusters; a file in a control plane is a file in a folder."""

    folder: Path = Path()

    def run(self, *args: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        words, code, said = list(map(str, args)), 0, ""
        match words:
            case ["ps", *_]:
                said = "\n".join(path.name.removesuffix("-control-plane") for path in self.folder.iterdir())
            case ["exec", node, *_] if (self.folder / node / "stopped").exists():
                code = 1
            case ["exec", node, _, _, command] if command.startswith("cat "):
                said = self._pool(node)
            case ["exec", node, _, _, command]:
                (self.folder / node / "pool").write_text(command.split()[2])
            case ["cp", source, target]:
                node = source.partition(":")[0]
                assert (self.folder / node / "stopped").exists(), (
                    "it makes what a node mounts at its checkout's old place"
                )
                Path(target).write_text(self._pool(node))
        return subprocess.CompletedProcess(words, code, said, "")

    def _pool(self, node: str) -> str:
        mark = self.folder / node / "pool"
        return mark.read_text() if mark.exists() else ""

    def add(self, cluster: str) -> None:
        (self.folder / f"{cluster}-control-plane").mkdir()


@pytest.fixture
def sharing(tmp_path: Path) -> Sharing:
    (tmp_path / "containers").mkdir()
    return Sharing("docker", "28", folder=tmp_path / "containers")


def clusters_of(one_pool: int) -> list[Workspace]:
    return [
        workspace
        for number in range(100)
        if bringup._usual_pool((workspace := Workspace(Path(f"/{number}"), Path("/cache"))).own_name) == one_pool
    ]


def pool(workspace: Workspace, engine: Engine) -> int:
    return bringup._pool_number(workspace, engine, workspace.own_name)


def test_clusters_whose_usual_pool_is_the_same_get_pools_of_their_own(sharing: Sharing) -> None:
    several = clusters_of(one_pool=3)[: bringup.POOLS]
    chosen = []
    for workspace in several:
        sharing.add(workspace.own_name)
        chosen.append(pool(workspace, sharing))
    assert chosen[0] == 3
    assert len(set(chosen)) == len(several) >= 4
    assert [pool(workspace, sharing) for workspace in several] == chosen, "also with the notes lost"


def test_the_pool_of_a_cluster_that_is_stopped_stays_its_own(sharing: Sharing) -> None:
    stopped, other = clusters_of(one_pool=3)[:2]
    for workspace in (stopped, other):
        sharing.add(workspace.own_name)
    (sharing.folder / f"{other.own_name}-control-plane" / "pool").write_text("5")
    assert pool(stopped, sharing) == 3
    (sharing.folder / f"{stopped.own_name}-control-plane" / "stopped").touch()
    (sharing.folder / f"{other.own_name}-control-plane" / "pool").unlink()
    assert pool(other, sharing) != 3


def test_a_chosen_pool_stays_also_when_the_usual_one_becomes_free(sharing: Sharing, workspace: Workspace) -> None:
    other = next(one for one in clusters_of(bringup._usual_pool(workspace.own_name)) if one != workspace)
    sharing.add(other.own_name)
    sharing.add(workspace.own_name)
    Identity.begin(workspace)
    chosen = pool(workspace, sharing)
    assert chosen != bringup._usual_pool(workspace.own_name)
    shutil.rmtree(sharing.folder / f"{other.own_name}-control-plane")
    (sharing.folder / f"{workspace.own_name}-control-plane" / "pool").unlink()
    assert Identity.pool(workspace) == chosen == pool(workspace, sharing)


def test_clusters_of_others_than_kailab_take_no_pool(sharing: Sharing, workspace: Workspace) -> None:
    sharing.add(workspace.own_name)
    for name in (f"kind-{number}" for number in range(50)):
        sharing.add(name)
    assert pool(workspace, sharing) == bringup._usual_pool(workspace.own_name)


def test_images_are_made_sure_of_and_kept_from_others_while_they_are_loaded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their tags are shared: another checkout of another version may have moved them since they were built."""
    done: list[str] = []

    def note(what: str) -> None:
        with pytest.raises(Timeout):
            FileLock(workspace.cache / "images.lock", timeout=0).acquire()
        done.append(what)

    monkeypatch.setattr(bringup.builder, "build", lambda _w, _e, recipe, _l, **_: note(recipe.name))
    monkeypatch.setattr(nodes, "load_images", lambda *_: note("load"))
    making = Making(workspace, Answering("docker", "another key"))
    assert making.load() == f"{len(making.names)} images"
    assert done == [*making.names, "load"]
    done.clear()
    making = Making(workspace, Answering("docker", making._images_key()))
    assert making.load() == "already there"
    assert done == []
