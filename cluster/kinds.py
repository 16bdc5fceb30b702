"""The kinds that checks and set-up read by name, with their REST paths; any other kind is spelled out as a Kind.

Groups and plurals are those of Kubernetes v1.37's own discovery; a cluster test compares them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cluster.errors import KailabError

# A DNS subdomain and a DNS label, as the API has groups and versions.
_VERSION = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[a-z]([-a-z0-9]*[a-z0-9])?")


class NoPath(KailabError):
    """What no object of any cluster can have as its name, namespace or apiVersion: the path would lead elsewhere."""


@dataclass(frozen=True)
class Kind:
    """One resource: `api_version` as in manifests ("apps/v1"), plural as in URLs."""

    kind: str
    api_version: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The REST path of one object, or of the list when no name is given. Raises NoPath."""
        if not _VERSION.fullmatch(self.api_version):
            raise NoPath(f"{self.api_version!r} can't be an apiVersion.", mend="for example: v1, apps/v1")
        root = "/api" if "/" not in self.api_version else "/apis"
        scope = f"/namespaces/{_segment(namespace)}" if self.namespaced and namespace else ""
        last = "".join(f"/{_segment(part)}" for part in (name, subresource) if part)
        return f"{root}/{self.api_version}{scope}/{self.plural}{last}"

    @classmethod
    def of(cls, item: dict[str, Any]) -> Kind:
        """The kind of a manifest. Raises KeyError for one that is not in the table."""
        known = kind_named(item["kind"])
        return cls(known.kind, item.get("apiVersion", known.api_version), known.plural, known.namespaced)


def _segment(text: str) -> str:
    """One segment of a path. Quoting alone keeps nothing in it: the API server takes a path apart after decoding it,
    so what its own IsValidPathSegmentName forbids is not sent at all."""
    if text in (".", "..") or "/" in text or "%" in text:
        raise NoPath(f"{text!r} can't be a name in Kubernetes.", why="A name holds no / and no %, and is not . or ..")
    return quote(text, safe=":")


_TABLE = {
    "v1": "ConfigMap configmaps|Event events|LimitRange limitranges|PersistentVolumeClaim persistentvolumeclaims|"
    "Pod pods|ResourceQuota resourcequotas|Secret secrets|Service services|ServiceAccount serviceaccounts",
    "apps/v1": "DaemonSet daemonsets|Deployment deployments|ReplicaSet replicasets|StatefulSet statefulsets",
    "batch/v1": "Job jobs|CronJob cronjobs",
    "autoscaling/v2": "HorizontalPodAutoscaler horizontalpodautoscalers",
    "discovery.k8s.io/v1": "EndpointSlice endpointslices",
    "networking.k8s.io/v1": "Ingress ingresses|NetworkPolicy networkpolicies",
    "policy/v1": "PodDisruptionBudget poddisruptionbudgets",
    "rbac.authorization.k8s.io/v1": "Role roles|RoleBinding rolebindings",
    "coordination.k8s.io/v1": "Lease leases",
    "resource.k8s.io/v1": "ResourceClaim resourceclaims|ResourceClaimTemplate resourceclaimtemplates",
    "metrics.k8s.io/v1beta1": "PodMetrics pods",
}
_CLUSTER_WIDE = {
    "v1": "Namespace namespaces|Node nodes|PersistentVolume persistentvolumes",
    "storage.k8s.io/v1": "StorageClass storageclasses",
    "rbac.authorization.k8s.io/v1": "ClusterRole clusterroles|ClusterRoleBinding clusterrolebindings",
    "scheduling.k8s.io/v1": "PriorityClass priorityclasses",
    "apiregistration.k8s.io/v1": "APIService apiservices",
    "apiextensions.k8s.io/v1": "CustomResourceDefinition customresourcedefinitions",
    "resource.k8s.io/v1": "DeviceClass deviceclasses|ResourceSlice resourceslices",
    "metrics.k8s.io/v1beta1": "NodeMetrics nodes",
    "flowcontrol.apiserver.k8s.io/v1": "FlowSchema flowschemas",
    "admissionregistration.k8s.io/v1": "ValidatingWebhookConfiguration validatingwebhookconfigurations|"
    "MutatingWebhookConfiguration mutatingwebhookconfigurations|"
    "ValidatingAdmissionPolicy validatingadmissionpolicies|"
    "ValidatingAdmissionPolicyBinding validatingadmissionpolicybindings",
}

KINDS = {
    kind: Kind(kind, version, plural, namespaced)
    for table, namespaced in ((_TABLE, True), (_CLUSTER_WIDE, False))
    for version, entries in table.items()
    for kind, plural in (entry.split() for entry in entries.split("|"))
}


def kind_named(kind: str | Kind) -> Kind:
    """The table's entry. Raises KeyError naming the kind."""
    return kind if isinstance(kind, Kind) else KINDS[kind]
