"""Label selectors, as the API server and the scheduler read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector (matchLabels, matchExpressions) takes an object; an empty one takes all."""
    wanted = (selector.get("matchLabels") or {}).items()
    return all(labels.get(key) == value for key, value in wanted) and all(
        holds(rule, labels) for rule in selector.get("matchExpressions") or []
    )


def holds(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """One requirement {key, operator, values}; the last two operators are known to node selectors only."""
    value, values = labels.get(rule["key"]), rule.get("values") or []
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and _whole(value) and int(value) > int(values[0])
        case "Lt":
            return value is not None and _whole(value) and int(value) < int(values[0])
    raise ValueError(f"unknown operator {rule['operator']!r}")


def _whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def in_words(rule: Mapping[str, Any]) -> str:
    """A requirement as kubectl would take it on a command line."""
    key, operator = str(rule["key"]), str(rule["operator"])
    values = [str(value) for value in rule.get("values") or []]
    words: dict[str, str] = {
        "In": f"{key}={values[0]}" if len(values) == 1 else f"{key} in ({', '.join(values)})",
        "NotIn": f"{key} not in ({', '.join(values)})",
        "Exists": f"a label {key}",
        "DoesNotExist": f"no label {key}",
        "Gt": f"{key} > {''.join(values)}",
        "Lt": f"{key} < {''.join(values)}",
    }
    return words.get(operator, operator)
