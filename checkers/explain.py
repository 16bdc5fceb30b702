"""Why a pod is Pending or failing, told from facts alone: the pod, its events, and what it depends on."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from checkers import explain_gpus, spreading
from checkers.scheduling import refusals, requests
from checkers.workloads import condition, container_statuses, has_ended, is_ready, seen_at
from cluster.api import Object

_CODES = {
    1: "the program ended with an error of its own",
    2: "the program did not understand its arguments",
    126: "the command is not executable",
    127: "the command was not found in the image",
    134: "the program aborted itself (SIGABRT)",
    137: "it was killed (SIGKILL)",
    139: "it crashed on a bad memory access (SIGSEGV)",
    143: "it was asked to stop (SIGTERM)",
}  # exit codes above 128 are 128 plus the number of the signal, see signal(7)

_NEVER_RAN = ("StartError", "ContainerCannotRun")  # what containerd and Docker call it
_PLAIN_ENDS = ("", "Error", "Completed")  # reasons that say no more than the exit code

_PROBE_DEFAULTS = (("periodSeconds", 10), ("timeoutSeconds", 1), ("initialDelaySeconds", 0))  # the API's own
_COMPARE = "Compare path and port with what the program serves, and the delays with its start."
_NEXT_POD = "Delete the pod: it doesn't come back by itself, but its owner, if it has one, makes another."
_LAST_LINES = 5


@dataclass(frozen=True)
class Facts:
    """What is known. `pods` are those of the whole cluster; `logs` the last lines by container."""

    pod: Object
    events: tuple[Object, ...] = ()
    nodes: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    claims: tuple[Object, ...] = ()
    claim_events: tuple[Object, ...] = ()
    classes: tuple[Object, ...] = ()
    resource_claims: tuple[Object, ...] = ()
    slices: tuple[Object, ...] = ()
    logs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reason:
    """One thing that is wrong: what, the lines that show it, what to do, the command to look with."""

    what: str
    details: tuple[str, ...] = ()
    mend: str = ""
    look_with: str = ""


def explain(facts: Facts) -> list[Reason]:
    """All reasons that the facts show, the most basic first; empty when the pod is simply fine, or nothing shows."""
    pod = facts.pod
    if pod["metadata"].get("deletionTimestamp"):
        return [_leaving(pod)]
    found = [*_refused(facts), *_failed(facts), *_lost(facts)]
    if not has_ended(pod):  # by then its claims are given back
        found = [*_claims(facts), *_devices(facts), *found]
    if not pod["spec"].get("nodeName"):
        found.append(_unscheduled(facts))
    for container in container_statuses(pod):
        found += _container(facts, container)
    if not found:
        found += _as_a_whole(facts)
    return found


def _refused(facts: Facts) -> Iterator[Reason]:
    for what, details, mend in explain_gpus.refused_at_admission(facts.pod):
        yield Reason(what, details, mend, _describe(facts))


def _devices(facts: Facts) -> Iterator[Reason]:
    for what, details, mend in explain_gpus.claims(facts.pod, facts.resource_claims, facts.slices):
        yield Reason(what, details, mend, f"kubectl -n {facts.pod['metadata']['namespace']} get resourceclaims")


def _leaving(pod: Object) -> Reason:
    finalizers = pod["metadata"].get("finalizers") or []
    if finalizers:
        return Reason(
            "The pod is deleted, but finalizers keep it.", tuple(finalizers),
            "Whoever set these finalizers must remove them when its work is done.",
        )  # fmt: skip
    grace = pod["metadata"].get("deletionGracePeriodSeconds", 30)
    return Reason(
        f"The pod is on its way out; it has {grace} s to stop by itself.",
        mend="Wait for it. A program that ignores SIGTERM is killed at the end of that time.",
    )


def _claims(facts: Facts) -> Iterator[Reason]:
    claims = {claim["metadata"]["name"]: claim for claim in facts.claims}
    namespace = facts.pod["metadata"]["namespace"]
    classes = {item["metadata"]["name"]: item for item in facts.classes}
    for volume in facts.pod["spec"].get("volumes") or []:
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if not name:
            continue
        look = f"kubectl -n {namespace} describe pvc {name}"
        claim = claims.get(name)
        if claim is None:
            close = difflib.get_close_matches(name, claims, 1)
            there = f"There is one called {close[0]}." if close else f"Claims here: {', '.join(claims) or 'none'}."
            yield Reason(f"It waits for the claim {name}, which does not exist.", (there,),
                         "Create the claim, or mend its name in the pod.",
                         f"kubectl -n {namespace} get pvc")  # fmt: skip
        elif claim.get("status", {}).get("phase") != "Bound":
            yield _unbound(claim, classes, facts, look)


def _unbound(claim: Object, classes: Mapping[str, Object], facts: Facts, look: str) -> Reason:
    name, wanted = claim["metadata"]["name"], claim["spec"].get("storageClassName")
    own = [event for event in facts.claim_events if event["involvedObject"]["uid"] == claim["metadata"]["uid"]]
    said = tuple(_event(event) for event in own[-2:])
    if wanted and wanted not in classes:
        return Reason(f"Claim {name} asks for storage class {wanted}, which does not exist.",
                      (f"Classes here: {', '.join(sorted(classes))}.", *said),
                      "Mend storageClassName; a claim can't change it, so delete and create the claim again.",
                      look)  # fmt: skip
    mode = (classes.get(wanted or "") or {}).get("volumeBindingMode", "")
    if mode == "WaitForFirstConsumer" and not facts.pod["spec"].get("nodeName") and not _is_refused(own):
        return Reason(f"Claim {name} is bound only once its pod has a node; that comes with the scheduling.", said,
                      look_with=look)  # fmt: skip
    modes = ", ".join(claim["spec"].get("accessModes") or [])
    return Reason(f"Claim {name} ({modes}) is not bound to a volume yet.", said, look_with=look)


def _is_refused(events: list[Object]) -> bool:
    return any(event.get("type") == "Warning" for event in events)


def _unscheduled(facts: Facts) -> Reason:
    pod = facts.pod
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    said = condition(pod, "PodScheduled").get("message", "")
    if gates := pod["spec"].get("schedulingGates"):
        return Reason("It is held back by scheduling gates.", tuple(gate["name"] for gate in gates))
    asked = ", ".join(f"{key} {_plain(amount)}" for key, amount in sorted(requests(pod).items())) or "nothing"
    lines = [f"It asks for: {asked}."]
    open_nodes, why = [], []
    there: dict[str, list[Object]] = {}
    for other in facts.pods:
        there.setdefault(other["spec"].get("nodeName", ""), []).append(other)
    spread = spreading.refusals(pod, facts.nodes, facts.pods)
    for node in facts.nodes:
        own = node["metadata"]["name"]
        # What holds for the node itself comes first; a spread is only of interest where the pod might go.
        against = refusals(pod, node, there.get(own, [])) or spread[own]
        if not against:
            open_nodes.append(own)
        if (broken := explain_gpus.faulty(node)) and any(name.startswith("nvidia.com/") for name in requests(pod)):
            against.append(broken)
        why.append((own, "; ".join(against) or "fits, as far as can be told here"))
    lines += explain_gpus.together(why)
    if said:
        lines.append(f"The scheduler says: {said}")
    what = "No node can take it." if not open_nodes else f"It has no node yet, though {', '.join(open_nodes)} may fit."
    mend = "Ask for less, tolerate the taint, mend the label, or make room: each line says what that node lacks."
    if open_nodes:
        mend = "Give the scheduler a moment; if this stays, read its own message above."
    return Reason(what, tuple(lines), mend, f"kubectl -n {namespace} describe pod {name}")


def _plain(amount: Any) -> str:
    value = float(amount)
    return f"{value / 2**20:.0f}Mi" if value >= 2**20 else f"{value:g}"


def _container(facts: Facts, status: Mapping[str, Any]) -> Iterator[Reason]:
    state = status.get("state", {})
    waiting = state.get("waiting", {})
    reason = waiting.get("reason", "")
    if reason in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"):
        yield _image(facts, status, waiting)
    elif reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        yield Reason(f"Container {status['name']} can't be started ({reason}).", (waiting.get("message", ""),),
                     "The message names what is missing: a ConfigMap, a Secret, a key, a command.",
                     _describe(facts))  # fmt: skip
    elif state.get("running"):
        if not status.get("ready"):
            yield from _probes(facts, status)
            yield from _past(facts, status)
    else:
        ended = state.get("terminated") or _last_end(status)
        if ended and (ended.get("exitCode") or reason == "CrashLoopBackOff"):
            yield _ended(facts, status, ended)


def past_ends(facts: Facts) -> list[Reason]:
    """How containers that run by now have ended before: no trouble of a pod that is ready, but good to know."""
    return [reason for status in container_statuses(facts.pod) if status.get("state", {}).get("running")
            for reason in _past(facts, status)]  # fmt: skip


def _past(facts: Facts, status: Mapping[str, Any]) -> Iterator[Reason]:
    last = _last_end(status)
    if last.get("exitCode") or (last and _killed_by(facts, status["name"])):
        reason = _ended(facts, status, last)
        yield replace(reason, what=f"Before that, {reason.what[0].lower()}{reason.what[1:]}")


def _last_end(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return (status.get("lastState") or {}).get("terminated") or {}


def _image(facts: Facts, status: Mapping[str, Any], waiting: Mapping[str, Any]) -> Reason:
    image = status.get("image", "")
    on_nodes = sorted({_short(name) for node in facts.nodes for entry in node.get("status", {}).get("images") or []
                       for name in entry.get("names") or [] if "@" not in name})  # fmt: skip
    close = difflib.get_close_matches(_short(image), on_nodes, 3, 0.6)
    hint = f"Images on the nodes with a name like it: {', '.join(close)}." if close else ""
    return Reason(
        f"Image {image} of container {status['name']} can't be had ({waiting.get('reason')}).",
        tuple(text for text in (waiting.get("message", ""), hint) if text),
        "Mend the name or the tag of the image.", _describe(facts),
    )  # fmt: skip


def _short(image: str) -> str:
    return image.removeprefix("docker.io/").removeprefix("library/")


def _ended(facts: Facts, status: Mapping[str, Any], ended: Mapping[str, Any]) -> Reason:
    name, code, why = status["name"], ended.get("exitCode", 0), ended.get("reason", "")
    restarts = _counted(status.get("restartCount", 0), "restart")
    if why in _NEVER_RAN:
        return Reason(f"Container {name} could not be started ({why}, {restarts}).", (ended.get("message", ""),),
                      "Mend command or args: the message names the program or the path that the image doesn't have.",
                      _describe(facts))  # fmt: skip
    if why == "OOMKilled":
        limit = _spec_of(facts.pod, name).get("resources", {}).get("limits", {}).get("memory", "none of its own")
        return Reason(
            f"Container {name} wanted more memory than it may have and was killed (OOMKilled, {restarts}).",
            (f"Its memory limit: {limit}.",), "Raise resources.limits.memory, or make the program need less.",
            _describe(facts),
        )  # fmt: skip
    log = facts.logs.get(name, "").splitlines()[-_LAST_LINES:]
    message = [line for line in ended.get("message", "").splitlines()[-_LAST_LINES:] if line not in log]
    details = [*(f"its last message: {line}" for line in message), *(f"log: {line}" for line in log)]
    meaning, mend = _CODES.get(code, ""), "Read what the program said before it ended."
    if probe := _killed_by(facts, name):
        meaning, mend = f"its {probe} probe failed, so it was restarted", _COMPARE
        details[:0] = _kill(facts, name, probe)
    elif why not in _PLAIN_ENDS:
        meaning = ""
    what = f"Container {name} ended with exit code {code}" + (f" ({why})" if why not in _PLAIN_ENDS else "")
    again = f", {restarts} so far" if status.get("restartCount") else ""
    return Reason(
        what + (f": {meaning}" if meaning else "") + again + ".", tuple(details), mend,
        f"kubectl -n {facts.pod['metadata']['namespace']} logs {facts.pod['metadata']['name']} -c {name}"
        + (" --previous" if again else ""),
    )  # fmt: skip


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _killed_by(facts: Facts, container: str) -> str:
    """The probe for which the kubelet killed the container last; empty when none did."""
    kills = [(seen_at(event), word) for word in ("liveness", "startup")
             for event in _events_of(facts, container, "Killing", f"failed {word} probe")]  # fmt: skip
    return max(kills, default=("", ""))[1]


def _kill(facts: Facts, container: str, probe: str) -> Iterator[str]:
    """What the probe asks, that it killed, and what it got."""
    if asked := _spec_of(facts.pod, container).get(f"{probe}Probe"):
        yield f"It asks: {_probe(asked)}."
    for reason, words in (("Killing", f"failed {probe} probe"), ("Unhealthy", f"{probe.title()} probe")):
        yield from (_event(event) for event in _events_of(facts, container, reason, words)[-1:])


def _probes(facts: Facts, status: Mapping[str, Any]) -> Iterator[Reason]:
    spec = _spec_of(facts.pod, status["name"])
    for kind, word in (("startupProbe", "Startup"), ("livenessProbe", "Liveness"), ("readinessProbe", "Readiness")):
        if word == "Startup" and status.get("started"):
            continue  # what it said while the container was starting
        failed = _events_of(facts, status["name"], "Unhealthy", word)
        if failed and kind in spec:
            yield Reason(f"Container {status['name']} runs, but its {word.lower()} probe fails.",
                         (f"It asks: {_probe(spec[kind])}.", *(_event(event) for event in failed[-1:])),
                         _COMPARE, _describe(facts))  # fmt: skip
            return
    yield Reason(f"Container {status['name']} runs, but is not ready yet.",
                 (f"Its readiness probe asks: {_probe(spec['readinessProbe'])}.",) if "readinessProbe" in spec else (),
                 look_with=_describe(facts))  # fmt: skip


def _probe(probe: Mapping[str, Any]) -> str:
    if asked := probe.get("httpGet"):
        text = f"GET {asked.get('path', '/')} on port {asked.get('port')}"
    elif asked := probe.get("tcpSocket"):
        text = f"a connection to port {asked.get('port')}"
    elif asked := probe.get("grpc"):
        text = f"gRPC health on port {asked.get('port')}"
    else:
        text = f"the command {' '.join((probe.get('exec') or {}).get('command') or [])}"
    every, wait, delay = (probe.get(key, default) for key, default in _PROBE_DEFAULTS)
    return f"{text}, every {every} s, waiting {wait} s for the answer, first after {delay} s"


def _failed(facts: Facts) -> Iterator[Reason]:
    """What the kubelet wrote on a pod as a whole when it gave it up; events of that are gone after an hour."""
    status = facts.pod.get("status", {})
    why = status.get("reason", "")
    if status.get("phase") != "Failed" or why in ("", explain_gpus.REFUSED):
        return
    what, mend = f"The pod has failed ({why}).", _NEXT_POD
    if why == "Evicted":
        what, mend = "The node evicted the pod.", ""
    elif why == "DeadlineExceeded":
        what = "It ran longer than its activeDeadlineSeconds allow."
        mend = "Raise activeDeadlineSeconds, or give it less to do."
    elif why.startswith("OutOf"):
        what = f"Node {facts.pod['spec'].get('nodeName')} had no room for it any more ({why})."
    yield Reason(what, (status.get("message", ""),), mend, _describe(facts))


def _lost(facts: Facts) -> Iterator[Reason]:
    """Its node doesn't answer: then what the pod's status says is old."""
    if is_ready(facts.pod) or has_ended(facts.pod):
        return
    for node in facts.nodes:
        name, ready = node["metadata"]["name"], condition(node, "Ready")
        if name == facts.pod["spec"].get("nodeName") and ready.get("status") != "True":
            yield Reason(f"Its node {name} is not Ready.", (ready.get("message", ""),),
                         "Bring the node back, or delete the pod so that its owner makes it elsewhere.",
                         f"kubectl describe node {name}")  # fmt: skip


def _as_a_whole(facts: Facts) -> Iterator[Reason]:
    """No container tells more: it failed, or a gate keeps it from being ready, or it mounts, pulls, makes a sandbox."""
    status, ready = facts.pod.get("status", {}), condition(facts.pod, "Ready")
    if ready.get("status") == "True" or status.get("phase") == "Succeeded":
        return
    warnings = [event for event in facts.events if event.get("type") == "Warning"]
    lines = tuple(_event(event) for event in (warnings or facts.events)[-3:])
    if status.get("phase") == "Failed":
        said = tuple(text for text in (status.get("message", ""),) if text)
        yield Reason("The pod has failed.", (*said, *lines), _NEXT_POD, _describe(facts))
    elif condition(facts.pod, "ContainersReady").get("status") == "True":
        yield _held_back(facts, ready)
    elif lines:
        yield Reason("It has a node, but its containers are not up yet.", lines, look_with=_describe(facts))


def _held_back(facts: Facts, ready: Mapping[str, Any]) -> Reason:
    """All containers are ready, the pod isn't."""
    unmet = []
    for gate in facts.pod["spec"].get("readinessGates") or []:
        found = condition(facts.pod, gate["conditionType"])
        if found.get("status") != "True":
            said = f"{found['status']}, {found.get('message', '')}".rstrip(", ") if found else "no such condition yet"
            unmet.append(f"{gate['conditionType']}: {said}")
    if unmet:
        return Reason("Its containers are ready, but the pod is not: a readiness gate is not met.", tuple(unmet),
                      "Whoever the gate is for must set that condition on the pod.", _describe(facts))  # fmt: skip
    said = f"{ready.get('reason', '')}: {ready.get('message', '')}".strip(": ")
    return Reason("Its containers are ready, but the pod is not.", (said,) if said else (), look_with=_describe(facts))


def _spec_of(pod: Object, container: str) -> dict[str, Any]:
    spec = pod["spec"]
    every = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    return next((entry for entry in every if entry["name"] == container), {})


def _events_of(facts: Facts, container: str, reason: str, word: str) -> list[Object]:
    """Events of one reason whose message holds a word, about that container or the pod as a whole."""
    field = f"spec.containers{{{container}}}"  # as the kubelet writes it
    return [event for event in facts.events if event.get("reason") == reason and word in event.get("message", "")
            and (event.get("involvedObject") or {}).get("fieldPath", field) == field]  # fmt: skip


def _event(event: Object) -> str:
    return f"event {event.get('reason')}: {event.get('message', '')}"


def _describe(facts: Facts) -> str:
    return f"kubectl -n {facts.pod['metadata']['namespace']} describe pod {facts.pod['metadata']['name']}"
