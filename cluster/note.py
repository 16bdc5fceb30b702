"""The note about the cluster that a checkout has made: .kailab/cluster.json, and whose it is.

{"creating": true} until kind has made the nodes, {"uid": UID of kube-system} as soon as the cluster was asked for it.
Always: `name` is the cluster's, `engine` and `endpoint` say where its containers are, `state` and `root` which folder
and checkout have it now, `made` both of them as they were when it was made, and `pool` which of the load balancer's
pools it has.
"""

from __future__ import annotations

import json
from pathlib import Path

from cluster.files import replace

Note = dict[str, object]
FILE = "cluster.json"


def read(state: Path) -> Note:
    """What a state folder's note says; nothing where there is none, or none that can be read."""
    try:
        document = json.loads((state / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write(state: Path, note: Note) -> None:
    replace(state / FILE, json.dumps(note))


def name(state: Path) -> str:
    """The name of the cluster that this folder's checkout has made, also before it was moved; empty without one."""
    return "" if original(state) else str(read(state).get("name") or "")


def original(state: Path) -> str:
    """The state folder that this one's note was copied from (`cp -r` of a checkout); empty for a note of its own.

    A note names the folder that it was written in. Where that folder has still a note of the same cluster, the cluster
    is that folder's. Where it has none or has gone, the checkout was moved, and its cluster with it.
    """
    note = read(state)
    written_in = str(note.get("state") or "")
    if not written_in or Path(written_in) == state:
        return ""
    return written_in if read(Path(written_in)).get("name") == note.get("name") else ""
