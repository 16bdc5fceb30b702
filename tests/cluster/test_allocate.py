"""The simulated cloud gives addresses as clouds do: kept while wanted, first come first served, never twice."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from cluster.addons.cloud.allocate import allocate, wants_address

A, B, C = POOL = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def service(
    name: str, age: int = 0, *, has: str = "", asks: str = "", namespace: str = "lab", **spec: Any
) -> dict[str, Any]:
    """A Service of type LoadBalancer; `age` in days, `has` is the address in its status."""
    return {
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": f"2026-01-{20 - age:02}T00:00:00Z"},
        "spec": {"type": "LoadBalancer", **({"loadBalancerIP": asks} if asks else {}), **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": has, "ipMode": "VIP"}]} if has else {}},
    }


def leaving(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "metadata": {**item["metadata"], "deletionTimestamp": "2026-01-21T00:00:00Z"}}


@pytest.mark.parametrize(
    ("services", "given"),
    [
        pytest.param([service("x")], {"x": A}, id="the first gets the first"),
        pytest.param([service("new", 1), service("old", 2)], {"old": A, "new": B}, id="older ones come first"),
        pytest.param([service("x", has=C)], {"x": C}, id="an address stays"),
        pytest.param([service("old", 9), service("x", has=A)], {"x": A, "old": B}, id="even beside an older Service"),
        pytest.param([service("x", asks=B)], {"x": B}, id="an address may be asked for"),
        pytest.param([service("x", asks=B, has=C)], {"x": C}, id="what it has counts more than what it asks for"),
        pytest.param([service("x", asks=B), service("y", has=B)], {"x": A, "y": B}, id="not another's"),
        pytest.param([service("x", 1), service("y", asks=A)], {"x": B, "y": A}, id="asked for before handed out"),
        pytest.param([service("x", asks="8.8.8.8")], {"x": A}, id="none of ours asked for"),
        pytest.param([service("x", has="8.8.8.8")], {"x": A}, id="none of ours held: the pool has changed"),
        pytest.param([service("x", 2, has=A), service("y", 1, has=A)], {"x": A, "y": B}, id="two hold the same"),
        pytest.param([service("x", 2, asks=A), service("y", 1, asks=A)], {"x": A, "y": B}, id="two ask for the same"),
        pytest.param([service("x", type="ClusterIP")], {}, id="not a LoadBalancer"),
        pytest.param([service("x", type="ClusterIP", has=A), service("y")], {"y": A}, id="no LoadBalancer any more"),
        pytest.param([leaving(service("x", 9, has=A)), service("y")], {"y": A}, id="on its way out"),
        pytest.param([service("x", 9, loadBalancerClass="other/lb"), service("y")], {"y": A}, id="another's class"),
        pytest.param([service("x", loadBalancerClass="kailab.dev/cloud")], {"x": A}, id="our class"),
        pytest.param([], {}, id="none"),
    ],
)  # fmt: skip
def test_addresses_are_given(services: list[dict[str, Any]], given: dict[str, str]) -> None:
    for order in permutations(services):
        assert {name: address for (_, name), address in allocate(order, POOL).items()} == given


def test_when_the_pool_is_used_up_the_youngest_waits() -> None:
    services = [service(name, age) for age, name in enumerate("abcde", 1)]
    given = allocate(services, POOL)
    assert [given["lab", name] for name in "edcba"] == [A, B, C, "", ""]
    assert allocate(services, []) == {("lab", name): "" for name in "abcde"}


def test_who_waits_gets_the_first_address_that_is_released() -> None:
    holders = [service("a", 9, has=A), service("b", 8, has=B), service("c", 7, has=C)]
    waiting = [service("young", 1), service("old", 2)]
    assert allocate([*holders, *waiting], POOL)["lab", "old"] == ""
    after = allocate([holders[0], holders[2], *waiting], POOL)
    assert after == {("lab", "a"): A, ("lab", "c"): C, ("lab", "old"): B, ("lab", "young"): ""}


def test_one_name_in_two_namespaces_is_two_services() -> None:
    given = allocate([service("x", 2, namespace="one"), service("x", 1, namespace="two")], POOL)
    assert given == {("one", "x"): A, ("two", "x"): B}


def test_what_was_given_stays_given() -> None:
    services = [service(name, age, asks=asks) for age, (name, asks) in enumerate([("a", ""), ("b", C), ("c", A)])]
    first = allocate(services, POOL)
    for item in services:
        item["status"]["loadBalancer"]["ingress"] = [{"ip": first["lab", item["metadata"]["name"]]}]
    assert allocate(list(reversed(services)), POOL) == first


@pytest.mark.parametrize("status", [{}, {"loadBalancer": {}}, {"loadBalancer": {"ingress": None}}])
def test_a_service_without_a_status_wants_an_address(status: dict[str, Any]) -> None:
    fresh = {**service("x"), "status": status}
    assert wants_address(fresh)
    assert allocate([fresh], POOL) == {("lab", "x"): A}
