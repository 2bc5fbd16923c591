"""What every worker did in a span of time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvla3.observability.meter import STAGES
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.sampling import SAMPLE
from rlvla3.observability.trace_events import host, lane, mark, stage_time, write_events
from rlvla3.page.timeline import MOST_SPANS, SPAN, Lane, Timeline, batches, begin_of, end_of, waits, within

CYCLE = ("simulate", "decision")


def write_samples(run: RunDirectory, worker: str, stages, seconds: float = 0.5, size: int = 0, rest: bytes = b""):
    """One sample after the other, each of the same time."""
    run.samples.mkdir(parents=True, exist_ok=True)
    rows = [(STAGES.index(stage), size if stage == "infer" else 0, seconds * number, seconds, 0.0, 0.0) for number, stage in enumerate(stages, 1)]
    (run.samples / f"{worker}.samples").write_bytes(np.array(rows, SAMPLE).tobytes() + rest)


def test_the_samples_of_a_run_that_goes_on(tmp_path):
    run = RunDirectory(tmp_path)
    write_samples(run, "shard-0", CYCLE * 4, rest=b"cut off")
    write_samples(run, "generator-0", ("requests", "infer") * 4, size=3)
    write_samples(run, "trainer", ("trajectories",) * 8)
    lanes = Timeline(run).lanes()
    assert [lane.worker for lane in lanes] == ["trainer", "generator 0", "shard 0"]
    assert (begin_of(lanes), end_of(lanes)) == (0.0, 4.0)
    assert [(span.stage, span.begin, span.end) for span in within(lanes[2], 0.75, 1.75)] == [
        ("decision", 0.75, 1.0),
        ("simulate", 1.0, 1.5),
        ("decision", 1.5, 1.75),
    ]
    assert batches(lanes, 0.0, 4.0) == {3: 4} and batches(lanes, 0.0, 1.0) == {3: 1}
    assert waits(lanes, 0.0, 4.0) == pytest.approx([0.5] * 4)


def test_a_trace_of_a_run_that_has_ended_says_the_same(tmp_path):
    run = RunDirectory(tmp_path)
    times = [stage_time(0, 1, CYCLE[number % 2], 0.5 * number, 0.5 * (number + 1)) for number in range(8)]
    write_events(run.trace, [*host(0, "run"), *lane(0, 1, "shard 0"), *times, mark(0, 1, "limit", 1.0)], {})
    (lane_found,) = Timeline(run).lanes()
    assert lane_found.worker == "shard 0"
    assert [span.stage for span in within(lane_found, 0.0, 4.0)] == list(CYCLE * 4)


def test_of_a_long_trace_the_newest_stages_are_shown_under_the_names_of_their_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("rlvla3.page.timeline.NEWEST_TRACE", 4000)
    monkeypatch.setattr("rlvla3.page.timeline.NAMES_BYTES", 1000)
    run = RunDirectory(tmp_path)
    times = [stage_time(0, 1, CYCLE[number % 2], 0.5 * number, 0.5 * (number + 1)) for number in range(1000)]
    write_events(run.trace, [*host(0, "run"), *lane(0, 1, "shard 0"), *times], {})
    assert run.trace.stat().st_size > 20_000
    (lane_found,) = Timeline(run).lanes()
    assert lane_found.worker == "shard 0"
    assert begin_of([lane_found]) > 400 and end_of([lane_found]) == 500
    assert np.allclose(np.diff(lane_found.spans["begin"]), 0.5), "each stage once"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]\n{}\n", b'{"traceEvents":[\n{"ph":"X","tid":1,"ts":1e999,"dur":-1,"name":3},\n{"ph":"X","tid":[],"ts":NaN}\n]}\n', b"\xff" * 100],
)
def test_a_damaged_trace_has_no_lanes(tmp_path, content):
    run = RunDirectory(tmp_path)
    run.trace.write_bytes(content)
    assert Timeline(run).lanes() == []


def test_damaged_samples_are_left_out(tmp_path):
    run = RunDirectory(tmp_path)
    write_samples(run, "shard-0", CYCLE, rest=np.array([(99, 0, 1.0, 1.0, 0, 0), (0, 0, np.nan, 1.0, 0, 0), (0, 0, 1.0, -1.0, 0, 0)], SAMPLE).tobytes())
    (found,) = Timeline(run).lanes()
    assert len(found.spans) == 2


def test_a_lane_of_any_number_of_stages_has_few_spans_that_cover_its_time(tmp_path):
    run = RunDirectory(tmp_path)
    write_samples(run, "shard-0", ("simulate", "simulate", "decision") * 8000, seconds=0.001)
    (found,) = Timeline(run).lanes()
    shown = within(found, 0.0, 24.0)
    assert len(shown) <= MOST_SPANS
    assert sum(span.end - span.begin for span in shown) == pytest.approx(24.0, rel=0.01)
    assert {span.stage for span in shown} == {"simulate"}
    assert {span.stage for span in within(found, 10.0, 10.1)} == {"simulate", "decision"}


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 20.0), st.floats(0.001, 5.0)), min_size=1, max_size=30), st.integers(3, 40))
@settings(max_examples=60, deadline=None)
def test_a_part_of_the_time_shows_the_stage_that_took_most_of_it(found, parts):
    """Against a reference that adds up each part. Stages that took almost the same time are both right."""
    spans = np.array([(stage, 0, begin, begin + took) for stage, begin, took in found], SPAN)
    begin, end, names = 1.0, 21.0, ("simulate", "decision", "ticket")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rlvla3.page.timeline.MOST_SPANS", parts)
        shown = within(Lane("shard 0", names, np.tile(spans, parts + 1)), begin, end)  # so many that they are joined, and in the same proportions
    assert all(one.end <= other.begin + 1e-9 for one, other in pairwise(shown)) and len(shown) <= max(parts, 1)
    width = (end - begin) / parts
    for part in range(parts):
        left, right = begin + part * width, begin + (part + 1) * width
        spent = [sum(max(min(span[3], right) - max(span[2], left), 0.0) for span in spans.tolist() if span[0] == stage) for stage in range(3)]
        (told, *_) = [span.stage for span in shown if span.begin <= (left + right) / 2 <= span.end] or [""]
        assert (told == "" and max(spent) < width * 1e-5) or spent[names.index(told)] >= max(spent) - width * 1e-5
