"""Images of another size, by averaging areas: each new pixel is the mean of what it covers of the old ones, weighted by how much of each it covers."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """`image`, uint8 [H, W, channels], as uint8 [*size, channels]. size: height and width."""
    height, width, channels = image.shape
    if (height, width) == size:
        return image
    rows = shares(height, size[0]) @ image.reshape(height, width * channels).astype(np.float32)
    columns = shares(width, size[1]) @ rows.reshape(size[0], width, channels)
    smaller: NDArray[np.uint8] = np.clip(np.rint(columns), 0, 255).astype(np.uint8)
    return smaller


@functools.cache
def shares(old: int, new: int) -> NDArray[np.float32]:
    """float32 [new, old]: the share of each old pixel in each new one, along one axis. Each row sums to 1."""
    edges = np.linspace(0, old, new + 1)
    places = np.arange(old)
    overlap = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    covered = np.maximum(overlap, 0)
    weights: NDArray[np.float32] = (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights
