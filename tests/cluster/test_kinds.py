"""Kinds know their REST paths."""

from __future__ import annotations

import re

import pytest

from cluster.kinds import KINDS, Kind, NoPath, kind_named


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "path"),
    [
        ("Pod", "lab-06", "web", "/api/v1/namespaces/lab-06/pods/web"),
        ("Pod", "lab-06", "", "/api/v1/namespaces/lab-06/pods"),
        ("Pod", "", "", "/api/v1/pods"),
        ("Service", "default", "web", "/api/v1/namespaces/default/services/web"),
        ("Deployment", "lab-06", "web", "/apis/apps/v1/namespaces/lab-06/deployments/web"),
        ("Deployment", "", "", "/apis/apps/v1/deployments"),
        ("PodDisruptionBudget", "a", "b", "/apis/policy/v1/namespaces/a/poddisruptionbudgets/b"),
        ("NetworkPolicy", "a", "", "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies"),
        ("Ingress", "a", "b", "/apis/networking.k8s.io/v1/namespaces/a/ingresses/b"),
        ("EndpointSlice", "a", "", "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices"),
        ("PodMetrics", "a", "", "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods"),
        ("Node", "", "gpu-a", "/api/v1/nodes/gpu-a"),
        ("Namespace", "", "lab-06", "/api/v1/namespaces/lab-06"),
        ("StorageClass", "", "", "/apis/storage.k8s.io/v1/storageclasses"),
        ("ClusterRole", "", "system:node", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node"),
        ("APIService", "", "v1.apps", "/apis/apiregistration.k8s.io/v1/apiservices/v1.apps"),
    ],
)
def test_a_kind_has_the_path_of_the_api(kind: str, namespace: str, name: str, path: str) -> None:
    assert kind_named(kind).path(namespace, name) == path


@pytest.mark.parametrize("kind", ["Node", "PersistentVolume", "PriorityClass", "CustomResourceDefinition"])
def test_a_kind_of_the_whole_cluster_ignores_a_namespace(kind: str) -> None:
    assert kind_named(kind).path("lab-06", "x") == kind_named(kind).path("", "x")


@pytest.mark.parametrize("name", ["a?watch=1", "a#b", "a b", "ä", "a;b", "...", "a\\b"])
def test_a_name_never_leaves_its_place_in_the_path(name: str) -> None:
    last = kind_named("Pod").path("lab-06", name).removeprefix("/api/v1/namespaces/lab-06/pods/")
    assert re.fullmatch(r"[A-Za-z0-9%.:_-]+", last)
    between = kind_named("Pod").path(name, "web").removeprefix("/api/v1/namespaces/").removesuffix("/pods/web")
    assert between == last


@pytest.mark.parametrize("name", ["../secrets/x", "a/b", "/", ".", "..", "web%2Fproxy", "%2e%2e"])
def test_what_the_api_server_would_read_as_another_path_has_none(name: str) -> None:
    """It takes a path apart after decoding it (NewRequestInfo in its sources), so quoting would keep nothing in."""
    for place in ({"name": name}, {"namespace": name}, {"name": "web", "subresource": name}):
        with pytest.raises(NoPath) as refused:
            kind_named("Pod").path(**place)
        assert repr(name) in refused.value.what


@pytest.mark.parametrize("version", [
    "../../api/v1/namespaces/kube-system/services/http:some-svc:80/proxy/admin?x=", "..", "../v1", "v1/..", "v1?x=",
    "v1#", "v1\n", "a/b/v1", "/v1", "apps/", "", "v1%2f..", "apps/v1 ", "./v1", "Apps/v1", "watch/v1/x",
])  # fmt: skip
def test_a_version_is_one_of_a_group_and_nothing_else(version: str) -> None:
    made = Kind.of({"kind": "ConfigMap", "apiVersion": version})
    with pytest.raises(NoPath) as refused:
        made.path("lab-06", "a")
    assert repr(version) in refused.value.what


@pytest.mark.parametrize("version", ["v1", "apps/v1", "metrics.k8s.io/v1beta1", "my-group.example.com/v1alpha1"])
def test_any_groups_versions_have_paths(version: str) -> None:
    assert f"/{version}/" in Kind("Gadget", version, "gadgets").path("a", "b")


def test_a_manifests_own_version_is_the_one_in_the_path() -> None:
    beta = Kind.of({"kind": "CronJob", "apiVersion": "batch/v1beta1"})
    assert beta.path("a", "b") == "/apis/batch/v1beta1/namespaces/a/cronjobs/b"
    assert Kind.of({"kind": "CronJob"}) == kind_named("CronJob")


def test_an_unknown_kind_is_named() -> None:
    for look in (lambda: kind_named("Gadget"), lambda: Kind.of({"kind": "Gadget"})):
        with pytest.raises(KeyError, match="Gadget"):
            look()


def test_a_kind_can_be_spelled_out() -> None:
    gadget = Kind("Gadget", "example.com/v1", "gadgets")
    assert kind_named(gadget) is gadget
    assert gadget.path("a", "b") == "/apis/example.com/v1/namespaces/a/gadgets/b"


def test_the_table_is_consistent() -> None:
    for name, kind in KINDS.items():
        assert kind.kind == name
        assert re.fullmatch(r"[a-z]+", kind.plural)
        assert re.fullmatch(r"([a-z0-9.]+/)?v\d+((alpha|beta)\d+)?", kind.api_version)
    paths = [kind.path() for kind in KINDS.values()]
    assert len(set(paths)) == len(paths)
