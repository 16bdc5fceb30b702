"""The course cluster's life: up, down, and what state it is in."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import json
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from rich.console import Console

from cluster import addons, advice, kernel, kindconfig, nodeobjects, nodes, note, registry, tools
from cluster import engine as engines
from cluster import images as builder
from cluster.api import Api, ApiError, connect
from cluster.engine import Engine
from cluster.errors import KailabError
from cluster.gpu import addon as gpu
from cluster.identity import Identity
from cluster.images import ImageRecipe
from cluster.kubeconfig import target
from cluster.nodeimage import build as nodeimage
from cluster.run import FREE_SPACE, run
from cluster.steps import Say, Step, run_steps
from cluster.topology import CONTROL_PLANE, NODES, Node, container_name
from cluster.workspace import KUBERNETES_VERSION, Workspace

CLOUD = ImageRecipe("kailab/cloud:v1", Path(addons.__file__).parent / "cloud")
ANEW = "makes the cluster anew; your files and points stay"
T = TypeVar("T")
IMAGES_MARK = "/kind/kailab-images"
RECIPE_NOTE = "kailab.dev/image-recipe"
READY_SECONDS = 180
POOL_MARK = "/kind/kailab-pool"
POOLS = 8
# What all checkouts share in the cache folder, and the locks that those hold who work on it. The locks' files stay:
# whoever waits for one would else get a lock that nobody else sees.
CACHES = ("apt", "bin", "kubectl", "programs", "receipts", "site-packages")
CACHE_LOCKS = ("tools.lock", "node-image.lock", "images.lock", "engine/start.lock")
# What can be made again in the state folder, where points and evidence are too.
LEFTOVERS = ("logs", "gate", "durations.json", "images.tar", "grader.tar")
# What a first bring-up writes, measured with du: caches, Go's build cache, engine images, five nodes.
DISK_TO_BUILD = 14 * 2**30
DISK_TO_CREATE = 4 * 2**30


@dataclass(frozen=True)
class Extras:
    """What the layers above add to a cluster: images for every node, objects to apply, what to wait for
    (kind, namespace, name), and a proof that what is ready works, which raises KailabError where it does not."""

    images: tuple[ImageRecipe, ...] = ()
    manifests: tuple[dict[str, Any], ...] = ()
    ready: tuple[tuple[str, str, str], ...] = ()
    proof: Callable[[Api, Say], None] = lambda api, say: None


class Bringup:
    """One `kailab up`: what the steps hand on to each other."""

    def __init__(self, workspace: Workspace, extras: Extras) -> None:
        self._workspace = workspace
        self._extras = extras
        self._recipes = (*extras.images, CLOUD, gpu.IMAGE)
        self._name = workspace.cluster_name
        self._engine: Engine | None = None
        self._tools: tools.Tools | None = None
        self._registry = functools.cache(registry.answers)
        self._node_images = kindconfig.Images()
        self._is_new = False  # whether this bring-up made the nodes

    @property
    def engine(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def steps(self) -> list[Step]:
        return [
            Step("engine", "Container engine", 30, self._find_engine),
            Step("tools", "kind and kubectl", 30, self._find_tools),
            Step("node-image", "Node images", 840, self._make_node_images),
            Step("course-images", "Images of the course's programs", 60, self._make_course_images),
            Step("nodes", "Cluster nodes", 20, self._make_nodes),
            Step("load", "Course images on every node", 30, self._load_images),
            Step("addons", "Add-ons: storage, metrics, load balancer, GPUs", 5, self._apply_addons),
            Step("ready", "Everything ready", 10, self._wait_ready),
        ]

    def _find_engine(self, log: Path, say: Say) -> str:
        if original := Identity.disown(self._workspace):
            say(f"this checkout is a copy: the cluster of {original} stays that one's")
        if engines.find() is None and engines.can_install():
            say("none answers: installing Docker with apt, then starting it")
        self._engine = engines.ensure(self._workspace, log)
        self._name = _settled_name(self._workspace, self._engine)
        return f"{self._engine.program} {self._engine.version}"

    def _find_tools(self, log: Path, say: Say) -> str:
        with _locked(self._workspace.cache / "tools.lock", say):
            self._tools = tools.ensure(self._workspace, log, say)
        return ""

    def _make_node_images(self, log: Path, say: Say) -> str:
        if self._exists() and not self._half_made():
            return "the cluster has its own already"
        if self._registry():
            return "kindest/node, pulled by kind"
        _need_disk(self._workspace, self.engine, DISK_TO_CREATE if nodeimage.is_built(self.engine) else DISK_TO_BUILD)
        with _locked(self._workspace.cache / "node-image.lock", say):
            built = nodeimage.build(self._workspace, self.engine, log, say)
            nodeimage.prune(self.engine)
        self._node_images = kindconfig.Images(built.control_plane, built.worker)
        return f"Kubernetes {KUBERNETES_VERSION}, built here since no container registry answers"

    def _make_course_images(self, log: Path, say: Say) -> str:
        with _locked(self._workspace.cache / "images.lock", say):
            self._build_course_images(log, say)
            if self._node_images != kindconfig.Images():  # then nodes are to be made of our own
                say("laying them into the node images")
                key, names = self._images_key(), [recipe.name for recipe in self._recipes]
                self._node_images = kindconfig.Images(
                    *(nodeimage.bake(self.engine, image, names, key, IMAGES_MARK, log)
                      for image in (self._node_images.control_plane, self._node_images.worker))
                )  # fmt: skip
        return ""

    def _build_course_images(self, log: Path, say: Say) -> None:
        """The caller holds images.lock as long as it needs the images under their names."""
        for recipe in self._recipes:
            say(recipe.name)
            builder.build(self._workspace, self.engine, recipe, log, registry=self._registry)

    def _images_key(self) -> str:
        from cluster import hashing

        return hashing.combined(builder.recipe_hash(recipe) for recipe in self._recipes)

    def _exists(self) -> bool:
        return any(state.state != "absent" for state in nodes.states(self.engine, self._name))

    def _half_made(self) -> bool:
        """A creation that did not reach its end left nodes that no repair can complete."""
        states = nodes.states(self.engine, self._name)
        return Identity.creating(self._workspace) or any(state.state == "absent" for state in states)

    def _make_nodes(self, log: Path, say: Say) -> str:
        if self._exists() and self._half_made():
            say("an earlier start was interrupted: making the nodes again")
            self._delete_nodes(log)
        states = nodes.states(self.engine, self._name)
        if dead := nodes.dead(self.engine, states):
            say(f"{', '.join(node.node.name for node in dead)}: killed, but not gone yet")
            nodes.let_end(self.engine, [node.container for node in dead], log)
            states = nodes.states(self.engine, self._name)
        stopped = [state for state in states if state.state != "running"]
        self._is_new = all(state.state == "absent" for state in states)
        if stopped and not self._is_new:
            _need_mounts(self._workspace, [state.node for state in stopped])
        if stopped and self.engine.on_this_kernel and (said := kernel.raise_inotify()):
            say(said)
        if self._is_new:
            self._create_nodes(log)
        elif stopped:
            say(f"starting {', '.join(state.node.name for state in stopped)}")
            nodes.start(self.engine, stopped, log)
        if not is_usable(self._workspace.kubeconfig):
            self._kind("export", "kubeconfig", log=log)
        self._wait_for_api()
        if self._is_new:  # whose nodes may still be on their way
            return f"{len(states)} made"
        done = f"{len(stopped)} started again" if stopped else f"{len(states)} running"
        lost = self._without_object()
        return f"{done}, {self._register(lost, log, say)} registered again" if lost else done

    def _without_object(self) -> list[Node]:
        with contextlib.closing(connect(self._workspace.kubeconfig)) as api:
            present = nodeobjects.present(api)
        return [node for node in NODES if node.name not in present]

    def _register(self, lost: Sequence[Node], log: Path, say: Say) -> str:
        """Nodes whose objects were deleted: a kubelet registers once, when it starts. Returns their names."""
        _need_mounts(self._workspace, lost)
        names = ", ".join(node.name for node in lost)
        say(f"{names}: deleted from the cluster, so restarting")
        nodes.restart_anew(self.engine, [container_name(self._name, node) for node in lost], log)
        self._wait_for_api()
        deadline = time.monotonic() + READY_SECONDS
        while self._without_object() and time.monotonic() < deadline:
            time.sleep(0.5)
        return names

    def _kind(self, *args: str, log: Path, stdin: str | None = None) -> None:
        assert self._tools is not None
        _run_kind(self._workspace, self._tools.kind, self.engine, *args, log=log, stdin=stdin)

    def _create_nodes(self, log: Path) -> None:
        shared = self._workspace.state / "shared"
        shared.mkdir(parents=True, exist_ok=True)
        shared.chmod(0o777)  # pods of any user write there, as to a file server
        config = kindconfig.config(self._name, self._node_images, shared, machine_of(self.engine))
        Identity.begin(self._workspace, self.engine.program, self.engine.endpoint())
        self._kind("create", "cluster", "--config", "-", log=log, stdin=json.dumps(config))
        Identity.end(self._workspace)
        nodes.favour_control_plane(self.engine, self._name, log)

    def _delete_nodes(self, log: Path) -> None:
        nodes.remove(self.engine, self._name, log)
        self._workspace.kubeconfig.unlink(missing_ok=True)
        Identity.forget(self._workspace)
        self._name = self._workspace.cluster_name

    def _wait_for_api(self) -> None:
        with contextlib.closing(connect(self._workspace.kubeconfig)) as api:
            if not api.becomes_ready(READY_SECONDS):
                raise KailabError(
                    f"The API server was not ready within {READY_SECONDS} s.",
                    why="Its container runs, but Kubernetes in it does not.",
                    mend="kailab down, then kailab up   (makes the cluster anew)",
                )
            Identity.verify(self._workspace, api)

    def _apply_addons(self, log: Path, say: Say) -> str:
        with _locked(self._workspace.cache / "pools.lock", say):  # two checkouts must not choose the same one at once
            number = _pool_number(self._workspace, self.engine, self._name)
        pool = [str(address) for address in _load_balancer_pool(self.engine, self._name, number)]
        with contextlib.closing(connect(self._workspace.kubeconfig)) as api:
            for node in NODES:
                if missing := _when_known(functools.partial(nodeobjects.put_back, api, node)):
                    say(f"put back: {', '.join(missing)}")
            # GPUs first: their agents take longest to be ready.
            for item in (*gpu.manifests(), *addons.manifests(pool=pool), *self._extras.manifests):
                _when_known(functools.partial(api.apply, self._with_recipe(item)))
        return f"load balancer addresses {pool[0]} to {pool[-1]}"

    def _with_recipe(self, item: dict[str, Any]) -> dict[str, Any]:
        """A workload notes how its image was made: tags stay, and pods of an older image must be replaced."""
        template = (item.get("spec") or {}).get("template") or {}
        used = {container["image"] for container in (template.get("spec") or {}).get("containers", [])}
        made = [builder.recipe_hash(recipe) for recipe in self._recipes if recipe.name in used]
        if made:
            template.setdefault("metadata", {}).setdefault("annotations", {})[RECIPE_NOTE] = " ".join(made)
        return item

    def _load_images(self, log: Path, say: Say) -> str:
        if self._is_new and self._node_images != kindconfig.Images():
            return "laid into the node images"
        key = self._images_key()
        containers = [container_name(self._name, node) for node in NODES]

        def has(container: str) -> bool:
            marked = self.engine.run("exec", container, "cat", IMAGES_MARK, check=False)
            return marked.returncode == 0 and marked.stdout.strip() == key

        with ThreadPoolExecutor(len(containers)) as pool:
            missing = [name for name, present in zip(containers, pool.map(has, containers), strict=True) if not present]
        if not missing:
            return "already there"
        say(f"loading into {len(missing)} nodes")
        names = [recipe.name for recipe in self._recipes]
        with _locked(self._workspace.cache / "images.lock", say):
            # Another checkout's kailab may have given the names to images of its own recipes since they were built.
            self._build_course_images(log, say)
            nodes.load_images(self.engine, missing, names, self._workspace.state / "images.tar", log)
        for container in missing:
            self.engine.run("exec", container, "sh", "-c", f"printf %s {key} > {IMAGES_MARK}", log=log)
        return f"{len(names)} images"

    def _wait_ready(self, log: Path, say: Say) -> str:
        deadline = time.monotonic() + READY_SECONDS
        started = {} if self._is_new else nodes.started(self.engine, self._name)  # of new nodes there is no before
        with contextlib.closing(connect(self._workspace.kubeconfig)) as api:
            # In this order: what is ready counts only when nothing that the API tells is from before.
            while waiting := nodeobjects.outdated(api, started) or unready(api, self._extras.ready):
                say("waiting for " + ", ".join(waiting[:4]))
                if time.monotonic() > deadline:
                    raise KailabError(
                        "Not everything got ready.", why="\n".join(waiting), mend=self._how_to_get_ready(),
                    )  # fmt: skip
                time.sleep(0.25)
            self._extras.proof(api, say)
        return ""

    def _how_to_get_ready(self) -> str:
        if Identity.is_moved(self._workspace):  # and the engine may have started the nodes again by itself
            return f"kailab down, then kailab up   ({ANEW}: this checkout was moved, and nodes mount its folders)"
        return "kailab status   (shows what hangs), then kailab up again"


def up(workspace: Workspace, console: Console, extras: Extras) -> None:
    """Bring the course cluster up, or repair it; safe to call at any time and from several terminals.

    Raises KailabError with the step that failed and what to do. After Ctrl-C, call it again.
    """
    workspace.state.mkdir(parents=True, exist_ok=True)
    with _locked(workspace.state / "up.lock", lambda text: console.print(text)):
        run_steps(Bringup(workspace, extras).steps(), workspace, console)


def down(workspace: Workspace, console: Console, *, stop_engine: bool = True) -> None:
    """Remove all that `up` made but images and caches. Touches no other cluster, container or image.

    Where there is no cluster it says so. Raises KailabError when the cluster is not removed, with all notes kept: they
    alone know where it is.
    """
    with _locked(workspace.state / "up.lock", lambda text: console.print(text)):
        if original := Identity.disown(workspace):
            console.print(f"this checkout is a copy: the cluster of {original} stays")
        name = workspace.cluster_name
        is_known = Identity.is_noted(workspace) or workspace.kubeconfig.exists()
        engine = _engine_that_holds(workspace) if is_known else _engine_here()
        removed = nodes.remove(engine, name, workspace.logs / "down.log") if engine is not None else []
        _remove_state(workspace)
        if stop_engine and engines.stop(workspace):
            console.print("stopped the Docker engine that kailab had started")
    console.print(f"removed cluster {name}" if is_known or removed else "there is no course cluster here")


def _engine_here() -> Engine | None:
    """The engine of this machine, where one answers: it may hold a cluster whose notes have been lost."""
    engine = engines.find()
    return engine if engine is not None and engines.is_here(engine.endpoint()) else None


def _engine_that_holds(workspace: Workspace) -> Engine:
    """The engine that the cluster was made in. Raises KailabError when it doesn't answer, or another one does."""
    name, engine = workspace.cluster_name, engines.find()
    if engine is None:
        missing = engines.why_none()
        start = "kailab up   (starts the engine)" if engines.can_install() else missing.mend
        raise KailabError(
            f"Cluster {name} is not removed: no container engine answers ({missing.found}).",
            why="Its containers are in that engine, and start again with it. Nothing was changed.",
            mend=f"{start}; then kailab down\n{_gone_for_good(workspace)}",
        )
    engines.require_here(engine, "kailab down")
    _need_the_same(workspace, engine, "kailab down")
    return engine


def _gone_for_good(workspace: Workspace) -> str:
    files = f"{workspace.state / note.FILE} {workspace.kubeconfig}"
    return f"      (should that engine be gone for good: rm -f {files})"


def _need_the_same(workspace: Workspace, engine: Engine, then: str) -> None:
    """Raises KailabError where the noted cluster is in another engine of this machine: it would be lost sight of."""
    name = workspace.cluster_name
    if (setting := _leads_back(workspace, engine)) and not nodes.containers(engine, name):
        raise KailabError(
            f"Cluster {name} is in another engine than the one that answers; nothing was touched.",
            why=f"{engine.program} at {engine.endpoint() or 'its usual place'} has none of its containers.",
            mend=f"{setting} {then}\n{_gone_for_good(workspace)}",
        )


def _leads_back(workspace: Workspace, engine: Engine) -> str:
    """What to set in the environment to reach the engine that the cluster was made in; empty where it is this one."""
    program, endpoint = Identity.engine(workspace), Identity.endpoint(workspace)
    choice = f"{engines.CHOICE}={program}" if program and program != engine.program else ""
    if endpoint and (choice or endpoint != engine.endpoint()):
        return f"{choice} {advice.LEADS_TO[program or engine.program][0]}={endpoint}".strip()
    return choice


def _settled_name(workspace: Workspace, engine: Engine) -> str:
    """The cluster's name, with the note as it should be for this checkout in this place.

    The cluster of a checkout that was moved keeps its name. Should it be gone, that name is left to whoever is in the
    old place now.
    """
    _need_the_same(workspace, engine, "kailab up")
    if workspace.cluster_name != workspace.own_name and not nodes.containers(engine, workspace.cluster_name):
        _remove_state(workspace)
    Identity.settle(workspace)
    return workspace.cluster_name


def _need_mounts(workspace: Workspace, starting: Sequence[Node]) -> None:
    """Raises KailabError where nodes would start with empty folders in the place of this checkout's."""
    if Identity.is_moved(workspace):
        raise KailabError(
            f"{', '.join(node.name for node in starting)} can't start again: this checkout was moved.",
            why="A node mounts folders of the checkout, by the path that they had when the cluster was made.",
            mend=f"kailab down, then kailab up   ({ANEW})",
        )


def _run_kind(
    workspace: Workspace, kind: Path, engine: Engine, *args: str, log: Path, stdin: str | None = None
) -> None:
    """Run kind on this workspace's cluster; the caller holds the workspace's lock."""
    kubeconfig = workspace.kubeconfig
    # kind adds to the file that is there, but not to a part of one; and who is killed while writing it leaves a lock.
    if not is_usable(kubeconfig):
        kubeconfig.unlink(missing_ok=True)
    kubeconfig.with_name(f"{kubeconfig.name}.lock").unlink(missing_ok=True)
    command: list[str | Path] = [kind, *args, "--name", workspace.cluster_name, "--kubeconfig", kubeconfig]
    run(command, env=engine.env, log=log, stdin=stdin, timeout=900, tied=True)


def _remove_state(workspace: Workspace) -> None:
    workspace.kubeconfig.unlink(missing_ok=True)
    shutil.rmtree(workspace.state / "shared", ignore_errors=True)
    Identity.forget(workspace)  # last: it leads to whatever is left


def is_usable(kubeconfig: Path) -> bool:
    """Whether it is there and whole: kind writes it in place, so a full disk or a kill leaves a part of it."""
    try:
        target(kubeconfig)
    except KailabError:
        return False
    return True


def unready(api: Api, extra: Sequence[tuple[str, str, str]] = ()) -> list[str]:
    """What the cluster still waits for, in words; empty when nodes and add-ons are all ready."""
    waiting = []
    present = nodeobjects.present(api)
    for node in NODES:
        found = present.get(node.name, {})
        conditions = found.get("status", {}).get("conditions", [])
        if not any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions):
            waiting.append(f"node {node.name}")
        elif said := nodeobjects.lacking(node, found):
            waiting += said
    wanted = (("Deployment", "kube-system", "coredns"), *addons.READY, *gpu.READY, *extra)
    # A list of each kind, not each object: who waits asks several times a second, of a machine that is busy.
    items = {(kind, _address(item)): item for kind in {kind for kind, _, _ in wanted} for item in api.list(kind)[0]}
    for kind, namespace, name in wanted:
        if not _is_ready(kind, items.get((kind, (namespace, name)))):
            waiting.append(f"{kind} {name}")
    return waiting


def _address(item: dict[str, Any]) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _is_ready(kind: str, item: dict[str, Any] | None) -> bool:
    if item is None:
        return False
    status = item.get("status", {})
    if kind == "APIService":
        return any(c["type"] == "Available" and c["status"] == "True" for c in status.get("conditions", []))
    if status.get("observedGeneration", 0) < item["metadata"].get("generation", 0):
        return False
    if kind == "DaemonSet":
        wanted = max(status.get("desiredNumberScheduled", 0), 1)
        return bool(min(status.get("numberReady", 0), status.get("updatedNumberScheduled", 0)) >= wanted)
    return bool(status.get("availableReplicas", 0) >= item["spec"].get("replicas", 1))


def _when_known(write: Callable[[], T]) -> T:
    """Just after the start the API server may still be building its own roles, or refuse for a moment."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return write()
        except ApiError as refused:
            if refused.status not in (403, 404, 409, 429, 500, 503) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def machine_of(engine: Engine) -> kindconfig.Machine:
    field = "{{.NCPU}} {{.MemTotal}}" if engine.program == "docker" else "{{.Host.CPUs}} {{.Host.MemTotal}}"
    cores, memory = engine.run("info", "--format", field).stdout.split()
    return kindconfig.Machine(int(cores), int(memory) // 2**20)


def _pool_number(workspace: Workspace, engine: Engine, cluster: str) -> int:
    """Which of the load balancer's pools is this cluster's, chosen once: its usual one, else one that no other has.

    A cluster's control plane holds the number too, where other checkouts read it, and which goes when the cluster goes.
    """
    number = Identity.pool(workspace)
    if number is None:
        number = _marked_pool(engine, cluster)
    if number is None:
        taken, usual = _pools_of_others(engine, cluster), _usual_pool(cluster)
        number = next((one for one in (usual, *range(POOLS)) if one not in taken), usual)
    engine.run("exec", container_name(cluster, CONTROL_PLANE), "sh", "-c", f"printf %s {number} > {POOL_MARK}")
    Identity.keep(workspace, pool=number)
    return number


def _usual_pool(cluster: str) -> int:
    return zlib.crc32(cluster.encode()) % POOLS


def _pools_of_others(engine: Engine, cluster: str) -> set[int]:
    """The pools of the other kailab clusters in this engine, running or not; of one without a mark its usual one."""
    others = {found for found in nodes.clusters(engine) if found.startswith("kailab-")} - {cluster}
    marked = {other: _marked_pool(engine, other) for other in others}
    return {_usual_pool(other) if number is None else number for other, number in marked.items()}


def _marked_pool(engine: Engine, cluster: str) -> int | None:
    node = container_name(cluster, CONTROL_PLANE)
    # A copy would make the engine create anew what a node mounts, at the place that its checkout was moved from.
    asked = engine.run("exec", node, "sh", "-c", f"cat {POOL_MARK} || true", check=False)
    text = asked.stdout if asked.returncode == 0 else _copied(engine, f"{node}:{POOL_MARK}")
    return int(text) if text.strip() in map(str, range(POOLS)) else None


def _copied(engine: Engine, source: str) -> str:
    """A file of a node that does not run; empty where there is none."""
    with tempfile.TemporaryDirectory(prefix="kailab-") as folder:
        copied = Path(folder) / "copied"
        engine.run("cp", source, copied, check=False)
        return copied.read_text() if copied.is_file() else ""


def _load_balancer_pool(
    engine: Engine, cluster: str, pool: int | None = None, size: int = 16
) -> list[ipaddress.IPv4Address]:
    """`size` of the last addresses of kind's network: the engine hands out the first ones.

    Two clusters on one machine share that network, so each has its own of the last eight pools. A small network has
    room for one pool only.
    """
    pool = _usual_pool(cluster) if pool is None else pool
    for known in json.loads(engine.run("network", "inspect", "kind").stdout):
        for found in _subnets(known):
            network = ipaddress.ip_network(found, strict=False)
            if isinstance(network, ipaddress.IPv4Network):
                end = int(network.broadcast_address) - (pool * size if network.num_addresses > 1024 else 0)
                return [ipaddress.IPv4Address(end - back) for back in range(size, 0, -1)]
    raise KailabError("kind's network has no IPv4 subnet.", mend="kailab down, then kailab up")


def _subnets(network: dict[str, Any]) -> Iterator[str]:
    for entry in network.get("IPAM", {}).get("Config") or network.get("subnets") or []:
        yield entry.get("Subnet") or entry.get("subnet", "")


def _need_disk(workspace: Workspace, engine: Engine, wanted: int) -> None:
    for needed in (engine.folder(), workspace.cache):
        free, folder = free_space(needed)
        if free < wanted:
            raise KailabError(
                f"{folder} has {free / 2**30:.1f} GiB free; this needs about {wanted / 2**30:.0f} GiB.",
                mend=f"{FREE_SPACE}; then kailab up",
            )


def free_space(folder: Path) -> tuple[int, Path]:
    """Bytes left on the disk where a folder is or will be, and the part of its path that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free, folder


@contextlib.contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another kailab is at work here; waiting for it to finish")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Status:
    """What `kailab status` shows."""

    cluster: str
    engine: str
    nodes: tuple[nodes.NodeState, ...]
    waiting: tuple[str, ...]
    version: str = ""

    @property
    def is_ready(self) -> bool:
        # The control plane believes for another 40 s in a node that has stopped.
        return bool(self.version) and not self.waiting and all(node.state == "running" for node in self.nodes)


def status(workspace: Workspace) -> Status:
    """The cluster's state without changing anything."""
    engine = engines.find()
    if engine is None:
        return Status(workspace.cluster_name, "", (), (f"no container engine answers: {engines.why_none().found}",))
    states = tuple(nodes.states(engine, workspace.cluster_name))
    name = f"{engine.program} {engine.version}"
    if states[NODES.index(CONTROL_PLANE)].state != "running":
        return Status(workspace.cluster_name, name, states, ("the control plane is not running",))
    try:
        with contextlib.closing(connect(workspace.kubeconfig)) as api:
            return Status(workspace.cluster_name, name, states, tuple(unready(api)), api.version())
    except KailabError as failed:
        return Status(workspace.cluster_name, name, states, (failed.what,))


def remove_caches(workspace: Workspace, console: Console) -> None:
    """Remove what can be made again: programs, packages, logs, and the images that kailab has made in the engine.

    The caches are all checkouts', so nobody may be at work on them. Images that a container uses stay, as do points,
    evidence and files. Raises KailabError with what could not be removed.
    """
    with contextlib.ExitStack() as held:
        for lock in (workspace.state / "up.lock", *(workspace.cache / name for name in CACHE_LOCKS)):
            held.enter_context(_locked(lock, lambda text: console.print(text)))
        engine = _engine_here()
        if engine is None:
            console.print("no container engine answers: images that kailab has made in one stay there")
        elif used := _remove_images(engine):
            console.print(f"these images stay, since containers use them: {', '.join(used)}")
        if engines.stop(workspace):
            console.print("stopped the Docker engine that kailab had started")
        removed = [workspace.cache / name for name in CACHES] + [workspace.state / name for name in LEFTOVERS]
        if engines.started_by_us(workspace) is None:  # else what lies there tells whose it is
            removed += [path for path in (workspace.cache / "engine").glob("*") if path.suffix != ".lock"]
        for path in removed:
            _remove(path)
    if left := [str(path) for path in removed if path.exists()]:
        raise KailabError("Not all caches could be removed.", why="\n".join(left), mend="remove them by hand")
    console.print(f"removed the caches in {workspace.cache}")
    console.print(f"your points and evidence stay in {workspace.state}, your files in {workspace.work}", soft_wrap=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_images(engine: Engine) -> list[str]:
    """Remove all that kailab has made; returns those that containers still use, also of other checkouts."""
    made = engine.images_made()
    return [name for name in made if engine.run("image", "rm", name, check=False).returncode != 0]
