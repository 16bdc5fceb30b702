"""A lab's life on the cluster: start, check, reset, finish, and the student's folder beside it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkers import evidence
from checkers.lab import Sources
from checkers.observe import Observation
from checkers.prober import Prober, token
from checkers.restore import owned, restore_interrupted, restore_left, restore_nodes
from checkers.results import ClusterInfo, Report
from checkers.runner import Listener, Run, Setting
from cluster.api import Api, ApiError, Object, connect
from cluster.errors import KailabError
from cluster.files import replace
from cluster.identity import Identity
from cluster.kinds import KINDS
from cluster.workspace import Workspace
from labs import fleets
from labs.catalog import LabFolder
from labs.progress import LabProgress, Progress

if TYPE_CHECKING:
    from checkers.turns import Turns

LAB_LABEL = "kailab.dev/lab"
GONE_SECONDS = 90.0
ACCOUNT_SECONDS = 10.0
KEEP_EVIDENCE = 20
BUSY_SECONDS = 15.0  # for which the end of another check of the same namespace is waited for
STOP_SECONDS = 20.0  # what takes longer is left to the namespace controller
PATIENCE_SECONDS = 3.0  # before finalizers that nobody clears are taken away
# The same where the namespace names none: its controller waits for all pods to go before it looks at anything else, and
# until then reports that nothing is left (ordered namespace deletion, KEP-5080).
SILENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Course:
    """The course cluster, verified to be ours, and where the student's files and notes are."""

    workspace: Workspace
    api: Api
    uid: str

    @classmethod
    @contextlib.contextmanager
    def opened(cls, workspace: Workspace) -> Iterator[Course]:
        """Raises KailabError when there is no cluster, it doesn't answer, or it isn't ours.

        Nodes and GPUs that a killed run left closed or broken are everybody's, so whoever comes next puts them back.
        """
        with contextlib.closing(connect(workspace.kubeconfig)) as api:
            course = cls(workspace, api, Identity.verify(workspace, api))
            with contextlib.suppress(KailabError):  # the journal stays; most commands can do without
                restore_nodes(course.journals, api)
            yield course

    @property
    def cluster(self) -> ClusterInfo:
        return ClusterInfo(self.workspace.cluster_name, self.api.version(), self.uid)

    @property
    def journals(self) -> Path:
        return self.workspace.state / "restore"

    def journal(self, namespace: str) -> Path:
        return self.journals / f"{namespace}.json"

    def work(self, lab: LabFolder) -> Path:
        """The student's own folder for a lab."""
        return self.workspace.work / lab.namespace


def is_started(course: Course, namespace: str) -> bool:
    found = course.api.get("Namespace", namespace)
    return found is not None and "deletionTimestamp" not in found["metadata"]


def open_namespace(
    course: Course, lab: LabFolder, namespace: str, *, labels: Mapping[str, str] | None = None,
    walls: Iterable[Object] = (), change: Callable[[Object], Object] = lambda item: item,
) -> dict[str, str]:  # fmt: skip
    """The lab's namespace with its given objects; returns their UIDs as {"Kind/name": uid}.

    A namespace to grade in has more labels, its walls before all else, and the given objects changed to fit them.
    """
    wait_gone(course, namespace)
    all_labels = {LAB_LABEL: str(lab.number), "app.kubernetes.io/part-of": "kailab", **(labels or {})}
    course.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": all_labels}})
    for item in walls:
        course.api.apply(item, namespace)
    given = {}
    for item in lab.manifests("given"):
        made = course.api.apply(change(item), namespace)
        given[f"{item['kind']}/{item['metadata']['name']}"] = str(made["metadata"]["uid"])
    _wait_for_account(course.api, namespace)
    return given


def _wait_for_account(api: Api, namespace: str) -> None:
    """Until a controller has made it, the API server refuses the namespace's pods, and their owners say so for long."""
    deadline = time.monotonic() + ACCOUNT_SECONDS
    while api.get("ServiceAccount", "default", namespace) is None and time.monotonic() < deadline:
        time.sleep(0.05)


def wait_gone(course: Course, namespace: str, *, insist: bool = False) -> None:
    """Wait while a namespace of that name is on its way out. Raises KailabError naming what holds it.

    With `insist`, finalizers that nobody clears for a while are taken away.
    """
    began = time.monotonic()
    while (found := course.api.get("Namespace", namespace)) is not None:
        if "deletionTimestamp" not in found["metadata"]:
            return
        waited = time.monotonic() - began
        if waited > GONE_SECONDS:
            raise KailabError(
                f"Namespace {namespace} is still being deleted after {GONE_SECONDS:.0f} s.", why=_holding(found),
                mend=f"kubectl get namespace {namespace} -o yaml   (shows what holds it), remove that, then try again",
            )  # fmt: skip
        patience = PATIENCE_SECONDS if "NamespaceFinalizersRemaining" in _held_by(found) else SILENCE_SECONDS
        if insist and waited > patience:
            _clear_finalizers(course.api, namespace)
        time.sleep(0.2)


def _clear_finalizers(api: Api, namespace: str) -> None:
    for kind in KINDS.values():
        if not kind.namespaced:
            continue
        with contextlib.suppress(ApiError):  # metrics can't be changed, and workers may not list what their lab lacks
            for item in api.list(kind, namespace)[0]:
                if item["metadata"].get("finalizers"):
                    api.patch(kind, item["metadata"]["name"], namespace, {"metadata": {"finalizers": None}})


def _held_by(namespace: Object) -> dict[str, str]:
    """Why it is not gone yet, by the type of condition (NamespaceConditionType in k8s.io/api/core/v1)."""
    conditions = namespace.get("status", {}).get("conditions", [])
    return {one["type"]: one.get("message", "") for one in conditions if one["status"] == "True"}


def _holding(namespace: Object) -> str:
    return "\n".join(_held_by(namespace).values()) or "the API server does not say"


def start(course: Course, lab: LabFolder) -> bool:
    """Start a lab unless it is started; True when that was news. The student's files are never overwritten."""
    restore_interrupted(course.journal(lab.namespace), course.api)
    news = not is_started(course, lab.namespace)
    given = Progress(course.workspace).lab(lab.number).given
    if news:
        given = open_namespace(course, lab, lab.namespace)
    elif not given and lab.manifests("given"):
        # The progress file was lost: what is there now is the best that is known of what was given.
        given = present_given(course, lab, lab.namespace)
    lay_out(course.work(lab), lab)
    fleets.join(course.api, lab)
    with Progress.changed(course.workspace) as progress:  # only now: a check may have noted points meanwhile
        entry = progress.lab(lab.number)
        entry.given, entry.started, progress.current = given, True, lab.number
    use_namespace(course.workspace, lab.namespace)
    return news


def present_given(course: Course, lab: LabFolder, namespace: str) -> dict[str, str]:
    found = {}
    for item in lab.manifests("given"):
        present = course.api.get(item["kind"], item["metadata"]["name"], namespace)
        if present is not None:
            found[f"{item['kind']}/{item['metadata']['name']}"] = str(present["metadata"]["uid"])
    return found


def lay_out(folder: Path, lab: LabFolder) -> None:
    """Copy what is missing of the lab's text and starter into the student's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / "README.md", lab.readme)
    for source in sorted((lab.path / "starter").glob("*")):
        target = folder / source.name
        if not target.exists():
            replace(target, source.read_text(encoding="utf-8"))


def use_namespace(workspace: Workspace, namespace: str) -> None:
    """Make `kubectl` in the course's own kubeconfig work in the lab's namespace."""
    import yaml

    document = yaml.safe_load(workspace.kubeconfig.read_text())
    for entry in document["contexts"]:
        entry["context"]["namespace"] = namespace
    replace(workspace.kubeconfig, yaml.safe_dump(document), private=True)


def close_namespace(course: Course, namespace: str, *, insist: bool = False) -> None:
    """Delete a lab's namespace and wait until it is gone, with the nodes that a trigger left closed opened first.

    Raises KailabError when it stays, or while it is being checked. `insist` as in `wait_gone`, for a namespace that
    nobody will look into.
    """
    with owned(course.journal(namespace), 0.0 if insist else BUSY_SECONDS) as is_ours:
        if is_ours:  # its objects are about to go
            restore_left(course.journal(namespace), course.api, objects=False)
        elif not insist:
            raise _being_checked(namespace)
        started = is_started(course, namespace)
        course.api.delete("Namespace", namespace)
        if started:
            _stop_pods(course.api, namespace)
        wait_gone(course, namespace, insist=insist)


def _being_checked(namespace: str) -> KailabError:
    return KailabError(
        f"Namespace {namespace} is being checked already, from another terminal or notebook.",
        why="Its checks disturb what is there, and put it back at their end.",
        mend="wait until that check has ended, then the same command again",
    )


def _stop_pods(api: Api, namespace: str) -> None:
    """End all pods of a namespace that is being deleted, in which nobody can make new ones.

    Its controller first looks after five seconds (namespaceDeletionGracePeriod of namespace_controller.go), and where
    pods are left then, again only after half of their grace periods.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        api.delete_all("Pod", namespace, grace=1)
        if not api.list("Pod", namespace)[0]:
            return
        time.sleep(0.3)


def give_back(api: Api, lab: LabFolder) -> None:
    """Remove what the lab's student may have made outside its namespace."""
    for one in lab.file.borrows:
        if not one.label:
            api.delete(one.kind, one.name, one.namespace)
        elif one.label in ((api.get("Node", one.name) or {"metadata": {}})["metadata"].get("labels") or {}):
            api.patch("Node", one.name, "", {"metadata": {"labels": {one.label: None}}})


def finish(course: Course, lab: LabFolder) -> None:
    """Leave nothing of the lab on the cluster; files and points stay."""
    close_namespace(course, lab.namespace)
    give_back(course.api, lab)
    fleets.leave(course.api, lab)
    if lab.file.borrows:
        from cluster.gpu import control  # few labs borrow, and every command imports this module

        control.wait_as_described(course.api)
    with Progress.changed(course.workspace) as progress:
        progress.lab(lab.number).started = False
        progress.lab(lab.number).given = {}


def reset(course: Course, lab: LabFolder) -> Path | None:
    """The lab as it was at first. The student's files move aside; their new place is returned."""
    close_namespace(course, lab.namespace)
    give_back(course.api, lab)
    folder, kept = course.work(lab), None
    if folder.exists():
        kept = folder.with_name(f"{folder.name}.before-reset-{datetime.now():%Y%m%d-%H%M%S}")
        folder.rename(kept)
    with Progress.changed(course.workspace) as progress:
        best = progress.lab(lab.number)
        best.__dict__.update(LabProgress(best=best.best, passed=best.passed).__dict__)
    start(course, lab)
    return kept


@dataclass(frozen=True)
class CheckedLab:
    """A run's report and where its evidence was written."""

    report: Report
    document: dict[str, Any]
    evidence: Path | None


def kinds_of(lab: LabFolder) -> set[str]:
    return {kind for check in lab.checks for kind in (*check.reads, *check.disturbs)}


def check(
    course: Course, lab: LabFolder, *, namespace: str = "", given: dict[str, str] | None = None, task: str = "",
    quick: bool = False, listen: Listener = lambda *_: None, keep_evidence: bool = True, throwaway: bool = False,
    leave_out: frozenset[str] = frozenset(), cancelled: threading.Event | None = None, turns: Turns | None = None,
) -> CheckedLab:  # fmt: skip
    """Grade the live state of a lab. Raises KailabError when it isn't started or the cluster can't be read, and unless
    quick also while somebody else grades it: their triggers would be taken for the student's work.

    `cancelled`, once set, ends every check with an error, after what a trigger had disturbed was put back.
    """
    where = namespace or lab.namespace
    with contextlib.nullcontext() if quick else _alone(course, where), observed(course, lab, where) as sources:
        setting = Setting(
            where, course.workspace.state, course.cluster, given or {}, task, quick, leave_out, throwaway, turns
        )
        run = Run(lab.spec, lab.checks, setting, sources, listen=listen, cancelled=cancelled)
        report = run.report()
    document = _evidence(lab, run, report, given or {})
    return CheckedLab(report, document, _keep_evidence(course, lab, document) if keep_evidence else None)


@contextlib.contextmanager
def _alone(course: Course, namespace: str) -> Iterator[None]:
    """Be the one whose triggers may disturb a namespace. Raises KailabError when another one stays that."""
    journal = course.journal(namespace)
    with owned(journal, BUSY_SECONDS) as is_ours:
        if not is_ours:
            raise _being_checked(namespace)
        restore_left(journal, course.api)
        yield


@contextlib.contextmanager
def observed(course: Course, lab: LabFolder, namespace: str) -> Iterator[Sources]:
    """What the checks of a lab look at, listed once. Raises KailabError when the lab isn't started there."""
    restore_interrupted(course.journal(namespace), course.api)
    observation = Observation(course.api, namespace, {"Namespace", *kinds_of(lab)})
    with contextlib.closing(observation):
        observation.refresh()
        require_started(observation, lab, namespace)
        yield Sources(course.api, observation, Prober(course.api, token(course.workspace)))


def require_task(lab: LabFolder, task: str) -> None:
    """Raises KailabError for a task that the lab doesn't have; an empty name is all of them."""
    if task and task not in {known.id for known in lab.spec.tasks}:
        known = ", ".join(known.id for known in lab.spec.tasks)
        raise KailabError(f"Lab {lab.number} has no task {task!r}.", why=f"Its tasks: {known}.")


def require_started(observation: Observation, lab: LabFolder, namespace: str) -> None:
    found = next((ns for ns in observation.view()["Namespace"] if ns["metadata"]["name"] == namespace), None)
    if found is None:
        raise KailabError(f"Lab {lab.number} is not started: there is no namespace {namespace}.",
                          mend=f"kailab start {lab.number}")  # fmt: skip
    if "deletionTimestamp" in found["metadata"]:
        raise KailabError(f"Namespace {namespace} is being deleted.", why=_holding(found),
                          mend=f"wait a moment, then kailab start {lab.number}")  # fmt: skip


def _evidence(lab: LabFolder, run: Run, report: Report, given: dict[str, str]) -> dict[str, Any]:
    from checkers.report.document import to_document

    taken = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"lab": lab.number, "namespace": report.namespace, "given": given, "taken": taken}
    return evidence.pack(run.tapes, about, to_document(report))


def _keep_evidence(course: Course, lab: LabFolder, document: dict[str, Any]) -> Path | None:
    folder = course.workspace.state / "evidence"
    path = folder / f"lab-{lab.number:02d}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    try:
        evidence.write(path, document)
        for old in sorted(folder.glob(f"lab-{lab.number:02d}-*.json"))[:-KEEP_EVIDENCE]:
            old.unlink(missing_ok=True)
    except OSError:  # a full disk must not cost the student the report
        return None
    return path
