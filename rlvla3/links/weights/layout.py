"""Where each tensor of a policy lies in the flat bytes of a version, and in which type it travels."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvla3.choices import WireType
from rlvla3.shared_memory import ALIGNMENT

BUCKET_BYTES = 64 << 20
"""Large enough that a copy to or from a device has the full speed of the link. Small enough that one bucket travels while the last one is processed."""


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """The bytes of a tensor: where they start, and their shape and type."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize

    def view(self, flat: Tensor, origin: int = 0) -> Tensor:
        """The tensor within uint8 bytes that begin with byte `origin` of the version."""
        return flat[self.start - origin : self.end - origin].view(self.dtype).view(self.shape)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Whole tensors that lie side by side: about BUCKET_BYTES of them, or one larger tensor."""

    start: int
    end: int
    names: tuple[str, ...]


class WeightLayout:
    """The layout of a version. It is the same in every process whose policy is built in the same way. Tensors start on cache lines, in the order of
    `tensors`."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: WireType = "as_trained", bucket_bytes: int = BUCKET_BYTES) -> None:
        self.places: dict[str, TensorBytes] = {}
        self.size = ALIGNMENT  # never empty: an empty file cannot be mapped
        buckets: list[list[str]] = []
        for name, tensor in tensors.items():
            start = -(-self.size // ALIGNMENT) * ALIGNMENT
            place = TensorBytes(start, tuple(tensor.shape), travels_as(tensor, dtype))
            if not buckets or place.end - self.places[buckets[-1][0]].start > bucket_bytes:
                buckets.append([])
            buckets[-1].append(name)
            self.places[name], self.size = place, place.end
        self.buckets = [Bucket(self.places[names[0]].start, self.places[names[-1]].end, tuple(names)) for names in buckets]

    @property
    def fingerprint(self) -> int:
        """A number that almost surely differs if the layout differs. Never 0."""
        return zlib.crc32(repr([(name, place.start, place.shape, place.dtype) for name, place in self.places.items()]).encode()) + 1

    @property
    def largest_bucket(self) -> int:
        return max((bucket.end - bucket.start for bucket in self.buckets), default=0)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The tensors within the bytes of a version, uint8 [size]."""
        return {name: place.view(flat) for name, place in self.places.items()}


def travels_as(tensor: Tensor, dtype: WireType) -> torch.dtype:
    """The type in which a tensor lies on the weight plane."""
    if dtype == "as_trained" or not tensor.dtype.is_floating_point:
        return tensor.dtype
    return torch.bfloat16 if tensor.dim() >= 2 else torch.float32
