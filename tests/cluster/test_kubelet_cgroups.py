"""What the kubelet finds in its node, with both versions of control groups."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cluster.nodeimage import build

SCRIPT = Path(build.__file__).parent / "node" / "kubelet-cgroups"


def test_with_control_groups_v2_it_gets_every_controller_of_its_node(tmp_path: Path) -> None:
    """Without hugetlb, which systemd doesn't pass on, it ends with "some missing controllers"."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    subprocess.run([SCRIPT, tmp_path], check=True)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpuset +cpu +io +memory +hugetlb +pids\n"


def test_with_v1_it_gets_a_group_in_systemds_hierarchy(tmp_path: Path) -> None:
    for _ in range(2):  # it starts again and again
        subprocess.run([SCRIPT, tmp_path], check=True)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path("systemd"), Path("systemd/kubelet")]
