"""kind's configuration makes the nodes that the topology describes, whichever images they are made from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import yaml

from cluster import kindconfig
from cluster.kindconfig import Images, Machine
from cluster.topology import NODES
from cluster.workspace import KUBERNETES_VERSION

KINDS_OWN = Images()
BIG = Machine(cores=8, memory=16384)
NAMES = [node.name for node in NODES]


def configured(images: Images = KINDS_OWN, machine: Machine = BIG) -> dict[str, Any]:
    return kindconfig.config("kailab-abc123", images, Path("/srv/shared"), machine)


def node_named(name: str, machine: Machine = BIG) -> dict[str, Any]:
    return configured(machine=machine)["nodes"][NAMES.index(name)]


def patches(node: dict[str, Any]) -> dict[str, Any]:
    """The node's merge patches, by the kind of the document of kubeadm that they change."""
    parsed = [yaml.safe_load(text) for text in node["kubeadmConfigPatches"]]
    return {patch["kind"]: patch for patch in parsed}


def registration(node: dict[str, Any]) -> dict[str, Any]:
    kind = "InitConfiguration" if node["role"] == "control-plane" else "JoinConfiguration"
    return patches(node)[kind]["nodeRegistration"]


def extra_arguments(node: dict[str, Any], kind: str) -> dict[str, str]:
    """What the list patches add to the arguments that kind itself gives, read as kubeadm reads them."""
    document = {
        "controllerManager": {"extraArgs": [{"name": "enable-hostpath-provisioner", "value": "true"}]},
        "nodeRegistration": {"kubeletExtraArgs": [{"name": "node-labels", "value": "a=b"}]},
    }
    for patch in node["kubeadmConfigPatchesJSON6902"]:
        assert (patch["group"], patch["version"]) == ("kubeadm.k8s.io", "v1beta4")
        if patch["kind"] == kind:
            document = jsonpatch.apply_patch(document, json.loads(patch["patch"]))
    given = document["controllerManager"]["extraArgs"] + document["nodeRegistration"]["kubeletExtraArgs"]
    return {entry["name"]: entry["value"] for entry in given}


def test_the_document_is_one_that_kind_reads() -> None:
    made = configured()
    assert (made["kind"], made["apiVersion"], made["name"]) == ("Cluster", "kind.x-k8s.io/v1alpha4", "kailab-abc123")
    assert yaml.safe_load(json.dumps(made)) == made


def test_kind_names_the_containers_as_the_topology_says() -> None:
    count = {"control-plane": 0, "worker": 0}
    for node, made in zip(NODES, configured()["nodes"], strict=True):
        count[made["role"]] += 1
        number = count[made["role"]]
        assert node.container == made["role"] + (str(number) if number > 1 else "")
    assert count == {"control-plane": 1, "worker": 4}


@pytest.mark.parametrize("name", NAMES)
def test_every_node_registers_under_its_own_name(name: str) -> None:
    assert registration(node_named(name))["name"] == name


@pytest.mark.parametrize(
    ("name", "role", "region", "zone"),
    [
        ("control-plane", "control-plane", "eu-west", "eu-west-a"),
        ("gpu-a", "gpu", "eu-west", "eu-west-a"),
        ("gpu-b", "gpu", "us-east", "us-east-a"),
        ("cpu", "cpu", "eu-west", "eu-west-b"),
        ("edge", "edge", "eu-north", "eu-north-a"),
    ],
)
def test_nodes_carry_role_region_and_zone(name: str, role: str, region: str, zone: str) -> None:
    labels = node_named(name)["labels"]
    assert labels["kailab.dev/role"] == role
    assert labels["topology.kubernetes.io/region"] == region
    assert labels["topology.kubernetes.io/zone"] == zone


def test_the_edge_node_alone_has_the_edge_label() -> None:
    assert [name for name in NAMES if "node-role/edge" in node_named(name)["labels"]] == ["edge"]


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_ones_that_kubernetes_accepts(name: str) -> None:
    for key, value in node_named(name)["labels"].items():
        assert re.fullmatch(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", key)
        assert re.fullmatch(r"|[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value)


@pytest.mark.parametrize(
    ("name", "taints"),
    [
        ("gpu-a", [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]),
        ("gpu-b", [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]),
        ("edge", [{"key": "node-role/edge", "value": "", "effect": "PreferNoSchedule"}]),
        ("cpu", None),
        ("control-plane", None),  # kubeadm's own taint: an empty list would take it away
    ],
)
def test_nodes_register_with_their_taints(name: str, taints: list[dict[str, str]] | None) -> None:
    assert registration(node_named(name)).get("taints") == taints


@pytest.mark.parametrize("name", NAMES)
def test_every_kubelet_and_every_proxy_gets_its_settings(name: str) -> None:
    found = patches(node_named(name))
    assert len(found) == len(node_named(name)["kubeadmConfigPatches"]), "two patches of one kind"
    assert found["KubeletConfiguration"]["failCgroupV1"] is False
    assert found["KubeProxyConfiguration"]["conntrack"]["maxPerCore"] == 0


def test_the_controller_manager_may_send_many_requests() -> None:
    arguments = extra_arguments(node_named("control-plane"), "ClusterConfiguration")
    assert int(arguments["kube-api-qps"]) >= 100
    assert int(arguments["kube-api-burst"]) >= int(arguments["kube-api-qps"])
    assert "enable-hostpath-provisioner" in arguments, "kind's own arguments stay"


@pytest.mark.parametrize(
    ("machine", "reserved"),
    [
        (BIG, "cpu=7,memory=14336Mi"),
        (Machine(cores=2, memory=4096), "cpu=1,memory=2048Mi"),
        (Machine(cores=1, memory=1024), "cpu=0,memory=0Mi"),
    ],
)
def test_the_edge_node_offers_one_core_and_two_gibibytes(machine: Machine, reserved: str) -> None:
    arguments = extra_arguments(node_named("edge", machine), "JoinConfiguration")
    assert arguments["system-reserved"] == reserved
    assert "node-labels" in arguments, "kind's own arguments stay"


def test_the_other_nodes_offer_all_that_the_machine_has() -> None:
    for name in set(NAMES) - {"edge"}:
        assert "system-reserved" not in extra_arguments(node_named(name), "JoinConfiguration")


def test_all_nodes_share_one_folder_of_the_machine() -> None:
    for node in configured()["nodes"]:
        assert {"hostPath": "/srv/shared", "containerPath": kindconfig.SHARED_MOUNT} in node["extraMounts"]


def test_the_scheduler_finds_its_configuration() -> None:
    nodes = configured()["nodes"]
    on_host = {mount["containerPath"]: mount["hostPath"] for mount in nodes[0]["extraMounts"]}
    scheduler = patches(nodes[0])["ClusterConfiguration"]["scheduler"]
    (volume,) = scheduler["extraVolumes"]
    config, election = scheduler["extraArgs"]
    assert config == {"name": "config", "value": volume["mountPath"]}
    assert election == {"name": "leader-elect", "value": "false"}
    read = yaml.safe_load(Path(on_host[volume["hostPath"]]).read_text())
    names = [profile["schedulerName"] for profile in read["profiles"]]
    assert names == ["default-scheduler", "gpu-packing", "sampling"]
    assert all(len(node["extraMounts"]) == 1 for node in nodes[1:])


def test_nobody_waits_for_a_leader_where_there_is_but_one() -> None:
    """The scheduler's arguments are looked at where it finds its configuration."""
    assert extra_arguments(node_named("control-plane"), "ClusterConfiguration")["leader-elect"] == "false"


def test_kubeadm_finds_its_patches_on_the_control_plane() -> None:
    """By their names, which are target+type ("Customizing components with the kubeadm API")."""
    control_plane = node_named("control-plane")
    on_host = {mount["containerPath"]: mount["hostPath"] for mount in control_plane["extraMounts"]}
    folder = Path(on_host[patches(control_plane)["InitConfiguration"]["patches"]["directory"]])
    (patch,) = folder.iterdir()
    assert patch.name == "corednsdeployment+strategic.yaml"
    (container,) = yaml.safe_load(patch.read_text())["spec"]["template"]["spec"]["containers"]
    assert (container["name"], container["readinessProbe"]) == ("coredns", {"periodSeconds": 1})
    assert all("patches" not in patches(node_named(name))["JoinConfiguration"] for name in NAMES[1:])


def test_our_own_images_go_to_their_nodes() -> None:
    nodes = configured(Images("kailab/control:1", "kailab/worker:1"))["nodes"]
    assert [node["image"] for node in nodes] == ["kailab/control:1"] + ["kailab/worker:1"] * 4


def test_with_a_registry_every_node_is_of_one_pinned_image_of_our_minor_version() -> None:
    """Whatever kind is on PATH: each release would take another Kubernetes by itself."""
    (image,) = {node["image"] for node in configured()["nodes"]}
    minor = KUBERNETES_VERSION.rpartition(".")[0]
    assert re.fullmatch(rf"docker\.io/kindest/node:{re.escape(minor)}\.\d+@sha256:[0-9a-f]{{64}}", image)


def test_both_image_sources_give_the_same_cluster_otherwise() -> None:
    ours, kinds = configured(Images("kailab/control:1", "kailab/worker:1")), configured()
    for node in (*ours["nodes"], *kinds["nodes"]):
        del node["image"]
    assert ours == kinds
