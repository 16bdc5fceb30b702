"""What students handed in: a folder, one YAML file, a notebook or a zip archive. Read, never executed or unpacked.

All of it is untrusted. Links are not followed, sizes and numbers are bounded, and archives are read in memory, so
no name in them can point anywhere.
"""

from __future__ import annotations

import hashlib
import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from checkers.manifests import (
    LETTERS,
    MAX_BYTES,
    MAX_IN_ALL,
    SUFFIXES,
    Allowance,
    Problem,
    Spent,
    printable,
    read_each,
    shown,
)
from cluster.api import Object
from cluster.errors import KailabError

MAX_FILES = 200
MAX_OBJECTS = 100
MAX_PROBLEMS = 300  # more than files: each may have one that is told
MAX_NOTEBOOK = 20 * 2**20  # bytes, outputs and all
MAX_TOTAL = 3 * MAX_NOTEBOOK  # bytes of all files
MAGIC = "%%manifest"
DEMONSTRATION = "demonstration"  # tag of a chapter's cell that only shows something, and removes it again


@dataclass(frozen=True)
class Submission:
    """One student's work. `digest` is the same exactly when what is to be graded is the same.

    `path` is for telling of it: printable, whatever the names in it were made of. `broken` says that the grader could
    not read it, which is no verdict.
    """

    student: str
    path: Path
    objects: tuple[Object, ...]
    problems: tuple[str, ...]
    broken: str = ""

    @property
    def digest(self) -> str:
        text = json.dumps([self.objects, self.problems], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


class _Enough(Exception):
    """A submission holds more than is read of one."""


@dataclass
class _Found:
    """What was found in a submission so far. Whatever goes beyond its bounds ends the reading with _Enough."""

    objects: list[Object] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    allowance: Allowance = field(default_factory=Allowance)
    bytes_left: int = MAX_TOTAL

    def add(self, one: Object | Problem) -> None:
        if isinstance(one, Problem):
            self._tell(str(one))
        elif len(self.objects) == MAX_OBJECTS:
            raise _Enough(f"it holds more than {MAX_OBJECTS} objects; the first {MAX_OBJECTS} are graded")
        else:
            self.objects.append(one)

    def tell(self, about: str, what: str) -> None:
        self._tell(f"{shown(about)}: {shown(what)}")

    def tell_number(self, files: int) -> None:
        if files > MAX_FILES:
            self._tell(f"it holds {files} files; the first {MAX_FILES} are read")

    def _tell(self, problem: str) -> None:
        if len(self.problems) == MAX_PROBLEMS:
            raise _Enough(f"it has more than {MAX_PROBLEMS} problems; what comes after those is not read")
        self.problems.append(problem)

    def read(self, name: str, file: IO[bytes]) -> bytes:
        """What is in a file, up to a byte more than there may be."""
        content = file.read(min(MAX_NOTEBOOK if _is_notebook(name) else MAX_BYTES, self.bytes_left) + 1)
        if len(content) > self.bytes_left:
            raise _Enough(f"its files are larger than {MAX_TOTAL // 2**20} MiB in all; {shown(name)} and what comes "
                          "after it is not read")  # fmt: skip
        self.bytes_left -= len(content)
        return content


def students(paths: Iterable[Path], assignment: str) -> dict[str, Path]:
    """Whose each path is: the folder's or file's name, or, in nbgrader's own layout (submitted/STUDENT/ASSIGNMENT),
    the student's folder; printable in any case. Raises KailabError when two are the same student's, or one isn't there.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise KailabError(
                f"There is no {printable(str(path))}.", mend="give the folders or files that were handed in"
            )
        whole = path.absolute()
        name = printable(
            whole.parent.name if whole.name == assignment else whole.stem if whole.is_file() else whole.name
        )
        if not name.strip(". "):
            raise KailabError(f"{printable(str(path))} has no name to tell whose it is.")
        if name in found:
            both = " and ".join(printable(str(one)) for one in (found[name], path))
            raise KailabError(f"{both} both are the work of {name}.", mend="leave one of them out")
        found[name] = path
    return found


def read_submission(student: str, path: Path) -> Submission:
    """Everything gradable in it, in the order of file names and cells; never raises for what is inside."""
    where = Path(printable(str(path)))
    try:
        found = _read(path)
        submission = Submission(student, where, tuple(found.objects), tuple(found.problems))
        _ = submission.digest  # which everybody asks for, unguarded
    except Exception as wrong:  # noqa: BLE001 - whatever a student found that nobody thought of, the class is graded
        said = shown(f"{type(wrong).__name__}: {wrong}")
        broken = f"The grader itself broke while it read this ({said}); please report it."
        return Submission(student, where, (), (broken,), broken)
    return submission


def _read(path: Path) -> _Found:
    found = _Found()
    try:
        for name, content in _files(path, found):
            for where, text in _cells(content, name, found) if _is_notebook(name) else [(name, content)]:
                for one in read_each(text, where, found.allowance):
                    found.add(one)
    except _Enough as enough:
        found.problems.append(str(enough))
    except Spent:
        found.problems.append(
            f"its files hold more than {MAX_IN_ALL} values of {LETTERS} letters; what comes after those is not read"
        )
    if not found.objects and not found.problems:
        found.problems.append(
            "nothing to grade was found: no YAML file, and no notebook cell that begins with %%manifest"
        )
    return found


def _files(path: Path, found: _Found) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file worth reading; what can't be read becomes a problem."""
    if path.is_file() and _is_archive(path):
        yield from _archive(path, found)
        return
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    base = path.parent if path.is_file() else path
    wanted = [file for file in files if file.suffix in (*SUFFIXES, ".ipynb") and not _is_hidden(file.relative_to(base))]
    found.tell_number(len(wanted))
    for file in wanted[:MAX_FILES]:
        name = str(file.relative_to(base))
        try:
            # A link may lead out of the folder, and a pipe or device never ends.
            if not stat.S_ISREG(file.lstat().st_mode) or _crosses_link(file, base):
                found.tell(name, "it is a link or no plain file, so it is not read")
                continue
            with file.open("rb") as opened:
                content = found.read(name, opened)
        except OSError as failed:
            found.tell(name, f"it can't be read: {failed.strerror}")
            continue
        yield name, content


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True  # though one that can't be opened, as _archive will tell


def _archive(path: Path, found: _Found) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith((*SUFFIXES, ".ipynb"))]
            found.tell_number(len(entries))
            for entry in sorted(entries, key=lambda entry: entry.filename)[:MAX_FILES]:
                if _is_hidden(PurePosixPath(entry.filename)) or entry.filename.startswith("__MACOSX/"):
                    continue
                if entry.compress_type not in _BOUNDED:
                    found.tell(
                        entry.filename, "it is packed in a way that is not read here: pack it as zip does by itself"
                    )
                    continue
                with archive.open(entry) as opened:  # its size in the header may lie; this may not
                    content = found.read(entry.filename, opened)
                yield entry.filename, content
    except _DAMAGES as broken:
        found.tell(path.name, f"the archive can't be read: {broken}")


# Of the others, zipfile unpacks a chunk whole, however little is asked for: a few KiB may come to gigabytes.
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What zipfile raises for archives that are damaged, encrypted, or made to look so; ValueError is for names and sizes.
_DAMAGES = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OverflowError, NotImplementedError, RuntimeError,
            OSError, EOFError)  # fmt: skip


def _is_notebook(name: str) -> bool:
    return name.endswith(".ipynb")


def _is_hidden(path: Path | PurePosixPath) -> bool:
    """Jupyter's own copies (.ipynb_checkpoints) and whatever else its owner doesn't see."""
    return any(part.startswith(".") and part != ".." for part in path.parts)


def _crosses_link(file: Path, base: Path) -> bool:
    return any(parent.is_symlink() for parent in file.parents if base in parent.parents)


def _cells(content: bytes, name: str, found: _Found) -> Iterator[tuple[str, bytes]]:
    """The %%manifest cells of a notebook (nbformat 4), each with a name that tells which cell it is.

    What a chapter only demonstrates is not the student's work: it would take the place of what is.
    """
    if len(content) > MAX_NOTEBOOK:
        found.tell(name, f"it is larger than {MAX_NOTEBOOK // 2**20} MiB, so it is not read")
        return
    try:
        document: Any = json.loads(content)
        cells = document["cells"]
        texts = [("".join(cell["source"]), _tags(cell)) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found.tell(name, "it is not a notebook that Jupyter would open")
        return
    for count, (text, tags) in enumerate(texts, 1):
        first, _, rest = text.lstrip().partition("\n")
        if first.split(None, 1)[:1] == [MAGIC] and rest.strip() and DEMONSTRATION not in tags:
            yield f"{name}, code cell {count}", rest.encode(errors="replace")


def _tags(cell: Any) -> list[Any]:
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return tags if isinstance(tags, list) else []
