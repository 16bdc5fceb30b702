"""The `lab` object that checks are given: the only way in which a check sees or touches the cluster."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from checkers.declare import CannotTell, Fail
from checkers.evidence import Tape
from checkers.observe import Observation
from checkers.prober import Prober
from checkers.restore import Restorer
from checkers.workloads import is_owned, seen_at
from cluster import cordons
from cluster.api import Api, ApiError, Object, Unreachable, patiently

T = TypeVar("T")
# What a controller has yet to see (a node's new label, a Secret just made) looks hopeless for a moment.
HOPELESS_SECONDS = 3.0
DRY_RUN_PAUSES = (0.5, 1.0, 2.0)  # seconds, between tries of what the API server can't do at this moment
LOOK_EVERY = 0.1  # seconds between two looks when nothing is known to have changed


@dataclass(frozen=True)
class Sources:
    """What a live run asks; a replayed run has none."""

    api: Api
    observation: Observation
    prober: Prober


@dataclass(frozen=True)
class HttpAnswer:
    """An answer as seen from a pod in the cluster; `error` is set when there was none."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: str
    error: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.url}: " + (self.error or f"HTTP {self.status}: {self.body[:200].strip()}")

    def json(self) -> Any:
        """The decoded body, or None when it is no JSON."""
        import json

        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Lab:
    """One check's window on the cluster. Every read is recorded; offline, the recorded answers come back.

    `namespace` is the student's; `names` are the names, ports and counts of lab.yaml; `given` are the objects
    that `kailab start` put there, as noted then ({"Kind/name": uid}).
    """

    def __init__(
        self, namespace: str, names: Mapping[str, Any], tape: Tape, sources: Sources | None,
        *, given: Mapping[str, str] | None = None, deadline: float = 0.0,
        say: Callable[[str], None] = lambda _: None, cancelled: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self.namespace, self.names, self.given = namespace, names, given or {}
        self._tape, self._sources, self._deadline, self._say = tape, sources, deadline, say
        self._view = sources.observation.view() if sources else {}
        self._cancelled = cancelled or threading.Event()
        self.restorer: Restorer | None = None  # set by the runner around a trigger
        self.turn = ExitStack()  # and this: it ends an exclusive trigger's turn on the nodes

    def begin(self, deadline: float) -> None:
        """For the runner: the check's own time begins now."""
        self._deadline = deadline

    # reading objects

    def objects(self, kind: str, **labels: str) -> list[Object]:
        """All objects of a kind named in the check's `reads` ("Pod", "Pod@kube-system"), filtered by labels."""
        items = self._tape.read(f"list {kind}", lambda: self._listed(kind))
        wanted = {name.replace("__", "/").replace("_", "-"): value for name, value in labels.items()}
        return [item for item in items if _has_labels(item, wanted)]

    def _listed(self, kind: str) -> tuple[Object, ...]:
        try:
            return self._view[kind]
        except KeyError:
            raise CannotTell(f"the check reads {kind} without declaring it in reads=(...)") from None

    def untaped(self, kind: str) -> tuple[Object, ...]:
        """For the runner: what is there, without becoming evidence."""
        return self._listed(kind)

    def find(self, kind: str, name: str) -> Object | None:
        """The object, or None."""
        return next((item for item in self.objects(kind) if item["metadata"]["name"] == name), None)

    def object(self, kind: str, name: str, *, hint: str = "") -> Object:
        """The object. Raises Fail naming what is there instead."""
        found = self.find(kind, name)
        if found is not None:
            return found
        plain, _, other = kind.partition("@")
        where = other or self.namespace
        names = [item["metadata"]["name"] for item in self.objects(kind)]
        close = difflib.get_close_matches(name, names, 1)
        there = (
            f"; there is {close[0]!r}" if close else f"; there is {', '.join(map(repr, names[:5]))}" if names else ""
        )
        raise Fail(
            f"no {plain} {name!r} in namespace {where}{there}", settled=True, hint=hint or f"no-{plain.lower()}",
            look_with=f"kubectl -n {where} get {plain.lower()}",
        )  # fmt: skip

    def pods_of(self, owner: Object) -> list[Object]:
        """The pods whose chain of owners (pod, ReplicaSet, Deployment ...) leads to `owner`; needs "Pod" and,
        for Deployments, "ReplicaSet" in the check's reads. Pods on their way out are included."""
        owners = {owner["metadata"]["uid"]}
        if owner["kind"] == "Deployment":
            owners = {item["metadata"]["uid"] for item in self.objects("ReplicaSet") if is_owned(item, owners)}
        return [pod for pod in self.objects("Pod") if is_owned(pod, owners)]

    # asking

    def events(self, item: Object) -> list[Object]:
        """The events about one object, oldest first."""
        uid = item["metadata"]["uid"]
        selector = f"involvedObject.uid={uid}"
        namespace = item["metadata"].get("namespace", "")

        def ask() -> list[Object]:
            found, _ = self._live.api.list("Event", namespace or "default", fieldSelector=selector)
            return [_lean_event(event) for event in found]

        found: list[Object] = self._ask(f"events {item['kind']}/{item['metadata']['name']}", ask)
        return sorted(found, key=seen_at)

    def http(self, url: str, *, method: str = "GET", body: str | None = None, timeout: float = 3.0,
             headers: Mapping[str, str] | None = None) -> HttpAnswer:  # fmt: skip
        """One request from a pod inside the cluster, outside the student's namespace. `timeout` in seconds."""
        options: dict[str, Any] = {"method": method, "timeout": timeout, "headers": dict(headers or {})}
        if body is not None:
            options["body"] = body
        said = self._ask(f"http {method} {url}", lambda: self._live.prober.http(url, **options))
        return HttpAnswer(
            url, int(said.get("status", 0)), said.get("headers", {}), said.get("body", ""), said.get("error", ""),
            float(said["seconds"]),
        )  # fmt: skip

    def resolve(self, name: str) -> list[str]:
        """The IPv4 addresses that the cluster's DNS gives for a name; empty when it knows none."""
        return list(self._ask(f"dns {name}", lambda: self._live.prober.dns(name))["addresses"])

    def reaches(self, host: str, port: int) -> bool:
        """Whether a TCP connection from inside the cluster is accepted."""
        return bool(self._ask(f"tcp {host}:{port}", lambda: self._live.prober.tcp(host, port))["open"])

    def exec(self, pod: str, command: list[str], *, container: str = "", namespace: str = "") -> tuple[int, str]:
        """Run a program in a container: (exit code, output of both streams). Raises Fail when it does not run."""
        from checkers.streams import NOT_RUNNING, exec_in_pod

        where = namespace or self.namespace
        key = f"exec {where}/{pod} {' '.join(command)}"
        answer: Any = self._ask(key, lambda: list(exec_in_pod(self._live.api, pod, where, command, container)))
        if answer[0] == NOT_RUNNING:
            raise Fail(f"the container of pod {pod} does not keep running",
                       about=None if namespace else self.find("Pod", pod))  # fmt: skip
        return int(answer[0]), str(answer[1])

    def logs(self, pod: str, *, container: str = "", tail: int = 20, previous: bool = False) -> str:
        """The last lines of a container's log; empty when there is none yet."""

        def ask() -> str:
            try:
                return self._live.api.logs(pod, self.namespace, container=container, tail=tail, previous=previous)
            except ApiError:
                return ""

        return str(self._ask(f"logs {pod}/{container}{' previous' if previous else ''}", ask))

    def dry_run(self, item: Object) -> str:
        """What the API server would say to this object: empty when it would take it, else its refusal.

        Its own troubles, which say nothing of the object, are no refusal: it is asked again, then nobody can tell.
        """

        def ask() -> str:
            try:
                patiently(
                    lambda: self._live.api.apply(item, self.namespace, dry_run=True),
                    lambda refused: refused.is_servers_own, DRY_RUN_PAUSES, pause,
                )  # fmt: skip
            except ApiError as refused:
                if refused.is_servers_own:
                    raise CannotTell(f"the API server can't do its work at this moment: {refused.what}") from None
                return refused.what
            return ""

        def pause(seconds: float) -> None:
            self._cancelled.wait(seconds)
            self._stop_if_cancelled()

        return str(self._ask(f"dry-run {item['kind']}/{item['metadata']['name']}", ask))

    def gpu_holders(self) -> list[str]:
        """For each of the real nodes' GPUs that pods hold, by device plugin or claim, their namespace."""

        def ask() -> list[str]:
            from cluster.gpu import control

            gpus = [gpu for status in control.statuses(self._live.api) for gpu in status["gpus"]]
            devices = [device for gpu in gpus for device in (gpu, *gpu["mig"])]
            return [str(holder["namespace"]) for device in devices for holder in device["held_by"]]

        return list(self._ask("holders of GPUs", ask))

    def seconds_since(self, start: float) -> float:
        """Seconds since `lab.now()`; recorded, since a verdict may rest on it."""
        return float(self._tape.read("seconds", lambda: round(time.monotonic() - start, 2)))

    def now(self) -> float:
        return time.monotonic()

    def say(self, text: str) -> None:
        """Tell the waiting student what is going on."""
        self._say(text)

    @property
    def _live(self) -> Sources:
        if self._sources is None:
            raise CannotTell("this needs the cluster, and there is none")
        return self._sources

    def _ask(self, key: str, ask: Callable[[], T]) -> T:
        def live() -> T:
            try:
                return ask()
            except Unreachable as lost:
                raise CannotTell(lost.what) from None

        return cast("T", self._tape.read(key, live))

    # waiting

    def look_again(self) -> None:
        """Take the newest view of the cluster."""
        if self._sources:
            self._view = self._sources.observation.view()

    def until(self, seconds: float, look: Callable[[], T], *, every: float = LOOK_EVERY, quietly: bool = False) -> T:
        """Evaluate `look` until it no longer raises Fail; its result. Raises the last Fail after `seconds`.

        Only the attempt that counted is recorded.
        """
        if self._tape.playing:
            return look()
        observation = self._live.observation
        began = time.monotonic()
        end = min(began + seconds, self._deadline or float("inf"))
        is_fresh = end <= began  # one look was asked for
        hopeless_since = float("inf")
        while True:
            mark, count = self._tape.mark(), observation.count
            self.look_again()
            try:
                return look()
            except Fail as wrong:
                hopeless_since = min(hopeless_since, time.monotonic()) if wrong.hopeless else float("inf")
                is_over = time.monotonic() >= end or time.monotonic() - hopeless_since > HOPELESS_SECONDS
                if is_fresh and (is_over or wrong.settled):
                    raise
                self._tape.back_to(mark)
                is_fresh = is_over or wrong.settled
                if is_fresh:
                    self._list_anew()
                    continue
                if not quietly:
                    self._say(f"waiting: {wrong.observed}")
                observation.follow()
                self._stop_if_cancelled()
                observation.wait(count, min(every, end - time.monotonic()))

    def _list_anew(self) -> None:
        """No verdict from a watch that may have fallen behind, from one kind's that is ahead of another's, or whose API
        server is gone."""
        try:
            self._live.observation.refresh()
        except Unreachable as lost:
            raise CannotTell(lost.what) from None

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise CannotTell("interrupted")

    def pause(self, seconds: float) -> None:
        """Wait for a change in the cluster, at most `seconds`."""
        self._stop_if_cancelled()
        if self._sources:
            self._sources.observation.follow()
            self._sources.observation.wait(self._sources.observation.count, seconds)

    def throughout(self, seconds: float, look: Callable[[], Any], *, every: float = LOOK_EVERY) -> None:
        """Evaluate `look` over a window; its first Fail ends it. Only the last evaluation is recorded."""
        if self._tape.playing:
            look()
            return
        end = time.monotonic() + seconds
        while True:
            mark, count = self._tape.mark(), self._live.observation.count
            self.look_again()
            look()
            if time.monotonic() >= end:
                return
            self._tape.back_to(mark)
            self._stop_if_cancelled()
            self._live.observation.wait(count, min(every, end - time.monotonic()))

    # acting (triggers only)

    def act(self, what: str, action: Callable[[Api], Any]) -> Any:
        """Do something to the cluster once; what it returned is recorded and comes back offline."""

        def live() -> Any:
            api = self._live.api
            try:
                with self.restorer.acting(api) if self.restorer else nullcontext():
                    return action(api)
            except Unreachable as lost:
                raise CannotTell(lost.what) from None
            except ApiError as refused:
                raise CannotTell(f"{what}: {refused.what}") from None

        self._stop_if_cancelled()
        self._say(what)
        return self._tape.act(what, live)

    def cordon(self, *nodes: str) -> None:
        """Close nodes for new pods; the runner opens them again after the check, whatever happens. Those that were
        closed before, by the student or an admin, stay so."""

        def close(api: Api) -> None:
            if self.restorer is not None:
                # Asked for now: a watch may not know yet what the run before us has just opened.
                before = cordons.closed(api)
                self.restorer.cordons(*(node for node in nodes if node not in before))
            cordons.set_unschedulable(api, nodes, True)

        self.act(f"cordon node {nodes[0]}" if len(nodes) == 1 else f"cordon {len(nodes)} nodes", close)

    def open_again(self) -> None:
        """Open what the check has closed, and let other runs have the nodes: when all pods have their places, and what
        is left is to wait for them."""
        if self.restorer is not None:
            self.restorer.restore_nodes(self._live.api)
            self.turn.close()

    def place_anew(self, deployment: Object) -> None:
        """When what was cordoned is open again, let the scheduler place all pods anew that come from now on: they are
        where they are only because nodes were closed."""
        there = [pod["metadata"]["uid"] for pod in self.pods_of(deployment)]
        if self.restorer is not None:
            self.restorer.places_anew(deployment, there)

    def break_gpu(self, gpu: str, fault: str) -> None:
        """Give a simulated GPU (NODE/INDEX) a fault, such as "xid=79"; it is healed after the check, as above."""
        from cluster.gpu import control, faults

        where = control.slot(gpu)

        def damage(api: Api) -> None:
            found = api.get("Node", where.node) or {"metadata": {}}
            before = faults.wanted(found["metadata"].get("annotations") or {})
            if self.restorer is not None and where.index not in before:
                self.restorer.breaks(gpu)
            control.fault(api, where, faults.from_text(fault))  # refuses one that is broken already

        self.act(f"break GPU {gpu} ({fault})", damage)

    @contextmanager
    def traffic(self, url: str, **options: Any) -> Iterator[Traffic]:
        """Steady requests to `url` from the prober while the block runs; see Traffic."""
        stream = self.act(f"send traffic to {url}", lambda _: self._live.prober.start_traffic(url, **options))
        traffic = Traffic(self, stream)
        try:
            yield traffic
        finally:
            traffic.stop()


class Traffic:
    """A running stream of requests. `so_far` and `total` are {sent, ok, failed, pods, versions, failures, ...}."""

    def __init__(self, lab: Lab, stream: str) -> None:
        self._lab, self._stream = lab, stream
        self._total: dict[str, Any] | None = None

    def so_far(self) -> dict[str, Any]:
        return dict(self._lab._ask("traffic so far", lambda: self._lab._live.prober.traffic(self._stream)))

    def stop(self) -> None:
        if self._total is None:
            self._total = self._lab._ask("traffic total", lambda: self._lab._live.prober.stop_traffic(self._stream))

    @property
    def total(self) -> dict[str, Any]:
        """The final count; stops the stream."""
        self.stop()
        assert self._total is not None
        return self._total


def _has_labels(item: Object, wanted: Mapping[str, str]) -> bool:
    own = item["metadata"].get("labels") or {}
    return all(own.get(name) == value for name, value in wanted.items())


def _lean_event(event: Object) -> Object:
    wanted = ("reason", "message", "type", "count", "lastTimestamp", "eventTime", "series", "source",
              "reportingComponent", "involvedObject")  # fmt: skip
    return {"kind": "Event", **{name: event[name] for name in wanted if name in event}}
