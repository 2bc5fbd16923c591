"""Copies between a device and the weight plane: whole buckets cross, and not single tensors.

Out of the device (trainer): the tensors are first copied side by side on the device, at the speed of its memory. After that, they may change again. A thread
then copies bucket by bucket, on a stream of its own, into page-locked memory and from there into shared memory. One bucket travels while the last one is
written.

Onto the device (generator): a bucket crosses in one copy. Its tensors are then copied out of it on the device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlvla3.links.weights.layout import WeightLayout


def device_of(tensors: Mapping[str, Tensor]) -> torch.device:
    """The device of the tensors: the first one that is not the CPU, or the CPU."""
    return next((tensor.device for tensor in tensors.values() if tensor.device.type != "cpu"), torch.device("cpu"))


class Outbound:
    """A copy of the weights on their device, on its way to shared memory. Call take, then pour, then take for the next version.

    It works on the CPU too, without streams: for tests, and to measure its cost there.
    """

    def __init__(self, layout: WeightLayout, device: torch.device) -> None:
        self._layout, self._cuda = layout, device.type == "cuda"
        self._flat = torch.empty(layout.size, dtype=torch.uint8, device=device)
        self._views = layout.views(self._flat)
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._pinned = [torch.empty(layout.largest_bucket, dtype=torch.uint8, pin_memory=True) for _ in range(2)] if self._cuda else []
        self._taken: torch.cuda.Event | None = None

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors as they are now. The copy is on the caller's stream, so the tensors may change as soon as this returns."""
        for name, tensor in tensors.items():
            self._views[name].copy_(tensor)
        if self._cuda:
            self._taken = torch.cuda.Event()
            self._taken.record(torch.cuda.current_stream(self._flat.device))

    def pour(self, into: Tensor) -> None:
        """Write the copy into the bytes of a version, uint8 [size] on the CPU. Returns when all of it is there."""
        if self._stream is None:
            into.copy_(self._flat)
            return
        with torch.cuda.device(self._flat.device):  # a thread begins with cuda:0, and would take memory there
            self._cross(self._stream, into)

    def _cross(self, stream: torch.cuda.Stream, into: Tensor) -> None:
        """`pour`, bucket by bucket on `stream`."""
        assert self._taken is not None
        stream.wait_event(self._taken)
        on_its_way: tuple[torch.cuda.Event, Tensor, Tensor] | None = None
        for number, bucket in enumerate(self._layout.buckets):
            pinned = self._pinned[number % 2][: bucket.end - bucket.start]
            with torch.cuda.stream(stream):
                pinned.copy_(self._flat[bucket.start : bucket.end], non_blocking=True)
                crossed = torch.cuda.Event()
                crossed.record(stream)
            _arrive(on_its_way)
            on_its_way = crossed, into[bucket.start : bucket.end], pinned
        _arrive(on_its_way)


def _arrive(crossing: tuple[torch.cuda.Event, Tensor, Tensor] | None) -> None:
    if crossing is not None:
        crossed, into, pinned = crossing
        crossed.synchronize()
        into.copy_(pinned)


class Inbound:
    """Room for one bucket on a device. Tensors are copied out of it."""

    def __init__(self, layout: WeightLayout, device: torch.device) -> None:
        self._layout = layout
        self._room = torch.empty(layout.largest_bucket, dtype=torch.uint8, device=device)

    def deal(self, version: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Copy the bytes of a version, uint8 [size] on the CPU, into the tensors. Returns when the bytes have been read."""
        for bucket in self._layout.buckets:
            room = self._room[: bucket.end - bucket.start]
            room.copy_(version[bucket.start : bucket.end])  # the source is pageable memory, so it has been read when this returns
            for name in bucket.names:
                tensors[name].copy_(self._layout.places[name].view(room, bucket.start))
