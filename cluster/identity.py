"""Which cluster is ours: noted when it is made, compared before anything is done to it."""

from __future__ import annotations

from pathlib import Path

from cluster import note
from cluster.api import Api
from cluster.errors import KailabError
from cluster.kindconfig import SCHEDULER
from cluster.workspace import SOURCE_ROOT, Workspace


class Identity:
    """What the note in .kailab/cluster.json says, and when it is written (its fields: cluster/note.py)."""

    @classmethod
    def begin(cls, workspace: Workspace, engine: str = "", endpoint: str = "") -> None:
        """A cluster is about to be made under the workspace's cluster name."""
        where = {"engine": engine, "endpoint": endpoint}
        here = _here(workspace)
        made = {"creating": True, "name": workspace.cluster_name, **here, "made": here}
        note.write(workspace.state, {**made, **{key: value for key, value in where.items() if value}})

    @classmethod
    def creating(cls, workspace: Workspace) -> bool:
        return bool(note.read(workspace.state).get("creating"))

    @classmethod
    def end(cls, workspace: Workspace) -> None:
        """The nodes are made. Which cluster that is, `verify` notes as soon as its API server has time to answer."""
        begun = note.read(workspace.state)
        note.write(workspace.state, {key: value for key, value in begun.items() if key != "creating"})

    @classmethod
    def keep(cls, workspace: Workspace, **fields: object) -> None:
        """Add to a note that is there; a file is written only where that changes something."""
        noted = note.read(workspace.state)
        if noted and {**noted, **fields} != noted:
            note.write(workspace.state, {**noted, **fields})

    @classmethod
    def engine(cls, workspace: Workspace) -> str:
        """The program ("docker", "podman") of the engine that holds the cluster; empty where nobody knows."""
        return str(note.read(workspace.state).get("engine") or "")

    @classmethod
    def endpoint(cls, workspace: Workspace) -> str:
        """Where that engine answered when the cluster was made; empty where nobody knows."""
        return str(note.read(workspace.state).get("endpoint") or "")

    @classmethod
    def pool(cls, workspace: Workspace) -> int | None:
        """The number of the cluster's pool of load balancer addresses, if one was chosen."""
        noted = note.read(workspace.state).get("pool")
        return noted if isinstance(noted, int) else None

    @classmethod
    def is_noted(cls, workspace: Workspace) -> bool:
        """Whether a cluster was made here and not removed, as far as the file says, whatever stands in it."""
        return (workspace.state / note.FILE).exists()

    @classmethod
    def settle(cls, workspace: Workspace) -> None:
        """After a move the note says where its cluster's checkout is now; one of an earlier kailab gets a name."""
        cls.keep(workspace, name=workspace.cluster_name, **_here(workspace))

    @classmethod
    def is_moved(cls, workspace: Workspace) -> bool:
        """Whether the nodes mount folders by a path where they are no more."""
        made = note.read(workspace.state).get("made")
        if not isinstance(made, dict):
            return False
        state, root = Path(str(made.get("state"))), Path(str(made.get("root")))
        return state.resolve() != workspace.state or not (root / SCHEDULER.relative_to(SOURCE_ROOT)).is_file()

    @classmethod
    def forget(cls, workspace: Workspace) -> None:
        (workspace.state / note.FILE).unlink(missing_ok=True)

    @classmethod
    def disown(cls, workspace: Workspace) -> str:
        """In a copied checkout: drop the copies of note and login, which lead to the original's cluster.

        Returns the state folder of the original; empty in all other checkouts, where nothing is done.
        """
        if original := note.original(workspace.state):
            workspace.kubeconfig.unlink(missing_ok=True)
            cls.forget(workspace)  # last: until then it tells what the login is
        return original

    @classmethod
    def verify(cls, workspace: Workspace, api: Api) -> str:
        """The cluster's UID. Raises KailabError when it is not the cluster that this checkout made.

        A lost note is written again: the kubeconfig lies in our own folder, and kind's container names follow
        from that folder's path. Another state folder of one checkout (KAILAB_HOME) may share the cluster by copies of
        both files.
        """
        noted_here = note.read(workspace.state)
        original = note.original(workspace.state)
        if original and noted_here.get("root") != str(SOURCE_ROOT):
            raise KailabError(
                "This checkout is a copy; its kubeconfig leads to the original's cluster. Nothing was touched.",
                why=f"the original has its files in {original}",
                mend="kailab up   (makes a cluster of this checkout's own)",
            )
        found, noted = uid(api), noted_here.get("uid")
        if noted is None:
            note.write(workspace.state, {**noted_here, "uid": found})
        elif noted != found:
            raise KailabError(
                "The cluster behind .kailab/kubeconfig is not the one that kailab made here; nothing was touched.",
                why=f"its kube-system namespace has UID {found}, expected {noted}",
                mend="kailab down, then kailab up   (makes the course cluster anew)",
            )
        return found


def _here(workspace: Workspace) -> dict[str, object]:
    return {"state": str(workspace.state), "root": str(SOURCE_ROOT)}


def uid(api: Api) -> str:
    """The UID of kube-system: the usual stand-in for a cluster's own identity."""
    namespace = api.get("Namespace", "kube-system")
    return str(namespace["metadata"]["uid"]) if namespace else ""
