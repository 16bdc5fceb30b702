"""The simulated GPUs as part of the course cluster: image, objects, what to wait for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.gpu import FLEET_CONFIG_MAP, NAMESPACE, fleet
from cluster.images import ImageRecipe
from cluster.nodeimage.programs import NVIDIA_SMI
from cluster.yamls import load_all

FOLDER = Path(__file__).parent
_PACKAGE = FOLDER.parent
IMAGE = ImageRecipe(
    "kailab/gpu:v1",
    FOLDER / "image",
    requirements=FOLDER / "image" / "requirements.txt",
    sources=tuple(
        _PACKAGE / name
        for name in (
            "__init__.py", "api.py", "errors.py", "kinds.py", "kubeconfig.py", "yamls.py", "gpu/__init__.py",
            "gpu/models.py", "gpu/devices.py", "gpu/labels.py", "gpu/faults.py", "gpu/node",
        )
    ),
    programs=(NVIDIA_SMI,),
)  # fmt: skip
READY = (("DaemonSet", NAMESPACE, "gpu-agent"), ("Deployment", NAMESPACE, "kwok"))


def manifests(fleet_file: Path = fleet.PATH) -> list[dict[str, Any]]:
    """All objects, with the fleet file's entries for the course cluster's own nodes."""
    items = [
        item for name in ("agent.yaml", "dra.yaml", "scale/kwok.yaml") for item in load_all((FOLDER / name).read_text())
    ]
    entries = [entry for entry in fleet.read(fleet_file).nodes if not entry.simulated]
    nodes = {entry.name: json.dumps(entry.gpus().to_json()) for entry in entries}
    for item in items:
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == FLEET_CONFIG_MAP:
            item["data"] = nodes
        if item["kind"] == "DaemonSet":
            # A changed fleet restarts the agents; pods keep their devices.
            template = item["spec"]["template"]["metadata"]
            template["annotations"] = {"kailab.dev/fleet": json.dumps(nodes, sort_keys=True)}
    return items
