"""Episodes as videos: one frame for each decision, with a green border for success and a red one for failure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import ExplainedError
from rlvla3.observability.run_directory import complete_file

SMALLEST = 256
BORDER = 8
MACRO_BLOCK = 16
"""Video encoders need sides that are multiples of this."""

SUCCESS, FAILURE = (46, 160, 67), (218, 54, 51)


class VideoError(ExplainedError, RuntimeError):
    """A video cannot be written. The message says what is missing or wrong and what to do."""


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

    Raises ValueError for frames of another dtype or shape, and VideoError where there is no encoder.
    """
    _check(frames)
    imageio_ffmpeg = find_encoder()
    drawn = [framed(frame, SUCCESS if success else FAILURE) for frame in frames]
    height, width = drawn[0].shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as beside, closing(imageio_ffmpeg.write_frames(str(beside), (width, height), fps=fps, macro_block_size=MACRO_BLOCK)) as encoder:
        encoder.send(None)
        for frame in drawn:
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
