"""The trace of real runs: what a file of stays comes to, and that the stages of different updates overlap where the mode says so."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from rlvla3.config import make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability import tracing
from rlvla3.observability.events import UpdateFinished
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.sampling import SAMPLE, SamplingBoard, read_samples
from rlvla3.observability.tracing import TraceFile, WallClock, make_board
from rlvla3.preflight import preflight
from rlvla3.types import TicketCounts
from tests.support.runs import Run, countdown

Stay = tuple[str, float, float]
"""What it is called, when it began and when it ended, in microseconds."""


class Trace:
    """trace.json, read back: what each lane shows, by its name."""

    def __init__(self, path: Path) -> None:
        self.content = json.loads(path.read_text())
        events = self.content["traceEvents"]
        self.lanes = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
        self.hosts = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
        self.samples: dict[str, list[Stay]] = defaultdict(list)
        for event in events:
            if event["ph"] == "X":
                self.samples[self.lanes[event["pid"], event["tid"]]].append((event["name"], event["ts"], event["ts"] + event["dur"]))
        self.marks = [event["name"] for event in events if event["ph"] == "i"]
        self.counts: dict[str, list[dict[str, int]]] = defaultdict(list)
        for event in events:
            if event["ph"] == "C":
                self.counts[event["name"]].append(event["args"])

    def of(self, kind: str, *stages: str) -> list[Stay]:
        """The stays of all workers of a kind in some stages."""
        return [stay for lane, stays in self.samples.items() if lane.split()[0] == kind for stay in stays if stay[0] in stages]


def together(ours: Sequence[Stay], theirs: Sequence[Stay]) -> float:
    """Microseconds that two lists of stays have in common, counted for each pair."""
    return sum(max(0.0, min(a[2], b[2]) - max(a[1], b[1])) for a in ours for b in theirs)


def update(number: int, staleness: dict[int, int]) -> UpdateFinished:
    return UpdateFinished(number, 9, [], {}, 0, 0.0, staleness, TicketCounts(), [], 0.0)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", make_recipe(countdown(engine={"trace": True})))


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def test_a_trace_has_a_lane_a_worker_and_a_stay_for_each_that_was_noted(run: RunDirectory):
    clock, folders = Hand(), (run.samples, run.samples / "host-1", run.samples / "host-0")
    trace = TraceFile(run, clock)
    for folder in folders:
        folder.mkdir(parents=True)
        board = SamplingBoard(["shard 10", "shard 2", "generator 0", "trainer 1", "trainer"], clock, folder=folder)
        for worker in board.workers if folder == folders[0] else board.workers[:2]:
            meter = board.meter(worker)
            clock.at = 1001.0
            meter.enter("train", 7)
            clock.at = 1001.5
            meter.enter("trajectories")
            clock.at = 1000.0
    clock.at = 1003.0
    trace.on(update(1, {0: 6, 1: 2}))
    trace.close()
    seen = Trace(run.trace)
    assert seen.hosts == {1: "run", 2: "host 0", 3: "host 1"}
    assert list(seen.lanes.values()) == ["trainer", "trainer 1", "generator 0", "shard 2", "shard 10", "shard 2", "shard 10", "shard 2", "shard 10"]
    assert seen.samples["trainer"] == [("start", 0.0, 1e6), ("train", 1e6, 1.5e6)]
    assert seen.counts["version"] == [{"version": 0}, {"version": 1}]
    assert seen.counts["episodes"] == [{"staleness 0": 6, "staleness 1": 2}]
    assert not run.samples.exists()


def test_a_file_never_grows_past_its_bound_has_the_newest_samples_and_the_trace_says_so(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracing, "MAX_BYTES", 10 * SAMPLE.itemsize + 3)
    board, file = make_board(run.recipe(), run.samples)(["shard 0", "generator 0"]), run.samples / "shard-0.samples"
    for life in range(3):  # the second and the third worker take the place of a lost one
        meter = board.meter("shard 0")
        for number in range(1, 9):
            meter.enter("simulate", size=10 * life + number)  # its sample is written when it is left
            sizes = [int(size) for size in read_samples(file)["size"] if size]
            assert file.stat().st_size <= 10 * SAMPLE.itemsize and sizes == sorted(set(sizes))
            assert number < 5 or sizes[-4:] == [10 * life + number - back for back in (4, 3, 2, 1)]
    board.meter("generator 0").enter("infer")
    trace = _over(run)
    assert 4 <= len(trace.samples["shard 0"]) <= 9 and len(trace.samples["generator 0"]) == 1
    assert len(trace.marks) == 1 and trace.content["otherData"]["begin_late"] == ["shard 0"]


def test_the_updates_in_memory_are_limited_and_the_trace_says_how_many_it_leaves_out(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracing, "MAX_UPDATES", 3)
    trace = TraceFile(run, Hand())
    make_board(run.recipe(), run.samples)(["trainer"]).meter("trainer").enter("train")
    for number in range(1, 9):
        trace.on(update(number, {0: 8}))
    trace.close()
    seen = Trace(run.trace)
    assert seen.counts["version"] == [{"version": number} for number in range(4)]
    assert seen.content["otherData"]["updates_left_out"] == 5


def test_a_stay_that_a_dying_worker_left_unfinished_is_passed_over(run: RunDirectory):
    make_board(run.recipe(), run.samples)(["trainer"]).meter("trainer").enter("train")
    with (run.samples / "trainer.samples").open("ab") as file:
        file.write(b"cut")
    assert [stay[0] for stay in _over(run).samples["trainer"]] == ["start"]


def test_the_clock_is_the_wall_clock_and_the_same_in_every_process():
    clock = WallClock()
    assert clock() == pytest.approx(time.time(), abs=60)
    assert WallClock(clock.epoch) == clock and WallClock(0.0)() == pytest.approx(time.monotonic(), abs=60)


def test_a_run_that_is_not_traced_notes_nothing(tmp_path: Path):
    board = make_board(make_recipe(countdown()), tmp_path / "stays")(["shard 0"])
    assert type(board.meter("shard 0")).__name__ == "Meter" and not (tmp_path / "stays").exists()


def test_a_trace_is_refused_where_work_cannot_be_told_from_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlvla3.preflight.SCHEDSTAT", Path("/nowhere"))
    with pytest.raises(RecipeError, match=r"engine\.trace needs Linux"):
        preflight(make_recipe(countdown(engine={"trace": True})))


@pytest.mark.slow
def test_an_interrupted_run_leaves_its_trace(tmp_path: Path):
    slow = {"options": {"kwargs": {"step_s": 0.02}}, "shards": 2}
    run = Run(tmp_path, countdown(simulator=slow, training={"updates": 1000}, engine={"trace": True}))
    run.until(lambda: len(run.records("update")) >= 2)
    for _ in range(2):  # the second ends every process at once
        os.kill(run.process.pid, signal.SIGINT)
        time.sleep(0.05)
    run.wait()
    trace = Trace(run.folder / "trace.json")
    assert {"trainer", "generator 0", "shard 0", "shard 1"} == set(trace.lanes.values())
    assert trace.of("trainer", "publish") and trace.of("shard", "simulate") and len(trace.counts["version"]) >= 3
    assert not (run.folder / "stays").exists()


@pytest.mark.slow
def test_stages_of_different_updates_overlap_in_a_full_async_run(tmp_path: Path):
    metaworld = {"name": "metaworld", "tasks": ["reach-v3"], "shards": 3, "max_steps": 20, "options": {"image_size": 64}}
    recipe = countdown() | {"simulator": metaworld, "policy": {"name": "mini_vla", "chunk": 5}}
    recipe["training"] = recipe["training"] | {"updates": 12, "epochs": 3, "micro_batch": 8}
    run = Run(tmp_path, recipe, None, "engine.mode=full_async", "engine.trace=true").finished()
    trace = Trace(run.folder / "trace.json")
    simulate, infer, load = trace.of("shard", "simulate"), trace.of("generator", "infer"), trace.of("generator", "load_weights")
    publish = trace.of("trainer", "publish")
    assert len(publish) == 12 and len(load) >= 2
    alone = list(updates_alone(trace, publish))
    for stage, stays in (("simulate", simulate), ("infer", infer)):
        later = [(stay, train) for trained in alone for stay in stays for train in trained if stay[1] >= trained[0][1]]
        assert sum(together([stay], [train]) for stay, train in later) > 0, stage
    for lane, stays in trace.samples.items():  # a worker is in one stage at a time, and in one always
        for before, after in pairwise(stays):
            assert after[1] == pytest.approx(before[2], abs=1.0), lane


def updates_alone(trace: Trace, publish: Sequence[Stay]) -> Iterator[list[Stay]]:
    """What the trainer does of each update but the last when all its trajectories have come: whatever begins to be simulated then is of the next one."""
    ends = [stay[1] for stay in publish[:-1]]
    for begin, end in pairwise([0.0, *ends]):
        waited = max((stay[2] for stay in trace.of("trainer", "waits for trajectories") if begin <= stay[1] < end), default=None)
        trained = [stay for stay in trace.of("trainer", "train", "fit_critic") if waited is not None and waited <= stay[1] < end]
        if trained:
            yield trained


def _over(run: RunDirectory) -> Trace:
    """The trace of what is noted so far."""
    noted = run.samples.rename(run.path / "kept")
    trace = TraceFile(run)
    noted.rename(run.samples)
    trace.close()
    return Trace(run.trace)
