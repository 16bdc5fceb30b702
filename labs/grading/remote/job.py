"""The workers as an Indexed Job: as many pods as are wanted at once, each made anew when it or its node is lost."""

from __future__ import annotations

from typing import Any

from cluster.api import Object
from cluster.gpu import SIMULATED
from cluster.topology import Node
from labs.catalog import LabFolder
from labs.grading.remote import NAMESPACE

NAME = "grading"
LABELS = {"app.kubernetes.io/name": "grader", "app.kubernetes.io/part-of": "kailab"}
VERSION = "kailab.dev/grader-version"  # annotation: what the image was made of, and its name
LAB = "kailab.dev/lab"
_EDGE = "node-role/edge"
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_LOST_SECONDS = 30  # that a node may be silent before its worker is given up; default: 300


def hosts_workers(node: Node) -> bool:
    """Whether a node of the course cluster takes workers; the manifest below says the same to the scheduler."""
    return node.role in ("control-plane", "cpu")


def base(token: str) -> list[Object]:
    """Namespace, account, and the Secret that lets workers ask the prober."""
    meta = {"namespace": NAMESPACE, "labels": LABELS}
    space = {"name": NAMESPACE, "labels": {**LABELS, "pod-security.kubernetes.io/enforce": "restricted"}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": space},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "worker", **meta}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "prober-token", **meta},
         "stringData": {"token": token}},
    ]  # fmt: skip


def manifest(lab: LabFolder, workers: int, image: str, version: str) -> Object:
    """The Job. A lost pod counts against its own index only, so one bad node never ends the whole run."""
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE, "labels": {**LABELS, LAB: str(lab.number)},
            "annotations": {VERSION: version},
        },
        "spec": {
            "completionMode": "Indexed", "completions": workers, "parallelism": workers, "backoffLimitPerIndex": 20,
            "template": {"metadata": {"labels": LABELS}, "spec": _pod(lab, image)},
        },
    }  # fmt: skip


def _pod(lab: LabFolder, image: str) -> dict[str, Any]:
    lost = [{"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute",
             "tolerationSeconds": _LOST_SECONDS} for what in ("not-ready", "unreachable")]  # fmt: skip
    return {
        "serviceAccountName": "worker", "restartPolicy": "Never", "enableServiceLinks": False,
        # Time to put back what a check has disturbed, when the pod is told to go.
        "terminationGracePeriodSeconds": 60,
        # Students' pods may be of any class below; the checker must not be what gives way to them.
        "priorityClassName": "system-cluster-critical",
        "securityContext": {"runAsNonRoot": True, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        # Beside the students' pods or on the control plane; never on what labs keep for themselves.
        "tolerations": [{"key": _CONTROL_PLANE, "operator": "Exists"}, *lost],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{
            "matchExpressions": [{"key": key, "operator": "DoesNotExist"} for key in (_EDGE, SIMULATED)],
        }]}}},
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": LABELS},
        }],
        "containers": [{
            "name": "worker", "image": image, "imagePullPolicy": "IfNotPresent",
            "env": [
                {"name": "LAB", "value": str(lab.number)},
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "PROBER_TOKEN", "valueFrom": {"secretKeyRef": {"name": "prober-token", "key": "token"}}},
            ],
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "768Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "state", "mountPath": "/state"}],
        }],
        "volumes": [{"name": "state", "emptyDir": {}}],
    }  # fmt: skip
