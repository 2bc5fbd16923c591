"""Turns stored frames into frames as the simulator shows them."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from rlvla3.config import Orientation
from rlvla3.demonstrations.demonstration_file import WAY_OUT, DemonstrationError, Frame, import_optional, readable

MOST_PIXELS = 20_000_000
"""Pixels of a frame. A damaged image may say that it has any number."""


def decoded(source: Path | IO[bytes], place: str) -> Frame:
    """Decode a frame (PNG, JPEG) to [H, W, 3]. place: where it is stored, for messages. Raises DemonstrationError."""
    images = import_optional("PIL.Image")
    with readable(place):
        image = images.open(source)
        if image.width * image.height > MOST_PIXELS:
            raise DemonstrationError(f"{place} says that it has {image.width} x {image.height} pixels, and at most {MOST_PIXELS} are read. {WAY_OUT}")
        return np.asarray(image.convert("RGB"))


def upright(frame: Frame, stored: Orientation) -> Frame:
    """`frame` [H, W, channels], upright. stored: how it was stored. The result shares memory with `frame`."""
    if stored in ("flipped", "rotated"):
        frame = frame[::-1]
    return frame[:, ::-1] if stored in ("mirrored", "rotated") else frame


def resized(frame: Frame, height: int, width: int) -> Frame:
    """`frame` [H, W, channels] resized to [height, width, channels]. Each new pixel is the mean of the area that it covers."""
    if frame.shape[:2] == (height, width):
        return frame
    pillow = import_optional("PIL.Image")
    channels = [pillow.fromarray(np.ascontiguousarray(frame[..., channel])) for channel in range(frame.shape[2])]
    return np.stack([np.asarray(channel.resize((width, height), pillow.Resampling.BOX)) for channel in channels], axis=-1)
