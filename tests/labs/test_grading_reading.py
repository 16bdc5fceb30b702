"""Submissions are read without being trusted: nothing outside of them is opened, nothing in them is run."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from checkers.manifests import MAX_BYTES
from cluster.errors import KailabError
from labs.grading.reading import MAX_FILES, MAX_NOTEBOOK, MAX_OBJECTS, read_submission, students

GOOD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {}}}\n"


def _names(path: Path) -> tuple[list[str], str]:
    found = read_submission("ada", path)
    return [item["metadata"]["name"] for item in found.objects], "\n".join(found.problems)


def _notebook(*cells: str | list[str], kind: str = "code") -> str:
    return json.dumps({"nbformat": 4, "cells": [{"cell_type": kind, "source": source} for source in cells]})


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.yml").write_text(GOOD.format("b"))
    (tmp_path / "a.yaml").write_text(f"{GOOD.format('a1')}---\n{GOOD.format('a2')}")
    (tmp_path / "sub" / "c.json").write_text('{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}')
    (tmp_path / "notes.txt").write_text("not YAML: [")
    assert _names(tmp_path) == (["a1", "a2", "b", "c"], "")


def test_one_yaml_file_is_a_submission(tmp_path: Path) -> None:
    (tmp_path / "ada.yaml").write_text(GOOD.format("a"))
    assert _names(tmp_path / "ada.yaml") == (["a"], "")


def test_of_a_notebook_only_manifest_cells_count_and_no_code_is_run(tmp_path: Path) -> None:
    cells = (
        f"raise SystemExit('{tmp_path}')",
        ["%%manifest\n", GOOD.format("a")],
        f"\n%%manifest --quietly\n{GOOD.format('b')}",
        f"%%manifests\n{GOOD.format('not-our-magic')}",
        "%%manifest\n  ",
    )
    (tmp_path / "lab.ipynb").write_text(_notebook(*cells))
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "old.ipynb").write_text(_notebook(f"%%manifest\n{GOOD.format('old')}"))
    assert _names(tmp_path) == (["a", "b"], "")


@pytest.mark.parametrize(("metadata", "names"), [
    ({"tags": ["demonstration"]}, []), ({"tags": ["mine"]}, ["a"]), ({"tags": "demonstration"}, ["a"]), ([], ["a"]),
])  # fmt: skip
def test_what_a_chapter_only_shows_is_no_work(metadata: object, names: list[str], tmp_path: Path) -> None:
    notebook = json.loads(_notebook(f"%%manifest\n{GOOD.format('a')}"))
    notebook["cells"][0]["metadata"] = metadata
    (tmp_path / "lab.ipynb").write_text(json.dumps(notebook))
    assert _names(tmp_path)[0] == names


def test_a_problem_in_a_notebook_names_its_cell(tmp_path: Path) -> None:
    (tmp_path / "lab.ipynb").write_text(_notebook("1", "%%manifest\nkind: Pod\n"))
    assert "lab.ipynb, code cell 2, line 1: the object has no apiVersion" in _names(tmp_path)[1]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 3}', '{"cells": [{"cell_type": "code", "source": 3}]}',
                                  '{"cells": [{"cell_type": "code"}]}', "[" * 100_000])  # fmt: skip
def test_a_broken_notebook_is_a_problem_and_no_crash(tmp_path: Path, text: str) -> None:
    (tmp_path / "lab.ipynb").write_text(text)
    assert "not a notebook that Jupyter would open" in _names(tmp_path)[1]


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text(GOOD.format("secret"))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.yaml").write_text(GOOD.format("x"))
    home = tmp_path / "ada"
    home.mkdir()
    (home / "link.yaml").symlink_to(secret)
    (home / "folder").symlink_to(tmp_path / "outside")
    (home / "own.yaml").write_text(GOOD.format("own"))
    names, problems = _names(home)
    assert names == ["own"]
    assert "link.yaml: it is a link" in problems


def test_a_pipe_does_not_stop_the_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "pipe.yaml: it is a link or no plain file" in _names(tmp_path)[1]


def test_too_large_files_are_named_and_left(tmp_path: Path) -> None:
    for name, size in (("a.yaml", MAX_BYTES), ("b.ipynb", MAX_NOTEBOOK)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size + 1)
    names, problems = _names(tmp_path)
    assert not names
    assert "a.yaml: it is larger than 3 MiB" in problems
    assert "b.ipynb: it is larger than 20 MiB" in problems


def test_an_alias_bomb_is_a_problem(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    assert "its aliases make it larger than any manifest" in _names(tmp_path)[1]


def test_numbers_of_objects_and_files_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text("---\n".join(GOOD.format(f"a{n}") for n in range(10_000)))
    names, problems = _names(tmp_path)
    assert len(names) == MAX_OBJECTS
    assert "it holds 10000 objects" in problems
    for number in range(MAX_FILES + 5):
        (tmp_path / f"{number}.yaml").write_text(GOOD.format("a"))
    assert f"it holds {MAX_FILES + 6} files" in _names(tmp_path)[1]


def test_an_archive_is_read_in_memory_whatever_its_names_say(tmp_path: Path) -> None:
    path = tmp_path / "ada.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../../../tmp/kailab-slipped.yaml", GOOD.format("slip"))
        archive.writestr("/etc/kailab-slipped.yaml", GOOD.format("rooted"))
        archive.writestr("__MACOSX/x.yaml", "[")
        archive.writestr("lab/deployment.yaml", GOOD.format("own"))
    names, problems = _names(path)
    assert (sorted(names), problems) == (["own", "rooted", "slip"], "")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ada.zip"]
    assert not Path("/tmp/kailab-slipped.yaml").exists()


def test_an_archive_that_grows_too_large_is_left(tmp_path: Path) -> None:
    path = tmp_path / "ada.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.yaml", b"#" * (50 * 2**20))
    assert path.stat().st_size < 100_000
    assert "bomb.yaml: it is larger than 3 MiB" in _names(path)[1]


def test_a_broken_archive_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "ada.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.yaml", GOOD.format("a") * 50)
    content = bytearray(path.read_bytes())
    content[60:80] = b"\0" * 20
    path.write_bytes(content)
    assert "the archive can't be read" in _names(path)[1]


def test_nothing_to_grade_is_said(tmp_path: Path) -> None:
    assert "nothing to grade was found" in _names(tmp_path)[1]


def test_whose_a_submission_is(tmp_path: Path) -> None:
    paths = [tmp_path / "ada", tmp_path / "bob.yaml", tmp_path / "submitted" / "eve" / "lab-06"]
    for path in paths:
        path.mkdir(parents=True) if not path.suffix else path.write_text("")
    assert list(students(paths, "lab-06")) == ["ada", "bob", "eve"]
    (tmp_path / "other" / "ada").mkdir(parents=True)
    with pytest.raises(KailabError, match="both are the work of ada"):
        students([*paths, tmp_path / "other" / "ada"], "lab-06")
    with pytest.raises(KailabError, match="There is no"):
        students([tmp_path / "nobody"], "lab-06")


def test_the_digest_follows_what_is_graded_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    before = read_submission("ada", tmp_path).digest
    (tmp_path / "notes.txt").write_text("a thought")
    (tmp_path / "a.yaml").write_text("# a comment\n" + GOOD.format("a"))
    assert read_submission("ada", tmp_path).digest == before
    (tmp_path / "a.yaml").write_text(GOOD.format("b"))
    assert read_submission("ada", tmp_path).digest != before
