"""Every checkout has a cluster of its own, and always the same one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.workspace import SOURCE_ROOT, Workspace


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAILAB_HOME", raising=False)
    monkeypatch.delenv("KAILAB_CACHE", raising=False)


def here(monkeypatch: pytest.MonkeyPatch, home: Path | str) -> Workspace:
    monkeypatch.setenv("KAILAB_HOME", str(home))
    return Workspace.here()


def test_two_checkouts_get_clusters_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = [tmp_path / name / ".kailab" for name in ("one", "two", "one/one", "one ")]
    assert len({here(monkeypatch, place).cluster_name for place in places}) == len(places)


def test_the_same_checkout_gets_the_same_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "one")
    monkeypatch.chdir(tmp_path / "one")
    ways = [tmp_path / "one/.kailab", tmp_path / "link/.kailab", tmp_path / "one/../one/.kailab/", ".kailab"]
    assert len({here(monkeypatch, way).cluster_name for way in ways}) == 1


def test_a_cluster_name_is_one_that_kind_accepts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = here(monkeypatch, tmp_path / "Ünïcode & spaces" / ".kailab")
    assert re.fullmatch(r"kailab-[0-9a-f]{6}", odd.cluster_name)


def test_state_lies_in_the_checkout_and_not_where_one_happens_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Workspace.here().state == SOURCE_ROOT / ".kailab"
    assert Workspace.here().cluster_name == Workspace(SOURCE_ROOT / ".kailab", tmp_path).cluster_name


def test_an_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Workspace.here()
    monkeypatch.setenv("KAILAB_CACHE", "")
    assert here(monkeypatch, "") == usual


def test_caches_are_shared_and_kept_apart_from_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAILAB_CACHE", str(tmp_path / "cache"))
    one, two = here(monkeypatch, tmp_path / "one/.kailab"), here(monkeypatch, tmp_path / "two/.kailab")
    assert one.bin == two.bin
    assert one.bin.is_relative_to(tmp_path / "cache")
    assert one.kubeconfig != two.kubeconfig
    assert one.kubeconfig.is_relative_to(one.state)
    assert one.logs.is_relative_to(one.state)


def test_students_work_in_plain_sight_beside_the_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert here(monkeypatch, tmp_path / "course/.kailab").work == tmp_path / "course/work"
