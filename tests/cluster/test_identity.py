"""Nothing is done to a cluster that this checkout didn't make."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from cluster import note
from cluster.api import Api
from cluster.errors import KailabError
from cluster.identity import Identity, uid
from cluster.workspace import Workspace


class FakeApi:
    """A cluster that can only be asked for kube-system; anything else is an AttributeError."""

    def __init__(self, uid: str | None) -> None:
        self._uid = uid

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any] | None:
        assert (kind, name) == ("Namespace", "kube-system")
        return None if self._uid is None else {"metadata": {"name": name, "uid": self._uid}}


def cluster(uid: str | None) -> Api:
    return cast("Api", FakeApi(uid))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / ".kailab").mkdir()
    return Workspace(tmp_path / ".kailab", tmp_path / "cache")


def files(workspace: Workspace) -> dict[str, str]:
    return {path.name: path.read_text() for path in workspace.state.iterdir()}


def test_a_cluster_is_known_by_its_kube_system() -> None:
    assert uid(cluster("u-1")) == "u-1"


def test_our_own_cluster_is_recognized(workspace: Workspace) -> None:
    assert Identity.verify(workspace, cluster("ours")) == "ours"
    assert Identity.verify(workspace, cluster("ours")) == "ours"


@pytest.mark.parametrize("other", ["theirs", None])
def test_a_foreign_cluster_is_refused_and_the_note_stays(workspace: Workspace, other: str | None) -> None:
    Identity.verify(workspace, cluster("ours"))
    before = files(workspace)
    with pytest.raises(KailabError, match="not the one that kailab made") as caught:
        Identity.verify(workspace, cluster(other))
    assert "ours" in caught.value.why
    assert (other or "") in caught.value.why
    assert "kailab" in caught.value.mend
    assert files(workspace) == before
    assert Identity.verify(workspace, cluster("ours")) == "ours"


@pytest.mark.parametrize("note", [None, "", "{", "[]", "null", '"ours"', "{}"])
def test_a_lost_or_damaged_note_is_written_again(workspace: Workspace, note: str | None) -> None:
    if note is not None:
        (workspace.state / "cluster.json").write_text(note)
    assert not Identity.creating(workspace)
    assert Identity.verify(workspace, cluster("ours")) == "ours"
    with pytest.raises(KailabError):
        Identity.verify(workspace, cluster("theirs"))


def test_a_creation_counts_as_begun_until_kind_has_made_the_nodes(workspace: Workspace) -> None:
    assert not Identity.creating(workspace)
    Identity.begin(workspace)
    assert Identity.creating(workspace)
    Identity.end(workspace)
    assert not Identity.creating(workspace)


def test_a_new_creation_forgets_the_cluster_before(workspace: Workspace) -> None:
    Identity.verify(workspace, cluster("old"))
    Identity.begin(workspace)
    Identity.end(workspace)
    assert Identity.verify(workspace, cluster("new")) == "new"


def test_forgetting_is_complete_and_can_be_repeated(workspace: Workspace) -> None:
    Identity.verify(workspace, cluster("ours"))
    for _ in range(2):
        Identity.forget(workspace)
    assert files(workspace) == {}
    assert Identity.verify(workspace, cluster("another")) == "another"


def test_the_engine_that_holds_a_cluster_is_noted_until_it_is_gone(workspace: Workspace) -> None:
    assert Identity.engine(workspace) == ""
    Identity.begin(workspace, "podman")
    assert Identity.engine(workspace) == "podman"
    Identity.end(workspace)
    assert Identity.engine(workspace) == "podman"
    assert Identity.verify(workspace, cluster("ours")) == "ours"
    Identity.forget(workspace)
    assert Identity.engine(workspace) == ""


def test_a_cluster_of_an_earlier_kailab_has_no_engine_noted(workspace: Workspace) -> None:
    (workspace.state / "cluster.json").write_text('{"uid": "ours"}')
    assert Identity.engine(workspace) == ""
    assert Identity.verify(workspace, cluster("ours")) == "ours"


def test_a_copied_checkout_is_refused_the_cluster_of_its_original(workspace: Workspace, tmp_path: Path) -> None:
    Identity.begin(workspace)
    Identity.end(workspace)
    Identity.verify(workspace, cluster("ours"))
    shared = Workspace(tmp_path / "home", workspace.cache)  # of the same checkout, as its tests have them
    shutil.copytree(workspace.state, shared.state)
    assert Identity.verify(shared, cluster("ours")) == "ours"
    for state in (workspace.state, shared.state):
        note.write(state, {**note.read(state), "root": "/srv/original"})
    with pytest.raises(KailabError, match="is a copy") as refused:
        Identity.verify(shared, cluster("ours"))
    assert refused.value.mend.startswith("kailab up")
    assert str(workspace.state) in refused.value.why


def test_a_look_from_another_terminal_does_not_end_a_creation(workspace: Workspace) -> None:
    Identity.begin(workspace)
    Identity.verify(workspace, cluster("ours"))
    assert Identity.creating(workspace)
