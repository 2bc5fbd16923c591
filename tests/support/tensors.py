"""Bytes of tensors."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from rlvla3.training.data_parallel import own_part


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes that they take here, shards and all, whoever shares them."""
    return sum(own_part(tensor).untyped_storage().nbytes() for tensor in tensors)
