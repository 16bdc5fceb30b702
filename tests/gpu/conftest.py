"""What tests of the simulated GPUs share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets' names may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="k-") as made:
        yield Path(made)
