"""Whether weights are numbers. It is asked before a version is published, and every checkpoint holds a version that was published."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.utils import get_total_norm

from rlvla3.errors import some_of
from rlvla3.training.data_parallel import own_part

NAMED = 3
"""Tensors that a message names."""


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold a NaN or an infinity. Of a DTensor, this rank's shard counts.

    It reads each tensor once, and the host waits for the device once.
    """
    looked_at = {name: own_part(tensor) for name, tensor in tensors.items() if tensor.is_floating_point()}
    looked_at = {name: tensor for name, tensor in looked_at.items() if tensor.numel()}
    if not looked_at or get_total_norm(looked_at.values(), float("inf")).isfinite():  # the norm is the largest absolute value, or NaN
        return []
    return [name for name, tensor in looked_at.items() if not tensor.isfinite().all()]


def in_words(names: list[str], of: int) -> str:
    """What is wrong with the tensors called `names`, `of` being how many there are."""
    return f"{len(names)} of {of} tensors hold NaN or infinity ({some_of(names, NAMED)})"
