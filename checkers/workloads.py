"""Questions about pods and workloads that many labs ask, in Kubernetes' own terms."""

from __future__ import annotations

from typing import Any

from checkers.declare import Fail
from cluster.api import Object

ROLLED = ("Deployment", "StatefulSet")  # what replaces its pods one after the other


def condition(item: Object, kind: str) -> dict[str, Any]:
    """A status condition by type; empty when there is none."""
    found = item.get("status", {}).get("conditions") or []
    return next((entry for entry in found if entry.get("type") == kind), {})


def is_ready(pod: Object) -> bool:
    """Ready, and not on its way out."""
    return condition(pod, "Ready").get("status") == "True" and not is_leaving(pod)


def is_leaving(item: Object) -> bool:
    return bool(item["metadata"].get("deletionTimestamp"))


def has_ended(pod: Object) -> bool:
    """Whether all its containers have ended for good: then it holds nothing of its node any more."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def seen_at(event: Object) -> str:
    """When it was seen last, as it stands there: such times sort as text."""
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(series or event.get("lastTimestamp") or event.get("eventTime") or "")


def is_owned(item: Object, owners: set[str]) -> bool:
    """Whether one of its owners is among these UIDs."""
    return any(owner["uid"] in owners for owner in item["metadata"].get("ownerReferences") or [])


def containers(workload: Object) -> list[dict[str, Any]]:
    """The containers of a pod template, or of a pod."""
    spec = workload["spec"]
    pod = spec.get("template", {}).get("spec", {}) if "template" in spec else spec
    return list(pod.get("containers") or [])


def requests(container: dict[str, Any]) -> dict[str, Any]:
    """What a container reserves: where only a limit is given, the API server takes that for the request too."""
    resources = container.get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def port_number(container: dict[str, Any], port: int | str) -> int | str:
    """The number of a port that may be given by name; the name itself where the container has no such port."""
    named = {entry.get("name"): entry["containerPort"] for entry in container.get("ports") or []}
    return named.get(port, port) if isinstance(port, str) else port


def index_of_image(workload: Object, image: str) -> int:
    """Where the container with this image stands. Raises Fail naming the images that are there."""
    images = [container.get("image", "") for container in containers(workload)]
    for index, found in enumerate(images):
        if same_image(found, image):
            return index
    kind, name = workload["kind"], workload["metadata"]["name"]
    raise Fail(f"{kind} {name} runs {', '.join(images) or 'no image'}", expected=f"a container runs {image}",
               about=workload, settled=True, hint="image")  # fmt: skip


def same_image(one: str, other: str) -> bool:
    """Whether two references name the same image: docker.io/library/ai-app:v1 is ai-app:v1."""
    return _full(one) == _full(other)


def _full(image: str) -> str:
    first = image.split("/", 1)[0]
    if "/" not in image:
        image = f"docker.io/library/{image}"
    elif "." not in first and ":" not in first and first != "localhost":
        image = f"docker.io/{image}"
    return image if ":" in image.rsplit("/", 1)[-1] or "@" in image else f"{image}:latest"


def require_rolled_out(deployment: Object, replicas: int) -> None:
    """Raises Fail until the newest template runs `replicas` times, all available, and nothing older is left."""
    status, name = deployment.get("status", {}), deployment["metadata"]["name"]
    expected = f"Deployment {name} has {replicas} updated and available pods and no older ones"
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        raise Fail(f"the Deployment controller has not yet seen the newest version of {name}", expected=expected)
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    available = status.get("availableReplicas", 0)
    if not updated == total == available == replicas:
        raise Fail(f"{available} available, {updated} updated, {total} in all", expected=expected, about=deployment,
                   hint="not-ready")  # fmt: skip


def patience(item: Object) -> float:
    """Seconds that a workload's own spec asks to be waited while all its pods are replaced; no fault of anybody's."""
    spec = item.get("spec") or {}
    return float((spec.get("minReadySeconds") or 0) * (spec.get("replicas") or 0)) if item["kind"] in ROLLED else 0.0


def claim_names(pod: Object) -> dict[str, str]:
    """The pod's ResourceClaims by the names that it gives them; empty for one not yet made from its template."""
    statuses = pod.get("status", {}).get("resourceClaimStatuses") or []
    made = {one["name"]: one.get("resourceClaimName", "") for one in statuses}
    wanted = pod["spec"].get("resourceClaims") or []
    return {one["name"]: one.get("resourceClaimName") or made.get(one["name"], "") for one in wanted}


def container_statuses(pod: Object) -> list[dict[str, Any]]:
    """Of the init containers first, in the order in which they run; of those that the kubelet has told of yet."""
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def is_stuck(pod: Object) -> bool:
    """Whether waiting alone won't help: the image can't be had, or the container keeps ending."""
    hopeless = {"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "CrashLoopBackOff",
                "CreateContainerConfigError", "RunContainerError"}  # fmt: skip
    return any(entry.get("state", {}).get("waiting", {}).get("reason") in hopeless for entry in container_statuses(pod))
