"""Every lab in the repository is complete and consistent, and a broken description says what is broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from checkers.declare import Timing
from cluster.errors import KailabError
from cluster.kinds import KINDS
from labs import catalog
from labs.catalog import LabFolder, all_labs, lab_numbered

LABS = all_labs()
each_lab = pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.path.name)
CHECKERS = Path(catalog.__file__).parent.parent / "checkers"


def description(**changes: Any) -> dict[str, Any]:
    """A small right lab.yaml with some fields changed; None takes one away."""
    check = {"id": "shape", "title": "It has a shape", "points": 2}
    task = {"id": "run", "title": "Run {{thing}}", "checks": [check], "hints": [{"text": "Look again at {{thing}}."}]}
    whole = {
        "number": 42, "slug": "things", "title": "Things", "summary": "All about things.", "minutes": 10,
        "names": {"thing": "a-thing"}, "starter": {"says": "no thing"}, "tasks": [task],
    }  # fmt: skip
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


def task(**changes: Any) -> dict[str, Any]:
    return {**description()["tasks"][0], **changes}


def check(**changes: Any) -> dict[str, Any]:
    return {**task()["checks"][0], **changes}


def lab_of(folder: Path, text: str | dict[str, Any]) -> LabFolder:
    path = folder / "42_things"
    path.mkdir(exist_ok=True)
    (path / "lab.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return LabFolder(path)


def test_there_are_labs_in_order() -> None:
    numbers = [lab.number for lab in LABS]
    assert numbers
    assert numbers == sorted(set(numbers))


@each_lab
def test_a_lab_is_called_by_one_number(lab: LabFolder) -> None:
    assert lab.file.number == lab.spec.number == lab.number
    assert lab.namespace == f"lab-{lab.number:02d}"
    assert lab_numbered(lab.number).path == lab.path


@each_lab
def test_every_written_check_is_declared_and_every_declared_one_written(lab: LabFolder) -> None:
    assert {check.id for check in lab.checks} == {check.id for check in lab.spec.checks}


@each_lab
def test_points_add_up(lab: LabFolder) -> None:
    written = yaml.safe_load((lab.path / "lab.yaml").read_text())
    points = [entry["points"] for task in written["tasks"] for entry in task["checks"]]
    assert sum(check.points for check in lab.spec.checks) == sum(points)
    assert sum(points) == int(sum(points)) > 0


@each_lab
def test_no_placeholder_is_left(lab: LabFolder) -> None:
    texts = [lab.readme, *(check.title for check in lab.spec.checks)]
    for task in lab.spec.tasks:
        texts += [task.title, *(hint.text for hint in task.hints)]
    assert [text for text in texts if "{{" in text or "}}" in text] == []


@each_lab
def test_the_readme_names_every_task_namespace_and_the_way_to_check(lab: LabFolder) -> None:
    assert f"kailab check {lab.number}" in lab.readme
    assert lab.namespace in lab.readme
    assert [task.id for task in lab.spec.tasks if not re.search(rf"\b{task.id}\b", lab.readme)] == []


@each_lab
def test_what_checks_read_and_disturb_are_kinds_that_we_know(lab: LabFolder) -> None:
    named = {kind.partition("@")[0] for check in lab.checks for kind in (*check.reads, *check.disturbs)}
    assert named
    assert named <= set(KINDS)


@each_lab
def test_what_a_check_needs_exists_and_never_in_a_circle(lab: LabFolder) -> None:
    needs = {check.id: set(check.needs) for check in lab.checks}
    while needs:
        free = {name for name, needed in needs.items() if not needed}
        assert free, f"unknown or in a circle: {needs}"
        needs = {name: needed - free for name, needed in needs.items() if name not in free}


@each_lab
def test_every_check_says_what_it_expects_and_has_time_to_look(lab: LabFolder) -> None:
    for check in lab.checks:
        assert check.expected.endswith("."), check.id
        assert check.timing is Timing.ASSERT or check.seconds > 0, check.id
        assert check.seconds < lab.spec.seconds, check.id


@each_lab
def test_every_fitting_hint_answers_to_something_that_a_check_can_see(lab: LabFolder) -> None:
    sources = [lab.path / "checks.py", *CHECKERS.glob("*.py")]
    raised = set(re.findall(r"[\"']([a-z][a-z0-9-]*)[\"']", "\n".join(path.read_text() for path in sources)))
    raised |= {f"no-{kind.lower()}" for kind in KINDS}  # of every object that isn't there
    assert [hint.when for task in lab.spec.tasks for hint in task.hints if hint.when and hint.when not in raised] == []


@each_lab
def test_every_task_has_a_hint_for_whatever_went_wrong(lab: LabFolder) -> None:
    for task in lab.spec.tasks:
        assert any(not hint.when for hint in task.hints), task.id
        assert len({hint.text for hint in task.hints}) == len(task.hints), task.id


@each_lab
def test_solution_and_alternatives_are_objects_in_no_namespace_of_their_own(lab: LabFolder) -> None:
    folders = ["solution", "given", *(str(path.relative_to(lab.path)) for path in lab.alternatives)]
    for folder in folders:
        items = lab.manifests(folder)
        assert items or folder == "given", folder
        for item in items:
            assert KINDS[item["kind"]].api_version == item["apiVersion"]
            if "namespace" in item["metadata"]:
                place = (item["kind"], item["metadata"]["name"], item["metadata"]["namespace"])
                assert place in {(one.kind, one.name, one.namespace) for one in lab.file.borrows}, folder


@each_lab
def test_no_solution_brings_an_object_that_the_lab_gives(lab: LabFolder) -> None:
    given = {(item["kind"], item["metadata"]["name"]) for item in lab.manifests("given")}
    solved = {(item["kind"], item["metadata"]["name"]) for item in lab.manifests("solution")}
    assert not given & solved


@each_lab
def test_the_starter_is_not_the_solution(lab: LabFolder) -> None:
    starter = sorted((lab.path / "starter").glob("*"))
    assert starter
    solutions = {path.read_text() for path in (lab.path / "solution").glob("*")}
    assert not any(path.read_text() in solutions for path in starter)


def test_an_unknown_number_names_the_labs_that_exist() -> None:
    with pytest.raises(KailabError, match="no lab 99") as caught:
        lab_numbered(99)
    assert all(str(lab.number) in caught.value.why for lab in LABS)
    assert caught.value.mend == "kailab list"


def test_a_right_description_is_read(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, description())
    assert (lab.number, lab.namespace, lab.title) == (42, "lab-42", "Things")
    assert lab.spec.tasks[0].title == "Run a-thing"
    assert lab.spec.tasks[0].hints[0].text == "Look again at a-thing."
    assert [check.id for check in lab.spec.checks] == ["shape"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (description(title=None), "title"),
        (description(titel="Things"), "titel"),
        (description(number="six"), "number"),
        (description(minutes=0), "minutes"),
        (description(slug="Two Words"), "slug"),
        (description(names=None), "names"),
        (description(starter={}), "`says` - at `$.starter`"),
        (description(tasks=[]), "tasks"),
        (description(tasks=[task(id="Run It")]), "tasks[0].id"),
        (description(tasks=[task(checks=[])]), "tasks[0].checks"),
        (description(tasks=[task(hints=[])]), "tasks[0].hints"),
        (description(tasks=[task(hints=[{"when": "x"}])]), "`text` - at `$.tasks[0].hints[0]"),
        (description(tasks=[task(checks=[check(points=0)])]), "tasks[0].checks[0].points"),
        (description(tasks=[task(checks=[check(points="many")])]), "tasks[0].checks[0].points"),
        (description(tasks=[task(checks=[check(), check()])]), "check ids used twice: shape"),
        (description(tasks=[task(), task(checks=[check(id="other")])]), "task ids used twice: run"),
        (description(tasks=[task(), task(id="again")]), "check ids used twice: shape"),
        ("", "Expected `object`, got `null`"),
        ("- just\n- a list\n", "Expected `object`, got `array`"),
        ("number: 1\n\ttitle: tab\n", "line 2"),
    ],
)
def test_a_broken_description_names_file_and_field(tmp_path: Path, wrong: str | dict[str, Any], field: str) -> None:
    with pytest.raises(KailabError, match="not a valid lab description") as caught:
        lab_of(tmp_path, wrong).spec  # noqa: B018 - read when first asked for
    assert str(tmp_path / "42_things" / "lab.yaml") in caught.value.what
    assert field in caught.value.why


@pytest.mark.parametrize(
    "wrong",
    [
        description(tasks=[task(title="Run {{things}}")]),
        description(tasks=[task(hints=[{"text": "Look at {{things}}"}])]),
        description(tasks=[task(checks=[check(title="{{ things }} has a shape")])]),
    ],
)
def test_a_placeholder_without_a_name_is_named(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(KailabError, match="lab 42: no name 'things'"):
        lab_of(tmp_path, wrong).spec  # noqa: B018


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{{thing}}", "a-thing"),
        ("{{ thing }}{{thing}}", "a-thinga-thing"),
        ("in {{namespace}}", "in lab-42"),
        ("{thing} ${{thing}} {{{thing}}}", "{thing} $a-thing {a-thing}"),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
    ],
)
def test_placeholders_are_filled_and_nothing_else(tmp_path: Path, text: str, filled: str) -> None:
    assert lab_of(tmp_path, description()).fill(text) == filled


@pytest.mark.parametrize("lab", LABS[:1], ids=lambda lab: lab.path.name)
def test_a_check_that_only_one_side_knows_is_named(lab: LabFolder, tmp_path: Path) -> None:
    written = yaml.safe_load((lab.path / "lab.yaml").read_text())
    first = written["tasks"][0]["checks"][0]
    known, first["id"] = first["id"], "renamed"
    copy = tmp_path / lab.path.name
    copy.mkdir()
    (copy / "lab.yaml").write_text(yaml.safe_dump(written))
    with pytest.raises(KailabError, match="disagree about") as caught:
        LabFolder(copy).checks  # noqa: B018
    assert known in caught.value.what
    assert "renamed" in caught.value.what


def test_manifests_are_read_in_the_order_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("kind: Three\n")
    (tmp_path / "a.yaml").write_text("kind: One\n---\n# nothing\n---\nkind: Two\n")
    (tmp_path / "notes.txt").write_text("kind: Four\n")
    assert [item["kind"] for item in catalog.read_manifests(tmp_path)] == ["One", "Two", "Three"]
    assert catalog.read_manifests(tmp_path / "none") == []
