"""Grading in a cluster: what workers may do, where they run, and that another cluster needs an explicit word."""

from __future__ import annotations

import base64
import csv
import shlex
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from cluster import leases
from cluster.api import ApiError, Object
from cluster.errors import KailabError
from cluster.kinds import Kind
from cluster.topology import NODES
from cluster.workspace import Workspace
from labs.catalog import LabFolder, all_labs, lab_numbered
from labs.grading import screen, walls
from labs.grading.reading import Submission
from labs.grading.records import Records
from labs.grading.remote import NAMESPACE, image, job, nodes, packing, rights, where
from labs.grading.remote import run as remote_run
from labs.grading.remote.queue import ROOM, Desk, Queue
from labs.grading.remote.run import RemoteRun
from labs.grading.remote.where import Place
from labs.lifecycle import Course
from tests.fakeapi import FakeApi

LAB = lab_numbered(6)
LABS = pytest.mark.parametrize("lab", all_labs(), ids=lambda lab: lab.namespace)


def rules(lab: LabFolder, kind: str, namespace: str | None = None) -> list[dict[str, Any]]:
    return [
        rule for item in rights.objects(lab, ["grade-1"]) if item["kind"] == kind
        and item["metadata"].get("namespace") == namespace for rule in item["rules"]
    ]  # fmt: skip


@LABS
def test_a_worker_has_no_wildcards_and_becomes_nobody_but_its_submissions(lab: LabFolder) -> None:
    found = rules(lab, "ClusterRole")
    assert not any("*" in rule[part] for rule in found for part in ("apiGroups", "resources", "verbs"))
    impersonating = [rule for rule in found if "impersonate" in rule["verbs"]]
    assert [rule["resourceNames"] for rule in impersonating] == [["kailab:submission:grade-1"]]
    assert not any({"escalate", "bind"} & set(rule["verbs"]) for rule in found)


@LABS
def test_all_rights_are_taken_back(lab: LabFolder) -> None:
    made = {(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace", ""))
            for item in rights.objects(lab, ["grade-1"])}  # fmt: skip
    assert made - set(rights.names(lab)) == {("Role", "kailab-grading-worker", NAMESPACE),
                                             ("RoleBinding", "kailab-grading-worker", NAMESPACE)}  # fmt: skip


def test_only_a_lab_that_looks_into_etcd_may_enter_the_control_plane() -> None:
    entering = [lab.number for lab in all_labs() for rule in rules(lab, "Role", "kube-system")
                if "pods/exec" in rule["resources"]]  # fmt: skip
    assert entering == [1]


def test_workers_keep_off_the_nodes_that_labs_are_about() -> None:
    assert [node.name for node in NODES if job.hosts_workers(node)] == ["control-plane", "cpu"]
    spec = job.manifest(lab_numbered(6), 2, image.NAME, "v")["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert not any("nvidia" in entry["key"] for entry in spec["template"]["spec"]["tolerations"])


def test_the_image_holds_what_decides_about_points_and_no_mutants() -> None:
    names = {str(path.relative_to(image.ROOT)) for path in image.recipe().sources}
    assert {"labs/06_deployments/checks.py", "labs/06_deployments/lab.yaml", "labs/06_deployments/given"} <= names
    assert not any(name.endswith("/mutants") or "notebook" in name for name in names)


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump({
        "current-context": "mine",
        "contexts": [{"name": "mine", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": ""}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }))  # fmt: skip
    return path


@pytest.mark.parametrize(("more", "missing"), [
    ({}, "--context"),
    ({"context": "mine"}, "--yes-this-cluster"),
    ({"context": "mine", "sure": True}, "--image"),
])  # fmt: skip
def test_another_cluster_needs_its_name_a_yes_and_an_image(
    kubeconfig: Path, tmp_path: Path, more: dict[str, Any], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labs.grading.remote.where.connect", lambda *_: FakeApi())
    monkeypatch.setattr(FakeApi, "close", lambda _: None, raising=False)
    place = Place(kubeconfig, **more)
    with pytest.raises(KailabError) as refused, place.opened(Workspace(tmp_path, tmp_path)):
        pytest.fail("it was taken")
    assert missing in f"{refused.value.what} {refused.value.mend}"


class WithProber(FakeApi):
    """A cluster with a prober as far as it has come, and what its pod answers."""

    def __init__(self, token: str | None, status: dict[str, Any] | None, answer: Exception | None = None) -> None:
        super().__init__()
        self.asked, self.answer = 0, answer
        self.create({"kind": "Deployment", "metadata": {"name": "prober"}})
        data = {"data": {"token": base64.b64encode(token.encode()).decode()}} if token else {}
        self.create({"kind": "Secret", "metadata": {"name": "prober-token"}, **data})
        if status is not None:
            meta = {"name": "prober-x", "labels": {"app.kubernetes.io/name": "prober"}}
            self.create({"kind": "Pod", "metadata": meta, "status": status})

    def proxy(self, *_: Any, headers: dict[str, str], **__: Any) -> dict[str, Any]:
        self.asked += 1
        assert headers == {"X-Kailab-Token": "secret"}
        if self.answer:
            raise self.answer
        return {"addresses": ["10.96.0.1"]}


PROBER_READY = {"conditions": [{"type": "Ready", "status": "True"}]}
UNSCHEDULABLE = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                                 "message": "0/3 nodes are available: 3 Insufficient cpu."}]}  # fmt: skip
NO_IMAGE = {"conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [
    {"state": {"waiting": {"reason": "ErrImagePull", "message": "kailab/prober:v1: not found"}}}]}  # fmt: skip


def test_a_class_is_queued_only_where_a_prober_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    api = WithProber("secret", PROBER_READY)
    assert where.token(api) == "secret"  # type: ignore[arg-type]
    assert api.asked == 1

    def comes_late(_: float) -> None:
        api.create({"kind": "Pod", "metadata": {"name": "p", "labels": {"app.kubernetes.io/name": "prober"}},
                    "status": PROBER_READY})  # fmt: skip

    api = WithProber("secret", None)
    monkeypatch.setattr(where.time, "sleep", comes_late)
    assert where.token(api) == "secret"  # type: ignore[arg-type]


@pytest.mark.parametrize(("api", "said"), [
    (WithProber(None, PROBER_READY), "prober-token"),
    (WithProber("secret", None), "no pod"),
    (WithProber("secret", UNSCHEDULABLE), "3 Insufficient cpu"),
    (WithProber("secret", NO_IMAGE), "ErrImagePull: kailab/prober:v1: not found"),
    (WithProber("secret", {}), "not ready"),
    (WithProber("secret", PROBER_READY, ApiError(403, "", "wrong token")), "wrong token"),
])  # fmt: skip
def test_a_prober_that_does_not_answer_is_told_before_anything_is_queued(
    api: WithProber, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, "PROBER_SECONDS", 0.0)
    with pytest.raises(KailabError, match=r"[Pp]rober") as refused:
        where.token(api)  # type: ignore[arg-type]
    assert said in refused.value.why
    assert "kubectl" in refused.value.mend


def test_no_prober_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KailabError, match="no prober in this cluster"):
        where.token(FakeApi())  # type: ignore[arg-type]


@pytest.mark.parametrize(("evidence", "left_out", "told"), [
    (b"", 9_123_456, "9.1 MB"), (b"", 0, "lost on its way"), (packing.pack_evidence({"lab": 6})[0], 0, ""),
])  # fmt: skip
def test_the_table_tells_whose_evidence_is_missing_and_how_to_get_it(
    evidence: bytes, left_out: int, told: str, tmp_path: Path
) -> None:
    api, lab = FakeApi(), lab_numbered(6)
    course, records = Course(Workspace(tmp_path, tmp_path), api, "uid"), Records(tmp_path / "grades.csv", lab)  # type: ignore[arg-type]
    report = Report(6, "s", "t", "lab-06", (CheckResult("c", "run", "t", Outcome.PASS, 1, 1),), 1.0,
                    ClusterInfo("c", "v", "u"))  # fmt: skip
    Queue(api).put("key", b"", "grade-06-x")
    claim = Desk(api, "worker", lambda: None).claim()
    assert claim is not None
    with claim.held:
        claim.finish(packing.pack_verdict(packing.Verdict(report, (), "", "then", 1.0, left_out)), evidence)
    run = RemoteRun(course, lab, records, Place())
    run._wanted["key"] = Submission("ada", tmp_path / "ada", (), ()), []
    run._fetch(Queue(api), "key")
    with records.table.open() as file:
        (row,) = csv.DictReader(file)
    assert (row["points"], told in row["note"], bool(row["note"])) == ("1", True, bool(told))
    assert not told or f"kailab grade {tmp_path / 'ada'} --lab 6" in row["note"]
    assert (records.folder / "ada" / "evidence.json").exists() is not bool(told)


def test_what_the_grader_could_not_read_is_not_queued_and_not_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Submission("ada", tmp_path / "ada", (), ("it broke",), "it broke")
    monkeypatch.setattr(remote_run, "read_submission", lambda *_: broken)
    records = Records(tmp_path / "grades.csv", LAB)
    run = RemoteRun(Course(Workspace(tmp_path, tmp_path), FakeApi(), "uid"), LAB, records, Place())  # type: ignore[arg-type]
    assert run._not_graded({"ada": tmp_path / "ada"}) == []
    kept = records.of("ada")
    assert kept is not None
    assert (kept.is_graded, kept.why, kept.problems) == (False, "it broke", ("it broke",))


def test_a_command_to_copy_holds_a_path_as_one_word() -> None:
    path = Path("in/ada; rm -rf $HOME 'x'")
    note = remote_run._without_evidence(Submission("ada", path, (), ()), lab_numbered(6), 0)
    command = note.partition("To have it: ")[2]
    assert shlex.split(command)[:3] == ["kailab", "grade", str(path)]


class Cluster(FakeApi):
    """One that takes what is applied, empties namespaces that go, and calls `seen` before each change."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Callable[[str, Object], None] = lambda *_: None

    def apply(self, item: Object, namespace: str = "") -> Object:
        self.seen("apply", item)
        self.objects.pop((item["kind"], item["metadata"]["name"]), None)
        return super().create(item, namespace or item["metadata"].get("namespace", ""))

    def create(self, item: Object, namespace: str = "") -> Object:
        self.seen("create", item)
        return super().create(item, namespace)

    def delete(self, kind: str | Kind, name: str, namespace: str = "") -> bool:
        self.seen("delete", {"kind": str(kind), "metadata": {"name": name}})
        if kind == "Namespace":
            inside = [key for key, item in self.objects.items() if item["metadata"]["namespace"] == name]
            for key in inside:
                del self.objects[key]
        return super().delete(kind, name, namespace)

    def delete_all(self, kind: str, namespace: str, **_: object) -> None:
        """Nobody runs here."""


@pytest.fixture
def api() -> Cluster:
    return Cluster()


@pytest.fixture
def run(api: Cluster, tmp_path: Path) -> RemoteRun:
    course = Course(Workspace(tmp_path, tmp_path), api, "uid")  # type: ignore[arg-type]
    return RemoteRun(course, LAB, Records(tmp_path / "grades.csv", LAB), Place())


def work(*students: str) -> list[Submission]:
    return [Submission(student, Path("in", student), (), ()) for student in students]


def users(api: Cluster) -> set[str]:
    """Whose rights a worker has."""
    role = api.objects["ClusterRole", "kailab-grading-worker"]
    return {name for rule in role["rules"] if rule["verbs"] == ["impersonate"] for name in rule["resourceNames"]}


def test_a_room_is_queued_when_its_worker_may_enter_it(api: Cluster, run: RemoteRun) -> None:
    entered = []

    def claimed(verb: str, item: Object) -> None:
        if verb == "create" and item["kind"] == "Lease":
            entered.append(item["metadata"]["annotations"][ROOM])
            assert walls.user(entered[-1]) in users(api)

    api.seen = claimed
    run._fill_queue(work("ada"))
    run._fill_queue(work("ada", "bob"))
    assert len(entered) == 3  # Ada's Lease was refused, since it was there already
    open_rooms = {walls.user(one.room) for one in Queue(api).open()}
    assert open_rooms == users(api)
    (key, *_) = run._wanted
    Queue(api).drop(key)
    run._fetch(Queue(api), key)  # somebody has cleared it
    assert len(entered) == 4
    assert {walls.user(one.room) for one in Queue(api).open()} <= users(api)


def judge_all(api: Cluster) -> None:
    """Workers have come to a verdict on all that is queued."""
    report = Report(6, "s", "t", "lab-06", (CheckResult("c", "run", "t", Outcome.PASS, 1, 1),), 1.0,
                    ClusterInfo("c", "v", "u"))  # fmt: skip
    verdict = packing.pack_verdict(packing.Verdict(report, (), "", "then", 1.0))
    desk = Desk(api, "worker", lambda: None)
    while claim := desk.claim():
        with claim.held:
            claim.finish(verdict, packing.pack_evidence({"lab": 6})[0])


@dataclass
class Clock:
    """The time of a command: what happens while it sleeps is told by `meanwhile`."""

    meanwhile: Callable[[float], None]
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile(self.now)


def changes(api: Cluster) -> list[tuple[str, str]]:
    """Filled with what is done to objects from now on, but for Leases."""
    found: list[tuple[str, str]] = []

    def seen(verb: str, item: Object) -> None:
        if item["kind"] != "Lease":
            found.append((verb, item["kind"]))

    api.seen = seen
    return found


def take_over(api: Cluster) -> None:
    """As a second command does, to which the first one looks dead."""
    lease = api.get("Lease", "command", NAMESPACE)
    assert lease is not None
    assert leases.take(api, lease, "another") is not None


def test_a_command_that_was_asleep_leaves_the_queue_to_the_one_beside_it(api: Cluster, run: RemoteRun) -> None:
    with run._only_one() as run._turn:
        run._fill_queue(work("ada"))
        (key,) = run._wanted
        judge_all(api)
        take_over(api)
        done = changes(api)
        for touch in (lambda: run._fetch(Queue(api), key), lambda: run._watch("v"), lambda: run._fill_queue([])):
            with pytest.raises(KailabError, match="Another `kailab grade`"):
                touch()
        assert not done
    assert Queue(api).result(key)
    assert leases.holder(api.objects["Lease", "command"]) == "another"


def test_a_command_that_falls_asleep_as_it_clears_away_stops_there(api: Cluster, run: RemoteRun) -> None:
    for item in job.base("token"):
        api.apply(item)

    def asleep(verb: str, item: Object) -> None:
        if (verb, item["kind"]) == ("delete", "Job"):
            take_over(api)

    with run._only_one() as run._turn:
        api.seen = asleep
        with pytest.raises(KailabError, match="Another `kailab grade`"):
            remote_run.clear_away(run.course, LAB, run._require_turn)
    assert api.get("Namespace", NAMESPACE)


def test_a_worker_in_its_back_off_is_waited_for(api: Cluster, run: RemoteRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice there is none for a while, and in between one runs."""
    pod = {"kind": "Pod", "metadata": {"name": "w", "labels": job.LABELS}, "status": {"phase": "Running"}}

    def meanwhile(now: float) -> None:
        if now == 100:
            api.create(pod)
        elif now == 102:
            api.delete("Pod", "w")
        elif now == 202:
            judge_all(api)

    monkeypatch.setattr(remote_run, "time", Clock(meanwhile))
    run._fill_queue(work("ada"))
    run._watch("v")
    assert [record.student for record in run._results.values()] == ["ada"]


@pytest.mark.parametrize("was_begun", [False, True])
def test_no_worker_for_longer_than_a_back_off_is_said(
    api: Cluster, run: RemoteRun, monkeypatch: pytest.MonkeyPatch, was_begun: bool
) -> None:
    clock = Clock(lambda _: None)
    monkeypatch.setattr(remote_run, "time", clock)
    run._fill_queue(work("ada"))
    assert not was_begun or Desk(api, "lost", lambda: None).claim()
    with pytest.raises(KailabError, match="No worker runs"):
        run._watch("v")
    assert 80 < clock.now < 150  # the third back-off in a row, and no end in sight


@pytest.fixture
def grade(api: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Grade a class of these students into a table, in a cluster whose workers need a moment; what it kept."""
    monkeypatch.setattr(remote_run.where, "token", lambda _: "t")
    monkeypatch.setattr(remote_run.image, "lay_on_nodes", lambda *_: None)
    monkeypatch.setattr(remote_run.image, "version", lambda: "v")

    def graded(*students: str, table: str = "grades.csv", work: str = "", interrupted: bool = False) -> list[str]:
        def meanwhile(_: float) -> None:
            if interrupted:
                raise KeyboardInterrupt
            judge_all(api)

        for student in students:
            (tmp_path / "in" / student).mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / student / "all.yaml").write_text(work)
        monkeypatch.setattr(remote_run, "time", Clock(meanwhile))
        course = Course(Workspace(tmp_path, tmp_path), api, "uid")  # type: ignore[arg-type]
        run = RemoteRun(course, LAB, Records(tmp_path / table, LAB), Place())
        return [record.student for record in run.grade({name: tmp_path / "in" / name for name in students})]

    return graded


@pytest.fixture
def end_run(api: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """`kailab grade --stop --out TABLE`."""
    course = Course(Workspace(tmp_path, tmp_path), api, "uid")  # type: ignore[arg-type]
    monkeypatch.setattr(Place, "opened", lambda *_: nullcontext(course))

    def ended(table: Path) -> None:
        assert screen.end_run(course.workspace, LAB, table, Place(Path("theirs")), Console(quiet=True)) == 0

    return ended


def results(api: Cluster) -> int:
    return sum(name.startswith("result-") for name in api.names("ConfigMap"))


def test_another_class_is_refused_while_one_is_in_the_cluster(
    api: Cluster, grade: Callable[..., list[str]], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        grade("ada", "bob", interrupted=True)
    queued = {one.key for one in Queue(api).open()}
    with pytest.raises(KailabError) as refused:
        grade("carl", table="other grades.csv")
    said = f"{refused.value.what} {refused.value.mend}"
    assert f"--lab 6 --runner kubernetes --out {tmp_path / 'grades.csv'}" in said
    assert "--stop" in said
    assert {one.key for one in Queue(api).open()} == queued
    judge_all(api)
    with pytest.raises(KailabError, match="Another class"):
        grade("carl", table="other grades.csv")
    assert results(api) == 2
    assert grade("ada", "bob") == ["ada", "bob"]
    assert api.get("Namespace", NAMESPACE) is None
    assert grade("carl", table="other grades.csv") == ["carl"]


def test_a_class_with_nothing_left_to_grade_leaves_another_ones_queue_alone(
    api: Cluster, grade: Callable[..., list[str]]
) -> None:
    grade("carl", table="other.csv")
    with pytest.raises(KeyboardInterrupt):
        grade("ada", interrupted=True)
    assert grade("carl", table="other.csv") == ["carl"]
    assert len(Queue(api).open()) == 1


def test_who_is_not_named_loses_nothing_either(api: Cluster, grade: Callable[..., list[str]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        grade("ada", "bob", interrupted=True)
    judge_all(api)
    with pytest.raises(KailabError, match="does not name: 2") as refused:
        grade("late-one")
    assert refused.value.why == "ada, bob"
    assert results(api) == 2
    assert grade("ada", "bob", "late-one") == ["ada", "bob", "late-one"]
    assert grade("later-one") == ["later-one"]


def test_work_handed_in_anew_takes_the_place_of_the_old(api: Cluster, grade: Callable[..., list[str]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        grade("ada", "bob", interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        grade("ada", "bob", work="{}", interrupted=True)
    assert len(Queue(api).open()) == 2
    assert grade("ada", "bob", work="{}") == ["ada", "bob"]


def test_a_queue_of_a_table_that_is_gone_is_refused_and_can_be_stopped(
    grade: Callable[..., list[str]], end_run: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        grade("ada", interrupted=True)
    shutil.rmtree(tmp_path / "grades-feedback")
    with pytest.raises(KailabError, match="Another class"):
        grade("ada")
    end_run(tmp_path / "grades.csv")
    assert grade("ada") == ["ada"]


def test_only_the_class_that_is_named_is_stopped(
    api: Cluster, grade: Callable[..., list[str]], end_run: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        grade("ada", interrupted=True)
    with pytest.raises(KailabError, match=r"Another class.*grades\.csv"):
        end_run(tmp_path / "other.csv")
    assert len(Queue(api).open()) == 1
    end_run(tmp_path / "grades.csv")
    assert api.get("Namespace", NAMESPACE) is None
    end_run(tmp_path / "other.csv")  # nothing to stop is no mistake


def test_what_cannot_be_kept_of_one_student_costs_only_that_one(
    grade: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "grades-feedback").mkdir()
    (tmp_path / "grades-feedback" / "ada").write_text("notes")
    assert grade("ada", "bob") == ["ada", "bob"]
    with (tmp_path / "grades.csv").open() as file:
        assert [(row["points"], bool(row["note"])) for row in csv.DictReader(file)] == [("1", True), ("1", False)]


def test_nodes_get_back_what_a_lost_worker_took_and_nothing_else() -> None:
    api = FakeApi()

    def node(name: str, *, closed: bool = False, faults: tuple[str, ...] = ()) -> None:
        annotations = {f"{nodes.faults.ANNOTATION}{index}": "xid=79" for index in faults}
        item = {"kind": "Node", "metadata": {"name": name, "annotations": annotations}, "spec": {}}
        if closed:
            item["spec"] = {"unschedulable": True}
        api.delete("Node", name)
        api.create(item)

    node("closed-before", closed=True)
    node("broken-before", faults=("0",))
    node("cpu")
    nodes.note(api)  # type: ignore[arg-type]
    node("cpu", closed=True)
    node("broken-before", faults=("0", "1"))
    nodes.note(api)  # type: ignore[arg-type]  # an interrupted command that goes on
    nodes.put_back(api)  # type: ignore[arg-type]
    found = {item["metadata"]["name"]: item for item in api.list("Node")[0]}
    assert found["cpu"]["spec"] == {}
    assert found["closed-before"]["spec"] == {"unschedulable": True}
    assert list(found["broken-before"]["metadata"]["annotations"]) == [f"{nodes.faults.ANNOTATION}0"]
