"""Decisions on their way back from the device.

Invariant: the decisions of a batch stay as they are until the batch after the next one is begun. So they can be written down while the next one is computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvla3.policies.base import Decisions


@dataclass(frozen=True, slots=True)
class Answer:
    """The decisions of one batch, on the host. They are there when the device has ended the batch.

    event: recorded behind the copies to the host. None where there is nothing to wait for.
    """

    decisions: Decisions
    event: torch.cuda.Event | None = None

    async def ended(self, waiter: ThreadPoolExecutor) -> None:
        """Wait for the device in a thread, so that the event loop goes on. The thread sleeps meanwhile, and holds no lock of Python."""
        if self.event is not None and not self.event.query():
            await asyncio.get_running_loop().run_in_executor(waiter, self.event.synchronize)


class Returning:
    """Copies decisions from the device into page-locked memory. On a CPU it hands them on as they are. largest: decisions in one batch."""

    def __init__(self, device: torch.device, largest: int) -> None:
        self._device, self._largest = device, largest
        self._rooms: list[dict[str, Tensor]] = [{}, {}]

    def bring(self, decisions: Decisions, rows: int) -> Answer:
        """The first `rows` of a batch that the device computes on its present stream."""
        trace = {name: tensor[:rows] for name, tensor in decisions.trace.items()}
        first = Decisions(decisions.actions[:rows], decisions.logprob[:rows], decisions.value[:rows], trace)
        if self._device.type != "cuda":
            return Answer(first)
        self._rooms.reverse()
        copies = {name: self._copied(name, tensor) for name, tensor in {**_parts(first), **first.trace}.items()}
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        return Answer(Decisions(copies["actions"], copies["logprob"], copies["value"], {name: copies[name] for name in trace}), event)

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        room = self._rooms[0].get(name)
        if room is None:
            room = self._rooms[0][name] = torch.empty(self._largest, *tensor.shape[1:], dtype=tensor.dtype, pin_memory=True)
        return room[: len(tensor)].copy_(tensor, non_blocking=True)


def _parts(decisions: Decisions) -> Mapping[str, Tensor]:
    return {"actions": decisions.actions, "logprob": decisions.logprob, "value": decisions.value}
