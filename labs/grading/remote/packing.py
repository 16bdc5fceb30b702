"""What travels to the cluster and back: compressed JSON that fits into ConfigMaps."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from checkers.manifests import shown
from checkers.report.document import from_document, to_document
from checkers.results import Report
from cluster.api import Object
from labs.grading.reading import Submission
from labs.grading.remote.queue import MOST_BYTES, MOST_EVIDENCE


@dataclass(frozen=True)
class Verdict:
    """What a worker found: a report, or `why` there is none; `problems` are what the API server refused.

    `left_out`: bytes of packed evidence that were too many to send.
    """

    report: Report | None
    problems: tuple[str, ...]
    why: str
    graded_at: str
    seconds: float
    left_out: int = 0


def key(submission: Submission, lab_digest: str) -> str:
    """The same exactly for the same student's same work, judged by the same checks; tells no name."""
    text = "\0".join((submission.student, submission.digest, lab_digest))
    # A name that isn't UTF-8 has letters that no encoding has; they make a key as well as any.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:20]


def pack_work(submission: Submission) -> tuple[bytes, list[str]]:
    """The packed objects, and what of them can't be sent. Students' names and files stay where they are."""
    objects, problems = [], []
    for item in submission.objects:
        try:
            json.dumps(item, allow_nan=False)
            objects.append(item)
        except (TypeError, ValueError, RecursionError) as broken:  # what YAML can say and JSON can't
            title = shown(f"{item['kind']} {item['metadata'].get('name', '')}")
            problems.append(f"{title}: it can't be sent to the API server: {broken}")
    packed = _pack(objects)
    if len(packed) > MOST_BYTES:
        problems.append(
            f"its manifests are {len(packed) // 1024} KiB even when compressed; above {MOST_BYTES // 1024} KiB nothing "
            "is sent to the cluster"
        )
        packed = _pack([])
    return packed, problems


def unpack_work(packed: bytes) -> list[Object]:
    objects: list[Object] = _unpack(packed)
    return objects


def pack_verdict(verdict: Verdict) -> bytes:
    document = {**verdict.__dict__, "report": to_document(verdict.report) if verdict.report else None}
    return _pack(document)


def unpack_verdict(packed: bytes) -> Verdict:
    document = _unpack(packed)
    report = from_document(document["report"]) if document["report"] else None
    return Verdict(**{**document, "report": report, "problems": tuple(document["problems"])})


def pack_evidence(document: dict[str, Any] | None) -> tuple[bytes, int]:
    """The packed evidence, empty where there is none to send, and how many bytes were too many."""
    packed = b"" if document is None else _pack(document)
    return (packed, 0) if len(packed) <= MOST_EVIDENCE else (b"", len(packed))


def unpack_evidence(packed: bytes | None) -> dict[str, Any] | None:
    return None if packed is None else dict(_unpack(packed))


def _pack(document: Any) -> bytes:
    return gzip.compress(json.dumps(document, separators=(",", ":"), default=str).encode(), mtime=0)


def _unpack(packed: bytes) -> Any:
    return json.loads(gzip.decompress(packed))
