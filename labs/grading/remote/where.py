"""Which cluster a class is graded in: the course cluster, or another one by an explicit word."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checkers import prober
from checkers.declare import CannotTell
from cluster.api import Api, connect
from cluster.errors import KailabError
from cluster.identity import uid
from cluster.workspace import Workspace
from labs.grading.remote import image
from labs.grading.run import begin
from labs.lifecycle import Course

PROBER_SECONDS = 30.0  # for a prober that is just being started


@dataclass(frozen=True)
class Place:
    """A cluster as the user named it. `image` is the name under which its nodes find the grader's image."""

    kubeconfig: Path | None = None
    context: str = ""
    sure: bool = False
    image: str = ""

    @property
    def is_ours(self) -> bool:
        return self.kubeconfig is None

    def alone(self, course: Course) -> contextlib.AbstractContextManager[None]:
        """Nobody grades in the course cluster from here beside us; of other clusters several may be at work at once."""
        return begin(course) if self.is_ours else contextlib.nullcontext()

    @contextlib.contextmanager
    def opened(self, workspace: Workspace) -> Iterator[Course]:
        """The cluster. Raises KailabError unless another one than ours was named in full and with a yes."""
        if self.kubeconfig is None:
            with Course.opened(workspace) as course:
                yield course
            return
        if not self.context:
            raise KailabError("Another cluster needs both --kubeconfig and --context: nothing is taken for granted.")
        with contextlib.closing(connect(self.kubeconfig, self.context)) as api:
            if not self.sure:
                raise KailabError(
                    f"Context {self.context} is not the course cluster.", why=promise(),
                    mend="the same command with --yes-this-cluster, if that is what you want",
                )  # fmt: skip
            if not self.image:
                raise KailabError(
                    "Another cluster's nodes have to find the grader's image.",
                    why=f"It is built here as {image.NAME} when the course cluster is graded in; its labs also need "
                    "the course's own images on the nodes.",
                    mend="push it where the nodes pull from, and name it: --image REGISTRY/NAME:TAG",
                )
            yield Course(workspace, api, uid(api))


def promise() -> str:
    """What a run makes in a cluster, said before it is made."""
    return (
        "It would make there, and remove at the end: namespace kailab-grading with the workers and the submissions; "
        "a namespace grade-... for each submission that is being judged; a ClusterRole and its binding, Roles where "
        "the lab's checks look, and an admission policy, all named kailab-grading-worker. Checks may also drain nodes, "
        "and open them again. So use a cluster where nobody else is at work."
    )


def token(api: Api) -> str:
    """The prober's secret, from the cluster that it runs in. Raises KailabError unless a prober there answers to it:
    a class is not to be queued where no check can be right.
    """
    found = api.get("Secret", "prober-token", prober.NAMESPACE)
    if found is None or api.get("Deployment", "prober", prober.NAMESPACE) is None:
        raise KailabError(
            "There is no prober in this cluster, and without it no check can look from inside.",
            mend="kailab up   (on a cluster of your own: apply checkers/prober/prober.yaml with a token in its Secret)",
        )
    secret = base64.b64decode((found.get("data") or {}).get("token") or "").decode()
    if not secret:
        raise _silent(
            "Secret prober-token holds no token, which the prober wants to hear from whoever asks.", mend=_SET
        )
    deadline = time.monotonic() + PROBER_SECONDS
    while True:
        try:
            prober.Prober(api, secret).dns("kubernetes.default")
            return secret
        except CannotTell as silent:
            if time.monotonic() >= deadline:
                stale = f"{silent} (one that was started before its Secret was changed wants the old token)"
                raise _silent(_what_keeps_it(api) or stale) from None
        time.sleep(1)


_LOOK = f"kubectl -n {prober.NAMESPACE} describe pods   (kailab up repairs the course cluster's own)"
_SET = (
    f'kubectl -n {prober.NAMESPACE} patch secret prober-token -p \'{{"stringData": {{"token": "A LONG WORD"}}}}\', '
    f"then kubectl -n {prober.NAMESPACE} rollout restart deployment prober"
)


def _silent(why: str, mend: str = _LOOK) -> KailabError:
    what = "The prober of this cluster does not answer, and without it no check can look from inside."
    return KailabError(what, why=why, mend=mend)


def _what_keeps_it(api: Api) -> str:
    """Why its pod is not ready, or nothing where it is."""
    pods, _ = api.list("Pod", prober.NAMESPACE, labelSelector="app.kubernetes.io/name=prober")
    for status in (pod.get("status", {}) for pod in pods):
        for container in status.get("containerStatuses") or []:
            if waiting := container["state"].get("waiting"):
                return f"{waiting.get('reason')}: {waiting.get('message', '')}"
        conditions = {one["type"]: one for one in status.get("conditions") or []}
        if conditions.get("Ready", {}).get("status") == "True":
            return ""
        if message := conditions.get("PodScheduled", {}).get("message"):
            return str(message)
    return "its pod is not ready" if pods else "its Deployment has no pod"
