"""Keep an eye on API objects: a list, then a watch, and from the start again when either breaks off."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from cluster.api import Api, ApiError, Object, Stop, Unreachable

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0


def follow(
    api: Api, kind: str, on_change: Callable[[list[Object]], None], stop: Stop, *, namespace: str = "", **selectors: str
) -> threading.Thread:
    """A thread that calls `on_change` with all selected objects, at once and after every change."""

    def run() -> None:
        while not stop.is_set():
            try:
                items, version = api.list(kind, namespace, **selectors)
                known = {item["metadata"]["uid"]: item for item in items}
                on_change(list(known.values()))
                for event in api.watch(kind, namespace, version, stop, **selectors):
                    if event["type"] == "BOOKMARK":
                        continue
                    uid = event["object"]["metadata"]["uid"]
                    if event["type"] == "DELETED":
                        known.pop(uid, None)
                    else:
                        known[uid] = event["object"]
                    on_change(list(known.values()))
            except (ApiError, Unreachable) as failed:
                if not (isinstance(failed, ApiError) and failed.status == 410):
                    log.warning("watching %s: %s", kind, failed.what)
                    stop.wait(RETRY_SECONDS)

    thread = threading.Thread(target=run, name=f"follow-{kind}", daemon=True)
    thread.start()
    return thread
