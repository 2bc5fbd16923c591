"""Episodes as videos: one frame for each decision, with a green border for success and a red one for failure. Cameras stand beside each other."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from rlvla3.errors import ExplainedError, described
from rlvla3.observability.film import Place
from rlvla3.observability.run_directory import complete_file

SMALLEST = 256
BORDER = 8
MACRO_BLOCK = 16
"""Video encoders need sides that are multiples of this."""

FPS = 8
"""Decisions a second of a video."""

Frames = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""The frames of one camera, [H, W, 3] each: a list of them, or one array."""

SUCCESS, FAILURE = (46, 160, 67), (218, 54, 51)

WAY_OUT = "set training.videos=0 and evaluation.videos=0"

IDLE = 19
"""The niceness of an encoder: it takes the time of a processor that a run leaves."""


class VideoError(ExplainedError, RuntimeError):
    """A video cannot be written. The message says what is missing or wrong and what to do."""


def find_encoder() -> str:
    """The path of ffmpeg. Raises VideoError where it, or the package that brings it, is missing. It takes less than a second."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise VideoError(f"no video encoder: {error}. Install one with `pip install imageio-ffmpeg`, or {WAY_OUT}") from error


def write_video(path: Path, cameras: Mapping[str, Frames], success: bool, fps: int = FPS) -> dict[str, Place]:
    """Write the frames of each camera, uint8 [H, W, 3] of one size, to `path` (.mp4). They are enlarged without smoothing to at least 256 pixels a side.

    Returns where each camera stands in the video. Raises ValueError for frames of another dtype or shape, and for cameras of different numbers of frames, and
    VideoError where there is no encoder or where it fails.
    """
    for frames in cameras.values():
        _check(frames)
    if len({len(frames) for frames in cameras.values()}) != 1:
        raise ValueError(f"a video takes cameras of equally many frames, and there are {[len(frames) for frames in cameras.values()]}")
    encoder, colour = find_encoder(), SUCCESS if success else FAILURE
    of_each_moment = zip(*cameras.values(), strict=True)
    with complete_file(path) as beside:
        _encode(encoder, beside, (framed(frames, colour) for frames in of_each_moment), fps)
    return dict(zip(cameras, places([frames[0].shape for frames in cameras.values()]), strict=True))


def framed(frames: Sequence[NDArray[np.uint8]], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Frames [H, W, 3] beside each other, each enlarged by a whole factor to at least 256 pixels a side, in a border that makes both sides multiples of
    MACRO_BLOCK."""
    where = places([frame.shape for frame in frames])
    width = max(left + width for left, _, width, _ in where) + BORDER
    height = max(top + height for _, top, _, height in where) + BORDER
    canvas = np.empty((_whole_blocks(height), _whole_blocks(width), 3), np.uint8)
    canvas[:] = colour
    for frame, (left, top, its_width, its_height) in zip(frames, where, strict=True):
        factor = _factor(frame.shape)
        canvas[top : top + its_height, left : left + its_width] = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    return canvas


def places(shapes: Sequence[Sequence[int]]) -> list[Place]:
    """Where frames of these shapes [H, W, 3] stand in the picture that `framed` makes of them."""
    sizes = [(shape[1] * _factor(shape), shape[0] * _factor(shape)) for shape in shapes]
    lefts = accumulate((width + BORDER for width, _ in sizes), initial=BORDER)
    return [(left, BORDER, width, height) for left, (width, height) in zip(lefts, sizes, strict=False)]


def _factor(shape: Sequence[int]) -> int:
    return -(-SMALLEST // min(shape[:2]))


def _whole_blocks(side: int) -> int:
    return -(-side // MACRO_BLOCK) * MACRO_BLOCK


def _encode(encoder: str, path: Path, frames: Iterator[NDArray[np.uint8]], fps: int) -> None:
    """Write frames of one size [H, W, 3] as H.264. Raises VideoError where the encoder fails."""
    first = next(frames)
    height, width = first.shape[:2]
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    made = ["-c:v", "libx264", "-preset", "veryfast", "-threads", "1", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    command = [encoder, "-loglevel", "error", "-y", *given, *made, str(path)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise VideoError(
            f"{path} could not be encoded, because {encoder} cannot be run ({described(error)}). Install imageio-ffmpeg anew, or {WAY_OUT}"
        ) from error
    with process:
        assert process.stdin is not None and process.stderr is not None
        with suppress(psutil.Error):  # it has ended already, and says why below
            psutil.Process(process.pid).nice(IDLE)
        with suppress(BrokenPipeError), process.stdin as stdin:  # it has ended before its last frame, and says why below
            for frame in (first, *frames):
                stdin.write(frame.tobytes())
        said = process.stderr.read().decode(errors="replace").split("\n")
    if process.returncode:
        reason = next((line.strip() for line in said if line.strip()), f"ffmpeg ended with status {process.returncode}")
        raise VideoError(f"{path} could not be encoded ({reason}): is the disk full? Or {WAY_OUT}")


def _check(frames: Frames) -> None:
    if not len(frames):
        raise ValueError("a video needs at least one frame, and there is none")
    kinds = {(frame.dtype.name, frame.shape) for frame in frames}
    dtype, shape = next(iter(kinds))
    if len(kinds) > 1 or dtype != "uint8" or len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"frames of {sorted(kinds)}: a video takes uint8 frames [H, W, 3] of one size")
