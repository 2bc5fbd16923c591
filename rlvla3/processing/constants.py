"""Small tensors of the processing, made once for each device.

Invariant: they live as long as the process. A CUDA graph reads them at their addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

Given = ParamSpec("Given")
Made = TypeVar("Made")


def made_once(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """The same result at every call with the same arguments. Compiled code finds it made, too: to make a tensor there would wait for the GPU."""
    return cast("Callable[Given, Made]", cache(torch.compiler.assume_constant_result(function)))


@made_once
def constant(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same tensor at every call: a copy to a GPU would wait for the GPU. It must not be changed in place."""
    with torch.inference_mode(False):  # it may be made while a policy acts, and training computes with it too
        return torch.tensor(numbers, dtype=dtype, device=device)
