"""CUDA graphs: what a policy launches for a batch is recorded once for each size, and then launched at once.

Invariants:
- a graph reads its inputs and the weights at their addresses. So inputs are `Fixed`, and new weights are copied into the same tensors;
- a policy is tried before it is recorded. It must find all its inputs in tensors of the device (policies/base.py), and must not wait for the device;
- all graphs share one pool of memory, largest first. So they need hardly more of it than the largest one. A batch has been copied out before the next begins.

Source: torch's notes on CUDA semantics, section CUDA Graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

import torch

from rlvla3.errors import ExplainedError
from rlvla3.inference.watch import Watch
from rlvla3.policies.base import Decisions

WARM_UP = 3
"""Runs before a graph is recorded: libraries choose their kernels and reserve their memory in the first ones."""


class NotCapturable(ExplainedError, RuntimeError):
    """A policy cannot be recorded in a CUDA graph. The message says what it does that a graph cannot hold."""


class Unread(Sequence[str]):
    """Stands in place of the instructions while a policy is recorded. A graph would go on with the words of that moment."""

    def __len__(self) -> int:
        self._refuse()

    def __getitem__(self, index: object) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise NotCapturable("its act reads the instructions, which are no tensors: let its tokenise make tensors of them")


def check_capturable(act: Callable[[], Decisions]) -> None:
    """Run `act`. Raises NotCapturable where it does what a graph cannot hold. Call it after a first run, which may make constants."""
    with Watch() as watch:
        act()
    if watch.found:
        raise NotCapturable(f"its act runs {watch.found[0]}")


class Recorder:
    """Records graphs of one device. Raises NotCapturable, or torch.OutOfMemoryError, where it cannot."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device, torch.cuda.current_stream(device).priority)  # a graph keeps the priority with which it was recorded

    def record(self, act: Callable[[], Decisions]) -> Callable[[], Decisions]:
        """A function that launches what `act` launched. It returns the same tensors each time, with new numbers."""
        with torch.cuda.device(self._device):
            present = torch.cuda.current_stream()
            self._stream.wait_stream(present)
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP):
                    act()
            graph = torch.cuda.CUDAGraph()
            try:
                # Another thread of this process may use the device meanwhile: errors are for what this thread does.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    decisions = act()
            except RuntimeError as error:  # torch.OutOfMemoryError is one, too, and the end of the recording may hide it
                self._leave(present)
                if (full := _out_of_memory(error)) is not None:
                    raise full from None
                raise NotCapturable(f"its act cannot be recorded: {_first_line(error)}") from error
            present.wait_stream(self._stream)

        def replay() -> Decisions:
            graph.replay()
            return decisions

        return replay

    def _leave(self, present: torch.cuda.Stream) -> None:
        """End a recording that torch could not end. It leaves its stream and its pool in use then, and eager work of this process, or of its other lane, would
        give back no memory as long as the pool seems to be in use."""
        torch.cuda.set_stream(present)
        with suppress(RuntimeError):  # torch could end it: the pool is not in use
            torch._C._cuda_endAllocateToPool(self._device.index, self._pool)


def _out_of_memory(error: BaseException | None) -> torch.OutOfMemoryError | None:
    """The error among an error's causes."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
