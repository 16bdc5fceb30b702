"""Which Service gets which address: pure bookkeeping, apart from all input and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CLASS = "kailab.dev/cloud"
Key = tuple[str, str]  # namespace, name


def wants_address(service: Mapping[str, Any]) -> bool:
    """A LoadBalancer Service of our class, or of no class, that is not on its way out."""
    spec = service["spec"]
    ours = spec.get("loadBalancerClass", CLASS) == CLASS
    return spec.get("type") == "LoadBalancer" and ours and not service["metadata"].get("deletionTimestamp")


def present_address(service: Mapping[str, Any]) -> str:
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or [{}]
    return str(ingress[0].get("ip", ""))


def allocate(services: Sequence[Mapping[str, Any]], pool: Sequence[str]) -> dict[Key, str]:
    """An address for every Service that wants one, as far as the pool goes; "" where it is used up.

    Addresses already given stay; a Service may ask for one by spec.loadBalancerIP; older Services come first.
    """
    waiting = sorted(
        (service for service in services if wants_address(service)),
        key=lambda service: (service["metadata"].get("creationTimestamp", ""), key_of(service)),
    )
    given: dict[Key, str] = {}
    used: set[str] = set()
    for address_of in (present_address, lambda service: str(service["spec"].get("loadBalancerIP", ""))):
        for service in waiting:
            address = address_of(service)
            if address in pool and address not in used and key_of(service) not in given:
                given[key_of(service)] = address
                used.add(address)
    free = iter([address for address in pool if address not in used])
    for service in waiting:
        if key_of(service) not in given:
            given[key_of(service)] = next(free, "")
    return given


def key_of(service: Mapping[str, Any]) -> Key:
    return service["metadata"]["namespace"], service["metadata"]["name"]
