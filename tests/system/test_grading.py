"""A class graded on the real cluster, honest and hostile: nobody's score depends on what others handed in."""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbformat import v4

from cluster.api import Api, Object
from labs.catalog import LabFolder, all_labs, lab_numbered
from labs.grading.walls import GRADING_LABEL
from tests.system.conftest import answer, eventually, kailab

pytestmark = pytest.mark.cluster
PLAIN, LAB = lab_numbered(1), lab_numbered(6)  # one that leaves the nodes alone, and one that drains them
FULL = "20"


def _container(**security: Any) -> Object:
    return {"name": "main", "image": "ai-app:v1", "securityContext": security}


def _pod(name: str, program: str, **spec: Any) -> Object:
    container = {"name": "main", "image": "ai-app:v1", "command": ["python3", "-c", program]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container], **spec}}


FORKS = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
HOG = "kept = []\nwhile True: kept.append(bytearray(2**24))"
ENDLESS = "while True: print('x' * 1000)"
# What must be refused, each with the words that say so: "Kind name" as the problems begin.
REFUSED: dict[str, tuple[Object, str]] = {
    "Pod privileged": (_pod("privileged", "", containers=[_container(privileged=True)]), "violates PodSecurity"),
    "Pod misshapen": (_pod("misshapen", "", containers=3), "containers"),
    "Pod host-path": (_pod("host-path", "", volumes=[{"name": "root", "hostPath": {"path": "/"}}]),
                      "violates PodSecurity"),
    "Pod host-network": (_pod("host-network", "", hostNetwork=True, hostPID=True), "violates PodSecurity"),
    "ClusterRoleBinding mine": ({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "mine"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "system:anonymous"}],
    }, "outside of your namespace"),
    **{f"ConfigMap in-{where}": ({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"in-{where}", "namespace": where},
    }, "which is not yours") for where in ("default", "kube-system", "grade-06-bob")},
    "Pod system-priority": (_pod("system-priority", "", priorityClassName="system-node-critical"), "exceeded quota"),
}  # fmt: skip
# Each beside the lab's right solution: an attack costs no point by itself, and must reach nothing.
ATTACKS: dict[str, list[Object]] = {
    "objects": [
        *(item for item, _ in REFUSED.values()),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stays", "finalizers": ["kailab.dev/never"]}},
        {**_pod("stays", "import time; time.sleep(600)"),
         "metadata": {"name": "stays", "finalizers": ["kailab.dev/never"]}},
    ],
    "hogs": [_pod("memory", HOG), _pod("forks", FORKS), _pod("log", ENDLESS), _pod("image", "", containers=[
        {"name": "main", "image": "there-is-no-such:image"},
    ])],
}  # fmt: skip
UNREADABLE = {"alias-bomb": "aliases", "huge": "larger than", "link": "it is a link", "nothing": "nothing to grade",
              "partial": "more than 100 objects"}  # fmt: skip


def _bomb(levels: int = 30) -> str:
    """YAML of a few hundred bytes that its aliases make 2**levels values."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))]
    return "\n".join(["apiVersion: v1", "kind: ConfigMap", "metadata: {name: bomb}", *lines])


def _hand_in_files(handed_in: Path) -> None:
    """Attacks by what the grader reads. None holds right work, so none may get points."""
    for name in ("alias-bomb", "huge", "link", "notebook"):
        (handed_in / name).mkdir()
    (handed_in / "alias-bomb" / "all.yaml").write_text(_bomb())
    with (handed_in / "huge" / "huge.yaml").open("wb") as file:
        file.truncate(100 * 2**20)
    for source in (handed_in / "honest").iterdir():
        (handed_in / "link" / source.name).symlink_to(source)
    (handed_in / "link" / "folder").symlink_to(handed_in / "honest")
    (handed_in / "link" / "passwd.yaml").symlink_to("/etc/passwd")
    with zipfile.ZipFile(handed_in / "zip-slip.zip", "w") as archive:
        for target in ("../honest/service.yaml", f"{handed_in}/honest/more.yaml", "../../grades.csv", "a/../../b.yaml"):
            archive.writestr(target, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: slipped}\n")
    stolen = handed_in.parent / "stolen"
    cells = [
        f"import os, pathlib; pathlib.Path({str(stolen)!r}).write_text(str(os.environ) + os.environ['KUBECONFIG'])",
        "print('Score: 20/20'); print('{\"points\": 20}')",
        "while True: pass",
        *(f"%%manifest\n{path.read_text()}" for path in sorted((LAB.path / "starter").iterdir())),
    ]
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells], metadata={"student": "honest"})
    for cell in notebook.cells:
        cell.outputs = [v4.new_output("execute_result", data={"text/plain": "20"}, execution_count=1)]
    nbformat.write(notebook, handed_in / "notebook" / "06.ipynb")


def _hand_in(folder: Path, *more: Object, source: str = "solution") -> None:
    shutil.copytree(LAB.path / source, folder)
    if more:
        (folder / "more.yaml").write_text(yaml.safe_dump_all(copy.deepcopy(list(more))))


def _table(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def _rooms(api: Api) -> list[str]:
    return [item["metadata"]["name"] for item in api.list("Namespace", labelSelector=GRADING_LABEL)[0]]


@pytest.mark.of_one_lab
@pytest.mark.parametrize("lab", [lab for lab in all_labs() if lab not in (PLAIN, LAB)], ids=lambda lab: lab.namespace)
def test_right_work_gets_full_points(api: Api, home: Path, tmp_path: Path, lab: LabFolder) -> None:
    """A lab's own solution within a class's walls; its author gate tries it without them. (The two others: below.)"""
    handed_in = answer(tmp_path / "in" / "ada", lab)
    out = tmp_path / "grades.csv"
    ran = kailab("grade", str(handed_in), "--lab", str(lab.number), "--out", str(out), KAILAB_HOME=str(home))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    row = _table(out)["ada"]
    assert (row["percent"], row["problems"]) == ("100.0", "0"), (
        tmp_path / "grades-feedback" / "ada" / "result.json"
    ).read_text()
    assert not _rooms(api)


def test_a_hostile_class_is_graded_and_nothing_is_left(api: Api, home: Path, tmp_path: Path) -> None:
    handed_in = tmp_path / "in"
    for name, attack in ATTACKS.items():
        _hand_in(handed_in / name, *attack)
    _hand_in(handed_in / "honest")
    _hand_in(handed_in / "untouched", source="starter")
    _hand_in(handed_in / "partial")
    (handed_in / "partial" / "budget.yaml").unlink()
    (handed_in / "partial" / "zzz.yaml").write_text(
        "\n".join(f"---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c{n}}}}}" for n in range(10_000))
    )
    (handed_in / "nothing").mkdir()
    _hand_in_files(handed_in)
    files = {path: path.read_bytes() for path in handed_in.rglob("*.yaml") if path.stat().st_size < 2**20}
    there = set(tmp_path.iterdir())
    before = {item["metadata"]["uid"] for item in api.list("ClusterRoleBinding")[0]}
    out, env = tmp_path / "grades.csv", {"KAILAB_HOME": str(home)}
    students = sorted(map(str, handed_in.iterdir()))
    ran = kailab("grade", *students, "--lab", "6", "--jobs", "8", "--out", str(out), seconds=900, **env)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table = _table(out)
    points = {name: row["points"] for name, row in table.items()}
    zero = dict.fromkeys(("alias-bomb", "huge", "link", "nothing", "notebook", "untouched", "zip-slip"), "0")
    assert points == {**dict.fromkeys([*ATTACKS, "honest"], FULL), **zero, "partial": "16"}
    assert {path: path.read_bytes() for path in files} == files
    assert set(tmp_path.iterdir()) - there == {out, out.with_name("grades-feedback")}
    problems = {name: json.loads((tmp_path / "grades-feedback" / name / "result.json").read_text())["problems"]
                for name in table}  # fmt: skip
    for title, (_, said) in REFUSED.items():
        assert [problem for problem in problems["objects"] if problem.startswith(title) and said in problem], (
            title, problems["objects"],
        )  # fmt: skip
    for name, said in UNREADABLE.items():
        assert said in " ".join(problems[name]), name
    assert not _rooms(api)
    assert {item["metadata"]["uid"] for item in api.list("ClusterRoleBinding")[0]} == before
    assert not any(api.get("ConfigMap", f"in-{where}", where) for where in ("default", "kube-system"))

    again = kailab("grade", *students, "--lab", "6", "--out", str(out), **env)
    assert again.returncode == 0
    assert again.stdout.count("as before") == len(students)
    evidence = tmp_path / "grades-feedback" / "honest" / "evidence.json"
    assert kailab("regrade", str(evidence), **env).returncode == 0
    whole = kailab("regrade", str(out), **env)
    assert whole.returncode == 0, whole.stdout
    assert f"{len(students)} graded again, 0 changed" in whole.stdout


@pytest.mark.parametrize(("how", "lab"), [
    pytest.param(signal.SIGINT, PLAIN, id="interrupted"),
    pytest.param(signal.SIGKILL, LAB, id="killed"),  # perhaps in the middle of a drain
])  # fmt: skip
def test_a_stopped_run_goes_on(api: Api, home: Path, tmp_path: Path, how: signal.Signals, lab: LabFolder) -> None:
    for name in ("ada", "bob"):
        answer(tmp_path / "in" / name, lab)
    (tmp_path / "in" / "carl").mkdir()
    out, feedback, env = tmp_path / "grades.csv", tmp_path / "grades-feedback", {"KAILAB_HOME": str(home)}
    command = ["grade", *map(str, sorted((tmp_path / "in").iterdir())), "--lab", str(lab.number), "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "labs.cli", *command], env={**os.environ, **env},
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    eventually(lambda: (feedback / "carl" / "result.json").exists())
    eventually(lambda: len(_rooms(api)) >= 2)
    time.sleep(5)  # into the middle of the checks
    process.send_signal(how)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == (130 if how is signal.SIGINT else -9), said
    assert "Traceback" not in said
    ended = kailab(*command, **env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    table = _table(out)
    assert {name: row["points"] for name, row in table.items()} == {"ada": FULL, "bob": FULL, "carl": "0"}
    assert {table[name]["problems"] for name in ("ada", "bob")} == {"0"}
    assert "carl  0/20  as before" in ended.stdout
    assert not _rooms(api)
