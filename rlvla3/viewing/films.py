"""An episode from a film that a run has kept (observability/film.py)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.demonstrations.video_frames import video_frames
from rlvla3.errors import described
from rlvla3.observability.film import FilmRecord, read_film_record
from rlvla3.viewing.shown_episode import NEEDED, Frame, ShownEpisode, ViewError, decision_series


def films_in(folder: Path) -> list[Path]:
    """The records of the films in `folder`, the oldest first."""
    return sorted((path for path in folder.glob("*.json") if path.with_suffix(".mp4").is_file()), key=lambda path: (path.stat().st_mtime_ns, path.name))


def film_episode(path: Path) -> ShownEpisode:
    """The episode of a film. path: any of its three files. Raises ViewError."""
    record = read_film_record(path.with_suffix(".json"))
    if record is None:
        raise ViewError(f"{path.with_suffix('.json')} is missing or is no record of a film: name a file of RUN_DIR/videos, or a run directory")
    arrays = _arrays(path.with_suffix(".npz"), record)
    starts = np.concatenate([[0], arrays["executed"].cumsum()[:-1]]).astype(np.int64)
    series = decision_series(starts, arrays, record.action_bounds)
    texts = [(int(starts[row]), record.instructions[number]) for row, number in enumerate(record.per_decision.instruction) if _changes(record, row)]
    how = "succeeded" if record.success else "failed"
    return ShownEpisode(
        title=path.stem,
        frame_steps=starts.tolist(),
        cameras={camera: _frames(path.with_suffix(".mp4"), record, camera) for camera in record.cameras},
        series=series,
        texts=texts,
        outcome=(record.steps, f"{record.task}: {how} after {record.steps} steps, return {record.episode_return}"),
    )


def _changes(record: FilmRecord, row: int) -> bool:
    """Whether decision `row` reads another instruction than the one before it."""
    numbers = record.per_decision.instruction
    return 0 <= numbers[row] < len(record.instructions) and (row == 0 or numbers[row] != numbers[row - 1])


def _frames(video: Path, record: FilmRecord, camera: str) -> Iterator[Frame]:
    """The part of each frame of `video` that shows `camera`."""
    left, top, width, height = record.cameras[camera]
    for frame in video_frames(video, 0.0, record.decisions, record.fps):
        yield frame[top : top + height, left : left + width]


def _arrays(path: Path, record: FilmRecord) -> dict[str, NDArray[Any]]:
    """The arrays of a film. Raises ViewError where they are missing, damaged or of another length."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in NEEDED}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ViewError(f"{path} cannot be read ({described(error)}): show another film of RUN_DIR/videos") from error
    shapes = {name: array.shape for name, array in arrays.items()}
    right = shapes["actions"][:1] == (record.decisions,) and [len(shapes[name]) for name in NEEDED] == [2, 3, 2, 1, 1, 1]
    if not right or len({shape[0] for shape in shapes.values()}) > 1 or shapes["rewards"] != shapes["actions"][:2] or not record.decisions:
        raise ViewError(f"{path} has arrays of {shapes}, which do not fit its record: show another film of RUN_DIR/videos")
    return arrays
