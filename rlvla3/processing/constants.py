"""Small tensors of the processing, made once for each device.

Invariant: they live as long as the process. A CUDA graph reads them at their addresses.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def constant(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same tensor at every call: a copy to a GPU would wait for the GPU. It must not be changed in place."""
    with torch.inference_mode(False):  # it may be made while a policy acts, and training computes with it too
        return torch.tensor(numbers, dtype=dtype, device=device)
