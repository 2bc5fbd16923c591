"""What a run shows while it goes on: words, plain lines, the live table and JSON lines."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console

from rlvla3.observability.curves import points
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import (
    CloneStep,
    EpisodeFinished,
    EvaluationFinished,
    Notice,
    PhaseStarted,
    SuccessRate,
    WorkerTime,
)
from rlvla3.observability.formatting import duration, quantity, run_result
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.live_table import LiveTable
from rlvla3.observability.progress import PlainProgress
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.run_watchers import watched
from rlvla3.observability.summary import Summary
from rlvla3.observability.worker_times import rows_to_show
from tests.support.events import RECIPE, Clock, episode, episodes, update


def test_figures_are_worded_for_people():
    assert [quantity(number) for number in (0, 9_999, 101_234, 2_345_678)] == ["0", "9999", "101k", "2.3M"]
    assert [duration(seconds) for seconds in (12.4, 192, 7440)] == ["12 s", "3 min 12 s", "2 h 04 min"]


def test_what_was_learned_is_one_sentence(run: RunDirectory):
    summary = Summary(run, RECIPE)
    summary.on(EvaluationFinished("before", 0, success_rate(episodes(55, 96))))
    summary.on(update(20))
    summary.on(EvaluationFinished("after", 20, success_rate(episodes(89, 96))))
    assert run_result(summary.content()) == (
        "success 57 % [47, 67] -> 93 % [86, 96] (96 episodes each), 90k environment steps in 3 min 20 s, 450 steps/s, 20 updates, "
        "staleness at most 1, 1 ticket rerun"
    )


def test_where_nothing_succeeds_the_return_tells(run: RunDirectory):
    summary = Summary(run, RECIPE)
    summary.on(EvaluationFinished("before", 0, success_rate([episode(0, False, return_=21.5)])))
    summary.on(EvaluationFinished("after", 20, success_rate([episode(0, False, return_=487.25)])))
    assert run_result(summary.content()).startswith("mean return 21.5 -> 487.2 (1 episode each)")


def test_plain_progress_is_a_line_an_update_and_a_few_for_other_phases():
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, clock)
    progress.on(PhaseStarted("evaluate", 96))
    for finished in episodes(48, 96):
        clock.now += 0.5
        progress.on(EpisodeFinished(finished))
    progress.on(EvaluationFinished("before", 0, success_rate(episodes(48, 96))))
    progress.on(PhaseStarted("train", 20))
    for number in (1, 2):
        clock.now += 10
        progress.on(update(number, successes=32 * number, workers=16))
    lines = stream.getvalue().splitlines()
    assert lines[:4] == [
        "[   0:00] evaluate: 96 episodes",
        "[   0:12] evaluate 24/96, 36 s left",
        "[   0:24] evaluate 48/96, 24 s left",
        "[   0:36] evaluate 72/96, 12 s left",
    ]
    assert lines[4] == "[   0:48] evaluation (before): success 50 % [40, 60] of 96 episodes"
    assert lines[-1] == (
        "[   1:08] update 2/20, success 100 % [94, 100] of 64 (last 3: 75 % [67, 82] of 128), 450 steps/s, "
        "staleness 0: 60 1: 4, busy: shard 25 %, 3 min 00 s left"
    )
    assert len(lines) == 8


def rendered(live: LiveTable, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(live.table())
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_table_shows_success_throughput_staleness_workers_and_time_left(width: int):
    clock = Clock()
    live = LiveTable(Console(file=io.StringIO(), force_terminal=True, width=width), "quickstart, full_async", "runs/demo", clock)
    try:
        live.on(PhaseStarted("clone", 50))
        live.on(CloneStep(10, 50, 0.25))
        assert "10/50" in rendered(live, width)
        live.on(EvaluationFinished("before", 0, success_rate(episodes(55, 96))))
        live.on(PhaseStarted("train", 20))
        for number in (1, 2):
            clock.now += 10
            live.on(update(number, successes=32 * number, workers=16))
        live.on(Notice("shard 3 was replaced [signal 9]"))
        table = rendered(live, width)
    finally:
        live.close()
    for words in (
        "2/20",
        "57 % [47, 67]",
        "success 100 %",
        "of 64",
        "75 %",
        "of 128",
        "450 steps/s",
        "1: 6 %",
        "shard x16",
        "25 % busy",
        "simulate 25 %",
        "[signal 9]",
    ):
        assert words in table
    if width >= 80:
        assert "3 min 00 s left" in table
        assert "waits for decision 75 %" in table
    assert all(len(line) <= width for line in table.splitlines())


def test_many_workers_of_a_kind_become_their_mean():
    workers = [WorkerTime(f"shard {n}", {"simulate": n / 10}, {"decision": 1 - n / 10}) for n in range(10)]
    rows = rows_to_show([*workers, WorkerTime("trainer", {"train": 1.0}, {})])
    assert [row.name for row in rows] == ["shard x10", "trainer"]
    assert rows[0].busy["simulate"] == pytest.approx(0.45)
    assert sum(rows[0].busy.values()) + sum(rows[0].idle.values()) == pytest.approx(1)


def test_the_terminal_is_given_back_after_an_error(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    with pytest.raises(RuntimeError, match="lost"), watched(run, RECIPE, "a run") as watchers:
        for watcher in watchers:
            watcher.on(update(1))
        raise RuntimeError("lost")
    hidden, shown_again = terminal.getvalue().rfind("\x1b[?25l"), terminal.getvalue().rfind("\x1b[?25h")
    assert 0 <= hidden < shown_again
    assert json.loads(run.summary.read_text())["ended"] == "failed: lost"


def test_json_lines_end_with_the_summary(run: RunDirectory, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(KeyboardInterrupt), watched(run, RECIPE, "a run", show="json") as watchers:
        for watcher in watchers:
            watcher.on(update(1))
        raise KeyboardInterrupt
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["update", "summary"]
    assert lines[-1]["ended"] == json.loads(run.summary.read_text())["ended"] == "interrupted"


def test_no_success_rate_stands_without_its_episodes_and_its_interval(run: RunDirectory):
    summary = Summary(run, RECIPE)
    per_task = {"a": SuccessRate(10, 20, 0.3, 0.7), "b": SuccessRate(20, 20, 0.84, 1.0)}
    summary.on(EvaluationFinished("eval", 3, SuccessRate(30, 40, 0.6, 0.86, per_task)))
    summary.on(update(1, successes=32))
    said = run_result(summary.content()).splitlines()
    assert said[1:] == ["  a  success 50 % [30, 70] of 20", "  b  success 100 % [84, 100] of 20"]
    assert "75 % [60, 86] (40 episodes)" in said[0]
    rollouts = summary.content()["rollouts"]
    assert rollouts.keys() >= {"successes", "episodes", "low", "high"}
    assert rollouts["recent"].keys() >= {"successes", "episodes", "low", "high"}
    line = event_json(EvaluationFinished("after", 3, success_rate(episodes(30, 40))))
    assert line is not None and (found := points(line)) is not None
    assert found.values.keys() == {"evaluation/success", "evaluation_low/success", "evaluation_high/success", "evaluation_episodes/success"}
