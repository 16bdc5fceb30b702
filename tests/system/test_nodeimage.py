"""Nodes find their images unpacked, in what they share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.engine import Engine, full_name
from cluster.nodeimage import build
from cluster.nodes import CTR, states
from cluster.workspace import Workspace

pytestmark = pytest.mark.cluster

REMOVES = "kailab/test-removes:v1"
# As kind starts a node: the engine copies the image's /var into a volume.
NODE = ("run", "--detach", "--privileged", "--mount", "type=volume,destination=/var", "--entrypoint", "containerd")


def test_nodes_have_links_to_their_images_in_the_place_of_copies(engine: Engine, workspace: Workspace) -> None:
    for node in states(engine, workspace.cluster_name):
        told = engine.run("exec", node.container, "du", "--summarize", "--block-size=1M",
                          "/var/lib/containerd/io.containerd.content.v1.content", "/kind/store").stdout  # fmt: skip
        copied, shared = (int(line.split()[0]) for line in told.splitlines())
        assert copied < 10, "what was loaded since is small"
        assert shared > 300


@pytest.fixture
def removing(engine: Engine, tmp_path: Path) -> Iterator[str]:
    """A node image with an image that removes a file of the layer below."""
    (tmp_path / "Dockerfile").write_text(f"FROM {full_name(build.BUSYBOX)}\nRUN rm /bin/busybox && mkdir /kept\n")
    engine.build(REMOVES, tmp_path, log=tmp_path / "log", timeout=120)
    baked = f"{build.names().worker}-test"
    engine.run("image", "rm", "--force", full_name(baked), check=False)
    yield build.bake(engine, build.names().worker, [REMOVES, build.BUSYBOX], "test", "/kind/mark", tmp_path / "log")
    engine.run("image", "rm", "--force", full_name(baked), full_name(REMOVES))


def test_an_image_that_removes_files_stays_packed_and_works(engine: Engine, removing: str) -> None:
    container = engine.run(*NODE, full_name(removing)).stdout.strip()
    try:
        engine.run("exec", container, "timeout", "60", "sh", "-c", "until ctr version >/dev/null; do sleep 0.1; done")
        for name, present in ((build.BUSYBOX, True), (REMOVES, False)):
            at = f"/mnt/{present}"
            engine.run("exec", container, "mkdir", at)
            engine.run("exec", container, *CTR, "images", "mount", full_name(name), at)
            found = engine.run("exec", container, "ls", f"{at}/bin").stdout.split()
            assert ("busybox" in found) == present
            assert "ls" in found, "the other files are there"
    finally:
        engine.run("rm", "--force", "--volumes", container)
