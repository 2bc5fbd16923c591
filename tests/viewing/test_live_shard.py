"""A shard of a run that goes on, as another process sees it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rlvla3.observability.run_directory import RunDirectory
from rlvla3.shared_memory import SharedArrays
from rlvla3.types import Field
from rlvla3.viewing.live_shard import LiveShard, process_of
from rlvla3.viewing.shown_episode import ShownEpisode, ViewError
from tests.support.events import RECIPE
from tests.support.runs import Run, countdown


def test_memory_of_a_process_is_found_by_its_name_and_its_size():
    layout = {"numbers": Field((3,), "int64")}
    ours = SharedArrays(layout, what="of a test")
    found = SharedArrays.of_process(os.getpid(), layout, "of a test")
    assert found is not None
    ours["numbers"][1] = 7
    assert found["numbers"].tolist() == [0, 7, 0]
    assert SharedArrays.of_process(os.getpid(), layout, "of another test") is None
    assert SharedArrays.of_process(os.getpid(), {"numbers": Field((300,), "int64")}, "of a test") is None


def test_the_process_of_a_run_is_the_one_that_has_locked_it(tmp_path: Path):
    run = RunDirectory.create(tmp_path / "run", RECIPE)
    assert process_of(run) is None
    with run.locked():
        assert process_of(run) == os.getpid()
    with pytest.raises(ViewError, match="no run goes on there"):
        LiveShard(run, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("no_run_outlives_its_test")
def test_a_shard_is_shown_while_its_run_goes_on(tmp_path: Path):
    simulator = {"name": "tests.support.filmed:Filmed", "shards": 2, "max_steps": 8}
    recipe = countdown(simulator=simulator, training={"updates": 100_000, "batch": 4, "checkpoint_every": 100_000})
    run = Run(tmp_path, recipe)
    run.until(lambda: run.records("update"))
    with pytest.raises(ViewError, match="shards 0 to 1"):
        LiveShard(RunDirectory.open(run.folder), 2)
    shown: list[tuple[int, ShownEpisode]] = []
    for step, part in LiveShard(RunDirectory.open(run.folder), 1).parts():
        shown.append((step, part))
        if len({part.title for _, part in shown}) == 3:
            break
    run.process.send_signal(signal.SIGINT)
    run.wait()
    steps = [step + start for step, part in shown for start in part.frame_steps]
    assert steps == sorted(set(steps))
    for _, part in shown:
        assert {camera: len(list(frames)) for camera, frames in part.cameras.items()} == dict.fromkeys(("front", "wrist"), len(part.frame_steps))
        assert set(part.series) == {"action/planned", "action/executed", "reward", "value", "version", "state"}
    assert "reach the goal" in {text for _, part in shown for _, text in part.texts}
