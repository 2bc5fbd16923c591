"""Frames as they are stored, made into frames as the simulator shows them."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from rlvla3.config import Orientation
from rlvla3.demonstrations.files import Frame, needed


def decoded(source: Path | IO[bytes]) -> Frame:
    """An encoded frame (PNG, JPEG) as [H, W, 3]. Raises OSError."""
    return np.asarray(needed("PIL.Image").open(source).convert("RGB"))


def upright(frame: Frame, stored: Orientation) -> Frame:
    """`frame` [H, W, channels] the right way up. The memory is shared."""
    if stored in ("flipped", "rotated"):
        frame = frame[::-1]
    return frame[:, ::-1] if stored in ("mirrored", "rotated") else frame


def resized(frame: Frame, height: int, width: int) -> Frame:
    """`frame` [H, W, channels] as [height, width, channels], each new pixel the mean of the area it covers."""
    if frame.shape[:2] == (height, width):
        return frame
    pillow = needed("PIL.Image")
    channels = [pillow.fromarray(np.ascontiguousarray(frame[..., channel])) for channel in range(frame.shape[2])]
    return np.stack([np.asarray(channel.resize((width, height), pillow.Resampling.BOX)) for channel in channels], axis=-1)
