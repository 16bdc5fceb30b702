"""What happened over time: pods by version, replicas that were wanted, GPU load, from the same watches as the view."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from checkers import workloads
from checkers.notebook.feed import Feed, Moment
from checkers.notebook.scene import pod_state, version
from cluster.api import Object
from cluster.errors import KailabError

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

FIRST_SECONDS = 10.0  # the first look at the cluster, before what is to be recorded begins
LAST_SECONDS = 2.5  # for what the block did a moment before its end, GPUs included
REDRAW_SECONDS = 2.0
MOST_SAMPLES = 5000


@dataclass(frozen=True)
class Sample:
    """One moment: `ready` pods by version (their image), those that aren't ready by state, `wanted` replicas of all
    Deployments, StatefulSets and Jobs, and each node's GPU load in percent, the mean of its GPUs."""

    seconds: float
    ready: Mapping[str, int] = field(default_factory=dict)
    unready: Mapping[str, int] = field(default_factory=dict)
    wanted: int = 0
    gpus: Mapping[str, float] = field(default_factory=dict)


def sample(moment: Moment, namespace: str, seconds: float) -> Sample:
    """What a moment of the cluster says of a namespace, and of all GPU nodes."""
    assert moment.objects is not None
    ready: Counter[str] = Counter()
    unready: Counter[str] = Counter()
    for pod in _in(namespace, moment.objects["Pod"]):
        state, word, _ = pod_state(pod)
        if state == "ready":
            ready[version(pod)] += 1
        elif state != "finished":
            unready[word] += 1
    kinds = ("Deployment", "StatefulSet", "Job")
    wanted = sum(_wanted(item) for kind in kinds for item in _in(namespace, moment.objects[kind]))
    loads = {str(status["node"]): [float(gpu["utilization"]) for gpu in status["gpus"]] for status in moment.gpus or ()}
    gpus = {node: sum(found) / len(found) for node, found in sorted(loads.items()) if found}
    return Sample(round(seconds, 2), dict(sorted(ready.items())), dict(unready), wanted, gpus)


def _in(namespace: str, items: tuple[Object, ...]) -> list[Object]:
    return [item for item in items if item["metadata"]["namespace"] == namespace]


def _wanted(item: Object) -> int:
    if item["kind"] != "Job":
        return int(item["spec"].get("replicas", 1))
    over = any(workloads.condition(item, kind).get("status") == "True" for kind in ("Complete", "Failed"))
    return 0 if over or item["spec"].get("suspend") else int(item["spec"].get("parallelism", 1))


class Timeline:
    """A recording; `samples` is what was recorded so far.

    As a block, `with timeline():`, it records what the block does, then shows the picture. As the last line of a
    cell it records for `seconds` in the background, while its picture grows.
    """

    def __init__(
        self, feed: Feed, namespace: Callable[[], str], seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.samples: list[Sample] = []
        self.namespace = namespace()
        self._feed, self._seconds, self._now = feed, seconds, now
        self._begun: float | None = None
        self._ended = False
        self._problem: KailabError | None = None
        self._news = threading.Condition()

    def __enter__(self) -> Timeline:
        self._begin()
        self._wait(lambda: bool(self.samples) or self._problem is not None, FIRST_SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._wait(lambda: False, LAST_SECONDS if kind is None and self.samples else 0)
        self._end()
        _show(self)

    def _ipython_display_(self) -> None:
        handle = _show(self, new=True)
        if self._begun is None:
            self._begin()
            threading.Thread(target=self._grow, args=(handle,), name="kailab-timeline", daemon=True).start()

    @property
    def is_recording(self) -> bool:
        return self._begun is not None and not self._ended

    def stop(self) -> None:
        """End a recording in the background early."""
        self._end()

    def words(self) -> str:
        """What there is to see, for those who don't: also where nothing could be recorded, and why."""
        from course.picture import in_words

        if self.samples:
            return in_words(self.samples) + (" Still recording." if self.is_recording else "")
        if self._problem is not None:
            return f"Nothing recorded. {self._problem}"
        return "Recording begins." if self._begun is None or self.is_recording else "Nothing recorded."

    def _begin(self) -> None:
        self._begun = self._now()
        self._feed.add(self, self._take)

    def _end(self) -> None:
        self._ended = True
        self._feed.drop(self)
        with self._news:
            self._news.notify_all()

    def _take(self, moment: Moment) -> None:
        """A moment of the feed, in its thread."""
        assert self._begun is not None
        with self._news:
            self._problem = moment.problem
            if moment.problem is None and not self._ended and len(self.samples) < MOST_SAMPLES:
                self.samples.append(sample(moment, self.namespace, self._now() - self._begun))
            self._news.notify_all()

    def _wait(self, until: Callable[[], bool], seconds: float) -> None:
        with self._news:
            self._news.wait_for(until, seconds)

    def _grow(self, handle: DisplayHandle) -> None:
        """Redraw until the time is over or somebody stops it."""
        assert self._begun is not None
        while not self._ended and (left := self._begun + self._seconds - self._now()) > 0:
            self._wait(lambda: self._ended, min(REDRAW_SECONDS, left))
            _show(self, handle)
        self._end()
        _show(self, handle)


def _show(timeline: Timeline, handle: DisplayHandle | None = None, *, new: bool = False) -> Any:
    """Display the picture, or put it in the place of an earlier one."""
    from IPython.display import display

    from course.picture import bundle

    data = bundle(timeline.samples, timeline.words())
    if handle is not None:
        return handle.update(data, raw=True)  # type: ignore[no-untyped-call]
    return display(data, raw=True, display_id=new or None)  # type: ignore[no-untyped-call]
