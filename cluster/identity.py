"""Which cluster is ours: noted when it is made, compared before anything is done to it."""

from __future__ import annotations

import json

from cluster.api import Api
from cluster.errors import KailabError
from cluster.files import replace
from cluster.workspace import Workspace


class Identity:
    """The note in .kailab/cluster.json: {"creating": true} while being made, then {"uid": UID of kube-system}; in both,
    the engine that it was made with."""

    @staticmethod
    def _read(workspace: Workspace) -> dict[str, object]:
        try:
            document = json.loads((workspace.state / "cluster.json").read_text())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    @staticmethod
    def _write(workspace: Workspace, note: dict[str, object]) -> None:
        replace(workspace.state / "cluster.json", json.dumps(note))

    @classmethod
    def begin(cls, workspace: Workspace, engine: str = "") -> None:
        cls._write(workspace, {"creating": True, **({"engine": engine} if engine else {})})

    @classmethod
    def creating(cls, workspace: Workspace) -> bool:
        return bool(cls._read(workspace).get("creating"))

    @classmethod
    def record(cls, workspace: Workspace, api: Api) -> None:
        cls._write(workspace, {**cls._engine_noted(workspace), "uid": uid(api)})

    @classmethod
    def engine(cls, workspace: Workspace) -> str:
        """The program ("docker", "podman") of the engine that holds the cluster; empty where nobody knows."""
        return str(cls._read(workspace).get("engine") or "")

    @classmethod
    def _engine_noted(cls, workspace: Workspace) -> dict[str, object]:
        engine = cls.engine(workspace)
        return {"engine": engine} if engine else {}

    @classmethod
    def forget(cls, workspace: Workspace) -> None:
        (workspace.state / "cluster.json").unlink(missing_ok=True)

    @classmethod
    def verify(cls, workspace: Workspace, api: Api) -> str:
        """The cluster's UID. Raises KailabError when it is not the cluster that this checkout made.

        A lost note is written again: the kubeconfig lies in our own folder, and kind's container names follow
        from that folder's path.
        """
        found, noted = uid(api), cls._read(workspace).get("uid")
        if noted is None:
            cls._write(workspace, {"uid": found})
        elif noted != found:
            raise KailabError(
                "The cluster behind .kailab/kubeconfig is not the one that kailab made here; nothing was touched.",
                why=f"its kube-system namespace has UID {found}, expected {noted}",
                mend="kailab down, then kailab up   (makes the course cluster anew)",
            )
        return found


def uid(api: Api) -> str:
    """The UID of kube-system: the usual stand-in for a cluster's own identity."""
    namespace = api.get("Namespace", "kube-system")
    return str(namespace["metadata"]["uid"]) if namespace else ""
