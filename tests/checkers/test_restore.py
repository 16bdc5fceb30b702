"""What triggers disturb comes back, also after a run that was killed."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from checkers.restore import Restorer, owned, restore_interrupted, restore_nodes
from cluster.api import Api, ApiError
from cluster.gpu import faults

JOB: dict[str, Any] = {
    "kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "finetune", "uid": "old", "resourceVersion": "1"},
    "spec": {
        "backoffLimit": 6, "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "old"}},
        "template": {"metadata": {"labels": {"app": "x", "controller-uid": "old", "job-name": "finetune",
                                             "batch.kubernetes.io/controller-uid": "old"}}, "spec": {}},
    },
    "status": {"failed": 0},
}  # fmt: skip


class FakeApi:
    """One node with GPUs and one Job."""

    def __init__(self) -> None:
        labels = {"nvidia.com/gpu.count": "4", "nvidia.com/gpu.present": "true"}
        self.node: dict[str, Any] = {"metadata": {"name": "gpu-a", "resourceVersion": "1", "labels": labels,
                                                  "annotations": {f"{faults.ANNOTATION}2": "xid=79"}}}  # fmt: skip
        self.job: dict[str, Any] | None = copy.deepcopy(JOB)
        self.made: list[dict[str, Any]] = []

    def get(self, kind: str, name: str, namespace: str = "") -> Any:
        return copy.deepcopy(self.node) if kind == "Node" else self.job

    def patch(self, kind: str, name: str, namespace: str, patch: Any, **options: Any) -> Any:
        for key, value in patch["metadata"]["annotations"].items():
            assert value is None
            del self.node["metadata"]["annotations"][key]
        return self.node

    def delete(self, kind: str, name: str, namespace: str = "") -> bool:
        self.job = None
        return True

    def create(self, item: dict[str, Any], namespace: str = "") -> None:
        self.made.append(item)


def test_a_broken_gpu_is_healed_even_by_the_next_run(tmp_path: Path) -> None:
    made, journal = FakeApi(), tmp_path / "journal.json"
    Restorer(journal, "lab-04").breaks("gpu-a/2")  # and then the process was killed
    assert restore_interrupted(journal, cast("Api", made))
    assert made.node["metadata"]["annotations"] == {}
    assert not journal.exists()


def test_journals_of_an_older_kailab_are_read(tmp_path: Path) -> None:
    journal = tmp_path / "journal.json"
    journal.write_text('{"namespace": "lab-06", "objects": [], "cordoned": []}')
    assert restore_interrupted(journal, cast("Api", FakeApi()))


def test_a_job_whose_pods_were_made_to_fail_is_made_anew(tmp_path: Path) -> None:
    made = FakeApi()
    restorer = Restorer(tmp_path / "journal.json", "lab-04")
    restorer.protect([copy.deepcopy(JOB)])
    assert made.job is not None
    made.job["status"]["failed"] = 1
    restorer.restore(cast("Api", made))
    assert len(made.made) == 1
    assert "selector" not in made.made[0]["spec"]
    assert made.made[0]["spec"]["template"]["metadata"]["labels"] == {"app": "x"}
    assert "uid" not in made.made[0]["metadata"]


def test_a_job_that_was_left_in_peace_stays(tmp_path: Path) -> None:
    made = FakeApi()
    restorer = Restorer(tmp_path / "journal.json", "lab-04")
    restorer.protect([copy.deepcopy(JOB)])
    restorer.restore(cast("Api", made))
    assert made.made == []


class Cluster:
    """Any objects of any kinds, kept as an API server keeps them; what is in `refuses` (Kind/name) can't be written."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.objects = {(item["kind"], item["metadata"]["name"]): copy.deepcopy(item) for item in items}
        self.refuses: set[str] = set()
        self.made: list[str] = []

    def get(self, kind: str, name: str, namespace: str = "") -> Any:
        return copy.deepcopy(self.objects.get((kind, name)))

    def list(self, kind: str, namespace: str = "", **selectors: str) -> Any:
        return [copy.deepcopy(item) for (of, _), item in self.objects.items() if of == kind], ""

    def patch(self, kind: str, name: str, namespace: str, patch: Any, **options: Any) -> Any:
        if f"{kind}/{name}" in self.refuses:
            raise ApiError(500, "InternalError", f"{name}: no")
        present = self.objects.get((kind, name))
        if present is None:
            raise ApiError(404, "NotFound", f"{name} not found")
        if isinstance(patch, list):
            present["spec"] = patch[0]["value"]
        else:
            present["spec"] |= patch["spec"]
        present["metadata"]["generation"] += 1
        present["status"] = {"observedGeneration": present["metadata"]["generation"]}
        return copy.deepcopy(present)

    def create(self, item: dict[str, Any], namespace: str = "") -> None:
        self.objects[item["kind"], item["metadata"]["name"]] = copy.deepcopy(item)
        self.made.append(f"{item['kind']}/{item['metadata']['name']}")

    def delete(self, kind: str, name: str, namespace: str = "", **options: Any) -> bool:
        return self.objects.pop((kind, name), None) is not None


def named(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "uid": f"uid-{name}", "generation": 1}, "spec": spec}


def killed_in_the_middle(tmp_path: Path, made: Cluster) -> Path:
    """A run that has set an image, deleted a pod and was killed; its journal."""
    before = [copy.deepcopy(item) for (kind, _), item in made.objects.items() if kind != "Namespace"]
    restorer = Restorer(tmp_path / "lab-06.json", "lab-06")
    restorer.protect(before)
    with restorer.acting(cast("Api", made)):
        made.patch("Deployment", "ai-api", "lab-06", {"spec": {"image": "v2"}})
    with restorer.acting(cast("Api", made)):
        made.delete("Pod", "trainer")
    return tmp_path / "lab-06.json"


def lab_06() -> Cluster:
    return Cluster(named("Namespace", "lab-06"), named("Deployment", "ai-api", image="v1"), named("Pod", "trainer"),
                   named("Pod", "other"))  # fmt: skip


def test_what_a_killed_trigger_did_is_taken_back(tmp_path: Path) -> None:
    made = lab_06()
    assert restore_interrupted(killed_in_the_middle(tmp_path, made), cast("Api", made))
    assert made.objects["Deployment", "ai-api"]["spec"] == {"image": "v1"}
    assert made.made == ["Pod/trainer"]


def test_what_a_student_did_after_the_kill_is_theirs(tmp_path: Path) -> None:
    made = lab_06()
    journal = killed_in_the_middle(tmp_path, made)
    made.patch("Deployment", "ai-api", "lab-06", {"spec": {"image": "v1", "readinessProbe": "mended"}})
    made.delete("Pod", "other")
    made.create(named("Pod", "trainer") | {"metadata": {"name": "trainer", "uid": "mine", "generation": 1}})
    made.made.clear()
    assert restore_interrupted(journal, cast("Api", made))
    assert made.objects["Deployment", "ai-api"]["spec"] == {"image": "v1", "readinessProbe": "mended"}
    assert made.made == []
    assert made.objects["Pod", "trainer"]["metadata"]["uid"] == "mine"


@pytest.mark.parametrize(("later", "image"), [(False, "v1"), (True, "v3")])
def test_a_kill_in_the_middle_of_a_deed_leaves_that_to_be_taken_back(tmp_path: Path, later: bool, image: str) -> None:
    made = lab_06()
    journal = tmp_path / "lab-06.json"
    restorer = Restorer(journal, "lab-06")
    restorer.protect([copy.deepcopy(made.objects["Deployment", "ai-api"])])
    with restorer.acting(cast("Api", made)):
        made.patch("Deployment", "ai-api", "lab-06", {"spec": {"image": "v2"}})
        as_killed = journal.read_text()
    journal.write_text(as_killed)
    if later:
        made.patch("Deployment", "ai-api", "lab-06", {"spec": {"image": "v3"}})
    assert restore_interrupted(journal, cast("Api", made))
    assert made.objects["Deployment", "ai-api"]["spec"] == {"image": image}


def test_what_was_leaving_before_the_trigger_is_not_made_again(tmp_path: Path) -> None:
    made, leaving = Cluster(named("Namespace", "lab-01")), named("Pod", "hello")
    leaving["metadata"]["deletionTimestamp"] = "now"
    restorer = Restorer(tmp_path / "lab-01.json", "lab-01")
    restorer.protect([leaving, named("Pod", "other")])
    restorer.restore(cast("Api", made))
    assert made.made == ["Pod/other"]


def test_pods_that_a_student_has_placed_since_stay(tmp_path: Path) -> None:
    deployment = named("Deployment", "serving", replicas=2)
    made = Cluster(named("Namespace", "lab-05"), deployment)
    owner: Any = [{"uid": "uid-set", "controller": True}]
    for kind, name, of in (("ReplicaSet", "set", [{"uid": "uid-serving", "controller": True}]), ("Pod", "new", owner)):
        made.objects[kind, name] = named(kind, name)
        made.objects[kind, name]["metadata"]["ownerReferences"] = of
    journal = tmp_path / "lab-05.json"
    Restorer(journal, "lab-05").places_anew(deployment, [])
    made.patch("Deployment", "serving", "lab-05", {"spec": {"replicas": 3}})
    assert restore_interrupted(journal, cast("Api", made))
    assert ("Pod", "new") in made.objects


def test_nodes_that_are_open_again_are_not_opened_once_more_for_an_object_that_fails(tmp_path: Path) -> None:
    made = Cluster(named("Namespace", "lab-06"), named("Node", "a", unschedulable=True),
                   named("Deployment", "ai-api", image="v2"))  # fmt: skip
    made.refuses = {"Deployment/ai-api"}
    restorer = Restorer(tmp_path / "lab-06.json", "lab-06")
    restorer.protect([named("Deployment", "ai-api", image="v1")])
    restorer.cordons("a")
    with pytest.raises(ApiError):
        restore_interrupted(tmp_path / "lab-06.json", cast("Api", made))
    made.objects["Node", "a"]["spec"]["unschedulable"] = True
    restore_nodes(tmp_path, cast("Api", made))
    assert closed_nodes(made) == {"a"}


def closed_nodes(made: Cluster) -> set[str]:
    return {name for (kind, name), item in made.objects.items() if kind == "Node" and item["spec"].get("unschedulable")}


def test_nodes_that_are_gone_keep_no_other_closed(tmp_path: Path) -> None:
    made = Cluster(*(named("Node", f"n{number}", unschedulable=True) for number in range(0, 40, 2)))
    journal = tmp_path / "lab-05.json"
    Restorer(journal, "lab-05").cordons(*(f"n{number}" for number in range(40)))
    assert restore_interrupted(journal, cast("Api", made))
    assert closed_nodes(made) == set()
    assert not journal.exists()


def test_a_node_that_can_not_be_opened_stops_no_other_and_stays_noted(tmp_path: Path) -> None:
    made = Cluster(named("Namespace", "lab-06"), *(named("Node", name, unschedulable=True) for name in "abc"),
                   named("Deployment", "ai-api", replicas=1))  # fmt: skip
    made.refuses = {"Node/a"}
    journal = tmp_path / "lab-06.json"
    restorer = Restorer(journal, "lab-06")
    restorer.protect([named("Deployment", "ai-api", replicas=3)])
    restorer.cordons("a", "b", "c")
    with pytest.raises(ApiError, match="a: no"):
        restore_interrupted(journal, cast("Api", made))
    assert closed_nodes(made) == {"a"}
    assert made.objects["Deployment", "ai-api"]["spec"] == {"replicas": 3}
    made.refuses = set()
    assert restore_interrupted(journal, cast("Api", made))
    assert not journal.exists()


@pytest.mark.parametrize("leaving", [True, False])
def test_with_its_namespace_a_journal_goes_too(tmp_path: Path, leaving: bool) -> None:
    namespace = named("Namespace", "lab-06")
    namespace["metadata"]["deletionTimestamp"] = "now"
    made = Cluster(named("Node", "a", unschedulable=True), *([namespace] if leaving else []))
    journal = tmp_path / "lab-06.json"
    restorer = Restorer(journal, "lab-06")
    restorer.protect([named("Deployment", "ai-api", replicas=3)])
    restorer.cordons("a")
    assert restore_interrupted(journal, cast("Api", made))
    assert made.made == []
    assert closed_nodes(made) == set()
    assert not journal.exists()


def test_a_gpu_that_is_gone_keeps_no_object_from_coming_back(tmp_path: Path) -> None:
    made = Cluster(named("Namespace", "lab-04"), named("Pod", "trainer"))
    journal = tmp_path / "lab-04.json"
    restorer = Restorer(journal, "lab-04")
    restorer.protect([named("Pod", "trainer")])
    restorer.breaks("gpu-gone/1")
    with restorer.acting(cast("Api", made)):
        made.delete("Pod", "trainer")
    assert restore_interrupted(journal, cast("Api", made))
    assert made.made == ["Pod/trainer"]
    assert not journal.exists()


def test_what_a_living_run_has_noted_is_left_to_it(tmp_path: Path) -> None:
    made, journal = Cluster(named("Node", "a", unschedulable=True)), tmp_path / "lab-06.json"
    with owned(journal) as is_ours:
        assert is_ours
        Restorer(journal, "lab-06").cordons("a")
        assert not restore_interrupted(journal, cast("Api", made))
        assert journal.exists()
        assert closed_nodes(made) == {"a"}
    assert restore_interrupted(journal, cast("Api", made))
    assert closed_nodes(made) == set()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_owns_nothing_any_more(tmp_path: Path) -> None:
    journal = tmp_path / "lab-06.json"
    program = (
        "import os, sys; from pathlib import Path; from checkers.restore import Restorer, owned\n"
        "with owned(Path(sys.argv[1])) as is_ours:\n"
        "    Restorer(Path(sys.argv[1]), 'lab-06').cordons('a'); print(is_ours, flush=True); sys.stdin.read()\n"
    )
    here = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program, str(journal)], cwd=here, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stdout.readline() == "True\n"
        with owned(journal) as is_ours:
            assert not is_ours
        run.kill()
    made = Cluster(named("Node", "a", unschedulable=True))
    assert restore_interrupted(journal, cast("Api", made))
    assert closed_nodes(made) == set()


def test_runs_in_many_namespaces_of_one_process_are_in_nobodys_way(tmp_path: Path) -> None:
    with owned(tmp_path / "grade-06-a.json") as one, owned(tmp_path / "grade-06-b.json") as other:
        assert one
        assert other
    with owned(tmp_path / "grade-06-a.json") as again:
        assert again


def test_nodes_of_all_killed_runs_are_opened_and_their_objects_wait(tmp_path: Path) -> None:
    made = Cluster(*(named("Node", name, unschedulable=True) for name in "abc"), named("Namespace", "lab-06"),
                   named("Deployment", "ai-api", replicas=3))  # fmt: skip
    Restorer(tmp_path / "lab-05.json", "lab-05").cordons("a")
    killed = Restorer(tmp_path / "lab-06.json", "lab-06")
    killed.protect([named("Deployment", "ai-api", replicas=3)])
    killed.cordons("b")
    with killed.acting(cast("Api", made)):
        made.delete("Deployment", "ai-api")
    with owned(tmp_path / "lab-04.json") as is_ours:
        assert is_ours
        Restorer(tmp_path / "lab-04.json", "lab-04").cordons("c")
        restore_nodes(tmp_path, cast("Api", made))
        assert closed_nodes(made) == {"c"}
        assert {path.name for path in tmp_path.glob("*.json")} == {"lab-04.json", "lab-06.json"}
    assert made.made == []
    made.objects["Node", "b"]["spec"]["unschedulable"] = True  # now by somebody else, and theirs
    assert restore_interrupted(tmp_path / "lab-06.json", cast("Api", made))
    assert made.made == ["Deployment/ai-api"]
    assert closed_nodes(made) == {"b", "c"}
