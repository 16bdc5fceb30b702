"""Nodes are told by their containers' states, in the same words from every engine."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster import nodes
from cluster.engine import Engine
from cluster.run import CommandFailed
from cluster.topology import NODES, container_name

CLUSTER = "kailab-123456"


@dataclass(frozen=True)
class FakeEngine(Engine):
    """Containers with their states; `slash` is what Docker puts before a name when it is asked about one."""

    containers: dict[str, str] = field(default_factory=dict)
    slash: str = "/"
    calls: list[list[str]] = field(default_factory=list)
    # Of which containers hold frozen processes, so that they can't end; and which were killed all the same.
    frozen: set[str] = field(default_factory=set)
    killed: set[str] = field(default_factory=set)

    def run(self, *args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        words = list(map(str, args))
        self.calls.append(words)
        lines = []
        if words[0] == "ps":
            lines = list(self.containers)
        if words[:2] == ["container", "inspect"]:
            assert words[4:], "`inspect` of nothing is an error"
            told = {
                "{{.Name}}": lambda name: f"{self.slash}{name}\t{self.containers[name]}",
                "{{.Id}} {": lambda name: f"id-of-{name} image",
                "{{.State.": lambda name: str(self.containers[name] == "running").lower(),
            }[words[3][:9]]
            lines = [told(name) for name in words[4:]]
        if words[0] == "run":  # the program that thaws
            for name in [word.removeprefix("id-of-") for word in words if word.startswith("id-of-")]:
                self.frozen.discard(name)
                self.containers[name] = "exited"
        cannot = {"exec": self.killed, "start": self.frozen, "restart": self.frozen, "rm": self.frozen}
        failed = not cannot.get(words[0], set()).isdisjoint(words)
        if failed and options.get("check", True):
            raise CommandFailed(words, "did not end", "")
        if words[0] == "rm" and not failed:
            for name in set(words) & set(self.containers):
                del self.containers[name]
        return subprocess.CompletedProcess(words, int(failed), "\n".join(lines), "")


@pytest.mark.parametrize(("program", "slash"), [("docker", "/"), ("podman", "")])
def test_states_are_the_engines_own_words(program: str, slash: str) -> None:
    words = ("running", "exited", "paused", "created")
    containers = {container_name(CLUSTER, node): word for node, word in zip(NODES, words, strict=False)}
    found = nodes.states(FakeEngine(program, "5", containers=containers, slash=slash), CLUSTER)
    assert [state.state for state in found] == [*words, "absent"]
    assert [state.node for state in found] == list(NODES)


def test_paused_nodes_go_on_and_stopped_ones_start_the_control_plane_first(tmp_path: Path) -> None:
    containers = dict.fromkeys((container_name(CLUSTER, node) for node in NODES), "exited")
    containers[container_name(CLUSTER, NODES[1])] = "paused"
    engine = FakeEngine("podman", "5", containers=containers, slash="")
    nodes.start(engine, nodes.states(engine, CLUSTER)[::-1], tmp_path / "log")
    done = [call for call in engine.calls if call[0] in ("start", "unpause")]
    assert done[0] == ["start", container_name(CLUSTER, NODES[0])]
    assert ["unpause", container_name(CLUSTER, NODES[1])] in done


@pytest.fixture
def half_dead() -> FakeEngine:
    """Two nodes run; one of them was killed and can't end."""
    one, two = (container_name(CLUSTER, node) for node in NODES[:2])
    return FakeEngine("docker", "28", containers={one: "running", two: "running"}, frozen={two}, killed={two})


def test_a_node_in_which_nothing_starts_is_dead_whatever_the_engine_says(half_dead: FakeEngine) -> None:
    assert [node.node for node in nodes.dead(half_dead, nodes.states(half_dead, CLUSTER))] == [NODES[1]]
    assert {call[1] for call in half_dead.calls if call[0] == "exec"} == set(half_dead.containers)


def test_what_is_frozen_in_a_dead_node_is_let_go_until_the_engine_sees_it_end(
    half_dead: FakeEngine, tmp_path: Path
) -> None:
    nodes.let_end(half_dead, list(half_dead.killed), tmp_path / "log")
    assert [state.state for state in nodes.states(half_dead, CLUSTER)][:2] == ["running", "exited"]


def test_a_node_that_freezes_while_it_restarts_starts_all_the_same(tmp_path: Path) -> None:
    engine = FakeEngine("docker", "28", containers={"a": "running"}, frozen={"a"})
    nodes.restart_anew(engine, ["a"], tmp_path / "log")
    assert engine.calls[-1] == ["start", "a"]
    assert not engine.frozen


def test_a_killed_node_starts_that_podman_calls_exited_while_it_is_frozen(tmp_path: Path) -> None:
    name = container_name(CLUSTER, NODES[1])
    engine = FakeEngine("podman", "5", containers={name: "exited"}, slash="", frozen={name})
    nodes.start(engine, [nodes.NodeState(NODES[1], name, "exited")], tmp_path / "log")
    assert engine.calls[-1] == ["start", name]
    assert not engine.frozen


def test_frozen_nodes_are_removed_too(half_dead: FakeEngine, tmp_path: Path) -> None:
    assert len(nodes.remove(half_dead, CLUSTER, tmp_path / "log")) == 2
    assert not half_dead.containers


@pytest.mark.parametrize(("program", "slash"), [("docker", "/"), ("podman", "")])
def test_a_container_runs_since_then_whatever_the_engines_zone_and_digits(program: str, slash: str) -> None:
    said = ['"2026-11-27T10:00:05.123456789Z"', '"2026-11-27T11:00:05.12+01:00"', '"2026-11-27T10:00:05Z"']
    containers = {container_name(CLUSTER, node): said[at % 3] for at, node in enumerate(NODES)}
    found = nodes.started(FakeEngine(program, "5", containers=containers, slash=slash), CLUSTER)
    assert list(found) == [node.name for node in NODES]
    assert {at.replace(microsecond=0) for at in found.values()} == {datetime(2026, 11, 27, 10, 0, 5, tzinfo=UTC)}


def test_without_containers_every_node_is_absent() -> None:
    engine = FakeEngine("docker", "28", containers={})
    assert {state.state for state in nodes.states(engine, CLUSTER)} == {"absent"}


def test_a_node_that_is_to_register_anew_forgets_its_range_of_addresses_first(tmp_path: Path) -> None:
    engine = FakeEngine("docker", "28")
    nodes.restart_anew(engine, ["a", "b"], tmp_path / "log")
    forget = ["rm", "-f", nodes.POD_NETWORK]
    assert engine.calls == [["exec", "a", *forget], ["restart", "a"], ["exec", "b", *forget], ["restart", "b"]]


@pytest.mark.parametrize("program", ["docker", "podman"])
def test_the_clusters_in_an_engine_are_told_once_each(program: str) -> None:
    engine = FakeEngine(program, "5", containers=dict.fromkeys(["kailab-1", "kailab-1 ", "kind"], "running"))
    assert nodes.clusters(engine) == {"kailab-1", "kind"}
    assert nodes.KIND_LABEL in engine.calls[0][-1]
