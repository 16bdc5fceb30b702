"""Reading manifests that people wrote: every problem with its line and what mends it, never an exception.

What is read here is untrusted: sizes, nesting and aliases are bounded before anything is built from it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.api import Object
from cluster.kinds import KINDS
from cluster.yamls import LOADER

MAX_BYTES = 3 * 2**20  # an object in etcd ends at 1.5 MiB; a file may hold a few
MAX_NODES = 200_000  # of one document, after aliases are followed
MAX_DEPTH = 100
MAX_IN_ALL = 500_000  # of all documents of a file, or of all files that are handed in together
SUFFIXES = (".yaml", ".yml", ".json")
LETTERS = 20  # of text that count as another node
_DOCUMENT = 10  # nodes that reading an empty document takes as long as
_LONGEST = 400  # letters of a name, or of what is told of it
_FIELDS = 100  # of an object, among which to look for one that was meant
# What a terminal may take for more than text, and the surrogates that stand for bytes of names that aren't UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"
_TAG = "tag:yaml.org,2002:"  # what !!str and the like are short for
_LONGEST_NUMBER = 2 + 1 + 64  # letters of a whole number that has 64 bits: -0b1...
_NUMBERS_BEGIN = tuple("+-.0123456789")
# What YAML's reader in kubectl (go.yaml.in/yaml/v2, resolve.go) takes for numbers, once underscores are left out.
_WHOLE = re.compile("[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOATING = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LEAST_WITH_EXPONENT = 1e21  # encoding/json: smaller ones are written out
_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)


@dataclass(frozen=True)
class Problem:
    """Something in a file that no cluster will take: where (line 1 is the first, 0 the file as a whole) and what."""

    file: str
    line: int
    what: str
    mend: str = ""

    def __str__(self) -> str:
        where = f"{shown(self.file)}, line {self.line}" if self.line else shown(self.file)
        return f"{where}: {shown(self.what)}"


class Spent(Exception):
    """More would have to be read than an Allowance has left."""


@dataclass
class Allowance:
    """How many nodes may still be read: of a file by itself, or of all that was handed in together."""

    left: int = MAX_IN_ALL

    def take(self, nodes: int) -> None:
        """Raises Spent."""
        self.left -= nodes
        if self.left < 0:
            raise Spent


def printable(text: str) -> str:
    """Text that any terminal, table or file takes: what they would not take is written as its number."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as Python keeps it in a file's name
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


def shown(text: str) -> str:
    """The same for a line in a report: cut to a sensible length as well."""
    return printable(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")


def read_folder(folder: Path) -> tuple[list[tuple[str, Object]], list[Problem]]:
    """The objects in a folder's manifests with their files' names, and the problems. Links are not followed."""
    objects: list[tuple[str, Object]] = []
    problems: list[Problem] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES or path.is_symlink() or not path.is_file():
            continue
        name = str(path.relative_to(folder))
        found, wrong = read_file(path, name)
        objects += [(name, item) for item in found]
        problems += wrong
    return objects, problems


def read_file(path: Path, name: str) -> tuple[list[Object], list[Problem]]:
    """The objects of one file, and its problems."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as failed:
        return [], [Problem(name, 0, f"it can't be read: {failed.strerror}")]
    return _sorted(read_each(content, name, Allowance()), name)


def read_text(text: str, name: str) -> tuple[list[Object], list[Problem]]:
    """The objects in YAML or JSON text; of several documents each is judged by itself."""
    return _sorted(_each(text, name, Allowance()), name)


def _sorted(found: Iterator[Object | Problem], name: str) -> tuple[list[Object], list[Problem]]:
    objects: list[Object] = []
    problems: list[Problem] = []
    try:
        for one in found:
            if isinstance(one, Problem):
                problems.append(one)
            else:
                objects.append(one)
    except Spent:
        what = f"it holds more than {MAX_IN_ALL} values of {LETTERS} letters, so the rest of it is not read"
        problems.append(Problem(name, 0, what, "keep only what belongs to this work"))
    return objects, problems


def read_each(content: bytes, name: str, allowance: Allowance) -> Iterator[Object | Problem]:
    """The objects and problems of a file that was read up to a byte more than MAX_BYTES at least, one by one.

    Nothing is read ahead, so whoever has enough may stop. Raises Spent when there is more in it than allowed.
    """
    if len(content) > MAX_BYTES:
        yield Problem(name, 0, f"it is larger than {MAX_BYTES // 2**20} MiB: no manifest is that long")
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield Problem(name, 0, "it is not text in UTF-8", "save it as UTF-8")
        return
    yield from _each(text, name, allowance)


def _each(text: str, name: str, allowance: Allowance) -> Iterator[Object | Problem]:
    is_empty = True
    for start, document in _documents(text):
        allowance.take(_DOCUMENT)
        try:
            for item in _items(_value(document, allowance)):
                is_empty = False
                _require_object(item)
                yield item
        except _Wrong as wrong:
            is_empty = False
            line = start + wrong.line if wrong.line else start + _first_line(document)
            yield Problem(name, line, wrong.what, wrong.mend)
    if is_empty:
        yield Problem(name, 0, "there is no object in it")


class _Loader(LOADER):  # type: ignore[misc]  # the class depends on whether libyaml is there
    """YAML as kubectl reads it on its way to JSON, which has no dates and no bytes."""

    def __init__(self, document: str, allowance: Allowance) -> None:
        super().__init__(document)
        self.nodes, self._allowance = 0, allowance

    def descend_resolver(self, parent: yaml.Node | None, index: Any) -> None:
        """PyYAML calls this before each node that it makes: the only place to count them while they are made."""
        self.nodes += 1
        self._allowance.take(1)
        if self.nodes > MAX_NODES:
            raise _Wrong("it holds more values than any manifest", "keep what belongs to this work",
                         _line(parent) if parent else 0)  # fmt: skip
        super().descend_resolver(parent, index)

    def resolve(self, kind: type[yaml.Node], value: str, implicit: Any) -> str:
        """What an untagged value is: y and n are booleans for kubectl, 1e3, 08 and 0o17 numbers, and 1:30 is none."""
        tag: str = super().resolve(kind, value, implicit)
        if kind is not yaml.ScalarNode or not implicit[0]:
            return tag
        if value in ("y", "Y", "n", "N"):
            return f"{_TAG}bool"
        if value[:1] not in _NUMBERS_BEGIN or value.lower().endswith((".inf", ".nan")):
            return tag
        plain = value.replace("_", "")
        if _WHOLE.fullmatch(plain):
            return f"{_TAG}int"
        if _FLOATING.fullmatch(plain):
            return f"{_TAG}float"
        return f"{_TAG}str" if tag in (f"{_TAG}int", f"{_TAG}float") else tag

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node. PyYAML's own constructors raise whatever comes when a tag and its value don't fit."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, OverflowError):
            raise _Wrong(f"{str(node.value)[:40]!r} is not what its tag says, {node.tag.removeprefix(_TAG)}",
                         "leave the tag out, or write what it says", _line(node)) from None  # fmt: skip


def _text_of(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _text_of_binary(loader: _Loader, node: yaml.ScalarNode) -> str:
    return bytes(loader.construct_yaml_binary(node)).decode()


def _boolean(loader: _Loader, node: yaml.ScalarNode) -> bool:
    written = _text_of(loader, node)
    return written in ("y", "Y") or (written not in ("n", "N") and bool(loader.construct_yaml_bool(node)))


def _digits(loader: _Loader, node: yaml.ScalarNode) -> str:
    written = _text_of(loader, node)
    if ":" in written:  # only with a tag: !!int 1:30
        raise ValueError("a number of base 60")
    return written.replace("_", "")


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int | float | str:
    """A whole number of 64 bits; a greater one is a floating one for kubectl, and text when it is no decimal."""
    written = _digits(loader, node)
    if len(written) <= _LONGEST_NUMBER and -(2**63) <= (value := _integer(written)) < 2**64:
        return value
    return _number(float(written), node) if written.lstrip("+-").isdecimal() else str(node.value)


def _integer(written: str) -> int:
    """As Go's strconv.ParseInt with base 0, for which 017 is 15."""
    return int(written, 8 if re.fullmatch("[+-]?0[0-7]+", written) else 0)


def _floating(loader: _Loader, node: yaml.ScalarNode) -> int | float | str:
    written = _digits(loader, node)
    if written.lower().endswith((".inf", ".nan")):
        raise _Wrong(f"JSON has no number {written}", "write a number, or put it in quotes", _line(node))
    return _number(float(written), node)


def _number(value: float, node: yaml.ScalarNode) -> int | float | str:
    """As Go writes it into JSON, where replicas may be 2 but not 2.0."""
    if not math.isfinite(value):
        return str(node.value)
    return int(value) if value.is_integer() and abs(value) < _LEAST_WITH_EXPONENT else value


for _tag, _constructor in {
    "timestamp": _text_of, "value": _text_of, "merge": _text_of, "binary": _text_of_binary, "bool": _boolean,
    "int": _whole, "float": _floating,
}.items():  # fmt: skip
    _Loader.add_constructor(f"{_TAG}{_tag}", _constructor)


class _Wrong(Exception):
    def __init__(self, what: str, mend: str = "", line: int = 0) -> None:
        self.what, self.mend, self.line = what, mend, line


def _documents(text: str) -> Iterator[tuple[int, str]]:
    """(lines before it, text) of each document."""
    ends = [found.start() for found in _SEPARATOR.finditer(text)]
    lines = 0
    for start, end in zip([0, *ends], [*ends, len(text)], strict=True):
        if text[start:end].strip("- \r\n"):
            yield lines, text[start:end]
        lines += text.count("\n", start, end)


def _first_line(document: str) -> int:
    lines = document.splitlines()
    return next(
        (number for number, line in enumerate(lines, 1) if line.strip() and not line.startswith(("---", "#"))), 1
    )


def _value(document: str, allowance: Allowance) -> Any:
    try:
        return _loaded(document, allowance)
    except yaml.MarkedYAMLError as wrong:
        raise _in_words(wrong, document) from None
    except RecursionError:  # where there is no libyaml, before anything is measured
        raise _Wrong(_TOO_DEEP, "close what is open above") from None
    except (yaml.YAMLError, ValueError) as wrong:
        raise _Wrong(f"it is not YAML: {' '.join(str(wrong).split())}") from None


def _loaded(document: str, allowance: Allowance) -> Any:
    loader = _Loader(document, allowance)
    try:
        node = loader.get_node() if loader.check_node() else None
        if node is None:
            return None
        size = _require_small(node)
        allowance.take(size.nodes - loader.nodes + size.letters // LETTERS)
        return _as_json(loader.construct_document(node))
    finally:
        loader.dispose()


def _as_json(value: Any) -> Any:
    """Keys that YAML took for numbers or booleans are text in JSON."""
    if isinstance(value, dict):
        return {_key(key): _as_json(entry) for key, entry in value.items()}
    if isinstance(value, set):
        return dict.fromkeys(map(_key, value))
    return [_as_json(entry) for entry in value] if isinstance(value, list | tuple) else value


def _key(key: Any) -> str:
    if isinstance(key, bool):
        return str(key).lower()
    return "null" if key is None else str(key)


def _in_words(wrong: yaml.MarkedYAMLError, document: str) -> _Wrong:
    mark = wrong.problem_mark or wrong.context_mark
    line = mark.line + 1 if mark else 0
    lines = document.splitlines()
    here = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip()) + 1]:
        return _Wrong("a tab stands where YAML wants spaces", "indent with spaces", line)
    said = ", ".join(text for text in (wrong.context, wrong.problem) if text)
    return _Wrong(f"it is not YAML: {said}", "compare the indentation with the lines above", line)


@dataclass(frozen=True)
class _Size:
    """What a node comes to once aliases are followed."""

    nodes: int
    letters: int
    depth: int


def _require_small(root: yaml.Node) -> _Size:
    """The size of it all.

    Refuses more than MAX_NODES, more text than a file has, a value inside itself, and a key given twice.
    """
    sizes: dict[int, _Size] = {}
    open_nodes: set[int] = set()
    pending: list[tuple[yaml.Node, bool]] = [(root, False)]
    while pending:
        node, is_done = pending.pop()
        children = _children(node)
        if is_done:
            open_nodes.discard(id(node))
            sizes[id(node)] = _sum(node, [sizes[id(child)] for child in children])
            continue
        if id(node) in sizes:
            continue
        if id(node) in open_nodes:
            raise _Wrong("an alias contains itself", "write the values out", _line(node))
        _require_single_keys(node)
        open_nodes.add(id(node))
        pending.append((node, True))
        pending += [(child, False) for child in children]
    return sizes[id(root)]


def _sum(node: yaml.Node, parts: list[_Size]) -> _Size:
    size = _Size(
        nodes=1 + sum(part.nodes for part in parts),
        letters=sum(part.letters for part in parts) + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0),
        depth=1 + max((part.depth for part in parts), default=0),
    )
    if size.nodes > MAX_NODES or size.letters > MAX_BYTES:
        raise _Wrong("its aliases make it larger than any manifest", "write the values out", _line(node))
    if size.depth > MAX_DEPTH:
        raise _Wrong(_TOO_DEEP, "close what is open above", _line(node))
    return size


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _require_single_keys(node: yaml.Node) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    known: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in known:
                raise _Wrong(f"{key.value!r} is given twice at the same place", "keep one of them", _line(key))
            known.add(key.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _items(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        return list(value["items"])
    return [value]


def _require_object(item: Any) -> None:
    if not isinstance(item, dict):
        raise _Wrong(f"it is {_shape(item)}, not an object", "begin with apiVersion: and kind:")
    for field in ("apiVersion", "kind"):
        if not isinstance(item.get(field), str):
            close = difflib.get_close_matches(field, list(item)[:_FIELDS], 1)
            raise _Wrong(f"the object has no {field}" + (f", but a field {close[0]!r}" if close else ""),
                              f"add {field}: at the left edge")  # fmt: skip
    kind = item["kind"]
    if kind not in KINDS:
        known = {name.lower(): name for name in KINDS}
        close = difflib.get_close_matches(kind[:_LONGEST].lower(), known, 1, 0.8)
        if close:
            raise _Wrong(f"there is no kind {kind!r}", f"perhaps {known[close[0]]}")
    metadata = item.get("metadata")
    if not isinstance(metadata, dict) or not (metadata.get("name") or metadata.get("generateName")):
        raise _Wrong(f"the {kind} has no metadata.name", "give it a name")
    for field in ("name", "generateName", "namespace"):
        if not isinstance(metadata.get(field) or "", str):
            raise _Wrong(f"metadata.{field} of the {kind} is {_shape(metadata[field])}, not text", "put it in quotes")


def _shape(value: Any) -> str:
    called = {"str": "text", "int": "number", "float": "number"}
    name = type(value).__name__
    return "a list" if isinstance(value, list) else f"the {called.get(name, name)} {str(value)[:40]!r}"
