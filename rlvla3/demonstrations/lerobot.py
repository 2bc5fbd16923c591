"""LeRobot's datasets, one folder each. Versions 2.0 and 2.1 have one file for each episode, version 3.0 has many episodes in a file (lerobot 0.3 and 0.4).

    2.x   meta/info.json, meta/episodes.jsonl, data/chunk-000/episode_000000.parquet, videos/chunk-000/KEY/episode_000000.mp4
    3.0   meta/info.json, meta/episodes/chunk-000/file-000.parquet, data/chunk-000/file-000.parquet, videos/KEY/chunk-000/file-000.mp4

meta/info.json holds the templates of these paths, the frame rate, and the dtype and shape of every array (lerobot_metadata.py). The frames of a camera are
images in the data files, or a video. An episode's tasks are its sentences. Where it has several, the array task_index says which of them a frame has, as a
number in the table meta/tasks. Without the array next.success, every episode counts as a success. Those of `rlvla3 record` name the
task of each episode, too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import DemonstrationLayout, Orientation
from rlvla3.demonstrations.demonstration_file import (
    WAY_OUT,
    ArrayHeader,
    DemonstrationError,
    DemonstrationFile,
    Frame,
    RecordedEpisode,
    RecordedWith,
    import_optional,
    readable,
)
from rlvla3.demonstrations.frames import decoded
from rlvla3.demonstrations.lerobot_metadata import INFO, EpisodeEntry, read_episodes, read_info, read_origin, read_sentences
from rlvla3.demonstrations.video_frames import video_frames
from rlvla3.metadata import check_within
from rlvla3.simulators.libero.tasks import full_name

__all__ = ["INFO", "LeRobotDataset"]

SUCCESS = "next.success"
TASK_INDEX = "task_index"

MOST_ROWS = 100_000_000
"""Rows of one data file. lerobot begins a new file at 100 MB."""


class LeRobotDataset(DemonstrationFile):
    """One dataset on disk."""

    format = "LeRobot"

    def __init__(self, path: Path, layout: DemonstrationLayout) -> None:
        super().__init__(path, layout)
        self._cached_columns: dict[str, tuple[Path, NDArray[Any]]] = {}
        self._info = read_info(path)
        self._features = self._info.features
        self._entries = read_episodes(path, self._info)
        self._origin = read_origin(path)

    def episodes(self) -> Iterator[RecordedEpisode]:
        for entry in self._entries.values():
            for file in (entry.data, *(video for video, _ in entry.videos.values())):
                if not file.is_file():
                    raise DemonstrationError(f"{self.path}, episode {entry.number} needs {file}, which does not exist: get the whole dataset again")
            success = SUCCESS not in self._features or bool(self._column(entry, SUCCESS).any())
            tasks = () if entry.task is None else (full_name(entry.task),)
            yield RecordedEpisode(entry.number, tasks, entry.sentences[0], entry.steps, success, sentences=entry.sentences)

    def header(self, episode: RecordedEpisode, name: str) -> ArrayHeader | None:
        feature = self._features.get(name)
        if feature is None:
            return None
        steps, shape = self._entries[int(episode.key)].steps, tuple(feature.shape)
        if not feature.is_camera:
            return ArrayHeader(steps, shape or (1,), feature.number_format)
        return ArrayHeader(steps, (shape[1], shape[2], shape[0]) if len(shape) == 3 and shape[0] < shape[2] else shape, np.dtype(np.uint8))

    def names(self, episode: RecordedEpisode) -> list[str]:
        return list(self._features)

    def vectors(self, episode: RecordedEpisode, name: str) -> NDArray[np.float32]:
        return self._column(self._entries[int(episode.key)], name)

    def frames(self, episode: RecordedEpisode, name: str) -> Iterator[Frame]:
        entry = self._entries[int(episode.key)]
        if name in entry.videos:
            path, first_s = entry.videos[name]
            return video_frames(path, first_s, entry.steps, self._info.fps)
        return self._images(entry, name)

    def instructions(self, episode: RecordedEpisode) -> list[str] | None:
        if TASK_INDEX not in self._features and len(episode.sentences) == 1:
            return None
        numbers = self._column(self._entries[int(episode.key)], TASK_INDEX)[:, 0].tolist()
        if not self._sentences and len(set(numbers)) <= 1:
            return None
        if unknown := set(numbers) - self._sentences.keys():
            raise DemonstrationError(f"{self.location(episode)}: frames have {TASK_INDEX} {min(unknown):g}, and meta/tasks has no such number. {WAY_OUT}")
        return [self._sentences[number] for number in numbers]

    def usual_actions(self) -> str:
        return "action" if "action" in self._features else "actions"

    def usual_camera(self, episode: RecordedEpisode, camera: str) -> str:
        usual = (f"observation.images.{camera}", f"observation.image.{camera}", camera, f"observation.{camera}")
        return next((name for name in usual if name in self._features and self._features[name].is_camera), usual[0])

    def usual_state(self, episode: RecordedEpisode, cameras: Sequence[str]) -> list[str]:
        return ["observation.state" if "observation.state" in self._features else "state"]

    def recorded_with(self) -> RecordedWith:
        return RecordedWith(rate_hz=self._info.fps, rate_is_exact=False)

    def full_name(self, task: str) -> str:
        return full_name(task) if self._origin else task

    def orientation(self) -> Orientation:
        return self._origin.orientation if self._origin else "upright"

    def location(self, episode: RecordedEpisode) -> str:
        return f"{self.path}, episode {episode.key}"

    @cached_property
    def _sentences(self) -> dict[int, str]:
        """All sentences of the dataset, by their numbers. Empty where it has no table of them."""
        return read_sentences(self.path)

    def _column(self, entry: EpisodeEntry, name: str) -> NDArray[np.float32]:
        """One array of one episode: [steps, n]."""
        own = self._whole(entry.data, "episode_index")[:, 0] == entry.number
        self._check_length(entry, int(own.sum()))
        values = self._whole(entry.data, name)
        if len(values) != len(own):
            raise DemonstrationError(f"{entry.data}: {name} has {len(values)} rows, and episode_index has {len(own)}. {WAY_OUT}")
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused as such
            selected: NDArray[np.float32] = values[own].astype(np.float32)
        return selected

    def _whole(self, path: Path, name: str) -> NDArray[Any]:
        """A column of numbers of a data file, for all its episodes: [rows, n]. The last one of each name is cached: the next episode is often in that file."""
        if name not in self._cached_columns or self._cached_columns[name][0] != path:
            parquet = import_optional("pyarrow.parquet")
            with readable(f"{path}: {name}"):
                rows = int(parquet.read_metadata(path).num_rows)
                if rows > MOST_ROWS:
                    raise DemonstrationError(f"{path} says that it has {rows} rows, and at most {MOST_ROWS} are read. {WAY_OUT}")
                column = parquet.read_table(path, columns=[name]).column(name).combine_chunks()
                self._cached_columns[name] = path, _matrix(column, f"{path}: {name}")
        return self._cached_columns[name][1]

    def _images(self, entry: EpisodeEntry, name: str) -> Iterator[Frame]:
        """The frames of one episode that are images in its data file. A few are read at a time."""
        dataset, found = import_optional("pyarrow.dataset"), 0
        with readable(f"{entry.data}: {name}"):
            rows = dataset.dataset(entry.data, format="parquet").scanner(columns=[name], filter=dataset.field("episode_index") == entry.number, batch_size=64)
            batches = iter(rows.to_batches())
        while True:
            with readable(f"{entry.data}: {name}"):
                batch = next(batches, None)
                stored = [] if batch is None else batch.column(0).to_pylist()
            if batch is None:
                break
            for value in stored:
                found += 1
                yield self._image(value, f"{entry.data}: {name} of episode {entry.number}, frame {found - 1}")
        self._check_length(entry, found)

    def _image(self, stored: Any, place: str) -> Frame:
        """A frame, from what a data file holds: the bytes of an image, or its path in the dataset."""
        content, path = (stored.get("bytes"), stored.get("path")) if isinstance(stored, dict) else (None, None)
        if isinstance(content, bytes) and content:
            return decoded(io.BytesIO(content), place)
        if not isinstance(path, str):
            raise DemonstrationError(f"{place} has neither the bytes of an image nor the path of one. {WAY_OUT}")
        with readable(place):
            return decoded(self.path / check_within(path), place)

    def _check_length(self, entry: EpisodeEntry, found: int) -> None:
        if found != entry.steps:
            raise DemonstrationError(f"{entry.data} holds {found} steps of episode {entry.number}, and meta says {entry.steps}: get the whole dataset again")


def _matrix(column: Any, place: str) -> NDArray[Any]:
    """A column of numbers, or of lists of as many numbers each: [rows, n]. Raises DemonstrationError for any other."""
    width, rows = 1, len(column)
    while column.type.num_fields and hasattr(column.type, "value_type"):  # a list; of lists, where an array has several dimensions
        lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False)) if hasattr(column, "value_lengths") else np.array([column.type.list_size])
        if column.null_count or len(lengths) > 1:
            raise DemonstrationError(f"{place} has rows of different lengths. {WAY_OUT}")
        width *= int(lengths[0]) if len(lengths) else 1
        column = column.flatten()
    if column.null_count:
        raise DemonstrationError(f"{place} has {column.null_count} empty entries. {WAY_OUT}")
    values: NDArray[Any] = np.empty(0, object) if column.type.num_fields else column.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "biuf" or values.size != rows * width or not width:
        raise DemonstrationError(f"{place} holds {column.type}, and must hold numbers. {WAY_OUT}")
    return values.reshape(rows, width)
