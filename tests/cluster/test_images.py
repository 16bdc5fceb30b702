"""An image that carries its name is whole: what was interrupted is made again, what is whole is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster import images as builder
from cluster.engine import IMAGE_LABEL, Engine, full_name
from cluster.images import RECIPE_LABEL, ImageRecipe
from cluster.nodeimage import build as nodeimage
from cluster.nodeimage import programs
from cluster.run import CommandFailed
from cluster.workspace import Workspace

BASE = f"kailab/python:{builder.base_hash()}"


def ago(hours: int, form: str = "%Y-%m-%dT%H:%M:%S.123456789Z") -> str:
    return (datetime.now(UTC) - timedelta(hours=hours)).strftime(form)


class Done:
    def __init__(self, stdout: str = "", returncode: int = 0) -> None:
        self.stdout, self.returncode = stdout, returncode


@dataclass(frozen=True)
class FakeEngine(Engine):
    """Has images with labels, and at the commands that a test lists in `broken` it fails, as one out of room does."""

    images: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)  # when; all others two days ago

    def run(self, *args: str | Path, **options: Any) -> Any:
        words = [str(word) for word in args]
        line = " ".join(words)
        self.calls.append(line)
        if any(part in line for part in self.broken):
            raise CommandFailed(words, "failed with status 1", "write /x: no space left on device")
        if words[:4] == ["image", "inspect", "--format", "{{.Created}}"]:
            return Done(self.made.get(words[-1], ago(hours=48)))
        if words[:2] == ["image", "inspect"] and IMAGE_LABEL in words[3]:
            # What has no recipe is another's here.
            labelled = bool(recipe := self.images.get(words[-1]))
            return Done(f"id-of-{recipe} {words[-1] if labelled else ''}")
        if words[:2] == ["image", "inspect"]:
            return Done(self.images.get(words[-1], ""), 0 if words[-1] in self.images else 1)
        if words[:2] == ["image", "ls"]:
            return Done("\n".join([*self.images, "<none>:<none>"]))
        if words[0] == "build":
            label = next((word for word in words if word.startswith(f"{RECIPE_LABEL}=")), "=")
            self.images[words[words.index("--tag") + 1]] = label.partition("=")[2]
        if words[0] in ("commit", "import"):
            self.images[words[-1]] = ""
        if words[:2] == ["image", "rm"]:
            self.images.pop(words[2], None)
        return Done()

    def called(self, word: str) -> list[str]:
        return [call for call in self.calls if call.startswith(word)]


@pytest.fixture
def engine() -> FakeEngine:
    engine = FakeEngine("docker", "28")
    engine.images[full_name(BASE)] = ""
    return engine


@pytest.fixture
def recipe(tmp_path: Path) -> ImageRecipe:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\n")
    return ImageRecipe("tiny:v1", tmp_path / "app")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / ".kailab", tmp_path / "cache")


def build(workspace: Workspace, engine: Engine, recipe: ImageRecipe) -> None:
    builder.build(workspace, engine, recipe, workspace.state / "log", registry=lambda: False)


def test_what_is_whole_is_not_built_again(workspace: Workspace, engine: FakeEngine, recipe: ImageRecipe) -> None:
    build(workspace, engine, recipe)
    build(workspace, engine, recipe)
    assert len(engine.called("build")) == 1
    assert builder.is_built(engine, recipe)


def test_an_image_of_another_recipe_under_the_name_is_not_trusted(
    workspace: Workspace, engine: FakeEngine, recipe: ImageRecipe
) -> None:
    build(workspace, engine, recipe)
    (recipe.context / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nRUN true\n")
    assert not builder.is_built(engine, recipe)
    assert not engine.called("image rm")
    older = engine.images[full_name(recipe.name)]
    build(workspace, engine, recipe)
    assert len(engine.called("build")) == 2
    assert engine.called("image rm") == [f"image rm id-of-{older}"], "nameless, it would fill the disk for ever"


def test_another_image_that_had_the_name_stays(workspace: Workspace, engine: FakeEngine, recipe: ImageRecipe) -> None:
    engine.images[full_name(recipe.name)] = ""
    build(workspace, engine, recipe)
    assert len(engine.called("build")) == 1
    assert not engine.called("image rm")


def test_a_build_that_was_cut_short_is_made_again(
    workspace: Workspace, engine: FakeEngine, recipe: ImageRecipe
) -> None:
    engine.broken.append("build --tag")
    with pytest.raises(CommandFailed, match="A disk is full"):
        build(workspace, engine, recipe)
    assert not builder.is_built(engine, recipe)
    engine.broken.clear()
    build(workspace, engine, recipe)
    assert builder.is_built(engine, recipe)


@pytest.mark.parametrize("cut", ["save", "exec --interactive", "commit"])
def test_a_node_image_gets_its_name_last(engine: FakeEngine, tmp_path: Path, cut: str) -> None:
    engine.broken.append(cut)
    with pytest.raises(CommandFailed):
        nodeimage.bake(engine, "kailab/node-worker:abc", ["ai-app:v1"], "key", "/mark", tmp_path / "log")
    assert not engine.has_image("kailab/node-worker:abc-key")
    assert engine.calls[-2].startswith("rm --force --volumes kailab-makes-")  # the last one is has_image
    engine.broken.clear()
    assert nodeimage.bake(engine, "kailab/node-worker:abc", ["ai-app:v1"], "key", "/mark", tmp_path / "log")
    assert engine.has_image("kailab/node-worker:abc-key")
    before = len(engine.calls)
    nodeimage.bake(engine, "kailab/node-worker:abc", ["ai-app:v1"], "key", "/mark", tmp_path / "log")
    assert [call.split()[0] for call in engine.calls[before:]] == ["image"]


def test_what_a_killed_kailab_left_running_is_removed_first(engine: FakeEngine, tmp_path: Path) -> None:
    nodeimage.bake(engine, "kailab/node-worker:abc", ["ai-app:v1"], "key", "/mark", tmp_path / "log")
    removed, started = engine.calls[1:3]
    name = removed.split()[-1]
    assert removed == f"rm --force --volumes {name}"
    assert f"--name {name} " in started


def test_only_node_images_of_earlier_recipes_are_pruned(engine: FakeEngine) -> None:
    wanted = nodeimage.names()
    present = (wanted.worker, wanted.control_plane, f"{wanted.worker}-baked", nodeimage.PAUSE, "ai-app:v1", BASE)
    kept = set(map(full_name, present))
    old = {"docker.io/kailab/node-worker:old", "docker.io/kailab/node-control-plane:old-baked"}
    engine.images.update(dict.fromkeys(kept | old, ""))
    assert set(nodeimage.prune(engine)) == old
    assert set(engine.images) == kept


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S.123456789Z", "%Y-%m-%d %H:%M:%S.123456789 +0000 UTC"])
def test_node_images_that_another_checkout_has_just_made_are_not_pruned(engine: FakeEngine, form: str) -> None:
    fresh, old = "docker.io/kailab/node-worker:fresh", "docker.io/kailab/node-worker:old"
    engine.images.update({fresh: "", old: ""})
    engine.made.update({fresh: ago(hours=20, form=form), old: ago(hours=28, form=form)})
    assert nodeimage.prune(engine) == [old]
    engine.made[fresh] = ""  # that checkout has removed it in this moment
    assert nodeimage.prune(engine) == []


@pytest.mark.parametrize("left", ["999999999", "no-number"])
def test_programs_half_built_are_not_taken_for_built_and_are_cleared_away(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    folder = programs.folder_of(workspace, programs.PODROUTES)
    half = folder.with_suffix(f".{left}")
    half.mkdir(parents=True)
    (half / "podroutes").write_text("a part")
    asked: list[dict[str, str]] = []

    def install(command: list[str], *, env: dict[str, str], **_: Any) -> None:
        asked.append(env)
        Path(env["GOBIN"]).mkdir()
        (Path(env["GOBIN"]) / "podroutes").write_text("whole")

    monkeypatch.setattr(programs, "require_go", lambda: None)
    monkeypatch.setattr(programs, "run", install)
    for _ in range(2):
        assert programs.build(workspace, programs.PODROUTES, tmp_path / "log") == folder
    assert (folder / "podroutes").read_text() == "whole"
    assert len(asked) == 1
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_every_image_says_under_which_name_kailab_made_it(
    workspace: Workspace, engine: FakeEngine, recipe: ImageRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `distclean` would not know it from a student's own."""
    for module in (builder, nodeimage):
        monkeypatch.setattr(module, "ensure_mmdebstrap", lambda log: None)
        monkeypatch.setattr(module, "run", lambda command, **_: None)
    engine.images.clear()
    build(workspace, engine, recipe)
    nodeimage.debian_root(engine, "kailab/node-root:abc", ["bash"], "minbase", tmp_path / "log")
    nodeimage.bake(engine, "kailab/node-worker:abc", ["tiny:v1"], "key", "/mark", tmp_path / "log")
    made = [call for call in engine.calls if call.split()[0] in ("build", "import", "commit")]
    assert len(made) == len(engine.images) == 4
    for name in engine.images:
        assert sum(f"{IMAGE_LABEL}={name}" in call.split() for call in made) == 1


@pytest.mark.parametrize(("gibibytes", "cores", "env", "settings"), [
    (24, 2, {}, {"GOGC": "400"}),
    (8, 4, {}, {}),  # linkers of all cores at once would not fit
    (24, 2, {"GOGC": "50"}, {}),
])  # fmt: skip
def test_compilers_are_given_memory_where_there_is_enough(
    gibibytes: int, cores: int, env: dict[str, str], settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOGC", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    pages = {"SC_PHYS_PAGES": gibibytes * 2**18, "SC_PAGE_SIZE": 2**12}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert programs._collect_less() == settings
