"""A simulated cloud: gives Services of type LoadBalancer an address that answers on this machine.

The address is put on the node where this runs; kube-proxy there sends it on to the pods. Written on the
standard library: the official client needs a second and ten times the memory to start, for four calls.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from allocate import Key, allocate, key_of, present_address

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEVICE = "eth0"
WATCH_SECONDS = 60


class Api:
    """The four calls that are needed, on a connection of their own each."""

    def __init__(self) -> None:
        self._host = os.environ["KUBERNETES_SERVICE_HOST"]
        self._port = int(os.environ["KUBERNETES_SERVICE_PORT"])
        self._tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))

    def open(
        self, method: str, path: str, body: Any = None, content: str = "application/json"
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=WATCH_SECONDS + 10)
        headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": content}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        if response.status >= 400:
            raise OSError(f"{method} {path}: {response.status} {response.read(300)!r}")
        return response

    def services(self) -> tuple[list[dict[str, Any]], str]:
        document = json.load(self.open("GET", "/api/v1/services"))
        return document["items"], document["metadata"]["resourceVersion"]

    def wait_for_change(self, version: str) -> None:
        """Return at the first change of any Service, or after a minute."""
        query = f"watch=1&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}"
        with self.open("GET", f"/api/v1/services?{query}") as response:
            response.readline()

    def set_address(self, key: Key, address: str) -> None:
        namespace, name = key
        ingress = [{"ip": address, "ipMode": "VIP"}] if address else []
        self.open(
            "PATCH", f"/api/v1/namespaces/{namespace}/services/{name}/status",
            {"status": {"loadBalancer": {"ingress": ingress}}}, "application/merge-patch+json",
        ).read()  # fmt: skip

    def tell(self, service: dict[str, Any], kind: str, reason: str, message: str) -> None:
        """An event on the Service, so that `kubectl describe` shows what happened."""
        namespace, name = key_of(service)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.open("POST", f"/api/v1/namespaces/{namespace}/events", {
            "metadata": {"generateName": f"{name[:200]}."}, "type": kind, "reason": reason, "message": message,
            "source": {"component": "kailab-cloud"}, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
            "involvedObject": {"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name,
                               "uid": service["metadata"]["uid"]},
        }).read()  # fmt: skip


def on_device(pool: set[str]) -> set[str]:
    """The pool's addresses that this node has now."""
    shown = subprocess.run(
        ["ip", "-o", "-4", "addr", "show", "dev", DEVICE], capture_output=True, text=True, check=True
    )
    return {word.split("/")[0] for line in shown.stdout.splitlines() for word in line.split()} & pool


def reconcile(api: Api, pool: list[str], warned: set[str]) -> str:
    """Make addresses on the node and in the Services' status equal to what is wanted; the list's version."""
    services, version = api.services()
    wanted = allocate(services, pool)
    on_node, needed = on_device(set(pool)), {address for address in wanted.values() if address}
    for verb, addresses in (("del", on_node - needed), ("add", needed - on_node)):
        for address in sorted(addresses):
            subprocess.run(["ip", "addr", verb, f"{address}/32", "dev", DEVICE], check=True)
            print(f"{verb} {address}")
    for service in services:
        key = key_of(service)
        address, present = wanted.get(key, ""), present_address(service)
        uid = service["metadata"]["uid"]
        if key in wanted and not address and uid not in warned:
            warned.add(uid)
            api.tell(service, "Warning", "NoAddress", f"the simulated cloud's {len(pool)} addresses are all in use")
        if address != present and (address or present in pool):
            api.set_address(key, address)
            if address:
                api.tell(service, "Normal", "EnsuredLoadBalancer", f"address {address}, from kailab's simulated cloud")
    return version


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    api, pool = Api(), os.environ["POOL"].split()
    warned: set[str] = set()
    print(f"simulating a cloud load balancer with {len(pool)} addresses: {' '.join(pool)}")
    while True:
        try:
            api.wait_for_change(reconcile(api, pool, warned))
        except (OSError, subprocess.CalledProcessError, http.client.HTTPException, ValueError) as failed:
            print(f"once more in a second: {failed}")
            time.sleep(1)


if __name__ == "__main__":
    main()
