"""Where things live: the checkout's own state in .kailab/, caches that all checkouts share."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cluster import note

SOURCE_ROOT = Path(__file__).resolve().parent.parent
KUBERNETES_VERSION = "v1.37.2"


@dataclass(frozen=True)
class Workspace:
    """One checkout's paths."""

    state: Path
    _cache: Path | None = None

    @classmethod
    def here(cls) -> Workspace:
        """The workspace of this checkout (KAILAB_HOME and KAILAB_CACHE override both places)."""
        root = SOURCE_ROOT if (SOURCE_ROOT / "pyproject.toml").exists() else Path.cwd()
        state = Path(os.environ.get("KAILAB_HOME") or root / ".kailab").resolve()
        cache = os.environ.get("KAILAB_CACHE")
        return cls(state, Path(cache).resolve() if cache else None)

    @property
    def cache(self) -> Path:
        if self._cache:
            return self._cache
        import platformdirs  # a check, which should be quick, needs no cache

        return platformdirs.user_cache_path("kailab").resolve()

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
