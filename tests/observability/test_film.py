"""Films: the files of each, those that are replaced, and those that are kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlvla3.observability import video_files
from rlvla3.observability.events import EpisodeFilmed
from rlvla3.observability.film import ARRAYS, Film, read_film_record
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.video_files import VideoFiles
from rlvla3.types import BESIDE
from tests.support.films import film

NAME = "train-000001-reach-v3-0-success"


def write(run: RunDirectory, *films: Film) -> set[str]:
    files = VideoFiles(run)
    for one in films:
        files.on(EpisodeFilmed(one))
    files.close()
    return {path.name for path in run.videos.iterdir()}


def test_a_film_is_a_video_a_record_and_the_arrays_of_its_decisions(run: RunDirectory):
    assert write(run, film()) == {f"{NAME}.mp4", f"{NAME}.json", f"{NAME}.npz"}
    record = read_film_record(run.videos / f"{NAME}.json")
    assert record is not None
    assert (record.video, record.when, record.update, record.version, record.oldest_version) == (f"{NAME}.mp4", "train", 1, 5, 4)
    assert (record.task, record.ticket, record.success, record.episode_return) == ("reach-v3", 0, True, 6.0)
    assert record.instructions == ["reach the goal", "stop"]
    assert record.per_decision.instruction == [0, 0, 1]
    assert record.per_decision.value == [0.0, 1.0, 2.0]
    assert record.per_decision.reward == [2.0, 2.0, 2.0]
    assert record.per_decision.version == [5, 5, 5]
    assert record.cameras == {"front": [8, 8, 256, 256], "wrist": [272, 8, 512, 256]}
    with np.load(run.videos / f"{NAME}.npz") as arrays:
        assert {name: arrays[name].tolist() for name in arrays} == {name: film().arrays[name].tolist() for name in ARRAYS}


def test_numbers_that_are_not_finite_are_null(run: RunDirectory):
    broken = film()
    broken.arrays["value"][1] = np.nan
    broken.arrays["rewards"][2, 0] = np.inf
    write(run, broken)
    per_decision = json.loads((run.videos / f"{NAME}.json").read_text())["per_decision"]
    assert per_decision["value"] == [0.0, None, 2.0]
    assert per_decision["reward"] == [2.0, 2.0, None]


def test_a_ticket_that_is_run_again_replaces_its_film(run: RunDirectory):
    names = write(run, film(success=False), film(success=True), film(index=BESIDE, when="during", update=None))
    assert {name for name in names if name.endswith(".json")} == {f"{NAME}.json", "during-000005-reach-v3-0-success.json"}


def test_the_newest_films_of_training_are_kept_and_all_of_evaluations(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(video_files, "MOST_OF_TRAINING", 2)
    write(run, film(when="after", update=None), *(film(index=8 * update, update=update) for update in (1, 2)))
    names = write(run, film(index=24, update=3))  # the run goes on in another process
    assert {name for name in names if name.endswith(".mp4")} == {
        "after-reach-v3-0-success.mp4",
        "train-000002-reach-v3-16-success.mp4",
        "train-000003-reach-v3-24-success.mp4",
    }
    assert len(names) == 9


@pytest.mark.parametrize("content", ["", "{", "[]", '{"video": 3}', "null"])
def test_a_damaged_record_is_none(run: RunDirectory, content: str):
    (path := run.path / "film.json").write_text(content)
    assert read_film_record(path) is None
    assert read_film_record(run.path / "missing.json") is None
