"""Putting back what a trigger disturbed, also after Ctrl-C or a killed process: a journal is written first."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from checkers.workloads import is_owned
from cluster import cordons
from cluster.api import Api, ApiError, Object
from cluster.errors import KailabError
from cluster.files import replace

SETTLE_SECONDS = 60.0
LOOK_EVERY = 0.1
# Set by the server; an object made again must not carry them.
SERVER_FIELDS = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "deletionTimestamp",
                 "deletionGracePeriodSeconds", "selfLink")  # fmt: skip
_JOB_LABELS = ("controller-uid", "job-name")


class Restorer:
    """Remembers objects, cordoned nodes and broken GPUs in a journal file; `restore` makes the cluster as it was."""

    def __init__(self, journal: Path, namespace: str) -> None:
        self._journal, self._namespace = journal, namespace
        self._objects: list[Object] = []
        self._cordoned: list[str] = []
        self._broken: list[str] = []
        self._moved: list[Object] = []

    def protect(self, objects: Iterable[Object]) -> None:
        """Remember objects as they are now, before anything is done to them."""
        self._objects.extend(objects)
        self._write()

    def cordons(self, *nodes: str) -> None:
        self._cordoned.extend(nodes)
        self._write()

    def breaks(self, gpu: str) -> None:
        """A simulated GPU, as NODE/INDEX, is about to get a fault."""
        self._broken.append(gpu)
        self._write()

    def places_anew(self, deployment: Object, staying: Iterable[str]) -> None:
        """Pods of the Deployment other than those (UIDs) go where they are only for want of the cordoned nodes."""
        self._moved.append({"deployment": deployment, "staying": list(staying)})
        self._write()

    def _write(self) -> None:
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        noted = {"namespace": self._namespace, "objects": self._objects, "cordoned": self._cordoned,
                 "broken": self._broken, "moved": self._moved}  # fmt: skip
        replace(self._journal, json.dumps(noted))

    def restore(self, api: Api, *, objects: bool = True) -> None:
        """Uncordon, heal, put specs back, make missing objects again, wait until they have settled, drop the journal.

        With objects=False only the nodes.
        """
        _restore(api, self._namespace, self._objects if objects else [], self._cordoned, self._broken,
                 self._moved if objects else [])  # fmt: skip
        self._objects, self._cordoned, self._broken, self._moved = [], [], [], []
        self._journal.unlink(missing_ok=True)


def restore_interrupted(journal: Path, api: Api) -> bool:
    """Restore what a killed run left disturbed; True when there was something."""
    try:
        noted = json.loads(journal.read_text())
    except FileNotFoundError:
        return False
    except ValueError:  # killed while writing it, so before anything was disturbed
        journal.unlink()
        return False
    _restore(api, noted["namespace"], noted["objects"], noted["cordoned"], noted.get("broken", []),
             noted.get("moved", []))  # fmt: skip
    journal.unlink(missing_ok=True)
    return True


def _restore(
    api: Api, namespace: str, objects: list[Object], cordoned: list[str], broken: list[str], moved: list[Object]
) -> None:
    cordons.set_unschedulable(api, cordoned, None)
    for gpu in broken:
        from cluster.gpu import control  # few checks break GPUs, and all of them import this module

        control.heal(api, control.slot(gpu))
    changed = [item for item in objects if _put_back(api, namespace, item)]
    for item in changed:
        _wait_settled(api, namespace, item)
    if moved:
        _wait_open(api, set(cordoned))
    for one in moved:
        _place_anew(api, namespace, one["deployment"], set(one["staying"]))
    for item in objects:
        if item["kind"] == "Deployment":
            _drop_new_replica_sets(api, namespace, item, objects)


def _wait_open(api: Api, nodes: set[str]) -> None:
    """The scheduler looks at the taint, which the node controller takes away a while after the cordon."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        closed = {node["metadata"]["name"] for node in api.list("Node")[0]
                  if any(taint["key"] == cordons.TAINT for taint in node["spec"].get("taints") or [])}  # fmt: skip
        if not closed & nodes:
            return
        time.sleep(0.5)


def _place_anew(api: Api, namespace: str, deployment: Object, staying: set[str]) -> None:
    sets = {
        item["metadata"]["uid"]
        for item in api.list("ReplicaSet", namespace)[0]
        if is_owned(item, {deployment["metadata"]["uid"]})
    }
    for pod in api.list("Pod", namespace)[0]:
        if pod["metadata"]["uid"] not in staying and is_owned(pod, sets):
            api.delete("Pod", pod["metadata"]["name"], namespace, grace=1)
    _wait_settled(api, namespace, deployment)


def _put_back(api: Api, namespace: str, was: Object) -> bool:
    """True when something had to be done."""
    kind, name = was["kind"], was["metadata"]["name"]
    present = api.get(kind, name, namespace)
    if kind == "Job" and present is not None and _failed_more(present, was):
        # A Job bears only so many failed pods, and these weren't the student's doing: it is made anew below.
        api.delete(kind, name, namespace)
        present = None
    if present is None or present["metadata"].get("deletionTimestamp"):
        if kind in ("ReplicaSet",) or was["metadata"].get("ownerReferences"):
            return False  # its owner makes it again
        _wait_gone(api, namespace, kind, name)
        api.create(_fresh(was), namespace)
        return True
    if present.get("spec") == was.get("spec"):
        return False
    if kind in ("ReplicaSet", "Pod", "Job"):
        return False
    api.patch(kind, name, namespace, [{"op": "replace", "path": "/spec", "value": was["spec"]}])
    return True


def _failed_more(present: Object, was: Object) -> bool:
    """Whether pods of this very Job have failed since."""
    now, then = (one.get("status", {}).get("failed", 0) for one in (present, was))
    return bool(present["metadata"]["uid"] == was["metadata"]["uid"] and now > then)


def _wait_gone(api: Api, namespace: str, kind: str, name: str) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while api.get(kind, name, namespace) is not None:
        if time.monotonic() > deadline:
            raise KailabError(f"{kind} {name} does not go away, so it can't be put back.",
                              mend=f"kubectl -n {namespace} describe {kind.lower()} {name}")  # fmt: skip
        time.sleep(LOOK_EVERY)


def _fresh(was: Object) -> Object:
    item = json.loads(json.dumps(was))
    item.pop("status", None)
    for name in SERVER_FIELDS:
        item["metadata"].pop(name, None)
    if item["kind"] == "Pod":
        item["spec"].pop("nodeName", None)
    if item["kind"] == "Job" and not item["spec"].get("manualSelector"):
        # The server makes these from the Job's UID, and refuses those of another.
        item["spec"].pop("selector", None)
        labels = item["spec"]["template"].get("metadata", {}).get("labels") or {}
        for label in [label for label in labels if label.removeprefix("batch.kubernetes.io/") in _JOB_LABELS]:
            del labels[label]
    return dict(item)


def _wait_settled(api: Api, namespace: str, was: Object) -> None:
    """Until a workload has as many available replicas as it had before; others settle at once."""
    if was["kind"] not in ("Deployment", "StatefulSet"):
        return
    wanted = was.get("status", {}).get("availableReplicas", 0)
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        now: dict[str, Any] = api.get(was["kind"], was["metadata"]["name"], namespace) or {}
        status = now.get("status", {})
        seen = status.get("observedGeneration", 0) >= now.get("metadata", {}).get("generation", 0)
        total, updated = status.get("replicas", 0), status.get("updatedReplicas", 0)
        if seen and status.get("availableReplicas", 0) >= wanted and updated == total:
            return
        time.sleep(LOOK_EVERY)


def _drop_new_replica_sets(api: Api, namespace: str, deployment: Object, before: list[Object]) -> None:
    """A rollout that we made and took back leaves an empty ReplicaSet in the history; the student did not make it."""
    known = {item["metadata"]["uid"] for item in before if item["kind"] == "ReplicaSet"}
    if not known:
        return
    found, _ = api.list("ReplicaSet", namespace)
    for item in found:
        ours = is_owned(item, {deployment["metadata"]["uid"]}) and item["metadata"]["uid"] not in known
        if ours and not item["spec"].get("replicas"):
            try:
                api.delete("ReplicaSet", item["metadata"]["name"], namespace)
            except ApiError:
                continue
