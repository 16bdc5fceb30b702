"""The agent of one node with simulated GPUs: what a driver, NVIDIA's device plugin, DRA driver and exporter do there.

One process, since all of it is about the same silicon: the kubelet's plugins and the metrics must tell one story.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc

from cluster.api import Api, ApiError, Object, Stop, Unreachable
from cluster.errors import KailabError
from cluster.gpu import FLEET_CONFIG_MAP, METRICS_PORT, NAMESPACE, devices, faults
from cluster.gpu.node import checkpoint, sharing
from cluster.gpu.node.allocations import Allocations, key_of
from cluster.gpu.node.board import Board
from cluster.gpu.node.dra import DRIVER, DraPlugin, allocated_claims
from cluster.gpu.node.follow import follow
from cluster.gpu.node.nodeobject import NodeObject
from cluster.gpu.node.plugin import Plugin, PluginServer
from cluster.gpu.node.podresources import Holder, PodResources
from cluster.gpu.node.readings import GpuFault
from cluster.gpu.node.sessions import SessionServer
from cluster.gpu.node.silicon import Silicon
from cluster.gpu.node.slices import device_names
from cluster.gpu.node.smi import View, render
from cluster.gpu.node.view import Moment, with_uuids
from cluster.gpu.node.web import Pages
from cluster.kubeconfig import Target, shared_context

log = logging.getLogger(__name__)

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TURN_SECONDS = 0.5
START_SECONDS = 60
PREFIX = "nvidia.com/"
ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class Folders:
    """Where the kubelet's and the agent's files are, as seen by the agent; `on_node` is `state` as the node sees it."""

    kubelet: Path = Path("/var/lib/kubelet")
    state: Path = Path("/var/lib/kailab-gpu")
    on_node: str = "/var/lib/kailab-gpu"
    cdi: Path = Path("/var/run/cdi")

    @property
    def plugins(self) -> Path:
        return self.kubelet / "device-plugins"

    @property
    def pod_resources(self) -> Path:
        return self.kubelet / "pod-resources" / "kubelet.sock"


class Agent:
    """Everything on one node. `run` returns when `stop` is set."""

    def __init__(self, api: Api, node: str, spec: devices.NodeGpus, folders: Folders) -> None:
        self._api, self._node, self._folders = api, node, folders
        self._gpus = devices.gpus(node, spec)
        self._default_sharing = sharing.from_document(spec.sharing)
        self._silicon = Silicon(self._gpus)
        self._board = Board(self._gpus, self._default_sharing, self._silicon.is_healthy)
        self._sessions = SessionServer(self._silicon, smi=self._smi)
        self._allocations = Allocations(
            folders.state / "allocations", f"{folders.on_node}/allocations", f"{folders.on_node}/bin/nvidia-smi",
            self._sessions.listen, self._sessions.forget, time.monotonic, tuple(devices.by_id(self._gpus)),
        )  # fmt: skip
        self._servers: dict[str, PluginServer] = {}
        self._pod_resources = PodResources(folders.pod_resources)
        self._dra = DraPlugin(
            node, self._gpus, api, self._board, folders.kubelet / "plugins", folders.kubelet / "plugins_registry",
            folders.cdi, lambda key, ids: self._allocations.prepare(ids, key),
        )  # fmt: skip
        self._object = NodeObject(api, node, self._gpus)
        self._names = {name: uuid for uuid, name in device_names(self._gpus).items()}
        self._holders: tuple[Holder, ...] = ()
        self._entries: tuple[checkpoint.Entry, ...] = ()
        self._pods: dict[str, tuple[str, str]] | None = None  # those that have not ended: namespace and name by UID
        self._faults: dict[int, GpuFault] = {}
        self._lock = threading.RLock()
        self._config_name = ""
        self._configs: dict[str, str] = {}
        self._problems: dict[str, str] = {}

    def run(self, stop: Stop) -> None:
        """Serve until `stop`. A missing device directory, or a kubelet that is away, is waited for."""
        self._install_smi()
        self._allocations.restore()
        threads = [
            self._follow("Node", self._node_changed, stop, fieldSelector=f"metadata.name={self._node}"),
            self._follow("ConfigMap", self._configs_changed, stop, namespace=NAMESPACE,
                         fieldSelector=f"metadata.name={sharing.CONFIG_MAP}"),
            self._follow("ResourceClaim", self._claims_changed, stop),
            self._follow("Pod", self._pods_changed, stop, fieldSelector=f"spec.nodeName={self._node}"),
        ]  # fmt: skip
        with Pages(METRICS_PORT, self.moment):
            version = -1
            while not stop.is_set():
                version = self._board.wait_after(version, TURN_SECONDS)
                self._turn()
        for server in self._servers.values():
            server.end()
        self._dra.close()
        self._pod_resources.close()
        self._sessions.close()
        for thread in threads:
            thread.join(timeout=2)

    def _follow(
        self, kind: str, on_change: Callable[[list[Object]], None], stop: Stop, *, namespace: str = "", **selectors: str
    ) -> threading.Thread:
        report = functools.partial(self._problem, f"watching {kind}")
        return follow(self._api, kind, on_change, stop, namespace=namespace, report=report, **selectors)

    def moment(self) -> Moment:
        """All of the node's GPUs as they are now."""
        readings = {device.uuid: self._silicon.reading(device.uuid) for gpu in self._gpus for device in gpu.devices}
        replicas = self._board.sharing.replicas
        with self._lock:
            problems = tuple(self._problems.values())
            return Moment(self._node, self._gpus, readings, self._holders, self._health(), replicas, problems)

    def _turn(self) -> None:
        """What must be looked at again and again; one part's trouble doesn't stop the others."""
        parts = (
            self._keep_registered, self._read_checkpoint, self._look_who_holds, self._keep_claims,
            self._keep_node_object,
        )  # fmt: skip
        for part in parts:
            name = part.__name__.strip("_").replace("_", " ")
            try:
                part()
            # RuntimeError is what gRPC raises when it can't bind a socket.
            except (grpc.RpcError, OSError, ApiError, Unreachable, ValueError, RuntimeError) as failed:
                self._problem(name, f"{name}: {_words(failed)}")
            else:
                self._problem(name, "")

    def _problem(self, name: str, text: str) -> None:
        with self._lock:
            if text and self._problems.get(name) != text:
                log.warning("%s", text)
            if text:
                self._problems[name] = text
            else:
                self._problems.pop(name, None)

    def _keep_registered(self) -> None:
        if not self._folders.plugins.is_dir():
            raise FileNotFoundError(f"the kubelet's {self._folders.plugins} is missing; waiting for it")
        for resource in self._board.offers():
            if resource not in self._servers:
                plugin = Plugin(resource, self._board, self._allocations.prepare)
                self._servers[resource] = PluginServer(plugin, self._folders.plugins)
            self._servers[resource].ensure()

    def _read_checkpoint(self) -> None:
        self._entries = checkpoint.read(self._folders.plugins, PREFIX)

    def _look_who_holds(self) -> None:
        found = self._pod_resources.holders(PREFIX)
        holders = with_uuids([one for one in found if not one.claim or one.driver == DRIVER], self._names)
        listed = {one for holder in holders if not holder.claim for one in holder.ids}
        pods = self._pods
        entries = checkpoint.alive(self._entries, pods)
        with self._lock:
            self._holders = (*holders, *checkpoint.unlisted(entries, pods or {}, listed))
        self._board.set_held_by_plugin(listed | {one for entry in entries for one in entry.ids})
        by_ids = {key_of(holder.ids) for holder in holders if not holder.claim}
        by_ids |= {key_of(entry.ids) for entry in entries}
        self._allocations.keep(by_ids | self._dra.keys())

    def _keep_claims(self) -> None:
        self._dra.ensure_serving()
        self._dra.publish(self._health())

    def _keep_node_object(self) -> None:
        self._object.keep(self._board.sharing, self._health())

    def _health(self) -> dict[str, str]:
        """Why a GPU is unhealthy, by UUID; healthy ones are left out."""
        with self._lock:
            return {
                gpu.uuid: faults.describe(self._faults[gpu.index]) for gpu in self._gpus if gpu.index in self._faults
            }

    def _node_changed(self, items: list[Object]) -> None:
        for item in items:
            self._object.saw(item)
            metadata = item["metadata"]
            self._set_faults(faults.wanted(metadata.get("annotations") or {}))
            self._config_name = (metadata.get("labels") or {}).get(sharing.CONFIG_LABEL, "")
        self._choose_sharing()

    def _set_faults(self, wanted: dict[int, GpuFault]) -> None:
        with self._lock:
            present = {gpu.index: gpu.uuid for gpu in self._gpus}
            for index in sorted(set(self._faults) - set(wanted)):
                self._silicon.heal(present[index])
                del self._faults[index]
                log.info("GPU %d: healed", index)
            for index, fault in wanted.items():
                if index not in present or self._faults.get(index) == fault:
                    continue
                if index in self._faults:
                    self._silicon.heal(present[index])
                self._silicon.fail(present[index], fault)
                log.warning("GPU %d: %s", index, faults.describe(fault))
                if faults.is_momentary(fault):
                    self._object.forget_fault(index)
                else:
                    self._faults[index] = fault
        self._board.health_changed()

    def _configs_changed(self, items: list[Object]) -> None:
        self._configs = dict(items[0].get("data") or {}) if items else {}
        self._choose_sharing()

    def _choose_sharing(self) -> None:
        """What the node's label asks for; where that can't be read, the present one stays, as with NVIDIA's."""
        name = self._config_name
        try:
            if not name:
                chosen = self._default_sharing
            elif name in self._configs:
                chosen = sharing.parse(self._configs[name])
            else:
                has = ", ".join(sorted(self._configs)) or "nothing"
                raise KailabError(f"no key {name!r} in ConfigMap {sharing.CONFIG_MAP}; it has {has}")
        except KailabError as wrong:
            self._problem("sharing", f"label {sharing.CONFIG_LABEL}={name}: {wrong.why or wrong.what}")
            return
        self._problem("sharing", "")
        self._board.share(chosen)

    def _claims_changed(self, items: list[Object]) -> None:
        self._board.set_claims(allocated_claims(items, self._node, self._gpus))

    def _pods_changed(self, items: list[Object]) -> None:
        self._pods = {
            metadata["uid"]: (metadata["namespace"], metadata["name"])
            for metadata, status in ((item["metadata"], item.get("status") or {}) for item in items)
            if status.get("phase") not in ENDED
        }

    def _smi(self, argv: list[str], ids: Sequence[str]) -> tuple[int, str]:
        """nvidia-smi's answer to the holder of these devices."""
        known = devices.by_id(self._gpus)
        held = [known[one] for one in dict.fromkeys(devices.uuid_of(one) for one in ids) if one in known]
        moment = self.moment()
        return render(argv, View.of(self._gpus, held, moment.readings, datetime.now(UTC)))

    def _install_smi(self) -> None:
        """Where containers mount it from: the node's own copy, since a running program can't be written over."""
        target = self._folders.state / "bin" / "nvidia-smi"
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name("nvidia-smi.new")
        shutil.copy2(Path(os.environ.get("KAILAB_SMI", "/app/nvidia-smi")), fresh)
        fresh.rename(target)


def _words(failed: BaseException) -> str:
    if isinstance(failed, grpc.RpcError):
        return str(failed.details() if hasattr(failed, "details") else failed)
    return str(failed)


def in_cluster() -> Target:
    """The API server as a pod reaches it, with the pod's own account, whose token the kubelet renews.

    Addresses and files: kubernetes.io/docs/tasks/run-application/access-api-from-pod.
    """
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    tls = shared_context(cafile=ACCOUNT / "ca.crt")
    headers = {"User-Agent": "kailab-gpu", "Accept": "application/json",
               "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}  # fmt: skip
    return Target(f"https://{host}:{port}", tls, headers, anew=in_cluster)


def wait_for(api: Api, stop: Stop) -> None:
    """On a node that has just joined, pods reach the API server only when kube-proxy runs there too.

    Raises SystemExit when that takes longer than START_SECONDS, or at `stop`.
    """

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise SystemExit

    if not api.becomes_ready(START_SECONDS, pause):
        raise SystemExit(f"The API server does not answer pods on this node, for {START_SECONDS} s now.")


def own_spec(api: Api, node: str) -> devices.NodeGpus | None:
    """What the fleet says about this node; None when it has no GPUs."""
    found = api.get("ConfigMap", FLEET_CONFIG_MAP, NAMESPACE)
    text = ((found or {}).get("data") or {}).get(node)
    return devices.NodeGpus.from_json(json.loads(text)) if text else None


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    node = os.environ["NODE_NAME"]
    with contextlib.closing(Api(in_cluster())) as api:
        wait_for(api, stop)
        spec = own_spec(api, node)
        if spec is None:
            log.error("ConfigMap %s/%s has no entry for node %s", NAMESPACE, FLEET_CONFIG_MAP, node)
            raise SystemExit(1)
        Agent(api, node, spec, Folders()).run(stop)


if __name__ == "__main__":
    main()
