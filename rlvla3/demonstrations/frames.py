"""Turns stored frames into frames as the simulator shows them."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from rlvla3.config import Orientation
from rlvla3.demonstrations.demonstration_file import Frame, import_optional


def decoded(source: Path | IO[bytes]) -> Frame:
    """Decode a frame (PNG, JPEG) to [H, W, 3]. Raises OSError."""
    return np.asarray(import_optional("PIL.Image").open(source).convert("RGB"))


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
