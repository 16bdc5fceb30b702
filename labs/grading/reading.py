"""What students handed in: a folder, one YAML file, a notebook or a zip archive. Read, never executed or unpacked.

All of it is untrusted. Links are not followed, sizes and numbers are bounded, and archives are read in memory, so
no name in them can point anywhere.
"""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from checkers.manifests import MAX_BYTES, SUFFIXES, read_content
from cluster.api import Object
from cluster.errors import KailabError

MAX_FILES = 200
MAX_OBJECTS = 100
MAX_NOTEBOOK = 20 * 2**20  # bytes, outputs and all
MAGIC = "%%manifest"
DEMONSTRATION = "demonstration"  # tag of a chapter's cell that only shows something, and removes it again


@dataclass(frozen=True)
class Submission:
    """One student's work. `digest` is the same exactly when what is to be graded is the same."""

    student: str
    path: Path
    objects: tuple[Object, ...]
    problems: tuple[str, ...]

    @property
    def digest(self) -> str:
        text = json.dumps([self.objects, self.problems], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def students(paths: Iterable[Path], assignment: str) -> dict[str, Path]:
    """Whose each path is: the folder's or file's name, or, in nbgrader's own layout (submitted/STUDENT/ASSIGNMENT),
    the student's folder. Raises KailabError when two are the same student's, or one isn't there.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise KailabError(f"There is no {path}.", mend="give the folders or files that were handed in")
        whole = path.absolute()
        name = whole.parent.name if whole.name == assignment else whole.stem if whole.is_file() else whole.name
        if not name.strip(". "):
            raise KailabError(f"{path} has no name to tell whose it is.")
        if name in found:
            raise KailabError(f"{found[name]} and {path} both are the work of {name}.", mend="leave one of them out")
        found[name] = path
    return found


def read_submission(student: str, path: Path) -> Submission:
    """Everything gradable in it, in the order of file names and cells; never raises for what is inside."""
    objects: list[Object] = []
    problems: list[str] = []
    for name, content in _files(path, problems):
        parts = _cells(content, name, problems) if name.endswith(".ipynb") else [(name, content)]
        for where, text in parts:
            found, wrong = read_content(text, where)
            objects += found
            problems += map(str, wrong)
    if len(objects) > MAX_OBJECTS:
        problems.append(f"it holds {len(objects)} objects; the first {MAX_OBJECTS} are graded")
    if not objects and not problems:
        problems.append("nothing to grade was found: no YAML file, and no notebook cell that begins with %%manifest")
    return Submission(student, path, tuple(objects[:MAX_OBJECTS]), tuple(problems))


def _files(path: Path, problems: list[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file worth reading; what can't be read becomes a problem."""
    if path.is_file() and zipfile.is_zipfile(path):
        yield from _archive(path, problems)
        return
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    base = path.parent if path.is_file() else path
    wanted = [file for file in files if file.suffix in (*SUFFIXES, ".ipynb") and not _is_hidden(file.relative_to(base))]
    if len(wanted) > MAX_FILES:
        problems.append(f"it holds {len(wanted)} files; the first {MAX_FILES} are read")
    for file in wanted[:MAX_FILES]:
        name = str(file.relative_to(base))
        try:
            # A link may lead out of the folder, and a pipe or device never ends.
            if not stat.S_ISREG(file.lstat().st_mode) or _crosses_link(file, base):
                problems.append(f"{name}: it is a link or no plain file, so it is not read")
                continue
            with file.open("rb") as opened:
                content = opened.read(_most(name) + 1)
        except OSError as failed:
            problems.append(f"{name}: it can't be read: {failed.strerror}")
            continue
        yield name, content


def _archive(path: Path, problems: list[str]) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith((*SUFFIXES, ".ipynb"))]
            if len(entries) > MAX_FILES:
                problems.append(f"it holds {len(entries)} files; the first {MAX_FILES} are read")
            for entry in sorted(entries, key=lambda entry: entry.filename)[:MAX_FILES]:
                if _is_hidden(PurePosixPath(entry.filename)) or entry.filename.startswith("__MACOSX/"):
                    continue
                with archive.open(entry) as opened:  # its size in the header may lie; this may not
                    content = opened.read(_most(entry.filename) + 1)
                yield entry.filename, content
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as broken:
        problems.append(f"{path.name}: the archive can't be read: {broken}")


def _most(name: str) -> int:
    return MAX_NOTEBOOK if name.endswith(".ipynb") else MAX_BYTES


def _is_hidden(path: Path | PurePosixPath) -> bool:
    """Jupyter's own copies (.ipynb_checkpoints) and whatever else its owner doesn't see."""
    return any(part.startswith(".") and part != ".." for part in path.parts)


def _crosses_link(file: Path, base: Path) -> bool:
    return any(parent.is_symlink() for parent in file.parents if base in parent.parents)


def _cells(content: bytes, name: str, problems: list[str]) -> Iterator[tuple[str, bytes]]:
    """The %%manifest cells of a notebook (nbformat 4), each with a name that tells which cell it is.

    What a chapter only demonstrates is not the student's work: it would take the place of what is.
    """
    if len(content) > MAX_NOTEBOOK:
        problems.append(f"{name}: it is larger than {MAX_NOTEBOOK // 2**20} MiB, so it is not read")
        return
    try:
        document: Any = json.loads(content)
        cells = document["cells"]
        texts = [("".join(cell["source"]), _tags(cell)) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        problems.append(f"{name}: it is not a notebook that Jupyter would open")
        return
    for count, (text, tags) in enumerate(texts, 1):
        first, _, rest = text.lstrip().partition("\n")
        if first.split()[:1] == [MAGIC] and rest.strip() and DEMONSTRATION not in tags:
            yield f"{name}, code cell {count}", rest.encode(errors="replace")


def _tags(cell: Any) -> list[Any]:
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return tags if isinstance(tags, list) else []
