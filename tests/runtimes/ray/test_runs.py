"""Runs on Ray with real nodes, actors and processes: the same run as on one host, and one that survives the loss of whatever is not the trainer."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.messages import Failed, Ready
from tests.support.repository import python_path
from tests.support.runs import MARK, Run, countdown

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvla3[ray]'")

from rlvla3.runtimes.ray.actor import ActorState, RemoteWorker, WorkerActor  # noqa: E402
from rlvla3.runtimes.ray.cluster import connect  # noqa: E402

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
        environment = os.environ | {"PYTHONPATH": python_path(), "RAY_AUTH_MODE": "disabled"}
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


@pytest.mark.slow
def test_two_nodes_and_two_ranks_give_the_weights_of_one_host(cluster: TwoNodes, tmp_path: Path) -> None:
    deterministic: dict[str, Any] = {"engine": {"mode": "sync", "trace": True}, "training": {"deterministic": True}, "simulator": {"shards": 4}}
    local = Run(tmp_path / "local", countdown(**deterministic)).finished()
    deterministic["training"] |= {"ranks": 2, "sharding": "full"}
    spread = Run(tmp_path / "ray", on(cluster, **deterministic)).finished()
    assert spread.summary["tickets"] == local.summary["tickets"] == {"issued": 32, "trained": 32, "rerun": 0, "set_aside": 0}
    names = "checkpoints/000004/policy/model.safetensors"
    ours, theirs = load_file(spread.folder / names), load_file(local.folder / names)
    for name, weights in theirs.items():
        np.testing.assert_allclose(ours[name], weights, atol=1e-6, err_msg=name)
    events = json.loads((spread.folder / "trace.json").read_text())["traceEvents"]
    assert [event["args"]["name"] for event in events if event["name"] == "process_name"] == ["run", "host 0", "host 1"]
    lanes = {(event["pid"], event["tid"]): (event["pid"], event["args"]["name"]) for event in events if event["name"] == "thread_name"}
    stages = {lane: {event["name"] for event in events if event["ph"] == "X" and lanes[event["pid"], event["tid"]] == lane} for lane in lanes.values()}
    assert {"train", "publish", "waits for ranks"} <= stages[1, "trainer"]
    assert {"send", "waits for version"} <= stages[1, "weights"]
    assert all({"receive", "waits for version"} <= stages[host, "weights"] for host in (2, 3))
    assert sorted(path.name for path in (spread.folder / "logs").iterdir()) == [
        *(f"host-{host}-{worker}.log" for host in range(2) for worker in ("generator-0", "shard-0", "shard-1"))
    ]


SLOW = {"simulator": {"shards": 4, "options": {"kwargs": {"step_s": 0.05}}}, "training": {"updates": 10}, "engine": {"generators": 2}}


@pytest.mark.slow
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
    assert run.summary["tickets"]["trained"] == 80 and run.summary["tickets"]["rerun"] >= 2
    assert any("the generator 0 was lost: it was killed (SIGKILL)" in notice for notice in run.summary["notices"])
    assert max(map(int, run.summary["staleness"])) <= 1


@pytest.mark.thorough
@pytest.mark.slow
def test_an_answer_of_the_policy_that_is_wrong_ends_the_run_and_not_its_host(cluster: TwoNodes, tmp_path: Path) -> None:
    run = Run(tmp_path, on(cluster, policy={"name": "tests.support.failing_policy:ActsWithoutNumbers", "options": {}}))
    printed = " ".join(run.wait().split())
    assert run.process.returncode == 2 and "Traceback" not in printed
    assert "returned actions with nan" in printed and "was lost" not in printed


@pytest.mark.thorough
@pytest.mark.slow
def test_every_host_finds_its_own_number_of_generators_and_loses_nothing(cluster: TwoNodes, tmp_path: Path) -> None:
    """All infer on one device, so that shards wait. T_max is infinite: one count that is wrong on a host, and nobody there goes on."""
    policy = {"name": "tests.support.slow_policy:SlowActorCritic", "chunk": 1}
    engine = {"generators": 4, "max_batch": None, "max_wait_ms": None, "max_staleness": 4, "elastic": {"least": 1, "every_s": 1.0}}
    simulator = {"shards": 4, "options": {"kwargs": {"length": 12}}, "max_steps": 12}
    run = Run(tmp_path, on(cluster, simulator=simulator, policy=policy, training={"updates": 8, "epochs": 1}, engine=engine))
    run.until(lambda: len(run.records("update")) >= 2 and residents_processes(cluster, "shard 1"))
    residents_processes(cluster, "shard 1")[0].send_signal(signal.SIGKILL)
    summary = run.finished().summary
    assert summary["tickets"]["trained"] == 64 and summary["tickets"]["rerun"] >= 1
    for host in ("host 0", "host 1"):
        assert any(f"{host}: 2 generators of 2 active: 1 shard change their generator" in notice for notice in summary["notices"]), summary["notices"]


@pytest.mark.slow
def test_versions_are_evaluated_beside_training_on_both_nodes_though_a_simulator_is_killed(cluster: TwoNodes, tmp_path: Path) -> None:
    run = Run(tmp_path, on(cluster, **{**SLOW, "evaluation": {"every": 2, "episodes": 8}}))
    run.until(lambda: len(run.records("update")) >= 3 and residents_processes(cluster, "shard 1"))
    residents_processes(cluster, "shard 1")[0].send_signal(signal.SIGKILL)
    run.finished()
    evaluations = [line for line in run.records("evaluation") if line["when"] == "during"]
    assert {2} <= {line["version"] for line in evaluations} <= {2, 4, 6, 8, 10}
    assert [line["episodes"] for line in evaluations] == [8] * len(evaluations)
    assert run.summary["tickets"]["trained"] == 80 and max(map(int, run.summary["staleness"])) <= 1
    assert (run.folder / "checkpoints" / "best" / "policy" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_killed_trainer_costs_what_came_after_its_last_checkpoint(cluster: TwoNodes, tmp_path: Path) -> None:
    run = Run(tmp_path, on(cluster, **{**SLOW, "training": {"updates": 24, "checkpoint_every": 2, "ranks": 2}}))
    run.until(lambda: len(run.records("update")) >= 3 and any((run.folder / "checkpoints").glob("[0-9]*")))  # it is written while training goes on
    residents_processes(cluster, "trainer 1")[0].send_signal(signal.SIGKILL)
    printed = run.wait()
    assert run.process.returncode == 0, printed
    assert re.search(r"was lost\. The run goes on from checkpoint \d", printed)
    told = [notice["text"] for notice in run.records("notice") if "still being built" not in notice["text"]]
    assert not any("host" in text for text in told), told  # that an episode could not be brought to the trainer is no host's fault
    assert run.records("update")[-1]["update"] == 24
    assert run.summary["tickets"]["trained"] == 192


async def say_ready(control: Control, shelf: ActorState) -> None:
    """A body."""
    control.send(Ready())
    await asyncio.Event().wait()


@pytest.mark.slow
def test_an_actor_that_was_taken_for_lost_and_is_not_begins_anew(cluster: TwoNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would go on with tickets that are others' by now, and never be ready again."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

    async def lose_sight() -> list[bool]:
        heard, again = list[bool](), asyncio.Event()
        actor = ray.remote(WorkerActor).options(num_cpus=0, max_restarts=1).remote("body", "tests.runtimes.ray.test_runs:say_ready")

        def on_lost(comes_back: bool) -> None:
            heard.append(comes_back)
            worker.reconnect()
            worker.handle(Ready, lambda _: again.set())

        worker = RemoteWorker("body", actor, on_lost)
        try:
            async with asyncio.timeout(PATIENCE_S):
                assert isinstance(await worker.receive(), Ready)
                worker.reconnect()
                await again.wait()
        finally:
            worker.close()
            worker.kill()
        return heard

    connect(cluster.address)
    try:
        assert set(asyncio.run(lose_sight())) == {True}  # Ray may say it twice, while it starts the actor again
    finally:
        ray.shutdown()


async def fail(control: Control, shelf: ActorState) -> None:
    """A body."""
    raise ValueError("no more")


@pytest.mark.slow
def test_the_loss_of_an_actor_whose_body_has_ended_is_heard_of(cluster: TwoNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose generator dies fails first and is killed then, and its tickets wait for the news."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

    async def lose() -> bool:
        actor = ray.remote(WorkerActor).options(num_cpus=0, max_restarts=1).remote("body", "tests.runtimes.ray.test_runs:fail")
        lost: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        worker = RemoteWorker("body", actor, lost.set_result)
        try:
            async with asyncio.timeout(PATIENCE_S):
                assert isinstance(await worker.receive(), Failed)
                await worker._ended.wait()
                ray.kill(actor, no_restart=False)
                return await lost
        finally:
            worker.close()
            worker.kill()

    connect(cluster.address)
    try:
        assert asyncio.run(lose())
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_an_error_reaches_the_user_with_its_words(cluster: TwoNodes, tmp_path: Path) -> None:
    run = Run(tmp_path, on(cluster, simulator={"name": "tests.support.troublesome:NotANumber"}))
    printed = run.wait()
    assert run.process.returncode == 2
    assert "NaN in rewards" in printed


@pytest.mark.slow
def test_a_cluster_of_its_own_is_gone_afterwards(tmp_path: Path) -> None:
    run = Run(tmp_path, countdown(training={"updates": 2}) | {"runtime": "ray"})
    run.until(lambda: any("raylet" in name for name in _of_this_session()))
    assert run.finished().summary["tickets"]["trained"] == 16
    deadline = time.monotonic() + PATIENCE_S
    while left := _of_this_session():
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def _of_this_session() -> list[str]:
    """The names of processes that runs of this session's tests, and nobody else's, have started."""
    return [_name(process) for process in psutil.process_iter() if process.pid != os.getpid() and _marked(process)]


def _marked(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARK) == str(os.getpid())
    except psutil.Error:
        return False


HUNG = {"notice_s": 3, "answer_timeout_s": 8, "stage_timeout_s": 8, "build_timeout_s": 120}


@pytest.mark.thorough
@pytest.mark.slow
def test_a_stopped_host_and_a_stopped_trainer_are_told_of_and_replaced(cluster: TwoNodes, tmp_path: Path) -> None:
    run = Run(tmp_path, on(cluster, **{**SLOW, "training": {"updates": 24, "checkpoint_every": 2}}, supervision=HUNG))
    for updates, victim in ((2, "host 1"), (6, "trainer")):
        run.until(lambda: any(record["update"] >= updates for record in run.records("update")) and residents_processes(cluster, victim))  # noqa: B023
        residents_processes(cluster, victim)[0].send_signal(signal.SIGSTOP)
        run.until(lambda: any(f"{victim} was lost" in record["text"] for record in run.records("notice")))  # noqa: B023
    printed = run.wait()
    assert run.process.returncode == 0, printed
    for victim in ("host 1", "trainer"):
        said = [notice for notice in run.summary["notices"] if victim in notice]
        assert any("has not been heard of for" in notice and "is killed after" in notice for notice in said), said
        assert any("was lost" in notice and "supervision.answer_timeout_s=8" in notice for notice in said), said
    assert run.records("update")[-1]["update"] == 24


ENDS_LATER = """
    import os, signal, sys, threading, time
    from rlvla3.runtimes.ray.cluster import connect

    heard = []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    if sys.argv[2] == "in a thread":
        thread = threading.Thread(target=connect, args=(sys.argv[1],))
        thread.start()
        thread.join()
    else:
        connect(sys.argv[1])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    os.write(1, f"heard {len(heard)}".encode())
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in a thread", "in the main thread"])
def test_a_process_that_is_connected_to_ray_has_all_the_time_it_needs_after_an_interrupt(cluster: Any, where: str) -> None:
    """Ray's own handler of SIGTERM ends the process with SIGABRT after 3 s."""
    command = [sys.executable, "-c", textwrap.dedent(ENDS_LATER), cluster.address, where]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ | {"PYTHONPATH": python_path(), "RAY_AUTH_MODE": "disabled"}, check=False
    )
    assert (done.returncode, done.stdout[-7:]) == (0, "heard 1"), done.stderr
