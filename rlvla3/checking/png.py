"""Writes frames as PNG files (PNG specification, third edition, W3C 2025)."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Number of channels -> PNG colour type: grey, grey and alpha, RGB, RGB and alpha. Of an image with more channels, the first three are written."""


def write_png(path: Path, image: NDArray[Any]) -> None:
    """Write `image`, uint8 [H, W, channels]."""
    pixels = image if image.shape[2] in COLOUR_TYPES else image[:, :, :3]
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each line begins with its filter type; 0 is none
    lines[:, 1:] = pixels.reshape(height, -1)
    parts = _part(b"IHDR", header) + _part(b"IDAT", zlib.compress(lines.tobytes())) + _part(b"IEND", b"")
    path.write_bytes(SIGNATURE + parts)


def _part(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
