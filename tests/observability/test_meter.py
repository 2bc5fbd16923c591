"""Law 7: every second of every worker is in one named stage, whoever looks and whenever."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.links.doorbell import Doorbell
from rlvla3.observability import meter as module
from rlvla3.observability.meter import BUSY, IDLE, STAGES, MeterBoard, OverlappingMeter
from tests.support.processes import another_process


class Clock:
    """A clock that stands still until it is moved on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@contextmanager
def stopped_clock() -> Iterator[Clock]:
    with mock.patch.object(module, "time", Clock()) as clock:
        yield clock


def times(board: MeterBoard, worker: str) -> dict[str, float]:
    """Seconds of one worker by stage, where there are any."""
    row = board.read()[board.workers.index(worker)]
    return {stage: float(seconds) for stage, seconds in zip(STAGES, row, strict=True) if seconds}


seconds = st.integers(1, 9).map(float)
stages = st.sampled_from(STAGES)
Program = list[tuple[str, float, "Program", float]]
programs: st.SearchStrategy[Program] = st.recursive(st.just([]), lambda inner: st.lists(st.tuples(stages, seconds, inner, seconds), max_size=4), max_leaves=12)
"""What a worker does: (stage, seconds in it, what it does inside, seconds in it again), one after the other."""


@given(programs, st.sampled_from(["shard 0", "trainer"]))
def test_time_is_in_the_innermost_stage_and_shares_sum_to_one_at_every_moment(program: Program, worker: str):
    with stopped_clock() as clock:
        board = MeterBoard(["shard 0", "trainer"])
        nothing, meter, spent = board.read(), board.meter(worker), defaultdict[str, float](float)

        def spend(stage: str, seconds: float) -> None:
            clock.now += seconds
            spent[stage] += seconds
            assert times(board, worker) == spent
            for shares in board.shares(since=nothing):
                assert sum([*shares.busy.values(), *shares.idle.values()]) == pytest.approx(1, abs=1e-12)

        def run(program: Program, around: str) -> None:
            for stage, before, inner, after in program:
                with meter(stage):
                    spend(stage, before)
                    run(inner, stage)
                    spend(stage, after)
                spend(around, 1.0)

        run(program, around="start")


@given(st.lists(st.tuples(stages, seconds), min_size=1), st.lists(st.tuples(stages, seconds), min_size=1))
def test_shares_are_those_of_the_time_since_an_earlier_reading(earlier: list[tuple[str, float]], later: list[tuple[str, float]]):
    with stopped_clock() as clock:
        board = MeterBoard(["generator"])
        meter = board.meter("generator")

        def spend(parts: list[tuple[str, float]]) -> None:
            for stage, seconds in parts:
                meter.enter(stage)
                clock.now += seconds

        spend(earlier)
        since = board.read()
        spend(later)
        (shares,) = board.shares(since)
        expected = defaultdict[str, float](float)
        for stage, seconds in later:
            expected[stage] += seconds
        whole = sum(expected.values())
        assert shares.busy == pytest.approx({stage: expected[stage] / whole for stage in BUSY if stage in expected})
        assert shares.idle == pytest.approx({stage: expected[stage] / whole for stage in IDLE if stage in expected})


def test_a_stage_that_is_left_by_an_error_is_over():
    with stopped_clock() as clock:
        board = MeterBoard(["trainer"])
        meter = board.meter("trainer")
        with pytest.raises(KeyError), meter("train"):
            clock.now += 2
            raise KeyError
        clock.now += 3
        assert board.stage("trainer") == ("start", 3)
        assert times(board, "trainer") == {"start": 3, "train": 2}


def test_workers_do_not_share_time():
    with stopped_clock() as clock:
        board = MeterBoard(["a", "b"])
        with board.meter("a")("infer"):
            clock.now += 4
        assert (times(board, "a"), times(board, "b")) == ({"infer": 4}, {"start": 4})


def test_an_unknown_stage_is_refused():
    with pytest.raises(KeyError, match="dancing"):
        MeterBoard(["a"]).meter("a").enter("dancing")


def test_a_reading_that_a_worker_overtakes_still_accounts_for_all_of_its_time():
    """The worker enters a stage while its row is being read, at the moment when the reader looks at the clock."""
    with stopped_clock() as clock:
        board = MeterBoard(["shard 0"])
        meter = board.meter("shard 0")
        meter.enter("simulate")
        clock.now += 5

        def enter_meanwhile() -> float:
            clock.monotonic = lambda: clock.now  # type: ignore[method-assign]
            meter.enter("decision")
            return clock.now

        clock.monotonic = enter_meanwhile  # type: ignore[method-assign]
        assert times(board, "shard 0") == {"simulate": 5}


def hurry(board: MeterBoard, news: Doorbell) -> None:
    """Change the stage every half a millisecond."""
    meter = board.meter("shard 0")
    meter.enter("overhead")
    news.ring(0)
    for _ in range(300):
        for stage in ("simulate", "decision"):
            with meter(stage):
                time.sleep(0.0005)
    news.ring(1)


def test_another_process_reads_all_of_the_time_between_its_own_two_looks_at_the_clock():
    news, earliest = Doorbell(), time.monotonic()
    board, latest = MeterBoard(["shard 0"]), time.monotonic()
    heard: list[int] = []
    with another_process(hurry, board, news):
        while 1 not in heard:
            heard += news.collect()
            before = time.monotonic()
            accounted = board.read().sum()
            assert before - latest <= accounted + 1e-6
            assert accounted <= time.monotonic() - earliest + 1e-6
    assert {"start", "overhead", "simulate", "decision"} <= times(board, "shard 0").keys()


def test_a_lane_is_in_the_stage_of_what_it_began_first():
    with stopped_clock() as clock:
        board = MeterBoard(["weights"])
        lane = OverlappingMeter(board.meter("weights"), "version")
        receiving, sending = ExitStack(), ExitStack()
        clock.now = 101.0
        receiving.enter_context(lane("receive"))
        clock.now = 103.0
        sending.enter_context(lane("send"))
        clock.now = 109.0
        receiving.close()
        clock.now = 114.0
        sending.close()
        clock.now = 120.0
        assert times(board, "weights") == {"version": 7.0, "receive": 8.0, "send": 5.0}
