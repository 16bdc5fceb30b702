"""Putting back what a trigger disturbed, also after Ctrl-C or a killed process: a journal is written first.

Whoever runs triggers owns the journal's lock file while they live, so that nobody takes their journal for a killed
run's; the system releases the lock of a process that was killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from checkers.workloads import ROLLED, is_leaving, is_owned, patience
from cluster import cordons
from cluster.api import Api, ApiError, Object, Unreachable
from cluster.errors import KailabError
from cluster.files import replace

SETTLE_SECONDS = 60.0
LOOK_EVERY = 0.1
# Set by the server; an object made again must not carry them.
SERVER_FIELDS = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "deletionTimestamp",
                 "deletionGracePeriodSeconds", "selfLink")  # fmt: skip
_JOB_LABELS = ("controller-uid", "job-name")
LONGEST_PATIENCE = 300.0  # a student may ask for more than anybody waits
_NEVER_PATCHED = ("ReplicaSet", "Pod", "Job")


@contextmanager
def owned(journal: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Whether we have a journal to ourselves while the block runs; another who has it is waited for that long."""
    from filelock import FileLock, Timeout  # most commands find no journal, and need not wait for this import

    path = journal.with_name(f"{journal.stem}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)  # a class has many journals; who waits for this very file looks for a new one
        lock.release()


def restore_interrupted(journal: Path, api: Api) -> bool:
    """Restore what a killed run left disturbed; True when there was something. What has a living owner is left."""
    if not journal.exists():
        return False
    with owned(journal) as is_ours:
        return is_ours and restore_left(journal, api)


def restore_left(journal: Path, api: Api, *, objects: bool = True) -> bool:
    """The same for the journal's owner. With objects=False only the nodes: their namespace is about to go."""
    found = Restorer.left(journal)
    if found is not None:
        found.restore(api, objects=objects)
    return found is not None


def restore_nodes(folder: Path, api: Api) -> bool:
    """Open the nodes and heal the GPUs of all killed runs, whatever the namespace: they concern everybody. True when
    there was a run of that kind."""
    any_found, failures = False, _Failures()
    for journal in sorted(folder.glob("*.json")):
        with owned(journal) as is_ours:
            found = Restorer.left(journal) if is_ours else None
            if found is not None:
                any_found = True
                with failures.kept():
                    found.restore_nodes(api)
    failures.raise_first()
    return any_found


class Restorer:
    """Remembers objects, cordoned nodes and broken GPUs in a journal file; `restore` makes the cluster as it was."""

    def __init__(self, journal: Path, namespace: str) -> None:
        self._journal, self._namespace = journal, namespace
        self._objects: list[Object] = []
        self._cordoned: list[str] = []
        self._opened: list[str] = []  # cordoned once, and no more
        self._broken: list[str] = []
        self._moved: list[Object] = []
        # By Kind/name, the generation that an object has by the trigger's doing, None of what is gone by it. A journal
        # of an older kailab does not tell.
        self._made: dict[str, int | None] | None = {}
        self._is_acting = False  # a deed of the trigger may be done, and is not in `made` yet
        self._was_killed = False

    @classmethod
    def left(cls, journal: Path) -> Restorer | None:
        """What a killed run noted, if there is something. For the journal's owner only."""
        try:
            noted = json.loads(journal.read_text())
        except FileNotFoundError:
            return None
        except ValueError:  # killed while writing it, so before anything was disturbed
            journal.unlink()
            return None
        found = cls(journal, noted["namespace"])
        found._objects, found._cordoned = noted["objects"], noted["cordoned"]
        found._opened, found._broken = noted.get("opened", []), noted.get("broken", [])
        found._moved, found._made = noted.get("moved", []), noted.get("made")
        found._is_acting, found._was_killed = noted.get("acting", False), True
        return found

    def protect(self, objects: Iterable[Object]) -> None:
        """Remember objects as they are now, before anything is done to them. What is leaving already may go."""
        staying = [item for item in objects if not is_leaving(item)]
        self._objects.extend(staying)
        if self._made is not None:
            self._made |= {_key(item): _generation(item) for item in staying if not _is_made_by_others(item)}
        self._write()

    @contextmanager
    def acting(self, api: Api) -> Iterator[None]:
        """Around a deed of the trigger: what objects are by it is noted, since all else is the student's own work."""
        if not self._made:
            yield
            return
        self._is_acting = True
        self._write()
        try:
            yield
        finally:
            self._note_made(api)

    def _note_made(self, api: Api) -> None:
        try:
            found = {_key(item): self._present(api, item) for item in self._objects
                     if not _is_made_by_others(item)}  # fmt: skip
        except KailabError:
            return  # then nobody knows, and acting remains noted
        self._made = {key: None if present is None else _generation(present) for key, present in found.items()}
        self._is_acting = False
        self._write()

    def _present(self, api: Api, was: Object) -> Object | None:
        """The very same object as it is now, unless it is gone or about to go."""
        found = api.get(was["kind"], was["metadata"]["name"], self._namespace)
        if found is None or is_leaving(found) or found["metadata"].get("uid") != was["metadata"].get("uid"):
            return None
        return found

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
                 "opened": self._opened, "broken": self._broken, "moved": self._moved, "made": self._made,
                 "acting": self._is_acting}  # fmt: skip
        replace(self._journal, json.dumps(noted))

    def restore(self, api: Api, *, objects: bool = True) -> None:
        """Uncordon, heal, put specs back, make missing objects again, wait until they have settled, drop the journal.

        With objects=False only the nodes. What is gone is done with; of other failures the first is raised once all
        has been tried, and the journal stays.
        """
        failures = _Failures()
        self._nodes_back(api, failures)
        if objects and (self._objects or self._moved) and _is_there(api, self._namespace, failures):
            self._objects_back(api, failures)
        if failures:
            self._write()
        failures.raise_first()
        self._objects, self._opened, self._moved = [], [], []
        self._journal.unlink(missing_ok=True)

    def restore_nodes(self, api: Api) -> None:
        """Only uncordon and heal; the objects wait for the next command about their namespace."""
        failures = _Failures()
        self._nodes_back(api, failures)
        if failures or self._objects or self._moved:
            self._write()
        else:
            self._journal.unlink(missing_ok=True)
        failures.raise_first()

    def _nodes_back(self, api: Api, failures: _Failures) -> None:
        with failures.kept():
            cordons.set_unschedulable(api, self._cordoned, None)
        for gpu in self._broken:
            with failures.kept():
                _heal(api, gpu)
        if not failures:  # who closes or breaks them from now on wants it so
            self._opened, self._cordoned, self._broken = [*self._opened, *self._cordoned], [], []

    def _objects_back(self, api: Api, failures: _Failures) -> None:
        ours, changed = [], []
        for item in self._objects:
            with failures.kept():
                if not self._is_as_made(api, item):
                    continue
                ours.append(item)
                if self._put_back(api, item):
                    changed.append(item)
        for item in changed:
            with failures.kept():
                _wait_settled(api, self._namespace, item)
        with failures.kept():
            if self._moved:
                _wait_open(api, {*self._cordoned, *self._opened})
        for one in self._moved:
            with failures.kept():
                if self._is_untouched(api, one["deployment"]):
                    _place_anew(api, self._namespace, one["deployment"], set(one["staying"]))
        for item in ours:
            if item["kind"] == "Deployment":
                with failures.kept():
                    _drop_new_replica_sets(api, self._namespace, item, self._objects)

    def _is_as_made(self, api: Api, was: Object) -> bool:
        """Whether an object is still as the trigger has left it: what a student did after a kill is theirs."""
        if not self._was_killed or self._made is None or _is_made_by_others(was):
            return True
        made, present = self._made.get(_key(was)), self._present(api, was)
        if present is None:
            return (made is None or self._is_acting) and not self._is_there_anew(api, was)
        if present.get("spec") == was.get("spec"):
            return True
        now = _generation(present)
        return now == made or (self._is_acting and made is not None and now == made + 1)

    def _is_there_anew(self, api: Api, was: Object) -> bool:
        found = api.get(was["kind"], was["metadata"]["name"], self._namespace)
        return found is not None and not is_leaving(found)

    def _is_untouched(self, api: Api, deployment: Object) -> bool:
        if not self._was_killed:
            return True
        present = self._present(api, deployment)
        return present is not None and _generation(present) == _generation(deployment)

    def _put_back(self, api: Api, was: Object) -> bool:
        """True when something had to be done."""
        kind, name, namespace = was["kind"], was["metadata"]["name"], self._namespace
        present = api.get(kind, name, namespace)
        if kind == "Job" and present is not None and _failed_more(present, was):
            # A Job bears only so many failed pods, and these weren't the student's doing: it is made anew below.
            if self._made is not None:
                self._made[_key(was)] = None
                self._write()
            api.delete(kind, name, namespace)
            present = None
        if present is None or is_leaving(present):
            if _is_made_by_others(was):
                return False
            _wait_gone(api, namespace, kind, name)
            api.create(_fresh(was), namespace)
            return True
        if present.get("spec") == was.get("spec") or kind in _NEVER_PATCHED:
            return False
        api.patch(kind, name, namespace, [{"op": "replace", "path": "/spec", "value": was["spec"]}])
        return True


def _key(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def _generation(item: Object) -> int:
    return int(item["metadata"].get("generation") or 0)


def _is_made_by_others(item: Object) -> bool:
    """Its owner makes it again."""
    return item["kind"] == "ReplicaSet" or bool(item["metadata"].get("ownerReferences"))


class _Failures:
    """What went wrong on the way, so that one failure stops nothing else."""

    def __init__(self) -> None:
        self._found: list[KailabError] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around one step: what is gone needs no putting back, any other failure is remembered."""
        try:
            yield
        except KailabError as failed:
            if not (isinstance(failed, ApiError) and failed.status == HTTPStatus.NOT_FOUND):
                self._found.append(failed)

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_first(self) -> None:
        if self._found:
            raise self._found[0]


def _is_there(api: Api, namespace: str, failures: _Failures) -> bool:
    """Whether the namespace is, to stay: in no other can its objects be put back."""
    with failures.kept():
        found = api.get("Namespace", namespace)
        return found is not None and not is_leaving(found)
    return False


def _heal(api: Api, gpu: str) -> None:
    from cluster.gpu import control  # few checks break GPUs, and all of them import this module

    try:
        control.heal(api, control.slot(gpu))
    except (ApiError, Unreachable):
        raise
    except KailabError:  # there is no such GPU any more, so nothing to heal
        return


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
    if was["kind"] not in ROLLED:
        return
    wanted = was.get("status", {}).get("availableReplicas", 0)
    deadline = time.monotonic() + SETTLE_SECONDS + min(patience(was), LONGEST_PATIENCE)
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
