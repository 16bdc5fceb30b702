"""A recording over time without a cluster: what is noted of each moment, and that the picture tells it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

import course
import course.recording as recording
from checkers.notebook.feed import Moment
from cluster.api import Object
from cluster.errors import KailabError
from course.picture import bundle, changes, figure, in_words
from course.recording import Sample, Timeline, sample

NAMESPACE = "lab-06"


def pod(name: str, image: str, *, ready: bool, namespace: str = NAMESPACE) -> Object:
    return {"kind": "Pod", "metadata": {"name": name, "namespace": namespace},
            "spec": {"nodeName": "cpu", "containers": [{"name": "main", "image": image}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}],
                       "containerStatuses": [{"name": "main", "ready": ready, "state": {"running": {}}}]}}  # fmt: skip


def workload(kind: str, namespace: str = NAMESPACE, done: str = "", **spec: Any) -> Object:
    conditions = [{"type": done, "status": "True"}] if done else []
    return {"kind": kind, "metadata": {"name": "x", "namespace": namespace}, "spec": spec,
            "status": {"conditions": conditions}}  # fmt: skip


def moment(pods: list[Object] = [], wanted: list[Object] = [], loads: dict[str, list[int]] | None = None) -> Moment:  # noqa: B006
    objects: dict[str, tuple[Object, ...]] = {"Pod": tuple(pods), "Node": ()}
    for kind in ("Deployment", "StatefulSet", "Job"):
        objects[kind] = tuple(item for item in wanted if item["kind"] == kind)
    gpus = [{"node": node, "gpus": [{"utilization": load} for load in found]} for node, found in (loads or {}).items()]
    return Moment(objects, gpus)


# What is noted


def test_a_sample_counts_by_version_and_only_in_its_namespace() -> None:
    pods = [pod("a", "docker.io/library/ai-app:v1", ready=True), pod("b", "ai-app:v2", ready=True),
            pod("c", "ai-app:v2", ready=False), pod("d", "ai-app:v1", ready=True, namespace="other")]  # fmt: skip
    wanted = [workload("Deployment", replicas=3), workload("Deployment", namespace="other", replicas=9)]
    assert sample(moment(pods, wanted), NAMESPACE, 1.234) == Sample(
        1.23, {"ai-app:v1": 1, "ai-app:v2": 1}, {"not Ready": 1}, 3
    )


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (workload("Deployment", replicas=3), 3),
        (workload("StatefulSet", replicas=2), 2),
        (workload("Job", parallelism=4), 4),
        (workload("Job", parallelism=4, done="Complete"), 0),
        (workload("Job", parallelism=4, suspend=True), 0),
    ],
)
def test_what_is_wanted(found: Object, wanted: int) -> None:
    assert sample(moment(wanted=[found]), NAMESPACE, 0).wanted == wanted


def test_gpu_load_is_the_mean_of_a_nodes_gpus() -> None:
    loads = {"gpu-b": [], "gpu-a": [100, 0, 50, 50]}
    assert sample(moment(loads=loads), NAMESPACE, 0).gpus == {"gpu-a": 50.0}


# Recording


class Feed:
    """Tells what the test says, the first of it at once."""

    def __init__(self, first: Moment) -> None:
        self.first = first
        self.takers: dict[object, Callable[[Moment], None]] = {}

    def add(self, who: object, take: Callable[[Moment], None]) -> None:
        self.takers[who] = take
        take(self.first)

    def drop(self, who: object) -> None:
        self.takers.pop(who, None)

    def tell(self, what: Moment) -> None:
        for take in list(self.takers.values()):
            take(what)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was displayed, in words."""
    found: list[str] = []
    monkeypatch.setattr(recording, "LAST_SECONDS", 0.01)
    monkeypatch.setattr(recording, "_show", lambda timeline, *_, **__: found.append(timeline.words()))
    return found


@pytest.fixture
def clock() -> Iterator[Callable[[], float]]:
    ticks = iter(range(1000))
    return lambda: float(next(ticks))  # type: ignore[return-value]


def _timeline(feed: Feed, clock: Callable[[], float], seconds: float = 60) -> Timeline:
    return Timeline(feed, lambda: NAMESPACE, seconds, clock)  # type: ignore[arg-type]


def test_a_block_is_recorded_from_before_it_to_after_it(shown: list[str], clock: Callable[[], float]) -> None:
    feed = Feed(moment([pod("a", "app:v1", ready=True)], [workload("Deployment", replicas=1)]))
    with _timeline(feed, clock) as timeline:
        feed.tell(moment([pod("b", "app:v2", ready=True)], [workload("Deployment", replicas=1)]))
    assert [one.ready for one in timeline.samples] == [{"app:v1": 1}, {"app:v2": 1}]
    assert not feed.takers
    assert not timeline.is_recording
    assert "Ready at first: 1 app:v1; at last: 1 app:v2" in shown[0]


def test_an_error_in_the_block_is_the_students_and_the_picture_is_shown(
    shown: list[str], clock: Callable[[], float]
) -> None:
    feed = Feed(moment())
    with pytest.raises(ZeroDivisionError), _timeline(feed, clock):
        raise ZeroDivisionError
    assert len(shown) == 1
    assert not feed.takers


def test_without_a_cluster_it_says_what_to_start(shown: list[str], clock: Callable[[], float]) -> None:
    feed = Feed(Moment(problem=KailabError("There is no course cluster here yet.", mend="kailab up")))
    with _timeline(feed, clock):
        pass
    assert shown == ["Nothing recorded. There is no course cluster here yet.\nNext: kailab up"]


def test_as_a_cells_last_line_it_records_in_the_background_until_its_time_is_over(
    shown: list[str], clock: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "REDRAW_SECONDS", 0.01)
    timeline = _timeline(feed := Feed(moment()), clock, seconds=5)
    timeline._ipython_display_()
    with timeline._news:
        assert timeline._news.wait_for(lambda: timeline._ended, 10)
    assert not feed.takers
    count = len(timeline.samples)
    timeline._ipython_display_()  # looked at again, it is not recorded again
    assert len(timeline.samples) == count


def test_a_cluster_that_goes_away_leaves_what_was_recorded(shown: list[str], clock: Callable[[], float]) -> None:
    feed = Feed(moment([pod("a", "app:v1", ready=True)]))
    with _timeline(feed, clock) as timeline:
        feed.tell(Moment(problem=KailabError("gone")))
    assert len(timeline.samples) == 1


# The picture

ROLLOUT = [
    Sample(0.0, {"app:v1": 3}, {}, 3, {"gpu-a": 0.0, "gpu-b": 0.0}),
    Sample(1.0, {"app:v1": 3}, {"starting": 1}, 3, {"gpu-a": 25.0, "gpu-b": 0.0}),
    Sample(2.0, {"app:v1": 2, "app:v2": 1}, {"leaving": 1, "failing": 1}, 3, {"gpu-a": 50.0, "gpu-b": 1.0}),
    Sample(3.0, {"app:v2": 3}, {}, 5, {"gpu-a": 50.0, "gpu-b": 2.0}),
    Sample(4.0, {"app:v2": 3}, {}, 5, {"gpu-a": 51.0, "gpu-b": 2.0}),
]


def _texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_everything_in_the_picture_has_its_name_beside_it() -> None:
    ready, unready, gpus = figure(ROLLOUT).axes
    assert _texts(ready) == ["app:v1", "app:v2", "wanted: 5"]
    assert [text.get_text() for text in unready.get_legend().get_texts()] == ["starting", "leaving", "failing"]
    legend = gpus.get_legend()
    named = {text.get_text(): line for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    for node, loads in (("gpu-a", [0, 25, 50, 50, 51]), ("gpu-b", [0, 0, 1, 2, 2])):
        (drawn,) = [line for line in gpus.lines if line.get_color() == named[node].get_color()]
        assert list(drawn.get_ydata()) == loads


def test_what_never_was_takes_no_room() -> None:
    calm = [Sample(0.0, {"app:v1": 1}, {}, 1, {"gpu-a": 0.0}), Sample(1.0, {"app:v1": 1}, {}, 1, {"gpu-a": 0.0})]
    assert len(figure(calm).axes) == 1


def test_replicas_are_steps_not_slopes() -> None:
    line = figure(ROLLOUT).axes[0].lines[0]
    assert list(line.get_ydata()) == [3, 3, 3, 5, 5]
    assert line.get_drawstyle() == "steps-post"


def test_the_words_tell_what_the_picture_shows() -> None:
    assert in_words(ROLLOUT) == (
        "4 s. Ready at first: 3 app:v1; at last: 3 app:v2; never fewer than 3 and never more than 3 ready; "
        "wanted: 3, at last 5; at most 2 not ready (1 leaving, 1 failing, at 2 s); GPU load of gpu-a up to 51 %; "
        "GPU load of gpu-b up to 2 %."
    )


def test_a_table_has_rows_where_something_changed() -> None:
    assert [one.seconds for one in changes(ROLLOUT)] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [one.seconds for one in changes([ROLLOUT[0]] * 9)] == [0.0, 0.0]


def test_a_notebook_gets_a_picture_with_words_and_what_is_in_it_is_no_markup() -> None:
    evil = [Sample(float(second), {"<b>x": 1}, {}, 1) for second in range(3)]
    shown = bundle(evil, in_words(evil))
    assert base64.b64decode(shown["image/png"]).startswith(b"\x89PNG")
    assert 'alt="2 s. Ready at first: 1 &lt;b&gt;x' in shown["text/html"]
    assert "<b>x" not in shown["text/html"]
    assert set(bundle([], "Nothing recorded.")) == {"text/plain", "text/html"}


def test_no_module_of_the_course_takes_a_functions_name() -> None:
    """A module that is imported becomes an attribute of its package, and would be there instead of the function."""
    modules = {path.stem for path in Path(course.__file__).parent.glob("*.py")}
    assert not modules & set(course.__all__)
