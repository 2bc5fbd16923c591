"""Metrics, summary and TensorBoard files of a run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rlvla3.observability.accounts import Accounts
from rlvla3.observability.appended_file import MOST_UNWRITTEN
from rlvla3.observability.continuing import WholeCheckpoint, continuation
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import (
    CloneStep,
    EpisodeFinished,
    EvaluationFinished,
    Notice,
    PhaseStarted,
    Resumed,
)
from rlvla3.observability.formatting import run_result
from rlvla3.observability.intervals import success_rate, wilson
from rlvla3.observability.metrics_file import MetricsFile
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.summary import MOST_NOTICES, Summary
from rlvla3.observability.tensorboard import TensorBoardWatcher
from rlvla3.types import TicketCounts
from tests.support.events import RECIPE, episode, episodes, update


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
    lines = run.metric_lines()
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
    before = event_json(EvaluationFinished("before", 0, success_rate(episodes(5, 10)))) or {}
    accounts = Accounts(2, TicketCounts(issued=136, trained=128, rerun=1), 128, 80, environment_steps=9000, seconds=20.0, evaluations=[before])
    with run.checkpoint(2, keep=2) as folder:
        accounts.write(folder)
    continued = continuation(run, WholeCheckpoint(run.checkpoints / "000002"))
    metrics, summary = MetricsFile(run, continued), Summary(run, RECIPE, continued)
    untouched = run.metrics.read_bytes()
    for watcher in (metrics, summary):
        watcher.on(Notice("a worker is being built"))
    assert (run.metrics.read_bytes(), run.summary.exists()) == (untouched, False), "a run that may yet be refused has changed its folder"
    for watcher in (metrics, summary):
        watcher.on(Resumed(continued))
        watcher.close()
    lines = run.metric_lines()
    assert [line.get("update", line.get("text", 0)) for line in lines] == [0, 1, 2, "a worker is being built"]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    written = json.loads(run.summary.read_text())
    assert (written["updates"], written["tickets"]["trained"], written["environment_steps"], written["rollouts"]["episodes"]) == (2, 128, 9000, 128)
    assert written["success_before"]["successes"] == 5
    assert written["notices"] == ["a worker is being built"]


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
    assert written["tickets"] == {"issued": 264, "trained": 256, "rerun": 1, "set_aside": 0}
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
    assert run_result(content)


def test_what_grows_with_the_length_of_a_run_is_bounded(run: RunDirectory):
    """Notices of weeks, and lines that a full disk does not take."""
    summary = Summary(run, RECIPE)
    for number in range(MOST_NOTICES + 5):
        summary.on(Notice(f"notice {number}"))
    assert summary.content()["notices"] == [f"notice {number}" for number in range(5, MOST_NOTICES + 5)]
    metrics = MetricsFile(run, continuation(run, WholeCheckpoint(None)))
    for number in range(MOST_UNWRITTEN + 5):
        metrics.on(Notice(f"notice {number}"))
    metrics.on(Resumed(continuation(run, WholeCheckpoint(None))))
    assert len(run.metric_lines()) == MOST_UNWRITTEN


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
    script = "import sys, tempfile, pathlib\nfrom rlvla3 import commands\nfrom rlvla3.observability import episode_video, live_table\n"
    script += "from rlvla3.observability.tensorboard import TensorBoardWatcher\nfrom rlvla3.observability.run_directory import RunDirectory\n"
    script += "TensorBoardWatcher(RunDirectory(pathlib.Path(tempfile.mkdtemp()))).close()\nassert 'torch' not in sys.modules\nimport torch; torch.zeros(1)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_summary_has_the_largest_mismatch_of_any_update(run: RunDirectory):
    summary = Summary(run, RECIPE)
    assert summary.content()["sampler_mismatch"] == {"mean": None, "p99": None}
    for number, mean in enumerate((0.01, 0.03, None, 0.02), start=1):
        summary.on(update(number, learner=None if mean is None else {"sampler_mismatch_mean": mean, "sampler_mismatch_p99": 4 * mean}))
    assert summary.content()["sampler_mismatch"] == {"mean": 0.03, "p99": 0.12}
