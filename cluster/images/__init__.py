"""Images of the course's own programs: built once per recipe, the same Dockerfile with or without a registry."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster import hashing
from cluster.engine import Engine, full_name, label_of
from cluster.nodeimage import programs
from cluster.nodeimage.build import ensure_mmdebstrap
from cluster.run import run
from cluster.workspace import Workspace

PYTHON = Path(__file__).parent / "python"
ROOT = Path(__file__).parents[2]  # what kailab's packages are imported from
REGISTRY_PYTHON = "docker.io/library/python:3.11.14-slim-bookworm"
RECIPE_LABEL = "kailab.recipe"
PYTHON_VERSION = "3.11"
# What this machine calls itself, in Debian's and in wheels' words.
_ARCHITECTURES = {"x86_64": ("amd64", "x86_64"), "amd64": ("amd64", "x86_64"), "aarch64": ("arm64", "aarch64"),
                  "arm64": ("arm64", "aarch64")}  # fmt: skip


@dataclass(frozen=True)
class ImageRecipe:
    """One image: its name, a folder with a Dockerfile (ARG BASE), build arguments, and what else appears in the
    build context: the packages of a requirements file with hashes as site-packages/, files and folders of kailab's
    own packages below sources/ under their import paths, and Go programs in programs/."""

    name: str
    context: Path
    args: Mapping[str, str] = field(default_factory=dict)
    requirements: Path | None = None
    sources: tuple[Path, ...] = ()
    programs: tuple[programs.Module, ...] = ()


def recipe_hash(recipe: ImageRecipe) -> str:
    """What an image is keyed by: its folder, arguments, requirements, and how the base is made."""
    parts = [recipe.name, hashing.of_files(recipe.context), base_hash()]
    parts += [f"{key}={value}" for key, value in sorted(recipe.args.items())]
    if recipe.requirements is not None:
        parts.append(hashing.of_files(recipe.requirements))
    parts += [f"{source.relative_to(ROOT)} {hashing.of_files(source)}" for source in recipe.sources]
    parts += [hashing.of_files(module.folder) for module in recipe.programs]
    return hashing.combined(parts)


def base_hash() -> str:
    return hashing.combined([hashing.of_files(PYTHON), REGISTRY_PYTHON])


def python_base(workspace: Workspace, engine: Engine, log: Path, *, registry: bool) -> str:
    """The image that all Python programs stand on: the pinned official one, or Debian's packages assembled here."""
    if registry:
        return REGISTRY_PYTHON
    tag = f"kailab/python:{base_hash()}"
    if not engine.has_image(tag):
        ensure_mmdebstrap(log)
        workspace.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="kailab-") as folder:
            tar = Path(folder) / "root.tar"
            run(["sh", PYTHON / "build.sh", tar, _architecture()[0]], log=log, timeout=900)
            environment = "ENV PATH=/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1"
            changes = ("--change", environment, "--change", f"LABEL {label_of(tag)}")
            engine.run("import", *changes, tar, full_name(tag), log=log)
    return tag


def is_built(engine: Engine, recipe: ImageRecipe) -> bool:
    label = f'{{{{index .Config.Labels "{RECIPE_LABEL}"}}}}'
    found = engine.run("image", "inspect", "--format", label, full_name(recipe.name), check=False)
    return found.returncode == 0 and found.stdout.strip() == recipe_hash(recipe)


def build(
    workspace: Workspace, engine: Engine, recipe: ImageRecipe, log: Path, *, registry: Callable[[], bool]
) -> None:
    """Build the image unless this recipe's image already carries the name; `registry` is asked only if need be.

    Raises CommandFailed with the builder's last words, or KailabError where the base can't be made.
    """
    if is_built(engine, recipe):
        return
    base = python_base(workspace, engine, log, registry=registry())
    with tempfile.TemporaryDirectory(prefix="kailab-") as folder:
        context = Path(folder) / "context"
        shutil.copytree(recipe.context, context, ignore=shutil.ignore_patterns("__pycache__"))
        if recipe.requirements is not None:
            shutil.copytree(_site_packages(workspace, recipe.requirements, log), context / "site-packages")
        for source in recipe.sources:
            _copy_source(source, context / "sources" / source.relative_to(ROOT))
        for module in recipe.programs:
            built = programs.build(workspace, module, log, engine=engine if registry() else None)
            shutil.copytree(built, context / "programs", dirs_exist_ok=True)
        given = {"BASE": full_name(base), **recipe.args}
        args = [part for key, value in given.items() for part in ("--build-arg", f"{key}={value}")]
        label = f"{RECIPE_LABEL}={recipe_hash(recipe)}"
        engine.build(recipe.name, context, "--label", label, *args, log=log, timeout=900)


def _copy_source(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def _site_packages(workspace: Workspace, requirements: Path, log: Path) -> Path:
    """The packages of a requirements file for the containers' Python, fetched on this machine: builds need no
    network of their own."""
    architecture = _architecture()[1]
    folder = workspace.cache / "site-packages" / f"{hashing.of_files(requirements)}-{architecture}"
    if folder.exists():
        return folder
    unfinished = folder.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    platforms = [part for name in ("manylinux_2_28", "manylinux2014", "manylinux_2_17")
                 for part in ("--platform", f"{name}_{architecture}")]  # fmt: skip
    run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile",
         "--require-hashes", "--only-binary", ":all:", "--python-version", PYTHON_VERSION, *platforms,
         "--target", unfinished, "--requirement", requirements],
        log=log,
    )  # fmt: skip
    for tests in [path for path in unfinished.rglob("tests") if path.is_dir()]:
        shutil.rmtree(tests)
    unfinished.rename(folder)
    return folder


def _architecture() -> tuple[str, str]:
    return _ARCHITECTURES[platform.machine().lower()]
