"""Which kind and kubectl are taken: those on PATH where they fit our Kubernetes, else our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import tools
from cluster.workspace import Workspace


def put(program: Path, says: str) -> Path:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with an empty cache, and a PATH with one folder for programs of the user's."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return Workspace(tmp_path / ".kailab", tmp_path / "cache")


def test_a_kind_on_path_is_taken_when_it_can_make_our_nodes(here: Workspace, tmp_path: Path) -> None:
    assert tools.find_kind(here) is None
    theirs = put(tmp_path / "path" / "kind", "kind v0.32.0 go1.25.0 linux/amd64")
    assert tools.find_kind(here) == theirs


@pytest.mark.parametrize("says", ["kind v0.31.0 go1.25.5 linux/amd64", "kind v0.9.0", "not a version", ""])
def test_ours_is_taken_where_theirs_is_too_old_for_our_kubernetes(here: Workspace, tmp_path: Path, says: str) -> None:
    """What kind wrote before 0.32 is not read by kubeadm any more."""
    put(tmp_path / "path" / "kind", says)
    assert tools.find_kind(here) is None
    ours = put(here.bin / "kind", "kind v0.33.0 go1.26.0 linux/amd64")
    assert tools.find_kind(here) == ours


@pytest.mark.parametrize(
    ("says", "fits"), [("v1.36.4", True), ("v1.38.0", True), ("v1.35.9", False), ("v2.37.0", False)]
)
def test_a_kubectl_fits_one_minor_version_to_either_side(
    here: Workspace, tmp_path: Path, says: str, fits: bool
) -> None:
    theirs = put(tmp_path / "path" / "kubectl", f"Client Version: {says}")
    assert tools.find_kubectl(here) == (theirs if fits else None)
