"""`rlvla3 view`: what an episode shows, and what is in the file that it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlvla3.cli import main
from rlvla3.observability.events import EpisodeFilmed
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.video_files import VideoFiles
from rlvla3.viewing.commands import shown_episode, view
from rlvla3.viewing.films import film_episode
from rlvla3.viewing.shown_episode import ViewError, planned_and_executed
from tests.support.events import RECIPE
from tests.support.films import film

NAME = "train-000001-reach-v3-0-success"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run directory with the films of tickets 0 and 8."""
    run = RunDirectory.create(tmp_path / "run", RECIPE)
    files = VideoFiles(run)
    for one in (film(), film(index=8, success=False, update=2)):
        files.on(EpisodeFilmed(one))
    return run


def test_actions_are_executed_as_far_as_the_episode_goes_and_within_their_bounds():
    actions = np.array([[[0.5], [2.0], [-3.0]], [[0.1], [0.2], [0.3]]], np.float32)
    planned, executed = planned_and_executed(np.array([0, 3]), actions, np.array([3, 1]), (-1.0, 1.0))
    assert planned.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert planned.values[:, 0] == pytest.approx([0.5, 2.0, -3.0, 0.1, 0.2, 0.3])
    assert executed.steps.tolist() == [0, 1, 2, 3]
    assert executed.values[:, 0] == pytest.approx([0.5, 1.0, -1.0, 0.1])


def test_a_film_shows_its_cameras_apart_and_its_decisions_on_one_time_line(run: RunDirectory):
    shown = film_episode(run.videos / f"{NAME}.mp4")
    assert list(shown.frame_steps) == [0, 2, 4]
    sizes = {camera: [frame.shape for frame in frames] for camera, frames in shown.cameras.items()}
    assert sizes == {"front": [(256, 256, 3)] * 3, "wrist": [(256, 512, 3)] * 3}
    assert {name: series.values.shape for name, series in shown.series.items()} == {
        "action/planned": (6, 4),
        "action/executed": (6, 4),
        "reward": (6, 1),
        "value": (3, 1),
        "version": (3, 1),
        "state": (3, 3),
    }
    assert shown.series["action/planned"].values.max() == 1.5
    assert shown.series["action/executed"].values.max() == 1.0
    assert shown.texts == [(0, "reach the goal"), (4, "stop")]
    assert shown.outcome == (6, "reach-v3: succeeded after 6 steps, return 6.0")


def test_a_run_shows_its_newest_film_or_that_of_a_ticket(run: RunDirectory):
    assert shown_episode(run.path, None).title == "train-000002-reach-v3-8-failure"
    assert shown_episode(run.path, 0).title == shown_episode(run.videos / f"{NAME}.npz", None).title == NAME
    with pytest.raises(ViewError, match="no film of ticket 5"):
        shown_episode(run.path, 5)


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "other"])
def test_a_damaged_film_is_refused_in_words(run: RunDirectory, damage: str):
    path = run.videos / f"{NAME}.npz"
    content = path.read_bytes()
    path.unlink()
    if damage == "other":
        np.savez(path, **{name: np.zeros(5) for name in film().arrays})  # type: ignore[arg-type]  # mypy takes them for numpy's own arguments too
    elif damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "half" else b"")
    with pytest.raises(ViewError, match="show another film"):
        film_episode(path)


def test_what_is_no_episode_is_refused_in_words(tmp_path: Path):
    for start in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ViewError, match=r"no film"):
            shown_episode(start, None)


def test_without_rerun_the_command_says_what_to_install(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("rlvla3.viewing.rerun_log.find_spec", lambda _: None)
    assert main(["view", str(run.path)]) == 2
    assert "pip install 'rlvla3[view]'" in capsys.readouterr().err


def test_the_file_reads_back_as_the_episode(run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("rerun")
    from rerun.chunk import RrdReader

    view(run.path, 0, tmp_path / "episode.rrd")
    assert f"{NAME}, 3 frames of 2 cameras" in capsys.readouterr().out
    rows: dict[str, list[int]] = {}
    for chunk in RrdReader(tmp_path / "episode.rrd").stream():
        table = chunk.to_record_batch()
        if "step" in table.schema.names:
            rows.setdefault(str(chunk.entity_path), []).extend(table.column("step").to_pylist())
    frames, steps = [0, 2, 4], [0, 1, 2, 3, 4, 5]
    assert {path: sorted(found) for path, found in rows.items()} == {
        "/cameras/front": frames,
        "/cameras/wrist": frames,
        "/state": frames,
        "/value": frames,
        "/version": frames,
        "/reward": steps,
        **{f"/action/{kind}/{place}": steps for kind in ("planned", "executed") for place in range(4)},
        "/instruction": [0, 4],
        "/outcome": [6],
    }
    assert not list(tmp_path.glob(".partial*"))
