"""Lab 4: turns on a GPU, a budget, a claim, a meter, and a GPU that fails under a Job's hands."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from checkers import quantity, workloads
from checkers.declare import CannotTell, Checks, Fail
from checkers.lab import Lab
from cluster.api import Object
from cluster.errors import KailabError
from cluster.gpu.devices import MOST_GPUS, gpu_uuid
from cluster.gpu.node import sharing
from cluster.gpu.node.slices import DRIVER
from labs import training

checks = Checks()

CONFIG = "ConfigMap@kailab-gpu"
AGENTS = "Pod@kailab-gpu"
PODS = ("Deployment", "ReplicaSet", "Pod")
START_SECONDS = 40
# Admission goes by its own copy of the quotas and by what their controller has counted, both a little later.
QUOTA_SECONDS = 10
# Two on one GPU go at half speed; what is asked for is that it can be felt.
FELT = 1.4
NAME = "app.kubernetes.io/name"
MEMORY_METRIC = "DCGM_FI_DEV_FB_USED"
_SAMPLE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@checks.converge("config", reads=(CONFIG, "Node"), seconds=20)
def config(lab: Lab) -> None:
    """The node's label names a configuration that can be read, and the node offers its GPUs in turns."""
    key, text = _config(lab)
    try:
        wanted = sharing.parse(text)
    except KailabError as wrong:
        raise Fail(f"{key}: {wrong.why}", settled=True, hint="problem", look_with="kailab gpu status") from None
    resource, name = lab.names["resource"], lab.names["config_map"]
    if wanted.resource(resource) != resource:
        raise Fail(f"{key} gives the resource the name {wanted.resource(resource)}", settled=True,
                   look_with=_get_config(lab))  # fmt: skip
    if wanted.replicas.get(resource, 1) != lab.names["replicas"]:
        raise Fail(f"{key} of {name} has {wanted.replicas.get(resource, 1)} replicas", settled=True,
                   look_with=_get_config(lab))  # fmt: skip
    node = lab.object("Node", lab.names["node"])
    offered = quantity.parse(node["status"]["allocatable"].get(resource, 0))
    if offered != lab.names["shared_total"]:
        raise Fail(f"node {lab.names['node']} offers {offered:f} {resource}", about=node)


@checks.once("strict", reads=(CONFIG, "Node"))
def strict(lab: Lab) -> None:
    """The configuration makes requests for more than one turn fail."""
    key, text = _config(lab)
    try:
        wanted = sharing.parse(text)
    except KailabError as wrong:
        raise Fail(f"{key}: {wrong.why}", hint="problem", look_with="kailab gpu status") from None
    if not wanted.single:
        raise Fail(f"{key} lets a pod ask for several turns, as if they were several GPUs",
                   expected="failRequestsGreaterThanOne is true", look_with=_get_config(lab))  # fmt: skip


@checks.converge("tenants", reads=(*PODS, "Node"), needs=("config",), seconds=START_SECONDS)
def tenants(lab: Lab) -> None:
    """As many pods as the task asks for are ready on the shared node, each with one turn, and train."""
    deployment = lab.object("Deployment", lab.names["tenants"])
    wanted, asked = lab.names["tenant_count"], deployment["spec"].get("replicas", 1)
    if asked != wanted:
        raise Fail(f"it asks for {asked} pods", about=deployment, settled=True,
                   expected=f"{lab.names['tenants']} asks for {wanted} pods")  # fmt: skip
    _require_limit(lab, deployment, 1)
    workloads.index_of_image(deployment, lab.names["image"])
    try:
        workloads.require_rolled_out(deployment, wanted)
    except Fail as wrong:
        pods = lab.pods_of(deployment)
        wrong.hopeless = any(_is_hopeless(lab, pod) for pod in pods)
        wrong.hint = "memory" if any(map(workloads.is_stuck, pods)) else wrong.hint
        raise
    for pod in training.ready_pods(lab, deployment):
        if pod["spec"]["nodeName"] != lab.names["node"]:
            raise Fail(f"{pod['metadata']['name']} runs on {pod['spec']['nodeName']}", about=pod, settled=True)
        status = training.status(lab, pod)
        if not status["steps"]:
            raise Fail(f"{pod['metadata']['name']} has made no step yet", about=pod, hint="memory")
        if status["memory"] != lab.names["tenant_memory"]:
            raise Fail(f"{pod['metadata']['name']} holds {status['memory']} MiB of GPU memory", about=pod, settled=True,
                       expected=f"each holds {lab.names['tenant_memory']} MiB")  # fmt: skip


@checks.converge("contended", reads=PODS, needs=("tenants",), seconds=20)
def contended(lab: Lab) -> None:
    """Several of them work on one GPU, and a step of each of these takes noticeably longer than alone."""
    deployment = lab.object("Deployment", lab.names["tenants"])
    found = [(pod, training.status(lab, pod)) for pod in training.ready_pods(lab, deployment)]
    on_gpu = Counter(str(gpu["uuid"]) for _, status in found for gpu in status["gpus"])
    shared = [(pod, status) for pod, status in found if any(on_gpu[str(gpu["uuid"])] > 1 for gpu in status["gpus"])]
    if not shared:
        raise Fail(f"pods on each GPU: {', '.join(map(str, on_gpu.values())) or 'none'}")
    for pod, status in shared:
        alone = status["alone_seconds"]
        if status["last_step_seconds"] < FELT * alone:
            raise Fail(f"a step of {pod['metadata']['name']} takes {status['last_step_seconds']:.2f} s; alone it takes "
                       f"{alone:g} s", about=pod)  # fmt: skip


@checks.converge("quota", reads=("ResourceQuota",), seconds=QUOTA_SECONDS)
def quota(lab: Lab) -> None:
    """The quota stops at the task's number of GPUs: a pod that asks for one more is refused by the API server."""
    found = lab.object("ResourceQuota", lab.names["quota"])
    hard = found["spec"].get("hard") or {}
    key, wanted = f"requests.{lab.names['resource']}", lab.names["quota_gpus"]
    look = f"kubectl -n {lab.namespace} describe resourcequota {lab.names['quota']}"
    if key not in hard:
        raise Fail(f"it limits {', '.join(hard) or 'nothing'}", settled=True, look_with=look,
                   expected=f"it limits {key}")  # fmt: skip
    if quantity.parse(hard[key]) != wanted:
        raise Fail(f"{key} is {hard[key]}", settled=True, look_with=look, expected=f"{key} is {wanted}")
    # More than the whole of it: what is used changes while pods come and go.
    said = lab.dry_run(_pod_asking(lab, wanted + 1))
    if "exceeded quota" not in said:
        raise Fail(f"a pod beyond the quota is told: {said or 'nothing, it is taken'}", look_with=look)


@checks.converge("claimed", reads=(*PODS, "Node", "ResourceClaim", "ResourceSlice"), seconds=START_SECONDS)
def claimed(lab: Lab) -> None:
    """Its pod is ready, its claim has a device with enough memory, and nvidia-smi shows that device."""
    deployment = lab.object("Deployment", lab.names["claimer"])
    _require_limit(lab, deployment, 0)
    spec = deployment["spec"]["template"]["spec"]
    used = [one for container in workloads.containers(deployment)
            for one in (container.get("resources") or {}).get("claims") or []]  # fmt: skip
    if not spec.get("resourceClaims") or not used:
        missing = "the pod names no claim" if not spec.get("resourceClaims") else "no container uses the pod's claim"
        raise Fail(missing, about=deployment, settled=True, hint="no-claim")
    workloads.index_of_image(deployment, lab.names["image"])
    if (replicas := deployment["spec"].get("replicas", 1)) != 1:
        raise Fail(f"it asks for {replicas} pods", about=deployment, settled=True,
                   expected=f"{lab.names['claimer']} asks for one pod")  # fmt: skip
    pod = next((pod for pod in lab.pods_of(deployment) if not workloads.is_leaving(pod)), None)
    if pod is None:
        raise Fail(f"{lab.names['claimer']} has no pod", about=deployment)
    device = _device_of(lab, pod)
    memory = quantity.parse(device["capacity"]["memory"]["value"])
    if memory < quantity.parse(lab.names["claim_memory"]):
        raise Fail(f"its device {device['name']} has {device['capacity']['memory']['value']} of memory", about=pod,
                   settled=True)  # fmt: skip
    if not workloads.is_ready(pod):
        raise Fail("its pod is not ready", about=pod, hopeless=workloads.is_stuck(pod))
    uuid = device["attributes"]["uuid"]["string"]
    _, text = lab.exec(pod["metadata"]["name"], ["/usr/bin/nvidia-smi", "-L"], container=training.holder(pod))
    if uuid not in text:
        raise Fail(f"nvidia-smi shows {text.strip() or 'nothing'}", about=pod)
    workloads.require_rolled_out(deployment, 1)  # that pod may be of an older template


@checks.converge("metrics", reads=("ConfigMap", AGENTS, *PODS), needs=("tenants",), seconds=10)
def metrics(lab: Lab) -> None:
    """Both answers are what the exporter says at this moment."""
    given = lab.object("ConfigMap", lab.names["answers"]).get("data") or {}
    agent = next((pod for pod in lab.objects(AGENTS) if pod["metadata"].get("labels", {}).get(NAME) == "gpu-agent"
                  and pod["spec"].get("nodeName") == lab.names["node"]), None)  # fmt: skip
    if agent is None:
        raise CannotTell(f"the exporter of node {lab.names['node']} does not run")
    page = lab.http(f"http://{agent['status'].get('podIP', '')}:{lab.names['exporter_port']}/metrics")
    if page.status != 200:
        raise CannotTell(f"the exporter answers {page}")
    names = {metric for metric, _, _ in _samples(page.body)}
    look = (
        f"kubectl -n {lab.names['gpu_namespace']} port-forward {agent['metadata']['name']} {lab.names['exporter_port']}"
    )
    metric = given.get("memory-metric", "").strip()
    if metric != MEMORY_METRIC:
        known = "is no metric of the exporter" if metric not in names else "is another metric"
        raise Fail(f"memory-metric: {metric or 'no answer'} ({known})", look_with=look, settled=True)
    prefix = lab.names["tenants"] + "-"
    used = {float(value) for name, labels, value in _samples(page.body) if name == MEMORY_METRIC
            and labels.get("namespace") == lab.namespace and labels.get("pod", "").startswith(prefix)}  # fmt: skip
    answer = given.get("memory-of-a-shared-gpu", "").lower().removesuffix("mib").strip()
    if not re.fullmatch(r"\d+(\.\d+)?", answer) or float(answer) not in used:
        raise Fail(f"memory-of-a-shared-gpu: {answer or 'no answer'}", look_with=look)


@checks.converge("job", reads=("Job", "Pod", "Node"), seconds=START_SECONDS)
def job(lab: Lab) -> None:
    """The Job's pod holds one GPU of the large kind, and makes steps."""
    found = lab.object("Job", lab.names["job"])
    _require_limit(lab, found, 1)
    steps = [entry.get("value") for one in workloads.containers(found) for entry in one.get("env") or []
             if entry.get("name") == "STEPS" and entry.get("value") not in (None, "", "0")]  # fmt: skip
    if steps:
        raise Fail(f"it ends after {steps[0]} steps", about=found, settled=True,
                   expected=f"{lab.names['job']} trains for ever: STEPS is 0, or not set")  # fmt: skip
    pod = _worker(lab, found)
    product = (lab.object("Node", pod["spec"]["nodeName"])["metadata"].get("labels") or {}).get(
        lab.names["product_label"]
    )
    if product != lab.names["large"]:
        raise Fail(f"it works on {pod['spec']['nodeName']}, whose GPUs are {product}", about=pod, settled=True)
    if not training.status(lab, pod)["steps"]:
        raise Fail("it has made no step yet", about=pod)


@checks.trigger("moves-on", reads=("Job", "Pod", "Node"), needs=("job",), disturbs=("Job", "Pod"), exclusive=True,
                seconds=120)  # fmt: skip
def moves_on(lab: Lab) -> None:
    """After the GPU under it has failed, a pod of the Job makes steps on another GPU."""
    found = lab.object("Job", lab.names["job"])
    pod = _worker(lab, found)
    uuid = str(training.status(lab, pod)["gpus"][0]["uuid"])
    node = pod["spec"]["nodeName"]
    lab.break_gpu(f"{node}/{_index_of(node, uuid)}", "xid=79")

    def moved() -> None:
        now = lab.object("Job", lab.names["job"])
        failed = workloads.condition(now, "Failed")
        if failed.get("status") == "True":
            raise Fail(f"the Job has given up: {failed.get('message', '')}", about=now, settled=True, hint="gave-up")
        worker = _worker(lab, now)
        if worker["metadata"]["uid"] == pod["metadata"]["uid"]:
            restarts = sum(one.get("restartCount", 0) for one in worker["status"].get("containerStatuses") or [])
            raise Fail(f"its pod {worker['metadata']['name']} stays on the broken GPU ({restarts} restarts)",
                       about=worker, hint="same-pod", settled=restarts > 1)  # fmt: skip
        status = training.status(lab, worker)
        if not status["steps"] or uuid in {gpu["uuid"] for gpu in status["gpus"]}:
            raise Fail("its new pod has made no step on another GPU yet", about=worker)

    lab.until(lab.names["move_seconds"], moved)


def _config(lab: Lab) -> tuple[str, str]:
    """The key that the node's label names, and the file under it."""
    found = next((one for one in lab.objects(CONFIG) if one["metadata"]["name"] == lab.names["config_map"]), None)
    if found is None:
        raise Fail(
            f"no ConfigMap {lab.names['config_map']!r} in namespace {lab.names['gpu_namespace']}", settled=True,
            hint="no-config", look_with=f"kubectl -n {lab.names['gpu_namespace']} get configmaps",
        )  # fmt: skip
    node = lab.object("Node", lab.names["node"])
    key = (node["metadata"].get("labels") or {}).get(lab.names["config_label"], "")
    keys = found.get("data") or {}
    if not key or key not in keys:
        said = f"the label names {key!r}, the ConfigMap has {', '.join(keys) or 'nothing'}" if key else "no such label"
        raise Fail(f"node {lab.names['node']}, {lab.names['config_label']}: {said}", settled=True, hint="no-label",
                   look_with=f"kubectl get node {lab.names['node']} --show-labels")  # fmt: skip
    return key, keys[key]


def _get_config(lab: Lab) -> str:
    return f"kubectl -n {lab.names['gpu_namespace']} get configmap {lab.names['config_map']} -o yaml"


def _require_limit(lab: Lab, workload: Object, wanted: int) -> None:
    resource, name = lab.names["resource"], workload["metadata"]["name"]
    asked = training.asked(workload, resource)
    if asked != wanted:
        raise Fail(f"{name} asks for {asked:f} {resource}", about=workload, settled=True,
                   expected=f"{name} asks for {wanted} {resource}")  # fmt: skip


def _is_hopeless(lab: Lab, pod: Object) -> bool:
    return workloads.is_stuck(pod) if pod["spec"].get("nodeName") else training.fits_nowhere(lab, pod)


def _worker(lab: Lab, job_: Object) -> Object:
    """The Job's pod that runs now."""
    pods = [pod for pod in lab.pods_of(job_) if not workloads.is_leaving(pod)]
    running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
    if not running:
        waiting = next((pod for pod in pods if pod["status"].get("phase") == "Pending"), None)
        is_over = workloads.condition(job_, "Complete").get("status") == "True"
        raise Fail(
            f"no pod of Job {job_['metadata']['name']} runs" + ("; it is complete" if is_over else ""),
            about=waiting or job_, settled=is_over, hopeless=waiting is not None and _is_hopeless(lab, waiting),
        )  # fmt: skip
    return max(running, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def _pod_asking(lab: Lab, gpus: int) -> Object:
    limits = {lab.names["resource"]: str(gpus), "cpu": "10m", "memory": "16Mi"}
    # As strict as the strictest Pod Security level, which a class is graded under: only the quota may refuse it.
    strict = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": lab.names["image"],
        "resources": {"limits": limits},
        "securityContext": strict,
    }
    spec = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kailab-quota-probe"}, "spec": spec}


def _device_of(lab: Lab, pod: Object) -> dict[str, Any]:
    """The device that the pod's claim has, as its ResourceSlice describes it."""
    for name in workloads.claim_names(pod).values():
        claim = lab.find("ResourceClaim", name)
        allocation = ((claim or {}).get("status") or {}).get("allocation") or {}
        for result in (allocation.get("devices") or {}).get("results") or []:
            if result["driver"] == DRIVER:
                return _published(lab, result)
    raise Fail("its claim has no device", about=pod, hint="unallocated",
               look_with=f"kubectl -n {lab.namespace} get resourceclaims")  # fmt: skip


def _published(lab: Lab, result: Mapping[str, Any]) -> dict[str, Any]:
    for item in lab.objects("ResourceSlice"):
        if item["spec"]["driver"] == DRIVER and item["spec"]["pool"]["name"] == result["pool"]:
            for device in item["spec"].get("devices") or []:
                if device["name"] == result["device"]:
                    return dict(device)
    raise CannotTell(f"no ResourceSlice describes device {result['device']} of {result['pool']}")


def _index_of(node: str, uuid: str) -> int:
    found = next((index for index in range(MOST_GPUS) if gpu_uuid(node, index) == uuid), None)
    if found is None:
        raise CannotTell(f"node {node} has no GPU {uuid}")
    return found


def _samples(page: str) -> Iterator[tuple[str, dict[str, str], str]]:
    for line in page.splitlines():
        if found := _SAMPLE.match(line):
            yield found[1], dict(_LABEL.findall(found[2])), found[3]
