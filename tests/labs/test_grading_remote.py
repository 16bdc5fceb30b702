"""Grading in a cluster: what workers may do, where they run, and that another cluster needs an explicit word."""

from __future__ import annotations

import base64
import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from checkers.results import CheckResult, ClusterInfo, Outcome, Report
from cluster.api import ApiError
from cluster.errors import KailabError
from cluster.topology import NODES
from cluster.workspace import Workspace
from labs.catalog import LabFolder, all_labs, lab_numbered
from labs.grading.reading import Submission
from labs.grading.records import Records
from labs.grading.remote import NAMESPACE, image, job, nodes, packing, rights, where
from labs.grading.remote.queue import Desk, Queue
from labs.grading.remote.run import RemoteRun
from labs.grading.remote.where import Place
from labs.lifecycle import Course
from tests.fakeapi import FakeApi

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
