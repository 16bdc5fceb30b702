"""Lab 6: does the Deployment do what deployments are for? Titles and points stand in lab.yaml."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from checkers import workloads
from checkers.declare import Checks, Fail
from checkers.lab import Lab, Traffic
from checkers.match import Present, mismatches
from checkers.scheduling import refusals
from checkers.selectors import selects
from cluster.api import Api, Object

checks = Checks()

PREDICT = json.dumps({"pixels": [[0] * 8] * 8})
RATE = 20  # requests a second: a pod that gets a third of them too early or too late for a second loses six or seven
AFTER_ROLLOUT = 1.5  # seconds; old pods leave the Service's endpoints a moment after the rollout counts as done
BAD_RELEASE_WINDOW = 4.0  # at least; longer where the kubelet asks late whether a pod is ready
ALIVE_SECONDS = 20.0  # within which a process on a busy machine has begun to answer
LATEST = 60.0  # for the same: nobody waits longer
EVICT_EVERY = 0.5  # seconds; `kubectl drain` waits five, but what matters here is whether it ends
POD_KINDS = ("Deployment", "ReplicaSet", "Pod")
BASICS = ("shape", "steady", "answers")


@checks.once("shape", reads=("Deployment",))
def shape(lab: Lab) -> None:
    """The Deployment asks for the replicas, the image and the port of the task."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    index = workloads.index_of_image(deployment, lab.names["image"])
    found = mismatches({"spec": {"replicas": lab.names["replicas"]}}, deployment)
    container = workloads.containers(deployment)[index]
    ports = [port.get("containerPort") for port in container.get("ports") or []]
    if lab.names["port"] not in ports:
        found += mismatches({"ports": [{"containerPort": lab.names["port"]}]}, {"ports": container.get("ports") or []})
    if found:
        raise Fail("; ".join(map(str, found)), look_with=_get(lab, "deployment", "-o yaml"))


@checks.converge("ready", reads=POD_KINDS, seconds=60)
def ready(lab: Lab) -> None:
    """All replicas are updated and available."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    try:
        workloads.require_rolled_out(deployment, lab.names["replicas"])
    except Fail as wrong:
        status = deployment.get("status", {})
        stuck = any(workloads.is_stuck(pod) for pod in lab.pods_of(deployment))
        asked = deployment["spec"].get("replicas")
        caught_up = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        refused = workloads.condition(deployment, "ReplicaFailure").get("status") == "True"
        wrong.hopeless = stuck or refused
        wrong.settled = caught_up and asked != lab.names["replicas"]
        raise


@checks.once("limits", reads=("Deployment",))
def limits(lab: Lab) -> None:
    """Every container states requests for cpu and memory, and a limit for memory."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    wanted = {"requests": {"cpu": Present(), "memory": Present()}, "limits": {"memory": Present()}}
    for container in workloads.containers(deployment):
        limits = (container.get("resources") or {}).get("limits") or {}
        stated = {"requests": workloads.requests(container), "limits": limits}
        found = mismatches(wanted, stated, f"container {container.get('name')}: resources")
        if found:
            raise Fail("; ".join(map(str, found)), look_with=_get(lab, "deployment", "-o yaml"))


@checks.hold("steady", reads=POD_KINDS, seconds=3, needs=("ready",))
def steady(lab: Lab) -> None:
    """No container restarts and no liveness probe fails while we watch."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    for pod in lab.pods_of(deployment):
        if workloads.is_leaving(pod):
            continue
        for status in pod.get("status", {}).get("containerStatuses", []):
            if status.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff":
                raise Fail(f"container {status['name']} of pod {pod['metadata']['name']} keeps ending", about=pod)
        lab.until(10, partial(_ask_liveness, lab, pod))  # it may still be starting


def _ask_liveness(lab: Lab, pod: Object) -> None:
    """Ask what the kubelet will ask: its first look may be many seconds away, and it kills after three."""
    for container in workloads.containers(pod):
        said = _probe_fails(lab, pod, container, container.get("livenessProbe") or {})
        if said:
            raise Fail(
                f"liveness probe of container {container['name']}: {said}",
                about=pod,
                hint="liveness",
                expected="the liveness probe asks something that a healthy container answers",
            )


def _probe_fails(lab: Lab, pod: Object, container: Object, probe: Object) -> str:
    """What a probe gets as an answer, if the kubelet would take that for a failure (a gRPC one is not tried)."""
    here = pod["status"].get("podIP", "")
    if ask := probe.get("httpGet"):
        port = workloads.port_number(container, ask["port"])
        path = "/" + ask.get("path", "/").removeprefix("/")  # Go's URLs get the slash that somebody forgot
        headers = {entry["name"]: entry["value"] for entry in ask.get("httpHeaders") or []}
        scheme = ask.get("scheme", "HTTP").lower()
        answer = lab.http(f"{scheme}://{ask.get('host') or here}:{port}{path}", headers=headers)
        return "" if 200 <= answer.status < 400 else str(answer)
    if ask := probe.get("tcpSocket"):
        host, port = ask.get("host") or here, workloads.port_number(container, ask["port"])
        return "" if isinstance(port, int) and lab.reaches(host, port) else f"nothing listens on port {port}"
    if ask := probe.get("exec"):
        code, text = lab.exec(pod["metadata"]["name"], ask["command"], container=container["name"])
        return f"{ask['command'][0]} ends with {code}: {text.strip()[:200]}" if code else ""
    return ""


@checks.converge("answers", reads=("Service", "EndpointSlice", *POD_KINDS), needs=("ready",))
def answers(lab: Lab) -> None:
    """A prediction asked from the Service by name is answered, by each of the pods in turn."""
    service, port = lab.names["service"], lab.names["port"]
    selector = lab.object("Service", service)["spec"].get("selector") or {}
    endpoints = _endpoints(lab, service)
    wanted = lab.names["replicas"]
    if not endpoints:
        labels = lab.object("Deployment", lab.names["deployment"])["spec"]["template"]["metadata"].get("labels") or {}
        # With the right labels it is only that the endpoints' controller has not come to it yet.
        never = not selector.items() <= labels.items()
        raise Fail(
            f"{service} has found no pod; your pods have the labels {labels}", settled=never, hint="no-endpoints",
            expected=f"{service} selects the pods and sends requests to their port {port}",
            look_with=f"kubectl -n {lab.namespace} get endpointslices -l kubernetes.io/service-name={service}",
        )  # fmt: skip
    seen: Counter[str] = Counter()
    # With three pods, forty requests miss one of them once in 3.6 million times.
    for _ in range(40):
        answer = lab.http(_url(lab), method="POST", body=PREDICT)
        if answer.status != 200:
            raise Fail(str(answer), about=lab.object("Service", service))
        seen[answer.headers.get("x-pod", "?")] += 1
        if len(seen) >= wanted:
            return
    raise Fail(
        f"only {len(seen)} of {wanted} pods answered: {', '.join(sorted(seen))}", about=lab.object("Service", service)
    )


# First: a drain that fails leaves pods behind that are not ready yet, and their time is not this one's.
@checks.trigger("heal", reads=POD_KINDS, needs=("shape", "steady"), seconds=60, turn=-1)
def heal(lab: Lab) -> None:
    """After one pod is deleted there are as many ready pods as before, in time."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    victim = min(_some_ready(lab, deployment), key=lambda pod: str(pod["metadata"]["name"]))
    name, uid = victim["metadata"]["name"], victim["metadata"]["uid"]
    started = lab.now()
    lab.act(f"delete pod {name}", lambda api: api.delete("Pod", name, lab.namespace))

    def replaced() -> None:
        alive = [pod for pod in lab.pods_of(deployment) if workloads.is_ready(pod) and pod["metadata"]["uid"] != uid]
        if len(alive) < lab.names["replicas"]:
            raise Fail(
                f"{len(alive)} ready pods after {name} was deleted",
                about=lab.find("Deployment", deployment["metadata"]["name"]),
            )

    lab.until(lab.names["recover_seconds"], replaced)
    lab.say(f"back after {lab.seconds_since(started):.1f} s")


# Last, since the old pods must all come back afterwards.
@checks.trigger(
    "update", reads=POD_KINDS, needs=("shape", "steady", "answers"), disturbs=("Deployment", "ReplicaSet"), turn=9
)
def update(lab: Lab) -> None:
    """While the Deployment is updated under steady traffic, every single request is answered."""
    total = _roll_out(lab, lab.names["next_image"], until_done=True)
    if total["failed"]:
        raise _lost_requests(lab, total)
    if not any(version for version in total["versions"] if "2" in version):
        raise Fail(f"no answer came from the new version; versions seen: {total['versions']}")


@checks.trigger(
    "bad-release", reads=POD_KINDS, needs=("shape", "steady", "answers"), disturbs=("Deployment", "ReplicaSet")
)
def bad_release(lab: Lab) -> None:
    """While a broken release is rolled out, users still get answers; then the old one is back for all."""
    total = _roll_out(lab, lab.names["broken_image"], until_done=False)
    if total["failed"]:
        wrong = _lost_requests(lab, total)
        wrong.hint = "took-traffic"
        raise wrong


@checks.once("budget", reads=("PodDisruptionBudget", "Deployment"), needs=("ready",))
def budget(lab: Lab) -> None:
    """A budget that selects the pods keeps two of three and lets one go."""
    keep, replicas = lab.names["min_available"], lab.names["replicas"]
    labels = lab.object("Deployment", lab.names["deployment"])["spec"]["template"]["metadata"].get("labels") or {}
    # An empty selector takes all pods of the namespace, none at all takes no pod: the API's own words in policy/v1.
    budgets = [
        item
        for item in lab.objects("PodDisruptionBudget")
        if item["spec"].get("selector") is not None and selects(item["spec"]["selector"], labels)
    ]
    look_with = f"kubectl -n {lab.namespace} get poddisruptionbudgets"
    if not budgets:
        there = ", ".join(item["metadata"]["name"] for item in lab.objects("PodDisruptionBudget")) or "there is none"
        raise Fail(
            f"no PodDisruptionBudget selects pods with the labels {labels} ({there})",
            hint="no-budget",
            look_with=look_with,
        )
    if len(budgets) > 1:
        names = ", ".join(item["metadata"]["name"] for item in budgets)
        raise Fail(f"{len(budgets)} budgets select the same pods ({names}): then no eviction is allowed at all",
                   hint="budget-blocks", look_with=look_with)  # fmt: skip
    kept = _kept(budgets[0], replicas)
    name = budgets[0]["metadata"]["name"]
    if kept >= replicas:
        raise Fail(
            f"{name} keeps {kept} of {replicas} pods: no pod may ever go", hint="budget-blocks", look_with=look_with
        )
    if kept < keep:
        raise Fail(f"{name} keeps only {kept} of {replicas} pods", hint="budget-loose", look_with=look_with)


@checks.trigger(
    "drain", reads=("Node", "PodDisruptionBudget", *POD_KINDS), needs=("shape", "steady", "budget"), exclusive=True
)
def drain(lab: Lab) -> None:
    """A node is drained: enough pods stay ready all the time, and in the end all run on other nodes."""
    deployment = lab.object("Deployment", lab.names["deployment"])
    keep, lowest = lab.names["min_available"], [len(_ready_pods(lab, deployment))]
    by_node = Counter(pod["spec"]["nodeName"] for pod in _some_ready(lab, deployment))
    node = max(sorted(by_node), key=lambda name: by_node[name])
    lab.cordon(node)
    leaving = [pod["metadata"]["name"] for pod in lab.pods_of(deployment) if pod["spec"].get("nodeName") == node]
    evicted: set[str] = set()
    next_try = lab.now()

    def moved() -> None:
        alive = _ready_pods(lab, deployment)
        lowest.append(len(alive))
        if len(alive) < keep:
            raise Fail(f"only {len(alive)} pods were ready while {node} was drained", settled=True,
                       about=lab.find("Deployment", deployment["metadata"]["name"]))  # fmt: skip
        nonlocal next_try
        for name in leaving if lab.now() >= next_try else []:
            next_try = lab.now() + EVICT_EVERY
            if name not in evicted and lab.act(f"evict {name}", _eviction(name, lab.namespace)):
                evicted.add(name)
        if stuck := next((pod for pod in lab.pods_of(deployment) if _fits_nowhere(lab, pod)), None):
            raise Fail(f"{stuck['metadata']['name']} can run nowhere but on {node}, which is drained", hint="nowhere",
                       about=stuck, hopeless=True)  # fmt: skip
        left = [name for name in leaving if name not in evicted]
        if left:
            raise Fail(f"the budget does not let go of {', '.join(left)} on node {node}", hint="budget-blocks",
                       look_with=f"kubectl -n {lab.namespace} get pdb")  # fmt: skip
        if _are_placed(lab.pods_of(deployment), lab.names["replicas"], node):
            lab.open_again()
        elsewhere = [pod for pod in alive if pod["spec"]["nodeName"] != node]
        if len(elsewhere) < lab.names["replicas"]:
            raise Fail(f"{len(elsewhere)} pods are ready on other nodes after {node} was drained", hint="nowhere",
                       about=lab.find("Deployment", deployment["metadata"]["name"]))  # fmt: skip

    lab.until(lab.names["drain_seconds"], moved)


@checks.once("given", reads=("Service",), needs=("shape",), safeguard=True)
def given(lab: Lab) -> None:
    """The Service that the lab gave is still the same object with the same selector and ports."""
    service = lab.object("Service", lab.names["service"])
    uid = lab.given.get(f"Service/{lab.names['service']}")
    if uid and service["metadata"]["uid"] != uid:
        raise Fail(
            f"{lab.names['service']} was deleted and made again", expected="change your own objects, not the given ones"
        )
    wanted = {
        "selector": {"app.kubernetes.io/name": lab.names["label"]},
        "ports": [{"port": 80, "targetPort": lab.names["port"]}],
    }
    found = mismatches({"spec": wanted}, service)
    ports = [entry["port"] for entry in service["spec"]["ports"]]
    extra = set(service["spec"].get("selector") or {}) - {"app.kubernetes.io/name"}
    if found or extra or ports != [80]:
        said = "; ".join(map(str, found)) or f"it has the ports {ports}"
        said = f"its selector also asks for {', '.join(sorted(extra))}" if extra else said
        raise Fail(
            said, expected="change your own objects, not the given ones", look_with=_get(lab, "service", "-o yaml")
        )


@dataclass(frozen=True)
class _Rollout:
    """An image on its way to the pods, under traffic. `before`: the UIDs of the pods that were there."""

    lab: Lab
    image: str
    generation: int
    before: set[str]
    traffic: Traffic

    def present(self) -> Object:
        return self.lab.object("Deployment", self.lab.names["deployment"])

    def new_pods(self) -> list[Object]:
        _stop_early(self.traffic)
        present = self.present()
        if present["metadata"]["generation"] < self.generation:
            raise Fail("the update has not been seen yet")
        return [pod for pod in self.lab.pods_of(present) if pod["metadata"]["uid"] not in self.before]

    def done(self) -> None:
        self.new_pods()
        workloads.require_rolled_out(self.present(), self.lab.names["replicas"])

    def started(self) -> None:
        if not any(_runs(pod) for pod in self.new_pods()):
            raise Fail(f"no pod of {self.image} has started", about=self.present())

    def answering(self) -> None:
        running = [pod["status"].get("podIP", "") for pod in self.new_pods() if _runs(pod)]
        port = self.lab.names["port"]
        if not any(self.lab.http(f"http://{address}:{port}/healthz", timeout=1).status for address in running):
            raise Fail(f"no pod of {self.image} answers yet")


def _roll_out(lab: Lab, image: str, *, until_done: bool) -> dict[str, Any]:
    """Change the image under steady traffic; the traffic's final count.

    A good release is awaited. A bad one is given as long after its first pod answers as the kubelet may take to find
    it ready; the runner then puts the old template back, and the traffic goes on until that has started.
    """
    name, replicas = lab.names["deployment"], lab.names["replicas"]
    deployment = lab.object("Deployment", name)
    before = {pod["metadata"]["uid"] for pod in lab.pods_of(deployment)}
    index = workloads.index_of_image(deployment, lab.names["image"])
    path = f"/spec/template/spec/containers/{index}/image"
    patience = workloads.patience(deployment)

    def set_image(to: str) -> Any:
        patch = [{"op": "replace", "path": path, "value": to}]
        return lambda api: api.patch("Deployment", name, lab.namespace, patch)["metadata"]["generation"]

    lab.until(20, partial(_all_is_well, lab))
    with lab.traffic(_url(lab), method="POST", body=PREDICT, rate=RATE, timeout=10) as traffic:
        lab.throughout(0.5, lambda: None)  # traffic first, so that the very beginning is seen too
        rollout = _Rollout(lab, image, lab.act(f"set image {image}", set_image(image)), before, traffic)
        with suppress(_Lost):
            if until_done:
                lab.until(90 + patience, rollout.done, every=0.5)
                lab.throughout(AFTER_ROLLOUT, lambda: None)
            else:
                lab.until(60, rollout.started, every=0.5)
                with suppress(Fail):  # one that never answers can't become ready by it
                    lab.until(ALIVE_SECONDS, rollout.answering, every=0.5)
                lab.throughout(_until_ready(deployment), lambda: _stop_early(traffic), every=0.5)
                lab.act("roll back", set_image(lab.names["image"]))
                lab.until(60 + patience, lambda: workloads.require_rolled_out(rollout.present(), replicas))
        return traffic.total


def _all_is_well(lab: Lab) -> None:
    """What an earlier trigger has disturbed is over, so that every lost request is this one's."""
    for _ in range(3 * lab.names["replicas"]):
        answer = lab.http(_url(lab), method="POST", body=PREDICT)
        if answer.status != 200:
            raise Fail(f"before the update: {answer}", hint="no-readiness")


class _Lost(Exception):
    """Requests have failed, so the verdict is clear: no need to go on."""


def _stop_early(traffic: Traffic) -> None:
    if traffic.so_far()["failed"] > 3:
        raise _Lost


def _lost_requests(lab: Lab, total: dict[str, Any]) -> Fail:
    deployment = lab.object("Deployment", lab.names["deployment"])
    has_readiness = all(container.get("readinessProbe") for container in workloads.containers(deployment))
    lines = [f"{entry['after']:.1f} s after the start: {entry['what'].strip()}" for entry in total["failures"][:4]]
    return Fail(
        f"{total['failed']} of {total['sent']} requests failed", evidence=lines,
        hint="too-few" if has_readiness else "no-readiness",
        look_with=f"kubectl -n {lab.namespace} get deployment {lab.names['deployment']} -o yaml",
    )  # fmt: skip


def _runs(pod: Object) -> bool:
    """A container of it runs, or did: what a startup probe thinks of that is another matter."""
    return any(
        {"running", "terminated"} & entry.get("state", {}).keys() or entry.get("restartCount")
        for entry in pod.get("status", {}).get("containerStatuses", [])
    )


def _until_ready(deployment: Object) -> float:
    """Seconds after which the kubelet has found a pod ready, if it ever will.

    A probe is asked each period, first when its delay is over; readiness only after the startup probe has said yes.
    """
    longest = max(
        _seconds(container.get("startupProbe")) + _seconds(container.get("readinessProbe"))
        for container in workloads.containers(deployment)
    )
    return min(max(BAD_RELEASE_WINDOW, longest + 2), LATEST)


def _seconds(probe: Object | None) -> float:
    if not probe:
        return 0.0
    # The defaults are those of Probe in k8s.io/api/core/v1.
    period, times = probe.get("periodSeconds", 10), probe.get("successThreshold", 1)
    return float(probe.get("initialDelaySeconds", 0) + period * times + probe.get("timeoutSeconds", 1))


def _ready_pods(lab: Lab, deployment: Object) -> list[Object]:
    return [pod for pod in lab.pods_of(deployment) if workloads.is_ready(pod)]


def _some_ready(lab: Lab, deployment: Object) -> list[Object]:
    """The ready pods. Raises Fail when none is left: something took them away since the earlier checks."""
    found = _ready_pods(lab, deployment)
    if not found:
        raise Fail("no pod of it is ready any more", about=deployment, hint="not-ready")
    return found


def _are_placed(pods: list[Object], wanted: int, but: str) -> bool:
    """Whether as many pods as wanted have a node, none of them the one that is drained."""
    staying = [pod for pod in pods if not workloads.is_leaving(pod)]
    return len(staying) >= wanted and all(pod["spec"].get("nodeName", but) != but for pod in staying)


def _fits_nowhere(lab: Lab, pod: Object) -> bool:
    """Whether a pod without a node is refused by every node for what it is, however empty that node were."""
    return not pod["spec"].get("nodeName") and all(refusals(pod, node, []) for node in lab.objects("Node"))


def _eviction(name: str, namespace: str) -> Any:
    def evict(api: Api) -> bool:
        return api.evict(name, namespace)

    return evict


def _endpoints(lab: Lab, service: str) -> list[dict[str, Any]]:
    slices = lab.objects("EndpointSlice", **{"kubernetes.io__service_name": service})
    found = [entry for item in slices for entry in item.get("endpoints") or []]
    return [entry for entry in found if entry.get("conditions", {}).get("ready")]


def _kept(budget: Object, replicas: int) -> int:
    """How many pods stay, as the disruption controller rounds: percentages up, for both fields."""
    spec = budget["spec"]
    if "maxUnavailable" in spec:
        return replicas - _scaled(spec["maxUnavailable"], replicas)
    return _scaled(spec.get("minAvailable", 1), replicas)


def _scaled(value: int | str, replicas: int) -> int:
    if isinstance(value, str):
        return -(-int(value.rstrip("%")) * replicas // 100)
    return value


def _url(lab: Lab) -> str:
    return f"http://{lab.names['service']}.{lab.namespace}.svc.cluster.local/predict"


def _get(lab: Lab, kind: str, options: str) -> str:
    name = lab.names["service"] if kind == "service" else lab.names["deployment"]
    return f"kubectl -n {lab.namespace} get {kind} {name} {options}"
