"""LeRobot's datasets, one folder each. Versions 2.0 and 2.1 have one file for each episode, version 3.0 has many episodes in a file (lerobot 0.3 and 0.4).

    2.x   meta/info.json, meta/episodes.jsonl, data/chunk-000/episode_000000.parquet, videos/chunk-000/KEY/episode_000000.mp4
    3.0   meta/info.json, meta/episodes/chunk-000/file-000.parquet, data/chunk-000/file-000.parquet, videos/KEY/chunk-000/file-000.mp4

meta/info.json holds the templates of these paths, the frame rate, and the dtype and shape of every array. The frames of a camera are images in the data files,
or a video. An episode's task is its instruction. Without the array next.success, every episode counts as a success.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.demonstrations.demonstration_file import DemonstrationError, DemonstrationFile, Frame, RecordedEpisode, import_optional
from rlvla3.demonstrations.frames import decoded
from rlvla3.demonstrations.video_frames import video_frames

INFO = Path("meta", "info.json")
SUCCESS = "next.success"


@dataclass(frozen=True, slots=True)
class EpisodeEntry:
    """The dataset's own metadata of one episode. videos: for each camera, the file and the time in seconds at which the episode begins in it."""

    number: int
    instruction: str
    steps: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]


class LeRobotDataset(DemonstrationFile):
    """One dataset on disk."""

    format = "LeRobot"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._cached_columns: dict[str, tuple[Path, NDArray[Any]]] = {}
        try:
            self._info = json.loads((path / INFO).read_text())
            self._features: dict[str, Any] = self._info["features"]
            self._fps = float(self._info["fps"])
            self._entries = {entry.number: entry for entry in self._list()}
        except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are OSError and ValueError too
            raise DemonstrationError(
                f"{path} is a LeRobot dataset, but its meta folder cannot be read ({type(error).__name__}: {error}): "
                f"get it again, or leave it out of clone.files"
            ) from error
        self.actions = "action" if "action" in self._features else "actions"

    def episodes(self) -> Iterator[RecordedEpisode]:
        for entry in self._entries.values():
            for file in (entry.data, *(video for video, _ in entry.videos.values())):
                if not file.is_file():
                    raise DemonstrationError(f"{self.path}, episode {entry.number} needs {file}, which does not exist: get the whole dataset again")
            success = SUCCESS not in self._features or bool(self._column(entry, SUCCESS).any())
            yield RecordedEpisode(entry.number, (entry.instruction,), entry.instruction, entry.steps, success)

    def shape(self, episode: RecordedEpisode, name: str) -> tuple[int, ...] | None:
        feature = self._features.get(name)
        if feature is None:
            return None
        shape = tuple(feature["shape"])
        return (shape[1], shape[2], shape[0]) if _is_camera(feature) and shape[0] < shape[2] else shape

    def names(self, episode: RecordedEpisode) -> list[str]:
        return list(self._features)

    def vectors(self, episode: RecordedEpisode, name: str) -> NDArray[np.float32]:
        return self._column(self._entries[int(episode.key)], name)

    def frames(self, episode: RecordedEpisode, name: str) -> Iterator[Frame]:
        entry = self._entries[int(episode.key)]
        if name in entry.videos:
            path, first_s = entry.videos[name]
            return video_frames(path, first_s, entry.steps, self._fps)
        return self._images(entry, name)

    def camera(self, episode: RecordedEpisode, camera: str) -> str:
        usual = (f"observation.images.{camera}", f"observation.image.{camera}", camera, f"observation.{camera}")
        cameras = [name for name, feature in self._features.items() if _is_camera(feature)]
        return next((name for name in usual if name in cameras), usual[0])

    def state(self, episode: RecordedEpisode, cameras: Sequence[str]) -> list[str]:
        return ["observation.state" if "observation.state" in self._features else "state"]

    def location(self, episode: RecordedEpisode) -> str:
        return f"{self.path}, episode {episode.key}"

    def _list(self) -> list[EpisodeEntry]:
        version = str(self._info["codebase_version"])
        if version.startswith("v2."):
            lines = (self.path / "meta" / "episodes.jsonl").read_text().splitlines()
            return [self._entry_of_version_2(metadata) for line in lines if (metadata := json.loads(line))]
        if version.startswith("v3."):
            parquet = import_optional("pyarrow.parquet")
            files = sorted((self.path / "meta" / "episodes").glob("*/*.parquet"))
            wanted = [name for name in parquet.read_schema(files[0]).names if not name.startswith("stats/")] if files else []
            return [self._entry_of_version_3(metadata) for file in files for metadata in parquet.read_table(file, columns=wanted).to_pylist()]
        raise DemonstrationError(f"{self.path} is a LeRobot dataset of version {version}. Versions 2.0 to 3.x can be read: convert it with lerobot's scripts")

    def _entry_of_version_2(self, metadata: Mapping[str, Any]) -> EpisodeEntry:
        number = int(metadata["episode_index"])
        where = {"episode_chunk": number // int(self._info["chunks_size"]), "episode_index": number}
        videos = {key: (self.path / self._info["video_path"].format(video_key=key, **where), 0.0) for key in self._videos()}
        return EpisodeEntry(number, _first_task(metadata["tasks"]), int(metadata["length"]), self.path / self._info["data_path"].format(**where), videos)

    def _entry_of_version_3(self, metadata: Mapping[str, Any]) -> EpisodeEntry:
        def file(template: str, prefix: str, **names: str) -> Path:
            return self.path / template.format(chunk_index=metadata[f"{prefix}/chunk_index"], file_index=metadata[f"{prefix}/file_index"], **names)

        videos = {
            key: (file(self._info["video_path"], f"videos/{key}", video_key=key), float(metadata[f"videos/{key}/from_timestamp"])) for key in self._videos()
        }
        data = file(self._info["data_path"], "data")
        return EpisodeEntry(int(metadata["episode_index"]), _first_task(metadata["tasks"]), int(metadata["length"]), data, videos)

    def _videos(self) -> list[str]:
        return [name for name, feature in self._features.items() if feature["dtype"] == "video"]

    def _column(self, entry: EpisodeEntry, name: str) -> NDArray[np.float32]:
        """One array of one episode: [steps, n]."""
        own = self._whole(entry.data, "episode_index")[:, 0] == entry.number
        self._check_length(entry, int(own.sum()))
        values: NDArray[np.float32] = self._whole(entry.data, name)[own].astype(np.float32)
        return values

    def _whole(self, path: Path, name: str) -> NDArray[Any]:
        """A column of numbers of a data file, for all its episodes: [rows, n]. The last one of each name is cached: the next episode is often in that file."""
        if name not in self._cached_columns or self._cached_columns[name][0] != path:
            with _readable(path):
                column = import_optional("pyarrow.parquet").read_table(path, columns=[name]).column(name).combine_chunks()
                values = column.flatten() if column.type.num_fields else column
                self._cached_columns[name] = path, values.to_numpy(zero_copy_only=False).reshape(len(column), -1)
        return self._cached_columns[name][1]

    def _images(self, entry: EpisodeEntry, name: str) -> Iterator[Frame]:
        """The frames of one episode that are images in its data file. A few are read at a time."""
        dataset, found = import_optional("pyarrow.dataset"), 0
        with _readable(entry.data):
            rows = dataset.dataset(entry.data, format="parquet").scanner(columns=[name], filter=dataset.field("episode_index") == entry.number, batch_size=64)
            for batch in rows.to_batches():
                for value in batch.column(0).to_pylist():
                    found += 1
                    yield decoded(io.BytesIO(value["bytes"]) if value["bytes"] else self.path / value["path"])
        self._check_length(entry, found)

    def _check_length(self, entry: EpisodeEntry, found: int) -> None:
        if found != entry.steps:
            raise DemonstrationError(f"{entry.data} holds {found} steps of episode {entry.number}, and meta says {entry.steps}: get the whole dataset again")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises DemonstrationError where a data file is damaged."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow and Pillow raise these types and subclasses of them
        if isinstance(error, DemonstrationError):
            raise
        raise DemonstrationError(f"{path} cannot be read ({type(error).__name__}: {error}): get it again, or leave its dataset out of clone.files") from error


def _is_camera(feature: Mapping[str, Any]) -> bool:
    return feature["dtype"] in ("video", "image")


def _first_task(tasks: Any) -> str:
    return str(tasks if isinstance(tasks, str) else tasks[0])
