"""Container Device Interface files: how a claim's devices get into the containers that use it.

One file a claim, as NVIDIA's DRA driver does it; containerd reads the folder at each container's start. The file has
one CDI device for the claim as a whole and, where there are several requests, one for each. Of several in one container
the last one counts: each says where the socket is and what is visible, and edits of the same name replace each other.
Format: github.com/cncf-tags/container-device-interface, SPEC.md, version 0.6.0.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from cluster.gpu.node.allocations import Edits

VERSION = "0.6.0"
KIND = "k8s.gpu.nvidia.com/claim"
NOTE = "kailab.dev/devices"
_PREFIX = KIND.replace("/", "-") + "_"
_UID = re.compile(r"[0-9a-zA-Z-]{1,63}")


def device_id(claim_uid: str, request: str = "") -> str:
    """The CDI device with all of a claim's devices, or one request's."""
    return f"{KIND}={_name(claim_uid, request)}"


def _name(claim_uid: str, request: str) -> str:
    return f"{claim_uid}-{request}" if request else claim_uid


def _path(folder: Path, claim_uid: str) -> Path:
    if not _UID.fullmatch(claim_uid):
        raise ValueError(f"{claim_uid!r} is not a UID")
    return folder / f"{_PREFIX}{claim_uid}.json"


def write(folder: Path, claim_uid: str, edits: Mapping[str, Edits], note: Mapping[str, object]) -> None:
    """Make or replace a claim's file in one step; `edits` by request, the whole claim's under an empty name; `note`
    comes back from `read`."""
    document = {
        "cdiVersion": VERSION,
        "kind": KIND,
        "annotations": {NOTE: json.dumps(note)},
        "devices": [
            {"name": _name(claim_uid, request), "containerEdits": _document(one)} for request, one in edits.items()
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, claim_uid)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document, indent=2))
    fresh.rename(path)


def _document(edits: Edits) -> dict[str, object]:
    return {
        "env": [f"{key}={value}" for key, value in edits.envs.items()],
        "mounts": [
            {"hostPath": source, "containerPath": target, "options": ["ro", "nosuid", "nodev", "rbind"]}
            for target, source in edits.mounts.items()
        ],
    }


def remove(folder: Path, claim_uid: str) -> None:
    """Nothing happens where there is none."""
    _path(folder, claim_uid).unlink(missing_ok=True)


def read(folder: Path) -> dict[str, dict[str, object]]:
    """The notes of all claims that have a file, by UID. Files that can't be read are removed: a claim without one is
    prepared again."""
    found = {}
    for path in sorted(folder.glob(f"{_PREFIX}*.json")):
        try:
            found[path.stem.removeprefix(_PREFIX)] = json.loads(json.loads(path.read_text())["annotations"][NOTE])
        except (ValueError, KeyError, TypeError):
            with contextlib.suppress(OSError):
                path.unlink()
    return found
