"""Why a pod is Pending or failing is told from facts, in words and numbers that lead to the mistake."""

from __future__ import annotations

from typing import Any

import pytest

from checkers.explain import Facts, Reason, explain, past_ends

SCHEDULED = {"type": "PodScheduled", "status": "True"}
READY = {"type": "Ready", "status": "True"}
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


def pod(status: dict[str, Any] | None = None, *, node: str = "worker", meta: Any = None, **spec: Any) -> Any:
    containers = spec.pop("containers", [{"name": "api", "image": "ai-app:v1"}])
    return {
        "kind": "Pod",
        "metadata": {"name": "api-1", "namespace": "lab", "uid": "u1", **(meta or {})},
        "spec": {"containers": containers, **({"nodeName": node} if node else {}), **spec},
        "status": status or {},
    }


def container(name: str = "api", **status: Any) -> dict[str, Any]:
    return {"name": name, "image": "ai-app:v1", "ready": False, "restartCount": 0, **status}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason}}


def running(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"phase": "Running", "conditions": [SCHEDULED], "containerStatuses": list(containers)}


def event(reason: str, message: str, *, kind: str = "Warning", uid: str = "u1", about: str = "") -> dict[str, Any]:
    """`about` is the container that it is about."""
    involved = {"uid": uid, **({"fieldPath": f"spec.containers{{{about}}}"} if about else {})}
    return {"type": kind, "reason": reason, "message": message, "involvedObject": involved}


def node(name: str = "worker", images: tuple[str, ...] = (), **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {}},
        "spec": spec,
        "status": {
            "conditions": [READY],
            "allocatable": {"cpu": "2", "memory": "800Mi", "pods": "10"},
            "images": [{"names": [image, f"{image.split(':')[0]}@sha256:0"]} for image in images],
        },
    }


def only(facts: Facts) -> Reason:
    (reason,) = explain(facts)
    return reason


def text(reason: Reason) -> str:
    return "\n".join([reason.what, *reason.details, reason.mend, reason.look_with])


@pytest.mark.parametrize(
    "status",
    [
        {**running(container(ready=True, state=RUNNING)), "conditions": [SCHEDULED, READY]},
        {"phase": "Succeeded", "containerStatuses": [container(state=ended(0, "Completed"))]},
        {
            "phase": "Running",
            "conditions": [READY],
            "initContainerStatuses": [container("init", ready=True, state=ended(0, "Completed"))],
            "containerStatuses": [container(ready=True, state=RUNNING)],
        },
    ],
)
def test_a_healthy_pod_has_nothing_to_explain(status: dict[str, Any]) -> None:
    past = event("FailedScheduling", "0/1 nodes are available")
    assert explain(Facts(pod(status), events=(past,), nodes=(node(),))) == []


def pending(said: str = "", **spec: Any) -> Any:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
    return pod({"phase": "Pending", "conditions": [condition]}, node="", **spec)


def asking(**requests: str) -> list[dict[str, Any]]:
    return [{"name": "api", "image": "ai-app:v1", "resources": {"requests": requests}}]


def test_a_pending_pod_is_held_against_every_node_with_numbers() -> None:
    wanted = pending("0/2 nodes are available: 2 Insufficient cpu.", containers=asking(cpu="1500m"))
    there = pod({"phase": "Running"}, containers=asking(cpu="600m"))
    reason = only(Facts(wanted, nodes=(node(), node("gpu", unschedulable=True)), pods=(there, wanted)))
    assert reason.what == "No node can take it."
    assert "worker: cpu: asks 1500m, free 1400m of 2" in reason.details
    assert any(line.startswith("gpu: it is cordoned") for line in reason.details)
    assert "The scheduler says: 0/2 nodes are available: 2 Insufficient cpu." in reason.details
    assert reason.look_with == "kubectl -n lab describe pod api-1"


def test_only_the_pods_of_a_node_take_its_room() -> None:
    elsewhere = pod({"phase": "Running"}, node="other", containers=asking(cpu="2"))
    reason = only(Facts(pending(containers=asking(cpu="1500m")), nodes=(node(),), pods=(elsewhere,)))
    assert "No node" not in reason.what
    assert "worker" in reason.what


def test_a_pod_behind_a_scheduling_gate_is_not_held_against_nodes() -> None:
    reason = only(Facts(pending(schedulingGates=[{"name": "example.com/wait"}]), nodes=(node(),)))
    assert "gates" in reason.what
    assert reason.details == ("example.com/wait",)


@pytest.mark.parametrize("why", ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"])
def test_an_image_that_can_not_be_had_comes_with_the_names_that_are_close(why: str) -> None:
    status = running(container(**waiting(why, "pull access denied")) | {"image": "ai-ap:v1"})
    nodes = (node(images=("docker.io/library/ai-app:v1", "docker.io/library/nginx:1", "registry.k8s.io/pause:3")),)
    reason = only(Facts(pod(status), nodes=nodes))
    assert "Image ai-ap:v1 of container api" in reason.what
    assert why in reason.what
    assert "pull access denied" in reason.details
    assert reason.details[-1].endswith(": ai-app:v1.")
    assert "sha256" not in text(reason)


def test_no_image_is_proposed_that_is_not_close() -> None:
    status = running(container(**waiting("ErrImagePull", "denied")) | {"image": "zzz/qqq:9"})
    assert only(Facts(pod(status), nodes=(node(images=("ai-app:v1",)),))).details == ("denied",)


def test_a_crash_loop_tells_exit_code_restarts_and_the_end_of_the_log() -> None:
    crashed = container(restartCount=4, lastState=ended(1), **waiting("CrashLoopBackOff", "back-off 40s"))
    log = "\n".join(f"line {number}" for number in range(9))
    reason = only(Facts(pod(running(crashed)), logs={"api": log, "other": "not this"}))
    assert "exit code 1" in reason.what
    assert "an error of its own" in reason.what
    assert "4 restarts" in reason.what
    assert reason.details[-1] == "log: line 8"
    assert "log: line 0" not in reason.details
    assert "not this" not in text(reason)
    assert reason.look_with == "kubectl -n lab logs api-1 -c api --previous"


def test_a_crash_loop_of_a_program_that_ends_well_is_a_reason_too() -> None:
    crashed = container(restartCount=2, lastState=ended(0, "Completed"), **waiting("CrashLoopBackOff"))
    assert "exit code 0" in only(Facts(pod(running(crashed)))).what


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(2, "arguments"), (126, "not executable"), (127, "not found"), (137, "SIGKILL"), (139, "memory access")],
)
def test_exit_codes_are_told_in_words(code: int, meaning: str) -> None:
    reason = only(Facts(pod({"phase": "Failed", "containerStatuses": [container(state=ended(code))]})))
    assert f"exit code {code}" in reason.what
    assert meaning in reason.what
    assert not reason.look_with.endswith("--previous")  # it was never restarted, so there is no previous log


@pytest.mark.parametrize(("limits", "said"), [({"memory": "64Mi"}, "64Mi"), ({}, "none")])
def test_killed_for_memory_tells_the_limit(limits: dict[str, str], said: str) -> None:
    killed = container(restartCount=1, lastState=ended(137, "OOMKilled"), **waiting("CrashLoopBackOff"))
    spec = [
        {"name": "side", "resources": {"limits": {"memory": "1Gi"}}},
        {"name": "api", "resources": {"limits": limits}},
    ]
    reason = only(Facts(pod(running(killed), containers=spec)))
    assert "OOMKilled" in reason.what
    assert reason.details[0].startswith(f"Its memory limit: {said}")


def test_an_init_container_that_fails_is_named() -> None:
    failed = container("init", restartCount=1, lastState=ended(1), **waiting("CrashLoopBackOff"))
    status = {**running(container(**waiting("PodInitializing"))), "initContainerStatuses": [failed]}
    assert "Container init ended with exit code 1" in only(Facts(pod(status))).what


@pytest.mark.parametrize("why", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
def test_a_container_that_can_not_be_made_tells_what_is_missing(why: str) -> None:
    reason = only(Facts(pod(running(container(**waiting(why, 'secret "token" not found'))))))
    assert why in reason.what
    assert reason.details == ('secret "token" not found',)


def probing(**probes: Any) -> list[dict[str, Any]]:
    return [{"name": "api", "image": "ai-app:v1", **probes}]


@pytest.mark.parametrize(
    ("probe", "asked"),
    [
        ({"httpGet": {"path": "/ready", "port": 8080}}, "GET /ready on port 8080"),
        ({"httpGet": {"port": "http"}}, "GET / on port http"),
        ({"tcpSocket": {"port": 5432}}, "connection to port 5432"),
        ({"grpc": {"port": 9000}}, "gRPC health on port 9000"),
        ({"exec": {"command": ["cat", "/ready"]}}, "command cat /ready"),
    ],
)
def test_a_failing_readiness_probe_tells_what_it_asks_and_what_came(probe: dict[str, Any], asked: str) -> None:
    status = running(container(state=RUNNING))
    told = event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 404", about="api")
    probe = {**probe, "periodSeconds": 7}
    reason = only(Facts(pod(status, containers=probing(readinessProbe=probe)), events=(told,)))
    assert "readiness probe fails" in reason.what
    assert asked in reason.details[0]
    assert "every 7 s, waiting 1 s for the answer, first after 0 s" in reason.details[0]
    assert "statuscode: 404" in reason.details[1]


@pytest.mark.parametrize(("kind", "word"), [("livenessProbe", "Liveness"), ("startupProbe", "Startup")])
def test_a_failing_liveness_or_startup_probe_is_called_so(kind: str, word: str) -> None:
    spec = probing(**{kind: {"tcpSocket": {"port": 1}}, "readinessProbe": {"tcpSocket": {"port": 2}}})
    told = event("Unhealthy", f"{word} probe failed: connection refused", about="api")
    reason = only(Facts(pod(running(container(state=RUNNING)), containers=spec), events=(told,)))
    assert f"{word.lower()} probe fails" in reason.what
    assert "port 1" in reason.details[0]


def test_a_container_that_is_not_ready_yet_is_told_without_an_event_too() -> None:
    spec = probing(readinessProbe={"httpGet": {"path": "/ready", "port": 80}})
    reason = only(Facts(pod(running(container(state=RUNNING)), containers=spec)))
    assert "not ready yet" in reason.what
    assert "GET /ready" in text(reason)


def test_a_container_that_liveness_killed_is_not_blamed_on_the_program() -> None:
    killed = container(restartCount=3, lastState=ended(137), **waiting("CrashLoopBackOff"))
    told = event("Killing", "Container api failed liveness probe, will be restarted", kind="Normal", about="api")
    reason = only(Facts(pod(running(killed)), events=(told,)))
    assert "liveness probe failed" in reason.what
    assert "SIGKILL" not in reason.what


def test_the_liveness_of_one_container_does_not_explain_the_end_of_another() -> None:
    crashed = container(restartCount=3, lastState=ended(1), **waiting("CrashLoopBackOff"))
    beside = container("side", ready=True, state=RUNNING)
    told = event("Killing", "Container side failed liveness probe, will be restarted", kind="Normal", about="side")
    reason = only(Facts(pod(running(crashed, beside)), events=(told,)))
    assert "liveness" not in text(reason)


def test_the_probe_of_one_container_is_not_shown_for_another() -> None:
    spec = [
        {"name": "api", "readinessProbe": {"tcpSocket": {"port": 1}}},
        {"name": "side", "readinessProbe": {"tcpSocket": {"port": 2}}},
    ]
    status = running(container(state=RUNNING), container("side", ready=True, state=RUNNING))
    told = event("Unhealthy", "Readiness probe failed: side was slow", about="side")
    reason = only(Facts(pod(status, containers=spec), events=(told,)))
    assert "Container api" in reason.what
    assert "side was slow" not in text(reason)


NO_PROGRAM = 'exec: "pyhton": executable file not found in $PATH: unknown'
NOT_FOUND = "Readiness probe failed: HTTP probe failed with statuscode: 404"


@pytest.mark.parametrize("why", ["StartError", "ContainerCannotRun"])
def test_a_program_that_could_not_be_started_is_told_in_the_runtime_s_words(why: str) -> None:
    last = {"terminated": {"exitCode": 128, "reason": why, "message": NO_PROGRAM}}
    crashed = container(restartCount=3, lastState=last, **waiting("CrashLoopBackOff", "back-off 40s"))
    reason = only(Facts(pod(running(crashed))))
    assert f"Container api could not be started ({why}, 3 restarts)" in reason.what
    assert reason.details == (NO_PROGRAM,)
    assert "said before it ended" not in reason.mend
    assert "logs" not in reason.look_with  # it never ran, so there is no log


def test_a_failed_start_that_is_tried_again_is_told_once() -> None:
    last = {"terminated": {"exitCode": 128, "reason": "StartError", "message": NO_PROGRAM}}
    reason = only(Facts(pod(running(container(restartCount=1, lastState=last, **waiting("RunContainerError", "no"))))))
    assert "RunContainerError" in reason.what


def test_what_the_container_left_as_its_last_message_is_shown() -> None:
    last = {"terminated": {"exitCode": 3, "reason": "Error", "message": "no model\nat /models\n"}}
    crashed = container(restartCount=1, lastState=last, **waiting("CrashLoopBackOff"))
    assert only(Facts(pod(running(crashed)))).details == ("its last message: no model", "its last message: at /models")
    reason = only(Facts(pod(running(crashed)), logs={"api": "start\nno model\nat /models"}))
    assert reason.details == ("log: start", "log: no model", "log: at /models")  # FallbackToLogsOnError says it twice


def test_an_end_that_has_a_reason_of_its_own_is_not_told_by_its_exit_code_alone() -> None:
    lost = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "The container could not be located"}
    reason = only(Facts(pod({"phase": "Failed", "containerStatuses": [container(state={"terminated": lost})]})))
    assert "ended with exit code 137 (ContainerStatusUnknown)" in reason.what
    assert "SIGKILL" not in reason.what
    assert "its last message: The container could not be located" in reason.details


@pytest.mark.parametrize(("word", "kind"), [("startup", "startupProbe"), ("liveness", "livenessProbe")])
def test_a_container_that_a_probe_killed_tells_which_and_what_it_asked(word: str, kind: str) -> None:
    killed = container(restartCount=3, lastState=ended(137), **waiting("CrashLoopBackOff"))
    told = event("Killing", f"Container api failed {word} probe, will be restarted", kind="Normal", about="api")
    refused = event("Unhealthy", f"{word.title()} probe failed: connection refused", about="api")
    spec = probing(**{kind: {"tcpSocket": {"port": 8081}}})
    reason = only(Facts(pod(running(killed), containers=spec), events=(refused, told), logs={"api": "loading"}))
    assert f"its {word} probe failed, so it was restarted" in reason.what
    assert "SIGKILL" not in reason.what
    assert "a connection to port 8081" in reason.details[0]
    assert reason.details[1:] == (f"event Killing: {told['message']}", f"event Unhealthy: {refused['message']}",
                                  "log: loading")  # fmt: skip
    assert "port" in reason.mend
    other = container("side", restartCount=1, lastState=ended(1), **waiting("CrashLoopBackOff"))
    assert "probe" not in text(only(Facts(pod(running(other)), events=(told,))))


def test_of_two_probes_that_killed_a_container_the_later_is_told() -> None:
    killed = container(restartCount=3, lastState=ended(137), **waiting("CrashLoopBackOff"))
    words, times = ("startup", "liveness"), ("2026-01-01T00:09:00Z", "2026-01-01T00:01:00Z")
    told = [event("Killing", f"Container api failed {word} probe, will be restarted", about="api") | {
        "lastTimestamp": when} for word, when in zip(words, times, strict=True)]  # fmt: skip
    assert "its startup probe failed" in only(Facts(pod(running(killed)), events=tuple(told))).what


def test_a_container_that_runs_again_but_is_not_ready_is_told_by_its_probe_before_its_last_end() -> None:
    back = container(restartCount=1, started=True, lastState=ended(1), state=RUNNING)
    spec = probing(readinessProbe={"httpGet": {"path": "/redy", "port": 80}}, startupProbe={"tcpSocket": {"port": 80}})
    slow = event("Unhealthy", "Startup probe failed: connection refused", about="api")  # it has started since
    told = event("Unhealthy", NOT_FOUND, about="api")
    facts = Facts(pod(running(back), containers=spec), events=(slow, told), logs={"api": "no model"})
    now, before = explain(facts)
    assert "readiness probe fails" in now.what
    assert "GET /redy" in now.details[0]
    assert "404" in now.details[1]
    meaning = "the program ended with an error of its own"
    assert before.what == f"Before that, container api ended with exit code 1: {meaning}, 1 restart so far."
    assert before.details == ("log: no model",)
    assert before.look_with.endswith("--previous")


def test_a_container_that_starts_again_after_a_good_end_is_only_not_ready() -> None:
    back = container(restartCount=1, lastState=ended(0, "Completed"), state=RUNNING)
    assert "not ready yet" in only(Facts(pod(running(back)))).what
    told = event("Killing", "Container api failed liveness probe, will be restarted", kind="Normal", about="api")
    assert "its liveness probe failed" in explain(Facts(pod(running(back)), events=(told,)))[-1].what


@pytest.mark.parametrize("last", [ended(1), ended(137, "OOMKilled"), ended(128, "StartError")])
def test_an_old_crash_is_no_trouble_of_a_pod_that_is_ready_but_can_be_told_as_its_past(last: dict[str, Any]) -> None:
    back = container(restartCount=2, ready=True, lastState=last, state=RUNNING)
    facts = Facts(pod({**running(back), "conditions": [SCHEDULED, READY]}), logs={"api": "boom"})
    assert explain(facts) == []
    (past,) = past_ends(facts)
    assert past.what.startswith("Before that, container api ")
    assert past_ends(Facts(pod(running(container(ready=True, state=RUNNING))))) == []


def test_a_sound_container_s_old_crash_is_not_blamed_for_the_trouble_of_another() -> None:
    back = container(restartCount=2, ready=True, lastState=ended(1), state=RUNNING)
    reason = only(Facts(pod(running(back, container("side", **waiting("ErrImagePull", "denied"))))))
    assert "container side" in reason.what


def test_an_image_that_can_not_be_had_now_goes_before_an_older_end() -> None:
    changed = container(restartCount=2, lastState=ended(1), **waiting("ImagePullBackOff", "denied"))
    assert "can't be had" in only(Facts(pod(running(changed)))).what


def claiming(name: str = "data", node: str = "") -> Any:
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": name}}, {"name": "tmp", "emptyDir": {}}]
    return pod({"phase": "Pending"}, node=node, volumes=volumes)


def claim(name: str = "data", phase: str = "Pending", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}"},
        "spec": {"accessModes": ["ReadWriteOnce"], **spec},
        "status": {"phase": phase},
    }


def storage(name: str, mode: str = "Immediate") -> dict[str, Any]:
    return {"metadata": {"name": name}, "volumeBindingMode": mode}


@pytest.mark.parametrize(
    ("claims", "hint"),
    [((claim("date"), claim("logs")), "one called date"), ((claim("xyz"),), "xyz"), ((), "none")],
)
def test_a_missing_claim_is_named_with_what_is_there(claims: tuple[Any, ...], hint: str) -> None:
    first = explain(Facts(claiming(), claims=claims))[0]
    assert "claim data, which does not exist" in first.what
    assert hint in first.details[0]
    assert first.look_with == "kubectl -n lab get pvc"


def test_a_claim_of_a_missing_storage_class_lists_those_that_are_there() -> None:
    facts = Facts(
        claiming(),
        claims=(claim(storageClassName="fast"),),
        classes=(storage("standard"), storage("local")),
        claim_events=(
            event("ProvisioningFailed", 'class "fast" not found', uid="uid-data"),
            event("ProvisioningFailed", "of another claim", uid="uid-other"),
        ),
    )
    first = explain(facts)[0]
    assert "storage class fast, which does not exist" in first.what
    assert "local, standard" in first.details[0]
    assert 'class "fast" not found' in text(first)
    assert "of another claim" not in text(first)
    assert first.look_with == "kubectl -n lab describe pvc data"


def test_an_unbound_claim_tells_its_access_mode_and_its_own_events() -> None:
    told = event("ProvisioningFailed", "no volume for ReadWriteMany", uid="uid-data")
    facts = Facts(
        claiming(),
        claims=(claim(storageClassName="standard", accessModes=["ReadWriteMany"]),),
        classes=(storage("standard"),),
        claim_events=(told,),
    )
    first = explain(facts)[0]
    assert "data (ReadWriteMany) is not bound" in first.what
    assert "no volume for ReadWriteMany" in first.details[0]


def test_a_claim_that_waits_for_its_pod_is_not_called_broken() -> None:
    late = storage("standard", "WaitForFirstConsumer")
    facts = Facts(claiming(), claims=(claim(storageClassName="standard"),), classes=(late,), nodes=(node(),))
    waits, pending_pod = explain(facts)
    assert "only once its pod has a node" in waits.what
    assert "worker" in pending_pod.what
    refused = event("ProvisioningFailed", "disk full", uid="uid-data")
    assert "not bound" in explain(Facts(**{**vars(facts), "claim_events": (refused,)}))[0].what


def test_a_bound_claim_is_no_reason() -> None:
    facts = Facts(claiming(node="worker"), claims=(claim(phase="Bound", storageClassName="gone"),))
    assert explain(facts) == []


def test_what_a_pod_that_has_done_its_work_gave_back_is_not_missing() -> None:
    released = {"metadata": {"name": "gpu", "namespace": "lab"}, "spec": {}, "status": {}}
    done = claiming(node="worker") | {"status": {"phase": "Succeeded"}}
    done["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": "gpu"}]
    assert explain(Facts(done, resource_claims=(released,))) == []


def test_what_keeps_a_scheduled_pod_from_starting_is_in_its_warnings() -> None:
    mount = event("FailedMount", 'configmap "settings" not found')
    status = {"phase": "Pending", "containerStatuses": [container(**waiting("ContainerCreating"))]}
    reason = only(Facts(pod(status), events=(event("Scheduled", "assigned", kind="Normal"), mount)))
    assert reason.details == ('event FailedMount: configmap "settings" not found',)


def test_an_evicted_pod_tells_why() -> None:
    status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    reason = only(Facts(pod(status)))
    assert "evicted" in reason.what
    assert reason.details == ("The node was low on memory.",)


@pytest.mark.parametrize(("why", "said"), [
    ("OutOfcpu", "Node worker had no room for it any more (OutOfcpu)"),
    ("OutOfnvidia.com/gpu", "Node worker had no room for it any more (OutOfnvidia.com/gpu)"),
    ("DeadlineExceeded", "activeDeadlineSeconds"), ("NodeAffinity", "The pod has failed (NodeAffinity)"),
    ("", "The pod has failed."),
])  # fmt: skip
def test_a_failed_pod_tells_its_own_reason_with_events_and_without(why: str, said: str) -> None:
    status = {"phase": "Failed", "reason": why, "message": "Node didn't have enough resource: cpu"}
    warning = event(why or "Odd", "as the kubelet saw it")
    for events in ((), (warning,)):
        reason = only(Facts(pod(status), events=events))
        assert said in reason.what
        assert reason.details[0] == "Node didn't have enough resource: cpu"
        assert "containers are not up yet" not in text(reason)


def test_a_failed_pod_whose_device_plugin_refused_is_told_once() -> None:
    status = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed"}
    assert "device plugin refused" in only(Facts(pod(status))).what


def test_a_deadline_goes_before_the_end_that_it_brought() -> None:
    status = {"phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": [container(state=ended(143))]}
    first, second = explain(Facts(pod(status)))
    assert "activeDeadlineSeconds" in first.what
    assert "143" in second.what


def unready(**more: Any) -> dict[str, Any]:
    """All containers are ready, the pod isn't."""
    not_ready = {"type": "Ready", "status": "False", **more}
    up = {"type": "ContainersReady", "status": "True"}
    return {**running(container(ready=True, state=RUNNING)), "conditions": [SCHEDULED, up, not_ready]}


def test_a_readiness_gate_that_is_not_met_is_named() -> None:
    status = unready(reason="ReadinessGatesNotReady", message="corresponding condition of pod readiness gate missing")
    status["conditions"].append({"type": "b.io/up", "status": "False", "message": "no target yet"})
    status["conditions"].append({"type": "c.io/met", "status": "True"})
    gates = [{"conditionType": kind} for kind in ("a.io/up", "b.io/up", "c.io/met")]
    old = event("FailedScheduling", "0/1 nodes are available")
    reason = only(Facts(pod(status, readinessGates=gates), events=(old,), nodes=(node(),)))
    assert "containers are ready, but the pod is not" in reason.what
    assert "readiness gate" in reason.what
    assert reason.details == ("a.io/up: no such condition yet", "b.io/up: False, no target yet")


def test_a_pod_that_is_not_ready_for_another_reason_tells_its_condition() -> None:
    reason = only(Facts(pod(unready(reason="Odd", message="as it is")), nodes=(node(),)))
    assert "containers are ready, but the pod is not" in reason.what
    assert reason.details == ("Odd: as it is",)


@pytest.mark.parametrize("status", [unready(), {"phase": "Pending"}])
def test_a_pod_on_a_node_that_is_lost_is_told_so(status: dict[str, Any]) -> None:
    lost = node()
    lost["status"]["conditions"] = [{"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting."}]
    reason = only(Facts(pod(status), nodes=(node("other"), lost)))
    assert reason.what == "Its node worker is not Ready."
    assert reason.details == ("Kubelet stopped posting.",)
    assert reason.look_with == "kubectl describe node worker"
    done = pod({"phase": "Succeeded"})
    assert explain(Facts(done, nodes=(lost,))) == []


def test_a_deleted_pod_names_the_finalizers_that_keep_it() -> None:
    meta = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.com/keep"]}
    reason = only(Facts(pod(running(container(state=RUNNING)), meta=meta)))
    assert "finalizers" in reason.what
    assert reason.details == ("example.com/keep",)


def test_a_deleted_pod_without_finalizers_only_needs_time() -> None:
    meta = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 45}
    reason = only(Facts(pod(node="", meta=meta)))
    assert "45 s" in reason.what
    assert "Wait" in reason.mend
