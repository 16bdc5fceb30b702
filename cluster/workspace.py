"""Where things live: the checkout's own state in .kailab/, caches that all checkouts share."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from cluster import note

SOURCE_ROOT = Path(__file__).resolve().parent.parent
KUBERNETES_VERSION = "v1.37.2"


@dataclass(frozen=True)
class Workspace:
    """One checkout's paths."""

    state: Path
    cache: Path

    @classmethod
    def here(cls) -> Workspace:
        """The workspace of this checkout (KAILAB_HOME and KAILAB_CACHE override both places)."""
        root = SOURCE_ROOT if (SOURCE_ROOT / "pyproject.toml").exists() else Path.cwd()
        state = Path(os.environ.get("KAILAB_HOME") or root / ".kailab").resolve()
        cache = Path(os.environ.get("KAILAB_CACHE") or platformdirs.user_cache_path("kailab")).resolve()
        return cls(state, cache)

    @property
    def cluster_name(self) -> str:
        """The cluster's that this checkout has made, wherever it was then; else the one that it would make."""
        return note.name(self.state) or self.own_name

    @property
    def own_name(self) -> str:
        """It follows from the state folder, so two checkouts never share one."""
        return f"kailab-{hashlib.sha256(str(self.state).encode()).hexdigest()[:6]}"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def bin(self) -> Path:
        return self.cache / "bin"

    @property
    def work(self) -> Path:
        """Where students edit their manifests: beside the state folder, in plain sight."""
        return self.state.parent / "work"
