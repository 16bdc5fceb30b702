"""Manifests that people write are read without surprises: each problem with its line, whatever the file holds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from checkers.manifests import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_IN_ALL,
    Allowance,
    Problem,
    read_each,
    read_file,
    read_folder,
    read_text,
)

GOOD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("kind: Pod\n\tapiVersion: v1", 2, "a tab stands where YAML wants spaces"),
        (f"{GOOD}---\nkind: Pod\n  apiVersion: v1\n", 6, "it is not YAML: mapping values are not allowed"),
        ("- a\n- b", 1, "it is a list, not an object"),
        ("# just a thought\nhello", 2, "it is the text 'hello', not an object"),
        ("apiVersion: v1\nkinds: Pod\nmetadata: {name: a}", 1, "the object has no kind, but a field 'kinds'"),
        ("apiVersions: v1\nkind: Pod\nmetadata: {name: a}", 1, "no apiVersion, but a field 'apiVersions'"),
        ("apiVersion: v1\nkind: Pod\nkind: Pod\nmetadata: {name: a}", 3, "'kind' is given twice"),
        ("apiVersion: apps/v1\nkind: deployment\nmetadata: {name: a}", 1, "there is no kind 'deployment'"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}", 1, "the Pod has no metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 3}", 1, "metadata.name of the Pod is the number '3', not text"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: [a]}", 1, "metadata.name of the Pod is a list, not text"),
        ("&a [*a]", 1, "an alias contains itself"),
        ("[" * 5000, 1, "nesting depth"),
        ("!!python/object/apply:os.system [true]", 1, "could not determine a constructor"),
        ("a: \x00", 1, "control characters are not allowed"),
        ("a: 1\nb: !!bool maybe", 2, "'maybe' is not what its tag says, bool"),
        ('a: 1\nb: !!int ""', 2, "'' is not what its tag says, int"),
        ('a: 1\nb: !!float ""', 2, "'' is not what its tag says, float"),
        ("a: 1\nb: !!int 1:30", 2, "'1:30' is not what its tag says, int"),
        ("a: 1\nb: !!float 1:30.0", 2, "'1:30.0' is not what its tag says, float"),
        ("a: 1\nb: !!binary /w==", 2, "'/w==' is not what its tag says, binary"),
        ("a: 1\nb: !!timestamp [a]", 2, "expected a scalar node"),
        ("a: 1\nb: .inf", 2, "JSON has no number .inf"),
        ("a: 1\nb: .NaN", 2, "JSON has no number .NaN"),
        (f"0x{'f' * 4000}", 1, "it is the text '0xfff"),
        ("9" * 5000, 1, "it is the text '999"),
        (
            f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {'9' * 30}}}",
            1,
            "metadata.name of the Pod is the number '1e+30",
        ),
    ],
)
def test_a_problem_is_told_with_its_line(text: str, line: int, said: str) -> None:
    _, problems = read_text(text, "f.yaml")
    assert len(problems) == 1
    assert said in problems[0].what
    assert problems[0].line == line


def test_what_is_right_beside_a_broken_document_is_still_read() -> None:
    objects, problems = read_text(f"{GOOD}---\n\tbroken\n---\n{GOOD}", "f.yaml")
    assert [item["kind"] for item in objects] == ["ConfigMap", "ConfigMap"]
    assert len(problems) == 1


def test_aliases_that_multiply_are_refused_before_anything_is_built() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    _, problems = read_text("\n".join(rows), "bomb.yaml")
    assert "aliases make it larger" in problems[0].what


def test_aliases_that_multiply_text_or_depth_are_refused_as_well() -> None:
    long = f"a: &a {'x' * 2**20}\nb: [{', '.join(['*a'] * 1000)}]"
    assert "aliases make it larger" in read_text(long, "bomb.yaml")[1][0].what
    rows = [f"a0: &a0 {'[' * 20}{']' * 20}", *(f"a{n}: &a{n} {'[' * 20}*a{n - 1}{']' * 20}" for n in range(1, 6))]
    (problem,) = read_text("\n".join(rows), "bomb.yaml")[1]
    assert (problem.what, problem.line) == (f"it is nested more than {MAX_DEPTH} levels deep", 6)


@pytest.mark.parametrize("depth", [MAX_DEPTH, 300, 450, 600, 900])
def test_what_nests_too_deep_is_refused_before_anything_is_built(depth: int) -> None:
    _, problems = read_text(f"{GOOD}data: {'[' * depth}{']' * depth}", "deep.yaml")
    assert [problem.what for problem in problems] == [f"it is nested more than {MAX_DEPTH} levels deep"]


def test_values_are_counted_while_they_are_read() -> None:
    started = time.process_time()
    (problem,) = read_text(f"a: [{'b, ' * 10**6}]", "wide.yaml")[1]
    assert "it holds more values than any manifest" in problem.what
    assert time.process_time() - started < 20  # to the end: a minute, and a gigabyte


@pytest.mark.parametrize("document", ["---\n#\n", "---\na\n", f"---\n[{'b, ' * 1000}]\n"])
def test_documents_are_read_until_a_file_has_had_its_share(document: str) -> None:
    _, problems = read_text(document * (MAX_BYTES // len(document)), "f.yaml")
    assert f"it holds more than {MAX_IN_ALL} values" in problems[-1].what


def test_a_reader_may_stop_between_two_objects() -> None:
    allowance = Allowance()
    found = read_each(f"{GOOD}---\n{GOOD * 2}---\n[".encode(), "f.yaml", allowance)
    assert isinstance(next(found), dict)
    left = allowance.left
    assert isinstance(next(found), Problem)
    assert allowance.left < left < MAX_IN_ALL


def test_what_is_told_of_a_file_is_printable_and_of_sensible_length() -> None:
    text = f'apiVersion: v1\nkind: "{"x" * 10**6}"\nmetadata: {{}}'
    name = b"gr\xf6\xdfe\n\x1b[31m\xe2\x80\xae.yaml".decode(errors="surrogateescape")
    (problem,) = read_text(text, name)[1]
    assert str(problem).startswith(r"gr\xf6\xdfe\n\x1b[31m\u202e.yaml, line 1: the xxx")
    assert len(str(problem)) < 1000
    assert "\\n" not in str(read_text("a: \x00", "f.yaml")[1][0])


def test_honest_aliases_are_followed() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: &l {app: x}}\nspec: {selector: *l}"
    objects, problems = read_text(text, "f.yaml")
    assert (objects[0]["spec"]["selector"], problems) == ({"app": "x"}, [])


def test_ten_thousand_lines_are_no_problem() -> None:
    data = "\n".join(f"  key-{number}: value" for number in range(10_000))
    objects, problems = read_text(f"{GOOD}data:\n{data}\n", "f.yaml")
    assert (len(objects[0]["data"]), problems) == (10_000, [])


def test_a_list_is_its_items() -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- {kind: Pod}"
    objects, problems = read_text(text, "f.yaml")
    assert [item["metadata"]["name"] for item in objects] == ["a"]
    assert "no apiVersion" in problems[0].what


@pytest.mark.parametrize("text", ["", "# nothing\n---\n---\n", "\n\n"])
def test_an_empty_file_is_said_to_be_empty(text: str) -> None:
    assert read_text(text, "f.yaml")[1][0].what == "there is no object in it"


def test_files_that_are_no_text_or_too_large_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    assert "not text in UTF-8" in read_file(tmp_path / "a.yaml", "a.yaml")[1][0].what
    assert "larger than" in read_file(tmp_path / "b.yaml", "b.yaml")[1][0].what


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text(GOOD)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "link.yaml").symlink_to(secret)
    (folder / "own.yaml").write_text(GOOD)
    assert [name for name, _ in read_folder(folder)[0]] == ["own.yaml"]


def test_what_json_does_not_have_is_read_as_kubectl_reads_it() -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {on: 2026-11-25, 7: x}}\n"
    objects, problems = read_text(text + "data: {a: !!binary aGk=, b: !!set {x}}\n", "f")
    assert not problems
    assert objects[0]["metadata"]["annotations"] == {"true": "2026-11-25", "7": "x"}
    assert objects[0]["data"] == {"a": "hi", "b": {"x": None}}


@pytest.mark.parametrize(("text", "value"), [
    ("1:30", "1:30"), ("-1:30", "-1:30"), ("1:1:1.5", "1:1:1.5"), ("1:" * 200 + "1.0", "1:" * 200 + "1.0"),
    ("18446744073709551615", 2**64 - 1), ("-9223372036854775808", -(2**63)), ("18446744073709551616", 2**64),
    ("123456789012345678901234567890", 1.2345678901234568e29), ("9" * 400, "9" * 400), ("1.0e+400", "1.0e+400"),
    ("0xffffffffffffffff", 2**64 - 1), ("0xfffffffffffffffff", "0xfffffffffffffffff"), ("1_000", 1000),
    ("=", "="), ("<<", "<<"), ("!!float 3", 3), ("1e3", 1000), ("-1.5E+3", -1500), ("1.0", 1), ("2.", 2), (".5", 0.5),
    ("-.5", -0.5), ("08", 8), ("017", 15), ("0o17", 15), ("0O17", 15), ("0B11", 3), ("-0x1F", -31), ("+0x1", 1),
    ("1_", 1), ("_1", "_1"), ("1.2.3", "1.2.3"), ("100m", "100m"), ("1e", "1e"), ("1e400", "1e400"), ("1e22", 1e22),
    ("y", True), ("N", False), ("on", True), ("'y'", "y"), ("'1e3'", "1e3"), ("2026-11-26", "2026-11-26"),
])  # fmt: skip
def test_numbers_are_those_that_kubectl_reads(text: str, value: object) -> None:
    """What `kubectl annotate --local -o json` makes of each (1.32 and 1.37)."""
    (item,), problems = read_text(f"{GOOD}data: {{x: {text}}}", "f.yaml")
    assert (item["data"]["x"], problems) == (value, [])
    assert type(item["data"]["x"]) is type(value)


def test_a_number_of_base_60_takes_no_time() -> None:
    started = time.process_time()
    read_text(f"{GOOD}data: {{x: {':'.join('1' * 80_000)}, y: {':'.join('1' * 80_000)}.0}}", "f.yaml")
    assert time.process_time() - started < 0.5
