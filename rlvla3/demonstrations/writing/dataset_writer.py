"""Writes a LeRobotDataset v3.0, episode by episode. So memory holds one episode at a time, whatever the size of the dataset.

Invariants:
- an episode is written whole or not at all: it is added when it has ended;
- frame t of a dataset is what the policy saw before action t. The observation after the last action is left out, as in every LeRobotDataset;
- a video has at most LONGEST_VIDEO_S seconds. lerobot compares times as float32 numbers with a tolerance of 0.1 ms, and beyond 1024 s they are coarser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.demonstrations.lerobot_metadata import INFO, ORIGIN, TASK
from rlvla3.demonstrations.writing.encodings import Encoding, VideoFile, frames_of, png
from rlvla3.demonstrations.writing.features import IMAGES, columns, features
from rlvla3.demonstrations.writing.statistics import PixelCounts, Statistics, statistics
from rlvla3.demonstrations.writing.tables import CHUNK_FILES, EpisodeTable, StepTables, numbers_of, place, write_sentences
from rlvla3.instructions import decode_instructions
from rlvla3.types import Spaces

LONGEST_VIDEO_S = 1000
LARGEST_VIDEO_BYTES = 200 * 2**20
"""A video that is longer or larger gets no further episode. The bytes are lerobot's limit."""

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """What a dataset is of. simulator: its name. spaces: its own. fps: actions a second. mirrored: whether it shows left and right exchanged."""

    simulator: str
    spaces: Spaces
    fps: float
    encoding: Encoding
    mirrored: bool = False


class DatasetWriter:
    """The dataset in `folder`. Raises DemonstrationError where a video cannot be encoded, and OSError where a file cannot be written.

    writer = DatasetWriter(folder, settings)
    writer.add(steps, versions, "libero_goal/3")    # for each episode
    writer.close()                                  # the dataset is complete now
    """

    def __init__(self, folder: Path, settings: DatasetSettings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.episodes = self.frames = 0
        self._folder, self._settings = folder, settings
        self._features = features(settings.spaces, frames_of(settings.encoding, settings.fps))
        self._steps, self._list = StepTables(folder, self._features), EpisodeTable(folder)
        self._sentences: dict[str, int] = {}
        self._pixels = {camera: PixelCounts() for camera in settings.spaces.cameras}
        self._videos: dict[str, VideoFile] = {}
        self._video_numbers = dict.fromkeys(settings.spaces.cameras, -1)

    @property
    def tasks(self) -> int:
        """How many sentences there are."""
        return len(self._sentences)

    def add(self, steps: NDArray[Any], versions: NDArray[np.int64], task: str) -> None:
        """Add one episode. steps: step_record [n] (simulators/every_step.py). versions: of the policy at each step, [n]. task: its name."""
        count, began = len(steps), self.frames
        numbers, said = self._numbered(decode_instructions(steps["instruction"]))
        values = columns(steps, versions, self._features)
        values["timestamp"] = (np.arange(count) / self._settings.fps).astype(np.float32)[:, None]
        values["frame_index"], values["index"] = np.arange(count)[:, None], np.arange(began, began + count)[:, None]
        values["episode_index"], values["task_index"] = np.full((count, 1), self.episodes), np.array(numbers)[:, None]

        images, entry, found = dict[str, list[bytes]](), dict[str, Any](), dict[str, Statistics]()
        for camera in self._settings.spaces.cameras:
            pixels = PixelCounts()
            if self._settings.encoding == "png":
                images[IMAGES + camera] = [self._seen(pixels, frame, png) for frame in steps[f"image.{camera}"]]
            else:
                entry |= self._film(camera, steps[f"image.{camera}"], pixels)
            found[IMAGES + camera] = pixels.statistics()
            self._pixels[camera].merge(pixels)
        data = self._steps.add(values, images)
        entry = {
            "episode_index": self.episodes,
            "tasks": said,
            "length": count,
            "dataset_from_index": began,
            "dataset_to_index": began + count,
            TASK: task,
            **{f"data/{key}": value for key, value in data.items()},
            **entry,
        }
        self._list.add(entry, found | {name: statistics(array) for name, array in values.items()})
        self.episodes, self.frames = self.episodes + 1, began + count

    def close(self) -> None:
        """Complete the dataset."""
        for video in self._videos.values():
            video.close()
        self._steps.close()
        self._list.close()
        write_sentences(self._folder, list(self._sentences))
        found = {IMAGES + camera: pixels.statistics() for camera, pixels in self._pixels.items()}
        found |= {name: statistics(self._steps.column(name)) for name in numbers_of(self._features)}
        self._write("meta/stats.json", found)
        self._write(str(ORIGIN), {"simulator": self._settings.simulator, "orientation": "mirrored" if self._settings.mirrored else "upright"})
        self._write(str(INFO), self._info())

    def abandon(self) -> None:
        """End the encoders of a dataset that is not wanted any more."""
        for video in self._videos.values():
            video.abandon()

    def _info(self) -> Mapping[str, Any]:
        fps = self._settings.fps
        return {
            "codebase_version": "v3.0",
            "robot_type": self._settings.simulator,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self._sentences),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(fps) if fps == int(fps) else fps,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._videos else None,
            "features": self._features,
        }

    def _numbered(self, instructions: Sequence[str]) -> tuple[list[int], list[str]]:
        """The number of each step's sentence, and the sentences of the episode in the order in which they came."""
        said = list(dict.fromkeys(instructions))
        for sentence in said:
            self._sentences.setdefault(sentence, len(self._sentences))
        return [self._sentences[sentence] for sentence in instructions], said

    def _film(self, camera: str, frames: NDArray[np.uint8], pixels: PixelCounts) -> dict[str, Any]:
        """Add the frames of one episode to the video of `camera`. Returns where they are, as the list of episodes says it."""
        video, fps, key = self._video(camera, frames.shape[1:]), self._settings.fps, IMAGES + camera
        began = video.frames
        for frame in frames:
            self._seen(pixels, frame, video.add)
        times = {"from_timestamp": began / fps, "to_timestamp": video.frames / fps}
        return {f"videos/{key}/{name}": value for name, value in {**place(self._video_numbers[camera]), **times}.items()}

    def _video(self, camera: str, shape: tuple[int, ...]) -> VideoFile:
        video = self._videos.get(camera)
        if video is not None and (video.frames > LONGEST_VIDEO_S * self._settings.fps or video.bytes > LARGEST_VIDEO_BYTES):
            video.close()
            video = None
        if video is None:
            self._video_numbers[camera] += 1
            path = VIDEO_PATH.format(video_key=IMAGES + camera, **place(self._video_numbers[camera]))
            video = self._videos[camera] = VideoFile(self._folder / path, shape, self._settings.fps, self._settings.encoding)
        return video

    def _seen(self, pixels: PixelCounts, frame: NDArray[np.uint8], then: Any) -> Any:
        pixels.add(frame)
        return then(frame)

    def _write(self, name: str, content: Any) -> None:
        (self._folder / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
