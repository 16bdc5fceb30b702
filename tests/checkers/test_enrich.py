"""What is said of a container that isn't well, in the kubelet's and the runtime's own words."""

from __future__ import annotations

from typing import Any

import pytest

from checkers.enrich import MESSAGE_LETTERS, container_words

NOT_FOUND = 'exec: "serve": executable file not found in $PATH'
STOPPED = {"exitCode": 128, "reason": "StartError", "message": f"failed to start\n  containerd task: {NOT_FOUND}"}


def said(*, restarts: int = 0, ready: bool = False, last: Any = None, **state: Any) -> list[str]:
    return container_words(
        {"state": state, "ready": ready, "restartCount": restarts, "lastState": {"terminated": last} if last else {}}
    )


def test_a_container_that_is_well_has_nothing_to_say() -> None:
    assert said(ready=True, running={}, restarts=3, last=STOPPED) == []


@pytest.mark.parametrize(("state", "words"), [
    ({"waiting": {"reason": "ContainerCreating"}}, "ContainerCreating"),
    ({"waiting": {"reason": "ErrImageNeverPull", "message": "not here"}}, "ErrImageNeverPull: not here"),
    ({"running": {}}, "running, but not ready"),
    ({"terminated": {"exitCode": 1, "reason": "Error"}}, "ended with exit code 1 (Error)"),
    ({"terminated": STOPPED},
     f"ended with exit code 128 (StartError): failed to start containerd task: {NOT_FOUND}"),
])  # fmt: skip
def test_a_state_is_told_with_its_reason(state: dict[str, Any], words: str) -> None:
    assert said(**state) == [words]


def test_how_the_last_one_ended_is_told_as_well() -> None:
    back_off = {"reason": "CrashLoopBackOff", "message": "back-off 40s"}
    first, second = said(waiting=back_off, restarts=2, last=STOPPED)
    assert first == "CrashLoopBackOff: back-off 40s"
    assert second.startswith("restarts so far: 2; before the last one: exit code 128 (StartError): ")
    assert second.endswith(NOT_FOUND)


def test_a_message_without_end_is_cut() -> None:
    (words,) = said(terminated={"exitCode": 1, "reason": "Error", "message": "word " * 1000})
    assert len(words) < MESSAGE_LETTERS + 50
    assert words.endswith(" …")
