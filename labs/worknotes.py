"""What the student's own files say beside the cluster: typing mistakes, and edits that were never applied.

Only notes: the verdict rests on the cluster alone.
"""

from __future__ import annotations

from pathlib import Path

from checkers.manifests import read_folder
from checkers.match import mismatches
from cluster.api import Api, ApiError, Object
from cluster.errors import KailabError
from cluster.kinds import KINDS, NoPath

MOST_OBJECTS = 20
MOST_NOTES = 4


def notes(api: Api, folder: Path, namespace: str) -> list[str]:
    """At most a few lines on files in `folder` that don't parse, go elsewhere, or differ from the cluster. Where that
    can't be told there are none: nothing here is worth losing a report."""
    if not folder.is_dir():
        return []
    objects, problems = read_folder(folder)
    found = [str(problem) + (f" ({problem.mend})" if problem.mend else "") for problem in problems]
    for name, item in objects[:MOST_OBJECTS]:
        note = _note(api, item, namespace)
        if note:
            found.append(f"{name}: {note}")
    more = [f"… and {len(found) - MOST_NOTES} more"] if len(found) > MOST_NOTES else []
    return found[:MOST_NOTES] + more


def _note(api: Api, item: Object, namespace: str) -> str:
    kind, meta = item["kind"], item["metadata"]
    known = KINDS.get(kind)
    if known is None or "name" not in meta:
        return ""
    title = f"{kind} {meta['name']}"
    if known.namespaced and meta.get("namespace", namespace) != namespace:
        return f"{title} goes to namespace {meta['namespace']}; this lab looks at {namespace}"
    try:
        live = api.get(known, str(meta["name"]), namespace if known.namespaced else "")
    except NoPath as wrong:
        return f"no cluster takes {title}: {wrong.what}"
    except KailabError:  # that the cluster doesn't answer is no matter of this file
        return ""
    if live is None:
        try:
            refusal = _refusal(api, item, namespace)
        except KailabError:
            return ""
        return f"the API server refuses {title}: {refusal}" if refusal else f"{title} was not applied yet"
    # What the API server keeps elsewhere (stringData) or writes in its own way can't be compared.
    wanted = {field: value for field, value in item.items() if field in ("spec", "data")}
    different = mismatches(wanted, live)
    return f"{title} is not as in the cluster: {different[0]}; was the edit applied?" if different else ""


def _refusal(api: Api, item: Object, namespace: str) -> str:
    """Raises Unreachable."""
    try:
        api.create(item, namespace, dry_run=True)
    except (ApiError, NoPath) as refused:
        return refused.what
    except (KeyError, TypeError, ValueError) as broken:  # what YAML can say and JSON can't
        return str(broken)
    return ""
