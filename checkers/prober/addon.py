"""The prober as part of the course cluster: image, objects, what to wait for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkers.prober import NAMESPACE, token
from cluster.images import ImageRecipe
from cluster.workspace import Workspace
from cluster.yamls import load_all

FOLDER = Path(__file__).parent
IMAGE = ImageRecipe("kailab/prober:v1", FOLDER / "image")
READY = (("Deployment", NAMESPACE, "prober"),)


def manifests(workspace: Workspace) -> list[dict[str, Any]]:
    """What `kailab up` applies for the prober."""
    items: list[dict[str, Any]] = load_all((FOLDER / "prober.yaml").read_text())
    for item in items:
        if item["kind"] == "Secret":
            item["stringData"] = {"token": token(workspace)}
        if item["kind"] == "Deployment":
            # A wish alone loses: beside its own predecessor in a rollout, or on a full node, it would go to a worker.
            item["spec"]["template"]["spec"]["nodeSelector"] = {"node-role.kubernetes.io/control-plane": ""}
    return items
