"""Simulated nodes join and leave the cluster. Both are idempotent: whatever Ctrl-C leaves, the next one mends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.api import Api, ApiError, Object
from cluster.cordons import set_unschedulable
from cluster.errors import KailabError
from cluster.gpu import GROUP, NAMESPACE, SIMULATED, SPEC

SELECTOR = f"{SIMULATED}=true"
WRITERS = 16
_PLACE = "topology.kubernetes.io/"
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
PAGE = 1000
READY_SECONDS = 120.0
Progress = Callable[[int], None]


def members(api: Api, group: str = "") -> list[str]:
    """Names of the simulated nodes that are there, of one group or all, asking for nothing but metadata."""
    return sorted(_metadata(api, group))


def _metadata(api: Api, group: str = "") -> dict[str, Object]:
    found = (item["metadata"] for item in _pages(api, "/api/v1/nodes", METADATA, _selector(group)))
    return {metadata["name"]: metadata for metadata in found}


def _selector(group: str) -> str:
    return f"{GROUP}={group}" if group else SELECTOR


def _pages(api: Api, path: str, accept: str, selector: str = "") -> Iterator[Object]:
    more = ""
    while True:
        query = (
            f"?limit={PAGE}"
            + (f"&labelSelector={selector}" if selector else "")
            + (f"&continue={more}" if more else "")
        )
        answer = api.call("GET", path + query, headers={"Accept": accept}, timeout=60)
        yield from answer.get("items") or answer.get("rows") or []
        more = answer["metadata"].get("continue", "")
        if not more:
            return


def join(api: Api, nodes: Sequence[Object], progress: Progress = lambda _: None) -> int:
    """Register the nodes that aren't there yet; returns how many. `progress` hears how many are done.

    Raises KailabError when a name belongs to a node that isn't simulated or was planned otherwise, or KWOK isn't there
    to play them.
    """
    _require_kwok(api)
    present = _metadata(api)
    _require_same(nodes, present)
    missing = [node for node in nodes if node["metadata"]["name"] not in present]
    done = len(nodes) - len(missing)
    progress(done)

    def register(node: Object) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for condition in node["status"]["conditions"]:
            condition |= {"lastTransitionTime": now, "lastHeartbeatTime": now}
        name = node["metadata"]["name"]
        try:
            api.create(node)
        except ApiError as refused:
            if refused.status != 409 or not _is_ours(api, name):
                raise
        # Every new node gets a taint as not ready, also one that is. The node controller takes it away from two dozen
        # nodes a second, and until then no pod goes there. Who wrote which field of it nobody asks, and it is a third
        # of the object in every listing; taken away once, it stays away ("Clearing managedFields" in kubernetes.io's
        # page on server-side apply).
        api.patch("Node", name, "", [
            {"op": "replace", "path": "/spec/taints", "value": node["spec"]["taints"]},
            {"op": "add", "path": "/metadata/managedFields", "value": [{}]},
        ])  # fmt: skip

    with ThreadPoolExecutor(WRITERS) as pool:
        _delete_leases(api, {node["metadata"]["name"] for node in missing}, pool)
        for _ in pool.map(register, missing):
            done += 1
            progress(done)
    return len(missing)


def _require_same(nodes: Sequence[Object], present: Mapping[str, Object]) -> None:
    """A node that is there already is left as it is: it had better be what is wanted."""
    others = [
        (name, kept, wanted)
        for name, wanted in ((node["metadata"]["name"], _plan(node["metadata"])) for node in nodes)
        if name in present and (kept := _plan(present[name])) != wanted
    ]
    if others:
        name, kept, wanted = others[0]
        raise KailabError(
            f"{len(others)} of these simulated nodes are there already, and not as they should be now.",
            why=f"Node {name} has {_words(kept)}; wanted is {_words(wanted)}.",
            mend="kailab gpu fleet down   (removes every simulated node), then the same command again",
        )


def _plan(metadata: Object) -> tuple[str, str, str, object]:
    """Of a node's metadata what comes from its fleet and nobody changes: fleet, region, zone, GPUs."""
    labels, spec = metadata.get("labels") or {}, (metadata.get("annotations") or {}).get(SPEC)
    fleet, region, zone = (str(labels.get(name, "?")) for name in (GROUP, f"{_PLACE}region", f"{_PLACE}zone"))
    try:
        return fleet, region, zone, json.loads(spec or "null")
    except ValueError:
        return fleet, region, zone, None


def _words(plan: tuple[str, str, str, Any]) -> str:
    fleet, region, zone, spec = plan
    spec = spec if isinstance(spec, dict) else {}
    gpus = f"{spec['count']} x {spec['model']}" if {"count", "model"} <= set(spec) else "unknown GPUs"
    plain = {key: value for key, value in spec.items() if key not in ("count", "model") and value}
    return f"{gpus} in {region}, zone {zone}, fleet {fleet}" + (f", with {json.dumps(plain)}" if plain else "")


def _is_ours(api: Api, name: str) -> bool:
    """Someone else was faster with the same node, or the name is a real node's."""
    node = api.get("Node", name)
    if node is not None and SIMULATED not in (node["metadata"].get("labels") or {}):
        raise KailabError(
            f"Node {name} exists and is not a simulated one.", mend="choose another name in the fleet file"
        )
    return node is not None


def _require_kwok(api: Api) -> None:
    found = api.get("Deployment", "kwok", NAMESPACE)
    if found is None or not found.get("status", {}).get("availableReplicas"):
        raise KailabError(
            "KWOK, which plays simulated nodes, is not running.",
            why=f"Deployment kwok of namespace {NAMESPACE} is not available.", mend="kailab up, then try again",
        )  # fmt: skip


def wait_ready(
    api: Api, count: int, progress: Progress = lambda _: None, deadline: float = READY_SECONDS, group: str = ""
) -> None:
    """Return when `count` simulated nodes (of one group, or all) are Ready. Raises KailabError after `deadline` s."""
    end = time.monotonic() + deadline
    while True:
        ready = sum(_is_ready(row) for row in _pages(api, "/api/v1/nodes", TABLE, _selector(group)))
        progress(ready)
        if ready >= count:
            return
        if time.monotonic() > end:
            raise KailabError(
                f"{ready} of {count} simulated nodes are Ready after {deadline:.0f} s.",
                mend="kubectl -n kailab-gpu logs deploy/kwok, then kailab gpu fleet up again",
            )
        time.sleep(1.0)  # a thousand rows cost the API server more than registering a dozen nodes


def _is_ready(row: Object) -> bool:
    """A row of the table that `kubectl get nodes` shows: name, status ..."""
    return "Ready" in str(row["cells"][1]).split(",")


def leave(api: Api, progress: Progress = lambda _: None, group: str = "") -> int:
    """Remove simulated nodes, all or one group's, and the pods bound to them; returns how many nodes there were.

    Pods go first: on a node that has vanished nobody would confirm their end.
    """
    names = set(members(api, group))
    if not names:
        return 0
    with ThreadPoolExecutor(WRITERS) as pool:
        _delete_pods(api, names, pool)
        for done, _ in enumerate(pool.map(lambda name: api.delete("Node", name), sorted(names)), start=1):
            progress(done)
        _delete_pods(api, names, pool)  # what was bound between the look and the node's end
        _delete_leases(api, names, pool)
    return len(names)


def _delete_pods(api: Api, nodes: set[str], pool: ThreadPoolExecutor) -> None:
    list(pool.map(lambda at: api.delete("Pod", at[1], at[0], grace=0), list(_pods_on(api, nodes))))


def _delete_leases(api: Api, nodes: set[str], pool: ThreadPoolExecutor) -> None:
    """Leases have no owner, and KWOK takes one over from another KWOK only when it has run out."""
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    present = {item["metadata"]["name"] for item in _pages(api, path, METADATA)} & nodes
    list(pool.map(lambda name: api.delete("Lease", name, "kube-node-lease"), sorted(present)))


def _pods_on(api: Api, names: set[str]) -> Iterator[tuple[str, str]]:
    """(namespace, pod) of all pods bound to these nodes, by the wide table: a fifteenth of the whole objects."""
    path = "/api/v1/pods"
    for row in _pages(api, path, TABLE):
        if str(row["cells"][6]) in names:  # NODE
            metadata = row["object"]["metadata"]
            yield metadata["namespace"], metadata["name"]


def reopen(api: Api, group: str) -> None:
    """Uncordon what is closed of a group."""
    closed, _ = api.list("Node", labelSelector=_selector(group), fieldSelector="spec.unschedulable=true")
    set_unschedulable(api, [node["metadata"]["name"] for node in closed], None)
