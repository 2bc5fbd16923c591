"""Random weights that depend only on a tensor's name and shape, so that two libraries get the same ones and no file needs to hold them.

It imports numpy and torch alone: the scripts in scripts/references run it in the environments of the authors' code.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def named_normal(name: str, *shape: int) -> Tensor:
    """Standard normal numbers, float32. numpy promises that the numbers of a RandomState never change; it does not promise this of its newer generators."""
    return torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32))


def named_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A weight: matrices scaled by their inputs so that signals keep their size, vectors of deviation 0.1, and around 1 where they scale a layer norm."""
    if len(shape) > 1:
        return named_normal(name, *shape).div(math.prod(shape[1:]) ** 0.5)
    centre = 1 if name.endswith(("layer_norm1.weight", "layer_norm2.weight", "post_layernorm.weight")) else 0
    return named_normal(name, *shape).mul(0.1).add(centre)


def named_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A weight for every tensor of a state."""
    return {name: named_weight(name, tuple(tensor.shape)) for name, tensor in state.items()}
