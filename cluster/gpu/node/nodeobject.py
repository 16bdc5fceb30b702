"""The agent's traces on its Node object: labels of GPU feature discovery and the condition `GpusHealthy`."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from cluster.api import Api, Object
from cluster.gpu import faults, labels
from cluster.gpu.devices import Gpu
from cluster.gpu.node.sharing import Sharing
from cluster.kinds import kind_named

# Whatever else wears these prefixes was left by an earlier arrangement of the same GPUs.
_OURS = tuple(labels.PREFIX + name for name in ("gpu.", "mig-", "mig.", "cuda.", "mps."))
_MERGE_LISTS = "application/strategic-merge-patch+json"


class NodeObject:
    """Writes only what differs from what the watch last showed. Raises ApiError or Unreachable."""

    def __init__(self, api: Api, node: str, gpus: Sequence[Gpu]) -> None:
        self._api, self._node, self._gpus = api, node, gpus
        self._lock = threading.Lock()
        self._last: Object | None = None

    def saw(self, item: Object) -> None:
        with self._lock:
            self._last = item

    def keep(self, sharing: Sharing, unhealthy: Mapping[str, str]) -> None:
        """Make labels and condition true; `unhealthy` has reasons by GPU UUID."""
        with self._lock:
            last = self._last
        if last is None:
            return
        present = last["metadata"].get("labels") or {}
        wanted = labels.of(self._gpus, sharing)
        change: dict[str, str | None] = {key: value for key, value in wanted.items() if present.get(key) != value}
        change |= {key: None for key in present if key.startswith(_OURS) and key not in wanted}
        if change:
            self.saw(self._api.patch("Node", self._node, "", {"metadata": {"labels": change}}))
        self._condition(last, unhealthy)

    def _condition(self, last: Object, unhealthy: Mapping[str, str]) -> None:
        wanted = condition(self._gpus, unhealthy)
        listed = last.get("status", {}).get("conditions") or []
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        present: Object = next((one for one in listed if one["type"] == faults.CONDITION), {})
        if all(present.get(key) == value for key, value in wanted.items()):
            return
        moved = present.get("status") != wanted["status"]
        times = {"lastHeartbeatTime": now, "lastTransitionTime": now if moved else present["lastTransitionTime"]}
        body = {"status": {"conditions": [{**wanted, **times}]}}
        path = f"{kind_named('Node').path('', self._node)}/status"
        self.saw(self._api.call("PATCH", path, body, content=_MERGE_LISTS))

    def forget_fault(self, index: int) -> None:
        """A momentary fault is over as soon as it has struck."""
        self._api.patch("Node", self._node, "", {"metadata": {"annotations": {f"{faults.ANNOTATION}{index}": None}}})


def condition(gpus: Sequence[Gpu], unhealthy: Mapping[str, str]) -> dict[str, str]:
    """The node condition without its times."""
    bad = [f"GPU {gpu.index} ({gpu.uuid}): {unhealthy[gpu.uuid]}" for gpu in gpus if gpu.uuid in unhealthy]
    return faults.condition(bad, f"{len(gpus)} simulated GPUs without a fault")
