"""Chapters: text in MyST here, notebooks in the student's folder. Cells have ids of their own, so that a cell is the
same cell after every build.

A code cell carries `:id:`, and `:file: NAME` where it is to hold a manifest of the lab: then its source is the
starter's file of that name, or, for a build with solutions, the solution's. Where the text around it tells what it
prints, `:says:` is a regular expression (. takes line ends too) that the tests hold against its real output.
{{names}} are those of lab.yaml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.errors import KailabError
from cluster.workspace import Workspace
from course.laying import lay
from course.minutes import Minutes, minutes
from labs.catalog import LabFolder, facts, fill_in, lab_numbered

HERE = Path(__file__).parent
_MERMAID = re.compile(r"^```\{mermaid\}$", re.MULTILINE)


@dataclass(frozen=True)
class Chapter:
    """One file of text."""

    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name.split("_", 1)[0])

    @property
    def name(self) -> str:
        return f"{self.path.stem}.ipynb"

    @cached_property
    def lab(self) -> LabFolder:
        return lab_numbered(self.number)

    @property
    def minutes(self) -> Minutes:
        """How long it takes, with its lab."""
        return minutes(self.number, self._text(), self.lab.file.minutes)

    def notebook(self, *, solved: bool = False) -> Any:
        """The chapter as a notebook, with its minutes under the title.

        Raises KailabError for a cell without an id, or with another's.
        """
        made = self._cells()
        title, _, rest = made.cells[0].source.partition("\n")
        needed = self.minutes
        made.cells[0].source = f"{title}\n\n*About {needed.total} minutes: {needed}.*\n{rest}"
        for cell in made.cells:
            cell.metadata.pop("says", None)
            if file := cell.metadata.pop("file", ""):
                cell.source = f"{cell.source.strip()} {file}\n{self._manifest(file, solved=solved)}"
        return made

    def promises(self) -> dict[str, str]:
        """What the text says of cells' output: a regular expression by the cell's id."""
        found = {cell.id: cell.metadata.get("says", "") for cell in self._cells().cells}
        return {name: str(pattern) for name, pattern in found.items() if pattern}

    def _cells(self) -> Any:
        return cells_of(self._text(), self.path.name, f"ch{self.number:02d}")

    def _text(self) -> str:
        return self.lab.fill(self.path.read_text())

    def _manifest(self, file: str, *, solved: bool) -> str:
        path = self.lab.path / ("solution" if solved else "starter") / file
        if not path.exists():
            return "# Write it here.\n"
        return str(fill_in(path.read_text(), facts(self.lab.namespace)))


def cells_of(text: str, name: str, prefix: str) -> Any:
    """A text in MyST as a notebook (nbformat 4.5); text cells are called PREFIX-text-N.

    Raises KailabError, naming the file, for a code cell without an id, or with another's.
    """
    import jupytext

    made = jupytext.reads(_MERMAID.sub("```mermaid", text), fmt="md:myst")
    seen: set[str] = set()
    for count, cell in enumerate(made.cells):
        own = cell.metadata.pop("id", "") if cell.cell_type == "code" else f"{prefix}-text-{count}"
        if not own or own in seen:
            raise KailabError(f"{name}: code cell {count} has no :id: of its own")
        seen.add(own)
        cell["id"] = own
    made.metadata.pop("jupytext", None)
    made.metadata.update(_kernel())
    made.nbformat, made.nbformat_minor = 4, 5
    return made


def _kernel() -> dict[str, Any]:
    """What JupyterLab writes into a notebook's metadata when it opens it: so that opening alone is no change."""
    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelspec import KERNEL_NAME, get_kernel_dict

    known = get_kernel_dict()
    spec = {"display_name": known["display_name"], "language": known["language"], "name": KERNEL_NAME}
    return {"kernelspec": spec, "language_info": dict(IPythonKernel.language_info)}


def chapters() -> list[Chapter]:
    """Every chapter, in order; number 0 is the start page, which has no lab (course/startpage.py)."""
    return [made for made in map(Chapter, sorted(HERE.glob("[0-9][0-9]_*.md"))) if made.number]


def build(workspace: Workspace) -> list[tuple[Path, str]]:
    """Notebooks for all chapters in the student's folder, and for each what was done: made, kept, or renewed.

    A notebook that the student has worked in is never touched; where the chapter's text has changed since, the new
    one is laid beside it.
    """
    import nbformat

    folder, built = workspace.work / "chapters", workspace.state / "chapters"
    return [
        lay(folder / chapter.name, built / chapter.name, nbformat.writes(chapter.notebook()),
            folder / f"{chapter.path.stem}.new.ipynb")
        for chapter in chapters()
    ]  # fmt: skip
