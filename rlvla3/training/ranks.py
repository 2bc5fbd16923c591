"""The trainer's ranks: processes that make one update together, each with its own tickets.

What is global goes through here and nowhere else: how many decisions a gradient is divided by, statistics, metrics, what is decided for all. One rank alone is
the same code, where every answer is its own.

Invariants:
- all ranks ask the same questions in the same order; whatever an answer depends on is known to all of them alike;
- every answer is the same on all ranks, bit for bit;
- nobody waits for ever: a rank that is gone, or not heard of for PATIENCE, is a RankLost on the others.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from rlvla3.errors import ExplainedError
from rlvla3.links.rendezvous import LOOPBACK, Rendezvous

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others in one place. They wait for trajectories outside of it, and differ by the length of a micro-batch or a file."""

PATIENCE_AT_START = timedelta(minutes=2)

BUCKET = 2**24
"""Numbers summed in one go: a message for every parameter would cost more than its transport, one for all would hold all of them twice."""


class RankLost(ExplainedError, RuntimeError):
    """Another rank has ended or does not answer. Its own error, where it has one, says why."""


class Ranks:
    """A rank alone: the first, the last and the only one."""

    rank, size = 0, 1
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this rank does what is done once: publish, write, answer."""
        return self.rank == 0

    def gather(self, own: T) -> list[T]:
        """What each rank has, in the order of ranks. Tensors of other ranks are on the CPU."""
        return [own]

    def agree(self, own: T) -> T:
        """What rank 0 says."""
        return own

    def sum(self, *own: float) -> tuple[float, ...]:
        """Sums over all ranks."""
        return own

    def largest(self, own: int) -> int:
        return own

    def any(self, own: bool) -> bool:
        return bool(self.largest(int(own)))

    def wait(self) -> None:
        """Until all ranks are here."""
        self.largest(0)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace gradients by their sums over all ranks. The same parameters have one everywhere."""

    def beside(self) -> Ranks:
        """The same ranks on a channel of their own, for a thread that works beside this one."""
        return self

    def leave(self) -> None:
        """Go: no question is asked any more."""


ALONE = Ranks()


class JoinedRanks(Ranks):
    """One of several ranks, in processes of their own. device: where this rank computes; what is not a gradient is exchanged by the CPU anyway. waiting:
    entered while others are waited for, or things are exchanged with them."""

    def __init__(self, meeting: Rendezvous, device: torch.device | str = "cpu", waiting: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self.rank, self.size, self._waiting = meeting.rank, meeting.size, waiting
        if meeting.address.host == LOOPBACK:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # or gloo looks the host's name up, which need not lead anywhere
        on_gpu = torch.device(device).type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)
        with self._together():
            store = dist.TCPStore(  # type: ignore[attr-defined]  # documented, and missing from __all__
                *meeting.address,
                meeting.size,
                is_master=meeting.listener is not None,
                timeout=PATIENCE_AT_START,
                master_listen_fd=meeting.listener.detach() if meeting.listener else None,
            )
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)

    def gather(self, own: T) -> list[T]:
        gathered: list[Any] = [None] * self.size
        with self._together():
            dist.all_gather_object(gathered, tree_map_only(Tensor, Tensor.cpu, own), group=self.group)
        return gathered

    def agree(self, own: T) -> T:
        said = [own]
        with self._together():
            dist.broadcast_object_list(said, src=0, group=self.group)
        return said[0]

    def sum(self, *own: float) -> tuple[float, ...]:
        numbers = torch.tensor(own, dtype=torch.float64)
        with self._together():
            dist.all_reduce(numbers, group=self.group)
        return tuple(numbers.tolist())

    def largest(self, own: int) -> int:
        number = torch.tensor(own)
        with self._together():
            dist.all_reduce(number, dist.ReduceOp.MAX, group=self.group)
        return int(number)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            with self._together():
                dist.all_reduce(flat, group=self.group)
            for gradient, summed in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def beside(self) -> JoinedRanks:
        other = copy.copy(self)
        other._waiting = nullcontext  # that thread's time is not this one's
        with self._together():
            other.group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return other

    def leave(self) -> None:
        dist.destroy_process_group()

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            with self._waiting():
                yield
        except RuntimeError as error:  # whatever goes wrong between processes is of this type: a closed connection, a time that is up
            why = str(error).partition("\n")[0]
            raise RankLost(f"trainer rank {self.rank} does not hear from another rank: {why}. The other ranks' logs say what became of it") from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """`tensors`, those of one type together, in their order, up to BUCKET numbers at a time."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        for tensor in tensors:
            if tensor.dtype != dtype:
                continue
            if bucket and sum(each.numel() for each in bucket) + tensor.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket
