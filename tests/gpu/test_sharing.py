"""The time-slicing file means what it means to NVIDIA's device plugin."""

from __future__ import annotations

import pytest

from cluster.errors import KailabError
from cluster.gpu import labels
from cluster.gpu.devices import NodeGpus, gpus
from cluster.gpu.node.sharing import Sharing, device_ids, parse, refuse

FILE = """
version: v1
sharing:
  timeSlicing:
    renameByDefault: {rename}
    failRequestsGreaterThanOne: {single}
    resources:
    - name: nvidia.com/gpu
      replicas: 4
"""
HUGE = f"0x{'f' * 5000}"
T4S = gpus("gpu-b", NodeGpus("T4", 2))
A100S = gpus("gpu-a", NodeGpus("A100-80GB", 2, mig={1: ("3g.40gb", "1g.10gb")}))


def file(rename: str = "false", single: str = "false") -> str:
    return FILE.format(rename=rename, single=single)


def test_replicas_carry_the_gpus_uuid_and_a_number() -> None:
    found = device_ids(T4S, parse(file()))
    assert list(found) == ["nvidia.com/gpu"]
    assert found["nvidia.com/gpu"] == [f"{gpu.uuid}::{number}" for gpu in T4S for number in range(4)]


def test_renamed_replicas_are_a_resource_of_their_own() -> None:
    assert list(device_ids(T4S, parse(file(rename="true")))) == ["nvidia.com/gpu.shared"]


def test_without_a_file_each_gpu_is_one_device() -> None:
    assert device_ids(T4S, Sharing()) == {"nvidia.com/gpu": [gpu.uuid for gpu in T4S]}


def test_a_cut_gpu_is_offered_by_its_slices_only() -> None:
    found = device_ids(A100S, Sharing())
    assert found["nvidia.com/gpu"] == [A100S[0].uuid]
    assert found["nvidia.com/mig-3g.40gb"] == [A100S[1].mig[0].uuid]
    assert found["nvidia.com/mig-1g.10gb"] == [A100S[1].mig[1].uuid]


@pytest.mark.parametrize(
    ("ids", "single", "words"),
    [
        (["a::0", "a::1"], True, "maximum request size for shared resources is 1; found 2"),
        (["a::0"], True, ""),
        (["a::0", "a::1"], False, ""),
        (["a", "b"], True, ""),
    ],
)
def test_more_than_one_replica_is_refused_in_nvidias_words(ids: list[str], single: bool, words: str) -> None:
    assert refuse(ids, Sharing({"nvidia.com/gpu": 2}, single=single)).endswith(words)
    assert bool(refuse(ids, Sharing({"nvidia.com/gpu": 2}, single=single))) == bool(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML"),
        ("- 1", "mapping"),
        ("version: v2", "it should be v1"),
        ("version: v1\nsharin: {}", "unknown field 'sharin'"),
        ("version: v1\nsharing: {mps: {}}", "sharing.mps isn't simulated"),
        ("version: v1\nsharing: {timeSlicing: {resources: 4}}", "should be a list"),
        ("version: v1\nsharing: {timeSlicing: {resources: [{name: nvidia.com/gpu}]}}", "name and replicas"),
        ("version: v1\nsharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 1}]}}", "from 2 to"),
        ("version: v1\nsharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: true}]}}", "from 2 to"),
        ("version: v1\nsharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 100000}]}}", "from 2 to"),
        ("version: v1\nsharing: {timeSlicing: {resources: [{name: amd.com/gpu, replicas: 2}]}}", "no resource"),
        ("version: v1\nsharing: {timeSlicing: {renameByDefault: 'yes'}}", "true or false"),
        ("version: v1\nfoo: 1\non: true", "unknown field 'True'"),
        ("version: v1\nsharing: {1: 2, on: 3}", "isn't simulated"),
        ("version: v1\nsharing: {timeSlicing: {1: 2, 2001-01-01: 3}}", "unknown field sharing.timeSlicing.1"),
        ("version: 2026-02-31", "day is out of range"),
        ("version: !!int abc", "invalid literal"),
        ("version: !!int ''", "can't be read"),
        ("version: !!timestamp abc", "can't be read"),
        ("version: !!bool maybe", "can't be read"),
        (f"version: {HUGE}", "something too long to show"),
        (
            f"version: v1\nsharing: {{timeSlicing: {{resources: [{{name: nvidia.com/gpu, replicas: {HUGE}}}]}}}}",
            "from 2",
        ),
        ("version: v1\nsharing: &a {timeSlicing: *a}", "unknown field"),
        ("version: &a [*a]", "it should be v1"),
        ("\ud800", "not YAML"),
    ],
)
def test_a_faulty_file_is_named_by_its_fault(text: str, words: str) -> None:
    with pytest.raises(KailabError) as failed:
        parse(text)
    assert words in failed.value.why


@pytest.mark.parametrize(
    ("sharing", "wanted"),
    [
        (Sharing(), {"product": "Tesla-T4", "replicas": "1", "sharing-strategy": "none", "count": "2"}),
        (Sharing({"nvidia.com/gpu": 4}), {"product": "Tesla-T4-SHARED", "replicas": "4", "count": "2"}),
        (Sharing({"nvidia.com/gpu": 4}, rename=True), {"product": "Tesla-T4", "sharing-strategy": "time-slicing"}),
    ],
)
def test_labels_follow_the_sharing(sharing: Sharing, wanted: dict[str, str]) -> None:
    found = labels.of(T4S, sharing)
    assert {key: found[f"nvidia.com/gpu.{key}"] for key in wanted} == wanted
    assert found["nvidia.com/gpu.memory"] == "15360"
    assert "nvidia.com/mig.strategy" not in found


def test_slices_have_labels_by_profile() -> None:
    found = labels.of(A100S, Sharing())
    assert found["nvidia.com/gpu.count"] == "1"
    assert found["nvidia.com/mig-3g.40gb.product"] == "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb"
    assert found["nvidia.com/mig.strategy"] == "mixed"
