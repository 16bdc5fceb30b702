"""The grader's image: kailab's own packages, built once per recipe; laid on the course cluster's nodes at first use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from cluster import engine as engines
from cluster import images, nodes, registry
from cluster.engine import Engine
from cluster.images import ROOT, ImageRecipe
from cluster.topology import NODES, container_name
from cluster.workspace import Workspace
from labs.catalog import all_labs
from labs.grading.remote.job import hosts_workers

NAME = "kailab/grader:v1"
_MARK = "/kind/kailab-grader-image"
_LAB_PARTS = ("__init__.py", "lab.yaml", "checks.py", "given", "solution", "alternatives")


def recipe() -> ImageRecipe:
    """What a worker imports, and of each lab what decides about points: a changed text builds no new image."""
    packages = ("cluster", "cluster/addons", "cluster/nodeimage", "cluster/images", "cluster/gpu", "cluster/gpu/node",
                "cluster/gpu/node/smi", "cluster/gpu/scale", "checkers", "checkers/prober", "checkers/report", "labs",
                "labs/grading", "labs/grading/remote", "labs/apps")  # fmt: skip
    sources = [path for package in packages for path in sorted((ROOT / package).glob("*.py"))]
    sources += [ROOT / "checkers/schema.json", ROOT / "checkers/report/templates", ROOT / "cluster/gpu/fleet.yaml"]
    sources += [path for lab in all_labs() for part in _LAB_PARTS if (path := lab.path / part).exists()]
    requirements = ROOT / "requirements" / "lab.lock"
    return ImageRecipe(NAME, ROOT / "labs/apps/grader", requirements=requirements, sources=tuple(sources))


def version() -> str:
    """Changes with everything in the image."""
    return images.recipe_hash(recipe())


def lay_on_nodes(workspace: Workspace, log: Path) -> None:
    """Have the image on every node of the course cluster that takes workers. Raises KailabError when that fails."""
    engine, made = engines.require(), recipe()
    with FileLock(workspace.cache / "images.lock"):  # to the end: two at once would write the same archive
        images.build(workspace, engine, made, log, registry=registry.answers)
        _load(workspace, engine, images.recipe_hash(made), log)


def _load(workspace: Workspace, engine: Engine, key: str, log: Path) -> None:
    wanted = [container_name(workspace.cluster_name, node) for node in NODES if hosts_workers(node)]

    def has(container: str) -> bool:
        marked = engine.run("exec", container, "cat", _MARK, check=False)
        return marked.returncode == 0 and marked.stdout.strip() == key

    with ThreadPoolExecutor(len(wanted)) as pool:
        missing = [name for name, there in zip(wanted, pool.map(has, wanted), strict=True) if not there]
    if missing:
        nodes.load_images(engine, missing, [NAME], workspace.state / "grader.tar", log)
        for container in missing:
            engine.run("exec", container, "sh", "-c", f"printf %s {key} > {_MARK}", log=log)
