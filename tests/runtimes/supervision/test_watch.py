"""The watch on a clock of the test: whoever is late in any stage is told of and then killed, and nobody else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.config import SimulatorConfig
from rlvla3.config.supervision import SupervisionConfig
from rlvla3.observability.meter import STAGES, MeterBoard
from rlvla3.runtimes.processes.control import Stopped
from rlvla3.runtimes.processes.messages import Ping, Pong
from rlvla3.runtimes.supervision.limits import ANSWERING, RANKS_S, StageLimits
from rlvla3.runtimes.supervision.watch import Watch

SETTINGS = SupervisionConfig(notice_s=15, answer_timeout_s=60, stage_timeout_s=120, build_timeout_s=600)
SIMULATOR = SimulatorConfig(timeout_s=50, build_timeout_s=400)
WORKERS = ["shard 0", "shard 1", "generator 0", "trainer"]


class Channel:
    """The control channel of a worker. answers: whether the worker answers. hear: called with what is sent."""

    def __init__(self) -> None:
        self.answers = True
        self.hear: Callable[[Any], None] = lambda _: None
        self._handlers: dict[type, Callable[[Any], None]] = {}

    def send(self, message: Any) -> None:
        self.hear(message)
        if self.answers:
            self._handlers[Pong](Pong(message.number))

    def handle(self, kind: type, handler: Callable[[Any], None]) -> None:
        self._handlers[kind] = handler


class Worker:
    def __init__(self, name: str, pid: int | None = None) -> None:
        self.name, self.pid, self.control, self.killed = name, pid, Channel(), ""
        self.heard: float | None = None

    def kill(self, why: str) -> None:
        self.killed = why


class World:
    """Workers on a board, on a clock that the test moves."""

    def __init__(self, pid: int | None = None) -> None:
        self.now, self.said, self.failed = 1000.0, list[str](), list[Exception]()
        self.board = MeterBoard(WORKERS, lambda: self.now)
        self.watch = Watch(self.board, SETTINGS, self.said.append, self.failed.append, lambda: self.now)
        self.workers = {name: Worker(name, pid) for name in WORKERS}
        self.limits = {"shard": StageLimits(SETTINGS, SIMULATOR), "generator": StageLimits(SETTINGS), "trainer": StageLimits(SETTINGS)}
        for name, worker in self.workers.items():
            self.watch.add(worker, self.limits[name.partition(" ")[0]])
            self.enter(name, "overhead")
        for name, stage in zip(WORKERS, ("ticket", "ticket", "requests", "command"), strict=True):
            self.enter(name, stage)

    def enter(self, name: str, stage: str) -> None:
        self.board.meter(name).enter(stage)

    def live(self, name: str, seconds: float, stage: str) -> None:
        """Spend so long in a stage, with a look every second."""
        self.enter(name, stage)
        self.wait(seconds)

    def wait(self, seconds: float, looks_every: float = 1.0) -> None:
        for _ in range(round(seconds / looks_every)):
            self.now += looks_every
            self.watch.look()

    @property
    def killed(self) -> dict[str, str]:
        return {name: worker.killed for name, worker in self.workers.items() if worker.killed}


def test_a_worker_that_waits_and_answers_waits_as_long_as_it_likes() -> None:
    world = World()
    world.wait(100_000, looks_every=2.0)
    assert not world.said
    assert not world.killed


@pytest.mark.parametrize("name", WORKERS)
@pytest.mark.parametrize("stage", [stage for stage in ANSWERING if stage in STAGES])
def test_a_worker_that_waits_and_does_not_answer_is_told_of_and_killed(name: str, stage: str) -> None:
    world = World()
    world.enter(name, stage)
    world.wait(100)
    assert not world.said
    world.workers[name].control.answers = False
    world.wait(22)
    (said,) = world.said
    assert f"{name} waits for" in said
    assert "has not answered for 1" in said
    assert "supervision.answer_timeout_s=60" in said
    assert not world.killed
    world.wait(50)
    assert list(world.killed) == [name]
    assert "supervision.answer_timeout_s=60 is the limit" in world.killed[name]


BUSY_OF = {
    "shard 0": ("start", "reset", "simulate", "overhead"),
    "generator 0": ("start", "infer", "load_weights", "offload", "overhead"),
    "trainer": ("start", "train", "fit_critic", "publish", "publication", "clone", "checkpoint", "offload", "overhead", "ranks"),
}


@pytest.mark.parametrize(("name", "stage"), [(name, stage) for name, stages in BUSY_OF.items() for stage in stages])
def test_a_worker_that_stays_in_any_stage_is_told_of_and_killed(name: str, stage: str) -> None:
    world = World()
    world.enter(name, stage)
    world.wait(62)
    assert any(name in said or "simulator" in said for said in world.said) or world.killed
    world.wait(RANKS_S)
    assert list(world.killed) == [name]
    if stage != "ranks":
        assert "timeout_s=" in world.killed[name]


def test_what_was_done_before_has_the_shorter_limit_and_the_first_time_the_longer_one() -> None:
    world = World()
    world.live("generator 0", 300, "infer")  # the first time: it compiles
    world.enter("generator 0", "requests")
    for _ in range(3):
        world.enter("trainer", "train")
        world.now += 0.01  # too short for any look to see it
        world.enter("trainer", "trajectories")
    assert not world.killed
    world.live("trainer", 130, "train")
    assert list(world.killed) == ["trainer"]
    assert "supervision.stage_timeout_s=120" in world.killed["trainer"]


def test_a_worker_may_take_ten_times_its_longest() -> None:
    world = World()
    world.live("trainer", 40, "train")
    world.enter("trainer", "trajectories")
    world.wait(2)
    world.live("trainer", 380, "train")
    assert not world.killed
    world.wait(40)
    assert "10 times its longest time" in world.killed["trainer"]


def test_a_replacement_has_its_first_times_again() -> None:
    world = World()
    world.live("generator 0", 2, "infer")
    world.enter("generator 0", "requests")
    world.board.restart("generator 0")
    world.watch.add(world.workers["generator 0"], StageLimits(SETTINGS))
    world.live("generator 0", 200, "infer")
    assert not world.killed


def test_the_message_names_who_what_and_who_waits() -> None:
    world = World()
    world.live("generator 0", 1, "infer")
    world.enter("generator 0", "requests")
    world.wait(1)
    world.enter("shard 0", "decision")
    world.enter("shard 1", "decision")
    world.live("generator 0", 16, "infer")
    (said,) = world.said
    assert said.startswith("generator 0 has taken 16 s for one inference (1 s at most before). 2 shards wait for a decision. It is killed after 2 min")
    world.enter("generator 0", "requests")
    world.wait(1)
    assert world.said[1:] == ["generator 0 goes on"]


def test_while_everything_stood_still_nobody_was_late() -> None:
    world = World()
    world.enter("shard 0", "simulate")
    world.workers["trainer"].control.answers = False
    world.wait(12)
    world.now += 5000  # Ctrl-Z
    world.watch.look()
    world.wait(10)
    assert not world.said
    assert not world.killed


def test_who_is_still_built_is_said_in_one_sentence() -> None:
    world = World()
    for name in ("shard 0", "shard 1", "trainer"):
        world.board.restart(name)
    world.wait(31)
    assert world.said == ["2 of 2 simulators and trainer are still being built, for 30 s; simulator.build_timeout_s=400 is the limit"]


@contextmanager
def sleeping_process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_process_is_named_with_the_way_to_let_it_go_on(stage: str) -> None:
    with sleeping_process() as process:
        world = World(process.pid)
        world.watch.drop("shard 0")
        world.watch.drop("shard 1")
        world.watch.drop("generator 0")
        world.enter("trainer", stage)
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        world.wait(23)
        if stage != "start":
            assert f"`kill -CONT {process.pid}` lets it go on" in world.said[0]
        world.wait(50)
        assert f"it was stopped for 1 min 01 s by a signal that something sent to its process {process.pid} and was killed" in world.killed["trainer"]


def test_lanes_of_one_process_are_killed_together_and_no_lane_seems_to_go_on() -> None:
    with sleeping_process() as process:
        world = World()
        world.workers["trainer"].pid = world.workers["generator 0"].pid = process.pid
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        world.wait(67)
        assert len(world.killed) == 1
        os.kill(process.pid, signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED | os.WNOWAIT)
        world.wait(100)
        assert len(world.said) == 2 and all("is stopped" in said for said in world.said)


@given(st.lists(st.tuples(st.sampled_from(WORKERS), st.sampled_from(STAGES), st.floats(0.1, 110)), max_size=40))
def test_whoever_changes_its_stage_in_time_is_never_killed(changes: list[tuple[str, str, float]]) -> None:
    world = World()
    last = dict.fromkeys(WORKERS, world.now)
    for name, stage, seconds in changes:
        for other in WORKERS:
            if other != name and world.now + seconds - last[other] > 45:
                world.enter(other, "command")
                last[other] = world.now
        world.enter(name, stage)
        last[name] = world.now
        world.wait(min(seconds, 45), 0.5)
    assert not world.killed


def test_ping_is_only_for_those_who_wait_for_long() -> None:
    world, sent = World(), list[Any]()
    world.workers["shard 0"].control.hear = sent.append
    for _ in range(100):
        world.enter("shard 0", "ticket")
        world.wait(1)
        world.enter("shard 0", "simulate")
    assert not sent
    world.live("shard 0", 6, "ticket")
    assert sent == [Ping(1)]


@pytest.mark.parametrize("stage", STAGES)
def test_an_actor_that_is_not_heard_of_is_told_of_and_killed_in_any_stage(stage: str) -> None:
    world = World()
    for second in range(100):
        world.workers["trainer"].heard = world.now
        world.enter("trainer", STAGES[second % len(STAGES)])
        world.wait(1)
    assert not world.said
    world.enter("trainer", stage)
    world.wait(16)
    assert "trainer has not been heard of for 1" in world.said[0]
    world.wait(60)
    assert "supervision.answer_timeout_s=60" in world.killed["trainer"]


def test_a_host_is_built_and_then_answers() -> None:
    world = World()
    host = Worker("host 0")
    world.watch.add(host, StageLimits(SETTINGS))
    world.wait(500)
    assert len(world.said) == 4  # after 30 s, and then more and more rarely
    assert all("host 0 is still being built" in said for said in world.said)
    world.watch.built("host 0")
    world.wait(10_000)
    assert not host.killed
    host.control.answers = False
    world.wait(80)
    assert "it serves its workers and has not answered for 1 min" in host.killed


def test_a_run_in_which_nobody_works_ends_and_says_who_waits_for_what() -> None:
    world = World()
    world.wait(1000)
    assert not world.failed  # nobody needs another worker: the coordinator may be busy with something of its own
    world.enter("shard 0", "decision")
    world.wait(239)
    assert not world.failed
    world.wait(3)
    (error,) = world.failed
    assert "1 shard waits for a decision and 1 shard waits for a ticket and 1 generator waits for requests and 1 trainer waits for a command" in str(error)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage in ("train", "infer", "receive", "start")])
def test_a_run_in_which_somebody_works_does_not_end(stage: str) -> None:
    world = World()
    world.enter("shard 0", "decision")
    for _ in range(100):
        world.live("trainer", 10, stage)
    assert not world.failed


def test_many_that_are_late_with_the_same_thing_are_one_sentence_and_the_next_one_is_known_to_be_slow() -> None:
    world = World()
    world.enter("shard 0", "simulate")
    world.enter("shard 1", "simulate")
    world.wait(17)
    assert world.said == [
        "shard 0 and 1 other shard have taken 16 s for one chunk. 1 generator waits for requests. Each is killed after 50 s (simulator.timeout_s=50)"
    ]
    world.enter("shard 0", "ticket")
    world.enter("shard 1", "decision")
    world.wait(1)
    assert world.said[1:] == ["shard 0 and 1 other shard go on"]
    for _ in range(5):
        world.live("shard 1", 30, "simulate")
    assert len(world.said) == 2  # less than three times as long as it is known to take


def test_a_worker_that_has_closed_its_channel_and_lives_is_killed() -> None:
    world = World()

    def closed(message: Any) -> None:
        raise Stopped

    world.workers["shard 0"].control.hear = closed
    world.wait(75)
    assert list(world.killed) == ["shard 0"]


def test_time_in_which_a_process_was_stopped_is_not_how_long_a_stage_takes() -> None:
    with sleeping_process() as process:
        world = World(process.pid)
        world.enter("trainer", "train")
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        world.wait(50)
        os.kill(process.pid, signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED | os.WNOWAIT)
        world.enter("trainer", "trajectories")
        world.wait(2)
        world.live("trainer", 125, "train")
        assert "supervision.stage_timeout_s=120 is the limit" in world.killed["trainer"]
