"""The fleet file: what is accepted, and what a wrong one is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import KailabError
from cluster.gpu import fleet
from cluster.gpu.devices import NodeGpus, gpus
from cluster.topology import NODES


def write(folder: Path, text: str) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(text)
    return path


def test_the_courses_own_fleet_is_for_nodes_that_exist() -> None:
    found = fleet.read()
    assert {entry.name for entry in found.nodes} == {node.name for node in NODES if node.role == "gpu"}
    assert {entry.name: (entry.model, entry.count) for entry in found.nodes}["gpu-a"] == ("A100-80GB", 4)


def test_an_entry_reaches_the_agent_unchanged(tmp_path: Path) -> None:
    text = "nodes: [{name: a, model: A100-80GB, count: 2, nvlink: [[0, 1]], mig: {1: [3g.40gb]}}]"
    spec = fleet.read(write(tmp_path, text)).nodes[0].gpus()
    assert NodeGpus.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_identities_are_stable_and_distinct() -> None:
    spec = NodeGpus("A100-80GB", 4, mig={0: ("1g.10gb", "1g.10gb")})
    first, second = gpus("gpu-a", spec), gpus("gpu-a", spec)
    assert first == second
    everything = [one.uuid for node in ("gpu-a", "gpu-b") for gpu in gpus(node, spec) for one in gpu.devices]
    assert len(set(everything)) == len(everything) == 12
    assert all(len(one) <= 63 for one in everything)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes: [", "not YAML"),
        ("nodes: []", "at least 1"),
        ("nodes: 4", "nodes"),
        ("nodes: [{name: a, model: A100, count: 1}]", "there are A100-80GB, H100-80GB, T4, L4"),
        ("nodes: [{name: a, model: T4, count: 0}]", "nodes.0.count"),
        ("nodes: [{name: a, model: T4, count: 1000000}]", "nodes.0.count"),
        ("nodes: [{name: A_b, model: T4, count: 1}]", "nodes.0.name"),
        ("nodes: [{name: a, model: T4, count: 1}, {name: a, model: L4, count: 1}]", "'a' appears twice"),
        ("nodes: [{name: a, model: T4, count: 1, memori: 1}]", "memori"),
        ("nodes: [{name: a, model: T4, count: 2, nvlink: [[0, 1]]}]", "T4 has no NVLink"),
        ("nodes: [{name: a, model: A100-80GB, count: 2, nvlink: [[0, 2]]}]", "GPU 2 is named"),
        ("nodes: [{name: a, model: T4, count: 1, mig: {0: [1g.10gb]}}]", "can't be cut"),
        ("nodes: [{name: a, model: A100-80GB, count: 1, mig: {0: [5g.10gb]}}]", "no MIG profile"),
        ("nodes: [{name: a, model: A100-80GB, count: 1, mig: {0: [4g.40gb, 4g.40gb]}}]", "at most 1"),
        ("nodes: [{name: a, model: A100-80GB, count: 1, mig: {0: [4g.40gb, 3g.40gb, 1g.10gb]}}]", "compute slices"),
        ("nodes: [{name: a, model: T4, count: 1, sharing: {version: v1, sharing: {mps: {}}}}]", "isn't simulated"),
        ("nodes: [{name: a, model: T4, count: 1, simulated: {nodes: 1000000}}]", "less than or equal to 5000"),
    ],
)
def test_a_faulty_file_is_told_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(KailabError) as failed:
        fleet.read(write(tmp_path, text))
    assert words in str(failed.value)
    assert "Traceback" not in str(failed.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x7fELF\xff\xfe\x00", "fleet.yaml is not a text file."),
        (b"nodes: 2026-02-31", "day is out of range for month"),
        (b"nodes: [{name: a, model: T4, count: !!int abc}]", "invalid literal for int"),
        (b"nodes: [{name: a, model: T4, count: 0x" + b"f" * 5000 + b"}]", "nodes.0.count"),
        (b"nodes: &a [*a]", "nodes.0"),
        (b"nodes: [{name: a, model: T4, count: 1, sharing: {version: v1, foo: 1, on: true}}]", "nodes.0.sharing"),
        (b"", "the file: Input should be"),
    ],
)
def test_no_file_whatsoever_ends_in_a_crash(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_bytes(content)
    with pytest.raises(KailabError) as failed:
        fleet.read(path)
    assert words in str(failed.value)
    assert failed.value.mend


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("nodes: [{name: a, model: T4, count: 0}]", 1),
        ("nodes: [{name: a, model: T4, count: 0}, {name: B, model: T4, count: 1}]", 2),
        ("nodes: []", 1),
    ],
)
def test_each_fault_is_told_once_and_nothing_else(tmp_path: Path, text: str, lines: int) -> None:
    with pytest.raises(KailabError) as failed:
        fleet.read(write(tmp_path, text))
    assert len(failed.value.why.splitlines()) == lines


def test_a_missing_file_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(KailabError, match="can't be read"):
        fleet.read(tmp_path / "none.yaml")
