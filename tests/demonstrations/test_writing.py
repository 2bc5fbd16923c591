"""Datasets that are written: what is read back is what was written, statistics are those of all steps, and a folder appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.demonstrations.lerobot import LeRobotDataset
from rlvla3.demonstrations.writing import dataset_writer
from rlvla3.demonstrations.writing.dataset_folder import dataset_folder
from rlvla3.demonstrations.writing.encodings import VideoFile
from rlvla3.demonstrations.writing.features import check_recordable
from rlvla3.demonstrations.writing.statistics import PixelCounts, statistics
from rlvla3.types import ActionSpace, Spaces
from tests.support.written_datasets import episode, spaces_of, written

ODD_SENTENCES = ["", "  put it  there. ", "quote ' and \" and \\ and\nline", "ünïcödé 把红色的杯子拿起来 🤖", "x" * 256, "nan", "null", "0"]


def frames(dataset: LeRobotDataset, camera: str) -> Iterator[list[NDArray[np.uint8]]]:
    return (list(dataset.frames(one, f"observation.images.{camera}")) for one in dataset.episodes())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "data").glob("*/*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize(
    ("spaces", "fps"),
    [
        (spaces_of(), 20.0),
        (spaces_of(cameras={}), 12.5),
        (spaces_of(state=0), 20.0),
        (spaces_of(state=1, action=ActionSpace("continuous", 1)), 29.97),
        (spaces_of(action=ActionSpace("discrete", 1, 4)), 20.0),
        (spaces_of(cameras={"a b": (2, 2, 3), "caméra": (1, 1, 3)}), 20.0),
    ],
    ids=["cameras", "no cameras", "no state", "one number", "discrete", "tiny"],
)
def test_what_is_read_back_is_what_was_written(spaces: Spaces, fps: float, tmp_path: Path) -> None:
    episodes = [episode(spaces, steps, seed, ["go", "stop"]) for seed, steps in enumerate([5, 1, 12])]
    dataset = written(tmp_path / "dataset", episodes, spaces, fps=fps)
    found = list(dataset.episodes())
    assert [(one.steps, one.success, one.tasks) for one in found] == [(5, True, ("task/0",)), (1, True, ("task/1",)), (12, True, ("task/2",))]
    assert dataset.recorded_with().rate_hz == fps
    for one, rows in zip(found, episodes, strict=True):
        assert np.array_equal(dataset.vectors(one, "action"), rows["action"])
        assert np.array_equal(dataset.vectors(one, "next.reward")[:, 0], rows["reward"])
        assert np.array_equal(dataset.vectors(one, "next.truncated")[:, 0], rows["truncated"])
        assert dataset.vectors(one, "next.done")[:, 0].tolist() == [0] * (len(rows) - 1) + [1]
        assert set(dataset.vectors(one, "policy_version")[:, 0]) == {one.key}
        assert dataset.instructions(one) == (["go", "stop"] * 6)[: len(rows)]
        if spaces.state:
            assert np.array_equal(dataset.vectors(one, "observation.state"), rows["state"])
        for camera in spaces.cameras:
            assert np.array_equal(list(dataset.frames(one, f"observation.images.{camera}")), rows[f"image.{camera}"])
    assert [row["index"] for row in rows_of(tmp_path / "dataset")] == list(range(18))


@pytest.mark.parametrize("encoding", ["h264", "av1"])
def test_a_video_keeps_every_frame_to_within_its_codec(encoding: Any, tmp_path: Path) -> None:
    spaces = spaces_of({"front": (64, 96, 3), "wrist": (66, 64, 3)})
    episodes = [episode(spaces, steps, seed) for seed, steps in enumerate([7, 1, 20])]
    dataset = written(tmp_path / "dataset", episodes, spaces, encoding)
    for camera in spaces.cameras:
        for shown, rows in zip(frames(dataset, camera), episodes, strict=True):
            assert len(shown) == len(rows)
            for frame, row in zip(shown, rows[f"image.{camera}"], strict=True):
                assert np.abs(frame.astype(float) - row).mean() < 4  # the next frame is 15 away, and other episodes more


def test_h264_keeps_frames_whose_sides_are_odd(tmp_path: Path) -> None:
    spaces = spaces_of({"odd": (33, 35, 3)})
    dataset = written(tmp_path / "dataset", [episode(spaces, 6)], spaces, "h264")
    (shown,) = frames(dataset, "odd")
    assert np.array(shown).shape == (6, 33, 35, 3)


@pytest.mark.parametrize("sentence", ODD_SENTENCES)
def test_a_sentence_is_kept_whatever_it_is(sentence: str, tmp_path: Path) -> None:
    dataset = written(tmp_path / "dataset", [episode(spaces_of(), 3, told=[sentence])], spaces_of())
    (one,) = dataset.episodes()
    assert one.instruction == sentence
    assert dataset.instructions(one) == [sentence] * 3


def test_files_are_begun_anew_where_they_are_too_large_or_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaces = spaces_of()
    monkeypatch.setattr(dataset_writer, "LONGEST_VIDEO_S", 0.4)  # 8 frames
    monkeypatch.setattr("rlvla3.demonstrations.writing.tables.LARGEST_DATA_BYTES", 6000)
    monkeypatch.setattr("rlvla3.demonstrations.writing.tables.EPISODES_TOGETHER", 2)
    monkeypatch.setattr("rlvla3.demonstrations.writing.tables.CHUNK_FILES", 2)
    episodes = [episode(spaces, 5, seed) for seed in range(7)]
    dataset = written(tmp_path / "dataset", episodes, spaces, "h264")
    videos = sorted(path.relative_to(tmp_path / "dataset/videos/observation.images.front") for path in (tmp_path / "dataset/videos").glob("*front/*/*"))
    assert [str(path) for path in videos] == [f"chunk-00{number // 2}/file-00{number % 2}.mp4" for number in range(4)]
    assert len(list((tmp_path / "dataset/data").glob("*/*"))) > 1
    found = list(dataset.episodes())
    assert len(found) == 7
    for one, rows in zip(found, episodes, strict=True):
        assert np.array_equal(dataset.vectors(one, "action"), rows["action"])
        shown = np.array(list(dataset.frames(one, "observation.images.front")))
        assert np.abs(shown.astype(float) - rows["image.front"]).mean() < 4
    stats = json.loads((tmp_path / "dataset/meta/stats.json").read_text())
    assert stats["action"]["count"] == [35]
    assert np.allclose(stats["action"]["q99"], np.quantile(np.concatenate([rows["action"] for rows in episodes]), 0.99, axis=0))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_statistics_of_pixels_are_those_of_all_pixels(frame_count: int, size: int, seed: int) -> None:
    films = np.random.default_rng(seed).integers(0, 256, (frame_count, size, size + 1, 3), np.uint8)
    counts, other = PixelCounts(), PixelCounts()
    for number, frame in enumerate(films):
        (counts if number % 2 else other).add(frame)
    counts.merge(other)
    expected, found = statistics(films.reshape(-1, 3) / 255), counts.statistics()
    for name in expected.keys() - {"count"}:
        assert np.array(found[name]).shape == (3, 1, 1)
        assert np.allclose(np.ravel(found[name]), expected[name]), name
    assert found["count"] == [frame_count]


def test_statistics_of_an_episode_are_those_of_its_steps(tmp_path: Path) -> None:
    rows = episode(spaces_of(), 9)
    written(tmp_path / "dataset", [rows], spaces_of())
    (entry,) = pq.read_table(tmp_path / "dataset/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert np.allclose(entry["stats/action/mean"], rows["action"].mean(0))
    assert np.allclose(entry["stats/observation.state/q10"], np.quantile(rows["state"], 0.1, axis=0))
    assert np.allclose(np.ravel(entry["stats/observation.images.front/std"]), (rows["image.front"] / 255).std((0, 1, 2)))
    assert entry["stats/next.success/count"] == [9]


def test_frames_of_a_mirrored_simulator_say_so(tmp_path: Path) -> None:
    assert written(tmp_path / "dataset", [episode(spaces_of(), 3)], spaces_of(), mirrored=True).orientation() == "mirrored"


@pytest.mark.parametrize("cameras", [{"depth": (8, 8, 1)}, {"a/b": (8, 8, 3)}, {"": (8, 8, 3)}, {"..": (8, 8, 3)}])
def test_a_camera_that_a_dataset_cannot_hold_is_refused(cameras: dict[str, tuple[int, int, int]]) -> None:
    with pytest.raises(DemonstrationError, match=r"cannot be recorded"):
        check_recordable("filmed", spaces_of(cameras))


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for place in tmp_path.iterdir():
        with pytest.raises(DemonstrationError, match="exists already"), dataset_folder(place):
            pass


def test_what_is_not_complete_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), dataset_folder(tmp_path / "deep/dataset") as new:
        (new.partial / "data").mkdir()
        raise KeyError
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_complete_folder_appears_and_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".partial.dataset"
    (left / "old").mkdir(parents=True)
    with dataset_folder(tmp_path / "dataset") as new:
        (new.partial / "new").touch()
        new.complete()
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["new"]
    assert not left.exists()


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with (
        dataset_folder(tmp_path / "dataset"),
        pytest.raises(DemonstrationError, match="another process writes"),
        dataset_folder(tmp_path / "dataset"),
    ):
        pass


def test_a_place_that_is_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(DemonstrationError, match="exists already"), dataset_folder(tmp_path / "dataset") as new:
        (tmp_path / "dataset").mkdir()
        new.complete()
    assert list((tmp_path / "dataset").iterdir()) == []


def test_an_encoder_that_fails_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").mkdir()  # where the file should be
    video = VideoFile(tmp_path / "video.mp4", (32, 32, 3), 20, "h264")
    with pytest.raises(DemonstrationError, match="could not be encoded as h264") as raised:
        for _ in range(1000):
            video.add(np.zeros((32, 32, 3), np.uint8))
        video.close()
    assert "\n" not in str(raised.value)
