"""Keep an eye on API objects: a list, then a watch, and from the start again when either breaks off."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from cluster.api import Api, ApiError, Object, Stop, Unreachable

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
Hear = Callable[[list[Object]], None]


def follow(
    api: Api, kind: str, on_change: Hear, stop: Stop, *, namespace: str = "",
    report: Callable[[str], None] = lambda _: None, **selectors: str,
) -> threading.Thread:  # fmt: skip
    """A thread that calls `on_change` with all selected objects, at once and after every change.

    `report` hears what goes wrong that nobody thought of, and an empty text when `on_change` works (again).
    """
    said = ""

    def tell(items: list[Object]) -> None:
        on_change(items)
        report("")

    def run() -> None:
        nonlocal said
        while not stop.is_set():
            try:
                _once(api, kind, tell, stop, namespace, selectors)
            except (ApiError, Unreachable) as failed:
                if not (isinstance(failed, ApiError) and failed.status == 410):
                    log.warning("watching %s: %s", kind, failed.what)
                    stop.wait(RETRY_SECONDS)
            except (
                Exception
            ) as unforeseen:  # a thread that ended would leave the node as it is, for good and in silence
                text = f"watching {kind}: {type(unforeseen).__name__}: {unforeseen}"
                if text != said:
                    log.exception("watching %s", kind)
                said = text
                report(text)
                stop.wait(RETRY_SECONDS)

    thread = threading.Thread(target=run, name=f"follow-{kind}", daemon=True)
    thread.start()
    return thread


def _once(api: Api, kind: str, tell: Hear, stop: Stop, namespace: str, selectors: Mapping[str, str]) -> None:
    """One list and the watch after it, until that ends."""
    items, version = api.list(kind, namespace, **selectors)
    known = {item["metadata"]["uid"]: item for item in items}
    tell(list(known.values()))
    for event in api.watch(kind, namespace, version, stop, **selectors):
        if event["type"] == "BOOKMARK":
            continue
        uid = event["object"]["metadata"]["uid"]
        if event["type"] == "DELETED":
            known.pop(uid, None)
        else:
            known[uid] = event["object"]
        tell(list(known.values()))
