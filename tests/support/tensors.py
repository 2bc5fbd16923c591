"""Bytes of tensors."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from rlvla3.training.offload import _own


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes that they take here, shards and all, whoever shares them."""
    return sum(_own(tensor).untyped_storage().nbytes() for tensor in tensors)
