"""The meta folder of LeRobot's datasets: meta/info.json, and the list of episodes, with their files.

Invariant: all that is known of a dataset comes through the schemas here. So its paths stay within its folder, and its numbers are numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AliasChoices, Field

from rlvla3.config import Orientation
from rlvla3.demonstrations.demonstration_file import MOST_STEPS, WAY_OUT, DemonstrationError, import_optional, readable
from rlvla3.metadata import Count, Metadata, check_within, checked, path_template, read_json, read_json_lines, refuse_no_file, shown

INFO = Path("meta", "info.json")
SENTENCES = Path("meta", "tasks.jsonl"), Path("meta", "tasks.parquet")
"""The table of a dataset's sentences, in versions 2 and 3."""

ORIGIN = Path("meta", "rlvla3.json")
"""What lerobot has no place for, in a dataset that `rlvla3 record` has written."""

TASK = "simulator_task"
"""In the list of episodes that `rlvla3 record` has written: the name of an episode's task. A sentence may be that of several tasks."""

DatasetPath = Annotated[str, path_template("episode_chunk", "episode_index", "chunk_index", "file_index", "video_key")]
Seconds = Annotated[float, Field(ge=0, le=1e9)]


class Feature(Metadata):
    """One array: of numbers, of text, or the frames of a camera."""

    dtype: str
    shape: list[Annotated[int, Field(ge=0, le=1_000_000)]]

    @property
    def is_camera(self) -> bool:
        return self.dtype in ("video", "image")

    @property
    def number_format(self) -> np.dtype[Any] | None:
        """None where it holds no numbers."""
        try:
            found = np.dtype(self.dtype)
        except (TypeError, ValueError):
            return None
        return found if found.kind in "biuf" else None


class Versioned(Metadata):
    """What every version of meta/info.json says."""

    codebase_version: str


class Info(Versioned):
    """meta/info.json, of versions 2 and 3."""

    fps: Annotated[float, Field(gt=0, le=100_000)]
    features: dict[str, Feature]
    data_path: DatasetPath
    video_path: DatasetPath | None = None
    chunks_size: Annotated[int, Field(ge=1)] = 1000

    @property
    def videos(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature.dtype == "video"]


class Origin(Metadata):
    """What `rlvla3 record` says of a dataset. orientation: how its frames are stored, compared with the world."""

    orientation: Orientation


class EpisodeLine(Metadata):
    """What both versions say of an episode. simulator_task: only where `rlvla3 record` has written it."""

    episode_index: Count
    simulator_task: str | None = None
    tasks: Annotated[list[str], Field(min_length=1)] | str
    length: Annotated[int, Field(ge=0, le=MOST_STEPS)]


class SentenceLine(Metadata):
    """One sentence of a dataset, and its number. In version 3 it is the index of a table of pandas, which need not have a name."""

    task_index: Count
    task: Annotated[str, Field(validation_alias=AliasChoices("task", "__index_level_0__"))]


class FilePlace(Metadata):
    """In which file of version 3 something is."""

    chunk_index: Count
    file_index: Count


class VideoPlace(FilePlace):
    """In which video of version 3 an episode is, and where it begins, in seconds."""

    from_timestamp: Seconds


@dataclass(frozen=True, slots=True)
class EpisodeEntry:
    """The dataset's own metadata of one episode. videos: for each camera, the file and the time in seconds at which the episode begins in it.
    task: the name of its task. None where only its sentences are known."""

    number: int
    sentences: tuple[str, ...]
    steps: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]
    task: str | None = None


def read_info(folder: Path) -> Info:
    """meta/info.json of the dataset in `folder`. Raises DemonstrationError, naming the key."""
    path = folder / INFO
    content = read_json(path, WAY_OUT, DemonstrationError)
    version = checked(Versioned, content, str(path), WAY_OUT, DemonstrationError).codebase_version
    if not version.startswith(("v2.", "v3.")):
        raise DemonstrationError(
            f"{folder} is a LeRobot dataset of version {shown(version)}. Versions v2.0 to v3.x can be read: convert it with lerobot's scripts"
        )
    info = checked(Info, content, str(path), WAY_OUT, DemonstrationError)
    if info.videos and info.video_path is None:
        raise DemonstrationError(f"{path}: video_path is missing, and {info.videos[0]} is a video. {WAY_OUT}")
    return info


def read_origin(folder: Path) -> Origin | None:
    """What `rlvla3 record` says of the dataset in `folder`. None where something else has written it. Raises DemonstrationError, naming the key."""
    path = folder / ORIGIN
    if not path.exists():
        return None
    return checked(Origin, read_json(path, WAY_OUT, DemonstrationError), str(path), WAY_OUT, DemonstrationError)


def read_episodes(folder: Path, info: Info) -> dict[int, EpisodeEntry]:
    """The episodes of the dataset in `folder`, by their numbers. Raises DemonstrationError, naming file and key."""
    found: dict[int, EpisodeEntry] = {}
    _check_templates(folder, info)
    for place, line in _lines(folder, info):
        entry = _entry(folder, info, place, line)
        if entry.number in found:
            raise DemonstrationError(f"{place}: episode_index is {entry.number}, and another episode has that number. {WAY_OUT}")
        found[entry.number] = entry
    return found


def _lines(folder: Path, info: Info) -> Iterator[tuple[str, Any]]:
    """The place and the content of what is said about each episode."""
    if info.codebase_version.startswith("v2."):
        yield from read_json_lines(folder / "meta" / "episodes.jsonl", WAY_OUT, DemonstrationError)
        return
    files = sorted(path for path in (folder / "meta" / "episodes").glob("*/*.parquet") if path.is_file())
    if not files:
        raise DemonstrationError(f"{folder}/meta/episodes has no file CHUNK/FILE.parquet, which lists the episodes. {WAY_OUT}")
    for file in files:
        yield from _rows(file)


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """The place and the content of each row of a table, without statistics."""
    parquet = import_optional("pyarrow.parquet")
    refuse_no_file(file, WAY_OUT, DemonstrationError)
    with readable(str(file)):
        wanted = [name for name in parquet.read_schema(file).names if not name.startswith("stats/")]
        rows = parquet.read_table(file, columns=wanted).to_pylist()
    for number, row in enumerate(rows):
        yield f"{file}, row {number}", row


def read_sentences(folder: Path) -> dict[int, str]:
    """The sentences of the dataset in `folder`, by their numbers. Empty without a table of them. Raises DemonstrationError, naming file and key."""
    lines, table = (folder / name for name in SENTENCES)
    if not table.exists() and not lines.exists():
        return {}
    rows = _rows(table) if table.exists() else read_json_lines(lines, WAY_OUT, DemonstrationError)
    known = [checked(SentenceLine, row, place, WAY_OUT, DemonstrationError) for place, row in rows]
    return {line.task_index: line.task for line in known}


def _entry(folder: Path, info: Info, place: str, line: Any) -> EpisodeEntry:
    known = checked(EpisodeLine, line, place, WAY_OUT, DemonstrationError)
    sentences = (known.tasks,) if isinstance(known.tasks, str) else tuple(known.tasks)
    if info.codebase_version.startswith("v2."):
        where = {"episode_chunk": known.episode_index // info.chunks_size, "episode_index": known.episode_index}
        videos = {key: (_path(folder, str(info.video_path), key, where), 0.0) for key in info.videos}
        return EpisodeEntry(known.episode_index, sentences, known.length, _path(folder, info.data_path, "", where), videos)
    videos = {}
    for key in info.videos:
        video = checked(VideoPlace, _part(line, f"videos/{key}/"), f"{place}: videos/{key}", WAY_OUT, DemonstrationError)
        where = {"chunk_index": video.chunk_index, "file_index": video.file_index}
        videos[key] = _path(folder, str(info.video_path), key, where), video.from_timestamp
    data = checked(FilePlace, _part(line, "data/"), f"{place}: data", WAY_OUT, DemonstrationError)
    where = {"chunk_index": data.chunk_index, "file_index": data.file_index}
    return EpisodeEntry(known.episode_index, sentences, known.length, _path(folder, info.data_path, "", where), videos, known.simulator_task)


def _part(line: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The keys of `line` that begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in line.items() if name.startswith(prefix)}


def _path(folder: Path, template: str, video: str, where: Mapping[str, int]) -> Path:
    """The path that a template of meta/info.json gives."""
    return folder / template.format(video_key=video, **where)


def _check_templates(folder: Path, info: Info) -> None:
    """Raise DemonstrationError where a template gives no path within the dataset. The paths of all episodes differ in their numbers alone."""
    holes = ("episode_chunk", "episode_index") if info.codebase_version.startswith("v2.") else ("chunk_index", "file_index")
    for key, template, video in [("data_path", info.data_path, ""), *(("video_path", str(info.video_path), video) for video in info.videos)]:
        place = f"{folder / INFO}: {key} is {shown(template)}"
        try:
            check_within(template.format(**({"video_key": video} if video else {}), **dict.fromkeys(holes, 0)))
        except KeyError as error:
            raise DemonstrationError(f"{place}, with a hole {error} that version {info.codebase_version} of datasets does not fill. {WAY_OUT}") from error
        except ValueError as error:
            raise DemonstrationError(f"{place}{f' for {shown(video)}' if video else ''}: {error}. {WAY_OUT}") from error
