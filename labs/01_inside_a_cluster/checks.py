"""Lab 1: answers held against the live cluster, and a cluster that mends what a plain container would not survive."""

from __future__ import annotations

import json
from typing import Any

from checkers import workloads
from checkers.declare import CannotTell, Checks, Fail
from checkers.lab import Lab
from checkers.match import Present, mismatches
from cluster.api import Object

checks = Checks()

SYSTEM_PODS = "Pod@kube-system"
PARTS = {
    "answers-kubectl": "kube-apiserver",
    "keeps-the-state": "etcd",
    "chooses-nodes": "kube-scheduler",
    "runs-control-loops": "kube-controller-manager",
}
# Who acted, by the object that the event is about and the event's reason: the names are those under which these
# components report (kube-controller-manager's controllers, kube-scheduler's default profile, kubelet).
ACTORS = {
    "made-the-replicaset": ("Deployment", "ScalingReplicaSet", "deployment-controller"),
    "made-the-pods": ("ReplicaSet", "SuccessfulCreate", "replicaset-controller"),
    "placed-the-pods": ("Pod", "Scheduled", "default-scheduler"),
    "started-the-containers": ("Pod", "Started", "kubelet"),
}
WORKLOAD = ("Deployment", "ReplicaSet", "Pod")
STAYS_AWAY_SECONDS = 3.0
ETCDCTL = [
    "etcdctl", "--endpoints=https://127.0.0.1:2379", "--cacert=/etc/kubernetes/pki/etcd/ca.crt",
    "--cert=/etc/kubernetes/pki/etcd/server.crt", "--key=/etc/kubernetes/pki/etcd/server.key",
]  # fmt: skip


@checks.once("control-plane", reads=("ConfigMap", SYSTEM_PODS))
def control_plane(lab: Lab) -> None:
    """Each answer names the component that really runs, on the node where it runs."""
    answers = _answers(lab, [*PARTS, "control-plane-node"])
    for key, component in PARTS.items():
        running = _component(lab, component)
        if answers[key] not in (component, *(pod["metadata"]["name"] for pod in running)):
            raise _wrong(lab, key, answers[key], "kubectl -n kube-system get pods")
    nodes = {pod["spec"]["nodeName"] for component in PARTS.values() for pod in _component(lab, component)}
    if answers["control-plane-node"] not in nodes:
        raise _wrong(lab, "control-plane-node", answers["control-plane-node"],
                     "kubectl -n kube-system get pods -o wide", hint="node-name")  # fmt: skip


@checks.once("node-parts", reads=("ConfigMap", "Node", SYSTEM_PODS))
def node_parts(lab: Lab) -> None:
    """The answers are the number of kube-proxy pods, the nodes' container runtime, and their kubelets' version."""
    answers = _answers(lab, ["kube-proxy-pods", "container-runtime", "kubelet-version"])
    proxies = [pod for pod in lab.objects(SYSTEM_PODS, k8s_app="kube-proxy") if not workloads.is_leaving(pod)]
    if answers["kube-proxy-pods"] != str(len(proxies)):
        look = "kubectl -n kube-system get daemonset kube-proxy"
        raise _wrong(lab, "kube-proxy-pods", answers["kube-proxy-pods"], look, hint="proxies")
    infos = [node["status"]["nodeInfo"] for node in lab.objects("Node")]
    runtimes = {info["containerRuntimeVersion"] for info in infos}
    if answers["container-runtime"] not in runtimes | {name.partition("://")[0] for name in runtimes}:
        raise _wrong(lab, "container-runtime", answers["container-runtime"], "kubectl get nodes -o wide")
    versions = {info["kubeletVersion"] for info in infos}
    if answers["kubelet-version"] not in versions | {version.lstrip("v") for version in versions}:
        raise _wrong(lab, "kubelet-version", answers["kubelet-version"], "kubectl get nodes")


@checks.converge("hello", reads=WORKLOAD, seconds=60)
def hello(lab: Lab) -> None:
    """The Deployment runs the image of the task, and all the pods that it asks for are ready."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    workloads.index_of_image(deployment, lab.names["image"])
    try:
        workloads.require_rolled_out(deployment, deployment["spec"].get("replicas", 1))
    except Fail as wrong:
        wrong.hopeless = any(workloads.is_stuck(pod) for pod in lab.pods_of(deployment))
        raise
    if not deployment["spec"].get("replicas", 1):
        raise Fail("it asks for no pods at all", about=deployment)


@checks.once("who-acted", reads=("ConfigMap", *WORKLOAD), needs=("hello",))
def who_acted(lab: Lab) -> None:
    """Each answer is the component that reported the event."""
    answers = _answers(lab, list(ACTORS))
    for key, (kind, reason, known) in ACTORS.items():
        actor = _actor(lab, kind, reason) or known  # events are kept for an hour only
        if answers[key] != actor:
            raise _wrong(lab, key, answers[key], f"kubectl -n {lab.namespace} events")


@checks.converge("scaled", reads=WORKLOAD, needs=("hello",))
def scaled(lab: Lab) -> None:
    """As many pods as the task asks for are ready."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    asked, wanted = deployment["spec"].get("replicas", 1), lab.names["replicas"]
    if asked != wanted:
        raise Fail(f"it asks for {asked} pods", about=deployment, settled=True,
                   expected=f"Deployment {lab.names['deployment']} asks for {wanted} pods")  # fmt: skip
    workloads.require_rolled_out(deployment, wanted)


@checks.converge("portable", reads=WORKLOAD, needs=("scaled",))
def portable(lab: Lab) -> None:
    """The ready pods are on several nodes and run one and the same image, by its digest."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    pods = [pod for pod in lab.pods_of(deployment) if workloads.is_ready(pod)]
    nodes = sorted({pod["spec"]["nodeName"] for pod in pods})
    look = f"kubectl -n {lab.namespace} get pods -o wide"
    if len(nodes) < lab.names["nodes"]:
        is_all = len(pods) >= lab.names["replicas"]  # a busy node's pod may be late with its readiness for a moment
        raise Fail(f"all {len(pods)} ready pods are on {', '.join(nodes) or 'no node'}", settled=is_all,
                   look_with=look, hint="one-node")  # fmt: skip
    digests = {_image_id(pod, lab.names["image"]) for pod in pods}
    if len(digests) != 1:
        raise Fail(f"different images behind one name: {', '.join(sorted(digests))}", look_with=look)


@checks.once("efficient", reads=("Deployment",), needs=("hello",))
def efficient(lab: Lab) -> None:
    """Every container has requests for cpu and memory, by which the scheduler packs nodes."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    wanted = {"cpu": Present(), "memory": Present()}
    for container in workloads.containers(deployment):
        found = mismatches(wanted, workloads.requests(container), f"container {container.get('name')}: requests")
        if found:
            look = f"kubectl -n {lab.namespace} get deployment {lab.names['deployment']} -o yaml"
            raise Fail("; ".join(map(str, found)), look_with=look)


@checks.converge("alone", reads=("Pod",), seconds=60)
def alone(lab: Lab) -> None:
    """A pod of that name is ready, and nothing owns it."""
    pod = lab.object("Pod", lab.names["plain_pod"])
    owners = pod["metadata"].get("ownerReferences") or []
    if owners:
        raise Fail(f"it belongs to {owners[0]['kind']} {owners[0]['name']}", about=pod, settled=True, hint="owned")
    if not workloads.is_ready(pod):
        raise Fail("it is not ready", about=pod, hopeless=workloads.is_stuck(pod))


@checks.trigger("killed", reads=WORKLOAD, needs=("hello", "alone"), disturbs=("Pod",), seconds=60)
def killed(lab: Lab) -> None:
    """Both are killed: the Deployment's pod is replaced in time, the plain pod stays away."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    wanted, plain = deployment["spec"].get("replicas", 1), lab.object("Pod", lab.names["plain_pod"])
    victim = min(lab.pods_of(deployment), key=lambda pod: str(pod["metadata"]["name"]))
    for pod in (victim, plain):
        _kill(lab, pod)
    gone = {victim["metadata"]["uid"], plain["metadata"]["uid"]}

    def replaced() -> None:
        alive = [pod for pod in lab.pods_of(deployment) if workloads.is_ready(pod)]
        alive = [pod for pod in alive if pod["metadata"]["uid"] not in gone]
        if len(alive) < wanted:
            raise Fail(f"{len(alive)} ready pods of {wanted} after one was killed",
                       about=lab.find("Deployment", lab.names["deployment"]))  # fmt: skip

    def stays_away() -> None:
        back = lab.find("Pod", lab.names["plain_pod"])
        if back is not None and back["metadata"]["uid"] not in gone:
            raise Fail("something made the plain pod again", about=back)

    lab.until(lab.names["recover_seconds"], replaced)
    lab.throughout(STAYS_AWAY_SECONDS, stays_away)


@checks.trigger("drift", reads=WORKLOAD, needs=("hello",), disturbs=("Deployment",), seconds=60)
def drift(lab: Lab) -> None:
    """The ReplicaSet is scaled down behind the Deployment's back, and is put right again."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    wanted = deployment["spec"].get("replicas", 1)
    owned = next((item for item in _replica_sets(lab, deployment) if item["spec"]["replicas"]), None)
    if owned is None:
        raise Fail("the Deployment has no ReplicaSet with pods", about=deployment)
    name = owned["metadata"]["name"]

    def take_one_away(api: Any) -> int:
        changed = api.patch("ReplicaSet", name, lab.namespace, {"spec": {"replicas": wanted - 1}})
        return int(changed["metadata"]["generation"])

    generation = lab.act(f"scale ReplicaSet {name} to {wanted - 1}", take_one_away)

    def restored() -> None:
        now = lab.find("ReplicaSet", name)
        ready = 0 if now is None else now.get("status", {}).get("readyReplicas", 0)
        if now is None or now["metadata"]["generation"] <= generation or now["spec"]["replicas"] != wanted:
            raise Fail(f"nobody put ReplicaSet {name} right", about=deployment)
        if ready < wanted:
            raise Fail(f"it asks for {wanted} pods again, {ready} of them are ready", about=deployment)

    lab.until(lab.names["recover_seconds"], restored)


@checks.once("etcd", reads=("ConfigMap", "Deployment", SYSTEM_PODS), needs=("hello",))
def etcd(lab: Lab) -> None:
    """The answer is the key that etcd itself has for the Deployment."""
    answer = _answers(lab, ["etcd-key"])["etcd-key"]
    key = f"/registry/deployments/{lab.namespace}/{lab.names['deployment']}"
    pod = _component(lab, "etcd")[0]["metadata"]["name"]
    code, output = lab.exec(pod, [*ETCDCTL, "get", key, "--keys-only"], namespace="kube-system")
    if code or key not in output.split():
        raise CannotTell(f"etcd was asked for {key} and said: {output.strip()[:200] or 'nothing'}")
    if answer.strip() != key:
        look = f"kubectl -n kube-system exec {pod} -- {' '.join(ETCDCTL)} get /registry --prefix --keys-only"
        raise _wrong(lab, "etcd-key", answer, look, hint="resource" if lab.namespace in answer else "")


def _answers(lab: Lab, keys: list[str]) -> dict[str, str]:
    """The student's answers, trimmed. Raises Fail for the first that isn't given."""
    name = lab.names["answers"]
    data = lab.object("ConfigMap", name).get("data") or {}
    for key in keys:
        if data.get(key, "").strip() in ("", "?"):
            said = f"{key} is still '?'" if key in data else f"there is no key {key}"
            raise Fail(f"in ConfigMap {name} {said}", expected="every question of this task has an answer",
                       look_with=f"kubectl -n {lab.namespace} get configmap {name} -o yaml")  # fmt: skip
    return {key: data[key].strip() for key in keys}


def _wrong(lab: Lab, key: str, answer: str, look_with: str, hint: str = "") -> Fail:
    return Fail(f"{key}: {json.dumps(answer)} is not what this cluster says", look_with=look_with, hint=hint,
                expected=f"{key} names what runs in this cluster")  # fmt: skip


def _component(lab: Lab, name: str) -> list[Object]:
    found = lab.objects(SYSTEM_PODS, component=name)
    if not found:
        raise CannotTell(f"no pod of {name} is to be seen in kube-system")
    return found


def _actor(lab: Lab, kind: str, reason: str) -> str:
    """Who reported such an event about the Deployment, a ReplicaSet or pod of it; empty if none is left."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    about = {
        "Deployment": [deployment],
        "ReplicaSet": _replica_sets(lab, deployment),
        "Pod": lab.pods_of(deployment)[:1],
    }[kind]
    for event in (event for item in about for event in lab.events(item)):
        if event.get("reason") == reason:
            return str(event.get("reportingComponent") or (event.get("source") or {}).get("component", ""))
    return ""


def _replica_sets(lab: Lab, deployment: Object) -> list[Object]:
    uid = deployment["metadata"]["uid"]
    sets = lab.objects("ReplicaSet")
    return [item for item in sets if uid in {owner["uid"] for owner in item["metadata"].get("ownerReferences") or []}]


def _image_id(pod: Object, image: str) -> str:
    for spec, status in zip(pod["spec"]["containers"], pod["status"].get("containerStatuses", []), strict=False):
        if workloads.same_image(spec["image"], image):
            return str(status["imageID"])
    return "?"


def _kill(lab: Lab, pod: Object) -> None:
    name = pod["metadata"]["name"]
    lab.act(f"kill pod {name}", lambda api: api.delete("Pod", name, lab.namespace, grace=1))
