"""Runs whose rollout and training have their devices in turn: nobody enters before the other has left."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlvla3.config import make_recipe
from rlvla3.errors import RecipeError
from rlvla3.policies.actor_critic import ActorCritic
from rlvla3.runtimes.processes.messages import LeaveDevice, LeftDevice
from rlvla3.runtimes.processes.roll_call import RollCall
from tests.support.runs import Run, countdown
from tests.support.tensors import size_of

pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")


class Watched(ActorCritic):
    """Whenever it computes, it asks the workers on the other side how many bytes of their policies are on their devices. They answer from a thread.

    WATCH: the folder of everybody's sockets, where what was answered is written down.
    """

    side = ""

    def act(self, observations, noise, explore):
        self._be_at("rollout", "training")
        return super().act(observations, noise, explore)

    def evaluate(self, observations, actions, trace):
        self._be_at("training", "rollout")
        return super().evaluate(observations, actions, trace)

    def _be_at(self, here: str, there: str) -> None:
        folder = Path(os.environ["WATCH"])
        if not self.side:
            self.side = here
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(folder / f"{here}-{os.getpid()}"))
            listener.listen()
            threading.Thread(target=self._answer, args=(listener,), daemon=True).start()
        for address in folder.glob(f"{there}-*"):
            with socket.socket(socket.AF_UNIX) as asked, (folder / f"{here}.seen").open("a") as seen:
                asked.connect(str(address))
                seen.write(asked.recv(32).decode() + "\n")

    def _answer(self, listener: socket.socket) -> None:
        while True:
            asking, _ = listener.accept()
            with asking:
                asking.send(str(size_of(self.parameters())).encode())


def begin(folder: Path, monkeypatch: pytest.MonkeyPatch, *, offload: bool, **changes: Any) -> Run:
    """A watched run of two shards, and of four updates of which the second is kept."""
    watch = folder / "watch"
    watch.mkdir(parents=True)
    monkeypatch.setenv("WATCH", str(watch))
    settings: dict[str, Any] = {"simulator": {"shards": 2}, "training": {"checkpoint_every": 2}, "engine": {"mode": "sync", "offload": offload}}
    for section, changed in changes.items():
        settings[section] = settings.get(section, {}) | changed
    return Run(folder, countdown(policy={"name": "tests.runtimes.test_offload:Watched"}, algorithm={"reference": {"weight": 0.1}}, **settings))


def seen_from(run: Run, side: str) -> set[int]:
    """Bytes that the other side was seen to hold."""
    return set(map(int, (run.folder.parent / "watch" / f"{side}.seen").read_text().split()))


@pytest.mark.slow
def test_a_run_in_turn_comes_to_the_same_weights_and_its_sides_never_meet(tmp_path: Path, nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through evaluations and checkpoints, each in its turn."""
    evaluation = {"episodes": 3, "before": True, "after": True}
    staying = begin(tmp_path / "staying", monkeypatch, offload=False, evaluation=evaluation)
    turning = begin(tmp_path / "turning", monkeypatch, offload=True, evaluation=evaluation).finished()
    staying.finished()
    for version in (2, 4):
        assert turning.weights(version) == staying.weights(version)
    for side in ("rollout", "training"):
        assert seen_from(turning, side) == {0} and min(seen_from(staying, side)) > 0
    times = {worker["name"]: worker for worker in turning.summary["workers"]}
    assert [name for name, worker in times.items() if worker["busy"].get("offload", 0) > 0] == ["generator 0", "trainer"]
    assert all(sum(worker["busy"].values()) + sum(worker["idle"].values()) == pytest.approx(1) for worker in times.values())
    assert not any("offload" in worker["busy"] for worker in staying.summary["workers"])


@pytest.mark.slow
def test_two_ranks_with_shards_take_turns_with_rollout_and_survive_a_killed_simulator(
    tmp_path: Path, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {"options": {"kwargs": {"step_s": 0.02}}}
    run = begin(tmp_path, monkeypatch, offload=True, simulator=slow, training={"ranks": 2, "sharding": "full"})
    run.until(lambda: run.records("update") and run.workers("shard 1"))
    run.workers("shard 1")[0].send_signal(signal.SIGKILL)
    summary = run.finished().summary
    assert summary["tickets"]["trained"] == 32 and summary["tickets"]["rerun"] >= 1
    assert seen_from(run, "training") == seen_from(run, "rollout") == {0}
    assert {worker["name"] for worker in summary["workers"] if "offload" in worker["busy"]} == {"generator 0", "trainer", "trainer 1"}


def test_a_roll_call_ends_once_with_the_last_answer() -> None:
    called: list[str] = []
    call = RollCall(["a", "b"], lambda: called.append("then"))
    for name in ("a", "a", "stranger"):
        call.answered(name)
        assert not called
    for _ in range(2):
        call.answered("b")
    assert called == ["then"]
    RollCall((), lambda: called.append("at once"))
    assert called == ["then", "at once"]


def test_a_lost_host_is_not_waited_for() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvla3[ray]'")
    from rlvla3.runtimes.ray.cluster_supervisor import ClusterSupervisor, SupervisedHost

    news: list[str] = []
    told: list[tuple[int, Any]] = []
    handlers: dict[tuple[int, type], Callable[[Any], None]] = {}

    def silent(number: int) -> Any:
        """A host that says nothing by itself."""
        tell, handle = lambda message: told.append((number, message)), lambda kind, handler: handlers.update({(number, kind): handler})
        return SimpleNamespace(control=SimpleNamespace(send=tell, handle=handle), reconnect=lambda: None, killed="")

    def nothing(*_: Any) -> Any:
        """Nobody needs it here."""

    hosts = ClusterSupervisor(nothing, lambda: 0, pinned=nothing, notify=news.append, fail=lambda error: news.append(str(error)), keep=nothing, report=nothing)
    hosts.hosts = [SupervisedHost(number, make_recipe({}), silent(number), ready=number < 2) for number in range(3)]
    hosts._started = True
    for host in hosts.hosts:
        hosts._watch(host)
    hosts.free_devices(then=lambda: news.append("the devices are free"))
    assert told == [(0, LeaveDevice()), (1, LeaveDevice())]
    handlers[0, LeftDevice](LeftDevice())
    assert not news
    hosts._on_lost(1, True)
    assert news[-1] == "the devices are free" and len(news) == 2


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"engine": {"offload": True}}, r"engine\.mode=full_async \(max_staleness=1, streaming=true\) they work at the same time: set engine\.max_staleness=0"),
        ({"engine": {"offload": True, "mode": "train_async"}}, r"max_staleness=1, streaming=false"),
        ({"engine": {"offload": True, "mode": "sync", "streaming": True}}, r"max_staleness=0, streaming=true"),
        ({"engine": {"offload": True, "mode": "sync"}, "weights": {"on_host": "cuda_ipc"}}, r"set weights\.on_host=shared_memory"),
        (
            {"engine": {"offload": True, "mode": "sync"}, "memory": {"trainer": 0.8, "generator": 0.5, "simulator": 0.3}},
            r"memory\.trainer=0\.8, memory\.simulator=0\.3 are 1\.1",
        ),
        ({"engine": {"mode": "sync"}, "memory": {"trainer": 0.7, "generator": 0.7}}, r"are 1\.4"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        make_recipe(changes)
    make_recipe({"engine": {"offload": True, "mode": "sync"}, "memory": {"trainer": 0.7, "generator": 0.7, "simulator": 0.3}})  # in no phase more than 1
