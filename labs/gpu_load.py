"""A pod that keeps GPUs of a node busy for a while."""

from __future__ import annotations

import uuid
from typing import Any

from cluster.api import Api
from cluster.errors import KailabError
from cluster.gpu.node.sharing import GPU_RESOURCE
from labs.apps import GPU_APP

STEP_SECONDS = 0.2


def start(api: Api, node: str, *, gpus: int, memory: int, busy: int, seconds: int) -> str:
    """Make the Job and return its name. Raises KailabError when the node hasn't that many GPUs.

    `memory` in MiB on each GPU, `busy` in percent of the time.
    """
    found = api.get("Node", node)
    allocatable = (found or {}).get("status", {}).get("allocatable", {})
    resource = next(
        (name for name in (GPU_RESOURCE, f"{GPU_RESOURCE}.shared") if allocatable.get(name, "0") != "0"), ""
    )
    if not resource or int(allocatable[resource]) < gpus:
        has = f"it offers {allocatable.get(resource, 0)}" if found else "there is no such node"
        raise KailabError(f"Node {node} can't give {gpus} GPUs: {has}.", mend="kailab gpu status")
    name = f"gpu-load-{uuid.uuid4().hex[:5]}"
    api.create(manifest(name, node, resource, gpus=gpus, memory=memory, busy=busy, seconds=seconds), "default")
    return name


def manifest(name: str, node: str, resource: str, *, gpus: int, memory: int, busy: int, seconds: int) -> dict[str, Any]:
    """A Job, since it ends by itself and is cleaned up by its time to live."""
    pause = STEP_SECONDS * (100 - busy) / busy
    environment = {"GPU_MEMORY": str(memory), "STEP_SECONDS": str(STEP_SECONDS), "PAUSE_SECONDS": f"{pause:.3f}",
                   "STEPS": str(max(round(seconds / (STEP_SECONDS + pause)), 1))}  # fmt: skip
    labels = {"app.kubernetes.io/name": "gpu-load", "app.kubernetes.io/part-of": "kailab"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 5,
            "activeDeadlineSeconds": seconds + 60,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "nodeSelector": {"kubernetes.io/hostname": node},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                    "containers": [
                        {
                            "name": "load",
                            "image": GPU_APP.name,
                            "imagePullPolicy": "IfNotPresent",
                            "env": [{"name": key, "value": value} for key, value in environment.items()],
                            "resources": {
                                "requests": {"cpu": "20m", "memory": "32Mi"},
                                "limits": {"memory": "128Mi", resource: str(gpus)},
                            },
                        }
                    ],
                },
            },
        },
    }
