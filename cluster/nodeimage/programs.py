"""The programs of a node, built from Go modules whose versions go.mod and go.sum pin and verify."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster import hashing
from cluster.engine import Engine
from cluster.errors import KailabError
from cluster.run import run
from cluster.workspace import KUBERNETES_VERSION, Workspace

MODULES = Path(__file__).parent / "go"
OLDEST_GO = (1, 26)
GO_IMAGE = "docker.io/library/golang:1.26-bookworm"
_ROOM_FOR_A_LINKER = 4 * 2**30
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
_VERSION_PACKAGE = "k8s.io/component-base/version"
_KUBERNETES_PROGRAMS = (
    "kubelet", "kubeadm", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy",
)  # fmt: skip


@dataclass(frozen=True)
class Module:
    """Programs that are built together; `usual` is how many seconds that takes on two cores without any cache.

    `packages` are Go's, `go_mod` is the folder of the go.mod that pins them.
    """

    name: str
    usual: int
    programs: tuple[str, ...]
    packages: tuple[str, ...] = ("tool",)
    go_mod: str = ""
    tags: str = ""
    stamp: str = ""
    renamed: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        return MODULES / (self.go_mod or self.name)


# Whatever speaks to Kubernetes is pinned by one go.mod, so that its libraries are compiled once. With a go.mod for each
# of them, those after Kubernetes took 350 s more: for the same libraries in other versions.
KUBERNETES = Module(
    "kubernetes", 400, _KUBERNETES_PROGRAMS, tuple(f"k8s.io/kubernetes/cmd/{name}" for name in _KUBERNETES_PROGRAMS),
    stamp=f"-X {_VERSION_PACKAGE}.gitVersion={KUBERNETES_VERSION} "
          f"-X {_VERSION_PACKAGE}.gitMajor={_MAJOR} -X {_VERSION_PACKAGE}.gitMinor={_MINOR}",
)  # fmt: skip
ETCD = Module(
    "etcd", 20, ("etcd", "etcdctl"), ("go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/etcdctl/v3"), "kubernetes",
    renamed=(("server", "etcd"),),
)  # fmt: skip
COREDNS = Module("coredns", 55, ("coredns",), ("github.com/coredns/coredns",), "kubernetes")
LOCAL_PATH = Module(
    "local-path-provisioner", 5, ("local-path-provisioner",), ("github.com/rancher/local-path-provisioner",),
    "kubernetes",
)  # fmt: skip
METRICS_SERVER = Module(
    "metrics-server", 10, ("metrics-server",), ("sigs.k8s.io/metrics-server/cmd/metrics-server",), "kubernetes"
)
KWOK = Module("kwok", 10, ("kwok",), ("sigs.k8s.io/kwok/cmd/kwok",), "kubernetes")
PODROUTES = Module("podroutes", 5, ("podroutes",), ("./podroutes",), "kubernetes")
CONTAINERD = Module(
    "containerd", 70, ("containerd", "ctr", "containerd-shim-runc-v2"), tags="no_aufs no_zfs no_btrfs no_devmapper"
)
KIND = Module("kind", 28, ("kind",))
NVIDIA_SMI = Module("nvidia-smi", 3, ("nvidia-smi",), (".",))
NODE_MODULES = (KUBERNETES, ETCD, COREDNS, LOCAL_PATH, METRICS_SERVER, KWOK, PODROUTES, CONTAINERD)


def go_version() -> tuple[int, int] | None:
    """The version of Go on PATH, or None."""
    if shutil.which("go") is None:
        return None
    found = re.search(r"go(\d+)\.(\d+)", run(["go", "version"], check=False).stdout)
    return (int(found[1]), int(found[2])) if found else None


def require_go() -> None:
    """Raises KailabError unless a Go that can build these modules is on PATH."""
    version = go_version()
    # From 1.21 on, Go fetches by itself the newer toolchain that a go.mod asks for.
    if version is None or version < (1, 21):
        raise KailabError(
            f"Building Kubernetes without a container registry needs Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer.",
            why="`go version` finds none." if version is None else f"Go {version[0]}.{version[1]} is too old.",
            mend="install Go from your system or go.dev, or connect to a container registry; then kailab up",
        )


def _flags(module: Module) -> list[str]:
    # What the linker would strip (-s -w) is not made in the first place: compilers take a tenth less time without it.
    return [
        "-trimpath", "-gcflags=all=-dwarf=false", "-ldflags", f"-s -w {module.stamp}".strip(),
        *(["-tags", module.tags] if module.tags else []),
    ]  # fmt: skip


def _command(module: Module) -> list[str]:
    return ["go", "install", *_flags(module), *module.packages]


def _in_container(engine: Engine, module: Module, out: Path) -> list[str]:
    """The start of a command that runs in Go's image, where the machine has no Go: the sources read-only, `out` for
    what is built."""
    settings = ("CGO_ENABLED=0", "GOBIN=/out", "GOFLAGS=-mod=readonly -buildvcs=false")
    mounts = (f"{module.folder}:/src:ro", f"{out}:/out")
    options = [part for one in settings for part in ("--env", one)] + [
        part for one in mounts for part in ("--volume", one)
    ]
    return [engine.program, "run", "--rm", "--workdir", "/src", *options, GO_IMAGE]


def _collect_less() -> dict[str, str]:
    """Where memory abounds, what lets compilers collect less garbage: they took a sixth less time. Linkers need up to
    3 GiB then, and Go runs one for each core.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # a system that doesn't tell
        return {}
    abounds = memory >= (os.cpu_count() or 1) * _ROOM_FOR_A_LINKER
    return {"GOGC": "400"} if abounds and "GOGC" not in os.environ else {}


def folder_of(workspace: Workspace, module: Module) -> Path:
    """Where the module's programs are, or will be once built."""
    key = hashing.combined([hashing.of_files(module.folder), *_flags(module), *module.packages])
    return workspace.cache / "programs" / f"{module.name}-{key}"


def _remove_unfinished(folder: Path) -> None:
    """What killed builds left beside it: a hundred megabytes each."""
    for left in folder.parent.glob(f"{folder.name}.*"):
        if left.suffix == f".{os.getpid()}" or not _runs(left.suffix[1:]):
            shutil.rmtree(left, ignore_errors=True)


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError):
        return False
    return True


def build(
    workspace: Workspace, module: Module, log: Path, say: Callable[[str], None] = lambda _: None,
    engine: Engine | None = None,
) -> Path:  # fmt: skip
    """The folder that holds the module's programs, built if this recipe has not been built before.

    Programs are static (CGO_ENABLED=0), so that they run on an empty image. Without Go on this machine an `engine`
    that can pull images compiles in Go's own. Raises KailabError when there is neither, CommandFailed with the
    compiler's words otherwise.
    """
    folder = folder_of(workspace, module)
    if all((folder / program).exists() for program in module.programs):
        return folder
    if engine is None:
        require_go()
    say(f"compiling {module.name} (about {module.usual} s the first time)")
    _remove_unfinished(folder)
    unfinished = folder.with_suffix(f".{os.getpid()}")
    env = {"CGO_ENABLED": "0", "GOBIN": str(unfinished), "GOFLAGS": "-mod=readonly -buildvcs=false", **_collect_less()}
    try:
        if engine is not None and go_version() is None:
            unfinished.mkdir(parents=True)
            command = [*_in_container(engine, module, unfinished), *_command(module)]
            run(command, env=engine.env, log=log, timeout=3600)
        else:
            run(_command(module), cwd=module.folder, env=env, log=log, timeout=3600)
        for built, wanted in module.renamed:
            (unfinished / built).rename(unfinished / wanted)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
