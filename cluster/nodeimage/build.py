"""Node images without a registry: Debian packages and our own programs, under upstream's image names.

Two images: the control plane's is the workers' with what runs on no worker added. Everything is keyed by
a hash of its recipe and kept in the engine's image store.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cluster import advice, hashing
from cluster import engine as engines
from cluster.engine import Engine, full_name, label_of
from cluster.errors import KailabError
from cluster.nodeimage import programs
from cluster.run import run
from cluster.workspace import KUBERNETES_VERSION, Workspace

NODE = Path(__file__).parent / "node"
PRELOAD = Path(__file__).with_name("preload.sh")
WORK = "/mnt"  # of a volume, in a folder that every Debian has
SUITE = "bookworm"
# systemd 252 of this suite is the last major version line that still boots on cgroup v1 hosts.
NODE_PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "mount", "kmod",
    "procps", "jq", "socat", "curl", "runc", "containernetworking-plugins", "catatonit", "busybox-static",
    "ca-certificates",
)  # fmt: skip
PROXY_PACKAGES = ("iptables", "nftables", "conntrack", "libc6", "netbase")
# An extracted root has no shell and no package script has run in it: these links are update-alternatives' work.
PROXY_LINKS = (
    "for name in iptables ip6tables iptables-save ip6tables-save iptables-restore ip6tables-restore; do "
    'ln -sf xtables-nft-multi "$1/usr/sbin/$name"; done'
)
PATH_VALUE = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PAUSE = "registry.k8s.io/pause:3.10.2"
COREDNS = "registry.k8s.io/coredns/coredns:v1.14.6"
ETCD = "registry.k8s.io/etcd:3.7.0-0"
KUBE_PROXY = f"registry.k8s.io/kube-proxy:{KUBERNETES_VERSION}"
PODROUTES = "kailab/podroutes:v1"
LOCAL_PATH = "docker.io/rancher/local-path-provisioner:v0.0.30"
BUSYBOX = "docker.io/library/busybox:1.36"
METRICS_SERVER = "registry.k8s.io/metrics-server/metrics-server:v0.9.0"
KWOK = "registry.k8s.io/kwok/kwok:v0.8.0"
# One program on an empty root each: (image, module, program).
SCRATCH_IMAGES = (
    (f"registry.k8s.io/kube-apiserver:{KUBERNETES_VERSION}", programs.KUBERNETES, "kube-apiserver"),
    (f"registry.k8s.io/kube-controller-manager:{KUBERNETES_VERSION}", programs.KUBERNETES, "kube-controller-manager"),
    (f"registry.k8s.io/kube-scheduler:{KUBERNETES_VERSION}", programs.KUBERNETES, "kube-scheduler"),
    (ETCD, programs.ETCD, "etcd"),
    (COREDNS, programs.COREDNS, "coredns"),
    (PODROUTES, programs.PODROUTES, "podroutes"),
    (LOCAL_PATH, programs.LOCAL_PATH, "local-path-provisioner"),
    (METRICS_SERVER, programs.METRICS_SERVER, "metrics-server"),
    (KWOK, programs.KWOK, "kwok"),
)
# CoreDNS too: its second pod goes to whichever node has joined by then.
WORKER_IMAGES = (KUBE_PROXY, PAUSE, PODROUTES, BUSYBOX, COREDNS)
CONTROL_PLANE_IMAGES = tuple(image for image, _, _ in SCRATCH_IMAGES if image not in WORKER_IMAGES)

KEPT = timedelta(days=1)

Say = Callable[[str], None]


@dataclass(frozen=True)
class NodeImages:
    """The two names that the kind configuration needs."""

    control_plane: str
    worker: str


def recipe_hash() -> str:
    """What the node images are keyed by: every committed file of this folder, packages and versions."""
    return hashing.combined(
        [hashing.of_files(Path(__file__).parent), *NODE_PACKAGES, *PROXY_PACKAGES, SUITE, KUBERNETES_VERSION]
    )


def names() -> NodeImages:
    """The images' names under the present recipe, built or not."""
    key = recipe_hash()
    return NodeImages(f"kailab/node-control-plane:{key}", f"kailab/node-worker:{key}")


def is_built(engine: Engine) -> bool:
    wanted = names()
    return engine.has_image(wanted.control_plane) and engine.has_image(wanted.worker)


def debian_root(engine: Engine, tag: str, packages: Sequence[str], variant: str, log: Path, *options: str) -> None:
    """Make a root file system of Debian packages (mmdebstrap, the machine's own mirrors) into an image.

    Raises KailabError where mmdebstrap is missing and may not be installed.
    """
    if engine.has_image(tag):
        return
    ensure_mmdebstrap(log)
    with tempfile.TemporaryDirectory(prefix="kailab-") as folder:
        tar = Path(folder) / "root.tar"
        run(["mmdebstrap", "--quiet", f"--variant={variant}", f"--include={','.join(packages)}", *options, SUITE, tar],
            log=log, timeout=1200)  # fmt: skip
        changes = ("--change", f"ENV PATH={PATH_VALUE}", "--change", f"LABEL {label_of(tag)}")
        engine.run("import", *changes, tar, full_name(tag), log=log)


def ensure_mmdebstrap(log: Path) -> None:
    """Install mmdebstrap where that is allowed; raises KailabError with the command elsewhere."""
    if shutil.which("mmdebstrap"):
        return
    if not engines.can_install():
        raise KailabError(
            "Building images without a container registry needs mmdebstrap.",
            why="It assembles Debian root file systems; it is packaged by Debian and Ubuntu.",
            mend=f"{advice.how_to_get_mmdebstrap()}; then kailab up",
        )
    run(["apt-get", "-q", "update"], log=log)
    run(["apt-get", "-q", "-y", "--no-install-recommends", "install", "mmdebstrap", "debian-archive-keyring"], log=log,
        env={"DEBIAN_FRONTEND": "noninteractive"})  # fmt: skip


def build(workspace: Workspace, engine: Engine, log: Path, say: Say) -> NodeImages:
    """Both node images, built unless they exist. About 15 minutes from nothing on two cores, 1 with Go's cache."""
    wanted = names()
    if is_built(engine):
        return wanted
    folders = {module.name: programs.build(workspace, module, log, say) for module in programs.NODE_MODULES}
    say("assembling the nodes' root file system")
    root = f"kailab/node-root:{hashing.combined([*NODE_PACKAGES, SUITE])}"
    debian_root(engine, root, NODE_PACKAGES, "minbase", log)
    proxy_root = f"kailab/proxy-root:{hashing.combined([*PROXY_PACKAGES, PROXY_LINKS, SUITE])}"
    debian_root(engine, proxy_root, PROXY_PACKAGES, "extract", log, f"--extract-hook={PROXY_LINKS}")
    say("building the component images")
    _component_images(engine, folders, root, proxy_root, log)
    say("building the node images")
    bare = _bare_node(engine, folders, root, log)
    _preload(engine, bare, wanted.worker, WORKER_IMAGES, log)
    _preload(engine, wanted.worker, wanted.control_plane, CONTROL_PLANE_IMAGES, log)
    return wanted


def _component_images(engine: Engine, folders: dict[str, Path], root: str, proxy_root: str, log: Path) -> None:
    for image, module, program in SCRATCH_IMAGES:
        # Upstream's etcd image carries etcdctl too; students look into the store with it.
        beside = [folders[module.name] / "etcdctl"] if image == ETCD else []
        _program_image(engine, image, "scratch", [folders[module.name] / program, *beside], log)
    _program_image(engine, KUBE_PROXY, proxy_root, [folders["kubernetes"] / "kube-proxy"], log)
    with tempfile.TemporaryDirectory(prefix="kailab-") as context:
        for source, name in (("/usr/bin/catatonit", "pause"), ("/bin/busybox", "busybox")):
            _copy_out(engine, root, source, Path(context) / name)
        _build(engine, PAUSE, context, 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause", "-P"]\n', log)
        shell = "FROM scratch\nCOPY busybox /bin/busybox\n"
        shell += f'RUN ["/bin/busybox", "--install", "/bin"]\nENV PATH={PATH_VALUE}\nCMD ["sh"]\n'
        _build(engine, BUSYBOX, context, shell, log)


def _program_image(engine: Engine, tag: str, base: str, files: Sequence[Path], log: Path) -> None:
    """An image of static programs; the first one is what it runs."""
    with tempfile.TemporaryDirectory(prefix="kailab-") as context:
        for program in files:
            shutil.copy2(program, context)
        # On PATH, since kubeadm's manifests call the programs by their bare names.
        copies = f"COPY {' '.join(program.name for program in files)} /usr/local/bin/"
        lines = [f"FROM {base if base == 'scratch' else full_name(base)}", copies, f"ENV PATH={PATH_VALUE}"]
        entry = f'ENTRYPOINT ["/usr/local/bin/{files[0].name}"]'
        _build(engine, tag, context, "\n".join([*lines, entry, ""]), log)


def _build(engine: Engine, tag: str, context: str, dockerfile: str, log: Path, *args: str) -> None:
    (Path(context) / "Dockerfile").write_text(dockerfile)
    engine.build(tag, context, *args, log=log, timeout=1200)


def _copy_out(engine: Engine, image: str, source: str, target: Path) -> None:
    container = engine.run("create", full_name(image), "true").stdout.strip()
    try:
        engine.run("cp", f"{container}:{source}", target)
    finally:
        engine.run("rm", "--force", container)


def _bare_node(engine: Engine, folders: dict[str, Path], root: str, log: Path) -> str:
    tag = f"kailab/node-bare:{recipe_hash()}"
    with tempfile.TemporaryDirectory(prefix="kailab-") as context:
        shutil.copytree(NODE, context, dirs_exist_ok=True)
        target = Path(context) / "bin"
        target.mkdir()
        for module, names_ in (("kubernetes", ("kubelet", "kubeadm", "kubectl")), ("containerd", None)):
            for program in names_ or programs.CONTAINERD.programs:
                shutil.copy2(folders[module] / program, target)
        recipe = (NODE / "Dockerfile").read_text()
        _build(engine, tag, context, recipe, log, "--build-arg", f"ROOT={full_name(root)}",
               "--build-arg", f"KUBERNETES_VERSION={KUBERNETES_VERSION}")  # fmt: skip
    return tag


def bake(engine: Engine, image: str, images: Sequence[str], key: str, mark: str, log: Path) -> str:
    """A node image that also holds `images`, noted by writing `key` to the file `mark`; returns its name."""
    tag = f"{image}-{key}"
    if not engine.has_image(tag):
        _preload(engine, image, tag, images, log, f"printf %s {key} > {mark}")
    return tag


def _preload(engine: Engine, bare: str, tag: str, images: Sequence[str], log: Path, after: str = "true") -> None:
    """Put `images` into containerd's store of the node `bare`, run `after`, and keep the result as `tag`.

    The name comes last: there is a whole image under it, or none. Nobody else may be at it, see the caller's lock.
    """
    container = f"kailab-makes-{tag.rpartition('/')[2].replace(':', '-')}"
    engine.run("rm", "--force", "--volumes", container, check=False)  # of a kailab that was killed here
    start = ("run", "--detach", "--privileged", "--name", container, "--mount", f"type=volume,destination={WORK}")
    engine.run(*start, "--entrypoint", "sleep", full_name(bare), "infinity", log=log)
    try:
        with tempfile.NamedTemporaryFile(prefix="kailab-", suffix=".tar") as saved:
            engine.save(images, saved.name, log)
            script = f"{PRELOAD.read_text()}\n{after}"
            with Path(saved.name).open("rb") as stream:
                command = ("bash", "-c", script, "preload", WORK)
                engine.run("exec", "--interactive", container, *command, stdin=stream, log=log)
        engine.run(
            "commit", "--change", 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]',
            "--change", f"LABEL {label_of(tag)}", container, full_name(tag), log=log,
        )  # fmt: skip
    finally:
        engine.run("rm", "--force", "--volumes", container)


def prune(engine: Engine) -> list[str]:
    """Remove images of earlier recipes (2 GB each) that no container uses; returns their names.

    What was made within a day stays: another checkout of another version may be about to make nodes of it.
    """
    current = {names().control_plane, names().worker, f"kailab/node-bare:{recipe_hash()}"}
    current.add(f"kailab/node-root:{hashing.combined([*NODE_PACKAGES, SUITE])}")
    kept = tuple(map(full_name, current))
    ours = full_name("kailab/node-")
    others = [name for name in engine.image_names() if name.startswith(ours) and not name.startswith(kept)]
    old = [name for name in others if _age(engine, name) > KEPT]
    return [name for name in old if engine.run("image", "rm", name, check=False).returncode == 0]


def _age(engine: Engine, image: str) -> timedelta:
    """How long ago an image was made, by the engine's clock in UTC; of one that is just being removed, none."""
    told = engine.run("image", "inspect", "--format", "{{.Created}}", full_name(image), check=False).stdout
    try:  # Docker separates date and time by a T, Podman by a blank
        made = datetime.fromisoformat(told.strip()[: len("2026-01-31T23:59:59")]).replace(tzinfo=UTC)
    except ValueError:
        return timedelta()
    return datetime.now(UTC) - made
