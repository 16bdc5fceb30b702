"""Lab 3: are GPUs asked for, of the right model, one's own, and given to the urgent first?"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any

from checkers import quantity, workloads
from checkers.declare import Checks, Fail
from checkers.lab import Lab
from checkers.match import Present, mismatches
from checkers.scheduling import refusals, requests
from cluster.api import Api, Object
from labs import training

checks = Checks()

PODS = ("Deployment", "ReplicaSet", "Pod")
PLACES = (*PODS, "Node")
PREDICT = json.dumps({"pixels": [[0] * 8] * 8})
# What of a node's labels goes with the model of its GPUs; how many there are does not, nor where the node stands.
MODEL_LABELS = ("gpu.product", "gpu.memory", "gpu.family", "gpu.compute.major", "gpu.compute.minor", "mig.capable",
                "mig.strategy")  # fmt: skip
# A pod that fails again and again is in back-off for most of the time; one that runs has made a step by then.
START_SECONDS = 40
STUCK_SECONDS = 8.0


@checks.once("asks", reads=("Deployment",))
def asks(lab: Lab) -> None:
    """The container asks for exactly one GPU."""
    deployment = lab.object("Deployment", lab.names["trainer"])
    _require_gpus(lab, deployment, 1)


@checks.converge("trains", reads=PLACES, needs=("asks",), seconds=START_SECONDS)
def trains(lab: Lab) -> None:
    """Its pod is ready, and the training loop in it counts its steps."""
    pod = _only_pod(lab, lab.names["trainer"])
    status = training.status(lab, pod)
    if not status["steps"] or not status["gpus"]:
        raise Fail(f"{status['steps']} steps on {len(status['gpus'])} GPUs so far", about=pod)


@checks.once("model", reads=PLACES, needs=("trains",))
def model(lab: Lab) -> None:
    """Its rules take it to nodes with the large GPUs, to a new one too, and keep it from all others."""
    pod = _only_pod(lab, lab.names["trainer"], ready=False)  # `trains` has seen it ready: here its rules count
    key, wanted = lab.names["product_label"], lab.names["large"]
    home = _node_of(lab, pod)
    if (found := _labels(home).get(key)) != wanted:
        raise Fail(f"it runs on {pod['spec']['nodeName']}, whose GPUs are {found}", about=pod, hint="not-required")
    look = _get(lab, lab.names["trainer"])
    others = [node for node in lab.objects("Node") if key in _labels(node) and _labels(node)[key] != wanted]
    for node in others:
        product = _labels(node)[key]
        for other, called in ((node, node["metadata"]["name"]), (_like(home, model=node), "a new node")):
            if not refusals(pod, training.emptied(other), ()):
                raise Fail(f"it might as well run on {called}, whose GPUs are {product}", hint="not-required",
                           look_with=look)  # fmt: skip
    if against := refusals(pod, training.emptied(_like(home)), ()):
        raise Fail(f"a new node with the same GPUs would not do: {'; '.join(against)}", hint="by-name", look_with=look)


@checks.converge("isolated", reads=PLACES, needs=("trains",), seconds=START_SECONDS)
def isolated(lab: Lab) -> None:
    """nvidia-smi shows one GPU in each of the two, and their UUIDs differ."""
    seen: dict[str, str] = {}
    for name in (lab.names["trainer"], lab.names["evaluator"]):
        pod = _only_pod(lab, name, ready=False)
        if not all("running" in one.get("state", {}) for one in pod["status"].get("containerStatuses") or [{}]):
            # Its log, which the report shows, says why: the loop ends where there is no GPU.
            raise Fail(f"the container of {name} does not keep running", about=pod, hint="none-seen",
                       hopeless=workloads.is_stuck(pod))  # fmt: skip
        holder = training.holder(pod, lab.names["resource"])
        code, text = lab.exec(pod["metadata"]["name"], ["/usr/bin/nvidia-smi", "-L"], container=holder)
        uuids = [line.partition("UUID: ")[2].rstrip(")") for line in text.splitlines() if line.startswith("GPU ")]
        look = f"kubectl -n {lab.namespace} exec {pod['metadata']['name']} -- nvidia-smi -L"
        if code != 0 or len(uuids) != 1:
            said = text.strip().splitlines()[-1:] or ["nothing"]
            raise Fail(f"{name} sees {len(uuids)} GPUs; nvidia-smi says: {said[0]}", about=pod, hint="none-seen",
                       look_with=look)  # fmt: skip
        seen[name] = uuids[0]
    if len(set(seen.values())) != len(seen):
        raise Fail(f"both see {seen[lab.names['trainer']]}", hint="none-seen")
    workloads.index_of_image(lab.object("Deployment", lab.names["evaluator"]), lab.names["image"])
    for name in seen:  # what was looked into may be of an older template
        _only_pod(lab, name)


@checks.converge("repaired", reads=PLACES, seconds=START_SECONDS)
def repaired(lab: Lab) -> None:
    """Its pod is ready and has one GPU."""
    deployment = lab.object("Deployment", lab.names["reporter"])
    _require_gpus(lab, deployment, 1)
    _only_pod(lab, lab.names["reporter"])


@checks.once("facts", reads=("ConfigMap", "Node"))
def facts(lab: Lab) -> None:
    """Each answer is what the labels of the nodes say."""
    given = lab.object("ConfigMap", lab.names["answers"]).get("data") or {}
    nodes = [
        labels
        for labels in map(_labels, lab.objects("Node"))
        if labels.get("nvidia.com/gpu.present") == "true" and "kailab.dev/simulated" not in labels
    ]
    most = max(nodes, key=lambda labels: int(labels["nvidia.com/gpu.count"]))
    least = min(nodes, key=lambda labels: int(labels["nvidia.com/gpu.memory"]))
    wanted = {
        "most-gpus-on-a-node": most["nvidia.com/gpu.count"],
        "memory-of-its-gpus-in-mib": most["nvidia.com/gpu.memory"],
        "product-of-the-smaller-gpus": least[lab.names["product_label"]],
    }
    for key, right in wanted.items():
        answer = given.get(key, "").strip()
        if _plainly(answer) != _plainly(right):
            raise Fail(f"{key}: {answer or 'no answer'}", expected=f"{key} is what the nodes' labels say",
                       look_with="kubectl get nodes -L nvidia.com/gpu.count,nvidia.com/gpu.memory,"
                                 + lab.names["product_label"])  # fmt: skip


@checks.converge("edge", reads=PLACES, seconds=START_SECONDS)
def edge(lab: Lab) -> None:
    """Its pod is ready on the edge node, no other node would take it, and its requests are within the budget."""
    deployment = lab.object("Deployment", lab.names["edge"])
    workloads.index_of_image(deployment, lab.names["edge_image"])
    if (wanted := deployment["spec"].get("replicas", 1)) != 1:
        raise Fail(f"it asks for {wanted} pods", about=deployment, settled=True,
                   expected=f"{lab.names['edge']} asks for one pod")  # fmt: skip
    _require_budget(lab, deployment)
    pod = _only_pod(lab, lab.names["edge"])
    label = lab.names["edge_label"]
    if label not in _labels(_node_of(lab, pod)):
        raise Fail(f"it runs on {pod['spec']['nodeName']}", about=pod, hint="elsewhere", settled=True)
    # Bound to this node by name it can't go elsewhere: no scheduler is asked.
    is_bound = "nodeName" in deployment["spec"]["template"]["spec"]
    for node in () if is_bound else lab.objects("Node"):
        if label not in _labels(node) and not refusals(pod, training.emptied(node), ()):
            raise Fail(f"it runs at the edge now, but it might as well go to {node['metadata']['name']}",
                       hint="elsewhere", settled=True, look_with=_get(lab, lab.names["edge"]))  # fmt: skip


@checks.converge("edge-answers", reads=PLACES, needs=("edge",))
def edge_answers(lab: Lab) -> None:
    """Half of twenty predictions or more are answered in the time that the task allows."""
    pod = _only_pod(lab, lab.names["edge"])
    took = []
    for _ in range(lab.names["edge_requests"]):
        answer = lab.http(_url(lab, pod, "/predict"), method="POST", body=PREDICT)
        if answer.status != 200:
            raise Fail(str(answer), about=pod)
        took.append(answer.seconds * 1000)
    middle, limit = statistics.median(took), lab.names["edge_milliseconds"]
    if middle > limit:
        raise Fail(f"the middle one of {lab.names['edge_requests']} predictions took {middle:.0f} ms", about=pod)


@checks.converge("queue", reads=(*PLACES, "PriorityClass"), seconds=START_SECONDS)
def queue(lab: Lab) -> None:
    """The batch is ready on nodes with the small GPUs; the urgent work rests, and its priority is higher."""
    batch = lab.object("Deployment", lab.names["batch"])
    urgent = lab.object("Deployment", lab.names["urgent"])
    for deployment in (batch, urgent):
        _require_gpus(lab, deployment, 1)
    wanted, asked = lab.names["batch_replicas"], batch["spec"].get("replicas", 1)
    if asked != wanted:
        raise Fail(f"{lab.names['batch']} asks for {asked} pods", about=batch, settled=True,
                   expected=f"{lab.names['batch']} asks for {wanted} pods")  # fmt: skip
    if resting := urgent["spec"].get("replicas", 1):
        raise Fail(f"{lab.names['urgent']} asks for {resting} pods already", about=urgent, settled=True,
                   expected=f"{lab.names['urgent']} rests at 0 pods until the checker scales it up")  # fmt: skip
    low, high = _priority(lab, batch), _priority(lab, urgent)
    if low >= high:
        raise Fail(f"the priority of {lab.names['batch']} is {low}, that of {lab.names['urgent']} {high}",
                   settled=True, hint="priority", look_with="kubectl get priorityclasses")  # fmt: skip
    workloads.require_rolled_out(batch, wanted)
    for pod in training.ready_pods(lab, batch):
        if _labels(_node_of(lab, pod)).get(lab.names["product_label"]) != lab.names["small"]:
            raise Fail(f"{pod['metadata']['name']} runs on {pod['spec']['nodeName']}", about=pod, settled=True,
                       expected=f"{lab.names['batch']} runs on nodes whose GPUs are {lab.names['small']}")  # fmt: skip


@checks.trigger("preempts", reads=PLACES, needs=("queue",), disturbs=("Deployment", "ReplicaSet", "Pod"),
                seconds=120, exclusive=True)  # fmt: skip
def preempts(lab: Lab) -> None:
    """Scaled to one pod, the urgent work gets a GPU that a pod of the batch had; nobody else loses one."""
    others = _uids(lab, lab.names["trainer"])
    before = _uids(lab, lab.names["batch"])
    lab.act(f"scale {lab.names['urgent']} to 1", _scale(lab.names["urgent"], lab.namespace, 1))
    since = lab.now()

    def served() -> None:
        urgent = lab.object("Deployment", lab.names["urgent"])
        pods = [pod for pod in lab.pods_of(urgent) if not workloads.is_leaving(pod)]
        if any(workloads.is_ready(pod) for pod in pods):
            return
        refused = next((pod for pod in pods if _is_refused(pod)), None)
        too_late = lab.seconds_since(since) > STUCK_SECONDS
        raise Fail(
            f"no pod of {lab.names['urgent']} is ready", about=pods[0] if pods else urgent, hint="stays-pending",
            settled=refused is not None and too_late,
            hopeless=refused is not None and training.fits_nowhere(lab, refused),
        )  # fmt: skip

    lab.until(lab.names["preempt_seconds"], served)
    if before <= _uids(lab, lab.names["batch"]):
        raise Fail(
            f"{lab.names['urgent']} got a GPU, but not one of {lab.names['batch']}", hint="stays-pending",
            expected=f"the GPUs are full, so {lab.names['urgent']} takes one from {lab.names['batch']}",
        )  # fmt: skip
    if not others <= _uids(lab, lab.names["trainer"]):
        raise Fail(f"{lab.names['trainer']} lost its pod", hint="stays-pending")


def _uids(lab: Lab, name: str) -> set[str]:
    """The ready pods of a Deployment, which may not be there."""
    deployment = lab.find("Deployment", name)
    return {pod["metadata"]["uid"] for pod in training.ready_pods(lab, deployment)} if deployment else set()


def _is_refused(pod: Object) -> bool:
    """The scheduler has looked, and found no node and nobody to evict."""
    scheduled = workloads.condition(pod, "PodScheduled")
    return scheduled.get("status") == "False" and not pod.get("status", {}).get("nominatedNodeName")


def _scale(name: str, namespace: str, replicas: int) -> Any:
    def scale(api: Api) -> None:
        api.patch("Deployment", name, namespace, {"spec": {"replicas": replicas}})

    return scale


def _priority(lab: Lab, deployment: Object) -> int:
    """What its pods get: the admission plugin writes it into each; of a resting Deployment the class tells."""
    for pod in lab.pods_of(deployment):
        return int(pod["spec"].get("priority", 0))
    name = deployment["spec"]["template"]["spec"].get("priorityClassName", "")
    found = next((one for one in lab.objects("PriorityClass") if one["metadata"]["name"] == name), None)
    return int(found["value"]) if found else 0


def _require_gpus(lab: Lab, deployment: Object, wanted: int) -> None:
    resource = lab.names["resource"]
    asked = training.asked(deployment, resource)
    if asked != wanted:
        name = deployment["metadata"]["name"]
        raise Fail(f"{name} asks for {asked:f} {resource}", about=deployment, settled=True, hint="no-limit",
                   expected=f"{name} has a limit of {wanted} {resource}", look_with=_get(lab, name))  # fmt: skip


def _require_budget(lab: Lab, deployment: Object) -> None:
    template = deployment["spec"]["template"]
    asked = requests(template)
    for name, most in (("cpu", lab.names["edge_cpu"]), ("memory", lab.names["edge_memory"])):
        if name not in asked or asked[name] > quantity.parse(most):
            found = quantity.shown(name, asked[name]) if name in asked else "nothing"
            raise Fail(f"it requests {found} of {name}", settled=True, hint="budget",
                       expected=f"at most {most} of {name} is requested",
                       look_with=_get(lab, lab.names["edge"]))  # fmt: skip
    if "memory" in ((template["spec"].get("resources") or {}).get("limits") or {}):
        return  # for the pod as a whole
    for container in workloads.containers(deployment):
        limits = (container.get("resources") or {}).get("limits") or {}
        if found_wrong := mismatches({"memory": Present()}, limits, f"container {container['name']}: limits"):
            raise Fail(str(found_wrong[0]), settled=True, hint="budget", look_with=_get(lab, lab.names["edge"]))


def _only_pod(lab: Lab, name: str, *, ready: bool = True) -> Object:
    """The Deployment's one pod, of its present template, running."""
    deployment = lab.object("Deployment", name)
    pods = [pod for pod in lab.pods_of(deployment) if not workloads.is_leaving(pod)]
    if not pods:
        raise Fail(f"{name} has no pod", about=deployment, settled=deployment["spec"].get("replicas", 1) == 0)
    if ready:
        try:
            workloads.require_rolled_out(deployment, deployment["spec"].get("replicas", 1))
        except Fail as wrong:
            waiting = next((pod for pod in pods if _is_refused(pod)), None)
            wrong.hint = "pending" if waiting else wrong.hint
            wrong.about = waiting or wrong.about
            wrong.hopeless = any(workloads.is_stuck(pod) or training.fits_nowhere(lab, pod) for pod in pods)
            raise
    running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
    if not running:
        raise Fail(f"no pod of {name} runs", about=pods[0], hopeless=training.fits_nowhere(lab, pods[0]))
    return running[0]


def _url(lab: Lab, pod: Object, path: str) -> str:
    return f"http://{pod['status'].get('podIP', '')}:{lab.names['port']}{path}"


def _node_of(lab: Lab, pod: Object) -> Object:
    return lab.object("Node", pod["spec"]["nodeName"])


def _labels(item: Object) -> Mapping[str, str]:
    return item["metadata"].get("labels") or {}


def _like(node: Object, *, model: Object | None = None) -> Object:
    """A node that joins tomorrow, with the GPUs of this one in another number and another region; or in all else but
    its name like this one, with the GPUs of `model`."""
    labels = {**_labels(node), "kubernetes.io/hostname": "newcomer"}
    if model:
        kept = {key: value for key, value in labels.items() if key.removeprefix("nvidia.com/") not in MODEL_LABELS}
        of_model = {key: value for key, value in _labels(model).items()
                    if key.removeprefix("nvidia.com/") in MODEL_LABELS}  # fmt: skip
        labels = kept | of_model
    else:
        # What somebody has written onto today's nodes by hand is not on tomorrow's.
        known = ("kubernetes.io/", "beta.kubernetes.io/", "nvidia.com/", "kailab.dev/")
        labels = {key: value for key, value in labels.items() if key.startswith(known)}
        labels |= {"nvidia.com/gpu.count": "8", "topology.kubernetes.io/region": "elsewhere",
                   "topology.kubernetes.io/zone": "elsewhere-a"}  # fmt: skip
    return {**node, "metadata": {**node["metadata"], "name": "newcomer", "labels": labels}}


def _plainly(text: str) -> str:
    return text.strip().lower().removesuffix("mib").strip().replace(" ", "-")


def _get(lab: Lab, name: str) -> str:
    return f"kubectl -n {lab.namespace} get deployment {name} -o yaml"
