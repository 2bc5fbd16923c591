"""Episodes as videos: one frame for each decision, with a green border for success and a red one for failure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import ExplainedError, described
from rlvla3.observability.events import EpisodeFilmed, Event
from rlvla3.observability.file_names import file_name
from rlvla3.observability.run_directory import RunDirectory, complete_file

SMALLEST = 256
BORDER = 8
MACRO_BLOCK = 16
"""Video encoders need sides that are multiples of this."""

SUCCESS, FAILURE = (46, 160, 67), (218, 54, 51)


class VideoError(ExplainedError, RuntimeError):
    """A video cannot be written. The message says what is missing or wrong and what to do."""


class VideoFiles:
    """The watcher that writes the films of evaluation episodes into the run directory."""

    def __init__(self, run: RunDirectory) -> None:
        self._folder = run.videos

    def on(self, event: Event) -> None:
        if isinstance(event, EpisodeFilmed):
            ticket, success = event.finished.ticket, event.finished.success
            name = f"{event.when}-{file_name(ticket.task)}-{ticket.index}-{'success' if success else 'failure'}.mp4"
            write_video(self._folder / name, event.frames, success)

    def close(self) -> None:
        """Does nothing: every video is complete."""


def find_encoder() -> Any:
    """The package that encodes videos. Raises VideoError where it, or the program that it calls, is missing. It takes less than a second."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise VideoError(f"no video encoder: {error}. Install one with `pip install imageio-ffmpeg`, or set evaluation.videos=0") from error
    return imageio_ffmpeg


def write_video(path: Path, frames: Sequence[NDArray[np.uint8]], success: bool, fps: int = 8) -> None:
    """Write `frames`, uint8 [H, W, 3] of one size, to `path` (.mp4). They are enlarged without smoothing to at least 256 pixels a side.

    Raises ValueError for frames of another dtype or shape, and VideoError where there is no encoder or where it fails.
    """
    _check(frames)
    imageio_ffmpeg = find_encoder()
    drawn = [framed(frame, SUCCESS if success else FAILURE) for frame in frames]
    with complete_file(path) as beside:
        try:
            _encode(imageio_ffmpeg, beside, drawn, fps)
            encoded, _ = imageio_ffmpeg.count_frames_and_secs(str(beside))  # the encoder does not say whether it could write its file
        except (OSError, RuntimeError, IndexError) as error:  # IndexError: this ffmpeg has no encoder for H.264
            raise VideoError(f"{path} could not be encoded ({described(error)}): is the disk full? Or set evaluation.videos=0") from error
        if encoded != len(frames):
            raise VideoError(f"{path} could not be encoded: it has {encoded} of {len(frames)} frames. Is the disk full?")


def _encode(imageio_ffmpeg: Any, path: Path, frames: Sequence[NDArray[np.uint8]], fps: int) -> None:
    height, width = frames[0].shape[:2]
    options = {"fps": fps, "macro_block_size": MACRO_BLOCK, "ffmpeg_log_level": "quiet"}
    with closing(imageio_ffmpeg.write_frames(str(path), (width, height), **options)) as encoder:
        encoder.send(None)
        for frame in frames:
            encoder.send(np.ascontiguousarray(frame))


def framed(frame: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """`frame` [H, W, 3], enlarged by a whole factor to at least 256 pixels a side, with a border that makes both sides multiples of MACRO_BLOCK."""
    factor = -(-SMALLEST // min(frame.shape[:2]))
    large = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = (-(-(side + 2 * BORDER) // MACRO_BLOCK) * MACRO_BLOCK for side in large.shape[:2])
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = colour
    top, left = (height - large.shape[0]) // 2, (width - large.shape[1]) // 2
    canvas[top : top + large.shape[0], left : left + large.shape[1]] = large
    return canvas


def _check(frames: Sequence[NDArray[np.uint8]]) -> None:
    if not frames:
        raise ValueError("a video needs at least one frame, and there is none")
    kinds = {(frame.dtype.name, frame.shape) for frame in frames}
    dtype, shape = next(iter(kinds))
    if len(kinds) > 1 or dtype != "uint8" or len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"frames of {sorted(kinds)}: a video takes uint8 frames [H, W, 3] of one size")
