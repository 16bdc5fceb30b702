"""Mutants are realistic mistakes: each applies to the solution and says which checks must see it."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from checkers.spec import CheckSpec, LabSpec, TaskSpec
from cluster.errors import KailabError
from cluster.kinds import KINDS
from labs.catalog import LabFolder, all_labs
from labs.mutants import Submission, expected_points, expected_skips, submissions

LABS = all_labs()
MUTANTS = [(lab, f"mutant {path.stem}") for lab in LABS for path in lab.mutants]
RIGHT = [(lab, f"alternative {path.name}") for lab in LABS for path in lab.alternatives]


def each(entries: list[tuple[LabFolder, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("lab", "name"), entries, ids=[f"{lab.number} {name}" for lab, name in entries])


each_lab = pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.path.name)
each_mutant = each(MUTANTS)
each_submission = each([*MUTANTS, *RIGHT])


@cache
def made_of(lab: LabFolder) -> dict[str, Submission]:
    return {it.name: it for it in submissions(lab)}


def names(objects: Any) -> list[str]:
    return [f"{item['kind']}/{item['metadata']['name']}" for item in objects]


@each_lab
def test_a_lab_has_ten_mutants_or_more_and_another_right_answer(lab: LabFolder) -> None:
    files = sorted(path.name for path in (lab.path / "mutants").iterdir())
    assert files == [path.name for path in lab.mutants], "a file that is no mutant"
    assert len(files) >= 10
    assert lab.alternatives
    assert len(made_of(lab)) == len(files) + len(lab.alternatives)


@each(RIGHT)
def test_an_alternative_is_right_and_not_the_solution(lab: LabFolder, name: str) -> None:
    right = made_of(lab)[name]
    assert right.fails == frozenset()
    assert list(right.objects) != lab.manifests("solution")


@each_mutant
def test_a_mutant_differs_from_the_solution_and_tells_why_in_a_line(lab: LabFolder, name: str) -> None:
    mutant = made_of(lab)[name]
    assert list(mutant.objects) != lab.manifests("solution")
    assert "\n" not in mutant.reason.strip()
    assert 10 <= len(mutant.reason) <= 120


@each_mutant
def test_a_mutant_fails_checks_that_exist(lab: LabFolder, name: str) -> None:
    fails = made_of(lab)[name].fails
    assert fails
    assert fails <= {check.id for check in lab.checks}


@each_mutant
def test_a_mutants_points_are_those_of_what_still_passes(lab: LabFolder, name: str) -> None:
    mutant = made_of(lab)[name]
    left = expected_points(lab.spec, mutant.fails | expected_skips(lab, mutant.fails))
    assert 0 <= left < sum(check.points for check in lab.spec.checks)
    assert mutant.points is None or mutant.points == left


@each_submission
def test_a_submission_is_objects_that_can_be_applied(lab: LabFolder, name: str) -> None:
    objects = made_of(lab)[name].objects
    assert objects
    assert len(set(names(objects))) == len(objects), "one object twice"
    for item in objects:
        assert item["apiVersion"] == KINDS[item["kind"]].api_version
        if item["kind"] == "Node" or "namespace" in item["metadata"]:  # only what `finish` takes away again
            place = (item["kind"], item["metadata"]["name"], item["metadata"].get("namespace", ""))
            assert place in {(one.kind, one.name, one.namespace) for one in lab.file.borrows}


@each_lab
def test_every_check_is_lost_by_some_mutant(lab: LabFolder) -> None:
    lost = {check for it in made_of(lab).values() for check in it.fails | expected_skips(lab, it.fails)}
    assert {check.id for check in lab.checks} - lost == set()


@each_lab
def test_making_mutants_leaves_the_solution_alone(lab: LabFolder) -> None:
    before = lab.manifests("solution")
    submissions(lab)
    assert lab.manifests("solution") == before


WEB = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web"}, "spec": {"replicas": 3}}
CONFIG = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "settings"}, "data": {"a": "1"}}
LAB = """
{number: 43, slug: small, title: Small, summary: A small lab., minutes: 1, names: {}, starter: {says: nothing},
 tasks: [{id: run, title: Run it, hints: [{text: Look again.}],
          checks: [{id: shape, title: A shape, points: 1}, {id: ready, title: Ready, points: 2}]}]}
"""


def made(folder: Path, mutant: str | dict[str, Any]) -> Submission:
    path = folder / "43_small"
    shutil.rmtree(path, ignore_errors=True)
    for sub in ("solution", "mutants"):
        (path / sub).mkdir(parents=True)
    (path / "lab.yaml").write_text(LAB)
    (path / "solution/all.yaml").write_text(yaml.safe_dump_all([WEB, CONFIG]))
    (path / "mutants/wrong.yaml").write_text(mutant if isinstance(mutant, str) else yaml.safe_dump(mutant))
    (found,) = submissions(LabFolder(path))
    return found


def mutant(**changes: Any) -> dict[str, Any]:
    return {"reason": "two replicas instead of three", "fails": ["shape"], **changes}


def patch(*operations: dict[str, Any], of: str = "Deployment/web") -> dict[str, Any]:
    return mutant(patches={of: list(operations)})


def test_a_patch_changes_its_object_and_no_other(tmp_path: Path) -> None:
    found = made(tmp_path, patch({"op": "replace", "path": "/spec/replicas", "value": 2}))
    assert found.objects == ({**WEB, "spec": {"replicas": 2}}, CONFIG)
    assert (found.name, found.fails, found.points) == ("mutant wrong", {"shape"}, None)


def test_objects_can_be_taken_away_and_added(tmp_path: Path) -> None:
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web"}}
    found = made(tmp_path, mutant(remove=["Deployment/web"], add=[pod], points=2))
    assert names(found.objects) == ["ConfigMap/settings", "Pod/web"]
    assert found.points == 2


REPLICAS = {"op": "replace", "path": "/spec/replicas", "value": 2}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        pytest.param(patch(REPLICAS, of="Deployment/gone"), "Deployment/gone", id="patched object missing"),
        pytest.param(patch(REPLICAS, of="web"), "Deployment/web", id="object without its kind"),
        pytest.param(mutant(remove=["Service/web"]), "Service/web", id="removed object missing"),
        pytest.param(patch({"op": "remove", "path": "/spec/gone"}), "Deployment/web", id="member missing"),
        pytest.param(patch({**REPLICAS, "path": "/spec/gone"}), "Deployment/web", id="replaced member missing"),
        pytest.param(patch({**REPLICAS, "path": "/spec/a/b/c"}), "Deployment/web", id="path missing"),
        pytest.param(patch({**REPLICAS, "path": "/spec/replicas/0"}), "Deployment/web", id="path through a number"),
        pytest.param(patch({**REPLICAS, "path": "spec/replicas"}), "Deployment/web", id="path without slash"),
        pytest.param(patch({"op": "test", "path": "/spec/replicas", "value": 4}), "Deployment/web", id="test fails"),
        pytest.param(patch({"op": "replace", "path": "/spec/replicas"}), "Deployment/web", id="no value"),
        pytest.param(patch({**REPLICAS, "op": "change"}), "Deployment/web", id="unknown operation"),
        pytest.param(mutant(fails=["shape", "steady"]), "steady", id="unknown check"),
        pytest.param(mutant(fails=[]), "fails", id="fails nothing"),
        pytest.param(mutant(reason="bad"), "reason", id="no reason"),
        pytest.param(mutant(patch={}), "patch", id="unknown field"),
        pytest.param("reason: [", "line ", id="no YAML"),
        pytest.param("", "dictionary", id="empty"),
    ],
)
def test_a_mutant_that_makes_no_sense_names_its_file_and_what_is_wrong(
    tmp_path: Path, wrong: str | dict[str, Any], words: str
) -> None:
    with pytest.raises(KailabError) as caught:
        made(tmp_path, wrong)
    assert "mutants/wrong.yaml" in caught.value.what
    assert words in str(caught.value)


NEEDS = {"a": (), "b": ("a",), "c": ("b",), "d": ("c", "x"), "x": (), "y": ("x",)}


@pytest.mark.parametrize(
    ("fails", "skips"),
    [
        ("", ""),
        ("a", "bcd"),
        ("b", "cd"),
        ("ab", "cd"),
        ("d", ""),
        ("x", "dy"),
        ("ax", "bcdy"),
        ("abcdxy", ""),
    ],
)
def test_what_needs_a_failed_check_is_skipped_directly_or_not(fails: str, skips: str) -> None:
    lab = cast("LabFolder", SimpleNamespace(checks=[SimpleNamespace(id=id_, needs=it) for id_, it in NEEDS.items()]))
    assert expected_skips(lab, frozenset(fails)) == frozenset(skips)


@pytest.mark.parametrize(("lost", "points"), [("", 3.5), ("a", 2.5), ("ab", 0.5), ("abc", 0), ("x", 3.5)])
def test_lost_checks_earn_nothing(lost: str, points: float) -> None:
    checks = tuple(CheckSpec(name, "run", name, worth) for name, worth in (("a", 1), ("b", 2), ("c", 0.5)))
    spec = LabSpec(
        1, "x", "X", "lab-01", {}, (TaskSpec("run", "Run", checks[:2], ()), TaskSpec("z", "Z", checks[2:], ()))
    )
    assert expected_points(spec, frozenset(lost)) == points
