"""What every course cluster has beside Kubernetes itself: storage, metrics, a simulated cloud load balancer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.yamls import load_all

FOLDER = Path(__file__).parent
FILES = ("local-path.yaml", "metrics-server.yaml", "cloud.yaml", "priorities.yaml")
READY = (
    ("Deployment", "local-path-storage", "local-path-provisioner"),
    ("Deployment", "local-path-storage", "shared-path-provisioner"),
    ("Deployment", "kube-system", "metrics-server"),
    ("APIService", "", "v1beta1.metrics.k8s.io"),
    ("Deployment", "kailab-cloud", "cloud"),
)


def manifests(*, pool: Sequence[str]) -> list[dict[str, Any]]:
    """All add-on objects; `pool` are the IPv4 addresses that LoadBalancer Services may get."""
    items: list[dict[str, Any]] = []
    for name in FILES:
        items += load_all((FOLDER / name).read_text())
    for item in items:
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "cloud":
            item["data"] = {"pool": " ".join(pool)}
    return items
