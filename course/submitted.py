"""A submitted notebook made safe to keep and to show: the assignment's own cells as they were given out, and beside
them the student's, with nothing in them that a browser would run.

nbgrader's own steps for this stop at metadata that a student has changed, and let through what draws itself in an
instructor's browser: they are made for notebooks whose code is run anyway, and this one's is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nbconvert.preprocessors import Preprocessor
from nbformat import v4
from nbgrader.api import Gradebook  # type: ignore[import-untyped]
from nbgrader.nbgraderformat import SCHEMA_VERSION  # type: ignore[import-untyped]
from traitlets import Bool

MISSING = "The cells below were not in the notebook that was handed in. They are as they were given out."
# All that is shown of a student's output; HTML, SVG and scripts would act in the name of whoever looks at them.
_SHOWN = ("text/plain", "image/png", "image/jpeg")
_MOST_COUNT = 10**6  # of a cell's runs


@dataclass(frozen=True)
class OwnCell:
    """A cell that belongs to the assignment. `locked`: its text is not the student's to change."""

    name: str
    kind: str
    locked: bool
    graded: bool
    source: str
    metadata: dict[str, Any]


class RestoreCells(Preprocessor):
    """In nbgrader's autograde, in place of what makes a submission sane. What the gradebook says holds."""

    enabled = Bool(True).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """A notebook of nothing but known parts. Cells are told by their grade_id, wherever they stand."""
        about = resources["nbgrader"]
        with Gradebook(about["db_url"]) as gradebook:
            made = gradebook.find_notebook(about["notebook"], about["assignment"])
            own = {cell.name: cell for cell in _own_cells(made)}
            kernel = json.loads(made.kernelspec or "{}")
        cells = list(_restored(nb.get("cells") or [], own))
        for number, cell in enumerate(cells, 1):
            cell["id"] = f"cell-{number}"
        return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel} if kernel else {}), resources


def _own_cells(made: Any) -> Iterator[OwnCell]:
    points = {cell.name: float(cell.max_score) for cell in (*made.grade_cells, *made.task_cells)}
    graded, tasks = {cell.name for cell in made.grade_cells}, {cell.name for cell in made.task_cells}
    solutions = {cell.name for cell in made.solution_cells}
    for cell in made.source_cells:
        metadata = {
            "grade_id": cell.name, "schema_version": SCHEMA_VERSION, "locked": cell.locked, "cell_type": cell.cell_type,
            "grade": cell.name in graded, "solution": cell.name in solutions, "task": cell.name in tasks,
        }  # fmt: skip
        metadata |= {"points": points[cell.name]} if cell.name in points else {}
        metadata |= {"checksum": cell.checksum} if cell.checksum else {}
        yield OwnCell(cell.name, cell.cell_type, cell.locked, cell.name in points, cell.source or "", metadata)


def _restored(cells: Iterable[Any], own: dict[str, OwnCell]) -> Iterator[Any]:
    left = dict(own)
    for cell in cells:
        if not isinstance(cell, dict):
            continue
        known = left.pop(_grade_id(cell), None)
        yield _given_out(known, cell) if known else _students(cell, str(cell.get("cell_type")))
    missing = [known for known in left.values() if known.graded]
    if missing:
        yield v4.new_markdown_cell(MISSING)
    yield from (_given_out(known, {}) for known in missing)


def _grade_id(cell: Any) -> str:
    metadata = cell.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return _text(nbgrader.get("grade_id")) if isinstance(nbgrader, dict) else ""


def _given_out(known: OwnCell, cell: Any) -> Any:
    source = _text(cell.get("source"))
    if known.locked or not cell or source == known.source:
        # The text is ours; what a student's copy of the cell put out, if it still is that, may stay.
        kind: Any = v4.new_code_cell if known.kind == "code" else v4.new_markdown_cell
        restored = kind(known.source)
        if known.kind == "code" and not known.graded:
            restored.outputs = _outputs(cell)
    else:
        restored = _students(cell, known.kind)
    restored.metadata = {"nbgrader": known.metadata, "deletable": False}
    if known.locked:
        restored.metadata["editable"] = False
    return restored


def _students(cell: Any, kind: str) -> Any:
    source = _text(cell.get("source"))
    if kind == "code":
        count = cell.get("execution_count")
        is_count = type(count) is int and 0 <= count <= _MOST_COUNT  # True would be one too
        return v4.new_code_cell(source, outputs=_outputs(cell), execution_count=count if is_count else None)
    # As it was typed: a page may run what Markdown lets through.
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", source))])
    return v4.new_markdown_cell(f"{fence}text\n{source}\n{fence}" if source.strip() else "")


def _text(source: Any) -> str:
    """Text that any file takes: JSON may spell half of a letter."""
    return source.encode(errors="replace").decode() if isinstance(source, str) else ""


def _outputs(cell: Any) -> list[Any]:
    outputs = cell.get("outputs")
    found = map(_output, outputs) if isinstance(outputs, list) else ()
    return [output for output in found if output]


def _output(output: Any) -> Any:
    """A copy with what is only looked at; None when nothing of it is."""
    if not isinstance(output, dict):
        return None
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return v4.new_output("stream", name=name, text=_text(output.get("text")))
    if kind == "error":
        lines = output.get("traceback")
        shown = [_text(line) for line in lines] if isinstance(lines, list) else []
        return v4.new_output(
            "error", ename=_text(output.get("ename")), evalue=_text(output.get("evalue")), traceback=shown
        )
    data = output.get("data")
    if kind not in ("display_data", "execute_result") or not isinstance(data, dict):
        return None
    kept = {name: _text(data[name]) for name in _SHOWN if isinstance(data.get(name), str)}
    return v4.new_output("display_data", data=kept) if kept else None
