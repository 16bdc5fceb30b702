"""What is built is keyed by its recipe: the same inputs give the same key, any change that matters another."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import hashing
from cluster.images import ImageRecipe, recipe_hash

FILES = {"Dockerfile": "FROM scratch\n", "app/main.py": "print()\n", "app/empty": ""}


def folder(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return folder(tmp_path / "recipe", FILES)


def test_neither_place_nor_order_of_writing_counts(recipe: Path, tmp_path: Path) -> None:
    backwards = folder(tmp_path / "elsewhere" / "copy", dict(reversed(FILES.items())))
    assert hashing.of_files(backwards) == hashing.of_files(recipe)


def swap_contents(root: Path) -> None:
    (root / "Dockerfile").write_text(FILES["app/main.py"])
    (root / "app/main.py").write_text(FILES["Dockerfile"])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: (root / "app/main.py").write_text("print(1)\n"), id="content"),
        pytest.param(lambda root: (root / "app/main.py").rename(root / "app/other.py"), id="name"),
        pytest.param(lambda root: (root / "app/main.py").rename(root / "main.py"), id="folder"),
        pytest.param(lambda root: (root / "app/new").touch(), id="one more"),
        pytest.param(lambda root: (root / "app/empty").unlink(), id="one less"),
        pytest.param(lambda root: (root / "app/main.py").chmod(0o755), id="executable"),
        pytest.param(swap_contents, id="two swapped"),
    ],
)
def test_what_matters_changes_the_hash(recipe: Path, change: Callable[[Path], object]) -> None:
    before = hashing.of_files(recipe)
    change(recipe)
    assert hashing.of_files(recipe) != before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: folder(root, {"app/__pycache__/main.cpython-311.pyc": "x"}), id="compiled"),
        pytest.param(lambda root: folder(root, {".pytest_cache/v": "x"}), id="pytest's cache"),
        pytest.param(lambda root: os.utime(root / "Dockerfile", (0, 0)), id="time"),
        pytest.param(lambda root: (root / "Dockerfile").chmod(0o600), id="umask"),
        pytest.param(lambda root: (root / "void").mkdir(), id="empty folder"),
    ],
)
def test_what_does_not_matter_leaves_the_hash(recipe: Path, change: Callable[[Path], object]) -> None:
    before = hashing.of_files(recipe)
    change(recipe)
    assert hashing.of_files(recipe) == before


def test_a_single_file_has_a_hash_of_its_content(recipe: Path) -> None:
    before = hashing.of_files(recipe / "Dockerfile")
    assert before != hashing.of_files(recipe / "app/main.py")
    (recipe / "Dockerfile").write_text("FROM other\n")
    assert hashing.of_files(recipe / "Dockerfile") != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a", "b"], ["b", "a"]),
        (["ab", "c"], ["a", "bc"]),
        (["abc"], ["a", "b", "c"]),
        (["a"], ["a", ""]),
        ([], ["a"]),
    ],
)
def test_order_and_borders_of_parts_count(one: list[str], other: list[str]) -> None:
    assert hashing.combined(one) != hashing.combined(other)
    assert hashing.combined(one) == hashing.combined(iter(one))


def test_a_hash_can_stand_in_an_image_tag_and_in_a_file_name(recipe: Path) -> None:
    for made in (hashing.of_files(recipe), hashing.combined(["a"])):
        assert len(made) == 12
        assert set(made) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "app:v2"},
        {"args": {"RELEASE": "v2", "COLOUR": "red"}},
        {"args": {"RELEASE": "v1"}},
        {"args": {"RELEASE": "red", "COLOUR": "v1"}},
        {"requirements": None},
    ],
)
def test_an_image_is_built_again_when_its_recipe_changes(recipe: Path, change: dict[str, object]) -> None:
    requirements = folder(recipe.parent, {"requirements.txt": "numpy==2\n"}) / "requirements.txt"
    image = ImageRecipe("app:v1", recipe, {"RELEASE": "v1", "COLOUR": "red"}, requirements)
    assert recipe_hash(replace(image, **change)) != recipe_hash(image)  # type: ignore[arg-type]


def test_an_image_is_built_again_when_a_file_or_a_requirement_changes(recipe: Path) -> None:
    requirements = folder(recipe.parent, {"requirements.txt": "numpy==2\n"}) / "requirements.txt"
    image = ImageRecipe("app:v1", recipe, {}, requirements)
    seen = {recipe_hash(image)}
    (recipe / "app/main.py").write_text("print(2)\n")
    seen.add(recipe_hash(image))
    requirements.write_text("numpy==3\n")
    seen.add(recipe_hash(image))
    assert len(seen) == 3


def test_the_order_of_build_arguments_does_not_count(recipe: Path) -> None:
    one = ImageRecipe("app:v1", recipe, {"A": "1", "B": "2"})
    other = ImageRecipe("app:v1", recipe, {"B": "2", "A": "1"})
    assert recipe_hash(one) == recipe_hash(other)
