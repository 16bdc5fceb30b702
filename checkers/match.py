"""Holding an expected fragment against a live object: a subset match that says where they differ.

Lists of named things match by Kubernetes' own merge keys (patchMergeKey in k8s.io/api types), never by index;
quantities compare by value where the field holds one. Expected values may be predicates (AtLeast, Present ...).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkers import quantity

# Fields whose values are quantities: maps of them, and single ones.
_QUANTITY_MAPS = {"requests", "limits", "capacity", "allocatable", "hard", "used", "overhead", "min", "max", "default",
                  "defaultRequest"}  # fmt: skip
# Below these anything is text, whatever its key looks like.
_PLAIN_TEXT = {"labels", "annotations", "matchLabels", "selector", "nodeSelector", "data", "stringData"}
_QUANTITY_FIELDS = {"sizeLimit", "storage", "averageValue", "divisor"}
# Merge keys by the list's own name, most telling first.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",), "initContainers": ("name",), "volumes": ("name",), "env": ("name",),
    "volumeMounts": ("mountPath",), "volumeDevices": ("devicePath",), "conditions": ("type",), "metrics": ("type",),
    "ports": ("containerPort", "port", "name"), "tolerations": ("key", "effect"), "taints": ("key", "effect"),
    "imagePullSecrets": ("name",), "hostAliases": ("ip",), "topologySpreadConstraints": ("topologyKey",),
    "ownerReferences": ("uid", "name"), "subjects": ("name",), "volumeClaimTemplates": ("metadata.name",),
    "containerStatuses": ("name",), "items": ("key",),
}  # fmt: skip
_DEEPEST = 64


class Predicate:
    """An expected value that isn't one exact value."""

    def accepts(self, value: Any, path: str) -> bool:
        raise NotImplementedError


@dataclass(frozen=True)
class Present(Predicate):
    """Any value, as long as there is one."""

    def accepts(self, value: Any, path: str) -> bool:
        return value not in (None, "", [], {}) and not isinstance(value, _Missing)

    def __str__(self) -> str:
        return "some value"


@dataclass(frozen=True)
class Absent(Predicate):
    """The field isn't there, or is empty."""

    def accepts(self, value: Any, path: str) -> bool:
        return value in (None, "", [], {}) or isinstance(value, _Missing)

    def __str__(self) -> str:
        return "no value"


@dataclass(frozen=True)
class AtLeast(Predicate):
    least: quantity.Quantity

    def accepts(self, value: Any, path: str) -> bool:
        return _ordered(value, lambda found: found >= quantity.parse(self.least))

    def __str__(self) -> str:
        return f"at least {self.least}"


@dataclass(frozen=True)
class AtMost(Predicate):
    most: quantity.Quantity

    def accepts(self, value: Any, path: str) -> bool:
        return _ordered(value, lambda found: found <= quantity.parse(self.most))

    def __str__(self) -> str:
        return f"at most {self.most}"


class OneOf(Predicate):
    def __init__(self, *values: Any) -> None:
        self.values = values

    def accepts(self, value: Any, path: str) -> bool:
        return any(_same(expected, value, path) for expected in self.values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(shown, self.values))}"


@dataclass(frozen=True)
class Matching(Predicate):
    """A regular expression for the whole value."""

    pattern: str

    def accepts(self, value: Any, path: str) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value[:4096]) is not None

    def __str__(self) -> str:
        return f"something like {self.pattern}"


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()


@dataclass(frozen=True)
class Mismatch:
    """Where an object differs: a field path such as spec.containers[name=api].image."""

    path: str
    expected: Any
    observed: Any

    def __str__(self) -> str:
        what = "is missing" if isinstance(self.observed, _Missing) else f"is {shown(self.observed)}"
        kind = ""
        if shown(self.expected).strip("'") == shown(self.observed).strip("'") and type(self.expected) is not type(
            self.observed
        ):
            kind = f" (a {_type(self.observed)}; it must be a {_type(self.expected)})"
        return f"{self.path or 'the object'}: expected {shown(self.expected)}, but it {what}{kind}"


def shown(value: Any) -> str:
    """A value as in YAML, cut to a sensible length."""
    try:
        text = repr(value) if isinstance(value, str) else str(value)
    except RecursionError:  # str() of what a student has nested
        text = f"a {_type(value)} nested very deeply"
    return text if len(text) <= 120 else text[:117] + "..."


def _type(value: Any) -> str:
    return {str: "text", bool: "true/false value", int: "number", float: "number"}.get(
        type(value), type(value).__name__
    )


def mismatches(expected: Any, actual: Any, path: str = "") -> list[Mismatch]:
    """Where `actual` does not contain `expected`; empty when it does. Never raises, whatever `actual` is.

    An expected empty list or mapping only asks that there is one.
    """
    return _compare(expected, actual, path, 0)


def closest(expected: Any, candidates: Sequence[Any]) -> tuple[Any, list[Mismatch]]:
    """The candidate with the fewest mismatches, and those; (None, []) without candidates."""
    compared = [(candidate, mismatches(expected, candidate)) for candidate in candidates]
    return min(compared, key=lambda pair: len(pair[1]), default=(None, []))


def _compare(expected: Any, actual: Any, path: str, depth: int) -> list[Mismatch]:
    if depth > _DEEPEST:
        return [Mismatch(path, "something less deep", "nested too deeply")]
    if isinstance(expected, Predicate):
        return [] if expected.accepts(actual, path) else [Mismatch(path, expected, actual)]
    if isinstance(expected, Mapping):
        if not isinstance(actual, Mapping):
            return [Mismatch(path, dict(expected), actual)]
        found: list[Mismatch] = []
        for key, value in expected.items():
            found += _compare(value, actual.get(key, MISSING), f"{path}.{key}" if path else str(key), depth + 1)
        return found
    if isinstance(expected, list | tuple):
        if not isinstance(actual, list | tuple):
            return [Mismatch(path, list(expected), actual)]
        return _compare_lists(expected, actual, path, depth)
    return [] if _same(expected, actual, path) else [Mismatch(path, expected, actual)]


def _compare_lists(expected: Sequence[Any], actual: Sequence[Any], path: str, depth: int) -> list[Mismatch]:
    keys = _KEYS.get(path.rsplit(".", 1)[-1], ())
    found: list[Mismatch] = []
    unkeyed = []
    for wanted in expected:
        key = next((key for key in keys if isinstance(wanted, Mapping) and _at(wanted, key) is not MISSING), "")
        if not key or isinstance(_at(wanted, key), Predicate):
            unkeyed.append(wanted)
            continue
        where = f"{path}[{key}={_at(wanted, key)}]"
        named = [item for item in actual if isinstance(item, Mapping) and _at(item, key) == _at(wanted, key)]
        found += closest_mismatches(wanted, named, where, depth) if named else [Mismatch(where, wanted, MISSING)]
    return found + _assign(unkeyed, actual, path, depth)


def closest_mismatches(wanted: Any, named: Sequence[Any], where: str, depth: int) -> list[Mismatch]:
    """Several things may share a merge key (two tolerations of one taint): the best one counts."""
    return min((_compare(wanted, item, where, depth + 1) for item in named), key=len)


def _assign(wanted: Sequence[Any], actual: Sequence[Any], path: str, depth: int) -> list[Mismatch]:
    """Give each wanted element an actual one of its own (Kuhn's augmenting paths)."""
    fits = [[index for index, item in enumerate(actual) if not _compare(one, item, path, depth + 1)] for one in wanted]
    taken: dict[int, int] = {}

    def place(one: int, tried: set[int]) -> bool:
        for index in fits[one]:
            if index not in tried:
                tried.add(index)
                if index not in taken or place(taken[index], tried):
                    taken[index] = one
                    return True
        return False

    return [Mismatch(f"{path}[]", wanted[one], list(actual)) for one in range(len(wanted)) if not place(one, set())]


def _at(item: Mapping[str, Any], key: str) -> Any:
    value: Any = item
    for part in key.split("."):
        value = value.get(part, MISSING) if isinstance(value, Mapping) else MISSING
    return value


def _same(expected: Any, actual: Any, path: str) -> bool:
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if type(expected) is type(actual) and expected == actual:
        return True
    if _is_quantity(path) and isinstance(actual, str | int | float) and isinstance(expected, str | int | float):
        try:
            return quantity.equal(expected, actual)
        except ValueError:
            return False
    return isinstance(expected, int | float) and isinstance(actual, int | float) and expected == actual


def _is_quantity(path: str) -> bool:
    parts = re.sub(r"\[[^\]]*\]", "", path).split(".")
    if parts[-1] in _QUANTITY_FIELDS:
        return True
    # A resource's name may hold dots itself: requests.nvidia.com/gpu.
    return any(part in _QUANTITY_MAPS for part in parts[:-1]) and not _PLAIN_TEXT.intersection(parts)


def _ordered(value: Any, holds: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        return bool(holds(quantity.parse(value)))
    except ValueError:
        return False
