"""The DRA driver over its two sockets, with an API server that knows one claim."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from cluster.api import Api
from cluster.gpu.devices import NodeGpus, gpus
from cluster.gpu.node import cdi, dra, protos
from cluster.gpu.node.allocations import Edits
from cluster.gpu.node.dra import DRIVER, DraPlugin
from cluster.gpu.node.slices import allocated_claims, device_names, devices, resource_slices

TWO = gpus("gpu-b", NodeGpus("T4", 2))
CUT = gpus("gpu-a", NodeGpus("A100-80GB", 2, mig={1: ("3g.40gb", "1g.10gb")}))
DRA, DRA_SERVICES = protos.load("dra")
REGISTRATION, REGISTRATION_SERVICES = protos.load("pluginregistration")


def claim(*chosen: str, uid: str = "u-1", pool: str = "gpu-b", driver: str = DRIVER) -> dict[str, Any]:
    results = [{"request": f"r{i}/sub", "driver": driver, "pool": pool, "device": one} for i, one in enumerate(chosen)]
    return {
        "metadata": {"namespace": "team", "name": "mine", "uid": uid},
        "status": {"allocation": {"devices": {"results": results}}},
    }


class FakeApi:
    def __init__(self) -> None:
        self.claims = {("team", "mine"): claim("gpu-0")}
        self.slices: dict[str, dict[str, Any]] = {}
        self.writes = 0
        self.now = "2026-11-25T12:00:00Z"

    def get(self, kind: str, name: str, namespace: str = "") -> Any:
        return {"metadata": {"uid": "node-uid"}} if kind == "Node" else self.claims.get((namespace, name))

    def list(self, kind: str, **selectors: str) -> Any:
        return copy.deepcopy(list(self.slices.values())), "1"

    def apply(self, item: dict[str, Any], *, manager: str) -> None:
        self.writes += 1
        self.slices[item["metadata"]["name"]] = self._as_kept(item)

    def _as_kept(self, item: dict[str, Any]) -> dict[str, Any]:
        """Quantities in their canonical form, and a time on each taint that comes without."""
        kept = copy.deepcopy(item)
        for device in kept["spec"]["devices"]:
            for amount in device["capacity"].values():
                number, unit = int(amount["value"][:-2]), amount["value"][-2:]
                mib = number * {"Mi": 1, "Gi": 1024}[unit]
                amount["value"] = f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"
            for taint in device.get("taints", []):
                taint.setdefault("timeAdded", self.now)
        return kept

    def delete(self, kind: str, name: str) -> None:
        del self.slices[name]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.api = folder, FakeApi()
        self.held: set[str] = set()
        self.prepared: list[tuple[str, list[str]]] = []
        (folder / "registry").mkdir()
        self.start()

    def held_by_plugin(self) -> set[str]:
        return self.held

    def _prepare(self, key: str, ids: Sequence[str]) -> Edits:
        self.prepared.append((key, list(ids)))
        return Edits({"NVIDIA_VISIBLE_DEVICES": ",".join(ids)}, {"/run/kailab-gpu": f"/node/{key}"})

    def start(self) -> None:
        self.plugin = DraPlugin(
            "gpu-b", TWO, cast("Api", self.api), self, self.folder / "plugins", self.folder / "registry",
            self.folder / "cdi", self._prepare,
        )  # fmt: skip
        self.plugin.ensure_serving()

    def call(self, method: str, *uids: str) -> Any:
        claims = [DRA.Claim(namespace="team", name="mine", uid=uid) for uid in uids]
        request = getattr(DRA, f"Node{method}ResourcesRequest")(claims=claims)
        with grpc.insecure_channel(f"unix://{self.folder}/plugins/{DRIVER}/dra.sock") as channel:
            return getattr(DRA_SERVICES.DRAPluginStub(channel), f"Node{method}Resources")(request, timeout=5).claims


@pytest.fixture
def bench(folder: Path) -> Iterator[Bench]:
    made = Bench(folder)
    yield made
    made.plugin.close()


def test_the_kubelet_learns_where_the_driver_is(bench: Bench) -> None:
    with grpc.insecure_channel(f"unix://{bench.folder}/registry/{DRIVER}-reg.sock") as channel:
        stub = REGISTRATION_SERVICES.RegistrationStub(channel)
        info = stub.GetInfo(REGISTRATION.InfoRequest(), timeout=5)
        stub.NotifyRegistrationStatus(REGISTRATION.RegistrationStatus(plugin_registered=True), timeout=5)
    assert (info.type, info.name, list(info.supported_versions)) == ("DRAPlugin", DRIVER, ["v1.DRAPlugin"])
    assert Path(info.endpoint).exists()


def test_a_claim_is_prepared_once_and_unprepared(bench: Bench) -> None:
    for _ in range(2):
        found = bench.call("Prepare", "u-1")["u-1"]
        assert not found.error
        device = found.devices[0]
        assert (device.device_name, device.pool_name, list(device.request_names)) == ("gpu-0", "gpu-b", ["r0"])
        assert list(device.cdi_device_ids) == ["k8s.gpu.nvidia.com/claim=u-1"]
    assert bench.prepared == [("claim-u-1", [TWO[0].uuid])]
    assert bench.plugin.keys() == {"claim-u-1"}
    for _ in range(2):
        assert not bench.call("Unprepare", "u-1")["u-1"].error
    assert bench.plugin.keys() == set()


def granted(bench: Bench, prepared: Any, request: str = "") -> tuple[str, str]:
    """What a container sees that names this request of the claim, or none: visible devices, and its socket's folder.

    The kubelet picks CDI devices by request (cdiDevicesAsList), the runtime applies their edits one after the other.
    """
    document = json.loads(next(bench.folder.glob("cdi/*.json")).read_text())
    edits = {f"{document['kind']}={one['name']}": one["containerEdits"] for one in document["devices"]}
    chosen = [one for one in prepared.devices if not request or request in one.request_names]
    environment, mounts = {}, {}
    for edit in [edits[id_] for one in chosen for id_ in one.cdi_device_ids]:
        environment |= dict(line.split("=", 1) for line in edit["env"])
        mounts |= {mount["containerPath"]: mount["hostPath"] for mount in edit["mounts"]}
    return environment["NVIDIA_VISIBLE_DEVICES"], mounts["/run/kailab-gpu"]


def test_a_container_gets_the_devices_of_the_request_that_it_names(bench: Bench) -> None:
    bench.api.claims[("team", "mine")] = claim("gpu-0", "gpu-1")
    first, second = (gpu.uuid for gpu in TWO)
    for _ in range(2):  # the second time from the record
        found = bench.call("Prepare", "u-1")["u-1"]
        assert granted(bench, found, "r0") == (first, "/node/claim-u-1-0")
        assert granted(bench, found, "r1") == (second, "/node/claim-u-1-1")
        assert granted(bench, found) == (f"{first},{second}", "/node/claim-u-1")
    assert bench.plugin.keys() == {"claim-u-1", "claim-u-1-0", "claim-u-1-1"}
    assert not bench.call("Unprepare", "u-1")["u-1"].error
    assert bench.plugin.keys() == set()


def test_several_devices_of_one_request_come_together(bench: Bench) -> None:
    both = claim("gpu-0", "gpu-1")
    for one in both["status"]["allocation"]["devices"]["results"]:
        one["request"] = "gpus"
    bench.api.claims[("team", "mine")] = both
    found = bench.call("Prepare", "u-1")["u-1"]
    everything = (",".join(gpu.uuid for gpu in TWO), "/node/claim-u-1")
    assert granted(bench, found) == granted(bench, found, "gpus") == everything
    assert len(found.devices) == 2


def test_a_claim_that_an_earlier_agent_prepared_keeps_what_it_has(bench: Bench) -> None:
    devices = [{"name": "gpu-0", "requests": ["r0"]}, {"name": "gpu-1", "requests": ["r1"]}]
    cdi.write(bench.folder / "cdi", "u-1", {"": Edits()}, {"claim": "team/mine", "devices": devices})
    found = bench.call("Prepare", "u-1")["u-1"]
    assert {id_ for one in found.devices for id_ in one.cdi_device_ids} == {"k8s.gpu.nvidia.com/claim=u-1"}
    assert bench.plugin.keys() == {"claim-u-1"}


def test_prepared_claims_survive_a_restart(bench: Bench) -> None:
    bench.call("Prepare", "u-1")
    bench.plugin.close()
    bench.start()
    bench.api.claims.clear()
    assert bench.call("Prepare", "u-1")["u-1"].devices[0].device_name == "gpu-0"
    assert len(bench.prepared) == 1


def test_vanished_sockets_are_served_again(bench: Bench) -> None:
    (bench.folder / "registry" / f"{DRIVER}-reg.sock").unlink()
    bench.plugin.ensure_serving()
    assert not bench.call("Prepare", "u-1")["u-1"].error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda bench: bench.api.claims.clear(), "is gone"),
        (lambda bench: bench.api.claims.update({("team", "mine"): claim("gpu-0", uid="other")}), "is gone"),
        (lambda bench: bench.api.claims.update({("team", "mine"): claim("gpu-7")}), "has no device gpu-7"),
        (lambda bench: bench.api.claims.update({("team", "mine"): claim("gpu-0", pool="x")}), "no device of node"),
        (lambda bench: bench.held.add(TWO[0].uuid), "as nvidia.com/gpu"),
        (lambda bench: bench.plugin.publish({TWO[0].uuid: "Xid 79"}), "is unhealthy: Xid 79"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(bench: Bench, change: Any, words: str) -> None:
    change(bench)
    assert words in bench.call("Prepare", "u-1")["u-1"].error
    assert bench.plugin.keys() == set()


def test_one_bad_claim_does_not_spoil_the_others(bench: Bench) -> None:
    found = bench.call("Prepare", "u-1", "u-2")
    assert not found["u-1"].error
    assert found["u-2"].error


@pytest.mark.parametrize("uid", ["../../etc/passwd", "", "a/b"])
def test_a_uid_that_is_none_writes_no_file(bench: Bench, uid: str) -> None:
    bench.api.claims[("team", "mine")] = claim("gpu-0", uid=uid)
    assert bench.call("Prepare", uid)[uid].error
    assert not list(bench.folder.rglob("*.json"))


def test_cdi_files_that_cannot_be_read_are_thrown_away(bench: Bench) -> None:
    bench.call("Prepare", "u-1")
    path = next(bench.folder.glob("cdi/*.json"))
    path.write_text("{")
    assert cdi.read(bench.folder / "cdi") == {}
    assert not path.exists()
    assert not bench.call("Prepare", "u-1")["u-1"].error


def test_slices_are_written_only_when_something_changed(bench: Bench) -> None:
    bench.plugin.publish({})
    bench.plugin.publish({})
    assert bench.api.writes == 1
    bench.held.add(TWO[1].uuid)
    bench.plugin.publish({})
    written = next(iter(bench.api.slices.values()))
    assert written["spec"]["pool"] == {"name": "gpu-b", "generation": 2, "resourceSliceCount": 1}
    assert written["metadata"]["ownerReferences"][0]["uid"] == "node-uid"
    assert [len(device.get("taints", [])) for device in written["spec"]["devices"]] == [0, 1]


def test_slices_stay_as_they_are_though_the_server_writes_them_otherwise(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dra, "RECHECK_SECONDS", 0.0)
    bench.held.add(TWO[1].uuid)
    for _ in range(3):
        bench.plugin.publish({})
    assert bench.api.writes == 1


def test_amounts_are_the_same_in_whatever_unit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dra, "RECHECK_SECONDS", 0.0)
    bench.plugin.publish({})
    for device in next(iter(bench.api.slices.values()))["spec"]["devices"]:
        device["capacity"]["memory"]["value"] = "15360Mi"
    bench.plugin.publish({})
    assert bench.api.writes == 1
    next(iter(bench.api.slices.values()))["spec"]["devices"][0]["capacity"]["memory"]["value"] = "16G"
    bench.plugin.publish({})
    assert bench.api.writes == 2


def test_a_taint_that_stays_keeps_its_time(bench: Bench) -> None:
    bench.held.add(TWO[1].uuid)
    bench.plugin.publish({})
    bench.api.now = "2026-11-25T13:00:00Z"
    bench.plugin.publish({TWO[1].uuid: "Xid 79"})
    taints = next(iter(bench.api.slices.values()))["spec"]["devices"][1]["taints"]
    assert [one["timeAdded"][11:13] for one in taints] == ["12", "13"]


def test_attributes_are_what_selectors_of_real_drivers_ask_for() -> None:
    whole, large, _ = devices(CUT, (), {})
    assert whole["name"] == "gpu-0"
    assert whole["capacity"]["memory"]["value"] == "80Gi"
    assert whole["attributes"]["productName"]["string"] == "NVIDIA A100-SXM4-80GB"
    assert whole["attributes"]["cudaComputeCapability"]["version"] == "8.0.0"
    assert whole["attributes"]["driverVersion"]["version"] == "580.95.5"
    assert (large["name"], large["attributes"]["type"]["string"]) == ("gpu-1-mig-3g-40gb-1", "mig")
    assert large["attributes"]["parentUUID"]["string"] == CUT[1].uuid


def test_a_sick_gpu_taints_its_slices_too() -> None:
    found = devices(CUT, {CUT[0].uuid}, {CUT[1].uuid: "Xid 79"})
    assert [[taint["key"] for taint in device.get("taints", [])] for device in found] == [
        ["kailab.dev/held-by-device-plugin"],
        ["gpu.kailab.dev/unhealthy"],
        ["gpu.kailab.dev/unhealthy"],
    ]


def test_many_devices_are_split_into_slices_of_one_generation() -> None:
    many = gpus("big", NodeGpus("H100-80GB", 16, mig=dict.fromkeys(range(16), ("1g.10gb",) * 7)))
    found = resource_slices("big", devices(many, (), {}), 3)
    assert [len(one["spec"]["devices"]) for one in found] == [64, 48]
    assert {one["spec"]["pool"]["resourceSliceCount"] for one in found} == {2}
    assert len({one["metadata"]["name"] for one in found}) == 2
    assert all(len(name) <= 63 for name in device_names(many).values())


def test_claims_are_found_by_the_devices_they_have() -> None:
    other = claim("nic-0", driver="nic.example.com")
    assert allocated_claims([claim("gpu-1"), other, {"metadata": {}}], "gpu-b", TWO) == {TWO[1].uuid: "team/mine"}
