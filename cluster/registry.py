"""Where images come from: a container registry if one answers, else our own air-gapped builds."""

from __future__ import annotations

import os

import urllib3

from cluster.errors import KailabError

PROBE = "https://registry-1.docker.io/v2/"
PROBE_SECONDS = 3.0
CHOICES = ("auto", "registry", "offline")


def answers() -> bool:
    """Whether Docker Hub's API answers within a few seconds (401 is an answer: it wants a token).

    KAILAB_IMAGES=registry or offline decides without asking. Raises KailabError for any other value.
    """
    choice = os.environ.get("KAILAB_IMAGES", "auto")
    if choice not in CHOICES:
        raise KailabError(f"KAILAB_IMAGES is {choice!r}.", mend=f"set it to one of: {', '.join(CHOICES)}")
    if choice != "auto":
        return choice == "registry"
    timeout = urllib3.Timeout(total=PROBE_SECONDS)
    try:
        return urllib3.PoolManager().request("GET", PROBE, retries=False, timeout=timeout).status in (200, 401)
    except (urllib3.exceptions.HTTPError, OSError):
        return False
