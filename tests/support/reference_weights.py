"""Weights that the authors' code and ours draw alike, from the names and shapes of the tensors alone. So reference files hold inputs and outputs only."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def reference_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A float32 tensor for each name, normal, from a generator that is seeded by the name.

    Their deviation keeps activations near 1. Weights of one dimension are those of norms: they are near 1.
    """
    return {name: torch.from_numpy(_draw(name, tuple(shape))) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return normal * np.float32(np.prod(shape) ** -0.25)
    return np.float32(0.1) * normal + np.float32(name.endswith("weight"))
