"""Intervals, metrics, progress and videos: what a run shows."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from rlvla3.config import make_recipe
from rlvla3.observability.events import (
    CloneStep,
    EpisodeFinished,
    EvaluationFinished,
    Notice,
    PhaseStarted,
    TicketCounts,
    UpdateFinished,
    WorkerTime,
)
from rlvla3.observability.files import MetricsFile, TensorBoardWatcher
from rlvla3.observability.intervals import success_rate, wilson
from rlvla3.observability.live import LiveProgress
from rlvla3.observability.progress import PlainProgress
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.summary import Summary
from rlvla3.observability.video import VideoError, framed, write_video
from rlvla3.observability.watching import watched
from rlvla3.observability.wording import duration, learned, quantity
from rlvla3.observability.workers import shown
from rlvla3.types import Finished, Ticket

RECIPE = make_recipe({"training": {"updates": 20}})


def episode(index: int, success: bool, task: str = "reach-v3", return_: float | None = None) -> Finished:
    return Finished(
        Ticket(index, task, seed=index, group=index), decisions=14, steps=70, success=success, return_=float(success) if return_ is None else return_
    )


def episodes(successes: int, count: int, task: str = "reach-v3") -> list[Finished]:
    return [episode(index, index < successes, task) for index in range(count)]


def update(number: int, successes: int = 40, *, workers: int = 1, lags: dict[int, int] | None = None, returns: float | None = None) -> UpdateFinished:
    """Update `number` of 20, ten seconds after the one before it; workers simulate in 3/4 of their time in odd updates and in 1/4 of it in even ones."""
    share = 0.75 if number % 2 else 0.25
    return UpdateFinished(
        update=number,
        updates=20,
        episodes=[episode(index, index < successes, return_=returns) for index in range(64)],
        learner={"kl": 0.01, "entropy": float("nan")},
        environment_steps=4500 * number,
        throughput=450.0,
        staleness=lags or {0: 60, 1: 4},
        tickets=TicketCounts(issued=64 * number + 8, trained=64 * number, rerun=1),
        workers=[WorkerTime(f"shard {index}", {"simulate": share}, {"decision": 1 - share}) for index in range(workers)],
        wall_seconds=10.0 * number,
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", RECIPE)


class Clock:
    """A clock that stands still until it is moved on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


# Intervals


def test_wilson_interval_has_its_closed_forms_at_nothing_and_at_half():
    z2 = 3.841458820694124  # the 95 % quantile of chi-squared with one degree of freedom
    assert wilson(0, 10) == pytest.approx((0, z2 / (10 + z2)))
    assert wilson(10, 10) == pytest.approx((10 / (10 + z2), 1))
    assert wilson(5, 10) == pytest.approx((0.5 - 0.5 * (z2 / (10 + z2)) ** 0.5, 0.5 + 0.5 * (z2 / (10 + z2)) ** 0.5))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy(counts: tuple[int, int]):
    theirs = stats.binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_no_episode_says_nothing_and_impossible_counts_are_refused():
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes of 2 episodes"):
        wilson(3, 2)


def test_success_rate_keeps_the_tasks_apart():
    rate = success_rate([*episodes(3, 4, "reach-v3"), *episodes(1, 6, "door-open-v3")])
    assert (rate.successes, rate.episodes) == (4, 10)
    assert {task: (of_task.successes, of_task.episodes) for task, of_task in rate.per_task.items()} == {"door-open-v3": (1, 6), "reach-v3": (3, 4)}
    assert rate.low < 0.4 < rate.high
    assert rate.mean_steps == 70


# Metrics and summary


def test_metrics_have_a_line_for_each_event_and_no_episode(run: RunDirectory):
    metrics = MetricsFile(run)
    for event in (
        PhaseStarted("clone", 1),
        CloneStep(1, 1, 0.5),
        EpisodeFinished(episode(0, True)),
        update(1),
        EvaluationFinished("after", 1, success_rate(episodes(9, 10))),
        Notice("so it is"),
    ):
        metrics.on(event)
    metrics.close()
    lines = run.records()
    assert [line["event"] for line in lines] == ["phase", "clone", "update", "evaluation", "notice"]
    assert lines[2]["rollouts"]["successes"] == 40
    assert lines[2]["learner"] == {"kl": 0.01, "entropy": None}
    assert lines[3]["low"] == pytest.approx(wilson(9, 10)[0])


def test_a_continued_run_forgets_the_updates_it_makes_again(run: RunDirectory):
    metrics = MetricsFile(run)
    for event in (EvaluationFinished("before", 0, success_rate(episodes(5, 10))), update(1), update(2), update(3)):
        metrics.on(event)
    metrics.close()
    with run.metrics.open("a") as file:
        file.write('{"event": "upda')  # killed in the middle of a line
    run.inherit(run, 2)
    assert [line.get("update", 0) for line in run.records()] == [0, 1, 2]
    summary = Summary(run, RECIPE).content()
    assert summary["updates"] == 2
    assert summary["success_before"]["successes"] == 5
    run.inherit(run, None)
    assert run.records() == []


def test_summary_has_what_others_rely_on(run: RunDirectory):
    summary = Summary(run, RECIPE)
    summary.on(EvaluationFinished("before", 0, success_rate(episodes(55, 96))))
    for number in (1, 2, 3, 4):
        summary.on(update(number, successes=40 + number, lags={0: 64} if number == 1 else None))
    summary.on(EvaluationFinished("after", 4, success_rate(episodes(89, 96))))
    assert json.loads(run.summary.read_text())["ended"] == "running"
    summary.ended = "finished"
    summary.close()

    written = json.loads(run.summary.read_text())
    assert {key: written["success_before"][key] for key in ("successes", "episodes")} == {"successes": 55, "episodes": 96}
    assert written["success_after"]["low"] < 89 / 96 < written["success_after"]["high"]
    assert (written["environment_steps"], written["throughput"], written["updates"]) == (18_000, 450.0, 4)
    assert written["tickets"] == {"issued": 264, "trained": 256, "rerun": 1}
    assert written["staleness"] == {"0": 64 + 3 * 60, "1": 3 * 4}
    assert written["workers"] == [{"name": "shard 0", "busy": {"simulate": 0.5}, "idle": {"decision": 0.5}}]
    assert (written["mode"], written["seed"], written["training_seconds"], written["ended"]) == ("full_async", 0, 40.0, "finished")
    assert written["rollouts"]["recent"]["successes"] == 42 + 43 + 44
    assert written["wall_seconds"] >= 0
    assert not list(run.path.glob(".*"))


def test_summary_before_anything_happened_is_whole(run: RunDirectory):
    content = Summary(run, RECIPE).content()
    assert content["success_before"] is None
    assert content["workers"] == []
    assert learned(content)


def test_tensorboard_files_hold_the_curves(run: RunDirectory):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    watcher = TensorBoardWatcher(run)
    watcher.on(update(1))
    watcher.on(update(2, successes=64))
    watcher.close()
    curves = accumulator.EventAccumulator(str(run.path))
    curves.Reload()
    assert [(point.step, point.value) for point in curves.Scalars("rollouts/success")] == [(1, 0.625), (2, 1.0)]
    assert [point.value for point in curves.Scalars("busy/shard")] == [0.75, 0.25]


def test_observing_needs_no_torch():
    script = "import sys, tempfile, pathlib\nfrom rlvla3 import commands\nfrom rlvla3.observability import live, video\n"
    script += "from rlvla3.observability.files import TensorBoardWatcher\nfrom rlvla3.observability.run_directory import RunDirectory\n"
    script += "TensorBoardWatcher(RunDirectory(pathlib.Path(tempfile.mkdtemp()))).close()\nassert 'torch' not in sys.modules\nimport torch; torch.zeros(1)"
    subprocess.run([sys.executable, "-c", script], check=True)


# Progress


def test_figures_are_worded_for_people():
    assert [quantity(number) for number in (0, 9_999, 101_234, 2_345_678)] == ["0", "9999", "101k", "2.3M"]
    assert [duration(seconds) for seconds in (12.4, 192, 7440)] == ["12 s", "3 min 12 s", "2 h 04 min"]


def test_what_was_learned_is_one_sentence(run: RunDirectory):
    summary = Summary(run, RECIPE)
    summary.on(EvaluationFinished("before", 0, success_rate(episodes(55, 96))))
    summary.on(update(20))
    summary.on(EvaluationFinished("after", 20, success_rate(episodes(89, 96))))
    assert learned(summary.content()) == (
        "success 57 % [47, 67] -> 93 % [86, 96] (96 episodes each), 90k environment steps in 3 min 20 s, 450 steps/s, 20 updates, "
        "staleness at most 1, 1 ticket rerun"
    )


def test_where_nothing_succeeds_the_return_tells(run: RunDirectory):
    summary = Summary(run, RECIPE)
    summary.on(EvaluationFinished("before", 0, success_rate([episode(0, False, return_=21.5)])))
    summary.on(EvaluationFinished("after", 20, success_rate([episode(0, False, return_=487.25)])))
    assert learned(summary.content()).startswith("mean return 21.5 -> 487.2 (1 episode each)")


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
    assert lines[-1] == ("[   1:08] update 2/20, success 100 % (last 3: 75 %), 450 steps/s, staleness 0: 60 1: 4, busy: shard 25 %, 3 min 00 s left")
    assert len(lines) == 8


def rendered(live: LiveProgress, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(live.table())
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_table_shows_success_throughput_staleness_workers_and_time_left(width: int):
    clock = Clock()
    live = LiveProgress(Console(file=io.StringIO(), force_terminal=True, width=width), "quickstart, full_async", "runs/demo", clock)
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
    for words in ("2/20", "57 % [47, 67]", "success 100 %", "75 %", "450 steps/s", "1: 6 %", "shard x16", "25 % busy", "simulate 25 %", "[signal 9]"):
        assert words in table
    if width >= 80:
        assert "3 min 00 s left" in table
        assert "waits for decision 75 %" in table
    assert all(len(line) <= width for line in table.splitlines())


def test_many_workers_of_a_kind_become_their_mean():
    workers = [WorkerTime(f"shard {n}", {"simulate": n / 10}, {"decision": 1 - n / 10}) for n in range(10)]
    rows = shown([*workers, WorkerTime("trainer", {"train": 1.0}, {})])
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
    with pytest.raises(KeyboardInterrupt), watched(run, RECIPE, "a run", as_json=True) as watchers:
        for watcher in watchers:
            watcher.on(update(1))
        raise KeyboardInterrupt
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["update", "summary"]
    assert lines[-1]["ended"] == json.loads(run.summary.read_text())["ended"] == "interrupted"


# Videos


def test_a_video_decodes_to_as_many_frames_with_the_outcome_around_them(tmp_path: Path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames = [np.full((64, 48, 3), 10 * index, np.uint8) for index in range(20)]
    write_video(tmp_path / "videos" / "reach.mp4", frames, success=True)
    decoder = imageio_ffmpeg.read_frames(str(tmp_path / "videos" / "reach.mp4"))
    width, height = next(decoder)["size"]
    decoded = [np.frombuffer(frame, np.uint8).reshape(height, width, 3).astype(int) for frame in decoder]
    assert len(decoded) == len(frames)
    assert min(width, height) >= 256
    red, green, blue = decoded[10][3, 3]
    assert green > red + 50
    assert green > blue + 50
    assert abs(decoded[10][height // 2, width // 2] - 100).max() < 12
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["reach.mp4"]


def test_frames_are_enlarged_without_smoothing():
    frame = np.zeros((2, 2, 3), np.uint8)
    frame[0, 0] = 255
    drawn = framed(frame, (1, 2, 3))
    assert drawn.shape == (272, 272, 3)
    assert {tuple(pixel) for pixel in drawn.reshape(-1, 3)} == {(0, 0, 0), (255, 255, 255), (1, 2, 3)}
    assert framed(np.zeros((300, 400, 3), np.uint8), (0, 0, 0)).shape == (320, 416, 3)


def test_frames_that_cannot_be_a_video_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", [], success=True)
    with pytest.raises(ValueError, match="float32"):
        write_video(tmp_path / "a.mp4", [np.zeros((64, 64, 3), np.float32)], success=True)


def test_a_missing_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(VideoError, match=r"pip install imageio-ffmpeg.*evaluation\.videos=0"):
        write_video(tmp_path / "a.mp4", [np.zeros((64, 64, 3), np.uint8)], success=True)
    assert not list(tmp_path.iterdir())
