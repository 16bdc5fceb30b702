"""Submissions are read without being trusted: nothing outside of them is opened, nothing in them is run."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Never

import pytest

from checkers.manifests import MAX_BYTES, MAX_IN_ALL
from cluster.errors import KailabError
from labs.grading import reading
from labs.grading.reading import MAX_FILES, MAX_NOTEBOOK, MAX_OBJECTS, MAX_PROBLEMS, read_submission, students

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
    assert problems == f"it holds more than {MAX_OBJECTS} objects; the first {MAX_OBJECTS} are graded"
    for number in range(MAX_FILES + 5):
        (tmp_path / f"{number}.yaml").write_text(GOOD.format("a"))
    assert f"it holds {MAX_FILES + 6} files" in _names(tmp_path)[1]


def test_as_many_objects_as_there_may_be_are_no_problem(tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text("---\n".join(GOOD.format(f"a{n}") for n in range(MAX_OBJECTS)))
    names, problems = _names(tmp_path)
    assert (len(names), problems) == (MAX_OBJECTS, "")


def test_all_files_together_have_so_many_values(tmp_path: Path) -> None:
    path = tmp_path / "ada.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.yaml", GOOD.format("own"))
        for number in range(1, MAX_FILES):
            archive.writestr(f"{number}.yaml", f"{GOOD.format('x')}data: [{'b, ' * 100_000}]")
    started = time.process_time()
    found = read_submission("ada", path)
    assert time.process_time() - started < 30  # all of it: 25 minutes
    assert len(found.objects) == 5
    assert found.problems == (
        f"its files hold more than {MAX_IN_ALL} values of 20 letters; what comes after those is not read",
    )


def test_all_files_together_have_so_much_text_also_after_aliases(tmp_path: Path) -> None:
    text = f"{GOOD.format('a')}data: {{x: &x {'x' * 30_000}, y: [{'*x, ' * 99}]}}\n"
    for number in range(3):
        (tmp_path / f"{number}.yaml").write_text("---\n".join([text] * 30))
    found = read_submission("ada", tmp_path)
    assert len(json.dumps(found.objects)) < 11 * 10**6  # all of it: 270 MB
    assert f"its files hold more than {MAX_IN_ALL} values" in found.problems[0]


def test_all_files_together_have_so_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ada.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.yaml", GOOD.format("own"))
        for number in range(1, 30):
            archive.writestr(f"{number:02}.ipynb", _notebook() + " " * 19 * 2**20)
    assert _names(path) == (
        ["own"],
        "its files are larger than 60 MiB in all; 04.ipynb and what comes after it is not read",
    )
    for number in range(1, 5):
        with (tmp_path / f"{number}.ipynb").open("wb") as file:
            file.truncate(19 * 2**20)
    path.unlink()
    assert "4.ipynb and what comes after it is not read" in _names(tmp_path)[1]


@pytest.mark.parametrize("text", ["---\na\n" * 100_000, "---\n[\n" * 100_000])
def test_so_many_problems_are_told_and_no_more(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.ipynb").write_text(_notebook(*["%%manifest\na"] * 10_000))
    problems = read_submission("ada", tmp_path).problems
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1] == f"it has more than {MAX_PROBLEMS} problems; what comes after those is not read"
    (tmp_path / "a.yaml").unlink()
    assert read_submission("ada", tmp_path).problems[-1] == problems[-1]


def test_problems_have_a_sensible_length(tmp_path: Path) -> None:
    path = tmp_path / "ada.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{'x' * 60_000}.yaml", f"{'-' * 60_000}\n---\na" * 10)
        archive.writestr(f"{'y' * 60_000}.ipynb", "{")
    problems = read_submission("ada", path).problems
    assert len(problems) > 2
    assert max(map(len, problems)) < 1000


@pytest.mark.parametrize("text", [
    "a: !!bool maybe", '!!int ""', '!!float ""', f"a: {'1:' * 200}1.0", "[" * 400 + "]" * 400, "a: \x00",
    f"a: 0x{'f' * 4000}", f"0x{'f' * 4000}", "9" * 5000, "a: !!timestamp [b]",
])  # fmt: skip
def test_nothing_that_yaml_can_say_keeps_the_rest_from_being_graded(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    found = read_submission("ada", tmp_path)
    assert [item["metadata"]["name"] for item in found.objects] == ["b"]
    assert (len(found.problems), found.broken, len(found.digest)) == (1, "", 64)
    assert found.problems[0].startswith("a.yaml, line 1: ")


@pytest.mark.parametrize("number", ["0x" + "f" * 4000, "9" * 5000])
def test_a_number_that_python_will_not_write_down_is_graded_as_the_text_it_is(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.yaml").write_text(f"{GOOD.format('a')}data: {{x: {number}}}")
    found = read_submission("ada", tmp_path)
    assert (found.objects[0]["data"]["x"], found.problems, len(found.digest)) == (number, (), 64)


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


def _zipped(path: Path, method: int = zipfile.ZIP_DEFLATED, name: str = "a.yaml") -> bytearray:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, GOOD.format("a") * 50)
    return bytearray(path.read_bytes())


def test_damaged_data_in_an_archive_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "ada.zip"
    content = _zipped(path)
    content[36:60] = b"\xff" * 24
    path.write_bytes(content)
    assert "the archive can't be read: Error -3" in _names(path)[1]


def test_a_name_in_an_archive_that_is_not_the_utf_8_it_says_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "ada.zip"
    content = _zipped(path, name="ä.yaml")
    path.write_bytes(content.replace("ä".encode(), b"\xff\xff"))
    assert "the archive can't be read: 'utf-8' codec" in _names(path)[1]


def test_an_archive_that_says_it_has_other_volumes_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "ada.zip"
    content = _zipped(path)
    end = content.rindex(b"PK\5\6")
    content[end:end] = struct.pack("<4sLQL", b"PK\6\7", 1, 0, 2)
    path.write_bytes(content)
    assert "the archive can't be read: zipfiles that span multiple disks" in _names(path)[1]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_would_unpack_without_bounds_is_not_unpacked(tmp_path: Path, method: int) -> None:
    """Python's zipfile gives all that comes of a chunk, however little was asked for, unless it is Deflate."""
    path = tmp_path / "ada.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.yaml", b"#" * (20 * 2**20), method)
        archive.writestr("b.yaml", GOOD.format("b"))
    tracemalloc.start()
    names, problems = _names(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (names, peak < 10 * 2**20) == (["b"], True)
    assert "a.yaml: it is packed in a way that is not read here" in problems


def test_nothing_to_grade_is_said(tmp_path: Path) -> None:
    assert "nothing to grade was found" in _names(tmp_path)[1]


def test_whatever_else_goes_wrong_is_a_problem_of_that_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> Never:
        raise KeyError("no \udcff such key")

    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    monkeypatch.setattr(reading, "read_each", breaks)
    found = read_submission("ada", tmp_path)
    assert (found.objects, found.problems) == ((), (found.broken,))
    assert found.broken.startswith("The grader itself broke while it read this (KeyError: 'no ")
    assert len(found.digest) == 64
    found.broken.encode()


def test_what_can_not_be_digested_is_a_problem_of_that_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "read_each", lambda *_: iter([{"x": 16**4000}]))
    (tmp_path / "a.yaml").write_text("")
    found = read_submission("ada", tmp_path)
    assert (found.objects, found.problems, len(found.digest)) == ((), (found.broken,), 64)


def test_names_that_are_not_utf_8_can_be_printed_and_written(tmp_path: Path) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller\n\x1b[31m"))
    home.mkdir()
    for name, text in ((b"\xff.yaml", "a"), (b"\xfe.ipynb", "{"), (b"\xfd.yaml", GOOD.format("a"))):
        Path(os.fsdecode(os.fsencode(home) + b"/" + name)).write_text(text)
    Path(os.fsdecode(os.fsencode(home) + b"/\xfc.yaml")).symlink_to("/etc/passwd")
    ((student, path),) = students([home], "lab-06").items()
    assert student == r"M\xfcller\n\x1b[31m"
    found = read_submission(student, path)
    assert [item["metadata"]["name"] for item in found.objects] == ["a"]
    assert [problem.split(":")[0] for problem in found.problems] == [r"\xfc.yaml", r"\xfe.ipynb", r"\xff.yaml, line 1"]
    assert f"{found.problems}{found.path}{student}".isprintable()


def test_names_in_archives_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / "ada.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("\x1b]0;x\x07\u202e.yaml", "a")
    assert _names(path)[1].startswith(r"\x1b]0;x\x07\u202e.yaml, line 1: ")


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
