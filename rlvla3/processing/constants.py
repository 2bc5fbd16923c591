"""Small tensors of the processing, made once for each device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def constant(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same tensor at every call: a copy to a GPU would wait for the GPU. It must not be changed in place."""
    return torch.tensor(numbers, dtype=dtype, device=device)
