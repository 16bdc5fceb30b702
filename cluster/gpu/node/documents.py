"""YAML that somebody else wrote: read, or told what is wrong with it, whatever that is."""

from __future__ import annotations

from typing import Any

import yaml

from cluster.yamls import load


def read(text: str) -> Any:
    """The only document in `text`. Raises ValueError that says what can't be read."""
    try:
        return load(text)
    except yaml.YAMLError as broken:
        raise ValueError(str(broken)) from None
    except Exception as broken:  # noqa: BLE001 - PyYAML passes on what Python says to `!!int abc` or a 31st of February
        raise ValueError(f"a value can't be read: {str(broken) or type(broken).__name__}") from None


def shown(value: object) -> str:
    """The value for a message, cut short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4300 digits
        return "something too long to show"
    return text if len(text) <= 200 else f"{text[:200]}..."
