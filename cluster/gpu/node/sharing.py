"""Time-slicing, configured by the same file as NVIDIA's device plugin and with the same meaning.

A node's label `nvidia.com/device-plugin.config` names a key of the ConfigMap `device-plugin-configs`; the key holds a
file like

    version: v1
    sharing:
      timeSlicing:
        renameByDefault: false
        failRequestsGreaterThanOne: true
        resources:
        - name: nvidia.com/gpu
          replicas: 4

Source: "Shared Access to GPUs" in the README of github.com/NVIDIA/k8s-device-plugin, and its api/config/v1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import KailabError
from cluster.gpu.devices import Gpu
from cluster.gpu.node import documents
from cluster.gpu.node.documents import shown

GPU_RESOURCE = "nvidia.com/gpu"
CONFIG_LABEL = "nvidia.com/device-plugin.config"
CONFIG_MAP = "device-plugin-configs"
# Each replica is a device that the kubelet keeps books of; NVIDIA names no limit, a kubelet has trouble long before.
MOST_REPLICAS = 128
_KNOWN = {"version", "flags", "resources", "sharing", "imex"}


@dataclass(frozen=True)
class Sharing:
    """How GPUs and slices are cut: replicas by resource name (as it is without sharing)."""

    replicas: Mapping[str, int] = field(default_factory=dict)
    rename: bool = False
    single: bool = False  # failRequestsGreaterThanOne

    def resource(self, name: str) -> str:
        """What a resource is called when shared."""
        return f"{name}.shared" if self.rename and self.replicas.get(name, 1) > 1 else name


def parse(text: str) -> Sharing:
    """Read a configuration file. Raises KailabError that names the file's fault."""
    try:
        document = documents.read(text)
    except ValueError as broken:
        raise _invalid(f"not YAML: {broken}") from None
    if not isinstance(document, Mapping):
        raise _invalid("it should be a mapping with version: v1")
    return from_document(document)


def from_document(document: Mapping[str, Any]) -> Sharing:
    """The same, of an already parsed document; an empty one means no sharing."""
    if not document:
        return Sharing()
    if document.get("version") != "v1":
        raise _invalid(f"version is {shown(document.get('version'))}; it should be v1")
    if unknown := _others(document, _KNOWN):
        raise _invalid(f"unknown field {unknown!r}")
    sharing = _mapping(document.get("sharing"), "sharing")
    if unknown := _others(sharing, {"timeSlicing"}):
        raise _invalid(f"sharing.{unknown} isn't simulated here; timeSlicing is")
    slicing = _mapping(sharing.get("timeSlicing"), "sharing.timeSlicing")
    if unknown := _others(slicing, {"renameByDefault", "failRequestsGreaterThanOne", "resources"}):
        raise _invalid(f"unknown field sharing.timeSlicing.{unknown}")
    resources = slicing.get("resources") or []
    if not isinstance(resources, Sequence) or isinstance(resources, str):
        raise _invalid("sharing.timeSlicing.resources should be a list of {name, replicas}")
    replicas = dict(_resource(entry) for entry in resources)
    return Sharing(replicas, _flag(slicing, "renameByDefault"), _flag(slicing, "failRequestsGreaterThanOne"))


def _others(found: Mapping[Any, Any], known: Collection[str]) -> str:
    """The first of the keys that aren't known, if any. YAML's keys may be numbers, dates and more beside text."""
    return min((key if isinstance(key, str) else shown(key) for key in found if key not in known), default="")


def _mapping(found: Any, where: str) -> Mapping[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise _invalid(f"{where} should be a mapping")
    return found


def _flag(slicing: Mapping[str, Any], name: str) -> bool:
    value = slicing.get(name, False)
    if not isinstance(value, bool):
        raise _invalid(f"sharing.timeSlicing.{name} should be true or false, not {shown(value)}")
    return value


def _resource(entry: Any) -> tuple[str, int]:
    if not isinstance(entry, Mapping) or not {"name", "replicas"} <= set(entry):
        raise _invalid(f"each of sharing.timeSlicing.resources has a name and replicas; found {shown(entry)}")
    name, replicas = entry["name"], entry["replicas"]
    if not isinstance(name, str) or not (name == GPU_RESOURCE or name.startswith("nvidia.com/mig-")):
        raise _invalid(f"no resource {shown(name)} to share; there is {GPU_RESOURCE}, or nvidia.com/mig-<profile>")
    if isinstance(replicas, bool) or not isinstance(replicas, int) or not 2 <= replicas <= MOST_REPLICAS:
        raise _invalid(
            f"replicas of {name} is {shown(replicas)}; it should be a whole number from 2 to {MOST_REPLICAS}"
        )
    return name, replicas


def _invalid(why: str) -> KailabError:
    return KailabError(
        "This sharing configuration can't be used.", why=why,
        mend=f"correct it in ConfigMap {CONFIG_MAP} of namespace kailab-gpu",
    )  # fmt: skip


def device_ids(found: Sequence[Gpu], sharing: Sharing) -> dict[str, list[str]]:
    """What the plugin announces: device IDs by resource. A GPU with MIG slices isn't offered whole (NVIDIA's "mixed"
    strategy); a replica is `<uuid>::<n>`."""
    offered: dict[str, list[str]] = {}
    for gpu in found:
        plain = [(GPU_RESOURCE, gpu.uuid)] if not gpu.mig else [(cut.resource, cut.uuid) for cut in gpu.mig]
        for resource, identity in plain:
            count = sharing.replicas.get(resource, 1)
            ids = [identity] if count == 1 else [f"{identity}::{number}" for number in range(count)]
            offered.setdefault(sharing.resource(resource), []).extend(ids)
    return offered


def refuse(ids: Sequence[str], sharing: Sharing) -> str:
    """Why NVIDIA's plugin would refuse to allocate these IDs together, in its words; empty when it would not."""
    if sharing.single and len(ids) > 1 and any("::" in one for one in ids):
        return f"invalid request: maximum request size for shared resources is 1; found {len(ids)}"
    return ""
