"""Lab 5: a rented fleet, counted, spread, packed, used after one's own, and short of a region."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from checkers import quantity, workloads
from checkers.declare import CannotTell, Checks, Fail
from checkers.lab import Lab
from checkers.scheduling import is_tolerated, refusals, requests
from cluster import cordons
from cluster.api import Api, Object
from labs import training

checks = Checks()

PODS = ("Deployment", "ReplicaSet", "Pod")
PLACES = (*PODS, "Node")
START_SECONDS = 40
# What the scheduler has called unschedulable for so long, on a fleet with room, it will not place.
STUCK_SECONDS = 12.0


@checks.once("counted", reads=("ConfigMap", "Node"))
def counted(lab: Lab) -> None:
    """Both numbers are those of the rented nodes that are in the cluster."""
    by_region = _gpus_by_region(lab)
    total, largest = sum(by_region.values()), max(by_region.values())
    for key, right in (("gpus", total), ("gpus-after-losing-a-region", total - largest)):
        answer = _answer(lab, key)
        if answer != right:
            look = f"kubectl get nodes -l {lab.names['fleet_label']}={lab.names['fleet']}"
            raise Fail(f"{key}: {answer} is not what this cluster says", hint="too-many" if answer > right else "",
                       look_with=look)  # fmt: skip


@checks.once("headroom", reads=("ConfigMap", "Node"))
def headroom(lab: Lab) -> None:
    """The percentage is the largest at which what runs still fits when the largest region is lost."""
    by_region = _gpus_by_region(lab)
    total = sum(by_region.values())
    right, answer = 100 * (total - max(by_region.values())) // total, _answer(lab, "full-percent")
    if answer != right:
        said = "more than the rest can take" if answer > right else "less than it may be"
        raise Fail(f"full-percent: {answer} is {said}", look_with="kailab gpu status")


@checks.converge("serving", reads=PLACES, seconds=START_SECONDS)
def serving(lab: Lab) -> None:
    """As many pods as the task says are ready, on rented nodes, with one GPU each."""
    deployment = _fleet_pods(lab, "serving")
    _require_rolled_out(lab, deployment, lab.names["serving_pods"])
    _require_rented(lab, deployment)


@checks.converge("spread", reads=PLACES, needs=("serving",), seconds=10)
def spread(lab: Lab) -> None:
    """Every region has pods of it, and none more than one above another."""
    counts = _by_region(lab, training.ready_pods(lab, lab.object("Deployment", lab.names["serving"])))
    if max(counts.values()) - min(counts.values()) > 1:
        raise Fail(_said(counts), hint="uneven", look_with=f"kubectl -n {lab.namespace} get pods -o wide")


@checks.converge("gang", reads=("Job", "Pod", "Node"), seconds=START_SECONDS)
def gang(lab: Lab) -> None:
    """An Indexed Job whose workers hold whole nodes, run or have run, and all in one zone."""
    job = lab.object("Job", lab.names["training"])
    wanted = lab.names["training_pods"]
    for field, right in (("completionMode", "Indexed"), ("completions", wanted), ("parallelism", wanted)):
        if (found := job["spec"].get(field)) != right:
            raise Fail(f"{field} is {found}", about=job, settled=True, expected=f"{field} is {right}", hint="no-job")
    _require_limit(lab, job, lab.names["training_gpus"])
    pods = [pod for pod in lab.pods_of(job) if pod["status"].get("phase") in ("Running", "Succeeded")]
    zones = Counter(_place(lab, pod, "zone") for pod in pods)
    if len(zones) > 1:
        look = f"kubectl -n {lab.namespace} get pods -l job-name={lab.names['training']} -o wide"
        raise Fail(f"its workers are in {len(zones)} zones: {_said(zones)}", settled=True, hint="scattered",
                   look_with=look)  # fmt: skip
    indexes = {pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index") for pod in pods}
    if len(indexes) < wanted:
        if workloads.condition(job, "Complete").get("status") == "True":
            raise Fail(f"it has ended, and {wanted - len(indexes)} of its pods are gone: where they ran can't be told",
                       about=job, settled=True, hint="gone")  # fmt: skip
        raise Fail(f"{len(indexes)} of {wanted} workers run or have run", about=job, hint="unfinished")
    _require_rented(lab, job)


@checks.converge("packed", reads=PLACES, seconds=START_SECONDS)
def packed(lab: Lab) -> None:
    """As many pods as the task says, with the task's requests, are ready on few spot nodes."""
    deployment = _fleet_pods(lab, "batch")
    asked = requests(deployment["spec"]["template"])
    for name, wanted in (("cpu", lab.names["batch_cpu"]), ("memory", lab.names["batch_memory"])):
        if asked.get(name, 0) != quantity.parse(wanted):
            found = quantity.shown(name, asked[name]) if name in asked else "no"
            raise Fail(f"a pod requests {found} {name}", about=deployment, settled=True,
                       expected=f"each pod requests {name}: {wanted}")  # fmt: skip
    _require_rolled_out(lab, deployment, lab.names["batch_pods"])
    _require_rented(lab, deployment, "spot")
    nodes = {pod["spec"]["nodeName"] for pod in training.ready_pods(lab, deployment)}
    if len(nodes) > lab.names["batch_nodes"]:
        raise Fail(f"its pods are on {len(nodes)} nodes", settled=True, hint="loose",
                   look_with=f"kubectl -n {lab.namespace} get pods -o wide")  # fmt: skip


@checks.converge("own-first", reads=PLACES, seconds=START_SECONDS)
def own_first(lab: Lab) -> None:
    """All its pods are ready, and no rented GPU is used while one of your own is free."""
    deployment, wanted = _fleet_pods(lab, "burst"), lab.names["burst_pods"]
    workloads.index_of_image(deployment, lab.names["gpu_image"])
    _require_rolled_out(lab, deployment, wanted)
    own = {node["metadata"]["name"]: _gpus(lab, node) for node in _own(lab)}
    pods = [pod for pod in lab.pods_of(deployment) if not workloads.is_leaving(pod)]
    here = sum(pod["spec"].get("nodeName") in own for pod in pods)
    others = sum(namespace != lab.namespace for namespace in lab.gpu_holders())
    possible = min(wanted, sum(own.values()) - others)
    if here < possible:
        held = f" ({others} are held by other namespaces)" if others else ""
        raise Fail(f"{here} of its pods are on your own nodes, which have {sum(own.values())} GPUs{held}", settled=True,
                   hint="held" if others else "rented-first" if not _prefers_own(deployment) else "stayed",
                   look_with=f"kubectl -n {lab.namespace} get pods -o wide")  # fmt: skip


@checks.trigger("region-lost", reads=PLACES, needs=("serving", "spread"), exclusive=True, seconds=120)
def region_lost(lab: Lab) -> None:
    """All pods of a region are gone and its nodes closed: in time, as many as before are ready in the others."""
    deployment, wanted = lab.object("Deployment", lab.names["serving"]), lab.names["serving_pods"]
    region = _region_to_lose(lab, deployment)
    closed = {node["metadata"]["name"] for node in _rented(lab) if _label(lab, node, "region") == region}
    lab.cordon(*sorted(closed))
    # What has ended there is no loss, and tells the next check where it ran.
    lost = [pod for pod in lab.objects("Pod")
            if pod["spec"].get("nodeName") in closed and not workloads.has_ended(pod)]  # fmt: skip
    lab.act(f"lose region {region} with {len(lost)} pods", lambda api: _lose(api, lost))
    stuck: tuple[int, float] = (0, lab.now())

    def whole() -> None:
        nonlocal stuck
        pods = [pod for pod in lab.pods_of(deployment) if not workloads.is_leaving(pod)]
        there = [pod for pod in pods if workloads.is_ready(pod) and pod["spec"]["nodeName"] not in closed]
        if len(there) >= wanted:
            return
        back = [pod for pod in pods if pod["spec"].get("nodeName") in closed]
        # The scheduler may have chosen a node just before it saw it closed; who is let in by a toleration stays.
        if late := [pod for pod in back if not is_tolerated(cordons.CLOSED, pod)]:
            lab.act(f"lose {len(late)} more that were on their way there", lambda api: _lose(api, late))
        nowhere = [pod for pod in pods if _is_unschedulable(pod)]
        if len(there) != stuck[0] or late or not (nowhere or back):
            stuck = (len(there), lab.now())
        said = f"{len(there)} pods are ready without {region}, {len(nowhere)} find no node, {len(back)} went back"
        raise Fail(said, hint="honor" if nowhere else "tolerates" if back else "",
                   about=next(iter(nowhere + back), deployment),
                   settled=lab.now() - stuck[1] > STUCK_SECONDS)  # fmt: skip

    lab.place_anew(deployment)
    lab.until(lab.names["move_seconds"], whole)


def _answer(lab: Lab, key: str) -> int:
    """The student's number. Raises Fail where there is none."""
    name = lab.names["answers"]
    text = str((lab.object("ConfigMap", name).get("data") or {}).get(key, "?")).strip()
    digits = text.removesuffix("%").strip()
    if not digits.isdecimal():
        raise Fail(f"{key} is still '?'" if text in ("", "?") else f"{key}: {text!r} is no whole number",
                   look_with=f"kubectl -n {lab.namespace} get configmap {name} -o yaml")  # fmt: skip
    return int(digits)


def _rented(lab: Lab, fleet: str = "fleet") -> list[Object]:
    found = [node for node in lab.objects("Node") if _label(lab, node, "fleet") == lab.names[fleet]]
    if not found:
        raise CannotTell(f"the {lab.names[fleet]} nodes are not in the cluster; kailab start 5 brings them back")
    return found


def _own(lab: Lab) -> list[Object]:
    return [node for node in lab.objects("Node") if not _label(lab, node, "fleet")]


def _label(lab: Lab, node: Object, what: str) -> str:
    return str((node["metadata"].get("labels") or {}).get(lab.names[f"{what}_label"], ""))


def _gpus(lab: Lab, node: Object) -> int:
    return int(quantity.parse(node["status"].get("allocatable", {}).get(lab.names["resource"], 0)))


def _gpus_by_region(lab: Lab) -> Counter[str]:
    counts: Counter[str] = Counter()
    for node in _rented(lab):
        counts[_label(lab, node, "region")] += _gpus(lab, node)
    return counts


def _place(lab: Lab, pod: Object, what: str) -> str:
    """The region or zone that a pod is in."""
    node = lab.find("Node", pod["spec"]["nodeName"])
    return _label(lab, node, what) if node else "a node that is gone"


def _by_region(lab: Lab, pods: list[Object]) -> Counter[str]:
    """How many of the pods each rented region has, none of them left out."""
    counts = Counter(dict.fromkeys(_gpus_by_region(lab), 0))
    counts.update(_place(lab, pod, "region") for pod in pods)
    return counts


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{place} {count}" for place, count in sorted(counts.items()))


def _fleet_pods(lab: Lab, which: str) -> Object:
    """The Deployment of that name, when it asks for the task's number of pods with one GPU each."""
    deployment, wanted = lab.object("Deployment", lab.names[which]), lab.names[f"{which}_pods"]
    if (asked := deployment["spec"].get("replicas", 1)) != wanted:
        raise Fail(f"it asks for {asked} pods", about=deployment, settled=True,
                   expected=f"{lab.names[which]} asks for {wanted} pods")  # fmt: skip
    _require_limit(lab, deployment, 1)
    return deployment


def _require_limit(lab: Lab, workload: Object, wanted: int) -> None:
    if (found := training.asked(workload, lab.names["resource"])) != wanted:
        raise Fail(f"its limits ask for {found:f} {lab.names['resource']}", about=workload, settled=True,
                   expected=f"each pod asks for {wanted} {lab.names['resource']}")  # fmt: skip


def _require_rolled_out(lab: Lab, deployment: Object, wanted: int) -> None:
    try:
        workloads.require_rolled_out(deployment, wanted)
    except Fail as wrong:
        # One that no simulated node would take, were it empty: your own are too few to have room soon.
        nowhere = next((pod for pod in lab.pods_of(deployment) if _is_unschedulable(pod)), None)
        wrong.hopeless = nowhere is not None and all(
            refusals(nowhere, training.emptied(node), ()) for node in lab.objects("Node") if _label(lab, node, "fleet")
        )
        raise


def _require_rented(lab: Lab, owner: Object, fleet: str = "fleet") -> None:
    rented = {node["metadata"]["name"] for node in _rented(lab, fleet)}
    for pod in lab.pods_of(owner):
        node = pod["spec"].get("nodeName")
        if node and node not in rented and not workloads.is_leaving(pod):
            raise Fail(f"{pod['metadata']['name']} is on {node}, no {lab.names[fleet]} node", about=pod, settled=True)


def _is_unschedulable(pod: Object) -> bool:
    return workloads.condition(pod, "PodScheduled").get("reason") == "Unschedulable"


def _prefers_own(deployment: Object) -> bool:
    affinity = deployment["spec"]["template"]["spec"].get("affinity") or {}
    return bool((affinity.get("nodeAffinity") or {}).get("preferredDuringSchedulingIgnoredDuringExecution"))


def _region_to_lose(lab: Lab, deployment: Object) -> str:
    """The region with most of its pods; where workers still train, only if there is no other."""
    counts = _by_region(lab, training.ready_pods(lab, deployment))
    prefix = lab.names["training"] + "-"
    busy = {_place(lab, pod, "region") for pod in lab.objects("Pod")
            if pod["metadata"]["name"].startswith(prefix) and pod["status"].get("phase") == "Running"}  # fmt: skip
    return max(sorted(counts), key=lambda region: (region not in busy, counts[region]))


def _lose(api: Api, pods: list[Object]) -> int:
    def remove(pod: Object) -> None:
        api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"], grace=0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(remove, pods))
    return len(pods)
