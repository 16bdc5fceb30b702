"""The live view without a cluster or a browser: what it shows and says of a moment, when it watches, and when not."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("anywidget")

from checkers.notebook import View, feed
from checkers.notebook.changes import sentences, summary
from checkers.notebook.feed import Feed, KubectlNamespace, Moment
from checkers.notebook.scene import SHOWN_PODS, pod_state, scene
from checkers.notebook.view import SILENCE_SECONDS
from cluster.api import Object, Stop, Unreachable
from cluster.errors import KailabError

NAMESPACE = "lab-06"
FOLDER = Path(feed.__file__).parent


def node(name: str, ready: str = "True", labels: dict[str, str] | None = None, **spec: Any) -> Object:
    return {"kind": "Node", "metadata": {"name": name, "labels": labels or {}}, "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": ready}],
                       "capacity": {"nvidia.com/gpu": "8"}}}  # fmt: skip


def pod(name: str, on: str = "", *, ready: bool = False, namespace: str = NAMESPACE, phase: str = "Running",
        gpus: int = 0, state: dict[str, Any] | None = None, image: str = "docker.io/library/ai-app:v1",
        **metadata: Any) -> Object:  # fmt: skip
    container = {"name": "main", "image": image, "resources": {"limits": {"nvidia.com/gpu": gpus}}}
    status: dict[str, Any] = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
    if on:
        status["containerStatuses"] = [{"name": "main", "ready": ready, "state": state or {"running": {}}}]
    return {"kind": "Pod", "metadata": {"name": name, "namespace": namespace, **metadata},
            "spec": {"containers": [container], **({"nodeName": on} if on else {})}, "status": status}  # fmt: skip


def gpu(index: int = 0, fault: str = "", *holders: dict[str, str], mig: Any = ()) -> dict[str, Any]:
    return {"index": index, "model": "NVIDIA A100", "fault": fault, "held_by": list(holders), "mig": list(mig),
            "utilization": 50, "memory_used": 10, "memory_total": 100}  # fmt: skip


def holder(name: str, namespace: str = NAMESPACE, **through: str) -> dict[str, str]:
    return {"namespace": namespace, "pod": name, "container": "main", **(through or {"resource": "nvidia.com/gpu"})}


def moment(
    nodes: list[Object], pods: list[Object], gpus: list[dict[str, Any]] | None = None, replicas: int = 1
) -> Moment:
    statuses = None if gpus is None else [{"node": "gpu-a", "replicas": replicas, "problems": [], "gpus": gpus}]
    return Moment({"Node": tuple(nodes), "Pod": tuple(pods)}, statuses)


GPU_NODE = node("gpu-a", labels={"nvidia.com/gpu.present": "true", "kailab.dev/role": "gpu"})


# The scene


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (pod("a", "cpu", ready=True), ("ready", "Ready", "")),
        (pod("a", "cpu"), ("starting", "not Ready", "")),
        (pod("a", phase="Pending"), ("waiting", "no node yet", "")),
        (pod("a", "cpu", ready=True, deletionTimestamp="now"), ("leaving", "leaving", "")),
        (pod("a", "cpu", phase="Succeeded"), ("finished", "finished", "")),
        (pod("a", "cpu", phase="Failed", state={"terminated": {"exitCode": 1, "reason": "Error"}}),
         ("failing", "failing", "ended with exit code 1 (Error)")),
        (pod("a", "cpu", state={"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
         ("failing", "failing", "ImagePullBackOff: no such image")),
        (pod("a", "cpu", state={"waiting": {"reason": "ContainerCreating"}}),
         ("starting", "starting", "ContainerCreating")),
    ],
)  # fmt: skip
def test_a_pod_has_one_state_and_a_reason(found: Object, wanted: tuple[str, str, str]) -> None:
    assert pod_state(found) == wanted


def test_own_pods_are_shown_one_by_one_and_others_counted() -> None:
    mine = [pod("mine", "cpu", ready=True), pod("lost", phase="Pending"), pod("over", "cpu", phase="Succeeded")]
    theirs = [pod("x", "cpu", namespace="x"), pod("y", "cpu", namespace="x", phase="Succeeded")]
    pods = [*mine, *theirs]
    found = scene(moment([node("cpu")], pods), NAMESPACE)
    shown = found["nodes"][0]
    assert [(one["name"], one["version"]) for one in shown["pods"]] == [("mine", "ai-app:v1")]
    assert (shown["others"], shown["finished"]) == (1, 1)
    assert [one["name"] for one in found["waiting"]["pods"]] == ["lost"]


def test_of_many_pods_the_worst_are_shown() -> None:
    pods = [pod(f"a{count:02}", "cpu", ready=True) for count in range(SHOWN_PODS)] + [pod("z", "cpu")]
    shown = scene(moment([node("cpu")], pods), NAMESPACE)["nodes"][0]
    assert len(shown["pods"]) == SHOWN_PODS
    assert "z" in [one["name"] for one in shown["pods"]]
    assert shown["rest"] == "1 Ready"


@pytest.mark.parametrize(
    ("found", "health", "says"),
    [
        (node("a"), "well", "Ready"),
        (node("a", unschedulable=True), "closed", "cordoned"),
        (node("a", "False"), "ill", "NotReady"),
        (node("a", "Unknown"), "ill", "no news"),
    ],
)
def test_a_node_says_how_it_is(found: Object, health: str, says: str) -> None:
    shown = scene(moment([found], []), NAMESPACE)["nodes"][0]
    assert shown["health"] == health
    assert says in ", ".join(shown["state"])


@pytest.mark.parametrize(
    ("found", "replicas", "state", "word", "who", "turns"),
    [
        (gpu(), 1, "free", "free", [], ""),
        (gpu(0, "", holder("p")), 1, "held", "held by", ["p"], ""),
        (gpu(0, "", holder("p", "other")), 1, "held", "held by", ["other/p"], ""),
        (gpu(0, "", holder("p", claim="c")), 1, "claimed", "claimed by", ["p"], ""),
        (gpu(0, "fell off the bus", holder("p")), 1, "faulty", "faulty: fell off the bus", ["p"], ""),
        (gpu(0, "", holder("p"), holder("q")), 4, "held", "held by", ["p", "q"], "2 of 4 turns taken"),
        (gpu(), 4, "free", "free", [], "0 of 4 turns taken"),
    ],
)
def test_a_slot_says_who_holds_its_gpu(
    found: dict[str, Any], replicas: int, state: str, word: str, who: list[str], turns: str
) -> None:
    slot = scene(moment([GPU_NODE], [], [found], replicas), NAMESPACE)["nodes"][0]["gpus"][0]
    assert (slot["state"], slot["word"], slot["who"], slot["turns"]) == (state, word, who, turns)


def cut(*holders: dict[str, str], profile: str = "3g.40gb", replicas: int = 1) -> dict[str, Any]:
    """A slice of a GPU."""
    return {"profile": profile, "replicas": replicas, "held_by": list(holders), "utilization": 0, "memory_used": 0,
            "memory_total": 40}  # fmt: skip


def test_slices_have_slots_of_their_own() -> None:
    slices = [cut(holder("p", resource="nvidia.com/mig-3g.40gb")), cut(replicas=4)]
    shown = scene(moment([GPU_NODE], [], [gpu(mig=slices)]), NAMESPACE)["nodes"][0]["gpus"]
    assert [(slot["name"], slot["word"], slot["who"], slot["turns"]) for slot in shown] == [
        ("GPU 0 slice 1 (3g.40gb)", "held by", ["p"], ""),
        ("GPU 0 slice 2 (3g.40gb)", "free", [], "0 of 4 turns taken"),
    ]


def test_a_fault_of_a_gpu_in_slices_leaves_their_holders_in_the_picture() -> None:
    slices = [cut(holder("p")), cut()]
    well, ill = (scene(moment([GPU_NODE], [], [gpu(0, fault, mig=slices)]), NAMESPACE) for fault in ("", "Xid 79"))
    assert [(slot["state"], slot["who"]) for slot in ill["nodes"][0]["gpus"]] == [("faulty", ["p"]), ("faulty", [])]
    assert sentences(well, ill) == [
        "slice 1 (3g.40gb) of GPU gpu-a/0 is faulty: Xid 79", "slice 2 (3g.40gb) of GPU gpu-a/0 is faulty: Xid 79",
    ]  # fmt: skip


def test_many_slices_are_not_called_so_many_gpus() -> None:
    seven = [cut(profile="1g.10gb") for _ in range(7)]
    well, ill = (scene(moment([GPU_NODE], [], [gpu(0, fault, mig=seven)]), NAMESPACE) for fault in ("", "hot"))
    assert sentences(well, ill) == ["7 slices: is faulty: hot"]


def test_gpus_that_nobody_tells_of_are_not_called_free() -> None:
    assert scene(moment([GPU_NODE], []), NAMESPACE)["nodes"][0]["gpu_notes"] == ["asking its GPUs"]
    silent = Moment({"Node": (GPU_NODE,), "Pod": ()}, [])
    shown = scene(silent, NAMESPACE)["nodes"][0]
    assert shown["gpus"] == []
    assert "does not run" in shown["gpu_notes"][0]


def test_simulated_nodes_are_one_line_for_a_zone_and_a_fleet() -> None:
    def simulated(name: str, zone: str, fleet: str = "rented", **spec: Any) -> Object:
        labels = {"kailab.dev/simulated": "true", "topology.kubernetes.io/zone": zone, "kailab.dev/fleet": fleet,
                  "nvidia.com/gpu.product": "H100"}  # fmt: skip
        return node(name, labels=labels, **spec)

    nodes = [simulated("s1", "eu-a"), simulated("s2", "eu-a", unschedulable=True), simulated("s3", "us-a"),
             simulated("t1", "eu-a", "spot")]  # fmt: skip
    pods = [pod("p", "s1", gpus=4), pod("q", "s1", gpus=2, namespace="x"), pod("r", "s1", gpus=2, phase="Succeeded")]
    found = scene(moment(nodes, pods), NAMESPACE)
    assert found["nodes"] == []
    assert found["zones"] == [
        {"zone": "eu-a", "fleet": "rented", "model": "H100", "nodes": 2, "closed": 1, "pods": 1,
         "gpus": [{"name": "gpu", "used": 6, "total": 16}]},
        {"zone": "eu-a", "fleet": "spot", "model": "H100", "nodes": 1, "closed": 0, "pods": 0,
         "gpus": [{"name": "gpu", "used": 0, "total": 8}]},
        {"zone": "us-a", "fleet": "rented", "model": "H100", "nodes": 1, "closed": 0, "pods": 0,
         "gpus": [{"name": "gpu", "used": 0, "total": 8}]},
    ]  # fmt: skip


def test_control_characters_of_the_cluster_go_nowhere() -> None:
    found = scene(moment([node("cpu")], [pod("a\x1b[31m", "cpu", state={"waiting": {"reason": "x\u202e"}})]), NAMESPACE)
    assert found["nodes"][0]["pods"][0]["name"] == "a"
    assert found["nodes"][0]["pods"][0]["why"] == "x"


# Changes, in words


def _said(before: list[Object], after: list[Object]) -> list[str]:
    nodes = [node("cpu")]
    return sentences(scene(moment(nodes, before), NAMESPACE), scene(moment(nodes, after), NAMESPACE))


def test_changes_are_said_in_words() -> None:
    waiting, starting = pod("a", phase="Pending"), pod("a", "cpu")
    assert _said([], [waiting]) == ["pod a has no node yet"]
    assert _said([waiting], [starting]) == ["pod a on cpu is not Ready"]
    assert _said([starting], [pod("a", "cpu", ready=True)]) == ["pod a on cpu is Ready"]
    assert _said([starting], []) == ["pod a on cpu is gone or finished"]
    broken = pod("a", "cpu", state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}})
    assert _said([starting], [broken]) == ["pod a on cpu fails: CrashLoopBackOff"]
    assert _said([starting], [starting]) == []


def test_a_crowd_is_said_in_one_sentence() -> None:
    assert _said([], [pod(f"a{count}", "cpu", ready=True) for count in range(9)]) == ["9 pods: is Ready"]


def test_nodes_and_gpus_are_said_too() -> None:
    before = scene(moment([GPU_NODE, node("cpu")], [], [gpu()]), NAMESPACE)
    after = scene(moment([GPU_NODE, node("cpu", unschedulable=True)], [], [gpu(0, "", holder("p"))]), NAMESPACE)
    assert sentences(before, after) == [
        "node cpu is Ready, cordoned: takes no new pods", "GPU gpu-a/0 is held by p",
    ]  # fmt: skip
    broken = scene(moment([GPU_NODE, node("cpu", unschedulable=True)], [], [gpu(0, "hot")]), NAMESPACE)
    assert sentences(after, broken) == ["GPU gpu-a/0 is faulty: hot"]


def test_another_namespace_is_a_new_picture() -> None:
    found = moment([node("cpu")], [pod("a", "cpu", ready=True)])
    after = scene(found, NAMESPACE)
    assert sentences(scene(found, "other"), after) == [summary(after)]
    assert summary(after) == "1 node; in namespace lab-06 1 pod, 1 of them Ready"


# The feed


class Cluster:
    """An API that has a node and pods, and can go away."""

    def __init__(self) -> None:
        self.pods: list[Object] = []
        self.away = False
        self.opened = self.watches = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Cluster]:
        self._require()
        self.opened += 1
        yield self

    def _require(self) -> None:
        if self.away:
            raise Unreachable("The cluster does not answer.", mend="kailab up")

    def list(self, kind: Any, namespace: str = "", **selectors: str) -> tuple[list[Object], str]:
        self._require()
        if selectors:  # the GPU agents' pods
            return [], "1"
        name = getattr(kind, "kind", kind)
        items = {"Node": [node("cpu")], "Pod": self.pods}.get(name, [])
        return [{**item, "metadata": {**item["metadata"], "uid": item["metadata"]["name"]}} for item in items], "1"

    def watch(self, kind: Any, namespace: str, version: str, stop: Stop) -> Iterator[Object]:
        with self._lock:
            self.watches += 1
        try:
            while not stop.wait(0.01):
                self._require()
            yield from ()
        finally:
            with self._lock:
                self.watches -= 1


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "GPU_SECONDS", 0.02)
    monkeypatch.setattr(feed, "RETRY_SECONDS", 0.02)


@pytest.fixture
def fed(cluster: Cluster) -> Iterator[Feed]:
    made = Feed(cluster)  # type: ignore[arg-type]
    yield made
    made.close()
    assert not made.is_running


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("quick")
def test_two_who_look_share_one_set_of_watches_and_the_last_one_ends_it(fed: Feed, cluster: Cluster) -> None:
    heard: dict[str, list[Moment]] = {"a": [], "b": []}
    fed.add("a", heard["a"].append)
    fed.add("b", heard["b"].append)
    fed.add("b", heard["b"].append)
    until(lambda: bool(heard["a"] and heard["b"]) and cluster.watches == len(feed.KINDS))
    assert cluster.opened == 1
    fed.drop("a")
    until(lambda: len(heard["b"]) > 2)
    assert cluster.watches == len(feed.KINDS)
    fed.drop("b")
    until(lambda: cluster.watches == 0 and not fed.is_running)
    until(lambda: "kailab-feed-gpus" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.usefixtures("quick")
def test_a_cluster_that_goes_away_is_told_and_found_again(fed: Feed, cluster: Cluster) -> None:
    cluster.away = True
    heard: list[Moment] = []
    fed.add("a", heard.append)
    until(lambda: bool(heard) and heard[-1].problem is not None)
    cluster.away = False
    until(lambda: heard[-1].objects is not None)
    cluster.away = True
    until(lambda: heard[-1].problem is not None)
    assert heard[-1].problem is not None
    assert heard[-1].problem.mend == "kailab up"
    cluster.away = False
    until(lambda: heard[-1].objects is not None)


def test_moments_come_at_most_four_times_a_second(fed: Feed) -> None:
    times: list[float] = []
    fed.add("a", lambda _: times.append(time.monotonic()))
    until(lambda: len(times) > 2)
    assert min(after - before for before, after in pairwise(times)) >= feed.SHORTEST


def test_a_fault_of_ours_is_told_and_does_not_end_the_feed(fed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "RETRY_SECONDS", 0.02)
    heard: list[Moment] = []

    def breaks_once(moment: Moment) -> None:
        heard.append(moment)
        if len(heard) == 1:
            raise ZeroDivisionError("x")

    fed.add("a", breaks_once)
    until(lambda: len(heard) > 2)
    assert heard[1].problem is not None
    assert "kailab itself broke" in heard[1].problem.what
    assert heard[2].problem is None


def test_the_namespace_is_the_one_kubectl_works_in(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    namespace = KubectlNamespace(path)
    assert namespace() == "default"
    text = "current-context: c\ncontexts:\n- name: c\n  context: {cluster: x, namespace: %s}\n"
    path.write_text(text % "lab-06")
    assert namespace() == "lab-06"
    path.write_text("half a fi")
    assert namespace() == "lab-06"


# The widget


class Silent:
    """A feed that tells what the test says."""

    def __init__(self) -> None:
        self.takers: dict[object, Callable[[Moment], None]] = {}

    def add(self, who: object, take: Callable[[Moment], None]) -> None:
        self.takers[who] = take

    def drop(self, who: object) -> None:
        self.takers.pop(who, None)

    def tell(self, what: Moment) -> None:
        for take in list(self.takers.values()):
            take(what)


@pytest.fixture
def silent() -> Silent:
    return Silent()


@pytest.fixture
def view(silent: Silent) -> Iterator[View]:
    made = View(silent, lambda: NAMESPACE)  # type: ignore[arg-type]
    yield made
    made.close()


def _page(view: View, what: str, page: str = "p") -> None:
    view._hear(view, {"do": what, "page": page}, [])


def test_it_watches_only_while_a_page_shows_it(view: View, silent: Silent) -> None:
    assert not silent.takers
    _page(view, "here")
    _page(view, "here", "other")
    assert len(silent.takers) == 1
    _page(view, "gone")
    assert view.is_watching
    _page(view, "gone", "other")
    assert not silent.takers


def test_it_watches_from_the_moment_of_its_display(view: View, silent: Silent) -> None:
    """A page's first word comes only when the kernel has run all the cells that were to be run."""
    view._repr_mimebundle_()
    assert silent.takers
    _page(view, "here")
    _page(view, "gone")
    assert not silent.takers


def test_a_page_that_says_nothing_any_more_is_forgotten(
    view: View, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    _page(view, "here")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + SILENCE_SECONDS + 1)
    silent.tell(moment([node("cpu")], []))
    assert not view.is_watching
    assert not silent.takers


def test_the_page_gets_only_what_is_new(view: View, silent: Silent) -> None:
    _page(view, "here")
    sent: list[dict[str, Any]] = []
    view.observe(lambda change: sent.append(change.new), "state")
    for pods in ([], [], [pod("a", "cpu")], [pod("a", "cpu")]):
        silent.tell(moment([node("cpu")], pods))
    assert [state["said"][-1]["text"] for state in sent] == [
        "1 node; in namespace lab-06 no pods", "pod a on cpu is not Ready",
    ]  # fmt: skip


def test_a_lost_cluster_leaves_the_last_picture_and_says_what_to_do(view: View, silent: Silent) -> None:
    _page(view, "here")
    silent.tell(Moment(problem=KailabError("There is no course cluster here yet.", mend="kailab up")))
    assert (view.state["phase"], view.state["problem"]["mend"]) == ("lost", "kailab up")
    assert view.state["scene"] == {}
    silent.tell(moment([node("cpu")], []))
    assert (view.state["phase"], view.state["problem"]) == ("live", {})
    silent.tell(Moment(problem=KailabError("gone")))
    assert view.state["scene"]["nodes"][0]["name"] == "cpu"
    silent.tell(moment([node("cpu")], []))
    assert "the cluster answers again" in [line["text"] for line in view.state["said"]]


@pytest.mark.parametrize("message", [None, 3, [], {}, {"do": "shell"}, {"do": {"a": 1}}, {"page": "x"}])
def test_a_page_can_ask_for_nothing_else(view: View, silent: Silent, message: Any) -> None:
    view._hear(view, message, [])
    assert not silent.takers


# The page


def test_nothing_from_the_cluster_can_become_markup() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", (FOLDER / "view.js").read_text())


LIGHT, DARK = ".kailab-view {", '[data-jp-theme-light="false"] .kailab-view {'


@pytest.mark.parametrize(("theme", "background"), [(LIGHT, "#ffffff"), (DARK, "#212121")])
def test_colours_can_be_read_in_both_themes(theme: str, background: str) -> None:
    rule = next(line for line in (FOLDER / "view.css").read_text().splitlines() if line.startswith(theme))
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", rule))
    assert {"ready", "starting", "waiting", "failing", "leaving", "claimed", "soft"} <= colours.keys()
    for name, colour in colours.items():
        least = 3.0 if name == "line" else 4.5  # WCAG 2.2: 1.4.11 for lines, 1.4.3 for text
        assert _contrast(colour, background) >= least, (name, _contrast(colour, background))


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, "contrast ratio"."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
