"""`%%manifest [FILE]`: a cell of YAML, judged by the API server before anything changes, then applied.

With a FILE name the text is also kept in the lab's folder under work/, where `kubectl` and `kailab check` find it.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import yaml

from checkers.manifests import read_text
from cluster.api import Api, ApiError, Object
from cluster.errors import KailabError
from cluster.files import replace
from cluster.kinds import KINDS
from cluster.workspace import Workspace
from labs.catalog import LabFolder, all_labs
from labs.lifecycle import Course, is_started, start
from labs.progress import Progress

_PATH = re.compile(r"\.?((?:[a-zA-Z][\w-]*)(?:\[[^\]]*\])*(?:\.[\w-]+(?:\[[^\]]*\])*)+)")


def manifest(line: str, cell: str) -> None:
    """Apply a cell's objects to the lab that was started last; print what became of each, or what is wrong where."""
    try:
        for text in apply_text(Workspace.here(), cell, line.strip()):
            print(text)  # noqa: T201 - the cell's output
    except KailabError as failed:
        print(failed)  # noqa: T201


def apply_text(workspace: Workspace, text: str, file: str = "") -> list[str]:
    """What to tell about a cell. Nothing is applied when any object in it would be refused.

    Raises KailabError when there is no cluster, no started lab, or the file's name leads out of the lab's folder.
    """
    objects, problems = read_text(text, "line")
    if problems:
        return [f"✗ line {problem.line + 1}: {problem.what}" + (f"; {problem.mend}" if problem.mend else "")
                for problem in problems]  # fmt: skip
    with Course.opened(workspace) as course:
        lab = _current(course)
        folder, namespace = course.work(lab), lab.namespace
        if not is_started(course, namespace):
            start(course, lab)
        if file:
            _keep(folder, file, text)
        refused = [
            f"✗ {item['kind']} {item['metadata'].get('name', '')}{_where(said, text, index)}: {said}"
            for index, item in enumerate(objects) for said in _refusals(course.api, item, namespace)
        ]  # fmt: skip
        return refused or [_applied(course.api, item, namespace) for item in objects]


def _current(course: Course) -> LabFolder:
    number = Progress(course.workspace).current
    lab = next((lab for lab in all_labs() if lab.number == number), None)
    if lab is None:
        raise KailabError("No lab is started yet.", mend="start(N) in a cell, or kailab start N in a terminal")
    return lab


def _keep(folder: Path, name: str, text: str) -> None:
    if Path(name).name != name or not name.endswith((".yaml", ".yml")):
        raise KailabError(f"{name!r} is no name for a manifest.", mend="a plain name such as deployment.yaml")
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / name, text)


def _refusals(api: Api, item: Object, namespace: str) -> list[str]:
    """What the API server has against an object; nothing is changed."""
    if item["kind"] not in KINDS:
        return ["this course's labs don't use that kind; apply it with kubectl"]
    if not item["metadata"].get("name"):
        return ["applying needs metadata.name; what has only a generateName is made with kubectl create"]
    # Creating names every unknown field, as kubectl does; applying may name only the first.
    for ask in (api.create, partial(api.apply, manager="kubectl")):
        try:
            ask(item, namespace, dry_run=True)
        except ApiError as refused:
            if refused.reason != "AlreadyExists":
                return _sentences(refused.what)
    return []


def _sentences(message: str) -> list[str]:
    """One for each thing that is wrong."""
    _, strict, fields = message.partition("strict decoding error: ")
    if strict:
        return re.split(r", (?=unknown field|duplicate field|json:|yaml:)", fields)
    return [line.strip() for line in message.splitlines() if line.strip()] or [message]


def _where(message: str, text: str, index: int) -> str:
    """The cell's line of the first field path in the API server's words that the text has; the magic is line 1."""
    documents = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    for found in _PATH.finditer(message):
        if index < len(documents) and (line := _line(documents[index], found[1])):
            return f", line {line + 1}"
    return ""


def _line(node: yaml.Node, path: str) -> int:
    """Where a path such as spec.containers[0].image or spec.containers[name="api"].image stands; 0 if nowhere."""
    line = 0
    for step in re.findall(r"[\w-]+(?==\")|\"[^\"]*\"|[\w-]+", path.replace("[name=", "[")):
        found = _child(node, step.strip('"'))
        if found is None:
            return 0
        line, node = found
    return line


def _child(node: yaml.Node, step: str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark.line + 1, value) for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            named = _child(entry, "name") if isinstance(entry, yaml.MappingNode) else None
            if step == str(index) or (named and getattr(named[1], "value", None) == step):
                return entry.start_mark.line + 1, entry
    return None


def _applied(api: Api, item: Object, namespace: str) -> str:
    kind, name = item["kind"], item["metadata"]["name"]
    before = api.get(kind, name, item["metadata"].get("namespace") or namespace)
    after = api.apply(item, namespace, manager="kubectl")
    same = before and before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    return f"✓ {kind} {name} {'unchanged' if same else 'configured' if before else 'created'}"
