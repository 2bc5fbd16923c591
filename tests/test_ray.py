"""Runs on Ray with real nodes, actors and processes: the same run as on one host, and one that survives the loss of whatever is not the trainer."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from rlvla3.config import RecipeError, make_recipe
from rlvla3.runtimes.ray.cluster import Node, stations
from tests.test_runtime import MARK, Run, countdown

pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvla3[ray]'")

PATIENCE_S = 120
TWO_NODES = """
    import sys
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    others = [cluster.add_node(num_cpus=2)]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "lose a node":
            cluster.remove_node(others.pop(), allow_graceful=False)
        elif line.strip() == "add a node":
            others.append(cluster.add_node(num_cpus=2))
        print("done", flush=True)
    cluster.shutdown()
"""


class TwoNodes:
    """A Ray cluster of two nodes on this machine, in a process of its own."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "RAY_AUTH_MODE": "disabled"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TWO_NODES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.address = self._answer()

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        self._answer()

    def stop(self) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.communicate(timeout=PATIENCE_S)
        for child in children:
            if child.is_running():
                child.kill()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().strip()
        assert answer, "the cluster ended by itself"
        return answer


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    cluster = TwoNodes()
    yield cluster
    cluster.stop()


def on(cluster: TwoNodes, **changes: Any) -> dict[str, Any]:
    return countdown(**changes) | {"runtime": "ray", "ray": {"address": cluster.address}}


def residents_processes(cluster: TwoNodes, name: str) -> list[psutil.Process]:
    """Processes of the cluster that are called `name`, or have a thread that is."""
    return [child for child in psutil.Process(cluster.process.pid).children(recursive=True) if name in _names(child)]


def _names(process: psutil.Process) -> set[str]:
    try:
        return {Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().strip() for thread in process.threads()}
    except (psutil.Error, OSError):
        return set()


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def until(condition: Callable[[], object], run: Run) -> None:
    run.until(condition)


def test_two_nodes_and_two_ranks_give_the_weights_of_one_host(cluster: TwoNodes, tmp_path: Path) -> None:
    deterministic: dict[str, Any] = {"engine": {"mode": "sync", "trace": True}, "training": {"deterministic": True}, "simulator": {"shards": 4}}
    local = Run(tmp_path / "local", countdown(**deterministic)).finished()
    deterministic["training"] |= {"ranks": 2, "sharding": "full"}
    ray = Run(tmp_path / "ray", on(cluster, **deterministic)).finished()
    assert ray.summary["tickets"] == local.summary["tickets"] == {"issued": 32, "trained": 32, "rerun": 0}
    names = "checkpoints/000004/policy/model.safetensors"
    ours, theirs = load_file(ray.folder / names), load_file(local.folder / names)
    for name, weights in theirs.items():
        np.testing.assert_allclose(ours[name], weights, atol=1e-6, err_msg=name)
    events = json.loads((ray.folder / "trace.json").read_text())["traceEvents"]
    assert [event["args"]["name"] for event in events if event["name"] == "process_name"] == ["run", "host 0", "host 1"]
    assert sorted(path.name for path in (ray.folder / "logs").iterdir()) == [
        *(f"host-{host}-{worker}.log" for host in range(2) for worker in ("generator-0", "shard-0", "shard-1"))
    ]


SLOW = {"simulator": {"shards": 4, "options": {"kwargs": {"step_s": 0.05}}}, "training": {"updates": 10}, "engine": {"generators": 2}}


def test_a_killed_simulator_a_killed_generator_and_a_lost_node_cost_reruns_and_nothing_else(cluster: TwoNodes, tmp_path: Path) -> None:
    run = Run(tmp_path, on(cluster, **SLOW))
    for updates, victim in ((1, "shard 0"), (3, "generator 0")):
        run.until(lambda: len(run.records("update")) >= updates and residents_processes(cluster, victim))  # noqa: B023  # called within this round
        residents_processes(cluster, victim)[0].send_signal(signal.SIGKILL)
    run.until(lambda: len(run.records("update")) >= 5)
    cluster.tell("lose a node")
    printed = run.wait()
    cluster.tell("add a node")
    assert run.process.returncode == 0, printed
    assert run.summary["tickets"]["trained"] == 80 and run.summary["tickets"]["rerun"] >= 3
    assert max(map(int, run.summary["staleness"])) <= 1


def test_a_killed_trainer_costs_what_came_after_its_last_checkpoint(cluster: TwoNodes, tmp_path: Path) -> None:
    run = Run(tmp_path, on(cluster, **{**SLOW, "training": {"updates": 8, "checkpoint_every": 2, "ranks": 2}}))
    run.until(lambda: len(run.records("update")) >= 5)
    residents_processes(cluster, "trainer 1")[0].send_signal(signal.SIGKILL)
    printed = run.wait()
    assert run.process.returncode == 0, printed
    assert re.search(r"was lost: the run goes on from checkpoint [24]", printed)
    assert run.records("update")[-1]["update"] == 8
    assert run.summary["tickets"]["trained"] == 64


def test_an_error_reaches_the_user_with_its_words(cluster: TwoNodes, tmp_path: Path) -> None:
    run = Run(tmp_path, on(cluster, simulator={"name": "tests.troublesome:NotANumber"}))
    printed = run.wait()
    assert run.process.returncode == 2
    assert "reward is nan" in printed


def test_a_cluster_of_its_own_is_gone_afterwards(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.process_iter() if "raylet" in _name(process) or "gcs_server" in _name(process)}
    run = Run(tmp_path, countdown(training={"updates": 2}) | {"runtime": "ray"}).finished()
    assert run.summary["tickets"]["trained"] == 16
    deadline = time.monotonic() + PATIENCE_S
    while {process.pid for process in psutil.process_iter() if "raylet" in _name(process) or "gcs_server" in _name(process)} - before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not [process for process in psutil.process_iter() if process.pid != os.getpid() and _marked(process)]


def _marked(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARK) == str(os.getpid())
    except psutil.Error:
        return False


# Who works where


def ray_recipe(**changes: Any) -> Any:
    return make_recipe({"simulator": {"shards": 8}, "runtime": "ray"} | changes)


@pytest.mark.parametrize(
    ("kind", "ratio", "gpus", "hosts", "trainers"),
    [
        ("colocated", "", 0, {0: ((0,), 2), 1: ((0,), 2), 2: ((0,), 2), 3: ((0,), 2)}, {0: (0,)}),
        ("disaggregated", "3:1", 0, {0: ((0,), 3), 1: ((0,), 3), 2: ((0,), 2)}, {3: (0,)}),
        ("disaggregated", "3:1", 4, dict.fromkeys(range(4), ((0, 1, 2), 2)), {0: (3,)}),
        ("separate", "2:1:1", 4, dict.fromkeys(range(4), ((2, 0, 1), 2)), {0: (3,)}),
        ("hybrid", "1:1", 2, dict.fromkeys(range(4), ((1, 0), 2)), {0: (0,)}),
    ],
)
def test_stages_are_dealt_to_nodes_as_the_placement_says(kind, ratio, gpus, hosts, trainers):
    dealt = stations(ray_recipe(placement={"kind": kind, "ratio": ratio}), [Node(gpus, 8)] * 4, ranks=1)
    assert {s.node: (s.devices, s.recipe.simulator.shards) for s in dealt if s.recipe} == hosts
    assert {s.node: s.trainer_devices for s in dealt if s.trainers} == trainers
    assert all(s.recipe.engine.generators >= 1 and not s.recipe.engine.record for s in dealt if s.recipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placement": {"kind": "hybrid", "ratio": "1:1"}}, "observations never leave their host"),
        ({"simulator": {"shards": 3}}, "shards=3 for 4 hosts"),
    ],
)
def test_what_cannot_be_dealt_is_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        stations(ray_recipe(**changes), [Node(0, 8)] * 4, ranks=1)
