"""What a lab must not leave behind: the cluster's lasting state as one comparable dict."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from cluster.api import Api, ApiError, Object
from cluster.kinds import KINDS

CLUSTER_KINDS = ("Namespace", "PersistentVolume", "StorageClass", "ClusterRole", "ClusterRoleBinding", "PriorityClass",
                 "CustomResourceDefinition", "APIService", "ValidatingWebhookConfiguration",
                 "MutatingWebhookConfiguration", "ValidatingAdmissionPolicy", "DeviceClass")  # fmt: skip
NAMESPACED_KINDS = ("Deployment", "DaemonSet", "StatefulSet", "Service", "ConfigMap", "Secret", "ServiceAccount",
                    "Role", "RoleBinding", "Job", "CronJob", "PersistentVolumeClaim",
                    "PodDisruptionBudget", "ResourceQuota",
                    "LimitRange", "NetworkPolicy", "Ingress", "HorizontalPodAutoscaler")  # fmt: skip
# Other labs come and go beside this one.
_OTHERS = "lab-"


def snapshot(api: Api) -> dict[str, str]:
    """{"Kind namespace/name": what matters of it}: existence for most, specs in kube-system, the nodes' labels,
    taints and cordons. Namespaces of labs are left out, but for their existence."""
    kinds = ("Node", *CLUSTER_KINDS, *NAMESPACED_KINDS)
    with ThreadPoolExecutor(8) as pool:
        listed = pool.map(lambda kind: (kind, _listed(api, kind)), kinds)
        return {key: value for kind, items in listed for item in items for key, value in _entry(kind, item)}


def _listed(api: Api, kind: str) -> list[Object]:
    try:
        return api.list(KINDS[kind])[0]
    except ApiError as refused:
        if refused.status == 404:  # a kind that this cluster doesn't serve
            return []
        raise


def _entry(kind: str, item: Object) -> list[tuple[str, str]]:
    meta = item["metadata"]
    namespace, name = meta.get("namespace", ""), meta["name"]
    if namespace.startswith(_OTHERS):
        return []
    if kind == "Node":
        spec = item["spec"]
        state = {
            "labels": meta.get("labels"),
            "taints": spec.get("taints"),
            "cordoned": spec.get("unschedulable", False),
        }
        return [(f"Node {name}", json.dumps(state, sort_keys=True))]
    if kind == "ConfigMap" and namespace == "kube-system":
        return [(f"{kind} {namespace}/{name}", json.dumps(item.get("data"), sort_keys=True)[:2000])]
    if kind in ("Deployment", "DaemonSet") and namespace:
        return [(f"{kind} {namespace}/{name}", json.dumps(item["spec"], sort_keys=True))]
    return [(f"{kind} {namespace}/{name}", "present")]
