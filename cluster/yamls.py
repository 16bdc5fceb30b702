"""YAML through libyaml, the fast safe loader, for files of our own and of kind."""

from __future__ import annotations

from typing import Any

import yaml

# Without libyaml, PyYAML's own safe loader does the same, ten times slower.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: str) -> Any:
    """The only document in `text`. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=LOADER)  # noqa: S506 - a safe loader, which ruff can't see


def load_all(text: str) -> list[Any]:
    """All documents in `text` that aren't empty. Raises yaml.YAMLError."""
    return [document for document in yaml.load_all(text, Loader=LOADER) if document]
