"""What triggers disturb comes back, also after a run that was killed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

from checkers.restore import Restorer, restore_interrupted
from cluster.api import Api
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
