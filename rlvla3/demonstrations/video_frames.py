"""Frames out of an encoded video, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from rlvla3.demonstrations.demonstration_file import WAY_OUT, DemonstrationError, Frame, import_optional
from rlvla3.demonstrations.frames import MOST_PIXELS

MOST_APART = 0.05
"""How far the rate in the header of a video may be from the dataset's, as a share of it. Headers round: 29.97 frames are 30."""


def video_frames(path: Path, first_s: float, count: int, fps: float) -> Iterator[Frame]:
    """At most `count` frames [H, W, 3] of a video of `fps` frames a second, from the one shown at `first_s` seconds on. Raises DemonstrationError."""
    imageio_ffmpeg = import_optional("imageio_ffmpeg")
    # Half a frame early: the seek keeps frames from that time on, and times are rounded. Every frame once: none is repeated or dropped to keep the rate.
    seek = ["-ss", f"{first_s - 0.5 / fps:.6f}"] if first_s > 0.5 / fps else []
    try:
        reader = imageio_ffmpeg.read_frames(str(path), input_params=seek, output_params=["-fps_mode", "passthrough", "-frames:v", str(count)])
        with closing(reader):
            about = next(reader)
            width, height = about["size"]
            own = about.get("fps", 0)
            if own and abs(own - fps) > MOST_APART * fps:
                raise DemonstrationError(f"{path} has {own:g} frames a second, and fps in meta/info.json is {fps:g}: the two must be the same. {WAY_OUT}")
            if not 0 < width * height <= MOST_PIXELS:
                raise DemonstrationError(f"{path} has frames of {width} x {height} pixels, and at most {MOST_PIXELS} are read. {WAY_OUT}")
            for data in reader:
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
    except (OSError, RuntimeError, StopIteration, KeyError) as error:  # without a picture in it, a video has no size
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise DemonstrationError(f"{path} cannot be decoded ({why}): get it again, or leave its dataset out of clone.files") from error
